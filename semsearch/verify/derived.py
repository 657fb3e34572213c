"""Is what a generation holds just what its papers give, when it is derived anew?"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import numpy as np
import xxhash
from numpy.typing import NDArray

from semsearch.columns import write_columns
from semsearch.encoders import Encoder, EncoderSpec
from semsearch.encoders.probes import LOWEST_COSINE
from semsearch.errors import DamageError, EncoderError, NotEncodedError
from semsearch.generation import Generation
from semsearch.lexical import LexicalIndex, write_lexical
from semsearch.library import Library
from semsearch.papers import Paper
from semsearch.publishing import papers_at
from semsearch.queries import Part
from semsearch.traits import Traits, write_traits
from semsearch.works import are_one_work, pairs_within

MOST_TERMS = 10_000
"""Words of the vocabulary that are looked up, chosen evenly; all of them in a small index."""
SAMPLE = 200
"""Papers that are encoded again, and of which ids, titles and authors are looked up, chosen evenly."""
_SHOWN = 20
_PAPERS_PER_BATCH = 16

_Item = TypeVar("_Item")


def other_when_derived(
    library: Library, generation: Generation, encoder_of: Callable[[EncoderSpec], Encoder]
) -> Iterator[str]:
    """Yield one line for everything that comes out otherwise."""
    try:
        yield from _segments(library, generation)
        yield from _pairs(generation)
        yield from _words(library, generation)
        yield from _vectors(library, generation, encoder_of)
    except (DamageError, NotEncodedError) as error:
        yield f"cannot be derived further: {error}"


def _segments(library: Library, generation: Generation) -> Iterator[str]:
    """Yield the segments whose columns or traits are not, byte for byte, those of their papers."""
    for segment in generation.segments:
        seqs = segment.seqs.tolist()
        if len(library.ids_at(seqs)) != len(seqs) or library.purged_among(seqs):
            continue  # of what was purged since, nothing can be derived; facets and ids are compared in any case
        folder = f"segments/{segment.name}"
        with TemporaryDirectory(prefix="semsearch-") as scratch:
            columns, traits = xxhash.xxh3_128(), xxhash.xxh3_128()
            write_columns((paper for _, paper in papers_at(library, seqs)), _into(columns), Path(scratch))
            write_traits((paper for _, paper in papers_at(library, seqs)), _into(traits))
        for name, digest in (("columns", columns), ("traits", traits)):
            if digest.hexdigest() != generation.manifest.files[f"{folder}/{name}.npy"].xxh3:
                yield f"the {name} of segment {segment.name} are not those of its papers"


def _into(digest: "xxhash.xxh3_128") -> Callable[[bytes], int]:
    def write(data: bytes) -> int:
        digest.update(data)
        return len(data)

    return write


def _pairs(generation: Generation) -> Iterator[str]:
    """Yield the pairs of live rows that are one work and not called so, or the other way round."""
    traits = Traits.joined([segment.traits for segment in generation.segments])
    held = _live_pairs(generation, generation.work_pairs)
    expected = _live_pairs(generation, pairs_within(traits).astype(np.int64))
    known = {tuple(pair) for pair in held.tolist()}
    missing = [pair for pair in expected.tolist() if tuple(pair) not in known]
    wrong = held[~are_one_work(traits.table[held[:, 0]], traits.table[held[:, 1]])].tolist() if held.size else []
    for pairs, what in ((missing, "are one work, and not called so"), (wrong, "are called one work, and are not")):
        for pair in pairs[:_SHOWN]:
            one, other = generation.ids_at(np.array(pair))
            yield f"{one!r} and {other!r} {what}"


def _live_pairs(generation: Generation, pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the pairs of live rows, the lower first; a dead row's pairs are of no account."""
    live: NDArray[np.int64] = np.sort(pairs[generation.live[pairs].all(axis=1)], axis=1)
    return live


def _words(library: Library, generation: Generation) -> Iterator[str]:
    """Yield the words, ids, titles and authors that find other papers than in a lexical index made anew."""
    live = generation.live_seqs()
    purged = np.array(library.purged_among(live.tolist()), dtype=np.int64)  # of these nothing can be derived
    seqs = np.setdiff1d(live, purged).tolist()
    if not seqs:
        return
    with TemporaryDirectory(prefix="semsearch-") as scratch:
        anew = write_lexical(Path(scratch) / "lexical", None, papers_at(library, seqs), ())
        held = generation.lexical
        terms = sorted({term for index in (anew, held) for term, _ in index.vocabulary()})
        wrong = [term for term in _evenly(terms, MOST_TERMS) if _differ(held.having(term), anew.having(term), purged)]
        yield from (f"the word {term!r} finds other papers than it should" for term in wrong[:_SHOWN])
        for seq, paper in papers_at(library, _evenly(seqs, SAMPLE)):
            if any(_differ(found, expected, purged) for found, expected in _looked_up(held, anew, paper)):
                yield f"id, title or an author of seq {seq} finds other papers than it should"


def _looked_up(
    held: LexicalIndex, anew: LexicalIndex, paper: Paper
) -> Iterator[tuple[NDArray[np.int64] | None, NDArray[np.int64] | None]]:
    yield held.named(paper.paper_id), anew.named(paper.paper_id)
    for part in (Part(paper.title, "title"), *(Part(author, "author") for author in paper.authors)):
        yield held.holding([part], every=True), anew.holding([part], every=True)


def _differ(found: NDArray[np.int64] | None, expected: NDArray[np.int64] | None, purged: NDArray[np.int64]) -> bool:
    if found is None or expected is None:
        return found is not expected
    return not np.array_equal(np.setdiff1d(found, purged), np.sort(expected))


def _vectors(library: Library, generation: Generation, encoder_of: Callable[[EncoderSpec], Encoder]) -> Iterator[str]:
    """Yield the papers, of some, whose vectors the encoder no longer gives."""
    live = generation.live_seqs().tolist()
    purged = set(library.purged_among(live))
    seqs = _evenly([seq for seq in live if seq not in purged], SAMPLE)
    try:
        encoder = encoder_of(generation.manifest.encoder)
        for start in range(0, len(seqs), _PAPERS_PER_BATCH):
            batch = seqs[start : start + _PAPERS_PER_BATCH]
            texts = [paper.text for _, paper in papers_at(library, batch)]
            found = encoder.encode_passages(encoder.tokenise(texts))
            kept = generation.vectors_at(generation.rows_of(np.array(batch)))
            cosines = np.einsum("nd,nd->n", found, kept)
            for seq, cosine in zip(batch, cosines.tolist(), strict=True):
                if not cosine >= LOWEST_COSINE:  # so that NaN is too low
                    yield f"its encoder gives the paper of seq {seq} another vector, with a cosine of {cosine:.4f}"
    except EncoderError as error:
        yield f"no vector can be compared with its encoder's: {error}"


def _evenly(items: Sequence[_Item], most: int) -> list[_Item]:
    places = np.linspace(0, len(items) - 1, min(most, len(items))).round().astype(int)
    return [items[place] for place in places]
