"""How good are the answers?

```
asking.py       many questions -> what each is worth, asked by several threads
measures.py     one ranking and what is relevant -> nDCG@10, recall@100, MRR
certainty.py    a measure over all questions -> its interval; two runs -> is the difference more than chance
judged.py       a folder of queries and judgements -> scores
overlap.py      two rankings of the same questions -> how alike they are
known_item.py   any index, no judgements -> does it find what is known to be in it
runs.py         scores and setting -> JSON and back; comparing two runs
report.py       the same as a table
```

It stands beside the walk: nothing but the command line uses it. What is evaluated is a function from a query to the
ids of what was found for it, so that it does not matter how that is found.
"""

from semsearch.evaluate.asking import Rank
from semsearch.evaluate.certainty import Comparison
from semsearch.evaluate.judged import JudgedSet, ask_judged, index_corpus
from semsearch.evaluate.known_item import TESTS, KnownItems, Question, ask_known
from semsearch.evaluate.measures import Scores, Subject
from semsearch.evaluate.overlap import Remembered, overlaps
from semsearch.evaluate.report import notes, table
from semsearch.evaluate.runs import (
    JUDGED,
    Run,
    check_comparable,
    compare_runs,
    envelope,
    load_run,
    save_run,
    setting_of,
    side_by_side,
)

__all__ = [
    "JUDGED",
    "TESTS",
    "Comparison",
    "JudgedSet",
    "KnownItems",
    "Question",
    "Rank",
    "Remembered",
    "Run",
    "Scores",
    "Subject",
    "ask_judged",
    "ask_known",
    "check_comparable",
    "compare_runs",
    "envelope",
    "index_corpus",
    "load_run",
    "notes",
    "overlaps",
    "save_run",
    "setting_of",
    "side_by_side",
    "table",
]
