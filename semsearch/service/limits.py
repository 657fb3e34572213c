"""How much does one service take?"""

from dataclasses import dataclass
from typing import Self

from semsearch.service.clients import is_loopback

_STRANGERS_PER_MINUTE = 60


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes, seconds and numbers; what goes beyond is refused or cut off.

    `address_bytes` leave room for a pasted abstract, each character of it percent-encoded to nine. `answer_seconds`
    are for finding an answer, `reading_seconds` for the client to take it. Clients on this machine count as many: they
    may be a proxy, so `connections_per_client` is not for them. Of more than `unread_answers` that clients do not
    take, the oldest goes. `requests_per_minute` are each client's; 0: any.
    """

    head_seconds: float = 5.0
    body_seconds: float = 10.0
    answer_seconds: float = 10.0
    reading_seconds: float = 30.0
    idle_seconds: float = 5.0
    address_bytes: int = 32 * 1024
    header_bytes: int = 16 * 1024
    header_fields: int = 100
    body_bytes: int = 64 * 1024
    admin_body_bytes: int = 8 * 1024 * 1024
    connections: int = 4_096
    connections_per_client: int = 64
    unread_answers: int = 64
    requests_at_once: int = 64
    requests_per_minute: int = 0

    @classmethod
    def of(cls, listening_on: str, requests_per_minute: int | None = None) -> Self:
        """Return what suits a service that listens on this host; the rate is by default for strangers only."""
        if requests_per_minute is None:
            requests_per_minute = 0 if is_loopback(listening_on) else _STRANGERS_PER_MINUTE
        return cls(requests_per_minute=requests_per_minute)
