"""Which rows of a generation meet a filter, and how are they spread? Its segments are laid end to end."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
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


def facets(columns: Sequence[Columns], among: NDArray[np.bool_], limit: int = 10) -> dict[str, Facet]:
    """Return how the rows of a generation marked in `among`, of shape (rows,), are spread, exactly.

    Years come newest first, since a list of years is read as a time line; labels by count and then by key. Labels that
    a filter does not tell apart are counted as one, so a count is what a filter on its value leaves of the rows.
    """
    parts = np.split(among, np.cumsum([segment.rows for segment in columns])[:-1]) if columns else []
    segments = list(zip(columns, parts, strict=True))
    assert sum(map(len, parts)) == sum(segment.rows for segment in columns), "one mark per row"
    found = {"year": _year_facet(segments, limit)}
    for field in LABEL_FIELDS:
        found[field] = _label_facet(segments, field, limit)
    return found


def _year_facet(segments: Iterable[tuple[Columns, NDArray[np.bool_]]], limit: int) -> Facet:
    counts: Counter[int] = Counter()
    for columns, among in segments:
        counts.update(dict(columns.years(among)))
    return _facet([(str(year), counts[year]) for year in sorted(counts, reverse=True)], limit)


def _label_facet(segments: Iterable[tuple[Columns, NDArray[np.bool_]]], field: LabelField, limit: int) -> Facet:
    counts: Counter[str] = Counter()
    labels: dict[str, str] = {}
    for columns, among in segments:
        for key, label, count in columns.labels(field, among):
            counts[key] += count
            labels.setdefault(key, label)
    return _facet([(labels[key], counts[key]) for key in sorted(counts, key=lambda key: (-counts[key], key))], limit)


def _facet(values: Sequence[tuple[str, int]], limit: int) -> Facet:
    return Facet(tuple(FacetValue(value, count) for value, count in values[:limit]), max(len(values) - limit, 0))
