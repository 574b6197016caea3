"""Report the results: a page to read, metrics and tables for Git, differences, curves and pictures.

Reads runs/evaluation/<name>/, runs/logs/<variant>.csv, runs/samples/<variant>/ and what preprocess and enrich wrote.

    metrics/report.md            what was found, to read in two minutes; report.html is the same in one file to hand on
    metrics/findings.json        the headline, scores, differences and verdicts, for main.py and the dashboard
    metrics/held_out.json        the line art of the held-out drawings: the target
    plots/                       tables (comparison.md), figures, sample grids; curves and losses by timestep as CSV

    python -m stages.report --evaluations runs/evaluation --logs runs/logs \\
        --samples runs/samples --processed data/processed/flash --metrics metrics --plots plots
"""

import argparse
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from stages.report.figures import (
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
from stages.report.findings import (
    DECIDE,
    SCORES,
    TOO_FEW,
    Evaluation,
    Findings,
    collapsed,
    compare_all,
    false_alarms,
    headline,
    learned_by_heart,
    read_evaluation,
    thresholds,
    verdicts,
    winner,
)
from stages.report.intervals import FEWEST, LEVEL
from stages.report.web_page import plain, web_page
from tattoo_lora.data.drawings import read_drawings
from tattoo_lora.data.manifest import ManifestRow, read_manifest
from tattoo_lora.data.split import file_sha256
from tattoo_lora.diffusion.images import squared
from tattoo_lora.diffusion.line_art import LineArt, are_line_art, count_line_art, mean_line_art, measure
from tattoo_lora.errors import one_line_errors
from tattoo_lora.files import replace_file
from tattoo_lora.params import Model, Params, Profile, load_params, load_profile
from tattoo_lora.times import recorded_time

LINE_ART = {"ink": 3, "saturation": 3, "grey": 3, "stroke": 1, "spread": 2, "pieces": 1, "specks": 1}
BASE = "base"  # the control's name among the evaluations, before the variants
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
        cells = {column: score.show(evaluation.metrics[column]) for column, score in SCORES.items()}
        bold = {column: evaluation.metrics[column] == best[column] for column in SCORES}
        rows.append([name, *(f"**{cell}**" if bold[column] else cell for column, cell in cells.items())])
    head = [f"{column} {score.arrow}" for column, score in SCORES.items()]
    return table(["variant", *head], "l" + "r" * len(head), rows)


def measured_in(evaluations: dict[str, Evaluation]) -> str:
    """A sentence: in which dtype the evaluations were measured."""
    names: dict[str, list[str]] = {}
    for name, evaluation in evaluations.items():
        names.setdefault(evaluation.metrics["dtype"], []).append(name)
    if len(names) == 1:
        return f"All were measured in {next(iter(names))}."
    parts = "; ".join(f"{', '.join(several)} in {dtype}" for dtype, several in names.items())
    return f"Measured: {parts}. A difference of less than 1% between these may come from that."


def line_art_cell(pictures: Sequence[LineArt], target: LineArt) -> str:
    """Whether the pictures are line art on the whole, and how many are."""
    return f"{'yes' if are_line_art(pictures, target) else 'no'}, {count_line_art(pictures)} of {len(pictures)}"


def line_art_table(evaluations: dict[str, Evaluation], held_out: Sequence[LineArt]) -> str:
    """The line-art measures, the held-out drawings first, and the share of copies."""
    target = mean_line_art(held_out)
    flagged = f"{false_alarms(evaluations)['copy'].mean():.0%}"
    rows = [("held-out drawings", line_art_cell(held_out, target), target, flagged)]
    for name, evaluation in evaluations.items():
        like = line_art_cell(evaluation.measured, target)
        rows.append((name, like, evaluation.line_art, f"{evaluation.metrics['copies']:.0%}"))
    measured = [
        [name, like, *(f"{getattr(line_art, kind):.{digits}f}" for kind, digits in LINE_ART.items()), copies]
        for name, like, line_art, copies in rows
    ]
    return table(["", "line art", *LINE_ART, "copies"], "ll" + "r" * (len(LINE_ART) + 1), measured)


def learned_table(evaluations: dict[str, Evaluation]) -> str:
    """The losses on learned drawings, on val and on test, and what was gained by heart, against the first, the base."""
    base = next(iter(evaluations.values()))
    rows = []
    for name, evaluation in evaluations.items():
        losses = [f"{evaluation.metrics[column]:.4f}" for column in ("seen_loss", "val_loss", "test_loss")]
        gap = SCORES["test_loss"].show_difference(learned_by_heart(evaluation, base)) if evaluation is not base else ""
        rows.append([name, *losses, gap])
    head = ["variant", "learned drawings", "val", "test", "more gained on learned than on test"]
    return table(head, "l" + "r" * 4, rows)


def differences_table(findings: Findings, columns: Sequence[str]) -> str:
    """Each pair's differences with their intervals, and whether the first is better or worse if that is real."""
    rows = []
    for (one, other), by_score in findings.items():
        row = [f"{one} - {other}"]
        for column in columns:
            shown, verdict = SCORES[column].show_difference(by_score[column].difference), by_score[column].verdict
            row.append(shown if verdict == "no difference" else f"{shown} {verdict}")
        rows.append(row)
    return table(["difference", *columns], "l" + "r" * len(columns), rows)


def findings_table(evaluations: dict[str, Evaluation], findings: Findings, target: LineArt) -> str:
    """A row for each evaluation but the first, the base: better and worse than which, line art or not, copies."""
    words = {"better": "better than", "worse": "worse than", "no difference": "level with", TOO_FEW: f"{TOO_FEW} from"}
    rows = []
    for name in list(evaluations)[1:]:
        row = [f"**{name}**"]
        for column in DECIDE:
            others = {other: verdicts(name, other, findings)[column] for other in evaluations if other != name}
            by_verdict = {verdict: [other for other in others if others[other] == verdict] for verdict in words}
            cells = [f"{words[verdict]} {', '.join(names)}" for verdict, names in by_verdict.items() if names]
            row.append("; ".join(cells))
        evaluation = evaluations[name]
        copies = int(evaluation.pictures["copy"].sum())
        rows.append([*row, line_art_cell(evaluation.measured, target), f"{copies} of {len(evaluation.pictures)}"])
    return table(["", *DECIDE, "line art", "near copies"], "l" * (len(DECIDE) + 2) + "r", rows)


def findings_json(evaluations: dict[str, Evaluation], findings: Findings, held_out: Sequence[LineArt]) -> str:
    """What main.py and the dashboard show of the report."""
    base, *variants = evaluations
    target = mean_line_art(held_out)

    def rounded(value: float) -> float | None:
        return float(f"{value:.4g}") if np.isfinite(value) else None

    content = {
        "headline": headline(evaluations, findings, target),
        "winner": winner(evaluations, findings),
        "base": base,
        "variants": variants,
        "decide": DECIDE,
        "better": {name: score.direction for name, score in SCORES.items()},
        "scores": {
            name: {score: rounded(evaluation.metrics[score]) for score in SCORES}
            for name, evaluation in evaluations.items()
        },
        "differences": [
            {"one": one, "other": other, "score": score, "verdict": finding.verdict}
            | {"is_ratio": SCORES[score].is_ratio}  # -0.08: 8% lower; otherwise in the score's own unit
            | {end: rounded(value) for end, value in asdict(finding.difference).items()}
            for (one, other), by_score in findings.items()
            for score, finding in by_score.items()
        ],
        "line_art": {name: evaluation.is_line_art(target) for name, evaluation in evaluations.items()},
        "collapsed": collapsed(evaluations),
        "false_alarms": round(false_alarms(evaluations)["copy"].mean(), 4),
        "copies": {name: round(evaluation.metrics["copies"], 4) for name, evaluation in evaluations.items()},
    }
    return json.dumps(content, indent=2) + "\n"


def count_split(rows: Sequence[ManifestRow], split: str) -> int:
    """How many of the drawings are in that split."""
    return sum(row.split == split for row in rows)


def data_facts(dataset: str, processed: Path, rows: Sequence[ManifestRow], captions: pd.DataFrame) -> str:
    """What the folder of drawings held, and what became of it."""
    count = Counter(row.status for row in rows)
    kept = [row for row in rows if row.status == "kept"]
    sides = [max(row.width, row.height) for row in kept]
    licenses = Counter(row.license or "unknown" for row in kept)
    facts = {
        "drawings": f"{len(kept)}: {count_split(kept, 'train')} to learn from, {count_split(kept, 'val')} that choose "
        f"the best step (val), {count_split(kept, 'test')} to report on (test)",
        "left out": f"{count['duplicate']} duplicates, {count['rejected']} rejected files",
        "longer side": f"{min(sides)} to {max(sides)} px, median {np.median(sides):.0f}",
        "licences": ", ".join(f"{plain(license)} ({number})" for license, number in licenses.most_common()),
        "captions": f"{(captions['origin'] == 'blip').sum()} by BLIP, "
        f"{(captions['origin'] == 'name').sum()} from names, {(captions['origin'] == 'user').sum()} your own",
        "tokens of a caption": f"median {captions['tokens'].median():.0f}, at most {captions['tokens'].max()}; "
        f"with the suffix {captions['enriched_tokens'].median():.0f} and {captions['enriched_tokens'].max()}",
        "SHA-256 of drawings.csv": f"`{file_sha256(processed / 'drawings.csv')}`",
    }
    return table([f"data/raw/{plain(dataset)}", ""], "ll", facts.items())


def how_made(all_params: Params, profile: Profile, steps: int) -> str:
    """Models, the settings that matter most, versions. A training had so many steps at most."""

    def name(model: Model) -> str:
        return plain(model.id) + (f" at {plain(model.revision)}" if model.revision else "")

    train, sampling = profile.train, profile.sampling
    batch = train.batch_size * train.gradient_accumulation_steps
    facts = {
        "profile": f"{plain(all_params.profile)}, {profile.resolution} px",
        "base model": name(profile.base),
        "captions by": name(profile.captioner),
        "scores by": name(profile.clip),
        "training": f"{steps} steps of {batch}, learning rate {train.learning_rate:g}, rank "
        f"{all_params.train.rank}, alpha {all_params.train.alpha:g}, seed {all_params.train.seed}",
        "pictures": f"{sampling.sampler_steps} steps, guidance {sampling.guidance_scale:g}",
        # Without what differs by machine and not by requirements.txt: +cpu or +cu130, and Python's own.
        "versions": ", ".join(f"{name} {version(name).partition('+')[0]}" for name in PACKAGES),
    }
    return table(["", ""], "ll", facts.items())


def copies_text(evaluations: dict[str, Evaluation]) -> str:
    """The flagged shares beside that of the control, and where the control would put the thresholds."""
    shares = ", ".join(f"{name} {evaluation.metrics['copies']:.0%}" for name, evaluation in evaluations.items())
    control = false_alarms(evaluations)
    least = thresholds(control)
    return (
        f"Near copies: {shares}. Of the {len(control)} held-out drawings, which nobody copied, "
        f"{control['copy'].mean():.0%} are flagged in the same way: false alarms.\n"
        f"By these drawings, `evaluate.copy_correlation` should be "
        f"{least['correlation']:.2f} and `copy_cosine` {least['cosine']:.2f}."
    )


def report_text(
    evaluations: dict[str, Evaluation],
    findings: Findings,
    held_out: Sequence[LineArt],
    facts: str,
    made: str,
    smallest: float,
    plots: str,
) -> str:
    """The report in Markdown; `facts` is by `data_facts`, `made` by `how_made`, `plots` the path to the figures."""
    base, target = next(iter(evaluations)), mean_line_art(held_out)
    interval = f"{LEVEL:.0%} interval"
    doubt = "" if are_line_art(held_out, target) else " Of these, most are not line art themselves."
    return f"""# {headline(evaluations, findings, target)}

Adapters that differ in the captions they were trained on, held against each other and against the untouched {base}.

{findings_table(evaluations, findings, target)}
A variant wins if it is better than each other one and than the {base} in `test_loss` (error on drawings that no
training read), `style` (distance of the pictures to these drawings) or `clip_score` (is what was asked for in the
picture?), worse in none, and does not draw nearly one picture whatever the seed. A difference counts if its {interval}
leaves out zero and it is at least {smallest:.0%}. With fewer than {FEWEST} drawings or
prompts there is no telling.

![The same prompts and seeds, a column for each variant]({plots}/comparison.png)

## Figures

{scores_table(evaluations)}
`diversity`: how many different pictures the seeds give for a prompt. `drift`: how far pictures of prompts that do not
ask for the style have moved from the {base}'s. Differences with {interval}s follow: of losses the ratio, over the
drawings; of scores the points, over the prompts; "better" and "worse" where they are real. {measured_in(evaluations)}

{differences_table(findings, DECIDE)}
![Differences with their intervals]({plots}/differences.png)

## Training

![One prompt's picture by step]({plots}/steps.png)

![val_loss, clip_score and train_loss by step]({plots}/training_curves.png)

![test_loss by timestep]({plots}/timesteps.png)

## Is it learned by heart?

{learned_table(evaluations)}
The last column is 0% if an adapter gained as much on the test drawings as on those that it learned from, and below zero
if it gained more on those.

## Is it line art?

![Line-art measures against the held-out drawings]({plots}/line_art.png)

{line_art_table(evaluations, held_out)}
Line art is ink on bare paper: a picture with colour, with more grey than ink, or in blobs is none. "yes": at least half
of the pictures are line art, with half to twice the ink of the held-out drawings.{doubt}
Formulas and limits: tattoo_lora/diffusion/line_art.py.

## Is it copied?

{copies_text(evaluations)}

![Pictures and the training drawings nearest to them]({plots}/nearest.png)

## More differences

{differences_table(findings, [column for column in SCORES if column not in DECIDE])}
## Drawings

{facts}
## How it was made

{made}"""


def by_step(folder: Path, file: str) -> dict[int, Path]:
    """The file of that name from each of a training's evaluations."""
    return {int(path.parent.name.removeprefix("eval_step")): path for path in folder.glob(f"eval_step*/{file}")}


def add_seen_losses(log: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """The log with a column seen_loss, from what a training wrote beside its pictures."""
    paths = by_step(folder, "losses.json")
    losses = {step: json.loads(path.read_text(encoding="utf-8"))["seen_loss"] for step, path in paths.items()}
    return log.assign(seen_loss=log["step"].map(losses))


def read_steps(folder: Path) -> dict[int, Image.Image]:
    """The first prompt's picture by step, from those that a training drew."""
    return {step: Image.open(path).convert("RGB") for step, path in by_step(folder, "prompt00.png").items()}


def losses_by_timestep(evaluations: dict[str, Evaluation]) -> dict[str, pd.DataFrame]:
    """For each evaluation the mean losses at each timestep."""
    columns = [name for name, score in SCORES.items() if score.table == "drawings"]
    return {
        name: evaluation.drawings.groupby("timestep")[columns].mean().reset_index()
        for name, evaluation in evaluations.items()
    }


def write_by_variant(path: Path, tables: dict[str, pd.DataFrame]) -> None:
    """The tables as one CSV with a column `variant`: `dvc plots` then needs no list of the variants."""
    whole = pd.concat([table.assign(variant=name) for name, table in tables.items()])
    whole.to_csv(path, index=False, float_format="%.6f", lineterminator="\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluations", type=Path, required=True, help="folder with one folder an evaluation")
    parser.add_argument("--logs", type=Path, required=True, help="folder with one CSV a variant")
    parser.add_argument("--samples", type=Path, required=True, help="folder with one folder a variant")
    parser.add_argument("--processed", type=Path, required=True, help="folder that preprocess and enrich wrote to")
    parser.add_argument("--metrics", type=Path, required=True, help="folder for the report")
    parser.add_argument("--plots", type=Path, required=True, help="folder for figures and tables")
    args = parser.parse_args()
    with one_line_errors(), recorded_time():
        run(args)


def run(args: argparse.Namespace) -> None:
    """Read, compare, write."""
    all_params = load_params()
    profile = load_profile(all_params.profile)
    prompts, seeds = all_params.evaluate.prompts, all_params.evaluate.seeds
    smallest = all_params.report.smallest_difference
    variants = list(all_params.variants)
    evaluations = {name: read_evaluation(args.evaluations / name) for name in (BASE, *variants)}
    logs = {name: add_seen_losses(pd.read_csv(args.logs / f"{name}.csv"), args.samples / name) for name in variants}
    drawings, images = read_drawings(args.processed / "drawings.csv"), args.processed / "images"
    held_out = [measure(squared(Image.open(images / drawing.file))) for drawing in drawings if drawing.is_held_out]
    target = mean_line_art(held_out)
    findings = compare_all(evaluations, smallest)

    for folder in (args.metrics, args.plots, args.plots / "samples"):
        folder.mkdir(parents=True, exist_ok=True)
    for name, evaluation in evaluations.items():
        sample_grid(evaluation.images, len(seeds)).save(args.plots / "samples" / f"{name}.png")
    target_values = {name: None if np.isnan(value) else round(value, 6) for name, value in asdict(target).items()}
    (args.metrics / "held_out.json").write_text(
        json.dumps(target_values, indent=2) + "\n", encoding="utf-8", newline="\n"
    )

    first_seed_images = {name: evaluation.images[:: len(seeds)] for name, evaluation in evaluations.items()}
    steps = {name: read_steps(args.samples / name) for name in variants}
    for figure, file in (
        (comparison(prompts, first_seed_images), "comparison.png"),
        (difference_plot(findings), "differences.png"),
        (step_strip(all_params.train.prompts[0], steps), "steps.png"),
        (training_curves(logs), "training_curves.png"),
        (by_timestep(evaluations), "timesteps.png"),
        (line_art_plot(evaluations, target), "line_art.png"),
        (nearest_pairs(evaluations, images), "nearest.png"),
    ):
        save_figure(figure, args.plots / file)
    write_by_variant(args.plots / "timesteps.csv", losses_by_timestep(evaluations))
    write_by_variant(args.plots / "training_curves.csv", logs)
    scores = scores_table(evaluations)
    (args.plots / "comparison.md").write_text(
        f"{scores}\n{measured_in(evaluations)} Is it line art? Definitions in tattoo_lora/diffusion/line_art.py.\n\n"
        f"{line_art_table(evaluations, held_out)}\n"
        f"Which differences are real: {LEVEL:.0%} intervals of ratios over drawings (losses) and of points over "
        f"prompts (clip_score);\nless than {smallest:.0%} of the second's value is no difference.\n\n"
        f"{differences_table(findings, list(SCORES))}",
        encoding="utf-8",
        newline="\n",
    )
    (args.metrics / "findings.json").write_text(
        findings_json(evaluations, findings, held_out), encoding="utf-8", newline="\n"
    )
    facts = data_facts(
        all_params.dataset,
        args.processed,
        read_manifest(args.processed / "manifest.csv"),
        pd.read_csv(args.processed / "captions.csv"),
    )
    pictures = Path(os.path.relpath(args.plots, args.metrics)).as_posix()
    made = how_made(all_params, profile, max(log["step"].max() for log in logs.values()))
    text = report_text(evaluations, findings, held_out, facts, made, smallest, pictures)
    (args.metrics / "report.md").write_text(text, encoding="utf-8", newline="\n")
    page = web_page(text.splitlines()[0].lstrip("# "), text, args.metrics)
    with replace_file(args.metrics / "report.html") as partial:  # the only result here that DVC caches
        partial.write_text(page, encoding="utf-8", newline="\n")
    print(f"{scores}\n{text.splitlines()[0].lstrip('# ')}. The report: {args.metrics / 'report.html'}")


if __name__ == "__main__":
    main()
