"""How is an index copied while it is used, and how does a copy take the place of one?

A copy is an index: the library as it was at one moment, the generation that was live, and what the encoder needs. It is
made under another name, checked as `semsearch verify` checks, and only then gets its own. Generations that are staged
or older are left out: the library makes them again.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from semsearch.durable import (
    CheckedWriter,
    FileRecord,
    exchange_folders,
    exclusive_lock,
    make_folder,
    replace_file,
    sync_folder,
    sync_tree,
)
from semsearch.errors import DamageError, GenerationDamageError, SemsearchError
from semsearch.generation import Generation, IndexFolder, current_generation, open_generation
from semsearch.generation.folder import MANIFEST, current_line
from semsearch.library import Library
from semsearch.verify import problems

_BLOCK_BYTES = 1 << 20
_LOCK_WAIT_SECONDS = 2.0

OnProgress = Callable[[int, int], None]


def backup(folder: IndexFolder, to: Path, on_progress: OnProgress | None = None) -> None:
    """Copy the index into a new folder, while others may go on to write and to serve it.

    :param on_progress: is told how many pages of the library are copied, of how many.
    :raises SemsearchError: if there is something in the place already, or the copy is not sound.
    """
    to = to.absolute()
    if os.path.lexists(to):
        raise SemsearchError(f"{to} exists already, and a backup never goes over anything; name a new folder")
    with _checked_copy(folder, to, on_progress) as copy:
        copy.rename(to)
        sync_folder(to.parent)


def restore(
    backup: IndexFolder, to: Path, *, aside: bool = False, on_progress: OnProgress | None = None
) -> Path | None:
    """Put a copy of a backup into the place of an index; return where what stood there is now, None if nothing did.

    It takes one step: whoever looks finds the old index or the whole of the new one.

    :param aside: move what stands there aside; else nothing but an empty folder may.
    :raises SemsearchError: if something stands there, or the backup is not sound.
    :raises IndexBusyError: if the index in the place is being written.
    """
    to = to.resolve()
    occupied = to.exists() and (not to.is_dir() or any(to.iterdir()))
    if occupied and not aside:
        raise SemsearchError(f"{to} is not empty, and nothing is written over; move it aside with --aside")
    with _checked_copy(backup, to, on_progress) as copy:
        if not occupied:
            copy.rename(to)
            sync_folder(to.parent)
            return None
        moved = to.with_name(f"{to.name}-{_now()}")
        with _nobody_writing(IndexFolder(to)):
            try:
                exchange_folders(copy, to)
            except OSError as error:
                raise SemsearchError(
                    f"{to} and a copy of the backup cannot be exchanged in one step ({error}); "
                    "move it away by hand, and restore into its place"
                ) from error
        sync_folder(to.parent)
        copy.rename(moved)
        sync_folder(to.parent)
        return moved


@contextmanager
def _nobody_writing(folder: IndexFolder) -> Iterator[None]:
    with ExitStack() as stack:
        for lock in (folder.reindex_lock, folder.merge_lock, folder.publish_lock):
            stack.enter_context(exclusive_lock(lock, "restore", _LOCK_WAIT_SECONDS))
        yield


@contextmanager
def _checked_copy(folder: IndexFolder, to: Path, on_progress: OnProgress | None) -> Iterator[Path]:
    """Give a sound copy of the index beside the place where it shall stand; remove it if it is left there."""
    folder.check_exists()
    make_folder(to.parent)
    copy = to.with_name(f"{to.name}.partial-{_now()}")
    copy.mkdir()
    made = copy.stat()
    try:
        _copy(folder, IndexFolder(copy), on_progress)
        if found := list(problems(IndexFolder(copy))):
            raise DamageError(
                f"the copy of {folder.path} is not sound, as that is not, so it was not kept: {'; '.join(found[:5])}; "
                f"see semsearch verify --index {folder.path}, and semsearch repair"
            )
        yield copy
    finally:
        if copy.exists() and os.path.samestat(copy.stat(), made):  # and not the old index, which has got its name
            shutil.rmtree(copy, ignore_errors=True)


def _now() -> str:
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}"


def _copy(folder: IndexFolder, copy: IndexFolder, on_progress: OnProgress | None) -> None:
    """Copy the generation first: the library then holds all that it was made from."""
    generation = _copied_generation(folder, copy)
    if folder.networks.is_dir():
        _copy_tree(folder.networks, copy.networks)
    with Library.open(folder.library) as library:
        library.copy_to(copy.library, on_progress)
    if generation:
        replace_file(copy.current, current_line(*generation.name, generation.manifest.encoder.fingerprint))
    sync_tree(copy.path)


def _copied_generation(folder: IndexFolder, copy: IndexFolder) -> Generation | None:
    """Copy the live generation, if there is one; a newer one, if it is removed for its age before it is open."""
    while named := current_generation(folder):
        try:
            generation = open_generation(folder, *named)
            with ExitStack() as stack:  # what is open stays there, whatever is removed
                names = [*generation.manifest.files, MANIFEST]
                files = {name: stack.enter_context((generation.folder / name).open("rb")) for name in names}
                for name, file in files.items():
                    record = _written(copy.generation(named[0]) / name, file)
                    if record != generation.manifest.files.get(name, record):
                        raise GenerationDamageError(f"{name} is not what was written")
            return generation
        except (FileNotFoundError, DamageError) as error:
            if current_generation(folder) == named:
                raise DamageError(
                    f"generation {named[0]} of {folder.path} is damaged ({error}), so nothing was copied; make it anew "
                    f"from its library with: semsearch repair --index {folder.path}"
                ) from error
    if folder.published():
        raise DamageError(
            f"{folder.current} is missing or unreadable, so nothing was copied; write it anew with: "
            f"semsearch repair --index {folder.path}"
        )
    return None


def _copy_tree(source: Path, target: Path) -> None:
    for path in sorted(source.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                _written(target / path.relative_to(source), file)


def _written(path: Path, file: BinaryIO) -> FileRecord:
    make_folder(path.parent)
    with CheckedWriter(path) as writer:
        while block := file.read(_BLOCK_BYTES):
            writer.write(block)
    return writer.record
