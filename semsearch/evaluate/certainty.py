"""How sure is a mean over a few hundred questions, and is a difference more than chance?

All of it is resampling with a fixed seed, so the same scores always give the same figures.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
_SEED = 20_070_723
_VALUES_PER_BLOCK = 4_000_000  # 32 MB of float64 at a time, however many questions there are
_Z_95 = 1.959963984540054  # the normal distribution's 97.5 % point
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Comparison:
    """How a mean differs from another over the same questions: the difference, its 95 % interval, and the p-value."""

    value: float
    against: float
    difference: float
    low: float
    high: float
    p_value: float


def bootstrap_interval(values: NDArray[np.float64]) -> tuple[float, float] | None:
    """Return the 95 % interval of the mean: the percentile bootstrap of Efron 1979, over questions as in Sakai 2006.

    None for fewer than two values, which tell nothing of how values vary.

    :param values: one per question, shape (n,).
    """
    if len(values) < 2:
        return None
    rng = np.random.default_rng(_SEED)
    means = np.concatenate(
        [values[rng.integers(len(values), size=(rows, len(values)))].mean(axis=1) for rows in _blocks(len(values))]
    )
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def share_interval(values: NDArray[np.float64]) -> tuple[float, float] | None:
    """Return the 95 % interval of a share: the score interval of Wilson 1927.

    A bootstrap of nothing but successes would claim that there can be no failure.

    :param values: 1 for a success, 0 for none, shape (n,).
    """
    if not len(values):
        return None
    n, share, z2 = len(values), float(values.mean()), _Z_95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    reach = _Z_95 / (1 + z2 / n) * float(np.sqrt(share * (1 - share) / n + z2 / (4 * n * n)))
    return max(0.0, centre - reach), min(1.0, centre + reach)


def compare(values: NDArray[np.float64], against: NDArray[np.float64]) -> Comparison:
    """Return how the first mean differs from the second.

    The interval is the bootstrap's over the questions' differences. The p-value is that of the two-sided paired
    randomisation test (Fisher's, for retrieval Smucker, Allan and Carterette 2007): how often signs given to the
    differences by chance make a mean as large. It counts the observed one, as Phipson and Smyth 2010 do, and so is
    never 0.

    :param values: one per question, shape (n,); `against` has the same questions in the same order.
    :raises ValueError: if there are fewer than two questions.
    """
    differences = values - against
    interval = bootstrap_interval(differences)
    if interval is None:
        raise ValueError(f"{len(values)} questions are too few to compare by; ask two or more")
    return Comparison(
        value=float(values.mean()),
        against=float(against.mean()),
        difference=float(differences.mean()),
        low=interval[0],
        high=interval[1],
        p_value=_randomisation_p(differences),
    )


def _randomisation_p(differences: NDArray[np.float64]) -> float:
    rng = np.random.default_rng(_SEED)
    observed = abs(float(differences.sum())) - _ROUNDING  # the same sum in another order may differ in its last bits
    as_large = 0
    for rows in _blocks(len(differences)):
        signs = rng.integers(2, size=(rows, len(differences)), dtype=np.int8) * 2.0 - 1.0
        as_large += int(np.count_nonzero(np.abs(signs @ differences) >= observed))
    return (as_large + 1) / (RESAMPLES + 1)


def _blocks(questions: int) -> Iterator[int]:
    """Yield how many resamples to make at a time, so that memory stays bounded."""
    size = max(1, _VALUES_PER_BLOCK // max(questions, 1))
    for start in range(0, RESAMPLES, size):
        yield min(size, RESAMPLES - start)
