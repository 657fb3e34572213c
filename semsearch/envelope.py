"""What does an answer look like to whoever asked?

The plain dicts that the service sends and that the command line prints with `--json`: one shape for both. Nothing in
here knows HTTP.
"""

import re
from typing import Any

from semsearch.papers import Paper
from semsearch.search import MAX_WINDOW, Answer, Hit

_FOLDER_NAME = re.compile(r"[/\\~.]|[A-Za-z]:[/\\]")


def answer_envelope(answer: Answer, limit: int, offset: int) -> dict[str, Any]:
    """Return {"meta": ..., "results": [...]} for the page of `limit` hits after the first `offset`."""
    return {"meta": _meta(answer, limit, offset), "results": [_result(hit) for hit in answer.hits]}


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


def next_offset(total: int, limit: int, offset: int) -> int | None:
    """Return where the next page of the same size begins, or None if there is none that may be asked for.

    >>> next_offset(total=25, limit=10, offset=10), next_offset(total=25, limit=10, offset=20)
    (20, None)
    """
    end = offset + limit
    return end if end < total and end + limit <= MAX_WINDOW else None


def public_model_name(name: str) -> str:
    """Return the model's name, a folder's without the folders above it: where things stand is nobody's business.

    >>> public_model_name("all-MiniLM-L6-v2"), public_model_name("owner/name"), public_model_name("/home/ann/mine")
    ('all-MiniLM-L6-v2', 'owner/name', 'mine')
    """
    return re.split(r"[/\\]", name.rstrip("/\\"))[-1] if _FOLDER_NAME.match(name) else name


def _meta(answer: Answer, limit: int, offset: int) -> dict[str, Any]:
    return {
        "total": answer.total,
        "took_ms": answer.took_ms,
        "mode": answer.mode,
        "generation": answer.generation,
        "model": public_model_name(answer.model),
        "approximate": answer.approximate,
        "recall_at_10": answer.recall_at_10,
        "limit": limit,
        "offset": offset,
        "next_offset": next_offset(answer.total, limit, offset),
    }


def _result(hit: Hit) -> dict[str, Any]:
    return {
        "rank": hit.rank,
        "score": hit.score,
        "paper": paper_envelope(hit.paper),
        "evidence": {"dense": {"rank": hit.evidence.dense.rank, "cosine": hit.evidence.dense.cosine}},
    }
