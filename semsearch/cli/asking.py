"""Which papers answer a question, and which are like others? `search`, `related`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from semsearch.cli.answers import print_answer
from semsearch.cli.options import MODES, device_option, index_option, json_option, page_options
from semsearch.cli.terminal import standard_input

if TYPE_CHECKING:
    from semsearch.ranking import Mode
    from semsearch.search import Page, Searcher


@click.command()
@click.argument("query", nargs=-1, required=True)
@index_option
@click.option(
    "--mode",
    type=click.Choice(MODES),
    default=MODES[0],
    show_default=True,
    help="By meaning and words, by meaning (dense), or by words (lexical).",
)
@page_options
@device_option
@json_option
def search(
    query: tuple[str, ...],
    index: Path,
    mode: "Mode",
    page: "Page",
    device: str | None,
    as_json: bool,
) -> None:
    """Show the papers that answer QUERY, a question in plain words (- reads it from standard input).

    \b
    semsearch search how do children learn grammar
    semsearch search 'parsing -dependency "minimal pairs"'   holds the phrase, not the word
    semsearch search 'title:whales author:"A. Lovelace"'     in the title; by the author

    In a filter | separates alternatives, a leading ! negates it all, and a * at the end of a category, venue or source
    stands for any rest. Of filters that are given several times, and of different ones, all must hold.

    \b
    semsearch search whale songs --year 2015-2020 --category 'q-bio.*|cs.SD'
    semsearch search whale songs --from 2021-03 --venue '!arXiv*' --author 'A. Lovelace'
    semsearch search whale songs --facets 5
    """  # noqa: D301  # click wants the character \b itself, before lines that it shall not wrap
    text = standard_input() if query == ("-",) else " ".join(query)
    with opened(index, device) as searcher:
        print_answer(searcher.search(text, page, mode), page, as_json)


@click.command()
@click.argument("paper_ids", nargs=-1, metavar="[ID]...")
@click.option("--text", metavar="TEXT", help="A pasted title and abstract instead of ids (- reads standard input).")
@click.option("--not", "disliked", multiple=True, metavar="ID", help="Away from this paper; may be repeated.")
@index_option
@page_options
@device_option
@json_option
def related(
    paper_ids: tuple[str, ...],
    text: str | None,
    disliked: tuple[str, ...],
    index: Path,
    page: "Page",
    device: str | None,
    as_json: bool,
) -> None:
    """Show the papers nearest to the papers named by ID, which are left out themselves, or to a pasted abstract.

    \b
    semsearch related arXiv:1706.03762
    semsearch related 1706.03762 1810.04805 --not 10.1038/nature14539 --year 2020-
    semsearch related --text - < abstract.txt

    The filters are those of semsearch search.
    """  # noqa: D301
    if bool(paper_ids) == (text is not None):
        raise click.UsageError("name either papers by ID or a --text")
    if disliked and not paper_ids:
        raise click.UsageError("--not has no meaning without papers named by ID")
    with opened(index, device) as searcher:
        if text is None:
            answer = searcher.related(paper_ids, page, disliked)
        else:
            answer = searcher.related_to_text("", standard_input() if text == "-" else text, page)
        print_answer(answer, page, as_json)


def opened(index: Path, device: str | None) -> "Searcher":
    """Return a searcher over the index; say on stderr if it does not know all that the library holds."""
    from semsearch.generation import IndexFolder
    from semsearch.search import Searcher

    searcher = Searcher.open(index, device)
    pending = searcher.library.last_seq() - searcher.generation.manifest.last_seq
    if pending:
        command = IndexFolder(index).command
        click.echo(f"Note: {pending:,} changes are not searchable yet; publish them with: {command}", err=True)
    return searcher
