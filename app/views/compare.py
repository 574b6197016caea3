"""For the engineer: why a variant wins, all experiments, curves, pictures by step."""

import streamlit as st

VERDICT, EXPERIMENTS, CURVES, PICTURES = SECTIONS = ("Verdict", "Experiments", "Curves", "Pictures")

st.title("Compare")
section = st.segmented_control("Section", SECTIONS, default=VERDICT, key="compare_section", required=True)
# Each part is imported where it is shown: the statistics and the charts take a second, once.
if section == VERDICT:
    from app.verdict import show_verdict

    show_verdict()
elif section == EXPERIMENTS:
    from app.experiments import show_experiments

    show_experiments()
elif section == CURVES:
    from app.curves import show_curves

    show_curves()
else:
    from app.gallery import show_gallery

    show_gallery()
