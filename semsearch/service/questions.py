"""What may be asked of the service?"""

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from semsearch.filters import FILTER_NAMES, Filter, parse_filter
from semsearch.papers import MAX_ID_CHARACTERS, MAX_TITLE_CHARACTERS
from semsearch.ranking import Mode
from semsearch.search import MAX_QUERY_CHARACTERS, MAX_WINDOW, Collapse, clean_query

MAX_LIMIT = 100
DEFAULT_LIMIT = 10
MAX_SEEDS = 64
MAX_BATCH = 500
MAX_FACET_VALUES = 100
MAX_CURSOR_CHARACTERS = 64
_DIGITS = re.compile(r"[0-9]{1,9}")
_BOOLEANS: dict[str, bool] = {"true": True, "false": False}
_FILTER_ERROR = re.compile(r"(?:.*: (?P<reason>[^'\"]*)\. |.*)Write for example (?P<example>.*)", re.DOTALL)


def _spoken(text: str) -> str:
    clean_query(text)  # raises ValueError with the way out
    return text


def _integer_from(value: object) -> object:
    """Return the integer that a query parameter spells in plain digits; leave anything else to be refused."""
    return int(value) if isinstance(value, str) and _DIGITS.fullmatch(value) else value


def _boolean_from(value: object) -> object:
    """Return what a query parameter says with true or false; leave anything else to be refused."""
    return _BOOLEANS.get(value, value) if isinstance(value, str) else value


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _filled(value: Any) -> list[str]:
    return [each for each in value if each.strip()]


def _way_out(name: str, error: ValueError) -> str:
    """Return the error of `parse_filter` without what it quotes of the client's words."""
    told = _FILTER_ERROR.fullmatch(str(error))
    if not told:
        return str(error)
    reason = told["reason"] or f"this cannot be read as a filter by {name}"
    return f"{reason}; write for example {told['example']}"


def _meant(values: list[str], info: ValidationInfo) -> list[str]:
    assert info.field_name, "it is a field's validator"
    name = info.field_name
    try:
        parse_filter((name, value) for value in values)
    except ValueError as error:
        raise ValueError(_way_out(name, error)) from None
    return values


class _Question(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


_Values = Annotated[
    list[str],
    BeforeValidator(_listed),
    AfterValidator(_meant),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]


def _filter(description: str, *examples: str) -> Any:
    return Field(default=[], description=description, examples=list(examples))


class _Filtered(_Question):
    """Which papers may be results, and where to go on.

    In a filter's value `|` stands between alternatives and a `!` before it all negates it; of a filter that is given
    several times, and of different filters, all must hold.
    """

    SENT_IN: ClassVar[Literal["query", "body"]] = "body"
    FILTERS: ClassVar[tuple[str, ...]] = tuple(name for name in FILTER_NAMES if name != "ids")

    year: _Values = _filter("years: 2020, 2018|2020, 2020-2023, 2020- or -2019", "2020-2023")
    date_from: _Values = _filter("published on this day, month or year, or later", "2021-03")
    date_to: _Values = _filter("published on this day, month or year, or earlier", "2021-03-15")
    category: _Values = _filter("categories; a * at the end stands for any rest", "cs.CL|stat.*")
    venue: _Values = _filter("venues; a * at the end stands for any rest", "ACL|EMNLP")
    source: _Values = _filter("imports that papers came by", "!arxiv*")
    author: _Values = _filter("words of an author's name, in any order; a letter stands for its names", "A. Lovelace")
    has_doi: _Values = _filter("true for papers with a DOI, false for those without", "true")
    collapse: Collapse = Field(default="work", description="whether versions of one work are one result")
    cursor: str | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_CURSOR_CHARACTERS,
        description="`next_cursor` of the page before, instead of an offset: pages stay of one ranking while the index "
        "goes on",
    )

    @model_validator(mode="after")
    def _met_together(self) -> "_Filtered":
        _ = self.where
        return self

    @property
    def conditions(self) -> list[tuple[str, str]]:
        """The filters as pairs of name and value."""
        return [(name, value) for name in self.FILTERS for value in getattr(self, name)]

    @property
    def where(self) -> Filter:
        """Which papers may be results."""
        return parse_filter(self.conditions)


class Asked(_Filtered):
    """What all questions have in common that are answered by a ranking."""

    limit: int = Field(default=DEFAULT_LIMIT, ge=1, le=MAX_LIMIT, description="how many results")
    offset: int = Field(default=0, ge=0, lt=MAX_WINDOW, description="how many results to leave out before them")
    facets: int = Field(
        default=0,
        ge=0,
        le=MAX_FACET_VALUES,
        description="how many values to tell of each facet: of which years, categories, venues and sources the papers "
        "are that could be results",
    )
    approximate: bool = Field(
        default=True, description="false: look at every vector, also where an index is so large that some would do"
    )

    @model_validator(mode="after")
    def _within_window(self) -> "Asked":
        if self.offset + self.limit > MAX_WINDOW:
            raise ValueError(f"offset and limit together may be {MAX_WINDOW:,} at most; ask for an earlier page")
        if self.cursor is not None and "offset" in self.model_fields_set:
            raise ValueError("a cursor says where to go on; leave the offset out")
        return self


class _AskedOfSome(Asked):
    FILTERS = FILTER_NAMES

    ids: _Values = _filter("papers among which to rank, 1,000 at most", "arxiv:1706.03762|doi:10.1000/xyz")


class _AskedInQuery(_AskedOfSome):
    SENT_IN = "query"

    _digits = field_validator("limit", "offset", "facets", mode="before")(_integer_from)
    _booleans = field_validator("approximate", mode="before")(_boolean_from)


Text = Annotated[str, Field(min_length=1, max_length=MAX_QUERY_CHARACTERS), AfterValidator(_spoken)]
Identifier = Annotated[str, Field(min_length=1, max_length=MAX_ID_CHARACTERS)]
_BOTH_NAMES = AliasChoices("q", "query")
_Q = (
    'a question in plain words, or an abstract; `"a phrase"`, `title:word` and `author:name` must be held, `-word` '
    "must not; `query` is another name for it"
)
_MODE = "by meaning and words, by meaning (dense), or by words (lexical)"


class SearchQuery(_AskedInQuery):
    """The query parameters of a search."""

    q: Text = Field(validation_alias=_BOTH_NAMES, description=_Q, examples=["next topic prediction"])
    mode: Mode = Field(default="hybrid", description=_MODE)


class SearchBody(_AskedOfSome):
    """A search whose text is too long for an address, or whose filters are many."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"q": "next topic prediction", "limit": 10, "year": "2020-", "venue": ["!ACL"]}]
        }
    )

    q: Text = Field(validation_alias=_BOTH_NAMES, description=_Q)
    mode: Mode = Field(default="hybrid", description=_MODE)


class RelatedQuery(_AskedInQuery):
    """The query parameters of one paper's neighbours."""


class PastedText(Asked):
    """A paper that the index need not hold; one of its two texts may be blank."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"title": "Attention Is All You Need", "abstract": "We describe the Transformer ..."}],
            "anyOf": [{"required": ["title"]}, {"required": ["abstract"]}],
        }
    )

    title: str = Field(default="", max_length=MAX_TITLE_CHARACTERS)
    abstract: str = Field(default="", max_length=MAX_QUERY_CHARACTERS)

    @model_validator(mode="after")
    def _says_something(self) -> "PastedText":
        clean_query(f"{self.title} {self.abstract}".strip())
        return self


class SeedPapers(Asked):
    """Papers of the index, of which none will be among the answers."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"ids": ["arxiv:1706.03762", "arxiv:1810.04805"]}]})

    ids: list[Identifier] = Field(min_length=1, max_length=MAX_SEEDS)


def _form_of(value: Any) -> str:
    by_ids = isinstance(value, SeedPapers) or (isinstance(value, dict) and "ids" in value)
    return BODY_FORMS[1] if by_ids else BODY_FORMS[0]


BODY_FORMS = ("pasted text", "paper ids")
"""Pydantic puts these into an error's place, where they are no part of what was sent."""
RelatedBody = Annotated[
    Annotated[PastedText, Tag(BODY_FORMS[0])] | Annotated[SeedPapers, Tag(BODY_FORMS[1])],
    Discriminator(_form_of),
]


class RecommendBody(_AskedOfSome):
    """Papers of the index to come near to and to keep away from; none of them will be among the answers."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"positive": ["arxiv:1706.03762"], "negative": ["arxiv:1810.04805"]}]}
    )

    positive: list[Identifier] = Field(
        min_length=1,
        max_length=MAX_SEEDS,
        validation_alias=AliasChoices("positive", "positivePaperIds"),
        description="`positivePaperIds` is another name for it",
    )
    negative: list[Identifier] = Field(
        default=[],
        max_length=MAX_SEEDS,
        validation_alias=AliasChoices("negative", "negativePaperIds"),
        description="`negativePaperIds` is another name for it",
    )


class BatchBody(_Question):
    """Papers by their ids."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"ids": ["arxiv:1706.03762", "10.1000/xyz"]}]})

    ids: list[Identifier] = Field(min_length=1, max_length=MAX_BATCH)


class PageQuery(_Filtered):
    """The query parameters of the page: a question, a paper's id, or a pasted paper."""

    SENT_IN = "query"
    limit: ClassVar[int] = DEFAULT_LIMIT
    facets: ClassVar[int] = 6
    approximate: ClassVar[bool] = True

    q: Text | None = None
    related: Identifier | None = None
    title: str = Field(default="", max_length=MAX_TITLE_CHARACTERS)
    abstract: str = Field(default="", max_length=MAX_QUERY_CHARACTERS)
    mode: Mode = "hybrid"
    offset: int = Field(default=0, ge=0, le=MAX_WINDOW - DEFAULT_LIMIT)

    _digits = field_validator("offset", mode="before")(_integer_from)

    @model_validator(mode="before")
    @classmethod
    def _left_out(cls, values: Any) -> Any:
        """Leave out what an empty field of the form sends."""
        filled = {name: _filled(value) if name in cls.FILTERS else value for name, value in values.items()}
        optional = {*cls.FILTERS, "mode", "collapse"}
        return {name: value for name, value in filled.items() if value or name not in optional}

    @model_validator(mode="after")
    def _one_question(self) -> "PageQuery":
        pasted = {"title", "abstract"} & self.model_fields_set
        if pasted:
            clean_query(f"{self.title} {self.abstract}".strip())
        if sum(map(bool, (self.q, self.related, pasted))) > 1:
            raise ValueError("ask one thing at a time: a question, a paper's neighbours, or a pasted paper's")
        return self
