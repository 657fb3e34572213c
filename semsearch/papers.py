"""What is a paper, what is it called, and which words of it are searched?

One normalisation of text serves papers and queries alike, so that a query pasted from a paper meets
the same characters that were embedded.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from semsearch.errors import RecordError

MAX_ID_CHARACTERS = 128
MAX_TITLE_CHARACTERS = 2_000
MAX_ABSTRACT_CHARACTERS = 100_000
"""Ten times the longest real abstract we have seen; a book pasted into the field is refused, not cut."""

TEXT_RECIPE = "title-space-abstract-1"
"""Names the rule of `Paper.text`; a generation records it, because it decides what was embedded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Paper:
    """One version of one paper, already normalised: build it with `Paper.build`.

    `published` is an ISO date cut to the precision known: "2017", "2017-06" or "2017-06-12".
    `popularity` is any figure in which more means more popular (citations, upvotes).
    `extra` holds JSON values that semsearch keeps and gives back but does not read.
    """

    paper_id: str
    title: str
    abstract: str
    authors: tuple[str, ...] = ()
    published: str | None = None
    categories: tuple[str, ...] = ()
    venue: str | None = None
    url: str | None = None
    doi: str | None = None
    source: str | None = None
    popularity: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def year(self) -> int | None:
        """The year of publication, if known."""
        return int(self.published[:4]) if self.published else None

    @property
    def text(self) -> str:
        """The string that is embedded: the title, a space, the abstract."""
        return f"{self.title} {self.abstract}".strip()

    def to_json(self) -> str:
        """Return the canonical JSON text: sorted keys, no empty fields, so equal papers are equal texts."""
        filled = [(name, value) for name in _SORTED_FIELD_NAMES if (value := getattr(self, name)) or value == 0]
        return "{" + ",".join([f'"{name}":{_json_of(value)}' for name, value in filled]) + "}"

    @classmethod
    def from_json(cls, text: str) -> "Paper":
        """Return the paper that `to_json` wrote."""
        values = json.loads(text)
        values["authors"] = tuple(values.get("authors", ()))
        values["categories"] = tuple(values.get("categories", ()))
        values.setdefault("title", "")
        return cls(**values)

    @classmethod
    def build(
        cls,
        *,
        title: str,
        abstract: str,
        paper_id: str | None = None,
        authors: tuple[str, ...] = (),
        published: str | int | None = None,
        categories: tuple[str, ...] = (),
        venue: str | None = None,
        url: str | None = None,
        doi: str | None = None,
        source: str | None = None,
        popularity: float | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> "Paper":
        """Return a normalised paper.

        A paper without an id gets its DOI's, or else a stable one made from its text.

        :raises RecordError: if the abstract is blank, a text is too long or not valid text, or the id is unusable.
        """
        clean_title = _bounded("title", title, MAX_TITLE_CHARACTERS)
        clean_abstract = _bounded("abstract", abstract, MAX_ABSTRACT_CHARACTERS)
        if not clean_abstract:
            raise RecordError("the abstract is blank; semsearch searches abstracts")
        clean_doi = _optional_doi(doi)
        if paper_id is not None and paper_id.strip():
            identity = normalise_id(paper_id)
        else:
            identity = (clean_doi and _doi_as_id(clean_doi)) or text_id(clean_title, clean_abstract)
        return cls(
            paper_id=identity,
            title=clean_title,
            abstract=clean_abstract,
            authors=_names(authors),
            published=normalise_published(published),
            categories=_names(categories),
            venue=_optional("venue", venue),
            url=_optional("url", url),
            doi=clean_doi or (identity.removeprefix("doi:") if identity.startswith("doi:") else None),
            source=_optional("source", source),
            popularity=popularity,
            extra=extra or {},
        )


_SORTED_FIELD_NAMES = tuple(sorted(item.name for item in fields(Paper)))
_CANONICAL_JSON = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _json_of(value: object) -> str:
    if type(value) is str:
        return _quoted(value)
    if type(value) is tuple:
        return f"[{','.join(map(_quoted, value))}]"
    return _CANONICAL_JSON.encode(value)


def _quoted(text: str) -> str:
    # Nearly no text needs an escape, and every paper is written anew at each reindex to see whether it changed: this
    # takes a third of the time that the JSON encoder takes to look at each character.
    plain = text.isprintable() and '"' not in text and "\\" not in text
    return f'"{text}"' if plain else _CANONICAL_JSON.encode(text)


_GRAPHEME_JOINER = "\u034f"  # the one character below that Python calls printable
_CONTROL_TO_SPACE = {code: " " for code in (*range(0x01, 0x20), 0x7F, *range(0x80, 0xA0))}
_INVISIBLE: dict[int, str | None] = {
    code: None
    for code in (
        0x00AD,  # soft hyphen
        0x034F,  # combining grapheme joiner
        0x061C,  # Arabic letter mark
        0x180E,  # Mongolian vowel separator
        *range(0x200B, 0x2010),  # zero-width characters and direction marks
        *range(0x202A, 0x202F),  # bidirectional embeddings and overrides
        *range(0x2060, 0x2070),  # word joiner, invisible operators, isolates
        0xFEFF,  # byte order mark
        *range(0xFFF9, 0xFFFC),  # interlinear annotation
        *range(0xE0000, 0xE0080),  # tag characters
    )
}
_CLEANING = _CONTROL_TO_SPACE | _INVISIBLE


def normalise_text(text: str) -> str:
    """Return the text in Unicode NFC, without invisible characters, white space runs as one space.

    :raises RecordError: if the text holds NUL or a lone surrogate: a sign of damaged input, not of language.
    """
    if "\x00" in text:
        raise RecordError("the text holds a NUL character")
    if not text.isprintable() or _GRAPHEME_JOINER in text:  # quicker than to translate every text
        text = text.translate(_CLEANING)
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise RecordError("the text holds a lone surrogate, which is not a character") from None
        text = unicodedata.normalize("NFC", text)
    return " ".join(text.split())


_ID_ALPHABET = re.compile(r"[!-~]+")
_WEB_SCHEME = re.compile(r"^https?://")
_ID_FORBIDDEN = re.compile(r"[\"\\%?#`{}|^]")
_ARXIV = re.compile(
    r"^(?:arxiv:\s*|oai:arxiv\.org:|(?:https?://)?(?:www\.|export\.)?arxiv\.org/(?:abs|pdf|html)/)?"
    r"(?P<number>\d{4}\.\d{4,5}|(?:astro-ph|cond-mat|gr-qc|hep-(?:ex|lat|ph|th)|math-ph|nlin|nucl-(?:ex|th)|physics|quant-ph"
    r"|math|cs|q-bio|q-fin|stat|acc-phys|adap-org|alg-geom|ao-sci|atom-ph|bayes-an|chao-dyn|chem-ph|cmp-lg|comp-gas|dg-ga"
    r"|funct-an|mtrl-th|patt-sol|plasm-ph|q-alg|solv-int|supr-con)(?:\.[a-z]{2})?/\d{7})"
    r"(?:v\d+)?(?:\.pdf)?(?:\s*\[[a-z-]+(?:\.[a-z-]+)?\])?$",  # as stamped on a page: arXiv:2101.00001v2 [cs.CL]
    re.IGNORECASE | re.ASCII,
)
_DOI = re.compile(
    r"^(?:doi:\s*|(?:https?://)?(?:dx\.|www\.)?doi\.org/)?(?P<name>10\.\d{4,9}/\S+)$", re.IGNORECASE | re.ASCII
)
_ACL = re.compile(
    r"^(?:acl:\s*|(?:https?://)?(?:www\.)?(?:aclanthology\.org|aclweb\.org/anthology)/)?"
    r"(?P<name>[a-z]\d{2}-\d{4}|\d{4}\.[a-z0-9_]+-[a-z0-9_]+\.\d+)(?:v\d+)?(?:\.pdf|/)?$",
    re.IGNORECASE | re.ASCII,
)
_OPENALEX = re.compile(r"^(?:openalex:\s*|https?://(?:api\.)?openalex\.org/(?:works/)?)(?P<name>w\d+)$", re.IGNORECASE)
_ARXIV_DOI = re.compile(r"^10\.48550/arxiv\.(?P<number>.+)$", re.IGNORECASE)


def normalise_id(paper_id: str) -> str:
    """Return the one spelling of an id under which a paper is stored and found.

    arXiv, DOI and ACL ids are recognised bare, prefixed or as a web address, OpenAlex's prefixed or as one; a version
    suffix is dropped, a DOI's case is folded. Any other id is kept as it is.

    >>> normalise_id("https://arxiv.org/abs/2101.00001v2"), normalise_id("DOI:10.1000/ABC"), normalise_id("P18-1001")
    ('arxiv:2101.00001', 'doi:10.1000/abc', 'acl:P18-1001')

    :raises RecordError: if the id is empty, longer than 128 characters, or holds a character that no id needs.
    """
    stripped = paper_id.strip()
    if match := _ARXIV.match(stripped):
        return f"arxiv:{match['number'].lower()}"
    if match := _DOI.match(stripped):
        return _doi_id(match["name"])
    if match := _ACL.match(stripped):
        return f"acl:{_acl_case(match['name'])}"
    if match := _OPENALEX.match(stripped):
        return f"openalex:{match['name'].upper()}"
    return _usable_id(stripped)


def _doi_id(name: str) -> str:
    name = name.lower()
    if (preprint := _ARXIV_DOI.match(name)) and (match := _ARXIV.match(preprint["number"])):
        return f"arxiv:{match['number'].lower()}"
    return _usable_id(f"doi:{name}")


def _doi_as_id(doi: str) -> str | None:
    """Return the id that a DOI makes, or None: some hold signs that no id may have, as 10.1002/(SICI)...3.0.CO;2-#."""
    try:
        return normalise_id(f"doi:{doi}")
    except RecordError:
        return None


def _acl_case(name: str) -> str:
    return name.upper() if name[0].isalpha() else name.lower()


def _usable_id(paper_id: str) -> str:
    if not paper_id:
        raise RecordError("the id is empty")
    if len(paper_id) > MAX_ID_CHARACTERS:
        raise RecordError(f"the id has {len(paper_id)} characters; at most {MAX_ID_CHARACTERS} are allowed")
    if not _ID_ALPHABET.fullmatch(paper_id) or _ID_FORBIDDEN.search(paper_id):
        raise RecordError(
            "the id may hold printable ASCII characters only, without spaces, quotes, and any of % ? # \\ ` { } | ^"
        )
    if any(part in ("", ".", "..") for part in _WEB_SCHEME.sub("", paper_id).removesuffix("/").split("/")):
        raise RecordError("the id has an empty, '.' or '..' part between slashes")
    return paper_id


def text_id(title: str, abstract: str) -> str:
    """Return the id of a paper that has none: "text:" and 20 hexadecimal digits of its normalised text's SHA-256."""
    folded = f"{title}\n{abstract}".casefold()
    return f"text:{hashlib.sha256(folded.encode()).hexdigest()[:20]}"


_PUBLISHED = re.compile(r"^(?P<year>\d{4})(?:[-/](?P<month>\d{1,2})(?:[-/](?P<day>\d{1,2}))?)?(?:[T ].*)?$", re.ASCII)


def normalise_published(value: str | int | None) -> str | None:
    """Return an ISO date of the precision given ("2017", "2017-06", "2017-06-12"), or None for nothing.

    :raises RecordError: if the value is not a year or an ISO date, or names no real day.
    """
    if value is None or (text := str(value).strip()) == "":
        return None
    match = _PUBLISHED.match(text)
    if not match:
        raise RecordError(f"the date {text[:40]!r} is neither a year nor an ISO date such as 2017-06-12")
    year, month, day = match["year"], match["month"], match["day"]
    if (
        int(year) < 1000
        or (month and not 1 <= int(month) <= 12)
        or (day and not _real_day(int(year), int(month), int(day)))
    ):
        raise RecordError(f"the date {text[:40]!r} names no real day")
    return "-".join([year, *(f"{int(part):02d}" for part in (month, day) if part)])


def _real_day(year: int, month: int, day: int) -> bool:
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    return 1 <= day <= (31, 29 if leap else 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)[month - 1]


def _bounded(name: str, value: str, limit: int) -> str:
    if len(value) > limit:
        raise RecordError(f"the {name} has {len(value):,} characters; at most {limit:,} are allowed")
    try:
        return normalise_text(value)
    except RecordError as error:
        raise RecordError(f"{name}: {error}") from None


def _optional(name: str, value: str | None) -> str | None:
    return (_bounded(name, value, MAX_TITLE_CHARACTERS) or None) if value is not None else None


def _optional_doi(value: str | None) -> str | None:
    text = _optional("doi", value)
    match = _DOI.match(text) if text else None
    return match["name"].lower() if match else None


def _names(values: tuple[str, ...]) -> tuple[str, ...]:
    cleaned = (_bounded("list", value, MAX_TITLE_CHARACTERS) for value in values)
    return tuple(value for value in cleaned if value)
