"""How is a file of faiss's opened, if it may say anything of itself, and what if the system does not let it be?"""

import errno
import os
import threading
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

_ONE_AT_A_TIME = threading.Lock()  # the limits are those of the whole process


def opened(path: Path, room: int = 0, *, in_memory: bool = False) -> Any:
    """Return the index in a file, mapped read-only; nothing in it may be larger, or more often, than it has bytes.

    The file must already have passed its digest: FAISS checks little of what it reads.

    :param room: how many bytes a part may have at least, where FAISS asks for more than the file holds.
    :param in_memory: read it instead.
    :raises OSError: if the system does not let it be read, which FAISS says in words alone.
    """
    size = path.stat().st_size
    with _ONE_AT_A_TIME:
        faiss.set_deserialization_vector_byte_limit(max(size, room))
        faiss.set_deserialization_loop_limit(size)
        try:
            return faiss.read_index(str(path), 0 if in_memory else faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError as error:
            for code in errno.errorcode:
                if str(error).endswith(f": {os.strerror(code)}"):
                    raise OSError(code, os.strerror(code), str(path)) from error
            raise


def vectors_of(index: Any, owner: Any = None) -> NDArray[np.float32]:
    """Return the vectors of a flat index, shape (rows, dimension), read-only: its own memory, which they keep alive.

    :param owner: the index that this one is a part of, and goes with.
    """
    return np.asarray(_Memory(index, owner))


class _Memory:
    """What numpy makes an array of that keeps the index alive, whose memory it is."""

    def __init__(self, index: Any, owner: Any) -> None:
        self.index, self.owner = index, owner
        self.__array_interface__ = {
            "data": (int(index.get_xb() or 0), True),  # True: it cannot be written
            "shape": (index.ntotal, index.d),
            "typestr": "<f4",
            "version": 3,
        }
