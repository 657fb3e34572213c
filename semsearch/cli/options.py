"""Which options do several commands have?"""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

DEFAULT_INDEX = "indexes/default"
MODES = ("hybrid", "dense", "lexical")
"""Those of semsearch.ranking, which is too heavy to be imported for a --help."""

_FILTERS = {
    "year": ("--year", "YEARS", "Of these years: 2020, 2018|2020, 2020-2023, 2020- or -2019."),
    "date_from": ("--from", "DAY", "Published in this year, month or day, or later: 2021, 2021-03, 2021-03-15."),
    "date_to": ("--to", "DAY", "Published in this year, month or day, or earlier."),
    "category": ("--category", "NAMES", "In these categories: cs.CL, 'cs.CL|stat.*' or '!cs.CV'."),
    "venue": ("--venue", "NAMES", "From these venues, by whole names: 'Nature|Findings*'."),
    "source": ("--source", "NAMES", "Brought in by these imports: arxiv or '!arxiv*'."),
    "author": ("--author", "NAMES", "By an author with these words in the name: Lovelace, 'A. Lovelace|Babbage'."),
}

_Command = TypeVar("_Command", bound=Callable[..., Any])


def index_option(command: _Command) -> _Command:
    """Add --index."""
    return click.option(
        "--index",
        "index",
        type=click.Path(path_type=Path, file_okay=False),
        default=DEFAULT_INDEX,
        show_default=True,
        metavar="FOLDER",
        help="The index to use.",
    )(command)


def json_option(command: _Command) -> _Command:
    """Add --json."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for machines instead of text.")(command)


def device_option(command: _Command) -> _Command:
    """Add --device."""
    return click.option(
        "--device",
        metavar="NAME",
        help="cpu, cuda, cuda:1, mps ...  [default: a GPU for indexing if there is one, else cpu]",
    )(command)


def precision_option(command: _Command) -> _Command:
    """Add --precision."""
    return click.option(
        "--precision",
        type=click.Choice(["float32", "int8"]),
        help="int8: a smaller, faster, slightly less exact network, calibrated on your papers; where the processor has "
        "instructions for it.  [default: the index's, or float32]",
    )(command)


def page_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of paging, filters, versions and facets; the command gets them as one `Page`."""

    @wraps(command)
    def with_page(
        *,
        limit: int,
        offset: int,
        no_collapse: bool,
        facets: int,
        exact: bool,
        has_doi: bool | None,
        paper_id: tuple[str, ...],
        **options: Any,
    ) -> Any:
        from semsearch.filters import escape_label, parse_filter
        from semsearch.search import Page

        conditions = [(name, value) for name in _FILTERS for value in options.pop(name)]
        conditions += [] if has_doi is None else [("has_doi", str(has_doi).lower())]
        conditions += [("ids", "|".join(map(escape_label, paper_id)))] if paper_id else []
        where = parse_filter(conditions)
        page = Page(limit, offset, where, "none" if no_collapse else "work", facets, approximate=not exact)
        return command(page=page, **options)

    added = [
        click.option(
            "--limit", "-n", type=click.IntRange(1, 100), default=10, show_default=True, help="How many papers."
        ),
        click.option("--offset", type=click.IntRange(0, 999), default=0, show_default=True, help="Skip so many."),
        *(
            click.option(flag, name, multiple=True, metavar=metavar, help=text)
            for name, (flag, metavar, text) in _FILTERS.items()
        ),
        click.option("--has-doi/--no-doi", default=None, help="With a DOI, or without one."),
        click.option("--id", "paper_id", multiple=True, metavar="ID", help="Among these papers; may be repeated."),
        click.option("--no-collapse", is_flag=True, help="Show every version of a work as a hit of its own."),
        click.option("--exact", is_flag=True, help="Look at every vector, however large the index is."),
        click.option(
            "--facets",
            type=click.IntRange(0, 100),
            default=0,
            metavar="N",
            help="Also show N years, categories, venues and sources of the papers that could be hits.",
        ),
    ]
    decorated: Callable[..., Any] = with_page
    for add in reversed(added):
        decorated = add(decorated)
    return decorated
