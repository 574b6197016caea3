"""Intervals hold their level: of equal pairs, however few and however skewed, at most 6 of 100 are called different."""

import re

import numpy as np
import pytest
from conftest import ROOT

from stages.report.intervals import FEWEST, Difference, interval, paired_difference

# Logarithms of blip's val_loss to the base's, and to vanilla's, of the sample's 34 held-out drawings.
TO_BASE = [
    -0.577,
    -0.376,
    -0.31,
    -0.298,
    -0.287,
    -0.235,
    -0.225,
    -0.218,
    -0.212,
    -0.207,
    -0.206,
    -0.202,
    -0.196,
    -0.187,
    -0.178,
    -0.159,
    -0.157,
    -0.136,
    -0.125,
    -0.124,
    -0.123,
    -0.123,
    -0.119,
    -0.11,
    -0.109,
    -0.109,
    -0.107,
    -0.09,
    -0.087,
    -0.083,
    -0.082,
    -0.018,
    0.034,
    0.079,
]
TO_VANILLA = [
    -0.235,
    -0.213,
    -0.204,
    -0.197,
    -0.193,
    -0.185,
    -0.185,
    -0.183,
    -0.166,
    -0.157,
    -0.154,
    -0.148,
    -0.148,
    -0.135,
    -0.126,
    -0.126,
    -0.125,
    -0.122,
    -0.122,
    -0.116,
    -0.104,
    -0.095,
    -0.094,
    -0.093,
    -0.082,
    -0.07,
    -0.067,
    -0.058,
    -0.019,
    -0.012,
    0.002,
    0.04,
    0.097,
    0.11,
]
KINDS = {
    "normal": lambda random, shape: random.normal(size=shape),
    "skewed": lambda random, shape: np.exp(random.normal(0, 0.5, shape)),  # lognormal, skewness 1.8
    "heavy-tailed": lambda random, shape: random.standard_t(3, shape),
    "blip to base": lambda random, shape: random.choice(TO_BASE, shape),
    "blip to vanilla": lambda random, shape: random.choice(TO_VANILLA, shape),
}
POPULATION, SIMULATIONS = 1_000_000, 5000


def pairs(kind, count):
    """Differences (SIMULATIONS, count) of a kind with mean 0 and standard deviation 1."""
    random = np.random.default_rng(count)
    everyone = KINDS[kind](np.random.default_rng(0), POPULATION)
    return (KINDS[kind](random, (SIMULATIONS, count)) - everyone.mean()) / everyone.std()


def called_real(differences):
    """In how many percent of the simulations the interval leaves out zero."""
    _, low, high = interval(differences)
    return 100 * np.mean((low > 0) | (high < 0))


@pytest.mark.parametrize("kind", KINDS)
def test_equal_pairs_are_called_different_in_at_most_6_of_100_cases_however_few_they_are(kind):
    found = {count: called_real(pairs(kind, count)) for count in range(3, 41)}
    assert max(found.values()) <= 6, found


def test_the_documents_table_has_the_shares_of_false_alarms_and_of_differences_that_are_found():
    text = (ROOT / "docs/measuring.md").read_text(encoding="utf-8").partition("| pairs |")[2]
    rows = re.findall(r"^\| (\d+) \| ([\d |]+) \|$", text, re.M)
    assert len(rows) == 9
    for count, cells in rows:
        shares = [called_real(pairs(kind, int(count))) for kind in KINDS]
        shares += [called_real(pairs("normal", int(count)) + size) for size in (0.5, 1, 2)]
        assert [float(cell) for cell in cells.split("|")] == pytest.approx(shares, abs=1), (count, shares)


def test_a_difference_of_two_standard_deviations_is_mostly_found_from_the_fewest_pairs_on_and_not_before():
    assert called_real(pairs("normal", FEWEST) + 2) > 65 and called_real(pairs("normal", FEWEST - 1) + 2) < 55


def test_a_difference_is_real_where_its_interval_leaves_out_zero():
    random = np.random.default_rng(1)
    one = random.normal(size=40)
    same, better = paired_difference(one, one + random.normal(0, 0.1, 40)), paired_difference(one - 0.1, one)
    assert not same.is_real()
    assert better.is_real() and better.mean == pytest.approx(-0.1)
    assert not better.is_real(smallest=0.2)


def test_the_interval_is_students():
    """t(4) at 98% is 3.747; the standard deviation of 1 to 5 is 1.581."""
    found = paired_difference(np.array([1.0, 2, 3, 4, 5]), np.zeros(5))
    half = 3.747 * 1.5811 / 5**0.5
    assert [found.low, found.mean, found.high] == pytest.approx([3 - half, 3, 3 + half], abs=1e-3)


def test_equal_differences_leave_no_doubt_and_no_difference_is_none():
    assert paired_difference(np.arange(6) + 1.0, np.arange(6)) == Difference(1, 1, 1)
    assert paired_difference(np.arange(6) + 0.1, np.arange(6) - 0.2).is_real()  # equal but for rounding
    assert not paired_difference(np.ones(6), np.ones(6)).is_real()


def test_too_few_pairs_have_a_mean_and_no_interval():
    few = paired_difference(np.array([2.0, 3, 4, 5]), np.array([1.0, 2, 3, 4]))
    assert few.mean == 1 and not few.has_interval and not few.is_real()
    assert paired_difference(np.array([2.0, 3]), np.array([1.0, 2]), fewest=2).has_interval


def test_what_is_no_number_is_not_real():
    assert not paired_difference(np.array([np.nan, *range(9)]), np.ones(10) / 2).is_real()
