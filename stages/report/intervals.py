"""Which differences are real: Student's intervals of paired differences.

LEVEL is wider than the usual 95% because the differences are skewed: of equal pairs as skewed as the losses of real
trainings are, a 95% interval calls 7 to 10 of 100 different, a 98% interval 3 to 5, with 5 pairs as with 40
(docs/measuring.md has the table). A bootstrap is no better: with so few pairs it calls 10 to 50 of 100 different.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import t, ttest_ind

LEVEL = 0.98
FEWEST = 5  # pairs; with fewer, even a difference of two standard deviations is rarely found


@dataclass(frozen=True)
class Difference:
    """A mean difference and its interval at LEVEL, without ends where there were too few pairs."""

    mean: float
    low: float
    high: float

    @property
    def has_interval(self) -> bool:
        return bool(np.isfinite([self.low, self.high]).all())

    def is_real(self, smallest: float = 0.0) -> bool:
        """Whether the interval leaves out zero and the difference is at least `smallest`."""
        return (self.low > 0 or self.high < 0) and abs(self.mean) >= smallest


def interval(differences: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, low and high (…) of differences (…, N), N at least 2. Equal differences give an interval without width."""
    count = differences.shape[-1]
    mean = differences.mean(axis=-1)
    half = t.ppf((1 + LEVEL) / 2, count - 1) * differences.std(axis=-1, ddof=1) / count**0.5
    # Equal up to rounding is equal.
    half = np.where(np.ptp(differences, axis=-1) <= 1e-9 * np.abs(differences).max(axis=-1), 0.0, half)
    return mean, mean - half, mean + half


def paired_difference(one: np.ndarray, other: np.ndarray, fewest: int = FEWEST) -> Difference:
    """The difference one - other; both (N,), measured on the same N items: drawings, prompts or seeds."""
    differences = np.asarray(one, dtype=float) - np.asarray(other, dtype=float)
    if len(differences) < fewest:
        return Difference(float(differences.mean()), -np.inf, np.inf)
    return Difference(*(float(value) for value in interval(differences)))


def unpaired_difference(one: np.ndarray, other: np.ndarray, fewest: int = FEWEST) -> Difference:
    """Of the means of one (N,) and other (M,), measured on different items: Welch's interval."""
    mean = float(np.mean(one) - np.mean(other))
    if min(len(one), len(other)) < fewest:
        return Difference(mean, -np.inf, np.inf)
    ends = ttest_ind(one, other, equal_var=False).confidence_interval(LEVEL)
    return Difference(mean, float(ends.low), float(ends.high))
