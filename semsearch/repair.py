"""How does a damaged index become sound again, without encoding what is there?

Everything but the library is derived, so it is made anew from the library; in the library itself, SQLite's indexes are
made anew from the rows, and embeddings that are damaged are computed again. A damaged version of a paper is told by its
id and left as it is: nothing here can say what it was. Whatever is not sound is moved to quarantine, never removed, and
repairing what is repaired does nothing.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from semsearch.additions import encode_strays
from semsearch.durable import exclusive_lock
from semsearch.encoders import DEFAULT_MODEL, Encoder, EncoderSpec, LazyEncoder, find_model
from semsearch.errors import DamageError, EncoderError, NoGenerationError, OldFormatError, SemsearchError
from semsearch.generation import (
    Generation,
    IndexFolder,
    last_spec,
    open_current,
    open_generation,
    open_staged,
    set_aside,
)
from semsearch.library import Library
from semsearch.publishing import PUBLISH_WAIT_SECONDS, model_of, publish_anew, publish_pending
from semsearch.verify import OnRows, disagreements, misplaced, passing_library, problems, remove_leftovers

_LOCK_WAIT_SECONDS = 2.0
_ANY_NUMBER = 2**62


@dataclass(frozen=True, slots=True)
class Repaired:
    """What was done, a line each, and what is not sound still; none of both for an index that was sound."""

    done: tuple[str, ...]
    left: tuple[str, ...]


def encoder_of(folder: IndexFolder, device: str | None = None) -> Callable[[EncoderSpec], Encoder]:
    """Return what gives the encoder of a vector space, for this index.

    :returns: a function that raises EncoderError if the model is not to be had, or makes another vector space now.
    """

    def found(spec: EncoderSpec) -> Encoder:
        model = find_model(spec.name, folder.networks)
        if model.spec.fingerprint != spec.fingerprint:
            raise EncoderError(f"{spec.name} now gives another vector space than the one that the index was made with")
        return LazyEncoder(model, device)

    return found


def repair(
    folder: IndexFolder,
    encoder: Callable[[EncoderSpec], Encoder],
    *,
    anew: bool = False,
    on_rows: OnRows | None = None,
) -> Repaired:
    """Make sound what can be, and tell what was done and what is left.

    :param encoder: gives the encoder of a vector space, for embeddings that have to be computed again.
    :param anew: make the live generation anew although nothing is found wrong with it.
    :param on_rows: is told how far its reading has come, first of what may have to be mended, then of what there is.
    :raises IndexMissingError: if there is no index in the folder.
    :raises IndexBusyError: if a reindex of this index is running.
    """
    folder.check_exists()
    done: list[str] = []
    trouble = ""
    with exclusive_lock(folder.reindex_lock, "repair", _LOCK_WAIT_SECONDS):
        try:
            for line in chain(_tidied(folder), _mended(folder, encoder, anew, on_rows)):
                done.append(line)
        except SemsearchError as error:  # what it is shall not keep the rest from being told
            trouble = str(error)
    left = list(problems(folder, on_rows=on_rows))
    if trouble and not any(trouble in line for line in left):
        left.append(trouble)
    return Repaired(tuple(done), tuple(left))


def _tidied(folder: IndexFolder) -> Iterator[str]:
    """Put away what does not belong there, and what is damaged of what can be made anew; yield what that was."""
    with exclusive_lock(folder.publish_lock, "repair", PUBLISH_WAIT_SECONDS):
        if any(misplaced(folder)):
            yield f"moved what stood in the place of CURRENT to {set_aside(folder, folder.current)}"
    for path in remove_leftovers(folder):
        yield f"removed {path}, which a killed process had left"
    with exclusive_lock(folder.publish_lock, "repair", PUBLISH_WAIT_SECONDS):
        for path, error in _damaged(folder):
            yield f"moved {path.name}, which is damaged ({error}), to {set_aside(folder, path)}"


def _damaged(folder: IndexFolder) -> list[tuple[Path, DamageError]]:
    """Return the generations, staged or not, that are damaged, and how."""
    found: list[tuple[Path, DamageError]] = []
    openers: list[tuple[Path, Callable[[], Generation]]] = [
        (folder.generation(number), lambda number=number: open_generation(folder, number))  # type: ignore[misc]
        for number in folder.published()
    ]
    if folder.staged.exists():
        openers.append((folder.staged, lambda: open_staged(folder)))
    for path, opened in openers:
        try:
            opened()
        except OldFormatError:
            continue  # neither damaged nor served
        except DamageError as error:
            found.append((path, error))
    return found


def _mended(
    folder: IndexFolder, encoder: Callable[[EncoderSpec], Encoder], anew: bool, on_rows: OnRows | None
) -> Iterator[str]:
    """Mend the library, and publish what it makes where the live generation is not that; yield what was done."""
    before = last_spec(folder)  # of what was moved to quarantine, if it must be
    with Library.open(folder.library) as library:
        mended = library.mend(passing_library(library, on_rows))
        yield from mended.done
        if not library.last_seq():
            return
        spec = before or _main_spec(folder, library)
        number = library.encoder_number(spec.fingerprint, spec.name)
        if lacking := library.unencoded_seqs(number, 0, library.last_seq()).size:
            encode_strays(library, encoder(spec), 0, _ANY_NUMBER)
            yield f"encoded for {spec.name} {lacking:,} papers that had no sound embedding"
        try:
            live = open_current(folder)
        except NoGenerationError:
            live = None
        agrees = live and not any(disagreements(library, live, on_rows))
        if live and agrees and not anew:
            published = publish_pending(folder, library, live.manifest.encoder, live)
            if published is not live:
                yield _told(published)
            return
        known = live.manifest.weak_below if live and live.manifest.encoder.fingerprint == spec.fingerprint else None
        yield _told(publish_anew(folder, library, spec, known))
        if live and not agrees:
            with exclusive_lock(folder.publish_lock, "repair", PUBLISH_WAIT_SECONDS):
                moved = set_aside(folder, live.folder)
            yield f"moved generation {live.manifest.generation}, which was not what the library makes, to {moved}"


def _main_spec(folder: IndexFolder, library: Library) -> EncoderSpec:
    """Return the vector space that the index is made with, or else that most embeddings of the library are of."""
    return find_model(model_of(folder, library) or DEFAULT_MODEL, folder.networks).spec


def _told(generation: Generation) -> str:
    return f"published generation {generation.manifest.generation} with {generation.papers:,} papers from the library"
