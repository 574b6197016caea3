"""Tables and charts on the pages. Apart from app.ui, because the first screen has no need of what they import."""

import pandas as pd
import streamlit as st

LONGEST_TABLE = 30  # rows shown at once; more scroll
COLORS = {"base": "#6b6b6b", "vanilla": "#0072b2", "blip": "#d55e00", "blip_plus": "#009e73"}  # told apart by all eyes
MORE_COLORS = ["#cc79a7", "#56b4e9", "#b58900", "#000000"]


def show_table(table: pd.DataFrame) -> None:
    """A table of strings as they are; what stands in Markdown's ** is marked by weight and colour."""
    best = table.map(lambda cell: "background-color: #dcebdf; font-weight: bold" if cell.startswith("**") else "")
    plain = table.map(lambda cell: cell.removeprefix("**").removesuffix("**"))
    height = "content" if len(table) <= LONGEST_TABLE else "auto"
    st.dataframe(plain.style.apply(lambda _: best, axis=None), hide_index=True, height=height)


def color_scale(variants: list[str]) -> dict[str, list[str]]:
    """Altair's domain and range: a variant has the same colour on every page."""
    spare = iter(MORE_COLORS * (1 + len(variants) // len(MORE_COLORS)))
    return {"domain": variants, "range": [COLORS.get(name) or next(spare) for name in variants]}


def curve_chart(curves: pd.DataFrame, title: str, height: int = 340):
    """An Altair chart: lines by step, a colour a variant, a dash a run: drag to move, wheel with Shift to zoom."""
    import altair as alt  # a third of a second that tables have no need of

    zoom = alt.selection_interval(bind="scales", zoom="wheel![event.shiftKey]")
    runs = list(curves["run"].unique())
    dashes = alt.Legend(symbolType="stroke", symbolSize=300) if len(runs) > 1 else None
    color = alt.Color("variant:N", scale=alt.Scale(**color_scale(list(curves["variant"].unique()))), title=None)
    return (
        alt.Chart(curves, title=title, height=height)
        .mark_line(point=alt.OverlayMarkDef(size=24))
        .encode(
            x=alt.X("step:Q", title="step"),
            y=alt.Y("value:Q", title=None, scale=alt.Scale(zero=False, padding=10)),
            color=color,
            strokeDash=alt.StrokeDash("run:N", title=None, sort=runs, legend=dashes),
            tooltip=["run:N", "variant:N", "step:Q", alt.Tooltip("value:Q", format=".5f")],
        )
        .configure_legend(orient="bottom")
        .add_params(zoom)
    )
