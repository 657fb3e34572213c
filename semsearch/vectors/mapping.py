"""How is a file of faiss's mapped, if it may say anything of itself?"""

import threading
from pathlib import Path
from typing import Any

import faiss

_ONE_AT_A_TIME = threading.Lock()  # the limits are those of the whole process


def mapped(path: Path) -> Any:
    """Return the index in a file, mapped read-only; nothing in it may be larger, or more often, than it has bytes.

    The file must already have passed its digest: FAISS checks little of what it reads.
    """
    size = path.stat().st_size
    with _ONE_AT_A_TIME:
        faiss.set_deserialization_vector_byte_limit(size)
        faiss.set_deserialization_loop_limit(size)
        return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
