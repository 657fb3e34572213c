"""Which rows of a segment may be found?"""

from functools import cached_property

import faiss
import numpy as np
from numpy.typing import NDArray


class Selection:
    """The rows that a mask allows, in the forms that scans take; each form is made once, when it is asked for."""

    def __init__(self, mask: NDArray[np.bool_]) -> None:
        """Keep the mask, of shape (rows,), which must not change any more."""
        self.mask = mask

    @cached_property
    def count(self) -> int:
        """How many rows are allowed."""
        return int(np.count_nonzero(self.mask))

    @cached_property
    def share(self) -> float:
        """Which part of the rows is allowed."""
        return self.count / max(len(self.mask), 1)

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """The rows that are allowed, ascending."""
        return np.flatnonzero(self.mask)

    @cached_property
    def selector(self) -> faiss.IDSelector:
        """The mask as FAISS takes it."""
        self._bits = np.packbits(self.mask, bitorder="little")  # FAISS keeps only a pointer to them
        return faiss.IDSelectorBitmap(self._bits)  # type: ignore[call-arg,arg-type]  # its stubs know only C pointers
