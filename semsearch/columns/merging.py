"""Which rows of a generation meet a filter, and how are they spread? Its segments are laid end to end."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semsearch.columns.form import LABEL_FIELDS
from semsearch.columns.reading import Columns
from semsearch.filters import AllOf, AnyOf, Filter, Ids, LabelField, Not

FACETS = ("year", *LABEL_FIELDS)
"""The names of what `facets` counts."""


def matching_rows(
    columns: Sequence[Columns], wanted: Filter, rows_of_ids: Callable[[Sequence[str]], NDArray[np.int64]]
) -> NDArray[np.bool_]:
    """Return which rows of the generation meet the filter, shape (rows,); dead rows are not left out.

    :param rows_of_ids: gives the rows of the versions of these papers, in any order, -1 for those without one.
    """

    def rows_meeting(part: Filter) -> NDArray[np.bool_]:
        match part:
            case AllOf(parts):
                matching = np.ones(total, dtype=np.bool_)
                for each in parts:
                    matching &= rows_meeting(each)
            case AnyOf(parts):
                matching = np.zeros(total, dtype=np.bool_)
                for each in parts:
                    matching |= rows_meeting(each)
            case Not(negated):
                matching = ~rows_meeting(negated)
            case Ids(ids):
                matching = np.zeros(total, dtype=np.bool_)
                rows = rows_of_ids(ids)
                matching[rows[rows >= 0]] = True
            case _:
                matching = np.concatenate([np.empty(0, np.bool_), *(segment.matches(part) for segment in columns)])
        return matching

    total = sum(segment.rows for segment in columns)
    return rows_meeting(wanted)


@dataclass(frozen=True, slots=True)
class FacetValue:
    """A value and how many papers have it."""

    value: str
    count: int


@dataclass(frozen=True, slots=True)
class Facet:
    """The first values of one facet, and how many values there are beyond them."""

    values: tuple[FacetValue, ...]
    more: int


Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Part:
    """A segment's columns, which of its rows count each, and which count once for all of their work that count here."""

    columns: Columns
    single: NDArray[np.bool_]
    folded: Rows
    works: Rows


def facets(
    columns: Sequence[Columns], among: NDArray[np.bool_], limit: int = 10, folded: tuple[Rows, Rows] | None = None
) -> dict[str, Facet]:
    """Return how the rows of a generation marked in `among`, of shape (rows,), are spread, exactly.

    Years come newest first, since a list of years is read as a time line; labels by count and then by key. Labels that
    a filter does not tell apart are counted as one, so a count is what a filter on its value leaves of the rows.

    :param folded: some of these rows, ascending, and the work of each: rows of one work count once for each value.
    """
    rows, works = folded or (np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))
    single = among.copy()
    single[rows] = False
    ends = np.cumsum([segment.rows for segment in columns], dtype=np.int64)
    assert len(among) == (ends[-1] if len(ends) else 0), "one mark per row"
    parts = []
    for segment, end in zip(columns, ends.tolist(), strict=True):
        start = end - segment.rows
        own = slice(*np.searchsorted(rows, [start, end]))
        parts.append(_Part(segment, single[start:end], rows[own] - start, works[own]))
    found = {"year": _year_facet(parts, limit)}
    for field in LABEL_FIELDS:
        found[field] = _label_facet(parts, field, limit)
    return found


def _year_facet(parts: Sequence[_Part], limit: int) -> Facet:
    counts: Counter[int] = Counter()
    for part in parts:
        counts.update(dict(part.columns.years(part.single)))
    years = np.concatenate([np.empty(0, np.int64), *(part.columns.year_of(part.folded) for part in parts)])
    works = np.concatenate([np.empty(0, np.int64), *(part.works for part in parts)])
    counts.update(_distinct(works[years > 0], years[years > 0]))
    return _facet([(str(year), counts[year]) for year in sorted(counts, reverse=True)], limit)


def _label_facet(parts: Sequence[_Part], field: LabelField, limit: int) -> Facet:
    counts: Counter[str] = Counter()
    labels: dict[str, str] = {}
    numbers: dict[str, int] = {}
    found: list[tuple[Rows, Rows]] = [(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))]
    for part in parts:
        for key, label, count in part.columns.labels(field, part.single):
            counts[key] += count
            labels.setdefault(key, label)
        places, codes, entries = part.columns.labels_of(field, part.folded)
        for key, label in entries:
            labels.setdefault(key, label)
        number_of = np.array([numbers.setdefault(key, len(numbers)) for key, _ in entries], dtype=np.int64)
        found.append((part.works[places], number_of[codes]))
    keys = list(numbers)
    for number, count in _distinct(*(np.concatenate(side) for side in zip(*found, strict=True))).items():
        counts[keys[number]] += count
    return _facet([(labels[key], counts[key]) for key in sorted(counts, key=lambda key: (-counts[key], key))], limit)


def _distinct(works: Rows, values: Rows) -> dict[int, int]:
    """Return how many different works have each value."""
    if not values.size:
        return {}
    width = int(values.max()) + 1
    counts = np.bincount(np.unique(works * width + values) % width)
    present = np.flatnonzero(counts)
    return dict(zip(present.tolist(), counts[present].tolist(), strict=True))


def _facet(values: Sequence[tuple[str, int]], limit: int) -> Facet:
    return Facet(tuple(FacetValue(value, count) for value, count in values[:limit]), max(len(values) - limit, 0))
