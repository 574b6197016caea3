"""Which differences are real: paired bootstrap intervals."""

import warnings
from dataclasses import dataclass

import numpy as np
from scipy.stats import DegenerateDataWarning, bootstrap

LEVEL = 0.95
RESAMPLES = 5000


@dataclass(frozen=True)
class Difference:
    """A mean difference and its interval at LEVEL."""

    mean: float
    low: float
    high: float

    def is_real(self, smallest: float = 0.0) -> bool:
        """Whether the interval leaves out zero and the difference is at least `smallest`."""
        return not self.low <= 0 <= self.high and abs(self.mean) >= smallest


def paired_difference(one: np.ndarray, other: np.ndarray) -> Difference:
    """Of one - other, both (N,), measured on the same N items: drawings, or pictures of the same prompt and seed.

    Bias-corrected and accelerated (Efron 1987); the same figures every time. Where all differences are equal, or there
    is but one, the interval has no width, or no end.
    """
    differences = np.asarray(one, dtype=float) - np.asarray(other, dtype=float)
    mean = float(differences.mean())
    if len(differences) < 2:
        return Difference(mean, -np.inf, np.inf)
    if np.ptp(differences) <= 1e-9 * np.abs(differences).max():
        return Difference(mean, mean, mean)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateDataWarning)
        interval = bootstrap(
            (differences,), np.mean, n_resamples=RESAMPLES, confidence_level=LEVEL, rng=np.random.default_rng(0)
        ).confidence_interval
    return Difference(mean, float(interval.low), float(interval.high))
