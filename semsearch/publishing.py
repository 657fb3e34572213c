"""What does the library hold that is not published yet, and which generation comes next?

A generation is derived: no paper is encoded for it, so what is missing or damaged can always be made again from the
library. The next generation is its parent plus what changed since; without a sound parent it is the whole library.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from semsearch.durable import exclusive_lock
from semsearch.encoders import Encoder, EncoderSpec
from semsearch.errors import (
    DamageError,
    EncoderError,
    LibraryDamageError,
    NoGenerationError,
    OldFormatError,
    SemsearchError,
)
from semsearch.generation import (
    STAGED,
    Draft,
    Generation,
    IndexFolder,
    Segment,
    SegmentDraft,
    current_generation,
    current_space,
    last_spec,
    open_current,
    open_generation,
    open_staged,
    publish,
    space_of,
    stage,
)
from semsearch.library import Library
from semsearch.manifest import WeakBelow
from semsearch.papers import Paper
from semsearch.weakness import is_due, measured

logger = logging.getLogger(__name__)

_PAPERS_PER_BLOCK = 1_000
PUBLISH_WAIT_SECONDS = 120.0  # longer than any publish; a reindex waits for one that only replays


def publish_pending(
    folder: IndexFolder,
    library: Library,
    spec: EncoderSpec | None,
    parent: Generation | None = None,
    *,
    up_to: int | None = None,
    prepare: Callable[[int], object] = lambda seq: None,
    most_merged: int | None = None,
    encoder: Encoder | None = None,
) -> Generation:
    """Return the live generation after publishing what the library holds beyond it; only `prepare` encodes papers.

    Where the live one is of another encoder, this goes on from one that is staged, or that was live before. Where no
    sound generation of this encoder is left, the whole of it is rebuilt from the library.

    :param spec: of the vector space to publish; None for that of the live generation.
    :param up_to: the last seq to publish; None for all that there is.
    :param prepare: called with that seq, when nobody else can publish any more.
    :param most_merged: how many rows of old segments may be written again with the new ones; None for any number. What
        is due beyond that is left to a later publish.
    :param parent: a generation that the caller has open; if it is the live one, it is taken as it is, not opened anew.
    :param encoder: for measuring which answers are weak, where that is due; without one, what the parent knows of that
        is taken over.
    :raises IndexBusyError: if another process is publishing.
    :raises NoGenerationError: without `spec`, if no generation is sound.
    :raises NotEncodedError: if a row that is needed has no vector of this encoder.
    :raises LibraryDamageError: if a row that is needed is damaged, or if the live generation was made from another
        state of the library than one that it went through.
    """
    with exclusive_lock(folder.publish_lock, "publish", PUBLISH_WAIT_SECONDS):
        library.check_in_place()
        if parent is None or current_generation(folder) != parent.name:
            parent = _opened(folder, parent)
        if parent:
            check_made_from(library, parent)
        if spec is None:
            spec = _spec_of(folder, parent)
        if parent and parent.manifest.encoder.fingerprint != spec.fingerprint:
            parent = _beside(folder, library, spec)
        if parent and not parent.manifest.is_extendable:
            parent = None
        last_seq = library.last_seq() if up_to is None else max(up_to, parent.manifest.last_seq if parent else 0)
        prepare(last_seq)
        number = library.encoder_number(spec.fingerprint, spec.name)
        known = parent.manifest.weak_below if parent else None
        to_measure = parent and encoder and is_due(known, parent.papers)
        if parent and parent.manifest.last_seq == last_seq and _is_named(folder, parent) and not to_measure:
            return parent
        if parent is None:
            draft = _full_draft(library, number, last_seq, spec)
        else:
            draft = _next_draft(library, number, parent, last_seq, spec, most_merged)
        return publish(folder, replace(draft, weak_below=_weak_below(library, encoder, known)))


def publish_anew(
    folder: IndexFolder, library: Library, spec: EncoderSpec, known: WeakBelow | None = None
) -> Generation:
    """Return the live generation after making the whole of it from the library; no paper is encoded.

    :param known: which answers are weak, if that is known of these papers; the next publish with an encoder measures
        it where it is due.
    :raises IndexBusyError: if another process is publishing.
    :raises NotEncodedError: if a row has no vector of this encoder.
    :raises LibraryDamageError: if a row that is needed is damaged.
    """
    with exclusive_lock(folder.publish_lock, "publish", PUBLISH_WAIT_SECONDS):
        number = library.encoder_number(spec.fingerprint, spec.name)
        draft = _full_draft(library, number, library.last_seq(), spec)
        return publish(folder, replace(draft, weak_below=_weak_below(library, None, known)))


def stage_pending(
    folder: IndexFolder, library: Library, spec: EncoderSpec, up_to: int, encoder: Encoder | None = None
) -> Generation:
    """Return a generation of what the library held at seq `up_to`, staged beside the live one, which stays live.

    The caller holds the reindex lock.

    :raises NotEncodedError: if a row has no vector of this encoder.
    :raises LibraryDamageError: if a row is damaged.
    """
    draft = _full_draft(library, library.encoder_number(spec.fingerprint, spec.name), up_to, spec)
    return stage(folder, replace(draft, weak_below=_weak_below(library, encoder, None)))


def _beside(folder: IndexFolder, library: Library, spec: EncoderSpec) -> Generation | None:
    """Return the newest sound generation of this vector space that is not live, None if there is none.

    What is damaged is passed over, since all of it can be made from the library; and so is what a killed switch left
    before CURRENT named it, which the publish removes.
    """
    named = current_generation(folder)
    for number in (STAGED, *(number for number in folder.published() if not named or number < named[0])):
        if space_of(folder, number) == spec.fingerprint:
            try:
                found = open_staged(folder) if number == STAGED else open_generation(folder, number)
                check_made_from(library, found)
            except (DamageError, OldFormatError) as error:
                logger.error("what is there of %s cannot be gone on from: %s", spec.name, error)
            else:
                return found
    return None


def _weak_below(
    library: Library, encoder: Encoder | None, known: WeakBelow | None
) -> Callable[[Generation], WeakBelow | None]:
    """Return how a new generation comes to know which answers are weak: it is measured where due, else its parent's."""

    def told(generation: Generation) -> WeakBelow | None:
        if encoder is None or not is_due(known, generation.papers):
            return known
        try:
            return measured(library, generation, encoder)
        except (EncoderError, LibraryDamageError) as error:  # papers that are encoded must come through without it
            logger.warning("which answers are weak is not measured anew, but next time: %s", error)
            return known

    return told


def _spec_of(folder: IndexFolder, live: Generation | None) -> EncoderSpec:
    if live is None:
        raise NoGenerationError(f"no generation in {folder.path} can be extended; make one with: {folder.command}")
    return live.manifest.encoder


def _opened(folder: IndexFolder, reuse: Generation | None) -> Generation | None:
    """Return the live generation, None if none is sound; the caller holds the publish lock."""
    try:
        return open_current(folder, reuse, publishing=True)
    except NoGenerationError:
        return None


def model_of(folder: IndexFolder, library: Library) -> str | None:
    """Return the name of the model that the index is made with, whatever of it is damaged; None for a new index."""
    if made_by := last_spec(folder):
        return made_by.name
    space = current_space(folder)
    return (library.encoder_name(space) if space else None) or library.main_encoder()


def check_made_from(library: Library, generation: Generation) -> None:
    """Do nothing if the generation was made from this library: only then do its seqs mean these papers.

    :raises LibraryDamageError: if the library has lost changes, or is an older copy that has gone on differently.
    """
    manifest = generation.manifest
    if not library.is_change(manifest.last_seq, manifest.last_change):
        raise LibraryDamageError(
            f"{library.path} does not hold change {manifest.last_seq} that generation {manifest.generation} was made "
            "from: it has lost changes, or is an older copy. Put the newer library back; or, to go on with this one, "
            "remove CURRENT and the folder generations beside it and run: "
            f"semsearch index --index {library.path.parent}"
        )


def _is_named(folder: IndexFolder, generation: Generation) -> bool:
    """Return whether CURRENT names this generation; after a fallback it does not, and it must again."""
    return current_generation(folder) == generation.name


def _full_draft(library: Library, number: int, last_seq: int, spec: EncoderSpec) -> Draft:
    """Return the whole library, without a parent."""
    seqs = library.all_live_seqs(last_seq).tolist()
    return Draft(
        parent=None,
        kept=(),
        added=SegmentDraft(library.vectors_at(seqs, number), len(seqs), _papers(library, seqs), spec.dimension),
        unfound=(),
        newly_found=_papers(library, seqs),
        tombstones=np.empty(0, dtype=np.int64),
        last_seq=last_seq,
        last_change=library.change_name(last_seq),
        encoder=spec,
    )


def _next_draft(
    library: Library, number: int, parent: Generation, last_seq: int, spec: EncoderSpec, most_merged: int | None
) -> Draft:
    """Return the parent plus what changed since: dead rows, revived rows, and a new segment for the rest."""
    dead, new = _changed_rows(library, parent, last_seq)
    unfound = parent.seqs_at(np.setdiff1d(dead, parent.tombstones))
    newly_found = np.union1d(new, parent.seqs_at(np.setdiff1d(parent.tombstones, dead))).tolist()
    kept = _segments_to_keep(parent, dead, len(new), most_merged)
    dropped = parent.segments[len(kept) :]
    boundary = parent.starts[len(kept)]
    if dropped:
        moved_rows = np.setdiff1d(np.arange(boundary, parent.manifest.rows), dead)
        new = np.union1d(new, parent.seqs_at(moved_rows))
    added = new.tolist()
    papers = _papers(library, added)
    return Draft(
        parent=parent,
        kept=kept,
        added=SegmentDraft(library.vectors_at(added, number), len(added), papers, spec.dimension),
        unfound=unfound.tolist(),
        newly_found=papers if newly_found == added else _papers(library, newly_found),
        tombstones=dead[dead < boundary],
        last_seq=last_seq,
        last_change=library.change_name(last_seq),
        encoder=spec,
    )


def _papers(library: Library, seqs: Sequence[int]) -> Callable[[], Iterator[tuple[int, Paper]]]:
    """Return what yields these papers at each call; few are read once and kept."""
    if len(seqs) > _PAPERS_PER_BLOCK:
        return lambda: papers_at(library, seqs)
    papers = cache(lambda: list(papers_at(library, seqs)))
    return lambda: iter(papers())


def papers_at(library: Library, seqs: Sequence[int]) -> Iterator[tuple[int, Paper]]:
    """Yield each of these versions' seqs and papers, in this order, a block in memory at a time.

    :raises SemsearchError: if one of them was purged.
    """
    for start in range(0, len(seqs), _PAPERS_PER_BLOCK):
        block = seqs[start : start + _PAPERS_PER_BLOCK]
        versions = library.versions_at(block)
        if purged := set(block) - set(versions):
            raise SemsearchError(f"the paper of seq {min(purged)} was purged meanwhile; run the same command again")
        yield from ((seq, versions[seq].paper) for seq in block)


def _changed_rows(library: Library, parent: Generation, last_seq: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the parent's rows that are dead now, and the seqs that are live now but have no row; both ascending."""
    touched = library.touched_after(parent.manifest.last_seq, last_seq)
    live = library.live_seqs(list(touched), last_seq)
    all_versions = np.array(sorted(seq for versions in touched.values() for seq in versions), dtype=np.int64)
    live_versions = np.array(sorted(live.values()), dtype=np.int64)
    touched_rows = parent.rows_of(all_versions)
    live_rows = parent.rows_of(live_versions)
    dead = np.union1d(
        np.setdiff1d(parent.tombstones, live_rows), np.setdiff1d(touched_rows[touched_rows >= 0], live_rows)
    )
    return dead, live_versions[live_rows < 0]


def _segments_to_keep(
    parent: Generation, dead: NDArray[np.int64], added: int, most_merged: int | None
) -> tuple[Segment, ...]:
    """Return the parent's leading segments that the next generation takes over; the rest joins its new segment."""
    rows = [segment.rows for segment in parent.segments]
    return parent.segments[: first_to_merge(rows, alive_in_each(parent, dead), added, most_merged)]


def alive_in_each(generation: Generation, dead: NDArray[np.int64]) -> list[int]:
    """Return how many rows of each segment are not among these, which are ascending."""
    return [
        segment.rows - int(np.searchsorted(dead, start + segment.rows) - np.searchsorted(dead, start))
        for start, segment in zip(generation.starts, generation.segments, strict=False)
    ]


def first_to_merge(rows: Sequence[int], alive: Sequence[int], added: int, most_merged: int | None = None) -> int:
    """Return the position of the first segment that is merged with `added` rows, the number of segments if none is.

    The rule: going from the newest segment to the oldest, one with fewer than twice the rows gathered so far is merged
    with them, and one of which more than half is dead is rewritten with all that follow. So every segment has at least
    twice the rows of the next, so n rows make at most log2(n) + 1 segments; and a merge by size makes at least one and
    a half times the segment that it rewrites, so additions alone rewrite a row at most log1.5(n) times. No more than
    `most_merged` rows are rewritten at once, those of the newest segments first.
    """
    kept = len(rows)
    gathered = added
    for position in reversed(range(len(rows))):
        if most_merged is not None and sum(alive[position:]) > most_merged:
            break
        if 2 * alive[position] < rows[position] or (alive[position] < 2 * gathered and position == kept - 1):
            kept = position
            gathered = sum(alive[kept:]) + added
    return kept
