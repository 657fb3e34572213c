"""What does an answer look like to a person at a terminal? Marks and dimming are left out where it is none."""

from typing import TYPE_CHECKING

import click

from semsearch.cli.terminal import print_json

if TYPE_CHECKING:
    from semsearch.columns import Facet
    from semsearch.papers import Paper
    from semsearch.search import Answer, Hit, Page


def print_answer(answer: "Answer", page: "Page", as_json: bool) -> None:
    """Print the hits of a page, its facets if they were asked for, and on stderr how many and how good they are."""
    if as_json:
        from semsearch.envelope import answer_envelope

        print_json(answer_envelope(answer, page))
        return
    if answer.weak and answer.hits:
        click.echo("Note: nothing here answers this well.", err=True)
    for hit in answer.hits:
        _print_hit(hit)
    for name, facet in (answer.facets or {}).items():
        if facet.values:
            _print_facet(name, facet)
    total = f"{answer.total:,}" if answer.total_is_exact else f"more than {answer.total:,}"
    click.echo(f"{len(answer.hits)} of {total} papers in {answer.took_ms:.0f} ms", err=True)


def _print_hit(hit: "Hit") -> None:
    paper = hit.paper
    names = ", ".join(paper.authors[:3]) + (" and others" if len(paper.authors) > 3 else "")
    about = " · ".join(part for part in (names, paper.published and paper.published[:4], paper.venue) if part)
    click.echo(f"{hit.rank:>3}. {click.style(paper.title, bold=True)}  {hit.score:.3f}")
    if about:
        click.echo(f"     {about}")
    click.echo(f"     {click.style(paper.paper_id, dim=True)}  {paper.url or ''}")
    click.echo(f"     {_marked(hit)}")
    if hit.versions:
        click.echo("     " + click.style(f"also: {', '.join(map(_version, hit.versions))}", dim=True))
    click.echo()


def _marked(hit: "Hit") -> str:
    from semsearch.envelope import in_pieces, snippet

    pieces = in_pieces(snippet(hit), hit.evidence.terms)
    return "".join(click.style(piece, bold=True) if matched else piece for piece, matched in pieces)


def _version(paper: "Paper") -> str:
    about = " ".join(part for part in (paper.venue or paper.source, paper.published and paper.published[:4]) if part)
    return f"{paper.paper_id} ({about})" if about else paper.paper_id


def _print_facet(name: str, facet: "Facet") -> None:
    click.echo(click.style(name, bold=True))
    for each in facet.values:
        click.echo(f"{each.count:>9,}  {each.value}")
    if facet.more:
        click.echo(f"{'':>9}  and {facet.more:,} more")
    click.echo()
