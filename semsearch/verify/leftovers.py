"""What did killed processes leave in the folder of an index, and what stands where something else should?"""

import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from semsearch.durable import exclusive_lock
from semsearch.errors import IndexBusyError
from semsearch.generation import IndexFolder


def misplaced(folder: IndexFolder) -> Iterator[str]:
    """Yield one line if something that is no file stands where CURRENT should."""
    if folder.current.exists() and not folder.current.is_file():
        yield f"{folder.current} is no file, so nothing can be published; semsearch repair moves it aside"


def leftovers(folder: IndexFolder) -> list[Path]:
    """Return what no process is working on any more; nothing reads it, and it only takes room."""
    return [path for _, paths in _unused(folder) for path in paths]


def remove_leftovers(folder: IndexFolder) -> Iterator[Path]:
    """Remove what `leftovers` names, and what was begun under the reindex lock, which the caller holds; yield it."""
    for _, paths in _unused(folder):
        yield from _removed(paths)
    yield from _removed(_places(folder)[folder.reindex_lock])


def _places(folder: IndexFolder) -> dict[Path, list[Path]]:
    """Return what there is that only who holds a lock works on, by the lock."""
    begun = [path for path in folder.path.glob(f"{folder.library.name}-*") if path.is_dir()]
    places = {
        folder.publish_lock: [*folder.generations.glob("*.tmp"), folder.current.with_name("CURRENT.tmp")],
        folder.merge_lock: [folder.merging],
        folder.reindex_lock: [folder.staging, *begun],
    }
    return {lock: sorted(path for path in paths if path.exists()) for lock, paths in places.items()}


def _unused(folder: IndexFolder) -> Iterator[tuple[Path, list[Path]]]:
    """Yield each lock that nobody held, taken for as long, and what only its holder works on, if there is anything.

    Looked for once the lock is held: what was being written a moment before may have become live.
    """
    for lock in [lock for lock, paths in _places(folder).items() if paths]:
        with suppress(IndexBusyError), exclusive_lock(lock, "verify"):
            yield lock, _places(folder)[lock]


def _removed(paths: list[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
        yield path
