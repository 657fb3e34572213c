"""How does a new generation come to be the live one?"""

import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from semsearch.durable import FileRecord, replace_file, sync_folder, sync_tree, write_file
from semsearch.generation.canaries import canaries_of, check_canary, make_canaries
from semsearch.generation.drafts import Draft, MergeDraft, MergedSegment, SegmentDraft, check_space
from semsearch.generation.files import (
    link_or_copy,
    link_segment,
    write_lexical_index,
    write_row_lists,
    write_segment,
)
from semsearch.generation.folder import LEXICAL, MANIFEST, MERGED, IndexFolder, current_generation, current_line
from semsearch.generation.generation import Generation, rows_in
from semsearch.generation.opening import STAGED, space_of
from semsearch.generation.segment import Segment
from semsearch.manifest import Manifest
from semsearch.works import pairs_between, pairs_within

logger = logging.getLogger(__name__)

KEEP_SECONDS = 15 * 60
KEEP_AT_LEAST = 2
KEEP_OTHER_SECONDS = 30 * 86_400
"""For so long the newest generation of another vector space is kept, to go back to at once."""
_OPENING_SECONDS = 60


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
        check_space(folder, draft.added)
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
    generation.folder = target
    sync_folder(folder.generations)
    replace_file(folder.current, current_line(*generation.name, generation.manifest.encoder.fingerprint))
    _remove_old(folder, number)
    logger.info("published generation %d with %d papers", number, generation.papers)
    return generation


def stage(folder: IndexFolder, draft: Draft) -> Generation:
    """Write and verify a generation beside the live one, in place of one that was staged before; return it open.

    The caller holds the reindex lock. Nobody waits for this: it is written where publishes leave it alone, and nothing
    serves it, or falls back on it.

    :raises SemsearchError: if the disk has not enough space, or what was written does not read back.
    """
    check_space(folder, draft.added)
    shutil.rmtree(folder.staging, ignore_errors=True)  # what a killed run left
    new = folder.staging / "new"
    (new / "segments").mkdir(parents=True)
    try:
        generation = _write(new, STAGED, draft)
        if folder.staged.exists():
            folder.staged.rename(folder.staging / "old")
        new.rename(folder.staged)
        sync_folder(folder.path)
    finally:
        shutil.rmtree(folder.staging, ignore_errors=True)
    generation.folder = folder.staged
    logger.info("staged a generation of %s with %d papers", draft.encoder.name, generation.papers)
    return generation


def _write(temporary: Path, number: int, draft: Draft) -> Generation:
    files: dict[str, FileRecord] = {}
    segments = list(draft.kept)
    for segment in draft.kept:
        assert draft.parent is not None, "kept segments come from a parent"
        files |= link_segment(temporary, segment.name, draft.parent)
    pairs = _kept_pairs(draft)
    if draft.added.rows:
        name = f"{number:06d}"
        record, written = write_segment(temporary, name, draft.added)
        files |= written
        segments.append(Segment(temporary / "segments" / name, record))
        pairs = np.concatenate([pairs, _new_pairs(segments)])
    lexical, written = write_lexical_index(temporary, draft)
    files |= written | write_row_lists(temporary, draft.tombstones, pairs)
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
    generation = Generation(manifest, (number, ""), temporary, segments, draft.tombstones, pairs, lexical)
    canaries = canaries_of(generation, draft)
    generation.manifest = replace(manifest, canaries=canaries, weak_below=draft.weak_below(generation))
    return _named(temporary, generation)


def write_merged(place: Path, draft: SegmentDraft, replaces: tuple[str, ...]) -> MergedSegment:
    """Write a segment into `place`, which is made here, that shall replace those of these names."""
    (place / "segments").mkdir(parents=True)
    return MergedSegment(replaces, place, *write_segment(place, MERGED, draft))


def _write_merge(temporary: Path, number: int, draft: MergeDraft) -> Generation:
    """Write the parent with the merged segment in its place; only numbers of rows change."""
    parent, merged, first, name = draft.parent, draft.merged, draft.first, f"{number:06d}"
    assert first is not None, "that was looked at"
    files = {file: record for file, record in parent.manifest.files.items() if file.startswith(f"{LEXICAL}/")}
    (temporary / LEXICAL).mkdir()
    for file, record in files.items():
        link_or_copy(parent.folder / file, temporary / file, record)
    before, after = parent.segments[:first], parent.segments[first + len(merged.replaces) :]
    for segment in (*before, *after):
        files |= link_segment(temporary, segment.name, parent)
    (merged.folder / "segments" / MERGED).rename(temporary / "segments" / name)
    files |= {file.replace(f"/{MERGED}/", f"/{name}/"): record for file, record in merged.files.items()}
    segments = [*before, Segment(temporary / "segments" / name, replace(merged.record, name=name)), *after]
    tombstones = np.sort(rows_in(segments, parent.seqs_at(parent.tombstones)))
    pairs = np.sort(rows_in(segments, parent.seqs_at(parent.work_pairs.ravel())).reshape(-1, 2), axis=1)
    tombstones, pairs = tombstones[tombstones >= 0], pairs[pairs[:, 0] >= 0]
    files |= write_row_lists(temporary, tombstones, pairs)
    manifest = replace(
        parent.manifest,
        generation=number,
        parent=parent.manifest.generation,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        rows=sum(segment.rows for segment in segments),
        segments=tuple(segment.record for segment in segments),
        files=files,
    )
    generation = Generation(manifest, (number, ""), temporary, segments, tombstones, pairs, parent.lexical)
    if merged.record.probing:  # which nearly, but not quite, finds what other lists did
        generation.manifest = replace(manifest, canaries=tuple(make_canaries(generation)))
    for canary in generation.manifest.canaries:
        check_canary(generation, canary)
    return _named(temporary, generation)


def _named(temporary: Path, generation: Generation) -> Generation:
    """Bring all to the disk, the manifest last; return the generation as CURRENT may name it."""
    sync_tree(temporary)
    manifest = write_file(temporary / MANIFEST, generation.manifest.to_bytes())
    generation.name = generation.manifest.generation, manifest.sha256
    sync_folder(temporary)
    return generation


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


def _remove_abandoned(folder: IndexFolder) -> None:
    for path in folder.generations.glob("*.tmp"):  # we hold the lock, so nobody is writing them
        shutil.rmtree(path)
    named = current_generation(folder)
    newer = [number for number in folder.published() if named and number > named[0]]
    space = space_of(folder, named[0]) if named and newer else None
    for number in newer:  # of a switch that was ended before CURRENT named it: to be forgotten, not gone back to
        if space and space_of(folder, number) not in (None, space):
            _remove(folder, folder.generation(number))


def _remove_old(folder: IndexFolder, live: int) -> None:
    """Remove what is old, and of what came in quick succession all but the last of each minute.

    Whoever began to open a generation has at least a minute for it. The newest of another vector space stays for a
    month, so that a change of model can be taken back at once. A staged generation goes when one of its space is live.
    """
    space = space_of(folder, live)
    try:
        if folder.staged.exists() and space_of(folder, STAGED) == space:
            _remove(folder, folder.staged)
    except OSError as error:
        logger.warning("what was staged could not be removed: %s", error)
    minutes: set[int] = set()
    has_other = False
    for number in folder.published()[KEEP_AT_LEAST:]:
        path = folder.generation(number)
        try:
            published = path.stat().st_mtime
            age, minute = time.time() - published, int(published // 60)
            superseded = minute in minutes and age > _OPENING_SECONDS
            minutes.add(minute)
            if number == live or not (superseded or age > KEEP_SECONDS):
                continue
            if space and not has_other and age < KEEP_OTHER_SECONDS and space_of(folder, number) not in (None, space):
                has_other = True
                continue
            _remove(folder, path)
        except OSError as error:
            logger.warning("generation %d could not be removed: %s", number, error)


def _remove(folder: IndexFolder, path: Path) -> None:
    abandoned = folder.generations / f"{path.name}.tmp"
    path.rename(abandoned)  # first the name, so that a half-removed folder never looks like a generation
    shutil.rmtree(abandoned)


def _quarantined(folder: IndexFolder) -> list[int]:
    names = (path.name.split("-")[0] for path in folder.quarantine.glob("*"))
    return [int(name) for name in names if name.isdecimal()]
