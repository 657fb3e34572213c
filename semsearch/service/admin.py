"""Who may change the index?

Whoever holds the token. It is looked at before anything else of a request is, and no byte of a body is read without
it. Where no token is set up, these addresses are as unknown as any other.
"""

import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from fastapi import Request

from semsearch.service.refusals import CLOSE, Refusal, plain_refusal

_FEWEST_TOKEN_CHARACTERS = 20
_TOKEN = re.compile(r"[!-~]+")
_ADMITTED = "semsearch.admitted"


@dataclass(frozen=True, slots=True)
class Admin:
    """The one who may change the index, known by the SHA-256 of a token."""

    token_sha256: bytes

    @classmethod
    def of(cls, token: str) -> Self:
        """Return who holds this token.

        :raises ValueError: if it could be guessed, or sent by no client.
        """
        if len(token) < _FEWEST_TOKEN_CHARACTERS or not _TOKEN.fullmatch(token):
            raise ValueError(
                f"an admin token has {_FEWEST_TOKEN_CHARACTERS} characters or more, of printable ASCII without spaces; "
                "make one with: openssl rand -hex 32"
            )
        return cls(hashlib.sha256(token.encode()).digest())

    def holds(self, token: str) -> bool:
        """Return whether this is the token, in a time that does not tell how much of it is right."""
        return hmac.compare_digest(hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest(), self.token_sha256)


def is_for_admin(request: Request) -> bool:
    """Return whether a request would change the index."""
    method, path = request.method, request.scope["path"]
    return (method == "POST" and path == "/papers") or (method == "DELETE" and path.startswith("/papers/"))


def check_admin(request: Request, admin: Admin | None) -> None:
    """Let a request pass that would change nothing, or comes with the token.

    :raises Refusal: and closes the connection, because nobody will read what follows in it.
    """
    if not is_for_admin(request):
        return
    if admin is None:
        raise plain_refusal(404, CLOSE)
    scheme, _, token = _only(request.headers.getlist("authorization")).partition(" ")
    if scheme.lower() != "bearer" or not admin.holds(token.strip()):
        msg = "this changes the index and takes the token of whoever runs the service: Authorization: Bearer TOKEN"
        raise Refusal(401, msg, loc=["header", "authorization"], headers=CLOSE | {"WWW-Authenticate": "Bearer"})
    request.scope[_ADMITTED] = True


def _only(values: Sequence[str]) -> str:
    return values[0] if len(values) == 1 else ""


async def admitted(request: Request) -> None:
    """Refuse what the gate has not admitted: it must have seen every request that comes here."""
    if not request.scope.get(_ADMITTED):
        raise plain_refusal(404)
