"""How is an array kept in a file? In numpy's own format, version 1.0."""

import threading
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from semsearch.durable import FileRecord, write_file

_ONE_HEADER_AT_A_TIME = threading.Lock()
"""numpy reads an array's header by way of `ast`, which in Python 3.11.7 and older fails in two threads at once."""


def load_array(path: Path, mmap_mode: Literal["r"] | None = None) -> NDArray[Any]:
    """Return the array in this file, mapped read-only if asked for."""
    with _ONE_HEADER_AT_A_TIME:
        array: NDArray[Any] = np.load(path, mmap_mode, allow_pickle=False)
    return array


def array_header(dtype: np.dtype[Any], rows: int) -> bytes:
    """Return what stands before the items of an array of shape (rows,), for whoever writes these piece by piece."""
    header = BytesIO()
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (rows,)}
    np.lib.format.write_array_header_1_0(header, described)
    return header.getvalue()


def write_array(path: Path, array: NDArray[np.int64]) -> FileRecord:
    """Write an array durably; return what its file must be from now on."""
    buffer = BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return write_file(path, buffer.getvalue())
