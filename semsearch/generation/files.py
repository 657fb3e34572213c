"""How do the files of a new generation come to the disk?"""

import errno
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from semsearch.arrays import write_array
from semsearch.columns import write_columns
from semsearch.durable import CheckedWriter, FileRecord, digest_differs, sync_file
from semsearch.errors import GenerationDamageError, SemsearchError
from semsearch.generation.drafts import Draft, SegmentDraft
from semsearch.generation.folder import CODES, COLUMNS, LEXICAL, LISTS, SEQS, TOMBSTONES, TRAITS, VECTORS, WORKS
from semsearch.generation.generation import Generation
from semsearch.lexical import LexicalIndex, write_lexical
from semsearch.manifest import SegmentRecord
from semsearch.traits import write_traits
from semsearch.vectors import LISTS_FROM, Flat, Lists, Probing, tuned, write_codes, write_lists, write_vectors

logger = logging.getLogger(__name__)


def write_segment(temporary: Path, name: str, draft: SegmentDraft) -> tuple[SegmentRecord, dict[str, FileRecord]]:
    """Write and verify a segment below `segments` in this folder."""
    folder = temporary / "segments" / name
    folder.mkdir()
    records = _write_rows(folder, draft)
    with CheckedWriter(folder / COLUMNS) as columns:
        described = write_columns((paper for _, paper in draft.papers()), columns.write, temporary)
    if described != draft.rows:
        raise SemsearchError(f"the new segment got columns of {described} papers, planned were {draft.rows}")
    with CheckedWriter(folder / TRAITS) as traits:
        write_traits((paper for _, paper in draft.papers()), traits.write)
    records |= {COLUMNS: columns.record, TRAITS: traits.record}
    probing = None
    if draft.rows >= LISTS_FROM:
        written, probing = _write_lists(folder)
        records |= written
    files = {f"segments/{name}/{file}": record for file, record in records.items()}
    check_written(temporary, files)
    return SegmentRecord(name, draft.rows, probing), files


def _write_rows(folder: Path, draft: SegmentDraft) -> dict[str, FileRecord]:
    seqs: list[NDArray[np.int64]] = []

    def vectors() -> Iterator[NDArray[np.float32]]:
        for block_seqs, block in draft.vectors:
            if not np.isfinite(block).all():  # such a row would never be found, without a word
                raise SemsearchError("the new segment got a vector that is not all numbers")
            seqs.append(block_seqs)
            yield block

    with CheckedWriter(folder / VECTORS) as writer:
        rows = write_vectors(vectors(), draft.rows, draft.dimension, writer.write)
    all_seqs = np.concatenate(seqs)
    if rows != draft.rows or len(all_seqs) != rows or not (np.diff(all_seqs) > 0).all():
        raise SemsearchError(f"the new segment got {rows} rows and {len(all_seqs)} seqs, planned were {draft.rows}")
    return {VECTORS: writer.record, SEQS: write_array(folder / SEQS, all_seqs)}


def _write_lists(folder: Path) -> tuple[dict[str, FileRecord], Probing]:
    flat = Flat(folder / VECTORS)
    with CheckedWriter(folder / LISTS) as lists:
        write_lists(flat, lists.write)
    with CheckedWriter(folder / CODES) as codes:
        write_codes(flat, codes.write)
    probing = tuned(flat, Lists(folder / LISTS))
    logger.info("%s: lists with a margin of %.4f, recall@10 %.4f", folder, probing.margin, probing.recall_at_10)
    return {LISTS: lists.record, CODES: codes.record}, probing


def write_row_lists(temporary: Path, tombstones: NDArray[np.int64], pairs: NDArray[np.int64]) -> dict[str, FileRecord]:
    """Write and verify which rows are dead, and which are one work."""
    written = {
        TOMBSTONES: write_array(temporary / TOMBSTONES, tombstones),
        WORKS: write_array(temporary / WORKS, pairs),
    }
    check_written(temporary, written)
    return written


def write_lexical_index(temporary: Path, draft: Draft) -> tuple[LexicalIndex, dict[str, FileRecord]]:
    """Write the words of all papers that can be found, the parent's where they have not changed."""
    parent = draft.parent
    written = temporary / f"{LEXICAL}.tmp"
    if parent is None:
        index = write_lexical(written, None, draft.newly_found(), ())
    else:
        source = parent.folder / LEXICAL
        index = write_lexical(written, source, draft.newly_found(), draft.unfound)
    folder = written.rename(temporary / LEXICAL)  # a thread of tantivy's may look there once more, and leaves a lock
    for lock in folder.glob("*.lock"):
        lock.unlink()
    files: dict[str, FileRecord] = {}
    for path in sorted(folder.iterdir()):
        name = f"{LEXICAL}/{path.name}"
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


def link_segment(temporary: Path, name: str, parent: Generation) -> dict[str, FileRecord]:
    """Take a segment of the parent over; return what its files must be."""
    (temporary / "segments" / name).mkdir()
    folder = f"segments/{name}/"
    linked = {file: record for file, record in parent.manifest.files.items() if file.startswith(folder)}
    for file, record in linked.items():
        link_or_copy(parent.folder / file, temporary / file, record)
    return linked


def link_or_copy(source: Path, target: Path, record: FileRecord) -> None:
    """Take a file over by a hard link, or a verified copy where there are none.

    :raises GenerationDamageError: if it is not what was written.
    """
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


def check_written(temporary: Path, files: dict[str, FileRecord]) -> None:
    """Do nothing if these files read back as they were written.

    :raises SemsearchError: if not.
    """
    for name, record in files.items():
        if difference := digest_differs(temporary / name, record):
            raise SemsearchError(f"{temporary / name} {difference} right after it was written; check the disk")
