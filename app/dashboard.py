"""The dashboard: what the pipeline does and has done, in a browser on this machine.

    streamlit run app/dashboard.py

Start it in the project's top folder. app/.streamlit/config.toml, which counts wherever it is started, keeps it on this
machine. It reads what the stages wrote, while they run too, and loads no model before the Playground draws its first
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

st.navigation(
    [
        st.Page("views/overview.py", title="Overview", icon=":material/dashboard:", default=True),
        st.Page("views/curves.py", title="Curves", icon=":material/show_chart:"),
        st.Page("views/gallery.py", title="Gallery", icon=":material/photo_library:"),
        st.Page("views/data.py", title="Data", icon=":material/folder_open:"),
        st.Page("views/playground.py", title="Playground", icon=":material/brush:"),
        st.Page("views/tryon.py", title="Try on", icon=":material/back_hand:", url_path="tryon"),
        st.Page("views/compare.py", title="Compare", icon=":material/compare:"),
    ],
    position="top",
).run()
