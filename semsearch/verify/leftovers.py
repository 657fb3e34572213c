"""What did killed processes leave in the folder of an index, and what stands where something else should?"""

from collections.abc import Iterator
from pathlib import Path

from semsearch.durable import exclusive_lock
from semsearch.errors import IndexBusyError
from semsearch.generation import IndexFolder


def misplaced(folder: IndexFolder) -> Iterator[str]:
    """Yield one line if something that is no file stands where CURRENT should."""
    if folder.current.exists() and not folder.current.is_file():
        yield f"{folder.current} is no file, so nothing can be published; semsearch repair moves it aside"


def leftovers(folder: IndexFolder) -> Iterator[Path]:
    """Yield what no process is working on any more; nothing reads it, and it only takes room."""
    for lock, paths in (
        (folder.publish_lock, [*folder.generations.glob("*.tmp"), folder.current.with_name("CURRENT.tmp")]),
        (folder.merge_lock, [folder.merging]),
        (folder.reindex_lock, [folder.staging, *_begun_libraries(folder)]),
    ):
        there = [path for path in paths if path.exists()]
        if there and not _is_held(lock):
            yield from sorted(there)


def _begun_libraries(folder: IndexFolder) -> list[Path]:
    return [path for path in folder.path.glob(f"{folder.library.name}-*") if path.is_dir()]


def _is_held(lock: Path) -> bool:
    try:
        with exclusive_lock(lock, "verify"):
            return False
    except IndexBusyError:
        return True
