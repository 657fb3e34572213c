"""Which paper do the raw fields of a record make, whatever names its source gave them?

Names are recognised without regard to case, spaces, hyphens and underscores: "Publication Date" is "publicationDate" is
"publication_date". Where several fields could fill one place, the one listed first here does (for a date, the most
precise), and the others are kept in `Paper.extra` as unknown fields are.

What is wrong with the id, the title or the abstract costs the paper. What is wrong with anything else does not: the raw
value is kept in `Paper.extra` under its own name. Text that is no text (NUL, lone surrogates) costs the paper anywhere,
because it tells that the record is damaged.

`Paper.extra` takes 10,000 characters of JSON, nested 32 deep at most. What does not fit, largest first, is left out and
named under `LEFT_OUT`. What a source says of an author besides the name (such as an affiliation) is not kept.
"""

import ast
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, TypeVar

from semsearch.errors import RecordError
from semsearch.papers import (
    MAX_ABSTRACT_CHARACTERS,
    MAX_TITLE_CHARACTERS,
    Paper,
    normalise_id,
    normalise_published,
    normalise_text,
)
from semsearch.readers import markup, services
from semsearch.readers.jsonl import KINDS

MAX_FIELDS = 10_000
MAX_NAMES = 10_000
"""Of authors or categories in one record; a collaboration of 5,000 authors is real."""
MAX_EXTRA_CHARACTERS = 10_000
MAX_EXTRA_DEPTH = 32
LEFT_OUT = "semsearch_left_out"
_ENCODER = json.JSONEncoder(ensure_ascii=False)
_MAX_NAMES_LEFT_OUT = 20

_FIELD_NAMES = {
    "paper_id": "id paper_id arxiv_id acl_id pmid openalex_id _id key entry_id pubmed_id",
    "doi": "doi",
    "title": "title name display_name article_title document_title paper_title",
    "abstract": "abstract summary text description abstract_note abstract_text",
    "authors": "authors author creators author_names author_string",
    "published": "date published publication_date first_publication_date publishedAt publish_time submitted issued year"
    " publication_year pub_year",
    "categories": "categories category subjects fields_of_study keywords author_keywords manual_tags",
    "venue": "venue journal journal_title publication_title source_title booktitle conference publisher_venue",
    "url": "url link pdf_url pdf_link",
    "source": "source",
    "popularity": "popularity citations citation_count upvotes n_citations cited_by_count cited_by times_cited",
}
ABSTRACT_NAMES = _FIELD_NAMES["abstract"].replace(" ", ", ")
_MAX_KNOWN_NAME = 40

_NOTHING = {"nan", "none", "null", "n/a", "no abstract available", "no abstract available.", "[no abstract available]"}
"""What programs write into a known field where there is nothing: tables of pandas, Scopus, PubMed."""
_LONGEST_NOTHING = max(map(len, _NOTHING))


class _Role(NamedTuple):
    """What a field fills, and how early its name is listed for that."""

    name: str
    rank: int


_Candidate = tuple[int, str, Any]
"""A filled field that could fill a role: its rank for that, its name, its value. Plain, since a paper makes ten."""

_Value = TypeVar("_Value")
_Candidates = dict[str, list[_Candidate]]


def _squeezed(key: str) -> str:
    return key.strip().lower().replace("_", "").replace("-", "").replace(" ", "")


_ROLES = {
    spelling: _Role(role, rank)
    for role, names in _FIELD_NAMES.items()
    for rank, name in reversed(list(enumerate(names.split())))  # reversed: "id" comes before "_id" for "Id"
    for spelling in (_squeezed(name), name)
} | {"_id": _Role("paper_id", _FIELD_NAMES["paper_id"].split().index("_id"))}


def role_of(key: str) -> str | None:
    """Return the name of what a field fills, such as "abstract" for "Summary", or None for an unknown one."""
    role = _role(key)
    return role.name if role else None


def paper_of(fields: Mapping[str, Any], default_source: str | None = None) -> Paper:
    """Return the paper that the fields make.

    :raises RecordError: if they make none; the message names the field.
    """
    if len(fields) > MAX_FIELDS:
        raise RecordError(f"the record has {len(fields):,} fields; at most {MAX_FIELDS:,} are allowed")
    candidates, extra = _sorted_out(fields)
    if "abstract" not in candidates:
        raise RecordError(f"the record has no abstract, or a blank one (looked for: {ABSTRACT_NAMES}){_way_in(fields)}")
    fill = partial(_filled, candidates, extra)
    try:
        doi = fill("doi", _text)
        url = fill("url", _web_address)
        paper = Paper.build(
            paper_id=_first(candidates, extra, "paper_id", _identity) or (_named_by(url) if url and not doi else None),
            title=_first(candidates, extra, "title", _prose) or "",
            abstract=_first(candidates, extra, "abstract", _prose) or "",
            authors=fill("authors", partial(_names, split=_people)) or (),
            published=_most_precise_date(candidates, extra),
            categories=fill("categories", partial(_names, split=_subjects)) or (),
            venue=fill("venue", _text),
            url=url,
            doi=doi,
            source=fill("source", _text) or default_source,
            popularity=fill("popularity", _figure),
        )
    except RecordError as error:
        raise RecordError(_bad_text(fields) or str(error)) from None
    if doi and not paper.doi:
        extra.update((key, value) for _, key, value in candidates["doi"] if value is doi)
    return replace(paper, extra=_kept(extra)) if extra else paper


def _way_in(fields: Mapping[str, Any]) -> str:
    """Return how to take out the papers that stand inside of a record, if some seem to."""
    inside = [
        (f"{name}.{key}", value[key]) for name, value in fields.items() if isinstance(value, dict) for key in value
    ]
    for path, items in (*fields.items(), *inside):
        if isinstance(items, list) and items and isinstance(items[0], dict) and _PATH.fullmatch(path):
            return f"; if its list {path} holds papers, take them out, for example with: jq -c '.{path}[]'"
    return ""


_PATH = re.compile(r"[A-Za-z_]{1,30}(?:\.[A-Za-z_]{1,30})?")


_SUFFIX = re.compile(r"[JS]r\.?|I{2,3}|IV|V", re.IGNORECASE)


def given_first(name: str) -> str:
    """Return a name as it is spoken, from a format that writes the family's first.

    >>> given_first("Lovelace, Ada"), given_first("King, Jr., Martin"), given_first("King, Martin, Jr.")
    ('Ada Lovelace', 'Martin King Jr.', 'Martin King Jr.')
    """
    family, *rest = (part.strip() for part in name.split(","))
    given = [part for part in rest if not _SUFFIX.fullmatch(part)]
    suffix = [part for part in rest if _SUFFIX.fullmatch(part)]  # last in RIS, second in BibTeX
    return " ".join(part for part in (*given, family, *suffix) if part)


def readable_id(fields: Mapping[str, Any]) -> str | None:
    """Return the normalised id that the fields name, even if they make no paper, or None."""
    candidates, extra = _sorted_out(fields)
    try:
        if named := _first(candidates, extra, "paper_id", _identity):
            return normalise_id(named)
        if doi := _filled(candidates, extra, "doi", _text):
            return normalise_id(f"doi:{doi.removeprefix('doi:')}")
        address = _filled(candidates, extra, "url", _web_address)
        return _named_by(address) if address else None
    except RecordError:
        return None


def _role(key: str) -> _Role | None:
    return _ROLES.get(key) or (_ROLES.get(_squeezed(key)) if len(key) <= _MAX_KNOWN_NAME else None)


def _sorted_out(fields: Mapping[str, Any]) -> tuple[_Candidates, dict[str, Any]]:
    """Return the filled fields that are recognised, by role and in order of preference, and those that are not."""
    if isinstance(fields.get("paper"), dict):
        fields = _unwrapped(fields)
    fields = services.plain(fields)
    candidates: _Candidates = {}
    extra: dict[str, Any] = {}
    for key, value in fields.items():
        if value is None or value == "" or (isinstance(value, str) and value.isspace()):
            continue
        role = _ROLES.get(key) or _role(key)
        if role is None:
            extra[key] = value
            continue
        if value.__class__ is str and len(value) <= _LONGEST_NOTHING and value.strip().lower() in _NOTHING:
            continue
        name, rank = role
        if name in candidates:
            candidates[name].append((rank, key, value))
            candidates[name].sort(key=_rank)
        else:
            candidates[name] = [(rank, key, value)]
    return candidates, extra


def _rank(candidate: _Candidate) -> int:
    return candidate[0]


def _unwrapped(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a paper nested under "paper", joined by those beside it; "item_" marks what differs."""
    merged = dict(fields["paper"])
    for key, value in fields.items():
        if key == "paper":
            continue
        if key not in merged:
            merged[key] = value
        elif merged[key] != value:
            merged.setdefault(f"item_{key}", value)
    return merged


def _first(candidates: _Candidates, extra: dict[str, Any], role: str, convert: Callable[[str, Any], str]) -> str | None:
    """Return the converted first candidate for something essential; the others become extra."""
    found = candidates.get(role)
    if not found:
        return None
    for _, key, value in found[1:]:
        extra[key] = value
    _, key, value = found[0]
    return convert(key, value)


def _filled(
    candidates: _Candidates, extra: dict[str, Any], role: str, convert: Callable[[object], _Value | None]
) -> _Value | None:
    """Return the first candidate that converts to something of use, or None; the others become extra."""
    filled: _Value | None = None
    for _, key, value in candidates.get(role, ()):
        converted = convert(value) if filled is None else None
        if converted is None or isinstance(converted, _PartOfNames):
            extra[key] = value
        filled = converted if filled is None else filled
    return filled


def _most_precise_date(candidates: _Candidates, extra: dict[str, Any]) -> str | None:
    found = candidates.get("published")
    if not found:
        return None
    dates = [(_date(value), key, value) for _, key, value in found]
    if len(dates) == 1 and dates[0][0]:
        return dates[0][0]
    best = max((date for date, _, _ in dates if date), key=len, default=None)  # of equal length: the first
    for date, key, value in dates:
        if date is None or not (best and best.startswith(date)):
            extra[key] = value
    return best


def _wording(key: str, value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise RecordError(f"the field {key[:_MAX_KNOWN_NAME]!r} is {KINDS[type(value)]}; expected text")


def _prose(key: str, value: object) -> str:
    text = _wording(key, value)
    return markup.plain(text) if len(text) <= MAX_ABSTRACT_CHARACTERS else text  # which is refused as too long


_ARXIV_PARTS = re.compile(r"(\d{3,4})\.(\d{1,5})")


def _identity(key: str, value: object) -> str:
    """Return the id in a form that `normalise_id` takes, with its namespace where the field's name tells it."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    identity = _wording(key, value).strip()
    name = _squeezed(key)
    if name in ("pmid", "pubmedid") and identity.isdecimal():
        return f"pmid:{identity}"
    if name == "openalexid" and identity[:1] in "Ww" and identity[1:].isdecimal():
        return f"openalex:{identity.upper()}"
    if name == "arxivid" and (match := _ARXIV_PARTS.fullmatch(identity)):
        # A table program took the id for a number and cut its outer zeros; from 2015 on, five digits follow the dot.
        month = match[1].zfill(4)
        return f"{month}.{match[2].ljust(5 if month >= '1501' else 4, '0')}"
    return identity


def _named_by(address: str) -> str | None:
    """Return the arXiv id, the DOI or the ACL id that an address names, or None."""
    try:
        identity = normalise_id(address)
    except RecordError:
        return None
    return identity if identity != address.strip() else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and len(value) <= MAX_TITLE_CHARACTERS else None


def _web_address(value: object) -> str | None:
    address = _text(value)
    if address is None:
        return None
    address = address.strip()
    is_web = address[:8].lower().startswith(("http://", "https://")) and len(address.split()) == 1
    return address if is_web and address.partition("://")[2] else None


def _figure(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        figure = float(value)
    except (ValueError, OverflowError):
        return None
    return figure if math.isfinite(figure) else None


def _date(value: object) -> str | None:
    if type(value) is int and 1000 <= value <= 9999:
        return str(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    elif isinstance(value, str):
        value = value.strip().removesuffix(".0")  # a year that a table program took for a number
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    try:
        return normalise_published(_in_figures(value) if isinstance(value, str) else value)
    except (RecordError, ValueError):
        return None


_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = r"(?P<month>" + "|".join(_MONTHS) + r")[a-z]*\.?"
_PARTED_BY_SPACES = re.compile(r"\d{4}(?: \d{1,2}){1,2}")
_SPELLED_DATES = [
    re.compile(rf"(?P<year>\d{{4}})[ -]{_MONTH}(?:[ -](?P<day>\d{{1,2}})\b)?", re.IGNORECASE),
    re.compile(rf"(?:(?P<day>\d{{1,2}})[ -])?{_MONTH},?[ -](?P<year>\d{{4}})", re.IGNORECASE),
    re.compile(rf"{_MONTH} (?P<day>\d{{1,2}}), ?(?P<year>\d{{4}})", re.IGNORECASE),
]


def _in_figures(date: str) -> str:
    """Return a date that names its month in English as an ISO date; of a range, the begin.

    >>> _in_figures("2019 Jun 12"), _in_figures("June 2019"), _in_figures("2019 Jun-Jul"), _in_figures("2019 06 12")
    ('2019-6-12', '2019-6', '2019-6', '2019-06-12')
    """
    if _PARTED_BY_SPACES.fullmatch(date):
        return date.replace(" ", "-")
    for form in _SPELLED_DATES:
        if match := form.match(date):
            parts = (match["year"], _MONTHS.index(match["month"].lower()) + 1, match["day"])
            return "-".join(str(part) for part in parts if part)
    return date


class _PartOfNames(tuple[str, ...]):
    """The names that could be read from a list in which others could not."""


def _names(value: object, split: Callable[[str], list[str]]) -> tuple[str, ...] | None:
    """Return the names in a list or a text, or None; a `_PartOfNames` if the list holds something else too."""
    if isinstance(value, str):
        printed = _printed_list(value)
        value = split(value) if printed is None else printed
    if not isinstance(value, list) or len(value) > MAX_NAMES:
        return None
    names = tuple(name for item in value if (name := _name(item)) is not None)
    return names if len(names) == len(value) else _PartOfNames(names)


def _name(item: object) -> str | None:
    """Return the one name that an item of a list holds: a text, {"name": ...}, {"given": ..., "family": ...} or so."""
    if isinstance(item, str):
        return item if len(item) <= MAX_TITLE_CHARACTERS else None
    if isinstance(item, dict):
        if isinstance(item.get("name"), str):
            item = item["name"]
        elif isinstance(item.get("literal"), str):
            item = item["literal"]
        else:
            parts = (item.get(name) for name in _PARTS_OF_NAMES)
            item = " ".join(part for part in parts if isinstance(part, str)) or None
    return _text(item)


_PARTS_OF_NAMES = ("given", "firstName", "non-dropping-particle", "family", "lastName", "suffix")
"""As CSL-JSON, Crossref and Zotero call them, in the order in which they are spoken."""
_MAX_PRINTED_LIST = 100_000
_ODD_ESCAPE = re.compile(r"\\(?![\\'\"nrtux])")  # a backslash that is text, about which Python would warn


def _printed_list(text: str) -> list[Any] | None:
    """Return a list that a program printed into a table cell, such as "['cs.CL', 'cs.LG']", or None for other text."""
    text = text.strip()
    if text[:1] != "[" or text[-1:] != "]" or len(text) > _MAX_PRINTED_LIST:
        return None
    for parse in (json.loads, ast.literal_eval):
        with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            value = parse(_ODD_ESCAPE.sub(r"\\\\", text))
            return value if isinstance(value, list) else None
    return None


def _people(text: str) -> list[str]:
    """Return the authors named in one text.

    >>> _people("Ada Lovelace; Alan Turing"), _people("Lovelace, Ada and Turing, Alan"), _people("Lovelace, Ada")
    (['Ada Lovelace', 'Alan Turing'], ['Lovelace, Ada', 'Turing, Alan'], ['Lovelace, Ada'])
    >>> _people("Ada Lovelace, Alan Turing and Grace Hopper"), _people("Ada Lovelace, Alan Turing")
    (['Ada Lovelace', 'Alan Turing', 'Grace Hopper'], ['Ada Lovelace', 'Alan Turing'])
    """
    if ";" in text:
        return _split(text, ";")
    people = _split(text, " and ")
    if all(person.count(",") == 1 for person in people):
        return _split(text, ",") if len(people) == 1 and _are_two_full_names(text) else people
    names = [name.removeprefix("and ") for person in people for name in _split(person, ",")]
    # Full names have a space in them; "Lovelace, A., Turing, A." has none, and no comma there is sure to part people.
    return names if len(names) > 2 and all(" " in name for name in names) else people


def _are_two_full_names(text: str) -> bool:
    """Whether a comma parts two people: no "van der Berg, Jan P." does it, and no "Smith Jones, A. B."."""
    first, second = (part.split() for part in text.split(","))
    are_full = len(first) > 1 and len(second) > 1 and not first[0][0].islower()
    return are_full and any(len(word.rstrip(".")) > 1 for word in second)


_ARXIV_CATEGORY = re.compile(r"[a-z][a-z-]*\.[A-Za-z][A-Za-z-]+|[a-z]+-[a-z]{2,4}")


def _subjects(text: str) -> list[str]:
    """Return the categories named in one text.

    >>> _subjects("cs.CL cs.LG"), _subjects("Parsing; Tagging"), _subjects("Genetics and Molecular Biology")
    (['cs.CL', 'cs.LG'], ['Parsing', 'Tagging'], ['Genetics and Molecular Biology'])
    """
    if ";" in text:
        return _split(text, ";")
    words = text.replace(",", " ").split()
    if all(_ARXIV_CATEGORY.fullmatch(word) for word in words):
        return words
    return _split(text, ",") if text.count(",") > 1 else [text]


def _split(text: str, separator: str) -> list[str]:
    return [part for part in (piece.strip() for piece in text.split(separator)) if part]


def _kept(extra: dict[str, Any]) -> dict[str, Any]:
    """Return the extra fields that fit, and under `LEFT_OUT` the names of those that do not.

    :raises RecordError: if one of them holds text that is no text.
    """
    written = {key: _json_of(key, value) for key, value in extra.items()}
    if any(text is None or _is_suspect(text) for text in written.values()) and (problem := _bad_text(extra)):
        raise RecordError(problem)
    sizes = {key: MAX_EXTRA_CHARACTERS + 1 if text is None else len(text) for key, text in written.items()}
    if sum(sizes.values()) <= MAX_EXTRA_CHARACTERS:
        return extra
    total, fitting = 0, set()
    for key in sorted(sizes, key=sizes.__getitem__):
        total += sizes[key]
        if total > MAX_EXTRA_CHARACTERS:
            break
        fitting.add(key)
    names = [key[:_MAX_KNOWN_NAME] for key in extra if key not in fitting]
    if len(names) > _MAX_NAMES_LEFT_OUT:
        names[_MAX_NAMES_LEFT_OUT:] = [f"and {len(names) - _MAX_NAMES_LEFT_OUT} more"]
    return {key: value for key, value in extra.items() if key in fitting} | {LEFT_OUT: names}


def _json_of(key: str, value: object) -> str | None:
    """Return a field as JSON, or None if it is nested too deeply to be kept."""
    try:
        text = _ENCODER.encode({key: value})
    except RecursionError:
        return None
    # The walk takes Python's pace; what is too long to be kept anyway is spared it.
    is_walked = isinstance(value, dict | list) and len(text) <= MAX_EXTRA_CHARACTERS
    return None if is_walked and any(depth > MAX_EXTRA_DEPTH for _, depth in _texts(value)) else text


def _is_suspect(text: str) -> bool:
    """Whether a JSON text may hold a NUL or a lone surrogate; a quick look before a thorough one."""
    if "\\u0000" in text:
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _texts(value: object) -> Iterator[tuple[str, int]]:
    """Return every text inside a JSON value, keys included, with its depth, and an empty one per list and object.

    A loop with a stack of its own: recursion would fail on what the JSON parser could only just read.
    """
    waiting = [(value, 0)]
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, str):
            yield value, depth
        elif isinstance(value, dict):
            yield "", depth
            waiting.extend((part, depth + 1) for pair in value.items() for part in pair)
        elif isinstance(value, list):
            yield "", depth
            waiting.extend((part, depth + 1) for part in value)


def _bad_text(fields: Mapping[str, Any]) -> str | None:
    """Return what is wrong with the first field that holds text that is no text, or None."""
    for key, value in fields.items():
        for text, _ in _texts([key, value]):
            if text.isascii() and "\x00" not in text:
                continue
            try:
                normalise_text(text)
            except RecordError as error:
                return f"the field {key[:_MAX_KNOWN_NAME]!r}: {error}"
    return None
