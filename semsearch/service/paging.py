"""How does a reader go on where a page ended, although the index may have gone on meanwhile?

A page's cursor names the generation that answered, how far it was read, and by a digest the question. The page after it
is cut from the same ranking, so that nothing comes twice and nothing is left out. A cursor is no secret and grants
nothing: the digest only tells mistakes.
"""

import base64
import json
import struct
from dataclasses import dataclass
from hashlib import blake2b

from semsearch.envelope import next_offset
from semsearch.search import MAX_WINDOW, Answer, Page, Searcher
from semsearch.service.live import Searchers
from semsearch.service.questions import Asked, PageQuery
from semsearch.service.refusals import Refusal

_FORM = struct.Struct(">IH4s8s")  # generation, offset, what tells it from one of another index, question; 24 characters
_STALE = "this cursor does not belong to this question; ask again without it, or with the same words and filters"
_GONE = "the state of the index that this cursor belongs to is gone; ask again without it, from the first page"


@dataclass(frozen=True, slots=True)
class Turn:
    """One page of one question, and the searcher from whose ranking it is cut."""

    searcher: Searcher
    page: Page
    question: str

    def cursor(self, offset: int) -> str:
        """Return what leads to the page of the same ranking that begins after `offset` results."""
        generation, identity = self.searcher.generation.manifest.generation, _identity(self.searcher)
        packed = _FORM.pack(generation, offset, identity, _digest(self.question, generation, offset, identity))
        return base64.urlsafe_b64encode(packed).decode()

    def next_cursor(self, answer: Answer) -> str | None:
        """Return what leads to the page behind this answer, None on the last."""
        offset = next_offset(answer, self.page)
        return None if offset is None else self.cursor(offset)


def turn_to(live: Searchers, searcher: Searcher, asked: Asked | PageQuery, *subject: object) -> Turn:
    """Return the page that is asked for.

    :param searcher: the one of the moment, which answers whoever brings no cursor.
    :param subject: JSON values that say what is asked, besides filters and folding.
    :raises Refusal: 400 for a cursor of another question, 410 for one whose generation is gone.
    """
    question = json.dumps([*subject, asked.collapse, repr(asked.where), asked.approximate])
    offset = asked.offset
    if asked.cursor is not None:
        generation, offset, identity, digest = _unpacked(asked)
        if digest != _digest(question, generation, offset, identity):
            raise _stale(asked)
        kept = live.searcher_of(generation)
        if kept is None or _identity(kept) != identity:
            raise Refusal(410, _GONE, loc=[asked.SENT_IN, "cursor"])
        searcher = kept
    if offset + asked.limit > MAX_WINDOW:
        msg = f"this page would end beyond rank {MAX_WINDOW:,}; lower the limit"
        raise Refusal(422, msg, loc=[asked.SENT_IN, "limit"])
    page = Page(asked.limit, offset, asked.where, asked.collapse, asked.facets, asked.approximate)
    return Turn(searcher, page, question)


def _unpacked(asked: Asked | PageQuery) -> tuple[int, int, bytes, bytes]:
    assert asked.cursor is not None, "there is one"
    try:
        generation, offset, identity, digest = _FORM.unpack(base64.b64decode(asked.cursor, b"-_", validate=True))
    except (ValueError, struct.error):
        raise _stale(asked) from None
    return generation, offset, identity, digest


def _stale(asked: Asked | PageQuery) -> Refusal:
    return Refusal(400, _STALE, loc=[asked.SENT_IN, "cursor"])


def _digest(question: str, generation: int, offset: int, identity: bytes) -> bytes:
    return blake2b(f"{generation} {offset} {identity.hex()} {question}".encode(), digest_size=8).digest()


def _identity(searcher: Searcher) -> bytes:
    """Return what tells this generation from the one of its number in an index made anew in the same place."""
    manifest = searcher.generation.manifest
    return blake2b(f"{manifest.created_at} {manifest.last_change}".encode(), digest_size=4).digest()
