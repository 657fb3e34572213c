"""What shall a new generation be, before its files are written?"""

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from semsearch.arrays import load_array
from semsearch.durable import FileRecord
from semsearch.encoders.model import EncoderSpec
from semsearch.errors import SemsearchError
from semsearch.generation.folder import MERGED, SEQS, IndexFolder
from semsearch.generation.generation import Generation
from semsearch.generation.segment import Segment
from semsearch.manifest import SegmentRecord, WeakBelow
from semsearch.papers import Paper

_SPARE_BYTES = 1 << 20
_BYTES_PER_PAPER = 1_500  # besides vectors: words 500, traits 200, columns 100, and as much again while writing
VectorBlocks = Iterable[tuple[NDArray[np.int64], NDArray[np.float32]]]


@dataclass(frozen=True, slots=True)
class SegmentDraft:
    """What a new segment shall hold: so many rows, seqs ascending; `papers` yields their papers anew at each call."""

    vectors: VectorBlocks
    rows: int
    papers: Callable[[], Iterator[tuple[int, Paper]]]
    dimension: int

    @property
    def bytes(self) -> int:
        """About how much of the disk it takes; of a vector's numbers there are six bytes, with lists and codes."""
        return self.rows * (6 * self.dimension + _BYTES_PER_PAPER)


@dataclass(frozen=True, slots=True)
class Draft:
    """What a new generation shall be, before its files are written.

    `kept` are segments of the parent, taken over by hard link; `added` becomes one new segment, if it has rows;
    `tombstones` are rows counted over the kept segments and then the new one. The lexical index is the parent's, if
    there is one, without `unfound`, which are seqs, and with the papers of `newly_found`. `weak_below` is asked once
    the new generation can be searched, before it is published.
    """

    parent: Generation | None
    kept: tuple[Segment, ...]
    added: SegmentDraft
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
        written = load_array(self.merged.folder / "segments" / MERGED / SEQS)
        return first if np.isin(live, written).all() else None


def check_space(folder: IndexFolder, added: SegmentDraft) -> None:
    """Do nothing if the disk has room for this segment and what goes with it.

    :raises SemsearchError: if not.
    """
    needed = added.bytes + _SPARE_BYTES
    free = shutil.disk_usage(folder.path).free
    if free < needed:
        raise SemsearchError(
            f"{folder.path} has {free / 1e6:,.0f} MB free, the new generation needs {needed / 1e6:,.0f} MB; "
            "what was encoded is safe in the library: free some space and run the same command again"
        )
