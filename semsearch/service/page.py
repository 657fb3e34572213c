"""What does a reader see at "/"?"""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response

from semsearch.envelope import next_offset
from semsearch.papers import Paper
from semsearch.search import Answer, Searcher
from semsearch.service.html import page_link, render
from semsearch.service.live import State
from semsearch.service.refusals import message_of, unavailable
from semsearch.service.routes import live_of
from semsearch.service.schemas import DEFAULT_LIMIT, PageQuery
from semsearch.service.strict import StrictRoute

EXAMPLES = ("predicting the next word", "how is DNA copied?", "learning from few labelled examples")

page = APIRouter(route_class=StrictRoute)


async def _served(request: Request) -> tuple[Searcher | None, State]:
    live = live_of(request)
    return live.searcher, live.state


@page.get("/", include_in_schema=False)
def home(
    served: Annotated[tuple[Searcher | None, State], Depends(_served)], query: Annotated[PageQuery, Query()]
) -> Response:
    """Return the search box, with results below it if something was asked."""
    searcher, state = served
    notice = None if state.status == "ready" else message_of(state)
    if not query.model_fields_set - {"offset"}:
        papers = searcher.generation.papers if searcher else None
        return render("home.html", examples=EXAMPLES, notice=notice, papers=papers)
    if searcher is None:
        raise unavailable(state.reason)
    seed, answer = _answer(searcher, query)
    return render(
        "results.html",
        asked=query,
        seed=seed,
        answer=answer,
        notice=notice,
        previous_page=_link(query, max(0, query.offset - DEFAULT_LIMIT)) if query.offset else None,
        next_page=_next_page(query, answer),
    )


def _answer(searcher: Searcher, query: PageQuery) -> tuple[Paper | None, Answer]:
    """Return the paper whose neighbours were asked for, if any, and the answer."""
    if query.q:
        return None, searcher.search(query.q, DEFAULT_LIMIT, query.offset)
    if query.related:
        return searcher.paper(query.related), searcher.related([query.related], DEFAULT_LIMIT, query.offset)
    return None, searcher.related_to_text(query.title, query.abstract, DEFAULT_LIMIT, query.offset)


def _next_page(query: PageQuery, answer: Answer) -> str | None:
    offset = next_offset(answer.total, DEFAULT_LIMIT, query.offset)
    return None if offset is None else _link(query, offset)


def _link(query: PageQuery, offset: int) -> str:
    asked = query.model_dump(exclude_defaults=True, exclude={"offset"})
    return page_link(**asked, **({"offset": offset} if offset else {}))
