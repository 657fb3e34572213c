"""Is an index sound, and how does it become so again? `verify`, `repair`, `backup`, `restore`."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from semsearch.cli.options import device_option, index_option, json_option
from semsearch.cli.terminal import print_json, progress_bar, say

if TYPE_CHECKING:
    from collections.abc import Callable

    from semsearch.reindex import Progress


@click.command()
@index_option
@click.option(
    "--deep",
    is_flag=True,
    help="Also derive anew what can be derived and compare: texts' digests, columns, traits, pairs of one work, words, "
    "and the vectors of some papers; and find what killed processes left.",
)
@device_option
@json_option
def verify(index: Path, deep: bool, device: str | None, as_json: bool) -> None:
    """Check every row, vector and file of the index, and that they agree. Exit code 1 if anything is wrong.

    Changes nothing. What it finds, semsearch repair mends where that can be.
    """
    from semsearch.generation import IndexFolder
    from semsearch.repair import encoder_of
    from semsearch.verify import problems

    folder = IndexFolder(index)
    with progress_bar(hidden=as_json) as on_progress:
        found = list(problems(folder, encoder_of(folder, device) if deep else None, _counting(on_progress)))
    if as_json:
        print_json({"sound": not found, "problems": found})
    else:
        for line in found:
            click.echo(line)
        click.echo(f"problems: {len(found)}" if found else "sound")
    if found:
        raise click.exceptions.Exit(1)


@click.command()
@index_option
@click.option(
    "--anew", is_flag=True, help="Also make the live generation anew if nothing is wrong with it, or only --deep told."
)
@device_option
@json_option
def repair(index: Path, anew: bool, device: str | None, as_json: bool) -> None:
    """Make sound again what can be, from the library. Exit code 1 if anything is left that cannot.

    Generations that are damaged or disagree with the library are moved to quarantine and made anew, without encoding;
    damaged embeddings are computed again, SQLite's indexes made anew from the rows, what killed processes left removed.
    A damaged version of a paper is told by its id and left as it is: put a backup back, or index its source again under
    another --origin. Repairing what is sound does nothing.
    """
    from semsearch.generation import IndexFolder
    from semsearch.repair import encoder_of
    from semsearch.repair import repair as repaired

    folder = IndexFolder(index)
    with progress_bar(hidden=as_json) as on_progress:
        result = repaired(folder, encoder_of(folder, device), anew=anew, on_rows=_counting(on_progress))
    if as_json:
        print_json({"sound": not result.left, "done": result.done, "problems": result.left})
    else:
        for line in result.done:
            click.echo(line)
        for line in result.left:
            click.echo(f"left: {line}")
        click.echo(f"problems left: {len(result.left)}" if result.left else "sound")
    if result.left:
        raise click.exceptions.Exit(1)


@click.command()
@click.argument("to", type=click.Path(path_type=Path), metavar="NEW-FOLDER")
@index_option
@json_option
def backup(to: Path, index: Path, as_json: bool) -> None:
    """Copy the index into NEW-FOLDER as it is at one moment, while others write and serve it, and verify the copy.

    The copy is an index itself, without generations that are older or staged: the library makes them again. An
    interrupted backup leaves nothing; a killed one a folder NEW-FOLDER.partial-…, which can be removed.
    """
    from semsearch.copying import backup as back_up
    from semsearch.generation import IndexFolder

    with progress_bar(hidden=as_json) as on_progress:
        back_up(IndexFolder(index), to, partial(_counting(on_progress), "pages of the library"))
    say({"backup": str(to)}, as_json, f"{to} holds all of {index}, and is sound")


@click.command()
@click.argument("backup", type=click.Path(path_type=Path, file_okay=False, exists=True), metavar="BACKUP")
@index_option
@click.option("--aside", is_flag=True, help="Move the index that stands there aside, beside it; it is not removed.")
@json_option
def restore(backup: Path, index: Path, aside: bool, as_json: bool) -> None:
    """Put a verified copy of BACKUP into the place of the index, in one step. The backup stays as it is.

    Refuses a place that is not empty, unless --aside is given. A running service follows by itself; what was added to
    the old index since the backup stays with the old one, which is why nobody should be adding.
    """
    from semsearch.copying import restore as put_back
    from semsearch.generation import IndexFolder

    with progress_bar(hidden=as_json) as on_progress:
        moved = put_back(
            IndexFolder(backup), index, aside=aside, on_progress=partial(_counting(on_progress), "pages of the library")
        )
    text = f"{index} holds all of {backup}, and is sound" + (f"; what was there is at {moved} now" if moved else "")
    say({"restored": str(index), "aside": str(moved) if moved else None}, as_json, text)


def _counting(on_progress: "Callable[[Progress], None]") -> "Callable[[str, int, int], None]":
    from semsearch.reindex import Progress

    return lambda what, done, of: on_progress(Progress(what, done, of or None, 0))
