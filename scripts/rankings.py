"""Ways to make one score of what both legs know of a candidate."""

import numpy as np
from judged_legs import Candidates, Floats, Fusion
from numpy.typing import NDArray

DENSE_WEIGHT = 0.5
FEEDBACK_PAPERS, FEEDBACK_SHARPNESS, FEEDBACK_WEIGHT = 10, 30.0, 0.5


def dense_only(found: Candidates) -> Floats:
    """Return the cosines of the dense leg's window."""
    return np.where(np.isfinite(found.dense_rank), found.cosine, -np.inf)


def lexical_only(found: Candidates) -> Floats:
    """Return the BM25 of the lexical leg's window."""
    return np.where(np.isfinite(found.lexical_rank), found.bm25, -np.inf)


def reciprocal_rank(found: Candidates, k: int = 60) -> Floats:
    """Return the sum of 1 / (k + rank) (Cormack, Clarke and Büttcher, 2009)."""
    return 1 / (k + found.dense_rank) + 1 / (k + found.lexical_rank)


def min_max(found: Candidates) -> Floats:
    """Return the sum of both legs' scores, each scaled from its window's least to its greatest; missing is 0."""
    return _scaled(found.cosine, np.isfinite(found.dense_rank)) + _scaled(found.bm25, np.isfinite(found.lexical_rank))


def _scaled(scores: Floats, inside: NDArray[np.bool_]) -> Floats:
    if not inside.any():
        return np.zeros_like(scores)
    least, greatest = scores[inside].min(), scores[inside].max()
    scaled: Floats = np.where(inside, (scores - least) / max(float(greatest - least), 1e-9), 0.0)
    return scaled


def by_maximum(found: Candidates) -> Floats:
    """Return the sum of both legs' scores, each divided by its greatest."""
    return found.cosine / max(float(found.cosine.max()), 1e-9) + found.bm25 / max(float(found.bm25.max()), 1e-9)


def weighted_share(weight: float) -> Fusion:
    """Return the fusion weight * cosine + (1 - weight) * share."""
    return lambda found: weight * found.cosine + (1 - weight) * found.share


def with_feedback(found: Candidates, weight: float = DENSE_WEIGHT, rounds: int = 1) -> Floats:
    """Return the recipe's score for a query moved towards its best papers (Rocchio, 1971), over the same candidates.

    The papers weigh as the softmax of their scores, so that a clear winner counts for more than its followers.
    """
    scores = weighted_share(weight)(found)
    for _ in range(rounds):
        scores = weight * (found.vectors @ moved(found, scores)) + (1 - weight) * found.share
    return scores


def moved(found: Candidates, scores: Floats) -> NDArray[np.float64]:
    """Return the query's vector moved towards the papers of the highest scores, of unit length."""
    best = np.argsort(-scores, kind="stable")[:FEEDBACK_PAPERS]
    weights = np.exp(FEEDBACK_SHARPNESS * (scores[best] - scores[best[0]]))
    towards: NDArray[np.float64] = found.query + FEEDBACK_WEIGHT * (weights / weights.sum()) @ found.vectors[best]
    return towards / np.linalg.norm(towards)
