"""How good is one ranking, given what is relevant?

The measures are those of trec_eval and are tested against it. What is relevant counts, indexed or not, and a question
without an answer scores 0.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

Grades = Mapping[str, int]
"""Paper id -> how relevant it is: from 1 on it is, and the more so the higher."""


def ndcg(ranking: Sequence[str], grades: Grades, cutoff: int) -> float:
    """Return the discounted cumulative gain of the first `cutoff` papers as a share of the best possible.

    The gain is the grade itself and the discount log2(rank + 1): Järvelin and Kekäläinen 2002 as trec_eval's ndcg_cut
    has it, not the variant with 2^grade - 1. The best possible counts every relevant paper, found or not.

    >>> round(ndcg(["a", "x", "b"], {"a": 1, "b": 2}, cutoff=10), 4)  # (1/1 + 2/2) / (2/1 + 1/log2(3))
    0.7602
    """
    ideal = _discounted(sorted(grades.values(), reverse=True)[:cutoff])
    return _discounted([grades.get(paper_id, 0) for paper_id in ranking[:cutoff]]) / ideal if ideal else 0.0


def _discounted(grades: Sequence[int]) -> float:
    return math.fsum(max(grade, 0) / math.log2(rank + 1) for rank, grade in enumerate(grades, 1))


def recall(ranking: Sequence[str], grades: Grades, cutoff: int) -> float:
    """Return the share of all relevant papers that are among the first `cutoff`."""
    relevant = {paper_id for paper_id, grade in grades.items() if grade > 0}
    return len(relevant.intersection(ranking[:cutoff])) / len(relevant) if relevant else 0.0


def reciprocal_rank(ranking: Sequence[str], grades: Grades) -> float:
    """Return 1 / the rank of the first relevant paper, 0 if there is none."""
    return next((1 / rank for rank, paper_id in enumerate(ranking, 1) if grades.get(paper_id, 0) > 0), 0.0)


NDCG, RECALL, MRR = "nDCG@10", "recall@100", "MRR"
MEASURES: Mapping[str, Callable[[Sequence[str], Grades], float]] = {
    NDCG: partial(ndcg, cutoff=10),
    RECALL: partial(recall, cutoff=100),
    MRR: reciprocal_rank,
}
"""What a judged set is scored by; MRR reads the ranking to its end."""


@dataclass(frozen=True, slots=True)
class Subject:
    """Which questions were asked of which papers: only runs that agree in both digests can be compared."""

    corpus: str
    corpus_sha256: str
    questions_sha256: str
    split: str | None = None


@dataclass(frozen=True, slots=True)
class Scores:
    """What each question scored: `values`, shape (n_questions, n_measures), float64, each from 0 to 1."""

    questions: tuple[str, ...]
    measures: tuple[str, ...]
    values: NDArray[np.float64]

    def of(self, measure: str) -> NDArray[np.float64]:
        """Return one measure's values, shape (n_questions,)."""
        column: NDArray[np.float64] = self.values[:, self.measures.index(measure)]
        return column


def score(ranking: Sequence[str], grades: Grades) -> list[float]:
    """Return the ranking's value of each of `MEASURES`.

    :raises ValueError: if a paper stands in the ranking twice: it would be counted twice.
    """
    if len(set(ranking)) != len(ranking):
        twice = next(paper_id for paper_id in ranking if ranking.count(paper_id) > 1)
        raise ValueError(f"the ranking holds {twice!r} twice")
    return [measure(ranking, grades) for measure in MEASURES.values()]
