"""What is known about every paper, and which embeddings were ever computed? The only room that speaks SQL.

```
rows.py        what stands in a row, and how damage of it is noticed
file.py        how the file is opened, and what SQLite says of it
condition.py   what in the file is not what was written, and what of that can be made anew
library.py     what can be asked of it, and how it is written
```
"""

from semsearch.library.condition import Mended
from semsearch.library.library import Library, LibraryCounts
from semsearch.library.rows import Embedding, Receipt, Version, content_digest, text_digest

__all__ = [
    "Embedding",
    "Library",
    "LibraryCounts",
    "Mended",
    "Receipt",
    "Version",
    "content_digest",
    "text_digest",
]
