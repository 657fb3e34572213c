"""What is in one run of rows?"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from semsearch.arrays import load_array
from semsearch.columns import Columns
from semsearch.errors import GenerationDamageError
from semsearch.generation.folder import CODES, COLUMNS, LISTS, SEQS, TRAITS, VECTORS
from semsearch.manifest import SegmentRecord
from semsearch.traits import read_traits
from semsearch.vectors import Vectors

_LENGTH_TOLERANCE = 0.01  # of its square; an encoder's may be off by a fifth of that


class Segment:
    """An immutable run of rows: their vectors, columns and traits and, ascending, the seqs of their versions."""

    def __init__(self, folder: Path, record: SegmentRecord) -> None:
        """Map the segment's files, whose digests must have been checked."""
        self.name = record.name
        self.rows = record.rows
        self.record = record
        self.vectors = Vectors(folder / VECTORS, folder / LISTS, folder / CODES, record.probing)
        self.seqs: NDArray[np.int64] = load_array(folder / SEQS, "r")
        self.columns = Columns(folder / COLUMNS)
        self.traits = read_traits(folder / TRAITS)
        found = (self.vectors.rows, len(self.seqs), self.columns.rows, len(self.traits.table))
        if found != (record.rows,) * 4:
            raise GenerationDamageError(
                f"segment {record.name} has {found} vectors, seqs, columns and traits, not {record.rows} of each"
            )


def check_segment(segment: Segment, dimension: int, *, vectors: bool = True) -> None:
    """Refuse rows that could never be found, or not be joined to their papers, however sound their files are.

    :param vectors: whether to look at each vector, which reads all of them.
    :raises GenerationDamageError: if vectors are not unit vectors of this dimension, or seqs do not ascend.
    """
    if segment.vectors.dimension != dimension:
        raise GenerationDamageError(
            f"segment {segment.name} has vectors of dimension {segment.vectors.dimension}, "
            f"its manifest says {dimension}"
        )
    if not (np.diff(segment.seqs) > 0).all():
        raise GenerationDamageError(f"the seqs of segment {segment.name} do not ascend")
    if (
        vectors and not (np.abs(segment.vectors.squared_lengths() - 1) <= _LENGTH_TOLERANCE).all()
    ):  # so NaN is wrong, too
        raise GenerationDamageError(f"segment {segment.name} has vectors that are no unit vectors")
