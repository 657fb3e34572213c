"""Which filter do people mean by what they type?"""

import re
from collections.abc import Callable, Iterable
from datetime import date

from semsearch.errors import RecordError
from semsearch.filters.conditions import (
    MAX_ALTERNATIVES,
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
    check_count,
)
from semsearch.filters.folding import clean_text, days_of
from semsearch.papers import normalise_published

MAX_CONDITIONS = 100
MAX_NAMED = 1_000
"""Ids in all conditions together, and as many other alternatives: a long filter takes its time from others."""
MAX_VALUE_CHARACTERS = 200_000
"""Room for the longest list of ids."""

_Alternatives = list[tuple[str, bool]]
"""Each alternative and whether a star ended it, which is left out of its text."""


def parse_filter(parameters: Iterable[tuple[str, str]]) -> Filter:
    """Return the filter that these pairs of name and value ask for: all of them must hold.

    In a value, `|` separates alternatives and a leading `!` negates it all; behind a backslash, either is a plain
    character, and so is a `*` (see `escape_label`).

    :raises ValueError: naming the first value that cannot be meant, with an example of one that can.
    """
    pairs = list(parameters)
    if len(pairs) > MAX_CONDITIONS:
        raise ValueError(f"the filter has {len(pairs):,} conditions; at most {MAX_CONDITIONS} are allowed")
    conditions = [_condition(name, value) for name, value in pairs]
    _check_size(conditions)
    _check_days([(name, condition) for (name, _), condition in zip(pairs, conditions, strict=True)])
    return AllOf(tuple(conditions))


def escape_label(label: str) -> str:
    """Return what to type to mean exactly this label, whatever characters it holds."""
    return re.sub(r"[\\|]|\A!|\*\Z", r"\\\g<0>", label)


def _condition(name: str, value: str) -> Filter:
    if name not in _READERS:
        raise ValueError(f"there is no filter {_shown(name)}; there are {', '.join(_READERS)}")
    read, example = _READERS[name]
    try:
        if len(value) > MAX_VALUE_CHARACTERS:
            raise ValueError(f"it has {len(value):,} characters; at most {MAX_VALUE_CHARACTERS:,} are allowed")
        text = clean_text(value)
        negated = text.startswith("!")
        condition = read(_split(text.removeprefix("!")))
    except ValueError as error:
        raise ValueError(f"{name}={_shown(value)}: {error}. Write for example {example}") from None
    return ~condition if negated else condition


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:80] + "…")


_PIECE = re.compile(r"\\(?P<literal>[\\|!*])|(?P<plain>[^\\|* ]+|.)", re.DOTALL)


def _split(text: str) -> _Alternatives:
    alternatives: list[list[str]] = [[]]
    starred = [False]
    for match in _PIECE.finditer(text):
        plain = match["plain"]
        if plain == "|":
            alternatives.append([])
            starred.append(False)
        else:
            alternatives[-1].append(plain or match["literal"])
            starred[-1] = plain == "*" or (plain == " " and starred[-1])
    texts = ["".join(pieces).strip() for pieces in alternatives]
    return [(text.removesuffix("*") if star else text, star) for text, star in zip(texts, starred, strict=True)]


def _plain(alternatives: _Alternatives) -> tuple[str, ...]:
    if any(star for _, star in alternatives):
        raise ValueError("a * stands for the rest of a category, venue or source only")
    if not all(text for text, _ in alternatives):
        raise ValueError("an alternative is empty")
    return tuple(text for text, _ in alternatives)


def _only(alternatives: _Alternatives) -> str:
    texts = _plain(alternatives)
    if len(texts) > 1:
        raise ValueError("it takes one value")
    return texts[0]


def _labels_of(field: LabelField) -> Callable[[_Alternatives], Filter]:
    def read(alternatives: _Alternatives) -> Filter:
        exact = tuple(text for text, star in alternatives if not star)
        return Labelled(field, exact, tuple(text for text, star in alternatives if star))

    return read


_YEARS = re.compile(r"(?P<only>[1-9]\d{3})|(?=-?\d)(?P<first>[1-9]\d{3})?-(?P<last>[1-9]\d{3})?", re.ASCII)
_DAY = re.compile(r"[1-9]\d{3}(?:-\d{1,2}){0,2}", re.ASCII)


def _read_years(alternatives: _Alternatives) -> Filter:
    ranges = _plain(alternatives)
    check_count(len(ranges), MAX_ALTERNATIVES)
    years = tuple(_years(text) for text in ranges)
    return years[0] if len(years) == 1 else AnyOf(years)


def _years(text: str) -> Filter:
    match = _YEARS.fullmatch(text)
    if not match:
        raise ValueError(f"{_shown(text)} is neither a year nor a range of years")
    first, last = match["only"] or match["first"], match["only"] or match["last"]
    return Published(date(int(first), 1, 1) if first else None, date(int(last), 12, 31) if last else None)


def _read_first_day(alternatives: _Alternatives) -> Filter:
    return Published(first=_days(_only(alternatives))[0])


def _read_last_day(alternatives: _Alternatives) -> Filter:
    return Published(last=_days(_only(alternatives))[1])


def _days(text: str) -> tuple[date, date]:
    published = None
    if _DAY.fullmatch(text):
        try:
            published = normalise_published(text)
        except RecordError as error:
            raise ValueError(str(error)) from None
    if published is None:
        raise ValueError(f"{_shown(text)} is neither a year, nor a month, nor a day")
    return days_of(published)


def _read_authors(alternatives: _Alternatives) -> Filter:
    return Author(_plain(alternatives))


def _read_has_doi(alternatives: _Alternatives) -> Filter:
    text = _only(alternatives).casefold()
    if text not in ("true", "false"):
        raise ValueError("it is neither true nor false")
    return HasDoi() if text == "true" else ~HasDoi()


def _read_ids(alternatives: _Alternatives) -> Filter:
    return Ids(_plain(alternatives))


_READERS: dict[str, tuple[Callable[[_Alternatives], Filter], str]] = {
    "year": (_read_years, "year=2020, year=2020-2023, year=2020- or year=-2019"),
    "date_from": (_read_first_day, "date_from=2021, date_from=2021-03 or date_from=2021-03-15"),
    "date_to": (_read_last_day, "date_to=2021, date_to=2021-03 or date_to=2021-03-15"),
    "category": (_labels_of("category"), "category=cs.CL, category=cs.CL|stat.* or category=!cs.CV"),
    "venue": (_labels_of("venue"), "venue=ACL, venue=ACL|EMNLP or venue=Findings*"),
    "source": (_labels_of("source"), "source=arxiv or source=!arxiv*"),
    "author": (_read_authors, "author=Ada Lovelace or author=A. Lovelace|Babbage"),
    "has_doi": (_read_has_doi, "has_doi=true or has_doi=false"),
    "ids": (_read_ids, "ids=arxiv:1706.03762|doi:10.1000/xyz"),
}

FILTER_NAMES = tuple(_READERS)
"""The names that `parse_filter` knows."""


def _check_size(conditions: list[Filter]) -> None:
    ids = others = 0
    for each in conditions:
        condition = each.part if isinstance(each, Not) else each
        match condition:
            case Ids(names):
                ids += len(names)
            case Labelled(_, exact, prefixes):
                others += len(exact) + len(prefixes)
            case Author(names):
                others += len(names)
            case AnyOf(parts):
                others += len(parts)
    if max(ids, others) > MAX_NAMED:
        what = f"{ids:,} ids" if ids > MAX_NAMED else f"{others:,} alternatives"
        raise ValueError(f"the filter names {what} in all; at most {MAX_NAMED:,} are allowed")


def _check_days(conditions: list[tuple[str, Filter]]) -> None:
    # Any two of such conditions can be met by one paper of unknown day: it is the mistake that is refused here.
    days = [(name, condition) for name, condition in conditions if isinstance(condition, Published)]
    firsts = [condition.first for name, condition in days if name == "date_from" and condition.first]
    lasts = [condition.last for name, condition in days if name == "date_to" and condition.last]
    if firsts and lasts and max(firsts) > min(lasts):
        raise ValueError(f"date_to={min(lasts)} is before date_from={max(firsts)}; swap the two")
