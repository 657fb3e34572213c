"""What does one published state of the index consist of, and how is it written, published, verified and opened?

A generation is an immutable folder derived from the library: segments of vectors and columns, a lexical index over all
of them, which rows are dead, which are one work, and a manifest. This is the only file that knows the names inside an
index folder:

    library.db                 the truth
    CURRENT                    "<generation> <sha256 of its manifest> <xxh3 of both>", replaced by rename only
    LOCK, REINDEX, MERGE       held by the one publisher, and for the whole of a reindex or of a merge
    merging/                   a segment that is being merged from several
    generations/000042/        manifest.json  tombstones.npy  works.npy  lexical/  segments/000041/
                               and in a segment: vectors.faiss  seqs.npy  columns.npy  traits.npy, in a large one
                               lists.faiss
    networks/                  int8 networks calibrated on these papers, if int8 was asked for
    quarantine/                damaged generations are moved here, never deleted
"""

import base64
import errno
import hashlib
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import xxhash
from numpy.typing import NDArray

from semsearch.batching import Shared
from semsearch.columns import Columns, Facet, facets, matching_rows, write_columns
from semsearch.durable import (
    CheckedWriter,
    FileRecord,
    digest_differs,
    exclusive_lock,
    replace_file,
    sync_file,
    sync_folder,
    sync_tree,
    write_file,
)
from semsearch.encoders.model import EncoderSpec
from semsearch.errors import (
    GenerationDamageError,
    IndexBusyError,
    IndexMissingError,
    NoGenerationError,
    OldFormatError,
    SemsearchError,
)
from semsearch.filters import Filter
from semsearch.lexical import LexicalIndex, write_lexical
from semsearch.manifest import Canary, Manifest, SegmentRecord, WeakBelow
from semsearch.papers import Paper
from semsearch.traits import read_traits, write_traits
from semsearch.vectors import LISTS_FROM, Flat, Lists, Selection, Vectors, tuned, write_lists, write_vectors
from semsearch.works import Works, pairs_between, pairs_within

logger = logging.getLogger(__name__)

KEEP_SECONDS = 15 * 60
KEEP_AT_LEAST = 2
_OPENING_SECONDS = 60
_SPARE_BYTES = 1 << 20
_BYTES_PER_PAPER = 1_500  # besides its vector: words 500, traits 200, columns 100, and as much again while writing
_CANARIES = 4
_CANARY_DEPTH = 10
_CANARY_TOLERANCE = 1e-5
_MISSING_IF_APPROXIMATE = 2  # another version of FAISS may estimate a little differently
_LENGTH_TOLERANCE = 0.01  # of its square; an encoder's may be off by a fifth of that
_NOT_DAMAGE = {
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES, errno.EPERM, errno.EINTR),
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS),  # of the folder for temporary files, which opening needs
}
_NOT_AS_IT_SHOULD_BE = (ValueError, RuntimeError, IndexError, TypeError, AssertionError)
"""What numpy, FAISS and our own unpacking raise on files and manifests that say something impossible."""

_MOST_SCANS = 64  # queries at once: FAISS multiplies matrices from 20 on, and reads the vectors once for all of them

_ONE_HEADER_AT_A_TIME = threading.Lock()
"""numpy reads an array's header by way of `ast`, which in Python 3.11.7 and older fails in two threads at once."""

_Scan = tuple[NDArray[np.float32], int]
VectorBlocks = Iterable[tuple[NDArray[np.int64], NDArray[np.float32]]]


@dataclass(frozen=True, slots=True)
class IndexFolder:
    """Where the things of one index stand."""

    path: Path

    @property
    def command(self) -> str:
        """The command that brings this index up to date, for messages that say the way out."""
        return f"semsearch index --index {self.path}"

    @property
    def library(self) -> Path:
        """The SQLite file."""
        return self.path / "library.db"

    @property
    def current(self) -> Path:
        """The file that names the live generation."""
        return self.path / "CURRENT"

    @property
    def publish_lock(self) -> Path:
        """The lock file held during a publish."""
        return self.path / "LOCK"

    @property
    def reindex_lock(self) -> Path:
        """The lock file held during a whole reindex."""
        return self.path / "REINDEX"

    @property
    def merge_lock(self) -> Path:
        """The lock file held during a merge of segments."""
        return self.path / "MERGE"

    @property
    def merging(self) -> Path:
        """The folder of a segment that is being merged."""
        return self.path / "merging"

    @property
    def generations(self) -> Path:
        """The folder of all generations."""
        return self.path / "generations"

    @property
    def quarantine(self) -> Path:
        """The folder of damaged generations."""
        return self.path / "quarantine"

    @property
    def networks(self) -> Path:
        """The folder of the int8 networks that were calibrated on this index's papers."""
        return self.path / "networks"

    def generation(self, number: int) -> Path:
        """The folder of one generation."""
        return self.generations / f"{number:06d}"

    def published(self) -> list[int]:
        """Return the numbers of all generations that stand there whole or damaged, newest first."""
        return sorted((int(path.name) for path in self.generations.glob("*") if path.name.isdecimal()), reverse=True)

    def check_exists(self) -> None:
        """Do nothing for a folder that holds an index.

        :raises IndexMissingError: if it holds none, or only the derived half of one.
        """
        if self.library.is_file():
            return
        if self.current.exists() or self.published():
            raise IndexMissingError(f"{self.library} is missing although its index is there; restore it from a backup")
        raise IndexMissingError(f"there is no index in {self.path}; create one with: {self.command} FILE")


class Segment:
    """An immutable run of rows: their vectors, columns and traits and, ascending, the seqs of their versions."""

    def __init__(self, folder: Path, record: SegmentRecord) -> None:
        """Map the segment's files, whose digests must have been checked."""
        self.name = record.name
        self.rows = record.rows
        self.record = record
        lists = folder / _LISTS if record.probing else None
        self.vectors = Vectors(folder / _VECTORS, lists, record.probing)
        self.seqs: NDArray[np.int64] = _load_array(folder / _SEQS, "r")
        self.columns = Columns(folder / _COLUMNS)
        self.traits = read_traits(folder / _TRAITS)
        found = (self.vectors.rows, len(self.seqs), self.columns.rows, len(self.traits.table))
        if found != (record.rows,) * 4:
            raise GenerationDamageError(
                f"segment {record.name} has {found} vectors, seqs, columns and traits, not {record.rows} of each"
            )
        if record.probing and self.vectors.rows_in_lists != record.rows:
            raise GenerationDamageError(
                f"segment {record.name} has {self.vectors.rows_in_lists} rows in lists, not {record.rows}"
            )


_VECTORS, _SEQS, _COLUMNS, _TRAITS = "vectors.faiss", "seqs.npy", "columns.npy", "traits.npy"
_LISTS = "lists.faiss"  # in large segments only
_MERGED = "merged"
_TOMBSTONES, _WORKS, _LEXICAL, _MANIFEST = "tombstones.npy", "works.npy", "lexical", "manifest.json"


class Generation:
    """One open generation; immutable, safe to share between threads.

    A row is a position in it: segments laid end to end. Rows join to seqs here and nowhere else.
    """

    def __init__(
        self,
        manifest: Manifest,
        name: tuple[int, str],
        segments: Sequence[Segment],
        tombstones: NDArray[np.int64],
        work_pairs: NDArray[np.int64],
        lexical: LexicalIndex,
    ) -> None:
        """Lay the open segments end to end.

        :param tombstones: the dead rows, ascending.
        :param work_pairs: rows that are versions of one work, shape (p, 2); dead ones among them.
        """
        self.manifest = manifest
        self.name = name
        """What CURRENT says when it means this generation: its number and its manifest's sha256."""
        self.segments = tuple(segments)
        self.tombstones = tombstones
        self.work_pairs = work_pairs
        self.lexical = lexical
        self.starts = [0, *np.cumsum([segment.rows for segment in segments]).tolist()]
        self._alive = [
            _alive(start, segment.rows, tombstones) for start, segment in zip(self.starts, self.segments, strict=False)
        ]
        found = (self.starts[-1], self.starts[-1] - len(tombstones), lexical.papers)
        if found != (manifest.rows, manifest.papers, manifest.papers):
            raise GenerationDamageError(
                f"it holds {found[0]} rows, {found[1]} papers and the words of {found[2]}, "
                f"its manifest counts {manifest.rows} and {manifest.papers}"
            )
        self._scan = Shared(self._scan_together, _MOST_SCANS)
        self.live = np.ones(manifest.rows, dtype=np.bool_)
        """Which rows can be found, shape (rows,)."""
        self.live[tombstones] = False
        self.works = Works(manifest.rows, work_pairs[self.live[work_pairs].all(axis=1)])
        self.first_versions = self.works.first_of_each(self.live)
        """One live row of each work, as a mask of shape (rows,)."""

    @property
    def papers(self) -> int:
        """How many papers can be found."""
        return self.manifest.papers

    def nearest(
        self,
        queries: NDArray[np.float32],
        k: int,
        allowed: NDArray[np.bool_] | None = None,
        *,
        exact: bool = False,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the scores and rows of the k best live rows per query, both (n_queries, <= k), best first.

        :param allowed: which rows may be found, dead ones not among them, shape (rows,); None allows all live ones.
        :param exact: look at all of them, however many they are.
        """
        k = min(k, self.papers if allowed is None else int(np.count_nonzero(allowed)))
        if k == 0:
            empty = (len(queries), 0)
            return np.empty(empty, dtype=np.float32), np.empty(empty, dtype=np.int64)
        found = []
        for start, segment, alive in zip(self.starts, self.segments, self._alive, strict=False):
            among = alive if allowed is None else Selection(allowed[start : start + segment.rows])
            if among is None or among.count:
                scores, rows = segment.vectors.nearest(queries, min(k, segment.rows), among, exact=exact)
                found.append((scores, np.where(rows < 0, -1, rows + start)))
        scores, rows = (np.concatenate(parts, axis=1) for parts in zip(*found, strict=True))
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)

    def nearest_to(
        self, query: NDArray[np.float32], k: int, allowed: NDArray[np.bool_] | None = None, *, exact: bool = False
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return what `nearest` does for one query; where all live rows are looked at, callers share one scan."""
        if allowed is None and (exact or not self.manifest.approximate):
            scores, rows = self._scan((query, k))
        else:
            (scores,), (rows,) = self.nearest(query[None, :], k, allowed, exact=exact)
        return scores[:k], rows[:k]

    def _scan_together(self, asked: Sequence[_Scan]) -> list[tuple[NDArray[np.float32], NDArray[np.int64]]]:
        queries = np.stack([query for query, _ in asked])
        scores, rows = self.nearest(queries, max(k for _, k in asked), exact=True)
        return list(zip(scores, rows, strict=True))

    def vectors_at(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the vectors at these rows, shape (n, dimension)."""
        return self._gather(
            rows, lambda segment, local: segment.vectors.at(local), (self.manifest.encoder.dimension,), np.float32
        )

    def seqs_at(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the library's seqs of the versions at these rows, shape (n,)."""
        return self._gather(rows, lambda segment, local: segment.seqs[local], (), np.int64)

    def ids_at(self, rows: NDArray[np.int64]) -> list[str]:
        """Return the ids of the papers at these rows."""
        ids: list[str] = self._gather(
            rows, lambda segment, local: np.array(segment.columns.ids_at(local), dtype=object), (), np.object_
        ).tolist()
        return ids

    def title_words_at(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return how many different words the titles at these rows have, shape (n,), 255 for more."""
        return self._gather(rows, lambda segment, local: segment.columns.title_words[local], (), np.uint8)

    def titled(self, title: str) -> NDArray[np.int64]:
        """Return the live rows that have this title, however it is typed, ascending."""
        parts = [seg.columns.titled(title) + start for start, seg in zip(self.starts, self.segments, strict=False)]
        rows: NDArray[np.int64] = np.concatenate([np.empty(0, dtype=np.int64), *parts])
        return rows[self.live[rows]]

    def rows_of(self, seqs: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the row of each of these versions, -1 for those that have no row; dead rows are given too."""
        return _rows_in(self.segments, seqs)

    def is_live(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which of these rows, -1 for none, can be found, shape (n,)."""
        return (rows >= 0) & self.live[rows] if self.live.size else np.zeros(len(rows), dtype=np.bool_)

    def matching(self, wanted: Filter, rows_of_ids: Callable[[Sequence[str]], NDArray[np.int64]]) -> NDArray[np.bool_]:
        """Return which live rows a filter allows, shape (rows,)."""
        return self.live & matching_rows([segment.columns for segment in self.segments], wanted, rows_of_ids)

    def facets(self, among: NDArray[np.bool_], limit: int) -> dict[str, Facet]:
        """Return how these rows are spread over years, categories, venues and sources."""
        return facets([segment.columns for segment in self.segments], among, limit)

    def live_seqs(self) -> NDArray[np.int64]:
        """Return the seqs of all versions that can be found, ascending."""
        seqs = np.concatenate([segment.seqs for segment in self.segments]) if self.segments else np.empty(0, np.int64)
        return np.sort(np.delete(seqs, self.tombstones))

    def _gather(
        self,
        rows: NDArray[np.int64],
        take: Callable[[Segment, NDArray[np.int64]], NDArray[Any]],
        shape: tuple[int, ...],
        dtype: type[np.generic],
    ) -> NDArray[Any]:
        gathered = np.empty((len(rows), *shape), dtype=dtype)
        owners = np.searchsorted(self.starts, rows, side="right") - 1
        for number in np.unique(owners):
            mine = owners == number
            gathered[mine] = take(self.segments[number], rows[mine] - self.starts[number])
        return gathered


def _alive(start: int, rows: int, tombstones: NDArray[np.int64]) -> Selection | None:
    dead = tombstones[(tombstones >= start) & (tombstones < start + rows)] - start
    if not dead.size:
        return None
    alive = np.ones(rows, dtype=np.bool_)
    alive[dead] = False
    return Selection(alive)


# Publishing


@dataclass(frozen=True, slots=True)
class Draft:
    """What a new generation shall be, before its files are written.

    `kept` are segments of the parent, taken over by hard link; `added` (of `added_rows` rows, seqs ascending) becomes
    one new segment, whose papers `papers` yields anew, in that order, at each call; `tombstones` are rows counted over
    the kept segments and then the new one. The lexical index is the parent's without `unfound`, which are seqs, and
    with the papers of `newly_found`; without a parent it is the whole of `papers`. `weak_below` is asked once the new
    generation can be searched, before it is published.
    """

    parent: Generation | None
    kept: tuple[Segment, ...]
    added: VectorBlocks
    added_rows: int
    papers: Callable[[], Iterator[tuple[int, Paper]]]
    unfound: Sequence[int]
    newly_found: Callable[[], Iterator[tuple[int, Paper]]]
    tombstones: NDArray[np.int64]
    last_seq: int
    last_change: str
    encoder: EncoderSpec
    weak_below: Callable[[Generation], WeakBelow | None] = lambda generation: None


@dataclass(frozen=True, slots=True)
class MergedSegment:
    """A segment that stands ready in a folder of its own, to replace those of these names, which are neighbours."""

    replaces: tuple[str, ...]
    folder: Path
    record: SegmentRecord
    files: dict[str, FileRecord]

    @classmethod
    def write(cls, folder: Path, draft: Draft, replaces: tuple[str, ...]) -> Self:
        """Write the rows that a draft adds into `folder`, which is made here."""
        (folder / "segments").mkdir(parents=True)
        record, files = _write_segment(folder, _MERGED, draft)
        _check_written(folder, files)
        return cls(replaces, folder, record, files)


@dataclass(frozen=True, slots=True)
class MergeDraft:
    """What a new generation shall be that holds just what its parent does, in fewer segments."""

    parent: Generation
    merged: MergedSegment

    @property
    def first(self) -> int | None:
        """The position in the parent of the first segment that is replaced; None if the merged one does not fit.

        So it is when others have been merged, or rows have come back to life, since it was begun.
        """
        names = [segment.name for segment in self.parent.segments]
        replaces = list(self.merged.replaces)
        if replaces[0] not in names:
            return None
        first = names.index(replaces[0])
        last = first + len(replaces)
        if names[first:last] != replaces:
            return None
        rows = np.arange(self.parent.starts[first], self.parent.starts[last])
        live = self.parent.seqs_at(rows[self.parent.live[rows]])
        written = _load_array(self.merged.folder / "segments" / _MERGED / _SEQS)
        return first if np.isin(live, written).all() else None


def publish(folder: IndexFolder, draft: Draft | MergeDraft) -> Generation:
    """Write, verify and publish a new generation; return it open. The caller holds the publish lock.

    Each step only follows when the one before is on the disk; whatever fails, the live generation stays as it is.

    :raises SemsearchError: if the disk has not enough space, or what was written does not read back.
    """
    folder.generations.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(folder)
    number = max([*folder.published(), *_quarantined(folder)], default=0) + 1
    target = folder.generation(number)
    temporary = target.with_suffix(".tmp")
    if isinstance(draft, Draft):
        check_space(folder, draft)
    (temporary / "segments").mkdir(parents=True)
    try:
        if isinstance(draft, Draft):
            generation = _write(temporary, number, draft)
        else:
            generation = _write_merge(temporary, number, draft)
        temporary.rename(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(folder.generations)
    replace_file(folder.current, _current_line(*generation.name))
    _remove_old(folder, number)
    logger.info("published generation %d with %d papers", number, generation.papers)
    return generation


def _write(temporary: Path, number: int, draft: Draft) -> Generation:
    files: dict[str, FileRecord] = {}
    segments = list(draft.kept)
    for segment in draft.kept:
        assert draft.parent is not None, "kept segments come from a parent"
        files |= _link_segment(temporary, segment.name, draft.parent)
    pairs = _kept_pairs(draft)
    if draft.added_rows:
        name = f"{number:06d}"
        record, written = _write_segment(temporary, name, draft)
        files |= written
        _check_written(temporary, written)
        segments.append(Segment(temporary / "segments" / name, record))
        pairs = np.concatenate([pairs, _new_pairs(segments)])
    lexical, written = _write_lexical(temporary, draft)
    files |= written | _write_row_lists(temporary, draft.tombstones, pairs)
    rows = sum(segment.rows for segment in segments)
    manifest = Manifest(
        generation=number,
        parent=draft.parent.manifest.generation if draft.parent else None,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        papers=rows - len(draft.tombstones),
        rows=rows,
        last_seq=draft.last_seq,
        last_change=draft.last_change,
        encoder=draft.encoder,
        segments=tuple(segment.record for segment in segments),
        files=files,
        canaries=(),
    )
    generation = Generation(manifest, (number, ""), segments, draft.tombstones, pairs, lexical)
    canaries = _canaries(generation, draft)
    generation.manifest = replace(manifest, canaries=canaries, weak_below=draft.weak_below(generation))
    return _named(temporary, generation)


def _named(temporary: Path, generation: Generation) -> Generation:
    """Bring all to the disk, the manifest last; return the generation as CURRENT may name it."""
    sync_tree(temporary)
    manifest = write_file(temporary / _MANIFEST, generation.manifest.to_bytes())
    generation.name = generation.manifest.generation, manifest.sha256
    sync_folder(temporary)
    return generation


def _write_merge(temporary: Path, number: int, draft: MergeDraft) -> Generation:
    """Write the parent with the merged segment in its place; only numbers of rows change."""
    parent, merged, first, name = draft.parent, draft.merged, draft.first, f"{number:06d}"
    assert first is not None, "that was looked at"
    files = {file: record for file, record in parent.manifest.files.items() if file.startswith(f"{_LEXICAL}/")}
    (temporary / _LEXICAL).mkdir()
    for file, record in files.items():
        _link_or_copy(_folder_of(parent, temporary) / file, temporary / file, record)
    before, after = parent.segments[:first], parent.segments[first + len(merged.replaces) :]
    for segment in (*before, *after):
        files |= _link_segment(temporary, segment.name, parent)
    (merged.folder / "segments" / _MERGED).rename(temporary / "segments" / name)
    files |= {file.replace(f"/{_MERGED}/", f"/{name}/"): record for file, record in merged.files.items()}
    segments = [*before, Segment(temporary / "segments" / name, replace(merged.record, name=name)), *after]
    tombstones = np.sort(_rows_in(segments, parent.seqs_at(parent.tombstones)))
    pairs = np.sort(_rows_in(segments, parent.seqs_at(parent.work_pairs.ravel())).reshape(-1, 2), axis=1)
    tombstones, pairs = tombstones[tombstones >= 0], pairs[pairs[:, 0] >= 0]
    files |= _write_row_lists(temporary, tombstones, pairs)
    manifest = replace(
        parent.manifest,
        generation=number,
        parent=parent.manifest.generation,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        rows=sum(segment.rows for segment in segments),
        segments=tuple(segment.record for segment in segments),
        files=files,
    )
    generation = Generation(manifest, (number, ""), segments, tombstones, pairs, parent.lexical)
    if merged.record.probing:  # which nearly, but not quite, finds what other lists did
        generation.manifest = replace(manifest, canaries=tuple(_make_canaries(generation)))
    for canary in generation.manifest.canaries:
        _check_canary(generation, canary)
    return _named(temporary, generation)


def _rows_in(segments: Sequence[Segment], seqs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the row of each of these versions in segments laid end to end, -1 for those that have none."""
    rows = np.full(len(seqs), -1, dtype=np.int64)
    start = 0
    for segment in segments:
        local = np.minimum(np.searchsorted(segment.seqs, seqs), segment.rows - 1)
        rows = np.where(segment.seqs[local] == seqs, local + start, rows)
        start += segment.rows
    return rows


def _write_row_lists(temporary: Path, tombstones: NDArray[np.int64], pairs: NDArray[np.int64]) -> dict[str, FileRecord]:
    written = {
        _TOMBSTONES: _write_array(temporary / _TOMBSTONES, tombstones),
        _WORKS: _write_array(temporary / _WORKS, pairs),
    }
    _check_written(temporary, written)
    return written


def _folder_of(generation: Generation, temporary: Path) -> Path:
    return temporary.parent / f"{generation.manifest.generation:06d}"


def _link_segment(temporary: Path, name: str, parent: Generation) -> dict[str, FileRecord]:
    (temporary / "segments" / name).mkdir()
    folder = f"segments/{name}/"
    linked = {file: record for file, record in parent.manifest.files.items() if file.startswith(folder)}
    for file, record in linked.items():
        _link_or_copy(_folder_of(parent, temporary) / file, temporary / file, record)
    return linked


def _link_or_copy(source: Path, target: Path, record: FileRecord) -> None:
    try:
        os.link(source, target)
        _check_size(target, record)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV):
            raise
        with source.open("rb") as file, CheckedWriter(target) as writer:  # a file system without hard links
            while block := file.read(1 << 20):
                writer.write(block)
        if writer.record != record:
            raise GenerationDamageError(f"{source} is not what was written; run the same command again") from error


def _check_size(linked: Path, record: FileRecord) -> None:
    """Refuse a file that was cut while it was open: who reads beyond its end is killed."""
    if linked.stat().st_size != record.bytes:
        raise GenerationDamageError(f"{linked.name} of the parent is not what was written; run the same command again")


def _write_segment(temporary: Path, name: str, draft: Draft) -> tuple[SegmentRecord, dict[str, FileRecord]]:
    folder = temporary / "segments" / name
    folder.mkdir()
    seqs: list[NDArray[np.int64]] = []

    def vectors() -> Iterator[NDArray[np.float32]]:
        for block_seqs, block in draft.added:
            if not np.isfinite(block).all():  # such a row would never be found, without a word
                raise SemsearchError("the new segment got a vector that is not all numbers")
            seqs.append(block_seqs)
            yield block

    with CheckedWriter(folder / _VECTORS) as writer:
        rows = write_vectors(vectors(), draft.added_rows, draft.encoder.dimension, writer.write)
    all_seqs = np.concatenate(seqs)
    if rows != draft.added_rows or len(all_seqs) != rows or not (np.diff(all_seqs) > 0).all():
        raise SemsearchError(
            f"the new segment got {rows} rows and {len(all_seqs)} seqs, planned were {draft.added_rows}"
        )
    with CheckedWriter(folder / _COLUMNS) as columns:
        described = write_columns((paper for _, paper in draft.papers()), columns.write, temporary)
    if described != rows:
        raise SemsearchError(f"the new segment got columns of {described} papers, planned were {rows}")
    with CheckedWriter(folder / _TRAITS) as traits:
        write_traits((paper for _, paper in draft.papers()), traits.write)
    records = {
        _VECTORS: writer.record,
        _SEQS: _write_array(folder / _SEQS, all_seqs),
        _COLUMNS: columns.record,
        _TRAITS: traits.record,
    }
    probing = None
    if rows >= LISTS_FROM:
        flat = Flat(folder / _VECTORS)
        with CheckedWriter(folder / _LISTS) as lists:
            write_lists(flat, lists.write)
        records[_LISTS] = lists.record
        probing = tuned(flat, Lists(folder / _LISTS))
        logger.info(
            "segment %s: %d lists are looked through, recall@10 %.4f", name, probing.probes, probing.recall_at_10
        )
    files = {f"segments/{name}/{file}": record for file, record in records.items()}
    return SegmentRecord(name, rows, probing), files


def _kept_pairs(draft: Draft) -> NDArray[np.int64]:
    """Return the parent's pairs of rows of one work, as far as the rows are kept."""
    if draft.parent is None:
        return np.empty((0, 2), dtype=np.int64)
    pairs = draft.parent.work_pairs
    kept: NDArray[np.int64] = pairs[(pairs < sum(segment.rows for segment in draft.kept)).all(axis=1)]
    return kept


def _new_pairs(segments: Sequence[Segment]) -> NDArray[np.int64]:
    """Return the pairs of rows of one work of which at least one row is in the last segment."""
    *others, new = segments
    starts = np.cumsum([0, *(segment.rows for segment in segments)])
    found = [pairs_within(new.traits) + starts[-2]]
    for start, other in zip(starts, others, strict=False):
        between = pairs_between(new.traits, other.traits) + np.array([starts[-2], start])
        found.append(between[:, ::-1])  # the older row first
    return np.concatenate(found)


def _write_lexical(temporary: Path, draft: Draft) -> tuple[LexicalIndex, dict[str, FileRecord]]:
    parent = draft.parent
    written = temporary / f"{_LEXICAL}.tmp"
    if parent is None:
        index = write_lexical(written, None, draft.papers(), ())
    else:
        source = _folder_of(parent, temporary) / _LEXICAL
        index = write_lexical(written, source, draft.newly_found(), draft.unfound)
    folder = written.rename(temporary / _LEXICAL)  # a thread of tantivy's may look there once more, and leaves a lock
    for lock in folder.glob("*.lock"):
        lock.unlink()
    files: dict[str, FileRecord] = {}
    for path in sorted(folder.iterdir()):
        name = f"{_LEXICAL}/{path.name}"
        files[name] = _lexical_record(path, parent.manifest.files.get(name) if parent else None)
    return index, files


def _lexical_record(path: Path, parents: FileRecord | None) -> FileRecord:
    """Return what this file must be, which is on the disk then; `parents` is what the parent's of that name must be."""
    if parents and path.stat().st_nlink > 1:
        _check_size(path, parents)
        return parents
    record = sync_file(path)
    if parents and path.suffix != ".json" and record != parents:  # a copy, where there are no hard links
        raise GenerationDamageError(f"{path.name} of the parent is not what was written; run the same command again")
    return record


def _load_array(path: Path, mmap_mode: Literal["r"] | None = None) -> NDArray[np.int64]:
    with _ONE_HEADER_AT_A_TIME:
        array: NDArray[np.int64] = np.load(path, mmap_mode, allow_pickle=False)
    return array


def _write_array(path: Path, array: NDArray[np.int64]) -> FileRecord:
    buffer = BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return write_file(path, buffer.getvalue())


def _check_written(temporary: Path, files: dict[str, FileRecord]) -> None:
    for name, record in files.items():
        if difference := digest_differs(temporary / name, record):
            raise SemsearchError(f"{temporary / name} {difference} right after it was written; check the disk")


def check_space(folder: IndexFolder, draft: Draft) -> None:
    """Do nothing if the disk has room for what the draft adds.

    :raises SemsearchError: if not.
    """
    needed = draft.added_rows * (4 * draft.encoder.dimension + _BYTES_PER_PAPER) + 8 * len(draft.tombstones)
    needed += _SPARE_BYTES
    free = shutil.disk_usage(folder.path).free
    if free < needed:
        raise SemsearchError(
            f"{folder.path} has {free / 1e6:,.0f} MB free, the new generation needs {needed / 1e6:,.0f} MB; "
            "what was encoded is safe in the library: free some space and run the same command again"
        )


def _canaries(generation: Generation, draft: Draft) -> tuple[Canary, ...]:
    """Return the canaries of a generation that is being written, asked.

    Where little is new, they are the parent's: what the files that both have answer is known, so only the new segment
    is asked, and whether its own rows are found in it. So a small addition to many papers need not scan them all.
    """
    parent = draft.parent
    if parent is None or 2 * draft.added_rows > generation.manifest.rows or _answers_lost(generation, parent):
        return tuple(_make_canaries(generation))
    if not draft.added_rows:
        return parent.manifest.canaries
    new = generation.segments[-1]
    for vector in new.vectors.at(_spread(new.rows)):
        _check_finds_itself(vector, new.vectors.nearest(vector[None, :], 1, None)[0][0, 0])
    return tuple(_with_answers_of(new, canary, generation.papers) for canary in parent.manifest.canaries)


def _answers_lost(generation: Generation, parent: Generation) -> bool:
    """Return whether the parent's canaries no longer tell the nearest live rows of what both hold."""
    canaries = parent.manifest.canaries
    answers = np.array([seq for canary in canaries for seq in canary.seqs], dtype=np.int64)
    revived = generation.is_live(generation.rows_of(parent.seqs_at(parent.tombstones)))
    return not canaries or bool(revived.any()) or not generation.is_live(generation.rows_of(answers)).all()


def _with_answers_of(segment: Segment, canary: Canary, papers: int) -> Canary:
    scores, rows = segment.vectors.nearest(_vector_of(canary)[None, :], min(_CANARY_DEPTH, segment.rows), None)
    known = dict(zip(canary.seqs, canary.scores, strict=True))
    new = dict(zip(segment.seqs[rows[0]].tolist(), scores[0].tolist(), strict=True))
    best = sorted((known | new).items(), key=lambda found: -found[1])[: min(_CANARY_DEPTH, papers)]
    return Canary(canary.vector, tuple(seq for seq, _ in best), tuple(score for _, score in best))


def _make_canaries(generation: Generation) -> Iterator[Canary]:
    live = np.delete(np.arange(generation.manifest.rows), generation.tombstones)
    if not live.size:
        return
    for vector in generation.vectors_at(live[_spread(live.size)]):
        seqs, scores = _canary_answer(generation, vector)
        _check_finds_itself(vector, scores[0])
        yield Canary(base64.b64encode(vector.astype("<f4").tobytes()).decode(), seqs, scores)


def _spread(rows: int) -> NDArray[np.int64]:
    """Return a few of so many rows, the first and the last among them."""
    return np.unique(np.linspace(0, rows - 1, _CANARIES).astype(np.int64))


def _check_finds_itself(vector: NDArray[np.float32], best_score: float) -> None:
    own = float(vector @ vector)  # a longer vector of the same direction may score more
    if best_score < own - _CANARY_TOLERANCE:
        raise SemsearchError(
            f"a stored vector's nearest row has score {best_score}, not {own}: the segment is unusable"
        )


def _vector_of(canary: Canary) -> NDArray[np.float32]:
    return np.frombuffer(base64.b64decode(canary.vector), dtype="<f4")


def _canary_answer(generation: Generation, vector: NDArray[np.float32]) -> tuple[tuple[int, ...], tuple[float, ...]]:
    scores, rows = generation.nearest(vector[None, :], _CANARY_DEPTH)
    if (rows < 0).any():  # fewer found than there are
        raise GenerationDamageError("some of its vectors are not numbers")
    return tuple(generation.seqs_at(rows[0]).tolist()), tuple(scores[0].tolist())


def _check_canary(generation: Generation, canary: Canary) -> None:
    seqs, scores = _canary_answer(generation, _vector_of(canary))
    known, found = (dict(zip(*answer, strict=True)) for answer in ((canary.seqs, canary.scores), (seqs, scores)))
    worst = canary.scores[-1] + 2 * _CANARY_TOLERANCE  # what ties with the last place may change places with it
    missing = [seq for seq, score in known.items() if score > worst and seq not in found]
    other = [seq for seq in known.keys() & found.keys() if abs(known[seq] - found[seq]) > _CANARY_TOLERANCE]
    if not generation.manifest.approximate and not np.allclose(scores, canary.scores, rtol=0, atol=_CANARY_TOLERANCE):
        other = list(known)
    if len(scores) != len(canary.scores) or other:
        raise GenerationDamageError("a canary query gets other scores than when it was published")
    if len(missing) > (_MISSING_IF_APPROXIMATE if generation.manifest.approximate else 0):
        raise GenerationDamageError("a canary query gets other papers than when it was published")


def _remove_abandoned(folder: IndexFolder) -> None:
    for path in folder.generations.glob("*.tmp"):  # we hold the lock, so nobody is writing them
        shutil.rmtree(path)


def _remove_old(folder: IndexFolder, live: int) -> None:
    """Remove what is old, and of what came in quick succession all but the last of each minute.

    Whoever began to open a generation has at least a minute for it.
    """
    minutes: set[int] = set()
    for number in folder.published()[KEEP_AT_LEAST:]:
        path = folder.generation(number)
        try:
            published = path.stat().st_mtime
            age, minute = time.time() - published, int(published // 60)
            superseded = minute in minutes and age > _OPENING_SECONDS
            minutes.add(minute)
            if number != live and (superseded or age > KEEP_SECONDS):
                abandoned = path.with_suffix(".tmp")
                path.rename(abandoned)  # first the name, so that a half-removed folder never looks like a generation
                shutil.rmtree(abandoned)
        except OSError as error:
            logger.warning("generation %d could not be removed: %s", number, error)


def _quarantined(folder: IndexFolder) -> list[int]:
    names = (path.name.split("-")[0] for path in folder.quarantine.glob("*"))
    return [int(name) for name in names if name.isdecimal()]


# Opening


def current_generation(folder: IndexFolder) -> tuple[int, str] | None:
    """Return the live generation's number and its manifest's sha256, or None if CURRENT is missing or damaged.

    :raises SemsearchError: if it cannot be read just now.
    """
    try:
        line = folder.current.read_bytes()
        number, manifest_sha256, _ = line.decode("ascii").split()
        named = int(number), manifest_sha256
    except OSError as error:
        if error.errno in _NOT_DAMAGE:
            raise SemsearchError(f"{folder.current} cannot be read now: {error}") from error
        return None  # it is not there, or the disk no longer gives it back
    except ValueError:
        return None
    return named if line == _current_line(*named) else None


def _current_line(number: int, manifest_sha256: str) -> bytes:
    named = f"{number:06d} {manifest_sha256}"
    return f"{named} {xxhash.xxh3_64_hexdigest(named.encode())}\n".encode()


def open_current(folder: IndexFolder, reuse: Generation | None = None, *, publishing: bool = False) -> Generation:
    """Return the live generation, verified; where it is damaged, the newest older one that is not, loudly.

    Damaged generations are moved to quarantine if nobody else is publishing; `publishing` says that the caller is, and
    holds the lock. Segments that `reuse` has open already, and that are the same files, are shared, not read again.

    :raises NoGenerationError: if none can serve.
    """
    folder.check_exists()
    named = current_generation(folder)
    candidates = folder.published()
    if named:
        candidates = [named[0], *(number for number in candidates if number < named[0])]
    damaged: list[tuple[int, str]] = []
    old: list[str] = []
    for number in candidates:
        expected = named[1] if named and number == named[0] else None
        try:
            generation = open_generation(folder, number, expected, reuse)
        except OldFormatError as error:
            old.append(f"generation {number}: {error}")
            continue
        except GenerationDamageError as error:
            if current_generation(folder) != named:  # it may have been removed for its age, while it was read
                return open_current(folder, reuse, publishing=publishing)
            logger.error("generation %d in %s is damaged: %s", number, folder.path, error)
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
    folder: IndexFolder, number: int, manifest_sha256: str | None = None, reuse: Generation | None = None
) -> Generation:
    """Return this generation, every file of it checked and its canaries asked.

    :raises GenerationDamageError: naming everything that is missing, foreign or different.
    """
    path = folder.generation(number)
    try:
        return _open_verified(path, number, manifest_sha256, reuse)
    except GenerationDamageError:
        raise
    except OSError as error:
        if error.errno in _NOT_DAMAGE:
            raise SemsearchError(f"{path} cannot be opened now: {error}") from error
        raise GenerationDamageError(f"{path}: {error}") from error
    except _NOT_AS_IT_SHOULD_BE as error:
        if any(os.strerror(code) in str(error) for code in _NOT_DAMAGE):  # FAISS has no other way to say so
            raise SemsearchError(f"{path} cannot be opened now: {error}") from error
        raise GenerationDamageError(f"{path}: {error}") from error


def _open_verified(path: Path, number: int, manifest_sha256: str | None, reuse: Generation | None) -> Generation:
    data = (path / _MANIFEST).read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    if manifest_sha256 not in (None, sha256):
        raise GenerationDamageError("its manifest is not the one that CURRENT names")
    manifest = Manifest.from_bytes(data)
    if manifest.generation != number:
        raise GenerationDamageError(f"its manifest is that of generation {manifest.generation}")
    shared = _shared_folders(manifest, reuse.manifest) if reuse else set()
    problems = list(_different_files(path, manifest, shared))
    if problems:
        raise GenerationDamageError("; ".join(problems))
    lexical = reuse.lexical if reuse and _LEXICAL in shared else LexicalIndex(path / _LEXICAL)
    open_already = {f"segments/{segment.name}": segment for segment in reuse.segments} if reuse else {}
    segments = [
        open_already[name] if name in shared else Segment(path / name, record)
        for name, record in ((f"segments/{record.name}", record) for record in manifest.segments)
    ]
    for segment in segments:
        if f"segments/{segment.name}" not in shared:
            _check_segment(segment, manifest.encoder.dimension)
    tombstones, pairs = (_load_array(path / name) for name in (_TOMBSTONES, _WORKS))
    generation = Generation(manifest, (number, sha256), segments, tombstones, pairs, lexical)
    for canary in manifest.canaries:
        _check_canary(generation, canary)
    return generation


def _check_segment(segment: Segment, dimension: int) -> None:
    """Refuse rows that could never be found, or not be joined to their papers, however sound their files are.

    :raises GenerationDamageError: if vectors are not unit vectors of this dimension, or seqs do not ascend.
    """
    if segment.vectors.dimension != dimension:
        raise GenerationDamageError(
            f"segment {segment.name} has vectors of dimension {segment.vectors.dimension}, "
            f"its manifest says {dimension}"
        )
    if not (np.diff(segment.seqs) > 0).all():
        raise GenerationDamageError(f"the seqs of segment {segment.name} do not ascend")
    if not (np.abs(segment.vectors.squared_lengths() - 1) <= _LENGTH_TOLERANCE).all():  # so NaN is wrong, too
        raise GenerationDamageError(f"segment {segment.name} has vectors that are no unit vectors")


def _shared_folders(one: Manifest, other: Manifest) -> set[str]:
    """Return the folders that have the same files in both; one file more or less, and all of a folder is read anew."""
    mine, theirs = (
        {
            folder: {name: record for name, record in manifest.files.items() if name.startswith(f"{folder}/")}
            for folder in (_LEXICAL, *(f"segments/{segment.name}" for segment in manifest.segments))
        }
        for manifest in (one, other)
    )
    return {folder for folder, files in mine.items() if theirs.get(folder) == files}


def _different_files(path: Path, manifest: Manifest, shared: set[str]) -> Iterator[str]:
    for name, record in manifest.files.items():
        if name.rpartition("/")[0] in shared:
            continue
        try:
            if difference := digest_differs(path / name, record):
                yield f"{name} {difference}"
        except FileNotFoundError:
            yield f"{name} is missing"
    present = {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}
    for name in sorted(present - set(manifest.files) - {_MANIFEST}):
        yield f"{name} does not belong there"


def _quarantine(folder: IndexFolder, numbers: Sequence[int], publishing: bool) -> None:
    """Move damaged generations aside, if nobody else is publishing; a later open will try again."""
    if not any(folder.generation(number).exists() for number in numbers):
        return
    try:
        with nullcontext() if publishing else exclusive_lock(folder.publish_lock, "quarantine"):
            folder.quarantine.mkdir(exist_ok=True)
            for number in numbers:
                path = folder.generation(number)
                if path.exists():
                    moved = folder.quarantine / f"{number:06d}-{datetime.now(UTC):%Y%m%dT%H%M%S%f}"
                    path.rename(moved)
                    logger.error("moved generation %d to %s", number, moved)
            sync_folder(folder.generations)
            sync_folder(folder.quarantine)
    except IndexBusyError:
        logger.warning("the damaged generations stay where they are while another process publishes")
    except OSError as error:
        logger.warning("the damaged generations could not be moved: %s", error)
