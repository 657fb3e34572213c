"""How does an answer become a page?

Server-rendered, without JavaScript. Everything a paper or a reader wrote is escaped text; the only thing of theirs that
becomes an address is a link whose scheme is http or https.
"""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlencode, urlsplit

from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from semsearch.envelope import in_pieces, snippet

UI_HEADERS = {  # X-Content-Type-Options and Cross-Origin-Resource-Policy come with every answer, from the gate
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'"
    ),
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
FILTER_LABELS = {
    "year": "Year",
    "date_from": "From",
    "date_to": "To",
    "category": "Category",
    "venue": "Venue",
    "source": "Source",
    "author": "Author",
    "has_doi": "DOI",
}
"""What the page calls the filters."""
_NO_CHARACTERS = dict.fromkeys(
    (*range(0xFDD0, 0xFDF0), *(plane + end for plane in range(0, 0x110000, 0x10000) for end in (0xFFFE, 0xFFFF))),
    "\ufffd",
)
"""What Unicode will never make a character of, and no page may hold."""
_HERE = Path(__file__).parent
STYLE = (_HERE / "static" / "style.css").read_text(encoding="utf-8")


def web_link(url: str | None) -> str | None:
    """Return the address if a browser would open a web page at it, else None."""
    try:
        parts = urlsplit(url or "")
    except ValueError:
        return None
    return url if parts.scheme in ("http", "https") and parts.netloc else None


def page_link(**parameters: str | Sequence[str]) -> str:
    """Return the address of our page with these query parameters, one given several times for a list."""
    return "/?" + urlencode(parameters, doseq=True)


_environment = Environment(
    loader=FileSystemLoader(_HERE / "templates", encoding="utf-8"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.filters["web_link"] = web_link
_environment.filters["in_pieces"] = in_pieces
_environment.filters["snippet"] = snippet
_environment.globals["page_link"] = page_link


def render(
    template: str, status: int = 200, headers: Mapping[str, str] | None = None, **values: object
) -> HTMLResponse:
    """Return the page made of this template and these values."""
    phrase = HTTPStatus(status).phrase
    text = _environment.get_template(template).render(status=status, phrase=phrase, **values)
    return HTMLResponse(text.translate(_NO_CHARACTERS), status, dict(headers or {}) | UI_HEADERS)
