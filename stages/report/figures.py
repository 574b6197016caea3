"""The figures of the report: what was drawn, what was measured, side by side."""

import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter
from PIL import Image

from stages.report.findings import DECIDE, SCORES, Evaluation, Findings
from tattoo_lora.diffusion.line_art import LineArt

# A matplotlibrc in the home or the current folder changes nothing.
matplotlib.rcdefaults()
# Prompts and names are text: one with `$\frac{1}{$` in it is no formula, and no reason to end without a report.
matplotlib.rcParams["text.parse_math"] = False

CELL = 160  # px of a picture
NEAREST = 6  # pairs of a picture and the training drawing nearest to it
STEPS = 8  # columns of a strip at most
MEASURES = {
    "ink": "ink\nshare of pixels",
    "saturation": "saturation\nmean chroma",
    "grey": "grey\nshare of pixels",
    "stroke": "stroke width\n% of the side",
    "spread": "its spread\nIQR / median",
    "pieces": "pieces",
    "specks": "specks",
}


def enlarge(image: Image.Image) -> Image.Image:
    """CELL px square; a small picture is scaled smoothly so that it reads as one."""
    return image.resize((CELL, CELL), Image.Resampling.LANCZOS)


def sample_grid(images: Sequence[Image.Image], columns: int) -> Image.Image:
    """The pictures in rows of `columns` on white."""
    rows = -(-len(images) // columns)
    grid = Image.new("RGB", (columns * CELL, rows * CELL), "white")
    for i, image in enumerate(images):
        grid.paste(enlarge(image), (i % columns * CELL, i // columns * CELL))
    return grid


def shared_part(prompts: Sequence[str]) -> str:
    """What all prompts have after their first comma, if it is the same: it need not be repeated in each row."""
    tails = {prompt.partition(", ")[2] for prompt in prompts}
    return tails.pop() if len(tails) == 1 else ""


def wrapped(text: str, width: int, lines: int) -> str:
    """A prompt of any length as a label; blanks and line breaks in it are one blank each."""
    return "\n".join(textwrap.wrap(text, width, max_lines=lines, placeholder=" …"))


def _title(figure: plt.Figure, text: str) -> None:
    figure.suptitle(wrapped(text, int(12 * figure.get_figwidth()), 2), fontsize=9, color="#666666")


def _show(axis: plt.Axes, image: Image.Image) -> None:
    axis.imshow(np.asarray(enlarge(image)))
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_color("#dddddd")


def _pictures(rows: Sequence[str], columns: Sequence[str], cells: Sequence[Sequence[Image.Image | None]]) -> plt.Figure:
    """A labelled grid; a cell without a picture stays empty."""
    size = (1.7 * len(columns) + 1.3, 1.7 * len(rows) + 0.7)
    figure, axes = plt.subplots(len(rows), len(columns), figsize=size, squeeze=False)
    for axis, image in zip(axes.flat, (image for row in cells for image in row), strict=True):
        if image is None:
            axis.axis("off")
        else:
            _show(axis, image)
    for label, axis in zip(rows, axes[:, 0], strict=True):
        axis.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)
    for label, axis in zip(columns, axes[0], strict=True):
        axis.set_title(wrapped(label, 17, 3), fontsize=11)  # wider ones would run into each other
    return figure


def comparison(
    prompts: Sequence[str], images: dict[str, Sequence[Image.Image]], notes: Sequence[str] = ()
) -> plt.Figure:
    """Rows: prompts, each with its note below. Columns: the base model and each variant. Same seed along a row."""
    tail = shared_part(prompts)
    labels = [wrapped(prompt.removesuffix(f", {tail}") if tail else prompt, 18, 6) for prompt in prompts]
    if notes:
        labels = [f"{label}\n{note}" for label, note in zip(labels, notes, strict=True)]
    figure = _pictures(labels, list(images), list(zip(*images.values(), strict=True)))
    if tail:
        _title(figure, f"… {tail}")
    return figure


def step_strip(prompt: str, images: dict[str, dict[int, Image.Image]]) -> plt.Figure:
    """How one prompt's picture changes: rows are variants, columns the steps at which it was drawn."""
    steps = sorted(set().union(*images.values()))
    if len(steps) > STEPS:
        steps = [steps[i] for i in np.linspace(0, len(steps) - 1, STEPS).round().astype(int)]
    cells = [[by_step.get(step) for step in steps] for by_step in images.values()]
    figure = _pictures([wrapped(name, 18, 6) for name in images], [f"step {step}" for step in steps], cells)
    _title(figure, prompt)
    return figure


def training_curves(logs: dict[str, pd.DataFrame]) -> plt.Figure:
    """val_loss, clip_score and train_loss by step for each variant; step 0 is the untouched base."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.8))
    for axis, column in zip(axes, ("val_loss", "clip_score", "train_loss"), strict=True):
        for name, log in logs.items():
            drawn = log.dropna(subset=[column])
            (line,) = axis.plot(
                drawn["step"], drawn[column], marker="o" if column != "train_loss" else None, ms=4, label=name
            )
            if column == "val_loss":
                axis.plot(drawn["step"], drawn["seen_loss"], ls="--", color=line.get_color())
        axis.set_title(column if column != "val_loss" else "val_loss (dashed: the same on learned drawings)")
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=9)
    return figure


def by_timestep(evaluations: dict[str, Evaluation]) -> plt.Figure:
    """test_loss over the noise schedule: from little noise to nothing but noise; and what is gained over the first."""
    figure, (losses, shares) = plt.subplots(1, 2, figsize=(13, 3.8))
    first = next(iter(evaluations.values())).drawings.groupby("timestep")["test_loss"].mean()
    for i, (name, evaluation) in enumerate(evaluations.items()):
        means = evaluation.drawings.groupby("timestep")["test_loss"].mean()
        style = {"marker": "o", "ms": 4, "label": name, "color": "#888888" if i == 0 else f"C{i - 1}"}
        losses.plot(means.index, means, **style)
        shares.plot(means.index, means / first, **style)
    losses.set_title("test_loss by timestep")
    losses.set_yscale("log")
    losses.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    losses.yaxis.set_major_formatter("{x:g}")
    losses.yaxis.set_minor_formatter(NullFormatter())
    shares.set_title(f"the same as a share of {next(iter(evaluations))}'s")
    for axis in (losses, shares):
        axis.set_xlabel("timestep")
        axis.grid(alpha=0.3, which="both")
    losses.legend(fontsize=9)
    return figure


def line_art_plot(evaluations: dict[str, Evaluation], target: LineArt) -> plt.Figure:
    """Each measure's mean and the middle half of the pictures, a panel a measure; dashed: the held-out drawings."""
    figure, axes = plt.subplots(1, len(MEASURES), figsize=(13, 0.35 * len(evaluations) + 1.9), sharey=True)
    for axis, (name, title) in zip(axes, MEASURES.items(), strict=True):
        axis.axvline(getattr(target, name), color="#2a7f3f", ls="--", lw=1.2)
        for row, evaluation in enumerate(evaluations.values()):
            values = evaluation.pictures[name].dropna()
            if len(values):
                axis.plot(values.quantile([0.25, 0.75]), [row, row], color="#999999", lw=2)
                axis.plot(values.mean(), row, "o", color="black" if row else "#888888", ms=5)
        axis.set_title(title, fontsize=9)
        axis.margins(0.15)
        axis.tick_params(axis="x", labelsize=8)
        axis.grid(alpha=0.3, axis="x")
    axes[0].set_yticks(range(len(evaluations)), list(evaluations))
    axes[0].invert_yaxis()
    _title(figure, "dots: means; bars: the middle half of the pictures; dashed: the held-out drawings")
    return figure


def difference_plot(findings: Findings) -> plt.Figure:
    """Each pair's difference with its interval, a panel for each score that decides: green better, red worse."""
    colors = {"better": "#2a7f3f", "worse": "#c0392b"}
    figure, axes = plt.subplots(1, len(DECIDE), figsize=(13, 0.4 * len(findings) + 1.3), sharey=True)
    for axis, column in zip(axes, DECIDE, strict=True):
        score = SCORES[column]
        axis.axvline(0, color="#888888", lw=1)
        for row, by_score in enumerate(findings.values()):
            difference, color = by_score[column].difference, colors.get(by_score[column].verdict, "#aaaaaa")
            if difference.has_interval:
                axis.plot([difference.low, difference.high], [row, row], color=color, lw=2)
            axis.plot(difference.mean, row, "o", color=color)
        if score.is_ratio:
            axis.xaxis.set_major_formatter(PercentFormatter(1))
            axis.locator_params(axis="x", nbins=5)
        axis.set_title(f"{column} ({score.direction} is better)", fontsize=10)
        axis.grid(alpha=0.3, axis="x")
    axes[0].set_yticks(range(len(findings)), [f"{one} - {other}" for one, other in findings])
    axes[0].invert_yaxis()
    return figure


def nearest_pairs(evaluations: dict[str, Evaluation], folder: Path) -> plt.Figure:
    """For each variant the pictures most like a training drawing, each above that drawing, which is in `folder`."""
    figure, axes = plt.subplots(
        2 * len(evaluations), NEAREST, figsize=(1.5 * NEAREST + 1.2, 3.2 * len(evaluations) + 0.4), squeeze=False
    )
    for axis in axes.flat:
        axis.axis("off")
    for row, (name, evaluation) in enumerate(evaluations.items()):
        axes[2 * row][0].text(-0.15, 0, name, transform=axes[2 * row][0].transAxes, rotation=90, ha="center")
        nearest = evaluation.pictures.nlargest(NEAREST, "correlation")
        for column, (i, picture) in enumerate(nearest.iterrows()):
            drawing = Image.open(folder / picture["nearest_by_pixels"]).convert("RGB")
            for line, image in ((0, evaluation.images[i]), (1, drawing)):
                axis = axes[2 * row + line][column]
                axis.axis("on")
                _show(axis, image)
            title = f"{picture['correlation']:.2f}" + (" copy" if picture["copy"] else "")
            axes[2 * row][column].set_title(title, fontsize=9, color="#c00000" if picture["copy"] else "black")
    _title(figure, "generated (above) and the nearest training drawing (below), correlation of pixels")
    return figure


def save_figure(figure: plt.Figure, path: Path) -> None:
    """Write the figure as PNG and close it; the same figure gives the same bytes."""
    with warnings.catch_warnings():
        # Characters that matplotlib's own font lacks are drawn as boxes: another font would be another machine's.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.tight_layout()
        figure.savefig(path, dpi=100, metadata={"Software": None})  # without the library's version in the file
    plt.close(figure)
