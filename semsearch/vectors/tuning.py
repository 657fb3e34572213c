"""How many lists must be looked through, and how good are the answers then?

Both are measured when the lists are made, against the exact answers, on questions of two kinds: papers of the segment,
each without itself, and points in the middle of three random papers. Those are nearly as hard as questions in plain
words: of 362,952 papers, 99 % of the ten nearest stand in the first 388 of 1,205 lists for such questions, 288 for
middles of three, 134 for titles half remembered, 88 for middles of two, and 50 for papers, which alone would flatter.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semsearch.vectors.flat import Flat, best
from semsearch.vectors.lists import Lists
from semsearch.vectors.selection import Selection

CANDIDATES = 1_024
"""How many of the best estimates are scored exactly, if no more are wanted; a ranking's window wants as many."""

_RECALL = 0.993  # aimed at; what is measured on other questions shall not be below 0.99
_RECALL_AMONG_SOME = 0.998  # random rows stand for a filter here, real filters choose by topic and are harder
_DEPTH = 10
_QUESTIONS = 200  # of each kind, and as many for the measurement
_SELECTIVITIES = (0.1, 0.01)
_FEWEST_SELECTED = 100
_MORE = 1.25
_UNSURE = 0.02  # of the questions under a filter look further than they need


@dataclass(frozen=True, slots=True)
class Probing:
    """How the lists of one segment are looked through.

    `probes` lists where all rows are allowed. Under a filter as many as hold a share of the allowed rows that depends
    on which part of all rows they are: `shares` has pairs of that part and the share, the largest part first. Twice as
    many are tried until the next centroid's cosine is lower than the tenth best row's by `margin`, as it mostly is:
    where all that is allowed lies far from the question, centroids say little of where the best is. `recall_at_10` is
    which part of the ten nearest rows is found where all are allowed.
    """

    probes: int
    shares: tuple[tuple[float, float], ...]
    margin: float
    recall_at_10: float

    def among(self, allowed: Selection, held: NDArray[np.int64]) -> int:
        """Return how many lists are looked through first under a filter.

        :param held: how many of the allowed rows each list holds, in the order in which they are looked through.
        """
        parts, shares = zip(*reversed(self.shares), strict=True)
        share = np.interp(np.log(allowed.share), np.log(parts), shares)
        return int(np.searchsorted(np.cumsum(held), share * allowed.count)) + 1


def tuned(flat: Flat, lists: Lists) -> Probing:
    """Return how these lists are to be looked through for a recall@10 of 0.99, and the recall that this gives."""
    generator = np.random.default_rng(0)
    questions, itself = _questions(flat, generator)
    tuning, held_out = slice(0, None, 2), slice(1, None, 2)
    nearest = _nearest(flat, questions, itself)
    probes = _quantile(_places(lists, questions[tuning], nearest[tuning]), _RECALL)
    while probes < lists.count:
        found = _found(flat, lists, questions[tuning], itself[tuning], probes)
        if _recall(found, nearest[tuning]) >= _RECALL:
            break
        probes = min(lists.count, round(_MORE * probes) + 1)
    shares, margin = _shares(flat, lists, questions[tuning], itself[tuning], probes, generator)
    found = _found(flat, lists, questions[held_out], itself[held_out], probes)
    return Probing(probes, shares, margin, round(_recall(found, nearest[held_out]), 4))


def _shares(
    flat: Flat,
    lists: Lists,
    questions: NDArray[np.float32],
    itself: NDArray[np.int64],
    probes: int,
    generator: np.random.Generator,
) -> tuple[tuple[tuple[float, float], ...], float]:
    """Return which share of the allowed rows must be looked at, by which part of all they are, and the margin."""
    shares = [(1.0, probes / lists.count)]
    margin = 0.0
    for part in _SELECTIVITIES:
        selected = Selection(generator.random(flat.rows) < part)
        if selected.count < _FEWEST_SELECTED:
            break
        nearest = _nearest(flat, questions, itself, selected)
        needed = max(probes, _quantile(_places(lists, questions, nearest), _RECALL_AMONG_SOME))
        shares.append((part, needed / lists.count))
        tenth = [flat.scores_of(rows[-1:], question)[0] for question, rows in zip(questions, nearest, strict=True)]
        next_centroid = [lists.ranked(question)[1][min(needed, lists.count - 1)] for question in questions]
        margin = float(np.quantile(np.subtract(tenth, next_centroid), _UNSURE))
    return tuple(shares), round(margin, 4)


def _questions(flat: Flat, generator: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return papers and middles of three papers in turns of two, and the row that each is itself, -1 for none."""
    rows = generator.integers(0, flat.rows, (4, 2 * _QUESTIONS))
    papers, *others = (flat.matrix[some] for some in rows)
    between = np.sum(others, axis=0)
    between /= np.maximum(np.linalg.norm(between, axis=1, keepdims=True), 1e-6)
    pairs = np.stack([papers.reshape(-1, 2, flat.dimension), between.reshape(-1, 2, flat.dimension)], axis=1)
    itself = np.stack([rows[0].reshape(-1, 2), np.full((_QUESTIONS, 2), -1)], axis=1)
    return pairs.reshape(-1, flat.dimension), itself.reshape(-1)


def _nearest(
    flat: Flat, questions: NDArray[np.float32], itself: NDArray[np.int64], allowed: Selection | None = None
) -> list[NDArray[np.int64]]:
    _, rows = flat.nearest(questions, _DEPTH + 1, allowed)
    return [_without(found[found >= 0], own) for found, own in zip(rows, itself, strict=True)]


def _found(
    flat: Flat, lists: Lists, questions: NDArray[np.float32], itself: NDArray[np.int64], probes: int
) -> list[NDArray[np.int64]]:
    found = []
    for question, own in zip(questions, itself, strict=True):
        rows = lists.candidates(question, CANDIDATES, probes)
        found.append(_without(best(rows, flat.scores_of(rows, question), _DEPTH + 1)[1], own))
    return found


def _without(rows: NDArray[np.int64], own: int) -> NDArray[np.int64]:
    others: NDArray[np.int64] = rows[rows != own][:_DEPTH]
    return others


def _places(lists: Lists, questions: NDArray[np.float32], nearest: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return how many lists must be looked through to meet each of the rows nearest to each question."""
    places = []
    for question, rows in zip(questions, nearest, strict=True):
        turn = np.empty(lists.count, dtype=np.int64)
        turn[lists.ranked(question)[0]] = np.arange(1, lists.count + 1)
        places.append(turn[lists.list_of_row[rows]])
    return np.concatenate(places)


def _quantile(places: NDArray[np.int64], recall: float) -> int:
    return int(np.quantile(places, recall, method="higher"))


def _recall(found: list[NDArray[np.int64]], nearest: list[NDArray[np.int64]]) -> float:
    met = sum(len(np.intersect1d(some, true)) for some, true in zip(found, nearest, strict=True))
    return met / sum(len(true) for true in nearest)
