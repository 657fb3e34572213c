"""What does a reader see at "/"?"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response

from semsearch.columns import Facet
from semsearch.envelope import next_offset
from semsearch.filters import escape_label
from semsearch.papers import Paper
from semsearch.search import Answer, Searcher
from semsearch.service.html import FILTER_LABELS, page_link, render
from semsearch.service.live import Searchers, State
from semsearch.service.paging import Turn, turn_to
from semsearch.service.questions import PageQuery
from semsearch.service.refusals import Refusal, message_of, unavailable
from semsearch.service.routes import searchers_of
from semsearch.service.strict import StrictRoute

EXAMPLES = ("predicting the next word", "how is DNA copied?", "learning from few labelled examples")
_CHANGED = "the index has changed since you began to read; these are the first results that it gives now"
_MODES = {"dense": "meaning only", "lexical": "words only"}

page = APIRouter(route_class=StrictRoute)


async def _served(request: Request) -> tuple[Searchers, Searcher | None, State]:
    live = searchers_of(request)
    searcher = live.searcher
    if searcher:
        request.state.generation = searcher.generation.manifest.generation
    return live, searcher, live.state


@page.get("/", include_in_schema=False)
def home(
    served: Annotated[tuple[Searchers, Searcher | None, State], Depends(_served)],
    query: Annotated[PageQuery, Query()],
) -> Response:
    """Return the search box, with results below it if something was asked."""
    live, searcher, state = served
    notice = None if state.status == "ready" else message_of(state)
    if not {"q", "related", "title", "abstract"} & query.model_fields_set:
        papers = searcher.generation.papers if searcher else None
        return render("home.html", examples=EXAMPLES, asked=query, notice=notice, papers=papers)
    if searcher is None:
        raise unavailable(state.reason)
    turn, changed = _turn(live, searcher, query)
    seed, answer = _answer(turn, query)
    return render(
        "results.html",
        asked=query,
        seed=seed,
        answer=answer,
        notice=_CHANGED if changed else notice,
        conditions=list(_conditions(query)),
        facets=list(_narrowing(query, answer.facets or {})),
        previous_page=_previous_page(query, turn),
        next_page=_next_page(query, turn, answer),
    )


def _turn(live: Searchers, searcher: Searcher, query: PageQuery) -> tuple[Turn, bool]:
    """Return the page to show, and whether it is another than asked for, because that one's ranking is gone."""
    subject = ("page", query.q, query.related, query.title, query.abstract, query.mode)
    try:
        return turn_to(live, searcher, query, *subject), False
    except Refusal as refusal:
        if refusal.status_code != 410:
            raise
    return turn_to(live, searcher, query.model_copy(update={"cursor": None}), *subject), True


def _answer(turn: Turn, query: PageQuery) -> tuple[Paper | None, Answer]:
    """Return the paper whose neighbours were asked for, if any, and the answer."""
    searcher = turn.searcher
    if query.q:
        return None, searcher.search(query.q, turn.page, query.mode)
    if query.related:
        return searcher.paper(query.related), searcher.related([query.related], turn.page)
    return None, searcher.related_to_text(query.title, query.abstract, turn.page)


# Links


def _parameters(query: PageQuery) -> dict[str, Any]:
    """Return what was asked, the question first, without the place in its answer."""
    asked = query.model_dump(exclude_defaults=True, exclude={"offset", "cursor"})
    return dict(sorted(asked.items(), key=lambda item: item[0] in query.FILTERS))


def _next_page(query: PageQuery, turn: Turn, answer: Answer) -> str | None:
    offset = next_offset(answer, turn.page)
    return None if offset is None else page_link(**_parameters(query), cursor=turn.cursor(offset))


def _previous_page(query: PageQuery, turn: Turn) -> str | None:
    if not turn.page.offset:
        return None
    offset = max(0, turn.page.offset - turn.page.limit)
    return page_link(**_parameters(query), **({"cursor": turn.cursor(offset)} if offset else {}))


@dataclass(frozen=True, slots=True)
class Condition:
    """A filter that holds, and the address of the same question without it."""

    name: str
    value: str
    without: str


def _conditions(query: PageQuery) -> Iterator[Condition]:
    parameters = _parameters(query)
    if query.mode != "hybrid":
        yield Condition("Search by", _MODES[query.mode], page_link(**parameters | {"mode": []}))
    for name, value in query.conditions:
        others = [other for other in parameters[name] if other != value]
        yield Condition(FILTER_LABELS[name], value, page_link(**parameters | {name: others}))


@dataclass(frozen=True, slots=True)
class Narrowing:
    """The values of one facet, each with its count and the address of the same question among its papers only."""

    name: str
    values: tuple[tuple[str, int, str], ...]
    more: int


def _narrowing(query: PageQuery, facets: dict[str, Facet]) -> Iterator[Narrowing]:
    """Yield the facets that can narrow the question further."""
    parameters = _parameters(query)
    for name, facet in facets.items():
        chosen = parameters.get(name, [])
        links = tuple(
            (each.value, each.count, page_link(**parameters | {name: [*chosen, escape_label(each.value)]}))
            for each in facet.values
            if escape_label(each.value) not in chosen
        )
        if links and len(facet.values) + facet.more > 1:
            yield Narrowing(FILTER_LABELS[name], links, facet.more)
