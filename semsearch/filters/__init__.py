"""Which papers does a filter mean, and how do people type one?

A filter is a tree of conditions joined by `&`, `|` and `~`: frozen, hashable, without any I/O. `parse_filter` reads
what stands in an address or on a command line:

    year=2020   year=2020-2023|2017   date_from=2021-03   date_to=2021-03-15   has_doi=true   author=Ada Lovelace
    category=cs.CL|stat.*   category=!cs.CV   venue=ACL|EMNLP   source=arxiv*   ids=arxiv:1706.03762|doi:10.1000/xyz

```
folding.py      what of a date, a label, a name is compared, of papers and of filters alike
conditions.py   the filter itself
parsing.py      what people type -> filter
```

What a condition means:

* A paper's date is the interval of all days that it may mean ("2017" is the whole of 2017); a condition holds when the
  intervals overlap, so that no filter hides a paper that may be meant. A paper without a date meets no date condition.
* `~` gives exactly the other papers, those that know nothing about the field among them.
* Categories, venues and sources are compared whole, without regard to case or white space, since "cs.C" is no "cs.CL";
  a `*` at the end stands for any rest, and so `venue=*` are the papers that have a venue.
* An author is found by any words of one name in any order, whatever case and accents: each word typed stands for a word
  of its own, a single letter for one that begins with it. So "W. Wang" finds Wei Wang and not Li Wang. A full word does
  not find a bare initial: whoever types "Wei Wang" does not ask for all W. Wangs, and can.
"""

from semsearch.filters.conditions import (
    EVERY_PAPER,
    AllOf,
    AnyOf,
    Author,
    Filter,
    HasDoi,
    Ids,
    LabelField,
    Labelled,
    Not,
    Published,
)
from semsearch.filters.folding import days_of, fold_label, fold_name, fold_title
from semsearch.filters.parsing import FILTER_NAMES, escape_label, parse_filter

__all__ = [
    "EVERY_PAPER",
    "FILTER_NAMES",
    "AllOf",
    "AnyOf",
    "Author",
    "Filter",
    "HasDoi",
    "Ids",
    "LabelField",
    "Labelled",
    "Not",
    "Published",
    "days_of",
    "escape_label",
    "fold_label",
    "fold_name",
    "fold_title",
    "parse_filter",
]
