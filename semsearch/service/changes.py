"""How are papers added and deleted over HTTP?

These routes are for the admin alone, and the index's one writer does the work.
"""

import asyncio
import logging
import re
from dataclasses import asdict
from typing import Annotated, Any, get_args

from fastapi import APIRouter, Depends, Header, Request, Security
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response
from fastapi.security import HTTPBearer
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from semsearch.additions import Addition, Additions, Outcome, Report
from semsearch.errors import AdditionsFullError, DiskFullError, IndexBusyError, KeyUsedError
from semsearch.service import answers
from semsearch.service.admin import admitted
from semsearch.service.refusals import Refusal
from semsearch.service.routes import CurrentSearcher, PaperId, live_of, responses
from semsearch.service.strict import StrictRoute, no_parameters

logger = logging.getLogger(__name__)

MAX_PAPERS = 64
MAX_KEY_CHARACTERS = 128
ORIGIN = "api"
_ORIGIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DELETION_SECONDS = 8.0


def _as_origin(text: str) -> str:
    if not _ORIGIN.fullmatch(text):
        raise ValueError("an origin has 1 to 64 letters, digits, dots, hyphens and underscores, and no other first")
    return text


class AddBody(BaseModel):
    """Papers to be added, each with the field names that files of papers may have."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [
                {
                    "papers": [
                        {
                            "id": "arxiv:1706.03762",
                            "title": "Attention Is All You Need",
                            "abstract": "We describe the Transformer ...",
                            "authors": ["Ashish Vaswani", "Noam Shazeer"],
                            "published": "2017-06-12",
                        }
                    ]
                }
            ]
        },
    )

    papers: list[dict[str, Any]] = Field(min_length=1, max_length=MAX_PAPERS)
    origin: Annotated[str, AfterValidator(_as_origin)] = Field(
        default=ORIGIN, description="whose word on these papers this is; each origin may tell a paper differently"
    )


Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=MAX_KEY_CHARACTERS,
        pattern="^[!-~]+$",
        description="names the request: sent again, it gets its first answer for a week, and nothing is done twice",
    ),
]


def _additions_of(request: Request) -> Additions:
    additions: Additions = request.app.state.additions
    return additions


changes = APIRouter(
    route_class=StrictRoute,
    dependencies=[Depends(admitted), Depends(no_parameters), Security(HTTPBearer(auto_error=False))],
)


@changes.post("/papers", summary="Add papers, or change them", responses=responses(answers.AdditionAnswer, 401, 507))
async def add_papers(request: Request, searcher: CurrentSearcher, body: AddBody, key: Key = None) -> Response:
    """Answer when the papers are stored for good; they are found within a second."""
    addition = await run_in_threadpool(Addition.read, body.origin, body.papers, key)
    if not addition.papers:
        raise Refusal(422, _reason(addition), loc=["body", "papers"])
    try:
        report = await asyncio.wrap_future(_additions_of(request).add(addition))
    except KeyUsedError:
        msg = "this key came with another request before; use a new key for a new request"
        raise Refusal(422, msg, loc=["header", "idempotency-key"], kind="key_used") from None
    except (AdditionsFullError, IndexBusyError):
        raise _busy() from None
    except DiskFullError as error:
        raise _no_space(error) from None
    return JSONResponse(_answer_of(report))


def _reason(addition: Addition) -> str:
    position, entry = next(iter(addition.refused.items()))
    return f"none of these is a paper; at position {position}: {entry.reason}"


def _answer_of(report: Report) -> dict[str, Any]:
    papers = [{"position": position, **asdict(entry)} for position, entry in enumerate(report.entries)]
    return {**{outcome: report.counts[outcome] for outcome in get_args(Outcome)}, "papers": papers}


@changes.delete(
    "/papers/{paper_id:path}", summary="Delete a paper", responses=responses(answers.DeletionAnswer, 401, 404, 507)
)
async def delete_paper(request: Request, searcher: CurrentSearcher, paper_id: PaperId) -> Response:
    """Answer when the paper is deleted for good and no search shows it any more."""
    try:
        seq = await asyncio.wrap_future(_additions_of(request).delete(paper_id))
    except (AdditionsFullError, IndexBusyError):
        raise _busy() from None
    except DiskFullError as error:
        raise _no_space(error) from None
    try:
        async with asyncio.timeout(_DELETION_SECONDS):
            await asyncio.wrap_future(live_of(request).without_deleted(seq))
    except TimeoutError:
        msg = "the deletion is stored, but searches may show the paper a while longer; delete it again to be told"
        raise Refusal(503, msg, code="not_yet", headers={"Retry-After": "5"}) from None
    return JSONResponse({"deleted": True})


def _busy() -> Refusal:
    return Refusal(503, "too much is being added just now; send it again", code="busy", headers={"Retry-After": "2"})


def _no_space(error: DiskFullError) -> Refusal:
    logger.error("nothing of a change was stored: %s", error)
    return Refusal(507, "there is no space to store this, and nothing of it was stored; send it again when there is")
