"""Which questions does the JSON API answer?

Each request takes the live searcher once, at its start, and asks it in a worker thread.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import JSONResponse, Response

from semsearch import __version__
from semsearch.envelope import answer_envelope, paper_envelope, public_model_name
from semsearch.search import Searcher
from semsearch.service import schemas
from semsearch.service.html import STYLE
from semsearch.service.live import LiveSearcher, State
from semsearch.service.refusals import Refusal, message_of, unavailable
from semsearch.service.strict import StrictRoute, no_parameters

_WORDS = {
    400: "malformed: bad JSON, bad percent-encoding, a parameter given twice",
    404: "no such paper",
    408: "the body did not arrive in time",
    413: "the body is too large",
    415: "the body is not plain JSON",
    422: "understood, but not acceptable; `detail` says where and what to do",
    503: "no answer now: starting, no sound index, or too busy; see Retry-After",
}
_RETRY_AFTER = {"Retry-After": {"description": "seconds", "schema": {"type": "string"}}}


def _responses(answer: type[Any], *statuses: int) -> dict[int | str, dict[str, Any]]:
    errors: dict[int | str, dict[str, Any]] = {
        status: {"model": schemas.ErrorView, "description": _WORDS[status]}
        for status in sorted({400, 408, 413, 415, 422, 503, *statuses})
    }
    errors[503]["headers"] = _RETRY_AFTER
    return {200: {"model": answer}} | errors


def live_of(request: Request) -> LiveSearcher:
    """Return the live searcher of the service that got this request."""
    live: LiveSearcher = request.app.state.live
    return live


async def current_searcher(request: Request) -> Searcher:
    """Return the searcher that answers this request from its start to its end.

    :raises Refusal: 503 while there is none.
    """
    live = live_of(request)
    searcher = live.searcher
    if searcher is None:
        raise unavailable(live.state.reason)
    return searcher


CurrentSearcher = Annotated[Searcher, Depends(current_searcher)]
api = APIRouter(route_class=StrictRoute)
_bare = [Depends(no_parameters)]


@api.get("/search", summary="Search by meaning", responses=_responses(schemas.SearchAnswer))
def search(searcher: CurrentSearcher, query: Annotated[schemas.SearchQuery, Query()]) -> Response:
    """Return the papers nearest to a question."""
    return _search(searcher, query)


@api.post("/search", summary="Search with a long text", responses=_responses(schemas.SearchAnswer), dependencies=_bare)
def search_long(searcher: CurrentSearcher, body: schemas.SearchBody) -> Response:
    """Return the papers nearest to a question that is too long for an address."""
    return _search(searcher, body)


def _search(searcher: Searcher, asked: schemas.SearchQuery | schemas.SearchBody) -> Response:
    answer = searcher.search(asked.q, asked.limit, asked.offset)
    return JSONResponse(answer_envelope(answer, asked.limit, asked.offset))


PaperId = Annotated[str, Path(description="arXiv, DOI, ACL or own id", examples=["arxiv:1706.03762"])]

# A paper's id may hold slashes. It is only ever compared with ids in the library and never becomes part of a file's
# path, so "../" in it is just an id that no paper has.


@api.get(
    "/papers/{paper_id:path}/related",
    summary="Papers like this one",
    responses=_responses(schemas.SearchAnswer, 404),
)
def related(searcher: CurrentSearcher, paper_id: PaperId, query: Annotated[schemas.RelatedQuery, Query()]) -> Response:
    """Return the papers nearest to a paper of the index, without that paper."""
    answer = searcher.related([paper_id], query.limit, query.offset)
    return JSONResponse(answer_envelope(answer, query.limit, query.offset))


@api.get(
    "/papers/{paper_id:path}",
    summary="One paper",
    responses=_responses(schemas.PaperView, 404),
    dependencies=_bare,
)
def paper(searcher: CurrentSearcher, paper_id: PaperId) -> Response:
    """Return the paper with this id: arXiv, DOI and ACL ids in any spelling, others as they are."""
    return JSONResponse(paper_envelope(searcher.paper(paper_id)))


@api.post(
    "/related",
    summary="Papers like a pasted one, or like several",
    responses=_responses(schemas.SearchAnswer, 404),
    dependencies=_bare,
)
def related_to(searcher: CurrentSearcher, body: schemas.RelatedBody) -> Response:
    """Return the papers nearest to a title and abstract, or to the mean of several papers of the index."""
    if isinstance(body, schemas.PastedText):
        answer = searcher.related_to_text(body.title, body.abstract, body.limit, body.offset)
    else:
        try:
            answer = searcher.related(body.ids, body.limit, body.offset)
        except ValueError:  # their vectors cancel out
            msg = "there is nothing between these papers; ask for fewer of them"
            raise Refusal(422, msg, loc=["body", "ids"]) from None
    return JSONResponse(answer_envelope(answer, body.limit, body.offset))


@api.get("/healthz", summary="Does the process answer?", responses=_responses(schemas.HealthView), dependencies=_bare)
async def healthz() -> Response:
    """Return 200 whenever the process runs, with or without an index."""
    return JSONResponse({"status": "ok"})


@api.get("/readyz", summary="Are searches answered?", responses=_responses(schemas.ReadyView), dependencies=_bare)
async def readyz(request: Request, searcher: CurrentSearcher) -> Response:
    """Return 200 while searches are answered; "degraded" if not from what the index should be, and why."""
    state = live_of(request).state
    values = {"status": _serving(state), "reason": state.reason, "msg": message_of(state)}
    return JSONResponse(values | {"generation": searcher.generation.manifest.generation})


@api.get("/stats", summary="What is served", responses=_responses(schemas.StatsView), dependencies=_bare)
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
