"""How do many small segments become few large ones while others are added?

A publish that adds little merges little, or what is new would wait for it. What is due beyond that is done here, for as
long as it takes: the merged segment is written beside the generations, where nobody waits for it, and then put into
the place of those that it is made of by a publish of its own, which only links and counts. It comes to nothing if
another publish has changed those meanwhile; then it is due again.
"""

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from semsearch.durable import exclusive_lock
from semsearch.generation import (
    Generation,
    IndexFolder,
    MergeDraft,
    MergedSegment,
    SegmentDraft,
    check_space,
    current_generation,
    open_current,
    publish,
    write_merged,
)
from semsearch.library import Library
from semsearch.publishing import PUBLISH_WAIT_SECONDS, alive_in_each, check_made_from, first_to_merge, papers_at

logger = logging.getLogger(__name__)


def due_merge(generation: Generation, spared_rows: int = 0) -> tuple[int, int] | None:
    """Return where the segments begin and end that should be merged, by their positions; None if none should be.

    :param spared_rows: the newest segments with so many rows together are left to who adds papers just now.
    """
    rows = [segment.rows for segment in generation.segments]
    alive = alive_in_each(generation, generation.tombstones)
    end = len(rows)
    while end and sum(alive[end - 1 :]) <= spared_rows:
        end -= 1
    if not end:
        return None
    newest = end - 1
    begin = first_to_merge(rows[:newest], alive[:newest], alive[newest])
    mostly_dead = 2 * alive[newest] < rows[newest]
    return (begin, end) if (begin < newest or mostly_dead) and any(alive[begin:end]) else None


def merge_segments(folder: IndexFolder, spared_rows: int = 0) -> Generation | None:
    """Merge the segments that are due and publish that; return the new generation, None if there was nothing to do.

    :raises IndexBusyError: if another process is merging.
    :raises NoGenerationError: if no generation is sound.
    """
    folder.check_exists()
    with exclusive_lock(folder.merge_lock, "merge"), Library.open(folder.library) as library:
        generation = open_current(folder)
        check_made_from(library, generation)
        due = due_merge(generation, spared_rows)
        if due is None or current_generation(folder) != generation.name:  # an older one is not put in its place
            return None
        with _emptied(folder.merging) as place:
            merged = _written(folder, library, generation, due, place / "segment")
            with exclusive_lock(folder.publish_lock, "publish", PUBLISH_WAIT_SECONDS):
                draft = MergeDraft(open_current(folder, generation, publishing=True), merged)
                if draft.first is None or current_generation(folder) != draft.parent.name:
                    logger.info("the segments that were merged have changed meanwhile")
                    return None
                return publish(folder, draft)


@contextmanager
def _emptied(folder: Path) -> Iterator[Path]:
    """Give an empty folder, and remove it in the end; what a killed merge left there goes as well."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _written(
    folder: IndexFolder, library: Library, generation: Generation, due: tuple[int, int], place: Path
) -> MergedSegment:
    """Write the live rows of these segments as one."""
    begin, end = due
    rows = np.arange(generation.starts[begin], generation.starts[end])
    seqs = np.sort(generation.seqs_at(rows[generation.live[rows]])).tolist()
    spec = generation.manifest.encoder
    draft = SegmentDraft(
        library.vectors_at(seqs, library.encoder_number(spec.fingerprint, spec.name)),
        len(seqs),
        lambda: papers_at(library, seqs),
        spec.dimension,
    )
    check_space(folder, draft)
    return write_merged(place, draft, tuple(segment.name for segment in generation.segments[begin:end]))
