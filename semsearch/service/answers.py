"""What does the service answer, for /openapi.json?

These models only describe: what is sent is the dicts of semsearch.envelope.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from semsearch.ranking import Mode
from semsearch.search import Collapse


class EntryView(BaseModel):
    """What became of one paper that was sent."""

    position: int = Field(description="in the request, from 0")
    outcome: Literal["new", "changed", "unchanged", "refused"]
    id: str | None = Field(description="as it is stored; null if it has no readable one")
    truncated: bool = Field(description="whether the model reads only the beginning of its text")
    reason: str | None = Field(description="why it is refused")


class AdditionAnswer(BaseModel):
    """What became of the papers that were sent; all but the refused ones are stored for good."""

    new: int
    changed: int
    unchanged: int
    refused: int
    papers: list[EntryView]


class DeletionAnswer(BaseModel):
    """The paper is deleted, or was before."""

    deleted: Literal[True]


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


class SentenceView(BaseModel):
    """A sentence of the abstract: its characters from `start` up to `end`."""

    start: int
    end: int
    text: str


class DenseEvidence(BaseModel):
    """Where the search by meaning put a paper."""

    rank: int | None = Field(description="null beyond its first 1,000")
    cosine: float


class LexicalEvidence(BaseModel):
    """Where the search by words put a paper."""

    rank: int | None = Field(description="null beyond its first 1,000, and for a paper that holds no word of it")
    bm25: float


class EvidenceView(BaseModel):
    """Why a paper is among the results."""

    sentence: SentenceView | None = Field(description="the best one of the abstract; null if none holds a word of it")
    terms: list[str] = Field(description="the telling words of the question that the paper holds in some form")
    dense: DenseEvidence | None = Field(description="null if it was not searched by meaning")
    lexical: LexicalEvidence | None = Field(description="null if it was not searched by words")


class VersionView(BaseModel):
    """Another paper of the same work."""

    id: str
    title: str
    published: str | None
    venue: str | None
    url: str | None
    source: str | None


class ResultView(BaseModel):
    """One result; a higher score is a nearer paper."""

    rank: int = Field(description="from 1, over all pages")
    score: float
    paper: PaperView
    evidence: EvidenceView
    versions: list[VersionView] = Field(description="the other versions of this work; none with collapse=none")


class MetaView(BaseModel):
    """What the results were chosen from and how."""

    total: int = Field(description="how many works could be results; papers with collapse=none")
    total_is_exact: bool = Field(description="false: there may be more")
    took_ms: float
    mode: Mode = Field(description="how it was searched: lexical where the question says nothing about a subject")
    collapse: Collapse
    generation: int = Field(description="the state of the index that answered")
    model: str
    approximate: bool
    recall_at_10: float = Field(description="against exact search")
    weak: bool | None = Field(description="whether nothing in the index is a good answer; null if that is not known")
    limit: int
    offset: int
    next_offset: int | None = Field(description="for the next page; null on the last")
    next_cursor: str | None = Field(description="for the next page of this very ranking; null on the last")


class FacetValueView(BaseModel):
    """A value that a filter of the facet's name takes, and how many could be results with it."""

    value: str
    count: int


class FacetView(BaseModel):
    """The first values of a facet, and how many more there are."""

    values: list[FacetValueView]
    more: int


class FacetsView(BaseModel):
    """How what could be results is spread; years newest first, the others by count."""

    year: FacetView
    category: FacetView
    venue: FacetView
    source: FacetView


class SearchAnswer(BaseModel):
    """One page of results."""

    meta: MetaView
    facets: FacetsView | None = Field(default=None, description="absent if not asked for")
    results: list[ResultView]


class BatchAnswer(BaseModel):
    """The papers in the order of their ids, null for those that the index does not hold."""

    papers: list[PaperView | None]


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
