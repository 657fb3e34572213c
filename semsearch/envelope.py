"""What does an answer look like to whoever asked?

The plain dicts that the service sends and that the command line prints with `--json`: one shape for both. Nothing in
here knows HTTP.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from semsearch.columns import Facet
from semsearch.lexical import analyse, terms_of
from semsearch.papers import Paper
from semsearch.search import MAX_WINDOW, Answer, Evidence, Hit, LegEvidence, Page

_SNIPPET = 280
_FOLDER_NAME = re.compile(r"[/\\~.]|[A-Za-z]:[/\\]")


def answer_envelope(answer: Answer, page: Page, next_cursor: str | None = None) -> dict[str, Any]:
    """Return {"meta": ..., "facets": ..., "results": [...]}; without "facets" where none were asked for."""
    facets = {} if answer.facets is None else {"facets": _facets(answer.facets)}
    return {"meta": _meta(answer, page, next_cursor), **facets, "results": [_result(hit) for hit in answer.hits]}


def paper_envelope(paper: Paper) -> dict[str, Any]:
    """Return the paper as its reader sees it: every field, an unknown one as null."""
    return {
        "id": paper.paper_id,
        "title": paper.title,
        "abstract": paper.abstract,
        "authors": list(paper.authors),
        "published": paper.published,
        "year": paper.year,
        "categories": list(paper.categories),
        "venue": paper.venue,
        "url": paper.url,
        "doi": paper.doi,
        "source": paper.source,
        "popularity": paper.popularity,
        "extra": dict(paper.extra),
    }


def next_offset(answer: Answer, page: Page) -> int | None:
    """Return where the next page of the same size begins, or None if there is none that may be asked for."""
    end = page.offset + page.limit
    more = end < answer.total or not answer.total_is_exact
    return end if more and end + page.limit <= MAX_WINDOW else None


def snippet(hit: Hit) -> str:
    """Return the sentence of the abstract that answers best, or the abstract's beginning."""
    abstract = hit.paper.abstract
    if hit.evidence.sentence:
        return abstract[slice(*hit.evidence.sentence)]
    return abstract if len(abstract) <= _SNIPPET else abstract[:_SNIPPET].rsplit(" ", 1)[0] + " …"


def in_pieces(text: str, terms: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """Yield the text in pieces, and whether each is a word that is a form of one of these.

    >>> list(in_pieces("It is trained to parse", ["parsing", "train"]))
    [('It is ', False), ('trained', True), (' to ', False), ('parse', True)]
    """
    wanted = {stem for term in terms for stem in analyse(term)}
    end = 0
    for term in terms_of(text):
        if term.text in wanted:
            if term.start > end:
                yield text[end : term.start], False
            yield text[term.start : term.end], True
            end = term.end
    if end < len(text):
        yield text[end:], False


def public_model_name(name: str) -> str:
    """Return the model's name, a folder's without the folders above it: where things stand is nobody's business.

    >>> public_model_name("all-MiniLM-L6-v2"), public_model_name("owner/name"), public_model_name("/home/ann/mine")
    ('all-MiniLM-L6-v2', 'owner/name', 'mine')
    """
    return re.split(r"[/\\]", name.rstrip("/\\"))[-1] if _FOLDER_NAME.match(name) else name


def _meta(answer: Answer, page: Page, next_cursor: str | None) -> dict[str, Any]:
    return {
        "total": answer.total,
        "total_is_exact": answer.total_is_exact,
        "took_ms": answer.took_ms,
        "mode": answer.mode,
        "collapse": page.collapse,
        "generation": answer.generation,
        "model": public_model_name(answer.model),
        "approximate": answer.approximate,
        "recall_at_10": answer.recall_at_10,
        "weak": answer.weak,
        "limit": page.limit,
        "offset": page.offset,
        "next_offset": next_offset(answer, page),
        "next_cursor": next_cursor,
    }


def _facets(facets: dict[str, Facet]) -> dict[str, Any]:
    return {
        name: {"values": [{"value": each.value, "count": each.count} for each in facet.values], "more": facet.more}
        for name, facet in facets.items()
    }


def _result(hit: Hit) -> dict[str, Any]:
    return {
        "rank": hit.rank,
        "score": hit.score,
        "paper": paper_envelope(hit.paper),
        "evidence": _evidence(hit.evidence, hit.paper),
        "versions": [_version(paper) for paper in hit.versions],
    }


def _evidence(evidence: Evidence, paper: Paper) -> dict[str, Any]:
    return {
        "sentence": _sentence(evidence.sentence, paper.abstract),
        "terms": list(evidence.terms),
        "dense": _leg(evidence.dense, "cosine"),
        "lexical": _leg(evidence.lexical, "bm25"),
    }


def _sentence(place: tuple[int, int] | None, abstract: str) -> dict[str, Any] | None:
    return {"start": place[0], "end": place[1], "text": abstract[slice(*place)]} if place else None


def _leg(leg: LegEvidence | None, score: str) -> dict[str, Any] | None:
    return {"rank": leg.rank, score: leg.score} if leg else None


def _version(paper: Paper) -> dict[str, Any]:
    whole = paper_envelope(paper)
    return {name: whole[name] for name in ("id", "title", "published", "venue", "url", "source")}
