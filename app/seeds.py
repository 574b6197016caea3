"""Mean and spread over trainings that differ by their seed alone, and which variants differ all the same.

    dvc exp run --queue -S train.seed=1,2,3      one experiment a seed
    dvc queue start
    python -m app.seeds

Takes the experiments of the current commit, and the commit itself. Differences between variants are paired by seed:
both learned from the same draws. Their intervals are Student's t over the seeds; two seeds tell little, three more.
"""

import argparse
from collections import defaultdict
from itertools import combinations

import dvc.api
import numpy as np
from scipy.stats import t

from app.checks import check_repository
from stages.report.findings import SCORES
from stages.report.intervals import LEVEL, paired_difference
from tattoo_lora.errors import UserError, one_line_errors

ABOUT = {"Experiment", "rev", "typ", "Created", "parent", "State", "Executor"}
Metrics = dict[str, dict[str, float]]  # variant, score


def trainings(rows: list[dict]) -> list[dict[int, Metrics]]:
    """Metrics by seed, of each set of rows of `dvc exp show` that are alike but for train.seed."""
    groups: dict[tuple, dict[int, Metrics]] = defaultdict(dict)
    for row in rows:
        # The workspace may be anything; a failed experiment shows its parent's metrics beside its own params.
        if row["rev"] == "workspace" or row["State"] in ("Failed", "Queued", "Running"):
            continue
        metrics: Metrics = defaultdict(dict)
        for key, value in row.items():
            file, _, score = key.partition(":")
            if file.startswith("metrics/") and score in SCORES and isinstance(value, float):
                metrics[file.removeprefix("metrics/").removesuffix(".json")][score] = value
        # Params, and hashes of drawings and code. What lies under runs/ depends on the seed.
        alike = {
            k: v for k, v in row.items() if k not in ABOUT | {"train.seed"} and not k.startswith(("metrics/", "runs/"))
        }
        if metrics and row.get("train.seed") is not None:
            groups[tuple(sorted((k, str(v)) for k, v in alike.items()))][int(row["train.seed"])] = metrics
    return [by_seed for by_seed in groups.values() if len(by_seed) > 1]


def seed_spread(values: list[np.ndarray]) -> float:
    """How much two trainings that differ by their seed alone may differ at LEVEL, from some values of each variant.

    Student's t with the degrees of freedom of all variants together, and the deviation of a difference of two. The
    base, which is not trained, has no spread and does not count.
    """
    values = [scores for scores in values if np.ptp(scores) > 0]
    if not values:
        return 0.0
    freedom = sum(len(scores) - 1 for scores in values)
    variance = sum(((scores - scores.mean()) ** 2).sum() for scores in values) / freedom
    return float(t.ppf((1 + LEVEL) / 2, freedom) * (2 * variance) ** 0.5)


def tables(by_seed: dict[int, Metrics]) -> str:
    """Markdown: mean and standard deviation of each variant, and the differences between variants."""
    seeds = sorted(by_seed)
    names = [name for name in by_seed[seeds[0]] if all(name in by_seed[seed] for seed in seeds)]
    columns = " | ".join(SCORES)
    lines = [f"Seeds {', '.join(map(str, seeds))}:\n", f"| variant | {columns} |", "|---|" + "---:|" * len(SCORES)]
    values = {
        name: {score: np.array([by_seed[seed][name][score] for seed in seeds]) for score in SCORES} for name in names
    }
    for name, by_score in values.items():
        cells = [
            f"{kind.show(by_score[score].mean())} ± {kind.show(by_score[score].std(ddof=1))}"
            for score, kind in SCORES.items()
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    spread = {score: seed_spread([by_score[score] for by_score in values.values()]) for score in SCORES}
    cells = " | ".join(kind.show(spread[score]) for score, kind in SCORES.items())
    lines.append(f"| seeds alone | {cells} |")
    lines += [
        f"\n'seeds alone': so much may two trainings of one variant differ, in {LEVEL:.0%} of cases.",
        f"\nDifferences with {LEVEL:.0%} intervals:\n",
        f"| difference | {columns} |",
        "|---|" + "---:|" * len(SCORES),
    ]
    for one, other in combinations(names, 2):
        cells = []
        for score, kind in SCORES.items():
            difference, digits = paired_difference(values[other][score], values[one][score], fewest=2), kind.digits
            cells.append(
                f"{difference.mean:+.{digits}f} [{difference.low:+.{digits}f}, {difference.high:+.{digits}f}]"
                + (" real" if difference.is_real() else "")
            )
        lines.append(f"| {other} - {one} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    with one_line_errors():
        check_repository()
        groups = trainings(dvc.api.exp_show())
        if not groups:
            raise UserError(
                "no two experiments here that differ by train.seed alone; "
                "try `dvc exp run --queue -S train.seed=1,2,3`, then `dvc queue start`"
            )
        print("\n".join(map(tables, groups)), end="")


if __name__ == "__main__":
    main()
