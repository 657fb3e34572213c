"""Which stored vectors are nearest to a query?

```
selection.py which rows may be found
opening.py   a file of faiss's, mapped or read, within limits
flat.py      every vector of a segment as it is: written, mapped, scanned; the answers are exact
lists.py     the same rows, along their principal axes, in inverted lists, of which a few are looked through
codes.py     the same rows in eight bits for each number: of rows so found, few can be among the nearest
tuning.py    how many lists must be looked through, measured against the exact answers
nearest.py   the nearest rows of a segment, exactly or, where that pays, by way of its lists
```

The only folder that imports faiss. All vectors have unit length, so an inner product is a cosine, and higher is better.
"""

from semsearch.vectors.codes import Codes, write_codes
from semsearch.vectors.flat import Flat, write_vectors
from semsearch.vectors.lists import Lists, write_lists
from semsearch.vectors.nearest import LISTS_FROM, Vectors
from semsearch.vectors.selection import Selection
from semsearch.vectors.tuning import Probing, tuned

RECIPE = f"Flat,inner-product,float32; from {LISTS_FROM:,} rows on with PCA,IVF,PQ4fs and SQ8"

__all__ = [
    "LISTS_FROM",
    "RECIPE",
    "Codes",
    "Flat",
    "Lists",
    "Probing",
    "Selection",
    "Vectors",
    "tuned",
    "write_codes",
    "write_lists",
    "write_vectors",
]
