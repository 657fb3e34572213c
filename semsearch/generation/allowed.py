"""Which rows of a generation may be found?"""

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from semsearch.vectors import Selection

if TYPE_CHECKING:
    from semsearch.generation.generation import Generation


class Allowed:
    """The rows that a mask allows, in the forms that are asked for; each is made once, then."""

    def __init__(self, generation: "Generation", mask: NDArray[np.bool_]) -> None:
        """Keep the mask, of shape (rows,), which must not change any more; dead rows must not be in it."""
        self.mask = mask
        self._generation = generation

    @cached_property
    def in_segments(self) -> tuple[Selection, ...]:
        """The rows of each segment that are allowed."""
        places = zip(self._generation.starts, self._generation.segments, strict=False)
        return tuple(Selection(self.mask[start : start + segment.rows]) for start, segment in places)

    @cached_property
    def count(self) -> int:
        """How many rows are allowed."""
        return sum(selection.count for selection in self.in_segments)

    @cached_property
    def seqs(self) -> NDArray[np.int64]:
        """The seqs of the versions at these rows, ascending."""
        return np.sort(self._generation.seqs_at(np.flatnonzero(self.mask)))

    @cached_property
    def works(self) -> int:
        """How many works the allowed rows are."""
        return self._generation.works.count(self.mask)
