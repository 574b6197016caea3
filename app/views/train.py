"""The drawings, and how the training goes."""

import streamlit as st

from app.curves import show_curves
from app.drawings import show_data

SECTIONS = {"Train": show_curves, "Drawings": show_data}

st.title("Train")
section = st.segmented_control(
    "Section", list(SECTIONS), default="Train", key="train_section", required=True, label_visibility="collapsed"
)
SECTIONS[section]()
