"""How do papers come in and go? `index`, `delete`, `purge`."""

import gc
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from semsearch.cli.options import device_option, index_option, json_option, precision_option
from semsearch.cli.terminal import print_json, progress_bar, say

if TYPE_CHECKING:
    from semsearch.reindex import Precision, ReindexReport

_SHOWN_REJECTIONS = 10


@click.command()
@click.argument("sources", nargs=-1, metavar="[SOURCE]...")
@index_option
@click.option(
    "--format",
    "format_",
    metavar="NAME",
    help="jsonl, json, csv, tsv, bibtex, ris, medline, xml or page.  [default: by name and content]",
)
@click.option("--origin", metavar="NAME", help="Name of this import.  [default: the file's or folder's name]")
@click.option("--sync", is_flag=True, help="Also delete papers of this import that its source no longer holds.")
@click.option("--strict", is_flag=True, help="Stop at the first bad record instead of reporting and skipping it.")
@click.option(
    "--model", metavar="NAME", help="A sentence-transformers model, by hub name or folder.  [default: the index's]"
)
@precision_option
@device_option
@json_option
def index(
    sources: tuple[str, ...],
    index: Path,
    format_: str | None,
    origin: str | None,
    sync: bool,
    strict: bool,
    model: str | None,
    precision: "Precision | None",
    device: str | None,
    as_json: bool,
) -> None:
    """Bring papers from SOURCEs (files, folders, globs, or - for standard input) into the index.

    Known papers are recognised: only new and changed ones are encoded. Killed or interrupted, it goes on where it was
    when run again. Without a SOURCE it publishes whatever the library already holds.
    """
    if sync and not sources:
        raise click.UsageError("--sync needs a SOURCE to compare with")
    from semsearch.reindex import imports_of, update_index

    imports = imports_of(sources, origin=origin, format=format_, sync=sync, strict=strict)
    gc.set_threshold(50_000, 20, 100)  # papers hold no cycles: by default a third of a run goes into looking for some
    with progress_bar(hidden=as_json) as on_progress:
        report = update_index(index, imports, model=model, precision=precision, device=device, on_progress=on_progress)
    if as_json:
        print_json(_envelope(report))
    else:
        _print_report(report)
    if report.failures or (report.rejected_count and not report.papers):
        raise click.exceptions.Exit(1)


@click.command()
@click.argument("paper_ids", nargs=-1, required=True, metavar="ID...")
@index_option
@json_option
def delete(paper_ids: tuple[str, ...], index: Path, as_json: bool) -> None:
    """Delete the papers named by ID from the index; their history stays in the library until purged."""
    from semsearch.errors import NotEncodedError
    from semsearch.generation import IndexFolder, open_current
    from semsearch.library import Library
    from semsearch.papers import normalise_id
    from semsearch.publishing import publish_pending

    folder = IndexFolder(index)
    folder.check_exists()
    names = [normalise_id(paper_id) for paper_id in paper_ids]
    open_current(folder)  # first of all: what cannot be published must not be deleted
    with Library.open(folder.library) as library:
        if unknown := [name for name in names if not library.has_met(name)]:
            raise click.ClickException(f"not in the index: {', '.join(unknown)}; nothing was deleted")
        deleted = library.delete(names)  # an interrupted run may have deleted some: they are published all the same
        try:
            generation = publish_pending(folder, library, None)
        except NotEncodedError as error:
            raise click.ClickException(f"{len(deleted)} deleted, but searches still show them: {error}") from error
    result = {"deleted": deleted, "papers": generation.papers, "generation": generation.manifest.generation}
    say(result, as_json, f"{len(deleted)} deleted; {generation.papers:,} papers remain")


@click.command()
@click.argument("paper_ids", nargs=-1, required=True, metavar="ID...")
@index_option
@json_option
def purge(paper_ids: tuple[str, ...], index: Path, as_json: bool) -> None:
    """Erase the text of deleted papers from the library for good. This cannot be undone.

    Their vectors stay in the generations, where nothing finds them, until segments are merged. A staged generation, and
    that of the model before, hold their words until they go; backups and quarantine are left alone.
    """
    from semsearch.generation import IndexFolder
    from semsearch.library import Library
    from semsearch.papers import normalise_id

    folder = IndexFolder(index)
    folder.check_exists()
    names = [normalise_id(paper_id) for paper_id in paper_ids]
    with Library.open(folder.library) as library:
        if unknown := [name for name in names if not library.has_met(name)]:
            raise click.ClickException(f"the library has never held: {', '.join(unknown)}; nothing was purged")
        erased = library.purge(names)
    say({"purged_versions": erased}, as_json, f"{erased} versions erased")


def _print_report(report: "ReindexReport") -> None:
    print_rejected(report)
    for failure in report.failures:
        click.echo(f"Error: {failure}", err=True)
    click.echo(
        f"{report.new:,} new, {report.changed:,} changed, {report.unchanged:,} unchanged"
        + (f", {report.deleted:,} deleted" if report.deleted else "")
        + (f", {report.rejected_count:,} skipped" if report.rejected_count else "")
    )
    if report.retitled_count:
        shown = ", ".join(report.retitled[:_SHOWN_REJECTIONS])
        click.echo(
            f"{report.retitled_count:,} ids stand for another title in another source; the newest is shown: {shown}. "
            "If they are different papers, give them ids of their own, such as DOIs, and index them again",
            err=True,
        )
    if report.truncated:
        click.echo(f"{report.truncated:,} abstracts are longer than the model reads; their end is not searched")
    click.echo(
        f"{report.papers:,} papers searchable (generation {report.generation}, {report.encoded:,} texts encoded)"
    )


def print_rejected(report: "ReindexReport") -> None:
    """Print on stderr where the first records stand that were skipped, and why."""
    for entry in report.rejected[:_SHOWN_REJECTIONS]:
        click.echo(f"skipped {entry.place}: {entry.reason}", err=True)
    if report.rejected_count > _SHOWN_REJECTIONS:
        rest = report.rejected_count - _SHOWN_REJECTIONS
        click.echo(f"skipped {rest:,} more records; --json lists the first 1,000 of all", err=True)


def _envelope(report: "ReindexReport") -> dict[str, Any]:
    rejected = [{"place": str(entry.place), "reason": entry.reason, "id": entry.paper_id} for entry in report.rejected]
    return asdict(report) | {"rejected": rejected}
