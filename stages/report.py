"""Collect the evaluations and logs into small files for Git: metrics, curves, the comparison picture, a table.

Reads runs/evaluation/<name>/ and runs/logs/<variant>.csv; writes metrics/<name>.json and plots/.

    python -m stages.report base vanilla blip blip_plus \\
        --evaluations runs/evaluation --logs runs/logs --metrics metrics --plots plots
"""

import argparse
import json
import shutil
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from PIL import Image

from tattoo_lora.errors import UserError, one_line_errors
from tattoo_lora.params import load_params

CELL = 160  # px of a picture in the comparison
COLUMNS = 4  # pictures a row in a sample grid


def read_evaluation(folder: Path) -> tuple[dict[str, float], list[Image.Image]]:
    """The metrics and the pictures, in the prompts' order; UserError where the evaluation did not run."""
    if not (folder / "metrics.json").is_file():
        raise UserError(f"{folder}: no metrics.json; run `dvc repro evaluate`")
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return metrics, [Image.open(path).convert("RGB") for path in sorted(folder.glob("prompt*.png"))]


def enlarge(image: Image.Image) -> Image.Image:
    """CELL px square; a small picture is scaled smoothly so that it reads as one."""
    return image.resize((CELL, CELL), Image.Resampling.LANCZOS)


def sample_grid(images: list[Image.Image]) -> Image.Image:
    """The pictures in rows of COLUMNS on white."""
    rows = -(-len(images) // COLUMNS)
    grid = Image.new("RGB", (COLUMNS * CELL, rows * CELL), "white")
    for i, image in enumerate(images):
        grid.paste(enlarge(image), (i % COLUMNS * CELL, i // COLUMNS * CELL))
    return grid


def shared_part(prompts: list[str]) -> str:
    """What all prompts say after their first comma, if it is the same; it need not stand beside each row."""
    tails = {prompt.partition(", ")[2] for prompt in prompts}
    return tails.pop() if len(tails) == 1 else ""


def comparison(prompts: list[str], images: dict[str, list[Image.Image]]) -> plt.Figure:
    """Rows: prompts. Columns: the base model and each variant. Same seed along a row."""
    names, tail = list(images), shared_part(prompts)
    figure, axes = plt.subplots(
        len(prompts), len(names), figsize=(1.7 * len(names) + 1.3, 1.7 * len(prompts) + 0.7), squeeze=False
    )
    for row, prompt in enumerate(prompts):
        for column, name in enumerate(names):
            axis = axes[row][column]
            axis.imshow(np.asarray(enlarge(images[name][row])))
            axis.set_xticks([])
            axis.set_yticks([])
            for spine in axis.spines.values():
                spine.set_color("#dddddd")
            if row == 0:
                axis.set_title(name, fontsize=11)
        label = prompt.removesuffix(f", {tail}") if tail else prompt
        axes[row][0].set_ylabel(label.replace(", ", ",\n"), rotation=0, ha="right", va="center", fontsize=9)
    if tail:
        figure.suptitle(f"… {tail}", fontsize=9, color="#666666")
    figure.tight_layout()
    return figure


def training_curves(logs: dict[str, pd.DataFrame], metrics: dict[str, dict[str, float]]) -> plt.Figure:
    """val_loss and clip_score by step for each variant, the base model as a dashed line, train_loss beneath."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.8))
    for axis, column in zip(axes, ("val_loss", "clip_score", "train_loss"), strict=True):
        for name, log in logs.items():
            known = log.dropna(subset=[column])
            axis.plot(known["step"], known[column], marker="o" if column != "train_loss" else None, ms=4, label=name)
        if column in metrics["base"]:
            axis.axhline(metrics["base"][column], color="#888888", ls="--", lw=1, label="base")
        axis.set_title(column)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=9)
    figure.tight_layout()
    return figure


def table(metrics: dict[str, dict[str, float]]) -> str:
    """A Markdown table, one row a variant, the best of each column in bold (low val_loss, high clip_score)."""
    best = {
        "val_loss": min(values["val_loss"] for values in metrics.values()),
        "clip_score": max(values["clip_score"] for values in metrics.values()),
    }
    digits = {"val_loss": 4, "clip_score": 2}
    lines = ["| variant | val_loss ↓ | clip_score ↑ |", "|---|---:|---:|"]
    for name, values in metrics.items():
        cells = []
        for column, number in digits.items():
            text = f"{values[column]:.{number}f}"
            cells.append(f"**{text}**" if values[column] == best[column] else text)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def save_figure(figure: plt.Figure, path: Path) -> None:
    # Without the library's version in the file, the same figures give the same bytes.
    figure.savefig(path, dpi=100, metadata={"Software": None})
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", help="what was evaluated, the base first, then the variants")
    parser.add_argument("--evaluations", type=Path, required=True, help="folder with one folder an evaluation")
    parser.add_argument("--logs", type=Path, required=True, help="folder with one CSV a variant")
    parser.add_argument("--metrics", type=Path, required=True, help="folder for <name>.json")
    parser.add_argument("--plots", type=Path, required=True, help="folder for pictures and the table")
    args = parser.parse_args()
    with one_line_errors():
        prompts = load_params().evaluate.prompts
        evaluations = {name: read_evaluation(args.evaluations / name) for name in args.names}
        metrics = {name: values for name, (values, _) in evaluations.items()}
        images = {name: pictures for name, (_, pictures) in evaluations.items()}
        logs = {name: pd.read_csv(args.logs / f"{name}.csv") for name in args.names[1:]}

        for folder in (args.metrics, args.plots, args.plots / "samples"):
            folder.mkdir(parents=True, exist_ok=True)
        for name, values in metrics.items():
            shutil.copyfile(args.evaluations / name / "metrics.json", args.metrics / f"{name}.json")
            sample_grid(images[name]).save(args.plots / "samples" / f"{name}.png")
            print(f"{name:10} val_loss {values['val_loss']:.4f}  clip_score {values['clip_score']:.2f}")
        save_figure(comparison(prompts, images), args.plots / "comparison.png")
        save_figure(training_curves(logs, metrics), args.plots / "training_curves.png")
        (args.plots / "comparison.md").write_text(table(metrics), encoding="utf-8")


if __name__ == "__main__":
    main()
