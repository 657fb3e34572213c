"""Is everything that this index holds what was written, and do its parts agree?"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from semsearch.columns import Columns, Facet, facets, write_columns
from semsearch.errors import LibraryDamageError, NotEncodedError, OldFormatError, SemsearchError
from semsearch.filters import fold_label
from semsearch.generation import Generation, IndexFolder, current_generation, open_generation
from semsearch.library import Library
from semsearch.publishing import check_made_from, papers_at
from semsearch.queries import LexicalQuery, Part

_EVERY_VALUE = 2**31


def problems(folder: IndexFolder) -> Iterator[str]:
    """Yield one line for everything that is damaged or disagrees; nothing for a sound index.

    Reads every row and vector of the library, every file of every generation, and compares the live generation with the
    library row by row: the same papers, bit-identical vectors, the same papers in the lexical index, columns that count
    the same. Changes nothing.

    :raises IndexMissingError: if there is no index in the folder.
    """
    folder.check_exists()
    live = None
    named = current_generation(folder)
    if named is None and folder.published():
        yield f"CURRENT is missing or unreadable; publish again with: {folder.command}"
    if named and named[0] not in folder.published():
        yield f"generation {named[0]}, which CURRENT names, is missing; publish again with: {folder.command}"
    for number in folder.published():
        is_live = named is not None and number == named[0]
        try:
            generation = open_generation(folder, number, named[1] if named and is_live else None)
        except OldFormatError as error:
            if is_live:  # else it waits to be removed, and is no loss
                yield f"generation {number}: {error}; make it anew, without encoding, with: {folder.command}"
        except SemsearchError as error:
            if folder.generation(number).exists():  # else it was removed for its age meanwhile
                yield f"generation {number}: {error}"
        else:
            live = generation if is_live else live
    try:
        with Library.open(folder.library) as library:
            for line in library.damage():
                yield f"library: {line}"
            if live:
                for line in _disagreements(library, live):
                    yield f"generation {live.manifest.generation}: {line}"
    except SemsearchError as error:
        yield f"library: {error}"


def _disagreements(library: Library, generation: Generation) -> Iterator[str]:
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
        yield from _wrong_words(generation, common)
        yield from _wrong_columns(library, generation, common)
    except (LibraryDamageError, NotEncodedError) as error:
        yield f"cannot be compared further with the library: {error}"


def _wrong_words(generation: Generation, seqs: NDArray[np.int64]) -> Iterator[str]:
    """Yield what the lexical index lacks; it holds as many papers as it should, or it could not have been opened."""
    word = (Part("the"),)
    queries = (LexicalQuery(required=word), LexicalQuery(excluded=word))  # one of them is met by every paper it holds
    held = np.logical_or(*(generation.lexical.meeting(query, seqs) for query in queries))
    for seq in seqs[~held][:20]:
        yield f"the paper of seq {seq} is not in the lexical index"


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
