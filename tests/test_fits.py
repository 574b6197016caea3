"""Which settings fit which card: by counting alone."""

import pytest
from conftest import ROOT, call

import app.fits
from app.fits import SETTINGS, best_line, fitting, needed


def test_more_at_once_takes_more_and_checkpointing_less():
    for setting in SETTINGS:
        assert needed(setting, 8) > needed(setting, 1)
    assert needed("gradient_checkpointing: true", 4) < needed("as in the profile", 4)


def test_a_larger_card_fits_all_that_a_smaller_one_does():
    assert set(fitting(4)) <= set(fitting(6)) <= set(fitting(24))
    assert len(fitting(24)) == 8


def test_the_targets_are_met_by_counting():
    assert needed("gradient_checkpointing: true", 1) <= 4
    assert needed("as in the profile", 1) <= 6


def test_a_card_that_is_too_small_is_told_what_is_needed():
    assert best_line(2).startswith("too small: at least ")


@pytest.mark.parametrize(
    "options, said", [((), "| RTX 4090 | 24 GB |"), (("--card", 8), "as in the profile, 4 at once")]
)
def test_the_command_prints_settings_and_says_that_they_are_computed(options, said):
    shown = call(app.fits, ROOT, *options)
    assert said in shown and "Computed, not measured" in shown


def test_a_card_without_memory_is_refused(capsys):
    with pytest.raises(SystemExit):
        call(app.fits, ROOT, "--card", 0)
    assert "--card 0: allowed is 1 to 1000" in capsys.readouterr().err
