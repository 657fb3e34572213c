"""Does a generation still answer as it did when it was published?

A few of its own vectors are asked, and what they found is kept in the manifest.
"""

import base64
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from semsearch.errors import GenerationDamageError, SemsearchError
from semsearch.generation.drafts import Draft
from semsearch.generation.generation import Generation
from semsearch.generation.segment import Segment
from semsearch.manifest import Canary

_CANARIES = 4
_CANARY_DEPTH = 10
_CANARY_TOLERANCE = 1e-5
_MISSING_IF_APPROXIMATE = 2  # another version of FAISS may estimate a little differently


def check_canary(generation: Generation, canary: Canary) -> None:
    """Do nothing if the query gets the same answer as when the generation was published.

    :raises GenerationDamageError: if not.
    """
    seqs, scores = _canary_answer(generation, _vector_of(canary))
    known, found = (dict(zip(*answer, strict=True)) for answer in ((canary.seqs, canary.scores), (seqs, scores)))
    worst = canary.scores[-1] + 2 * _CANARY_TOLERANCE  # what ties with the last place may change places with it
    missing = [seq for seq, score in known.items() if score > worst and seq not in found]
    other = [seq for seq in known.keys() & found.keys() if abs(known[seq] - found[seq]) > _CANARY_TOLERANCE]
    if not generation.manifest.approximate and not np.allclose(scores, canary.scores, rtol=0, atol=_CANARY_TOLERANCE):
        other = list(known)
    if len(scores) != len(canary.scores) or other:
        raise GenerationDamageError("a canary query gets other scores than when it was published")
    if len(missing) > (_MISSING_IF_APPROXIMATE if generation.manifest.approximate else 0):
        raise GenerationDamageError("a canary query gets other papers than when it was published")


def canaries_of(generation: Generation, draft: Draft) -> tuple[Canary, ...]:
    """Return the canaries of a generation that is being written, asked.

    Where little is new, they are the parent's: what the files that both have answer is known, so only the new segment
    is asked, and whether its own rows are found in it. So a small addition to many papers need not scan them all. Lists
    of which rows have died may be looked through otherwise, and miss what they found: then they are made anew.
    """
    parent = draft.parent
    if parent is None or 2 * draft.added.rows > generation.manifest.rows or _answers_lost(generation, parent):
        return tuple(make_canaries(generation))
    canaries = parent.manifest.canaries
    if draft.added.rows:
        new = generation.segments[-1]
        for vector in new.vectors.at(_spread(new.rows)):
            _check_finds_itself(vector, new.vectors.nearest(vector[None, :], 1, None)[0][0, 0])
        canaries = tuple(_with_answers_of(new, canary, generation.papers) for canary in canaries)
    if generation.manifest.approximate and not all(_answers_so(generation, canary) for canary in canaries):
        return tuple(make_canaries(generation))
    return canaries


def _answers_so(generation: Generation, canary: Canary) -> bool:
    try:
        check_canary(generation, canary)
    except GenerationDamageError:
        return False
    return True


def _answers_lost(generation: Generation, parent: Generation) -> bool:
    """Return whether the parent's canaries no longer tell the nearest live rows of what both hold."""
    canaries = parent.manifest.canaries
    answers = np.array([seq for canary in canaries for seq in canary.seqs], dtype=np.int64)
    revived = generation.is_live(generation.rows_of(parent.seqs_at(parent.tombstones)))
    return not canaries or bool(revived.any()) or not generation.is_live(generation.rows_of(answers)).all()


def _with_answers_of(segment: Segment, canary: Canary, papers: int) -> Canary:
    scores, rows = segment.vectors.nearest(_vector_of(canary)[None, :], min(_CANARY_DEPTH, segment.rows), None)
    known = dict(zip(canary.seqs, canary.scores, strict=True))
    new = dict(zip(segment.seqs[rows[0]].tolist(), scores[0].tolist(), strict=True))
    best = sorted((known | new).items(), key=lambda found: -found[1])[: min(_CANARY_DEPTH, papers)]
    return Canary(canary.vector, tuple(seq for seq, _ in best), tuple(score for _, score in best))


def make_canaries(generation: Generation) -> Iterator[Canary]:
    """Ask a few of a generation's own vectors; yield what they find.

    :raises SemsearchError: if one does not find itself.
    """
    live = np.delete(np.arange(generation.manifest.rows), generation.tombstones)
    if not live.size:
        return
    for vector in generation.vectors_at(live[_spread(live.size)]):
        seqs, scores = _canary_answer(generation, vector)
        _check_finds_itself(vector, scores[0])
        yield Canary(base64.b64encode(vector.astype("<f4").tobytes()).decode(), seqs, scores)


def _spread(rows: int) -> NDArray[np.int64]:
    """Return a few of so many rows, the first and the last among them."""
    return np.unique(np.linspace(0, rows - 1, _CANARIES).astype(np.int64))


def _check_finds_itself(vector: NDArray[np.float32], best_score: float) -> None:
    own = float(vector @ vector)  # a longer vector of the same direction may score more
    if best_score < own - _CANARY_TOLERANCE:
        raise SemsearchError(
            f"a stored vector's nearest row has score {best_score}, not {own}: the segment is unusable"
        )


def _vector_of(canary: Canary) -> NDArray[np.float32]:
    return np.frombuffer(base64.b64decode(canary.vector), dtype="<f4")


def _canary_answer(generation: Generation, vector: NDArray[np.float32]) -> tuple[tuple[int, ...], tuple[float, ...]]:
    scores, rows = generation.nearest(vector[None, :], _CANARY_DEPTH)
    if (rows < 0).any():  # fewer found than there are
        raise GenerationDamageError("some of its vectors are not numbers")
    return tuple(generation.seqs_at(rows[0]).tolist()), tuple(scores[0].tolist())
