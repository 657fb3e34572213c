"""What does one published state of the index consist of, and how is it written, published, verified and opened?

A generation is an immutable folder derived from the library: segments of vectors and columns, a lexical index over all
of them, which rows are dead, which are one work, and a manifest.

```
folder.py      the names of all that stands in an index folder
segment.py     a run of rows
generation.py  the segments laid end to end: what can be asked of them
allowed.py     which of them a question may find
drafts.py      what a new generation shall be
canaries.py    a few questions whose answers are kept, so that a generation can be asked whether it is what it was
files.py       how the files of a new one come to the disk
writing.py     how a new one comes to be the live one, and old ones go
opening.py     how the live one is found, verified and opened
```
"""

from semsearch.generation.allowed import Allowed
from semsearch.generation.drafts import Draft, MergeDraft, MergedSegment, SegmentDraft, check_space
from semsearch.generation.folder import IndexFolder, current_generation, current_space
from semsearch.generation.generation import Generation
from semsearch.generation.opening import (
    STAGED,
    last_spec,
    open_current,
    open_generation,
    open_staged,
    set_aside,
    space_of,
    spec_before,
    spec_of,
)
from semsearch.generation.segment import Segment
from semsearch.generation.writing import KEEP_SECONDS, publish, stage, write_merged

__all__ = [
    "KEEP_SECONDS",
    "STAGED",
    "Allowed",
    "Draft",
    "Generation",
    "IndexFolder",
    "MergeDraft",
    "MergedSegment",
    "Segment",
    "SegmentDraft",
    "check_space",
    "current_generation",
    "current_space",
    "last_spec",
    "open_current",
    "open_generation",
    "open_staged",
    "publish",
    "set_aside",
    "space_of",
    "spec_before",
    "spec_of",
    "stage",
    "write_merged",
]
