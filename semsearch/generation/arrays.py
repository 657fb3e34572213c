"""How is an array of whole numbers kept in a file?"""

import threading
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from semsearch.durable import FileRecord, write_file

_ONE_HEADER_AT_A_TIME = threading.Lock()
"""numpy reads an array's header by way of `ast`, which in Python 3.11.7 and older fails in two threads at once."""


def load_array(path: Path, mmap_mode: Literal["r"] | None = None) -> NDArray[np.int64]:
    """Return the array in this file, mapped read-only if asked for."""
    with _ONE_HEADER_AT_A_TIME:
        array: NDArray[np.int64] = np.load(path, mmap_mode, allow_pickle=False)
    return array


def write_array(path: Path, array: NDArray[np.int64]) -> FileRecord:
    """Write an array durably; return what its file must be from now on."""
    buffer = BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return write_file(path, buffer.getvalue())
