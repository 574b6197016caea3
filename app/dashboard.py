"""The dashboard: what the pipeline does and has done, in a browser on this machine.

    streamlit run app/dashboard.py

Start it in the project's top folder. app/.streamlit/config.toml, which counts wherever it is started, keeps it on this
machine. It reads what the stages wrote, while they run too, and loads no model before the Draw page draws its first
picture.
"""

import sys
from pathlib import Path

import streamlit as st

# Streamlit puts this file's folder on the path; the packages are one above.
ROOT = str(Path(__file__).resolve().parents[1])
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

st.set_page_config(page_title="Tattoo LoRA", page_icon="🖋️", layout="wide")
if not Path("dvc.yaml").is_file():
    st.error("There is no dvc.yaml here: start the dashboard in the project's top folder.")
    st.code("cd <the project's folder>\nstreamlit run app/dashboard.py", language="bash")
    st.stop()

st.html(Path(__file__).with_name("style.css"))
st.navigation(
    [
        st.Page("views/start.py", title="Start", icon=":material/home:", default=True),
        st.Page("views/train.py", title="Train", icon=":material/model_training:"),
        st.Page("views/draw.py", title="Draw", icon=":material/brush:"),
        st.Page("views/print.py", title="Print", icon=":material/print:"),
        st.Page("views/compare.py", title="Compare", icon=":material/compare:"),
    ],
    position="top",
).run()
