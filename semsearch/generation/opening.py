"""Which generation can serve, and is every file of it what was written?"""

import hashlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path

from semsearch.arrays import load_array
from semsearch.durable import FileRecord, digest_differs, exclusive_lock, size_differs, sync_folder
from semsearch.encoders.model import EncoderSpec
from semsearch.errors import GenerationDamageError, IndexBusyError, NoGenerationError, OldFormatError, SemsearchError
from semsearch.generation.canaries import check_canary
from semsearch.generation.folder import (
    LEXICAL,
    MANIFEST,
    NOT_DAMAGE,
    TOMBSTONES,
    WORKS,
    IndexFolder,
    current_generation,
    current_space,
)
from semsearch.generation.generation import Generation
from semsearch.generation.segment import Segment, check_segment
from semsearch.lexical import LexicalIndex
from semsearch.manifest import Manifest

logger = logging.getLogger(__name__)

_WORTH_THREADS = 64 << 20  # bytes to read
READ_BEFORE_ANSWERING = 2 << 30  # bytes; more would keep a service from answering for too long
STAGED = 0
"""The number of a generation that is staged: it gets one of its own when it is published."""

_NOT_AS_IT_SHOULD_BE = (ValueError, RuntimeError, IndexError, TypeError, AssertionError)
"""What numpy, FAISS and our own unpacking raise on files and manifests that say something impossible."""


def open_current(
    folder: IndexFolder, reuse: Generation | None = None, *, publishing: bool = False, whole: bool = True
) -> Generation:
    """Return the live generation, verified; where it is damaged, the newest older one that is not, loudly.

    Only one of the same vector space stands in for it: damage shall not change the model.

    Damaged generations are moved to quarantine if nobody else is publishing; `publishing` says that the caller is, and
    holds the lock. Segments that `reuse` has open already, and that are the same files, are shared, not read again.

    :param whole: read every file, however large the generation is; see `open_generation`.
    :raises NoGenerationError: if none can serve.
    """
    folder.check_exists()
    named = current_generation(folder)
    candidates = folder.published()
    if named:
        candidates = [named[0], *(number for number in candidates if number < named[0])]
    damaged: list[tuple[int, str]] = []
    old: list[str] = []
    space = current_space(folder)  # which a damaged manifest no longer tells
    for number in candidates:
        if space and space_of(folder, number) not in (None, space):
            old.append(f"generation {number}: it was made with another model")
            continue
        expected = named[1] if named and number == named[0] else None
        try:
            generation = open_generation(folder, number, expected, reuse, whole=whole)
        except OldFormatError as error:
            old.append(f"generation {number}: {error}")
            continue
        except GenerationDamageError as error:
            if current_generation(folder) != named:  # it may have been removed for its age, while it was read
                return open_current(folder, reuse, publishing=publishing, whole=whole)
            logger.error("generation %d in %s is damaged: %s", number, folder.path, error)
            space = space or space_of(folder, number)
            damaged.append((number, str(error)))
            continue
        if damaged or not named:
            logger.error("serving generation %d instead", number)
        _quarantine(folder, [number for number, _ in damaged], publishing)
        return generation
    if publishing:  # what follows is a rebuild, and the damaged ones must not count as something to fall back on
        _quarantine(folder, [number for number, _ in damaged], publishing)
    if damaged or old:
        reasons = "; ".join([*(f"generation {number}: {reason}" for number, reason in damaged), *old])
        raise NoGenerationError(
            f"no generation in {folder.path} can serve ({reasons}); make it anew, without encoding, with: "
            f"{folder.command}"
        )
    raise NoGenerationError(
        f"nothing is published in {folder.path} yet; publish what the library holds with: {folder.command}"
    )


def open_generation(
    folder: IndexFolder,
    number: int,
    manifest_sha256: str | None = None,
    reuse: Generation | None = None,
    *,
    whole: bool = True,
) -> Generation:
    """Return this generation, every file of it checked and its canaries asked.

    :param whole: read every file. False leaves it at the sizes of those of a generation with more than 2 GiB to read,
        which is then told by `unread`, for whoever reads them while it answers.
    :raises GenerationDamageError: naming everything that is missing, foreign or different.
    """
    return _opened(folder.generation(number), number, manifest_sha256, reuse, whole)


def open_staged(folder: IndexFolder) -> Generation:
    """Return the generation that stands beside the live one, every file of it checked and its canaries asked.

    :raises NoGenerationError: if there is none.
    :raises GenerationDamageError: naming everything that is missing, foreign or different.
    """
    if not folder.staged.exists():
        raise NoGenerationError(
            f"nothing is staged in {folder.path}; build a generation of another model beside the live one with: "
            f"semsearch stage --index {folder.path} MODEL"
        )
    return _opened(folder.staged, STAGED)


def _opened(
    path: Path,
    number: int,
    manifest_sha256: str | None = None,
    reuse: Generation | None = None,
    whole: bool = True,
) -> Generation:
    try:
        return _open_verified(path, number, manifest_sha256, reuse, whole)
    except GenerationDamageError:
        raise
    except OSError as error:
        if error.errno in NOT_DAMAGE:
            raise SemsearchError(f"{path} cannot be opened now: {error}") from error
        raise GenerationDamageError(f"{path}: {error}") from error
    except _NOT_AS_IT_SHOULD_BE as error:
        raise GenerationDamageError(f"{path}: {error}") from error


def _open_verified(
    path: Path, number: int, manifest_sha256: str | None, reuse: Generation | None, whole: bool
) -> Generation:
    data = (path / MANIFEST).read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    if manifest_sha256 not in (None, sha256):
        raise GenerationDamageError("its manifest is not the one that CURRENT names")
    manifest = Manifest.from_bytes(data)
    if manifest.generation != number:
        raise GenerationDamageError(f"its manifest is that of generation {manifest.generation}")
    shared = _shared_folders(manifest, reuse.manifest) if reuse else set()
    to_read = {name: record for name, record in manifest.files.items() if name.rpartition("/")[0] not in shared}
    whole = whole or sum(record.bytes for record in to_read.values()) <= READ_BEFORE_ANSWERING
    problems = list(_different_files(path, to_read, manifest, whole))
    if problems:
        raise GenerationDamageError("; ".join(problems))
    lexical = reuse.lexical if reuse and LEXICAL in shared else LexicalIndex(path / LEXICAL)
    open_already = {f"segments/{segment.name}": segment for segment in reuse.segments} if reuse else {}
    segments = [
        open_already[name] if name in shared else Segment(path / name, record)
        for name, record in ((f"segments/{record.name}", record) for record in manifest.segments)
    ]
    for segment in segments:
        if f"segments/{segment.name}" not in shared:
            check_segment(segment, manifest.encoder.dimension, vectors=whole)
    tombstones, pairs = (load_array(path / name) for name in (TOMBSTONES, WORKS))
    generation = Generation(manifest, (number, sha256), path, segments, tombstones, pairs, lexical)
    for canary in manifest.canaries:
        check_canary(generation, canary)
    generation.unread = frozenset() if whole else frozenset(to_read)
    return generation


def spec_of(folder: IndexFolder, number: int) -> EncoderSpec | None:
    """Return the vector space of this generation, by its manifest alone; None if that does not say."""
    path = folder.generation(number) if number != STAGED else folder.staged
    return _spec_at(path)


def space_of(folder: IndexFolder, number: int) -> str | None:
    """Return the fingerprint of what `spec_of` gives."""
    spec = spec_of(folder, number)
    return spec.fingerprint if spec else None


def last_spec(folder: IndexFolder) -> EncoderSpec | None:
    """Return the vector space that is, or was last, live, whatever is damaged; None if no manifest tells any more.

    Where CURRENT says which one that is, no other is taken for it.
    """
    named = current_generation(folder)
    published = folder.published()
    paths = [folder.generation(number) for number in ([named[0], *published] if named else published)]
    paths += sorted((path for path in folder.quarantine.glob("*") if path.name[0].isdecimal()), reverse=True)
    space = current_space(folder)
    return next((spec for spec in map(_spec_at, paths) if spec and space in (None, spec.fingerprint)), None)


def spec_before(folder: IndexFolder) -> EncoderSpec | None:
    """Return the vector space that was live before the present one, None if no generation of any is kept."""
    named = current_generation(folder)
    if named is None:
        return None
    present = space_of(folder, named[0])
    specs = (spec_of(folder, number) for number in folder.published() if number < named[0])
    return next((spec for spec in specs if spec and spec.fingerprint != present), None)


def _spec_at(path: Path) -> EncoderSpec | None:
    try:
        return Manifest.from_bytes((path / MANIFEST).read_bytes()).encoder
    except (OSError, SemsearchError):
        return None


def _shared_folders(one: Manifest, other: Manifest) -> set[str]:
    """Return the folders that have the same files in both; one file more or less, and all of a folder is read anew."""
    mine, theirs = (
        {
            folder: {name: record for name, record in manifest.files.items() if name.startswith(f"{folder}/")}
            for folder in (LEXICAL, *(f"segments/{segment.name}" for segment in manifest.segments))
        }
        for manifest in (one, other)
    )
    return {folder for folder, files in mine.items() if theirs.get(folder) == files}


def _different_files(path: Path, to_read: Mapping[str, FileRecord], manifest: Manifest, whole: bool) -> Iterator[str]:
    differs = digest_differs if whole else size_differs

    def problem(file: tuple[str, FileRecord]) -> str | None:
        name, record = file
        try:
            difference = differs(path / name, record)
        except FileNotFoundError:
            return f"{name} is missing"
        return f"{name} {difference}" if difference else None

    size = sum(record.bytes for record in to_read.values())
    try:
        with ThreadPoolExecutor(os.cpu_count()) if size > _WORTH_THREADS else nullcontext() as pool:
            problems = list((pool.map if pool else map)(problem, to_read.items()))
    except RuntimeError as error:  # the system gives no thread: that says nothing of the files
        raise SemsearchError(f"{path} cannot be opened now: {error}") from error
    yield from filter(None, problems)
    present = {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}
    for name in sorted(present - set(manifest.files) - {MANIFEST}):
        yield f"{name} does not belong there"


def set_aside(folder: IndexFolder, path: Path) -> Path:
    """Move what is damaged, or not where it belongs, to quarantine; return where it stands now.

    The caller holds the lock of whoever else could move it.
    """
    folder.quarantine.mkdir(exist_ok=True)
    moved = folder.quarantine / f"{path.name}-{datetime.now(UTC):%Y%m%dT%H%M%S%f}"
    path.rename(moved)
    sync_folder(path.parent)
    sync_folder(folder.quarantine)
    return moved


def _quarantine(folder: IndexFolder, numbers: Sequence[int], publishing: bool) -> None:
    """Move damaged generations aside, if nobody else is publishing; a later open will try again."""
    if not any(folder.generation(number).exists() for number in numbers):
        return
    try:
        with nullcontext() if publishing else exclusive_lock(folder.publish_lock, "quarantine"):
            for number in numbers:
                path = folder.generation(number)
                if path.exists():
                    logger.error("moved generation %d to %s", number, set_aside(folder, path))
    except IndexBusyError:
        logger.warning("the damaged generations stay where they are while another process publishes")
    except OSError as error:
        logger.warning("the damaged generations could not be moved: %s", error)
