"""Is everything that this index holds what was written, and do its parts agree?"""

from collections.abc import Iterator

import numpy as np

from semsearch.errors import LibraryDamageError, NotEncodedError, SemsearchError
from semsearch.generation import Generation, IndexFolder, current_generation, open_generation
from semsearch.library import Library
from semsearch.publishing import check_made_from


def problems(folder: IndexFolder) -> Iterator[str]:
    """Yield one line for everything that is damaged or disagrees; nothing for a sound index.

    Reads every row and vector of the library, every file of every generation, and compares the live generation with the
    library row by row: the same papers, bit-identical vectors. Changes nothing.

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
    except (LibraryDamageError, NotEncodedError) as error:
        yield f"cannot be compared further with the library: {error}"
