"""Mean and spread over seeds, from rows as `dvc.api.exp_show` gives them."""

import numpy as np
import pytest
from conftest import ENVIRONMENT, ROOT, run

from app.seeds import seed_spread, tables, trainings


def row(seed, blip, vanilla=0.2, rev="abc", state=None, rank=8.0, **others):
    metrics = {}
    for name, loss in (("vanilla", vanilla), ("blip", blip)):
        scores = {"test_loss": loss, "test_loss_common": loss, "clip_score": 50.0, "ink": 0.1}
        scores |= {"style": 1.0, "style_cosine": 0.5, "diversity": 2.0, "drift": 0.1}
        metrics |= {f"metrics/{name}.json:{score}": value for score, value in scores.items()}
    about = {"Experiment": f"e{seed}", "rev": rev, "typ": "branch_base", "Created": seed, "State": state}
    return about | metrics | {"train.seed": float(seed), "train.rank": rank, "runs/lora/blip": f"hash{seed}"} | others


def test_experiments_that_differ_by_their_seed_are_taken_together():
    rows = [
        row(1, 0.10),
        row(2, 0.11),
        row(3, 0.12, rank=4.0),
        row(4, 0.13, rev="workspace"),
        row(5, 9, state="Failed"),
    ]
    (by_seed,) = trainings(rows)
    assert set(by_seed) == {1, 2}
    assert by_seed[2]["blip"]["test_loss"] == 0.11


def test_other_code_or_drawings_are_another_set():
    assert (
        trainings([row(1, 0.1, **{"stages/train/__main__.py": "a"}), row(2, 0.1, **{"stages/train/__main__.py": "b"})])
        == []
    )


def test_the_tables_hold_mean_spread_and_differences():
    (by_seed,) = trainings([row(seed, loss) for seed, loss in ((1, 0.099), (2, 0.1), (3, 0.101))])
    text = tables(by_seed)
    assert "Seeds 1, 2, 3:" in text
    assert "| blip | 0.1000 ± 0.0010 | 0.1000 ± 0.0010 | 50.00 ± 0.00 | 1.000 ± 0.000 |" in text
    assert "| blip - vanilla | -0.1000 [-0.1040, -0.0960] real |" in text  # t(2) = 6.965, 0.001 / sqrt(3)
    assert "+0.00 [+0.00, +0.00] |" in text  # equal scores are no difference


def test_seeds_alone_make_a_difference_of_so_much():
    """Trainings of three variants, whose means do not matter, with a deviation of 1; the base, the same each time."""
    generator = np.random.default_rng(0)
    values = [mean + generator.normal(size=200) for mean in (0, 10, 20)]
    spread = seed_spread([*values, np.ones(200)])
    assert spread == pytest.approx(2.326 * 2**0.5, rel=0.05)  # the normal distribution's 99%
    differences = np.abs(values[0][::2] - values[0][1::2])
    assert (differences > spread).mean() <= 0.05
    assert seed_spread([np.ones(3)]) == 0
    (by_seed,) = trainings([row(seed, loss, 0.2 + loss) for seed, loss in ((1, 0.099), (2, 0.101))])
    assert "| seeds alone | 0.0139 |" in tables(by_seed)  # t(2) = 6.965, 0.001 * 2


def test_differences_are_paired_by_seed():
    (by_seed,) = trainings([row(1, 0.09, 0.1), row(2, 0.19, 0.2), row(3, 0.28, 0.291)])
    assert "| blip - vanilla | -0.0103 [-0.0127, -0.0080] real |" in tables(by_seed)


def test_without_two_seeds_it_is_said_how_to_get_them(finished):
    failed = run("python", "-m", "app.seeds", cwd=finished, check=False)
    assert failed.returncode == 1
    assert "error: no two experiments here that differ by train.seed alone; try `dvc exp run --queue" in failed.stderr
    assert "dvc exp run --queue -S train.seed=1,2,3" in run("python", "-m", "app.seeds", "--help", cwd=ROOT).stdout


def test_in_a_folder_of_another_user_the_way_out_is_said(finished, monkeypatch):
    monkeypatch.setitem(ENVIRONMENT, "GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # Git's own way to test it
    failed = run("python", "-m", "app.seeds", cwd=finished, check=False)
    assert failed.returncode == 1 and "Traceback" not in failed.stderr
    assert "belongs to another user, so Git does not use it; if you trust it: `git config --global" in failed.stderr
