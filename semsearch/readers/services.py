"""Which plain fields do the nested records of well-known services make?

OpenAlex writes an abstract as the places of each word, Crossref and CSL-JSON (Zotero) a date as a list of parts,
OpenReview every value inside an object, arXiv's snapshot a date as mail does. Records are told apart by a field that no
other service has; what is not recognised stays as it is.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from semsearch.papers import MAX_ABSTRACT_CHARACTERS
from semsearch.readers import latex

_Fields = Mapping[str, Any]


_TELLING = {"abstract_inverted_index", "content", "container-title", "issued", "externalIds", "versions"}


def plain(fields: _Fields) -> _Fields:
    """Return the record in fields that `fields.py` knows, or as it is."""
    if _TELLING.isdisjoint(fields) and type(fields.get("title")) is not list:
        return fields  # nearly all, so nothing more is looked for in them
    if "abstract_inverted_index" in fields:
        return _openalex(fields)
    if isinstance(fields.get("content"), dict) and "title" in fields["content"]:
        return _openreview(fields)
    if "container-title" in fields or isinstance(fields.get("issued"), dict) or isinstance(fields.get("title"), list):
        return _csl(fields)
    if isinstance(fields.get("externalIds"), dict):
        return _semantic_scholar(fields)
    if isinstance(fields.get("versions"), list) and "update_date" in fields:
        return _arxiv(fields)
    return fields


def _openalex(fields: _Fields) -> _Fields:
    """Return a work of OpenAlex, https://docs.openalex.org/api-entities/works/work-object."""
    made = dict(fields)
    words = made.pop("abstract_inverted_index")
    if not made.get("abstract") and isinstance(words, dict):
        made["abstract"] = _in_order(words)
    if isinstance(name := made.pop("display_name", None), str):
        made.setdefault("title", name)
    venue = _inside(fields, "primary_location", "source", "display_name")
    if isinstance(venue, str):
        made.setdefault("venue", venue)
    page = _inside(fields, "primary_location", "landing_page_url")
    if isinstance(page, str):
        made.setdefault("url", page)
    if isinstance(fields.get("authorships"), list):
        made["authors"] = [_inside(item, "author", "display_name") for item in made.pop("authorships")]
    topics = fields.get("topics") or fields.get("concepts")
    if isinstance(topics, list) and not isinstance(fields.get("keywords"), str):
        made["categories"] = [_inside(topic, "display_name") for topic in topics]
    return {name: value for name, value in made.items() if name not in _OPENALEX_BULK}


_OPENALEX_BULK = {
    *("abstract_inverted_index", "best_oa_location", "concepts", "counts_by_year", "grants", "keywords", "locations"),
    *("mesh", "primary_location", "referenced_works", "related_works", "sustainable_development_goals", "topics"),
}
"""What is long, and tells nothing of what the paper says beyond what was taken from it."""


def _in_order(places: dict[str, Any]) -> str:
    """Return the text of which each word's places are given.

    >>> _in_order({"to": [0, 4], "be": [1, 5], "or": [2], "not": [3]})
    'to be or not to be'
    """
    found: list[tuple[int, str]] = []
    characters = 0
    for word, where in places.items():
        for place in where if isinstance(where, list) else ():
            found += [(place, word)] if isinstance(place, int) else []
            characters += len(word) + 1
            if characters > 2 * MAX_ABSTRACT_CHARACTERS:  # a word may be long and stand everywhere: refused as too long
                return " ".join(each for _, each in found)[: 2 * MAX_ABSTRACT_CHARACTERS]
    return " ".join(word for _, word in sorted(found))


def _openreview(fields: _Fields) -> _Fields:
    """Return a submission of OpenReview, whose second API wraps every value in an object."""
    made = {name: value for name, value in fields.items() if name != "content"}
    for name, value in fields["content"].items():
        made[name] = value["value"] if isinstance(value, dict) and "value" in value else value
    day = next((day for name in ("pdate", "cdate") if (day := _day_of(fields.get(name)))), None)
    return {"date": day} | made


def _day_of(milliseconds: object) -> str | None:
    """Return the day of a time that is counted from 1970 on."""
    if type(milliseconds) is not int or not 0 < milliseconds < _YEAR_3000:
        return None
    return datetime.fromtimestamp(milliseconds / 1_000, UTC).date().isoformat()


_YEAR_3000 = 32_503_680_000_000


def _csl(fields: _Fields) -> _Fields:
    """Return an item of CSL-JSON, or of Crossref, which makes a list of every text."""
    made = dict(fields)
    for name in ("title", "container-title"):
        value = made.get(name)
        if isinstance(value, list):
            made[name] = value[0] if value else None
    is_cited = "container-title" in fields or "issued" in fields
    if is_cited and isinstance(fields.get("id"), str) and not _NAMES_A_PAPER.search(fields["id"]):
        made["citation_key"] = made.pop("id")  # one writer's word for it
    if "container-title" in made:
        made.setdefault("venue", made.pop("container-title"))
    parts = _inside(fields, "issued", "date-parts")
    if isinstance(parts, list) and parts and isinstance(parts[0], list):
        made.setdefault("date", "-".join(str(part) for part in parts[0][:3] if part))
        del made["issued"]
    if "is-referenced-by-count" in made:
        made.setdefault("citations", made.pop("is-referenced-by-count"))
    made.pop("reference", None)  # a list of what it cites, longer than all else
    return made


_NAMES_A_PAPER = re.compile(r"[:/]")


def _semantic_scholar(fields: _Fields) -> _Fields:
    """Return a paper of Semantic Scholar, whose ids elsewhere stand in an object."""
    made = dict(fields)
    ids = fields["externalIds"]
    if isinstance(ids.get("DOI"), str):
        made.setdefault("doi", ids["DOI"])
    if isinstance(ids.get("ArXiv"), str):
        made.setdefault("id", f"arxiv:{ids['ArXiv']}")
    return made


def _arxiv(fields: _Fields) -> _Fields:
    """Return a record of arXiv's metadata snapshot, which is LaTeX, and dated by its first version, as mail is."""
    made = {name: latex.plain(value) if isinstance(value, str) else value for name, value in fields.items()}
    people = made.pop("authors_parsed", None)  # family, given, suffix, and what they say of an institute
    if isinstance(people, list) and all(isinstance(person, list) and len(person) >= 3 for person in people):
        family, given, suffix = 0, 1, 2
        made["authors"] = [
            latex.plain(" ".join(str(person[part]) for part in (given, family, suffix) if person[part]))
            for person in people
        ]
    created = _inside(fields["versions"][0], "created") if fields["versions"] else None
    try:
        day = parsedate_to_datetime(created).date().isoformat() if isinstance(created, str) else None
    except (ValueError, OverflowError):
        day = None
    return {"date": day} | made


def _inside(value: object, *names: str) -> Any:
    """Return what stands under these names, each inside the one before, or None."""
    for name in names:
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value
