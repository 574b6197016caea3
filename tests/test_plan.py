"""How long a training is follows from how many drawings there are."""

import dataclasses

import pytest
from conftest import ROOT, copy_project, set_value

from app.ahead import training_steps
from stages.train.plan import planned
from tattoo_lora.errors import UserError
from tattoo_lora.params import load_profile

SD15 = load_profile("sd15", ROOT).train


def lengths(profile, drawings, processes=1, **others):
    train = planned(dataclasses.replace(profile, **others), drawings, processes)
    return train.steps, train.warmup_steps, train.eval_every


@pytest.mark.parametrize("profile", ["embedded", "sd15"])
def test_the_samples_drawings_are_trained_as_long_as_the_profile_says(profile):
    train = load_profile(profile, ROOT).train
    assert planned(train, 290) == train


def test_a_small_folder_trains_less_and_its_warm_up_and_evaluations_keep_their_shares():
    assert lengths(SD15, 20) == (250, 16, 42)  # 100 x 20 / 8
    assert lengths(SD15, 2) == (25, 1, 5)
    assert lengths(SD15, 120) == (1500, 100, 250)  # where both end at once


def test_either_of_the_two_may_be_null():
    assert lengths(SD15, 20, epochs=None) == (1500, 100, 250)
    assert lengths(SD15, 20, steps=None, epochs=50.0, warmup_steps=10) == (125, 10, 250)
    assert lengths(SD15, 21, steps=None, epochs=0.5, warmup_steps=0) == (2, 0, 250)  # rounded up


def test_several_processes_share_the_epochs():
    assert lengths(SD15, 20, processes=2) == (125, 8, 21)


def test_a_warm_up_that_the_epochs_do_not_outlast_is_refused():
    with pytest.raises(
        UserError, match="warmup_steps: found 100, allowed: less than the 5 steps that 2 epochs of 20 dr"
    ):
        planned(dataclasses.replace(SD15, steps=None, epochs=2.0), 20)


def test_the_dashboard_counts_the_steps_as_the_training_does(processed, tmp_path):
    copy = copy_project(processed, tmp_path / "p")
    for key, value in {"steps": 50, "epochs": 7}.items():
        set_value(copy / "profiles/embedded.yaml", key, value)
    assert training_steps(copy) == 9  # 7 x 5 / 4
