"""Collect the evaluations and logs into small files for Git: metrics, differences, curves, pictures, a table.

Reads runs/evaluation/<name>/, runs/logs/<variant>.csv and the preprocessed drawings; writes metrics/<name>.json,
metrics/held_out.json (the line art of the held-out drawings: the target) and plots/.

    python -m stages.report base vanilla blip blip_plus \\
        --evaluations runs/evaluation --logs runs/logs --drawings data/processed/flash/drawings.csv \\
        --images data/processed/flash/images --metrics metrics --plots plots
"""

import argparse
import json
import shutil
from dataclasses import asdict, dataclass, fields
from itertools import combinations
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from PIL import Image

from tattoo_lora.bootstrap import Difference, paired_difference
from tattoo_lora.drawings import read_drawings
from tattoo_lora.errors import UserError, one_line_errors
from tattoo_lora.line_art import LineArt, mean_line_art, measure
from tattoo_lora.params import load_params

CELL = 160  # px of a picture in the comparison
NEAREST = 6  # pairs of a picture and the training drawing nearest to it
SCORES = {"val_loss": 4, "val_loss_common": 4, "clip_score": 2}  # digits
BETTER = {"val_loss": min, "val_loss_common": min, "clip_score": max}
LINE_ART = {"ink": 3, "saturation": 3, "grey": 3, "stroke": 1, "spread": 2, "pieces": 1, "specks": 1}


@dataclass(frozen=True)
class Evaluation:
    """What stages.evaluate wrote: means, each drawing's losses, the pictures and what was measured on each."""

    metrics: dict[str, float | None]
    drawings: pd.DataFrame
    pictures: pd.DataFrame
    images: list[Image.Image]

    @property
    def line_art(self) -> LineArt:
        values = {field.name: self.metrics[field.name] for field in fields(LineArt)}
        return LineArt(**{name: np.nan if value is None else value for name, value in values.items()})


def read_evaluation(folder: Path) -> Evaluation:
    """UserError where the evaluation did not run."""
    if not (folder / "metrics.json").is_file():
        raise UserError(f"{folder}: no metrics.json; run `dvc repro evaluate`")
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    pictures = pd.read_csv(folder / "pictures.csv")
    images = [Image.open(folder / file).convert("RGB") for file in pictures["file"]]
    return Evaluation(metrics, pd.read_csv(folder / "drawings.csv"), pictures, images)


def differences(one: Evaluation, other: Evaluation) -> dict[str, Difference]:
    """one - other: losses paired by drawing (a mean over its timesteps), scores by prompt (a mean over its seeds).

    Pictures of one prompt are not independent: an adapter that draws a wolf badly does so with every seed.
    """
    of_drawings = [of.drawings.groupby("file")[["val_loss", "val_loss_common"]].mean() for of in (one, other)]
    of_pictures = [of.pictures.groupby("prompt")["clip_score"].mean() for of in (one, other)]
    found = {column: paired_difference(*(of[column] for of in of_drawings)) for column in BETTER if "loss" in column}
    return found | {"clip_score": paired_difference(*of_pictures)}


def verdict(column: str, difference: Difference, other: Evaluation, smallest: float) -> str:
    """Whether the one is better or worse than the other in that column, or there is no difference that is real.

    `smallest` is the least share of the other's value that counts.
    """
    if not difference.is_real(smallest * abs(other.metrics[column])):
        return "no difference"
    return "better" if (difference.mean < 0) == (BETTER[column] is min) else "worse"


def enlarge(image: Image.Image) -> Image.Image:
    """CELL px square; a small picture is scaled smoothly so that it reads as one."""
    return image.resize((CELL, CELL), Image.Resampling.LANCZOS)


def sample_grid(images: list[Image.Image], columns: int) -> Image.Image:
    """The pictures in rows of `columns` on white."""
    rows = -(-len(images) // columns)
    grid = Image.new("RGB", (columns * CELL, rows * CELL), "white")
    for i, image in enumerate(images):
        grid.paste(enlarge(image), (i % columns * CELL, i // columns * CELL))
    return grid


def shared_part(prompts: list[str]) -> str:
    """What all prompts say after their first comma, if it is the same; it need not stand beside each row."""
    tails = {prompt.partition(", ")[2] for prompt in prompts}
    return tails.pop() if len(tails) == 1 else ""


def show(axis: plt.Axes, image: Image.Image) -> None:
    axis.imshow(np.asarray(enlarge(image)))
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_color("#dddddd")


def comparison(prompts: list[str], images: dict[str, list[Image.Image]]) -> plt.Figure:
    """Rows: prompts. Columns: the base model and each variant. Same seed along a row."""
    names, tail = list(images), shared_part(prompts)
    figure, axes = plt.subplots(
        len(prompts), len(names), figsize=(1.7 * len(names) + 1.3, 1.7 * len(prompts) + 0.7), squeeze=False
    )
    for row, prompt in enumerate(prompts):
        for column, name in enumerate(names):
            show(axes[row][column], images[name][row])
            if row == 0:
                axes[row][column].set_title(name, fontsize=11)
        label = prompt.removesuffix(f", {tail}") if tail else prompt
        axes[row][0].set_ylabel(label.replace(", ", ",\n"), rotation=0, ha="right", va="center", fontsize=9)
    if tail:
        figure.suptitle(f"… {tail}", fontsize=9, color="#666666")
    figure.tight_layout()
    return figure


def training_curves(logs: dict[str, pd.DataFrame]) -> plt.Figure:
    """val_loss, clip_score and train_loss by step for each variant; step 0 is the untouched base."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.8))
    for axis, column in zip(axes, ("val_loss", "clip_score", "train_loss"), strict=True):
        for name, log in logs.items():
            known = log.dropna(subset=[column])
            axis.plot(known["step"], known[column], marker="o" if column != "train_loss" else None, ms=4, label=name)
        axis.set_title(column)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=9)
    figure.tight_layout()
    return figure


def difference_plot(
    found: dict[tuple[str, str], dict[str, Difference]], evaluations: dict[str, Evaluation], smallest: float
) -> plt.Figure:
    """Each pair's difference with its 95% interval, a panel for each score: green better, red worse, grey neither."""
    colors = {"better": "#2a7f3f", "worse": "#c0392b", "no difference": "#aaaaaa"}
    figure, axes = plt.subplots(1, len(BETTER), figsize=(13, 0.4 * len(found) + 1.3), sharey=True)
    labels = [f"{one} - {other}" for one, other in found]
    for axis, (column, better) in zip(axes, BETTER.items(), strict=True):
        axis.axvline(0, color="#888888", lw=1)
        for row, ((_, other), of_pair) in enumerate(found.items()):
            difference = of_pair[column]
            color = colors[verdict(column, difference, evaluations[other], smallest)]
            axis.plot([difference.low, difference.high], [row, row], color=color, lw=2)
            axis.plot(difference.mean, row, "o", color=color)
        axis.set_title(f"{column} ({'lower' if better is min else 'higher'} is better)", fontsize=10)
        axis.grid(alpha=0.3, axis="x")
    axes[0].set_yticks(range(len(labels)), labels)
    axes[0].invert_yaxis()
    figure.tight_layout()
    return figure


def nearest_pairs(evaluations: dict[str, Evaluation], folder: Path) -> plt.Figure:
    """For each variant the pictures most like a training drawing, each above that drawing."""
    names = [name for name, evaluation in evaluations.items() if len(evaluation.pictures)]
    figure, axes = plt.subplots(
        2 * len(names), NEAREST, figsize=(1.5 * NEAREST + 1.2, 3.2 * len(names) + 0.4), squeeze=False
    )
    for axis in axes.flat:
        axis.axis("off")
    for row, name in enumerate(names):
        pictures = evaluations[name].pictures.nlargest(NEAREST, "correlation")
        axes[2 * row][0].text(-0.15, 0, name, transform=axes[2 * row][0].transAxes, rotation=90, ha="center")
        for column, (i, picture) in enumerate(pictures.iterrows()):
            drawing = Image.open(folder / picture["nearest_by_pixels"]).convert("RGB")
            for line, image in ((0, evaluations[name].images[i]), (1, drawing)):
                axis = axes[2 * row + line][column]
                axis.axis("on")
                show(axis, image)
            title = f"{picture['correlation']:.2f}" + (" copy" if picture["copy"] else "")
            axes[2 * row][column].set_title(title, fontsize=9, color="#c00000" if picture["copy"] else "black")
    figure.suptitle("generated (above) and the nearest training drawing (below), correlation of pixels", fontsize=9)
    figure.tight_layout()
    return figure


def scores_table(evaluations: dict[str, Evaluation]) -> str:
    """A Markdown table, one row a variant, the best of each column in bold (low losses, high clip_score)."""
    best = {column: choose(of.metrics[column] for of in evaluations.values()) for column, choose in BETTER.items()}
    arrows = {column: "↓" if choose is min else "↑" for column, choose in BETTER.items()}
    lines = [
        f"| variant | {' | '.join(f'{column} {arrow}' for column, arrow in arrows.items())} |",
        "|---|---:|---:|---:|",
    ]
    for name, evaluation in evaluations.items():
        cells = []
        for column, digits in SCORES.items():
            value = evaluation.metrics[column]
            cells.append(f"**{value:.{digits}f}**" if value == best[column] else f"{value:.{digits}f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def line_art_table(evaluations: dict[str, Evaluation], target: LineArt) -> str:
    """The measures of tattoo_lora/line_art.py, the held-out drawings first; and the share of copies."""
    lines = [f"| | line art | {' | '.join(LINE_ART)} | copies |", "|---|---|" + "---:|" * (len(LINE_ART) + 1)]
    rows = [("held-out drawings", target, "the target", "")]
    for name, evaluation in evaluations.items():
        like = "yes" if evaluation.line_art.is_like(target) else "no"
        rows.append((name, evaluation.line_art, like, f"{evaluation.metrics['copies']:.0%}"))
    for name, line_art, like, copies in rows:
        values = [f"{getattr(line_art, measured):.{digits}f}" for measured, digits in LINE_ART.items()]
        lines.append(f"| {name} | {like} | {' | '.join(values)} | {copies} |")
    return "\n".join(lines) + "\n"


def differences_table(
    found: dict[tuple[str, str], dict[str, Difference]], evaluations: dict[str, Evaluation], smallest: float
) -> str:
    """Each pair's differences with their intervals, and whether the first is better or worse if that is real."""
    lines = [
        "| difference | " + " | ".join(f"{column} | is" for column in BETTER) + " |",
        "|---|" + "---:|---|" * 3,
    ]
    for names, of_pair in found.items():
        cells = []
        for column, digits in SCORES.items():
            of = of_pair[column]
            cells.append(f"{of.mean:+.{digits}f} [{of.low:+.{digits}f}, {of.high:+.{digits}f}]")
            cells.append(verdict(column, of, evaluations[names[1]], smallest))
        lines.append(f"| {names[0]} - {names[1]} | {' | '.join(cells)} |")
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
    parser.add_argument("--drawings", type=Path, required=True, help="what preprocess wrote")
    parser.add_argument("--images", type=Path, required=True, help="folder of the preprocessed drawings")
    parser.add_argument("--metrics", type=Path, required=True, help="folder for <name>.json")
    parser.add_argument("--plots", type=Path, required=True, help="folder for pictures and the table")
    args = parser.parse_args()
    with one_line_errors():
        run(args)


def run(args: argparse.Namespace) -> None:
    all_params = load_params()
    prompts, seeds = all_params.evaluate.prompts, all_params.evaluate.seeds
    smallest = all_params.report.smallest_difference
    evaluations = {name: read_evaluation(args.evaluations / name) for name in args.names}
    logs = {name: pd.read_csv(args.logs / f"{name}.csv") for name in args.names[1:]}
    held_out = [drawing.file for drawing in read_drawings(args.drawings) if drawing.split == "val"]
    target = mean_line_art([measure(Image.open(args.images / file)) for file in held_out])
    # Variants against the base and against each other: the later name first, so that a gain reads as one.
    found = {
        (other, one): differences(evaluations[other], evaluations[one]) for one, other in combinations(args.names, 2)
    }

    for folder in (args.metrics, args.plots, args.plots / "samples"):
        folder.mkdir(parents=True, exist_ok=True)
    for name, evaluation in evaluations.items():
        shutil.copyfile(args.evaluations / name / "metrics.json", args.metrics / f"{name}.json")
        sample_grid(evaluation.images, len(seeds)).save(args.plots / "samples" / f"{name}.png")
    of_target = {name: None if np.isnan(value) else round(value, 6) for name, value in asdict(target).items()}
    (args.metrics / "held_out.json").write_text(json.dumps(of_target, indent=2) + "\n", encoding="utf-8")

    of_first_seed = {name: evaluation.images[:: len(seeds)] for name, evaluation in evaluations.items()}
    save_figure(comparison(prompts, of_first_seed), args.plots / "comparison.png")
    save_figure(training_curves(logs), args.plots / "training_curves.png")
    save_figure(difference_plot(found, evaluations, smallest), args.plots / "differences.png")
    save_figure(nearest_pairs(evaluations, args.images), args.plots / "nearest.png")
    scores = scores_table(evaluations)
    (args.plots / "comparison.md").write_text(
        f"{scores}\nIs it line art? Definitions in tattoo_lora/line_art.py.\n\n{line_art_table(evaluations, target)}\n"
        "Which differences are real: paired bootstrap over drawings (losses) and over prompts (clip_score), 95% "
        f"intervals;\nless than {smallest:.0%} of the second's value is no difference.\n\n"
        f"{differences_table(found, evaluations, smallest)}",
        encoding="utf-8",
    )
    print(scores, end="")


if __name__ == "__main__":
    main()
