"""What does the best hit of a question score that means nothing, and is this answer any better?

Whatever is asked, something is nearest. So a generation is asked word salads, words drawn from its own vocabulary, and
an answer is weak whose best hit scores less than half of the salads' best hits do. Salads and not noise: noise comes
near to nothing, and a salad as near as one can by using the words of the field without saying anything.

Searching by words alone has no such flag: there a salad scores what many a good question does.
"""

import logging
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from semsearch.encoders import Encoder, checked
from semsearch.generation import Generation
from semsearch.lexical import LexicalIndex, spellings
from semsearch.library import Library
from semsearch.manifest import WeakBelow
from semsearch.queries import LexicalQuery, Part, parse_query
from semsearch.ranking import Mode, Question, Ranker, Ranking

logger = logging.getLogger(__name__)

FEWEST_PAPERS = 100
"""In fewer nothing is measured: they have too few words to draw from."""

_LENGTHS = (1, 2, 3, 4, 6, 8, 12)  # words of a salad, as people type
_SALADS_PER_LENGTH = 43
_SEED = 0
_PAPERS_PER_WORD = 5_000  # one of them at least must hold a word, and three in all: what is rarer is often a slip
_FEWEST_PAPERS_OF_A_WORD = 3
_FEWEST_LETTERS = 3
_FEWEST_WORDS = 200
_WINDOW = 50  # of each leg; with 10 or 1,000 every threshold measured was the same
_CHANGED = 0.25
_LOOKED_AT_FOR_AUTHORS = 10


# When a generation is published


def is_due(known: WeakBelow | None, papers: int) -> bool:
    """Return whether what is known of a generation has to be measured anew, now that it has so many papers."""
    return papers >= FEWEST_PAPERS and (known is None or abs(papers - known.papers) > _CHANGED * known.papers)


def measured(library: Library, generation: Generation, encoder: Encoder) -> WeakBelow:
    """Return which best scores are no better than chance in this generation: the medians over the salads.

    :raises EncoderError: if the encoder is not to be had, or gives unusable vectors.
    """
    salads = word_salads(library, generation.lexical)
    if not salads:
        return WeakBelow(generation.papers, {})
    vectors = checked(encoder.encode_queries(salads), len(salads), encoder.spec.dimension)
    scores = best_scores(generation, [parse_query(salad) for salad in salads], vectors)
    medians = {mode: round(float(np.median(each)), 6) for mode, each in scores.items()}
    logger.info("half of %d word salads score more than %s", len(salads), medians)
    return WeakBelow(generation.papers, medians)


def word_salads(library: Library, lexical: LexicalIndex) -> list[str]:
    """Return questions that mean nothing, of each length as many, the same for the same papers; none without words.

    Every word is drawn as likely as any other, however many papers hold it, and is spelled as in one of them.
    """
    terms = list(_vocabulary(lexical))
    if len(terms) < _FEWEST_WORDS:
        return []
    chance = np.random.default_rng(_SEED)
    drawn = [
        [terms[place] for place in chance.integers(len(terms), size=length)]
        for length in _LENGTHS
        for _ in range(_SALADS_PER_LENGTH)
    ]
    spelled = _spelled(library, lexical, sorted({term for salad in drawn for term in salad}))
    return [" ".join(spelled.get(term, term) for term in salad) for salad in drawn]


def _vocabulary(lexical: LexicalIndex) -> Iterator[str]:
    """Yield the terms that are words, neither rare nor held by more than half of all papers."""
    fewest = max(_FEWEST_PAPERS_OF_A_WORD, lexical.papers / _PAPERS_PER_WORD)
    for term, holding in lexical.vocabulary():
        if fewest <= holding <= lexical.papers / 2 and len(term) >= _FEWEST_LETTERS and term.isalpha():
            yield term


def _spelled(library: Library, lexical: LexicalIndex, terms: Sequence[str]) -> dict[str, str]:
    """Return how a paper that holds a term, which is a stem, spells it first; terms of purged papers are missing."""
    examples = {term: seq for term in terms if (seq := lexical.example_of(term)) is not None}
    versions = library.versions_at(sorted(set(examples.values())))
    texts = {seq: spellings(version.paper.text.lower()) for seq, version in versions.items()}
    return {term: texts[seq][term] for term, seq in examples.items() if term in texts.get(seq, {})}


def best_scores(
    generation: Generation, queries: Sequence[LexicalQuery], vectors: NDArray[np.float32]
) -> dict[str, NDArray[np.float64]]:
    """Return what the best hit of each query scores, as `Ranking.best` tells it, by the modes that have the flag.

    :param vectors: of the queries, shape (n, dimension); they share one scan.
    """
    _, rows = generation.nearest(vectors, _WINDOW)
    hybrid, dense = (
        [
            Ranker(generation, Question(vector, words)).ranked(_WINDOW, nearest).best
            for vector, words, nearest in zip(vectors, asked, rows, strict=True)
        ]
        for asked in (queries, [None] * len(queries))
    )
    return {"hybrid": np.array(hybrid), "dense": np.array(dense)}


# When a question is answered


def is_weak(generation: Generation, asked: LexicalQuery, mode: Mode, ranking: Ranking) -> bool | None:
    """Return whether nothing in this ranking is a good answer; None where that is not known.

    An answer is never weak that meets what the query demanded, if it does nothing but demand, or that names an author
    or a paper by the query's words.
    """
    if not len(ranking.rows):
        return True
    if not asked.words:
        return False
    known = generation.manifest.weak_below
    if known is None or mode not in known.scores:
        return None
    return ranking.best < known.scores[mode] and not _names_an_author(generation, asked, ranking)


def _names_an_author(generation: Generation, asked: LexicalQuery, ranking: Ranking) -> bool:
    """Return whether one of the first papers has an author with all these words in the name."""
    author = LexicalQuery(required=(Part(asked.text, "author"),))
    seqs = generation.seqs_at(ranking.rows[:_LOOKED_AT_FOR_AUTHORS])
    return bool(generation.lexical.meeting(author, seqs).any())
