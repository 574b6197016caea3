"""Which settings fit which card: by counting alone."""

import pytest
from conftest import ROOT, call

import app.fits
from app.fits import best_line, fitting
from tattoo_lora.estimates import counted_memory


def test_a_larger_card_fits_all_that_a_smaller_one_does():
    assert set(fitting(4)) <= set(fitting(6)) <= set(fitting(24))
    assert len(fitting(24)) == 8


def test_the_targets_are_met_by_counting():
    """On cards of 4 and 6 GB, evaluations and the margin included."""
    assert counted_memory(1, is_checkpointed=True) <= 4
    assert counted_memory(1, is_checkpointed=False) <= 6


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
