"""Which rows may be hits, and how are they spread over years, categories, venues and sources?

```
papers  ── writing.py   one file of columns per segment, in bounded memory
        ── form.py      what stands in that file
        ── reading.py   one segment: rows that meet a condition, counts of what they carry
        ── merging.py   all segments of a generation: rows that meet a filter, facets
```
"""

from semsearch.columns.merging import FACETS, Facet, FacetValue, facets, matching_rows
from semsearch.columns.reading import Columns
from semsearch.columns.writing import write_columns

__all__ = ["FACETS", "Columns", "Facet", "FacetValue", "facets", "matching_rows", "write_columns"]
