"""How does FAISS map a file, and what does it say when the system does not let it?"""

import errno
import os
from pathlib import Path
from typing import Any

import faiss


def mapped(path: Path) -> Any:
    """Return the index in this file, mapped read-only; the file must already have passed its digest.

    FAISS checks little of what it reads.

    :raises OSError: if the system does not let it read, which FAISS says in words alone.
    """
    try:
        return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        for code in errno.errorcode:
            if str(error).endswith(f": {os.strerror(code)}"):
                raise OSError(code, os.strerror(code), str(path)) from error
        raise
