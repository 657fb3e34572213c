"""Which questions does the JSON API answer?

Each request takes one searcher, at its start, and asks it in a worker thread: that of the moment, or the one whose
pages its cursor goes on with.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import JSONResponse, Response

from semsearch import __version__
from semsearch.envelope import answer_envelope, paper_envelope, public_model_name
from semsearch.errors import PaperNotFoundError
from semsearch.search import Answer, Page, Searcher
from semsearch.service import answers, questions
from semsearch.service.html import STYLE
from semsearch.service.live import LiveSearcher, Searchers, State
from semsearch.service.paging import turn_to
from semsearch.service.refusals import Refusal, message_of, unavailable
from semsearch.service.strict import StrictRoute, no_parameters

_WORDS = {
    400: "malformed: bad JSON, bad percent-encoding, a parameter given twice, a cursor of another question",
    401: "no token, or the wrong one",
    403: "a page of another site is behind this",
    404: "no such paper",
    408: "the head or the body did not arrive in time",
    410: "the cursor's state of the index is gone",
    413: "the body is too large",
    414: "the address is too long",
    415: "the body is not plain JSON",
    421: "the Host header names none of the service's names",
    422: "understood, but not acceptable; `detail` says where and what to do",
    429: "too many requests or connections of one client; see Retry-After",
    431: "the header is too large",
    503: "no answer now: starting, no sound index, or too busy; see Retry-After",
    504: "finding the answer took too long",
    507: "there is no space to store this; nothing of it was stored",
}
_ANYWHERE = set(_WORDS) - {401, 404, 410, 507}
SEARCHERS = "semsearch.searchers"
"""Where a request's scope has what it may be answered by."""
_RETRY_AFTER = {"Retry-After": {"description": "seconds", "schema": {"type": "string"}}}


def responses(answer: type[Any], *statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe a route's answer, the refusals that any route may give and those with these statuses."""
    errors: dict[int | str, dict[str, Any]] = {
        status: {"model": answers.ErrorView, "description": _WORDS[status]}
        for status in sorted({*_ANYWHERE, *statuses})
    }
    errors[429]["headers"] = errors[503]["headers"] = _RETRY_AFTER
    return {200: {"model": answer}} | errors


def live_of(request: Request) -> LiveSearcher:
    """Return the live searcher of the service that got this request."""
    live: LiveSearcher = request.app.state.live
    return live


def searchers_of(request: Request) -> Searchers:
    """Return what this request may be answered by: a worker is told with each, elsewhere it is what is live."""
    searchers: Searchers = request.scope.get(SEARCHERS) or live_of(request)
    return searchers


async def _searchers(request: Request) -> Searchers:
    return searchers_of(request)  # not itself the dependency: only what is async costs no thread


async def current_searcher(request: Request) -> Searcher:
    """Return the searcher that answers this request from its start to its end.

    :raises Refusal: 503 while there is none.
    """
    searchers = searchers_of(request)
    searcher = searchers.searcher
    if searcher is None:
        raise unavailable(searchers.state.reason)
    request.state.generation = searcher.generation.manifest.generation
    return searcher


CurrentSearcher = Annotated[Searcher, Depends(current_searcher)]
Live = Annotated[Searchers, Depends(_searchers)]
api = APIRouter(route_class=StrictRoute)
_bare = [Depends(no_parameters)]


def _ranked(
    live: Searchers,
    searcher: Searcher,
    asked: questions.Asked,
    subject: tuple[object, ...],
    ask: Callable[[Searcher, Page], Answer],
) -> Response:
    """Return the page that `ask` gives of the question told by filters and `subject`."""
    turn = turn_to(live, searcher, asked, *subject)
    answer = ask(turn.searcher, turn.page)
    return JSONResponse(answer_envelope(answer, turn.page, turn.next_cursor(answer)))


@api.get("/search", summary="Search", responses=responses(answers.SearchAnswer, 410))
def search(live: Live, searcher: CurrentSearcher, query: Annotated[questions.SearchQuery, Query()]) -> Response:
    """Return the papers that answer a question."""
    return _search(live, searcher, query)


@api.post(
    "/search",
    summary="Search with a long text or many filters",
    responses=responses(answers.SearchAnswer, 410),
    dependencies=_bare,
)
def search_long(live: Live, searcher: CurrentSearcher, body: questions.SearchBody) -> Response:
    """Return the papers that answer a question that is too long for an address."""
    return _search(live, searcher, body)


def _search(live: Searchers, searcher: Searcher, asked: questions.SearchQuery | questions.SearchBody) -> Response:
    subject = ("search", asked.q, asked.mode)
    return _ranked(live, searcher, asked, subject, lambda chosen, page: chosen.search(asked.q, page, asked.mode))


PaperId = Annotated[str, Path(description="arXiv, DOI, ACL or own id", examples=["arxiv:1706.03762"])]

# A paper's id may hold slashes. It is only ever compared with ids in the library and never becomes part of a file's
# path, so "../" in it is just an id that no paper has.


@api.get(
    "/papers/{paper_id:path}/related",
    summary="Papers like this one",
    responses=responses(answers.SearchAnswer, 404, 410),
)
def related(
    live: Live, searcher: CurrentSearcher, paper_id: PaperId, query: Annotated[questions.RelatedQuery, Query()]
) -> Response:
    """Return the papers nearest to a paper of the index, without that paper."""
    return _neighbours(live, searcher, query, [paper_id])


@api.get(
    "/papers/{paper_id:path}",
    summary="One paper",
    responses=responses(answers.PaperView, 404),
    dependencies=_bare,
)
def paper(searcher: CurrentSearcher, paper_id: PaperId) -> Response:
    """Return the paper with this id: arXiv, DOI and ACL ids in any spelling, others as they are."""
    return JSONResponse(paper_envelope(searcher.paper(paper_id)))


@api.post("/papers/batch", summary="Several papers", responses=responses(answers.BatchAnswer), dependencies=_bare)
def papers(searcher: CurrentSearcher, body: questions.BatchBody) -> Response:
    """Return up to 500 papers, in the order of their ids."""
    return JSONResponse({"papers": [_paper_or_null(searcher, paper_id) for paper_id in body.ids]})


def _paper_or_null(searcher: Searcher, paper_id: str) -> dict[str, Any] | None:
    try:
        return paper_envelope(searcher.paper(paper_id))
    except PaperNotFoundError:
        return None


@api.post(
    "/related",
    summary="Papers like a pasted one, or like several",
    responses=responses(answers.SearchAnswer, 404, 410),
    dependencies=_bare,
)
def related_to(live: Live, searcher: CurrentSearcher, body: questions.RelatedBody) -> Response:
    """Return the papers nearest to a title and abstract, or to several papers of the index."""
    if isinstance(body, questions.SeedPapers):
        return _neighbours(live, searcher, body, body.ids)
    subject = ("text", body.title, body.abstract)
    return _ranked(
        live, searcher, body, subject, lambda chosen, page: chosen.related_to_text(body.title, body.abstract, page)
    )


@api.post(
    "/recommend",
    summary="Papers like these and unlike those",
    responses=responses(answers.SearchAnswer, 404, 410),
    dependencies=_bare,
)
def recommend(live: Live, searcher: CurrentSearcher, body: questions.RecommendBody) -> Response:
    """Return the papers nearest to the positive ones, away from the negative ones."""
    return _neighbours(live, searcher, body, body.positive, body.negative)


def _neighbours(
    live: Searchers, searcher: Searcher, asked: questions.Asked, liked: list[str], disliked: Sequence[str] = ()
) -> Response:
    def ask(chosen: Searcher, page: Page) -> Answer:
        try:
            return chosen.related(liked, page, disliked)
        except ValueError:  # their vectors cancel out
            msg = "there is nothing between these papers; leave some of them out"
            raise Refusal(422, msg, loc=[asked.SENT_IN]) from None

    return _ranked(live, searcher, asked, ("related", liked, disliked), ask)


@api.get("/healthz", summary="Does the process answer?", responses=responses(answers.HealthView), dependencies=_bare)
async def healthz() -> Response:
    """Return 200 whenever the process runs, with or without an index."""
    return JSONResponse({"status": "ok"})


@api.get("/readyz", summary="Are searches answered?", responses=responses(answers.ReadyView), dependencies=_bare)
async def readyz(request: Request, searcher: CurrentSearcher) -> Response:
    """Return 200 while searches are answered; "degraded" if not from what the index should be, and why."""
    state = live_of(request).state
    values = {"status": _serving(state), "reason": state.reason, "msg": message_of(state)}
    return JSONResponse(values | {"generation": searcher.generation.manifest.generation})


@api.get("/stats", summary="What is served", responses=responses(answers.StatsView), dependencies=_bare)
async def stats(request: Request, searcher: CurrentSearcher) -> Response:
    """Return the size, the encoder and the state of the index that is served."""
    manifest = searcher.generation.manifest
    return JSONResponse(
        {
            "version": __version__,
            "status": _serving(live_of(request).state),
            "generation": manifest.generation,
            "created_at": manifest.created_at,
            "papers": manifest.papers,
            "rows": manifest.rows,
            "segments": len(manifest.segments),
            "model": public_model_name(manifest.encoder.name),
            "dimension": manifest.encoder.dimension,
            "max_tokens": manifest.encoder.max_tokens,
            "approximate": manifest.approximate,
            "recall_at_10": manifest.recall_at_10,
        }
    )


def _serving(state: State) -> str:
    return "degraded" if state.status == "degraded" else "ready"


@api.get("/openapi.json", include_in_schema=False, dependencies=_bare)
async def openapi(request: Request) -> Response:
    """Return the description of this API."""
    return JSONResponse(request.app.openapi())


@api.get("/static/style.css", include_in_schema=False, dependencies=_bare)
async def style() -> Response:
    """Return the page's style sheet, the only file served, read once at start."""
    return Response(STYLE, media_type="text/css", headers={"Cache-Control": "max-age=300"})
