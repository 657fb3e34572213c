"""Is everything that this index holds what was written, and do its parts agree?

```
agreement.py   a generation and its library, row by row
derived.py     what a generation holds, and the same derived anew: columns, traits, pairs, words, vectors
leftovers.py   what killed processes left, and what stands where something else should
progress.py    how far a check has come
```
"""

from collections.abc import Callable, Iterator

from semsearch.encoders import Encoder, EncoderSpec
from semsearch.errors import OldFormatError, SemsearchError
from semsearch.generation import Generation, IndexFolder, current_generation, open_generation, open_staged
from semsearch.library import Library
from semsearch.verify.agreement import disagreements
from semsearch.verify.derived import other_when_derived
from semsearch.verify.leftovers import leftovers, misplaced, remove_leftovers
from semsearch.verify.progress import OnRows, passing_library

__all__ = ["OnRows", "disagreements", "leftovers", "misplaced", "passing_library", "problems", "remove_leftovers"]

FindEncoder = Callable[[EncoderSpec], Encoder]
"""Gives the encoder of a vector space.

:raises EncoderError: if it is not to be had.
"""


def problems(folder: IndexFolder, deep: FindEncoder | None = None, on_rows: OnRows | None = None) -> Iterator[str]:
    """Yield one line for everything that is damaged or disagrees; nothing for a sound index.

    Reads every row and vector of the library, every file of every generation, and compares the live generation with the
    library row by row: the same papers, bit-identical vectors, the same papers in the lexical index, columns that count
    the same. Changes nothing.

    :param deep: also derive anew what can be derived: the digests of texts, and of the live generation and a staged one
        columns, traits, pairs of one work, words, and, by this encoder, some vectors; and look for what killed
        processes left.
    :param on_rows: is told how far it has come.
    :raises IndexMissingError: if there is no index in the folder.
    """
    folder.check_exists()
    yield from misplaced(folder)
    found: dict[str, Generation] = {}
    yield from _unsound(folder, found, on_rows)
    try:
        with Library.open(folder.library) as library:
            for line in library.damage(passing_library(library, on_rows)):
                yield f"library: {line}"
            for name, generation in found.items():
                for line in disagreements(library, generation, on_rows):
                    yield f"{name}: {line}"
            if deep:
                yield from _deeper(library, found, deep)
    except SemsearchError as error:
        yield f"library: {error}"
    if deep:
        yield from (f"{path} was left by a process that was killed" for path in leftovers(folder))


def _unsound(folder: IndexFolder, sound: dict[str, Generation], on_rows: OnRows | None) -> Iterator[str]:
    """Yield what is wrong with the generations; put the live one and the staged one into `sound`, if they are."""
    named = current_generation(folder)
    if named is None and folder.published():
        yield f"CURRENT is missing or unreadable; publish again with: {folder.command}"
    if named and named[0] not in folder.published():
        yield f"generation {named[0]}, which CURRENT names, is missing; publish again with: {folder.command}"
    for number in folder.published():
        is_live = named is not None and number == named[0]
        if on_rows:
            on_rows(f"files of generation {number}", 0, 0)
        try:
            generation = open_generation(folder, number, named[1] if named and is_live else None)
        except OldFormatError as error:
            if is_live:  # else it waits to be removed, and is no loss
                yield f"generation {number}: {error}; make it anew, without encoding, with: {folder.command}"
        except SemsearchError as error:
            if folder.generation(number).exists():  # else it was removed for its age meanwhile
                yield f"generation {number}: {error}"
        else:
            if is_live:
                sound[f"generation {number}"] = generation
    if folder.staged.exists():
        try:
            sound["staged generation"] = open_staged(folder)
        except SemsearchError as error:
            if folder.staged.exists():  # else it has become the live one meanwhile
                yield f"staged generation: {error}"


def _deeper(library: Library, found: dict[str, Generation], encoder_of: FindEncoder) -> Iterator[str]:
    for line in library.disagreements():
        yield f"library: {line}"
    for name, generation in found.items():
        for line in other_when_derived(library, generation, encoder_of):
            yield f"{name}: {line}"
