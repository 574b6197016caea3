"""Say what came of it: a report to read, metrics and tables for Git, differences, curves and pictures.

Reads runs/evaluation/<name>/, runs/logs/<variant>.csv, runs/samples/<variant>/ and what preprocess and enrich wrote.

    metrics/report.md            what was found, in two minutes; report.html is the same in one file to hand on
    metrics/<name>.json          the means of each evaluation, for `dvc metrics`
    metrics/findings.json        the headline, scores, differences and verdicts, for main.py and the dashboard
    metrics/held_out.json        the line art of the held-out drawings: the target
    plots/                       tables (comparison.md), figures, sample grids, val_loss by timestep (timesteps/)

    python -m stages.report base vanilla blip blip_plus --evaluations runs/evaluation --logs runs/logs \\
        --samples runs/samples --processed data/processed/flash --metrics metrics --plots plots
"""

import argparse
import json
import os
import platform
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from tattoo_lora.drawings import read_drawings
from tattoo_lora.errors import one_line_errors
from tattoo_lora.evaluation import (
    DECIDE,
    SCORES,
    Evaluation,
    Findings,
    compare_all,
    read_evaluation,
    unbeaten,
    verdicts,
    winner,
)
from tattoo_lora.figures import (
    by_timestep,
    comparison,
    difference_plot,
    line_art_plot,
    nearest_pairs,
    sample_grid,
    save_figure,
    step_strip,
    training_curves,
)
from tattoo_lora.files import replace_file
from tattoo_lora.line_art import LineArt, mean_line_art, measure
from tattoo_lora.manifest import Found, read_manifest
from tattoo_lora.params import Params, Profile, load_params, load_profile
from tattoo_lora.split import file_sha256
from tattoo_lora.times import read_times, recorded_time
from tattoo_lora.web_page import plain, web_page

LINE_ART = {"ink": 3, "saturation": 3, "grey": 3, "stroke": 1, "spread": 2, "pieces": 1, "specks": 1}
PACKAGES = ("torch", "diffusers", "transformers", "peft", "accelerate", "dvc")


def table(head: Sequence[str], sides: str, rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; `sides` has an l or r for each column, r for numbers."""
    under = {"l": "---", "r": "---:"}
    lines = [f"| {' | '.join(head)} |", f"|{'|'.join(under[side] for side in sides)}|"]
    return "\n".join(lines + [f"| {' | '.join(map(str, row))} |" for row in rows]) + "\n"


def scores_table(evaluations: dict[str, Evaluation]) -> str:
    """One row a variant, the best of each column in bold (low losses, high clip_score)."""
    best = {
        column: score.better(evaluation.metrics[column] for evaluation in evaluations.values())
        for column, score in SCORES.items()
    }
    rows = []
    for name, evaluation in evaluations.items():
        cells = {column: f"{evaluation.metrics[column]:.{score.digits}f}" for column, score in SCORES.items()}
        bold = {column: evaluation.metrics[column] == best[column] for column in SCORES}
        rows.append([name, *(f"**{cell}**" if bold[column] else cell for column, cell in cells.items())])
    head = [f"{column} {'↓' if score.better is min else '↑'}" for column, score in SCORES.items()]
    return table(["variant", *head], "l" + "r" * len(head), rows)


def line_art_table(evaluations: dict[str, Evaluation], target: LineArt) -> str:
    """The measures of tattoo_lora/line_art.py, the held-out drawings first; and the share of copies."""
    rows = [("held-out drawings", "the target", target, "")]
    for name, evaluation in evaluations.items():
        like = "yes" if evaluation.line_art.is_like(target) else "no"
        rows.append((name, like, evaluation.line_art, f"{evaluation.metrics['copies']:.0%}"))
    measured = [
        [name, like, *(f"{getattr(line_art, of):.{digits}f}" for of, digits in LINE_ART.items()), copies]
        for name, like, line_art, copies in rows
    ]
    return table(["", "line art", *LINE_ART, "copies"], "ll" + "r" * (len(LINE_ART) + 1), measured)


def differences_table(found: Findings) -> str:
    """Each pair's differences with their intervals, and whether the first is better or worse if that is real."""
    rows = []
    for (one, other), of_pair in found.items():
        row = [f"{one} - {other}"]
        for column, score in SCORES.items():
            of, digits = of_pair[column].difference, score.digits
            row += [f"{of.mean:+.{digits}f} [{of.low:+.{digits}f}, {of.high:+.{digits}f}]", of_pair[column].verdict]
        rows.append(row)
    head = [cell for column in SCORES for cell in (column, f"{column} is")]
    return table(["difference", *head], "l" + "rl" * len(SCORES), rows)


def headline(variants: Sequence[str], found: Findings) -> str:
    """The winner, or that there is none and between which it is open."""
    best = winner(variants, found)
    if best is not None:
        return f"Winner: {best}"
    if len(variants) == 1:
        return "One variant, nothing to choose from"
    first = unbeaten(variants, found)
    return f"No winner: open between {' and '.join(first)}" if first else "No winner: each is beaten by another"


def findings_table(evaluations: dict[str, Evaluation], found: Findings, target: LineArt) -> str:
    """A row for each evaluation but the first, the base: better and worse than which, line art or not, copies."""
    words = {"better": "better than", "worse": "worse than", "no difference": "level with"}
    rows = []
    for name in list(evaluations)[1:]:
        row = [f"**{name}**"]
        for column in DECIDE:
            others = {other: verdicts(name, other, found)[column] for other in evaluations if other != name}
            of_verdict = {verdict: [other for other in others if others[other] == verdict] for verdict in words}
            row.append("; ".join(f"{words[of]} {', '.join(named)}" for of, named in of_verdict.items() if named))
        evaluation = evaluations[name]
        copies = int(evaluation.pictures["copy"].sum())
        line_art = "yes" if evaluation.line_art.is_like(target) else "no"
        rows.append([*row, line_art, f"{copies} of {len(evaluation.pictures)}"])
    return table(["", *DECIDE, "line art", "near copies"], "llllr", rows)


def findings_json(evaluations: dict[str, Evaluation], found: Findings, target: LineArt) -> str:
    """What main.py and the dashboard show of the report."""
    base, *variants = evaluations

    def rounded(value: float, score: str) -> float | None:
        return round(value, SCORES[score].digits + 2) if np.isfinite(value) else None

    content = {
        "headline": headline(variants, found),
        "winner": winner(variants, found),
        "base": base,
        "variants": variants,
        "better": {name: "lower" if score.better is min else "higher" for name, score in SCORES.items()},
        "scores": {
            name: {score: rounded(evaluation.metrics[score], score) for score in SCORES}
            for name, evaluation in evaluations.items()
        },
        "differences": [
            {"one": one, "other": other, "score": score, "verdict": finding.verdict}
            | {end: rounded(getattr(finding.difference, end), score) for end in ("mean", "low", "high")}
            for (one, other), by_score in found.items()
            for score, finding in by_score.items()
        ],
        "line_art": {name: bool(evaluation.line_art.is_like(target)) for name, evaluation in evaluations.items()},
        "copies": {name: round(evaluation.metrics["copies"], 4) for name, evaluation in evaluations.items()},
    }
    return json.dumps(content, indent=2) + "\n"


def data_facts(dataset: str, processed: Path, rows: Sequence[Found], captions: pd.DataFrame) -> str:
    """What was in the folder of drawings, and what became of it."""
    count = Counter(row.status for row in rows)
    kept = [row for row in rows if row.status == "kept"]
    sides = [max(row.width, row.height) for row in kept]
    licenses = Counter(row.license or "unknown" for row in kept)
    facts = {
        "drawings": f"{len(kept)}, {sum(row.split == 'val' for row in kept)} of them held out",
        "left out": f"{count['duplicate']} duplicates, {count['rejected']} rejected files",
        "longer side": f"{min(sides)} to {max(sides)} px, median {np.median(sides):.0f}",
        "licences": ", ".join(f"{plain(license)} ({number})" for license, number in licenses.most_common()),
        "captions": f"{(captions['origin'] == 'blip').sum()} by BLIP, {(captions['origin'] == 'user').sum()} your own",
        "tokens of a caption": f"median {captions['tokens'].median():.0f}, at most {captions['tokens'].max()}; "
        f"with the suffix {captions['enriched_tokens'].median():.0f} and {captions['enriched_tokens'].max()}",
        "SHA-256 of drawings.csv": f"`{file_sha256(processed / 'drawings.csv')}`",
    }
    return table([f"data/raw/{plain(dataset)}", ""], "ll", facts.items())


def how_made(all_params: Params, profile: Profile) -> str:
    """Models, the settings that matter most, versions."""

    def model(name: str, revision: str | None) -> str:
        return f"`{name}`" + (f" at `{revision}`" if revision else "")

    batch = profile.batch_size * profile.gradient_accumulation_steps
    facts = {
        "profile": f"`{all_params.profile}`, {profile.resolution} px",
        "base model": model(profile.base_model, profile.base_revision),
        "captions by": model(profile.caption_model, profile.caption_revision),
        "scores by": model(profile.clip_model, profile.clip_revision),
        "training": f"{profile.steps} steps of {batch}, learning rate {profile.learning_rate:g}, rank "
        f"{all_params.train.rank}, alpha {all_params.train.alpha:g}, seed {all_params.train.seed}",
        "pictures": f"{profile.sampler_steps} steps, guidance {profile.guidance_scale:g}",
        "versions": ", ".join([f"Python {platform.python_version()}", *(f"{of} {version(of)}" for of in PACKAGES)]),
    }
    return table(["", ""], "ll", facts.items())


def times_table(names: Sequence[str]) -> str:
    """What each stage took when it last ran here."""

    def is_of_this_run(stage: str) -> bool:
        return stage != "report" and stage.partition("@")[2] in ("", *names)

    times = {stage: seconds for stage, seconds in read_times().items() if is_of_this_run(stage)}
    if not times:
        return "Not known: `dvc repro` keeps them for the stages that it runs.\n"
    rows = [(stage, f"{seconds:.0f} s") for stage, seconds in [*times.items(), ("all", sum(times.values()))]]
    return (
        table(["stage", f"on {os.cpu_count()} CPU cores"], "lr", rows)
        + "\nEach is the stage's last run on this machine; what was known from before is quick.\n"
    )


def report_text(
    all_params: Params,
    profile: Profile,
    evaluations: dict[str, Evaluation],
    found: Findings,
    target: LineArt,
    facts: str,
    plots: str,
) -> str:
    """The report in Markdown; `plots` is the path to the figures from where it lies."""
    base, *variants = evaluations
    return f"""# {headline(variants, found)}

Adapters that differ in the captions they were trained on, held against each other and against the untouched {base}.

{findings_table(evaluations, found, target)}
A variant wins if it is better than each other one in `val_loss` (error on held-out drawings) or `clip_score` (is what
was asked for in the picture?) and worse in neither. A difference counts if its 95% interval leaves out zero and it is
at least {all_params.report.smallest_difference:.0%}.

![The same prompts and seeds, a column for each variant]({plots}/comparison.png)

## Figures

{scores_table(evaluations)}
Differences, with 95% intervals from a paired bootstrap over drawings (losses) and prompts (scores):

{differences_table(found)}
![Differences with their intervals]({plots}/differences.png)

## Training

![One prompt's picture by step]({plots}/steps.png)

![val_loss, clip_score and train_loss by step]({plots}/training_curves.png)

![val_loss by timestep]({plots}/timesteps.png)

## Is it line art?

![Line-art measures against the held-out drawings]({plots}/line_art.png)

{line_art_table(evaluations, target)}
Formulas: tattoo_lora/line_art.py.

## Is it copied?

![Pictures and the training drawings nearest to them]({plots}/nearest.png)

## Drawings

{facts}
## How it was made

{how_made(all_params, profile)}
## Times

{times_table(list(evaluations))}"""


def read_steps(folder: Path) -> dict[int, Image.Image]:
    """The first prompt's picture by step, of what a training drew on its way."""
    found = {int(path.parent.name.removeprefix("eval_step")): path for path in folder.glob("eval_step*/prompt00.png")}
    return {step: Image.open(path).convert("RGB") for step, path in found.items()}


def write_timesteps(folder: Path, evaluations: dict[str, Evaluation]) -> None:
    """<name>.csv for each evaluation: the mean losses at each timestep, for `dvc plots`."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, evaluation in evaluations.items():
        means = evaluation.drawings.groupby("timestep")[["val_loss", "val_loss_common"]].mean()
        means.to_csv(folder / f"{name}.csv", float_format="%.6f", lineterminator="\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", help="what was evaluated, the base first, then the variants")
    parser.add_argument("--evaluations", type=Path, required=True, help="folder with one folder an evaluation")
    parser.add_argument("--logs", type=Path, required=True, help="folder with one CSV a variant")
    parser.add_argument("--samples", type=Path, required=True, help="folder with one folder a variant")
    parser.add_argument("--processed", type=Path, required=True, help="folder that preprocess and enrich wrote to")
    parser.add_argument("--metrics", type=Path, required=True, help="folder for the report and <name>.json")
    parser.add_argument("--plots", type=Path, required=True, help="folder for figures and tables")
    args = parser.parse_args()
    with one_line_errors(), recorded_time():
        run(args)


def run(args: argparse.Namespace) -> None:
    all_params = load_params()
    profile, prompts, seeds = load_profile(all_params.profile), all_params.evaluate.prompts, all_params.evaluate.seeds
    smallest = all_params.report.smallest_difference
    evaluations = {name: read_evaluation(args.evaluations / name) for name in args.names}
    variants = args.names[1:]
    logs = {name: pd.read_csv(args.logs / f"{name}.csv") for name in variants}
    held_out = [of.file for of in read_drawings(args.processed / "drawings.csv") if of.split == "val"]
    images = args.processed / "images"
    target = mean_line_art([measure(Image.open(images / file)) for file in held_out])
    found = compare_all(evaluations, smallest)

    for folder in (args.metrics, args.plots, args.plots / "samples"):
        folder.mkdir(parents=True, exist_ok=True)
    for name, evaluation in evaluations.items():
        shutil.copyfile(args.evaluations / name / "metrics.json", args.metrics / f"{name}.json")
        sample_grid(evaluation.images, len(seeds)).save(args.plots / "samples" / f"{name}.png")
    of_target = {name: None if np.isnan(value) else round(value, 6) for name, value in asdict(target).items()}
    (args.metrics / "held_out.json").write_text(json.dumps(of_target, indent=2) + "\n", encoding="utf-8")

    of_first_seed = {name: evaluation.images[:: len(seeds)] for name, evaluation in evaluations.items()}
    steps = {name: read_steps(args.samples / name) for name in variants}
    for figure, file in (
        (comparison(prompts, of_first_seed), "comparison.png"),
        (difference_plot(found), "differences.png"),
        (step_strip(all_params.train.prompts[0], steps), "steps.png"),
        (training_curves(logs), "training_curves.png"),
        (by_timestep(evaluations), "timesteps.png"),
        (line_art_plot(evaluations, target), "line_art.png"),
        (nearest_pairs(evaluations, images), "nearest.png"),
    ):
        save_figure(figure, args.plots / file)
    write_timesteps(args.plots / "timesteps", evaluations)
    scores = scores_table(evaluations)
    (args.plots / "comparison.md").write_text(
        f"{scores}\nIs it line art? Definitions in tattoo_lora/line_art.py.\n\n{line_art_table(evaluations, target)}\n"
        "Which differences are real: paired bootstrap over drawings (losses) and over prompts (clip_score), 95% "
        f"intervals;\nless than {smallest:.0%} of the second's value is no difference.\n\n{differences_table(found)}",
        encoding="utf-8",
    )
    (args.metrics / "findings.json").write_text(findings_json(evaluations, found, target), encoding="utf-8")
    facts = data_facts(
        all_params.dataset, args.processed, read_manifest(args.processed / "manifest.csv"),
        pd.read_csv(args.processed / "captions.csv"),
    )  # fmt: skip
    pictures = Path(os.path.relpath(args.plots, args.metrics)).as_posix()
    text = report_text(all_params, profile, evaluations, found, target, facts, pictures)
    (args.metrics / "report.md").write_text(text, encoding="utf-8")
    page = web_page(text.splitlines()[0].lstrip("# "), text, args.metrics)
    with replace_file(args.metrics / "report.html") as partial:  # the only result here that DVC caches
        partial.write_text(page, encoding="utf-8")
    print(f"{scores}\n{text.splitlines()[0].lstrip('# ')}. The report: {args.metrics / 'report.html'}")


if __name__ == "__main__":
    main()
