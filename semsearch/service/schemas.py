"""What may be asked, and what comes back?

The models of questions check; the models of answers only describe, for /openapi.json: what is sent is the dicts of
semsearch.envelope.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from semsearch.papers import MAX_ID_CHARACTERS, MAX_TITLE_CHARACTERS
from semsearch.search import MAX_QUERY_CHARACTERS, MAX_WINDOW, clean_query

MAX_LIMIT = 100
DEFAULT_LIMIT = 10
MAX_SEEDS = 64
_DIGITS = re.compile(r"[0-9]{1,9}")


def _spoken(text: str) -> str:
    clean_query(text)  # raises ValueError with the way out
    return text


def _integer_from(value: object) -> object:
    """Return the integer that a query parameter spells in plain digits; leave anything else to be refused."""
    return int(value) if isinstance(value, str) and _DIGITS.fullmatch(value) else value


class _Question(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Page(_Question):
    limit: int = Field(default=DEFAULT_LIMIT, ge=1, le=MAX_LIMIT, description="how many papers")
    offset: int = Field(default=0, ge=0, lt=MAX_WINDOW, description="how many papers to leave out before them")

    @model_validator(mode="after")
    def _within_window(self) -> "_Page":
        if self.offset + self.limit > MAX_WINDOW:
            raise ValueError(f"offset and limit together may be {MAX_WINDOW:,} at most; ask for an earlier page")
        return self


class _QueryPage(_Page):
    _digits = field_validator("limit", "offset", mode="before")(_integer_from)


Text = Annotated[str, Field(min_length=1, max_length=MAX_QUERY_CHARACTERS), AfterValidator(_spoken)]
Identifier = Annotated[str, Field(min_length=1, max_length=MAX_ID_CHARACTERS)]
_BOTH_NAMES = AliasChoices("q", "query")
_Q = "a question in plain words, or an abstract; `query` is another name for it"


class SearchQuery(_QueryPage):
    """The query parameters of a search."""

    q: Text = Field(validation_alias=_BOTH_NAMES, description=_Q, examples=["next topic prediction"])
    mode: Literal["dense"] = Field(default="dense", description="how to search: by meaning")


class SearchBody(_Page):
    """A search whose text is too long for an address."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"q": "next topic prediction", "limit": 10}]})

    q: Text = Field(validation_alias=_BOTH_NAMES, description=_Q)
    mode: Literal["dense"] = Field(default="dense", description="how to search: by meaning")


class RelatedQuery(_QueryPage):
    """The query parameters of one paper's neighbours."""


class PastedText(_Page):
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


class SeedPapers(_Page):
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


class PageQuery(_Question):
    """The query parameters of the page: a question, a paper's id, or a pasted paper."""

    q: Text | None = None
    related: Identifier | None = None
    title: str = Field(default="", max_length=MAX_TITLE_CHARACTERS)
    abstract: str = Field(default="", max_length=MAX_QUERY_CHARACTERS)
    offset: int = Field(default=0, ge=0, le=MAX_WINDOW - DEFAULT_LIMIT)

    _digits = field_validator("offset", mode="before")(_integer_from)

    @model_validator(mode="after")
    def _one_question(self) -> "PageQuery":
        pasted = {"title", "abstract"} & self.model_fields_set
        if pasted:
            clean_query(f"{self.title} {self.abstract}".strip())
        if sum(map(bool, (self.q, self.related, pasted))) > 1:
            raise ValueError("ask one thing at a time: a question, a paper's neighbours, or a pasted paper's")
        return self


# Answers


class PaperView(BaseModel):
    """One paper; what is not known of it is null."""

    id: str = Field(examples=["arxiv:1706.03762"])
    title: str
    abstract: str
    authors: list[str]
    published: str | None = Field(description="an ISO date as precise as it is known: 2017, 2017-06 or 2017-06-12")
    year: int | None
    categories: list[str]
    venue: str | None
    url: str | None
    doi: str | None
    source: str | None = Field(description="the import it came by")
    popularity: float | None
    extra: dict[str, Any] = Field(description="what else its source said")


class DenseEvidence(BaseModel):
    """Where the search by meaning put a paper."""

    rank: int
    cosine: float


class EvidenceView(BaseModel):
    """Why a paper is among the results."""

    dense: DenseEvidence


class ResultView(BaseModel):
    """One result; a higher score is a nearer paper."""

    rank: int = Field(description="from 1, over all pages")
    score: float
    paper: PaperView
    evidence: EvidenceView


class MetaView(BaseModel):
    """What the results were chosen from and how."""

    total: int = Field(description="how many papers could be results")
    took_ms: float
    mode: Literal["dense"]
    generation: int = Field(description="the state of the index that answered")
    model: str
    approximate: bool
    recall_at_10: float = Field(description="against exact search")
    limit: int
    offset: int
    next_offset: int | None = Field(description="for the next page; null on the last")


class SearchAnswer(BaseModel):
    """One page of results."""

    meta: MetaView
    results: list[ResultView]


class HealthView(BaseModel):
    """The process answers."""

    status: Literal["ok"]


class ReadyView(BaseModel):
    """Whether searches are answered from what the index should be ("ready") or not quite ("degraded")."""

    status: Literal["ready", "degraded"]
    reason: str
    msg: str
    generation: int


class StatsView(BaseModel):
    """What is served."""

    version: str
    status: Literal["ready", "degraded"]
    generation: int
    created_at: str
    papers: int
    rows: int = Field(description="vectors held, those of replaced and deleted papers included")
    segments: int
    model: str
    dimension: int
    max_tokens: int
    approximate: bool
    recall_at_10: float


class DetailView(BaseModel):
    """One thing that is wrong with a request and the way out."""

    loc: list[str | int]
    type: str
    msg: str


class ErrorView(BaseModel):
    """Why a request was turned down."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "error": "invalid",
                    "detail": [
                        {
                            "loc": ["query", "limit"],
                            "type": "less_than_equal",
                            "msg": "Input should be less than or equal to 100",
                        }
                    ],
                }
            ]
        }
    )

    error: str
    detail: list[DetailView]
