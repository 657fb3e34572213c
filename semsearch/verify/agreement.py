"""Do a generation and its library agree, row by row?"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from semsearch.columns import Columns, Facet, facets, write_columns
from semsearch.errors import LibraryDamageError, NotEncodedError
from semsearch.filters import fold_label
from semsearch.generation import Generation
from semsearch.library import Library
from semsearch.publishing import check_made_from, papers_at
from semsearch.queries import LexicalQuery, Part
from semsearch.verify.progress import OnRows, passing

_EVERY_VALUE = 2**31


def disagreements(library: Library, generation: Generation, on_rows: OnRows | None = None) -> Iterator[str]:
    """Yield one line for everything in which a generation is not what the library makes of it.

    :param on_rows: is told how many papers have been compared.
    :raises LibraryDamageError: if the library has lost changes.
    """
    manifest = generation.manifest
    check_made_from(library, generation)
    mine, theirs = generation.live_seqs(), library.all_live_seqs(manifest.last_seq)
    for seq in np.setdiff1d(theirs, mine)[:20]:
        yield f"the paper of seq {seq} is live in the library and cannot be found"
    unexpected = library.versions_at(np.setdiff1d(mine, theirs).tolist())  # without those purged since
    for seq in sorted(unexpected)[:20]:
        yield f"the paper of seq {seq} can be found and is not live in the library"
    number = library.known_encoder(manifest.encoder.fingerprint)
    if number is None:
        yield f"the library has no vectors of its encoder {manifest.encoder.name}"
        return
    common = np.intersect1d(mine, theirs)
    passed = passing("papers of the generation", len(common), on_rows)
    try:
        for seqs, vectors in library.vectors_at(common.tolist(), number):
            rows = generation.rows_of(seqs)
            different = np.flatnonzero((generation.vectors_at(rows) != vectors).any(axis=1))
            for position in different:
                yield f"the vector of seq {seqs[position]} is not the library's"
            ids = library.ids_at(seqs.tolist())
            for seq, paper_id in zip(seqs.tolist(), generation.ids_at(rows), strict=True):
                if ids[seq] != paper_id:
                    yield f"the paper of seq {seq} is {ids[seq]!r}, its columns call it {paper_id!r}"
            passed(len(seqs))
        yield from _wrong_words(generation, common)
        yield from _wrong_columns(library, generation, common)
    except (LibraryDamageError, NotEncodedError) as error:
        yield f"cannot be compared further with the library: {error}"


_SEQS_PER_LOOK = 65_536  # of which each is several objects of Python's for a moment


def _wrong_words(generation: Generation, seqs: NDArray[np.int64]) -> Iterator[str]:
    """Yield what the lexical index lacks; it holds as many papers as it should, or it could not have been opened."""
    word = (Part("the"),)
    queries = (LexicalQuery(required=word), LexicalQuery(excluded=word))  # one of them is met by every paper it holds
    lacking: list[int] = []
    for start in range(0, len(seqs), _SEQS_PER_LOOK):
        block = seqs[start : start + _SEQS_PER_LOOK]
        held = np.logical_or(*(generation.lexical.meeting(query, block) for query in queries))
        lacking += block[~held].tolist()
    yield from (f"the paper of seq {seq} is not in the lexical index" for seq in lacking[:20])


def _wrong_columns(library: Library, generation: Generation, seqs: NDArray[np.int64]) -> Iterator[str]:
    """Yield the facets that count other papers than columns made anew from the library."""
    among = np.zeros(generation.manifest.rows, dtype=np.bool_)
    among[generation.rows_of(seqs)] = True
    with TemporaryDirectory(prefix="semsearch-") as scratch:
        path = Path(scratch) / "columns.npy"
        with path.open("wb") as file:
            write_columns((paper for _, paper in papers_at(library, seqs.tolist())), file.write, Path(scratch))
        expected = facets([Columns(path)], np.ones(len(seqs), dtype=np.bool_), _EVERY_VALUE)
    found = generation.facets(among, _EVERY_VALUE)
    for name, facet in expected.items():
        differing = (_counts(facet) - _counts(found[name])) + (_counts(found[name]) - _counts(facet))
        for value in sorted(differing)[:20]:
            yield f"its columns count other papers of {name} {value!r} than the library"


def _counts(facet: Facet) -> Counter[str]:
    return Counter({fold_label(each.value): each.count for each in facet.values})  # of one label, any spelling
