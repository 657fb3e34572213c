"""Under which names may the service be addressed, and by pages of which sites?

A page of any site can make its visitor's browser send requests to this machine. It may not read the answers, unless its
own name is made to lead here (DNS rebinding): then the Host header gives it away. It may not change or burden anything
either: the Origin and Sec-Fetch headers, which no script can forge, tell a request that another site's page makes from
a link to here that someone follows.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from fastapi import Request
from starlette.datastructures import Headers

from semsearch.service.clients import is_address, is_loopback
from semsearch.service.refusals import Refusal

_HOST = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::[0-9]{1,5})?")
_EVERY = "*"


@dataclass(frozen=True, slots=True)
class Hosts:
    """The names that are let in: those of this machine for itself, and `allowed`, where `*` stands for all.

    Where the service listens `beyond` this machine, any IP address is let in as well: a name can be made to lead
    here, an address cannot.
    """

    allowed: frozenset[str] = frozenset()
    beyond: bool = False

    @classmethod
    def of(cls, listening_on: str, allowed: Iterable[str] = ()) -> Self:
        """Return what suits a service that listens on this host."""
        beyond = not is_loopback(listening_on)
        own = [listening_on] if beyond and not is_address(listening_on) else []
        return cls(frozenset(name.lower() for name in (*own, *allowed)), beyond)

    def check(self, request: Request) -> None:
        """Do nothing for a request to one of our names that no other site's page makes.

        :raises Refusal: 400 for a Host that is none, 421 for another's, 403 for a page of another site.
        """
        hosts = request.headers.getlist("host")
        found = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
        if not found:
            raise Refusal(400, "send one Host header, a name or an address with or without a port", loc=["header"])
        if not self._is_ours((found["v6"] or found["name"]).lower().removesuffix(".")):
            msg = "this is no name of the service; whoever runs it lets it in with: semsearch serve --allowed-host NAME"
            raise Refusal(421, msg, loc=["header", "host"])
        if not (_is_followed_link(request) or self._is_same_site(request.headers, hosts[0].lower())):
            raise Refusal(403, "pages of other sites may link here and do nothing else", loc=["header", "origin"])

    def _is_ours(self, name: str) -> bool:
        return is_loopback(name) or name in self.allowed or _EVERY in self.allowed or (self.beyond and is_address(name))

    def _is_same_site(self, headers: Headers, host: str) -> bool:
        """Return whether no browser says that another site is behind this.

        A proxy may have put its own name for us into Host, so an Origin of a name that is let in expressly is ours too.
        """
        origins = [origin.lower().partition("://")[2] for origin in headers.getlist("origin")]
        return all(origin and (origin == host or origin in self.allowed) for origin in origins) and headers.get(
            "sec-fetch-site", "none"
        ) in ("none", "same-origin")


def _is_followed_link(request: Request) -> bool:
    return (
        request.method == "GET"
        and "origin" not in request.headers
        and request.headers.get("sec-fetch-mode") == "navigate"
        and request.headers.get("sec-fetch-dest") == "document"
    )
