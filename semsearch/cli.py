"""The command line: the only file here that prints.

Heavy rooms are imported inside the commands that need them, so that `semsearch --help` answers at once.
"""

import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from semsearch import __version__
from semsearch.errors import SemsearchError

if TYPE_CHECKING:
    from semsearch.evaluate import Find, Run
    from semsearch.reindex import Precision, Progress, ReindexReport
    from semsearch.search import Answer, Searcher

DEFAULT_INDEX = "indexes/default"
_SHOWN_REJECTIONS = 10
_MODES = ("dense",)
_SAMPLE = 200
_UNDER = 3  # an evaluation below --fail-under; not 1, so that a build can tell it from an error
_INTERRUPTED = 130  # what shells expect of a program ended by Ctrl-C

_Command = TypeVar("_Command", bound=Callable[..., Any])


def main() -> None:
    """Run the command line and exit.

    0: done. 1: something went wrong. 2: wrong usage. 3: an evaluation is below --fail-under. 130: interrupted.
    """
    try:
        sys.exit(cli.main(standalone_mode=False) or 0)  # click returns what a command asked to exit with
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("Interrupted. Everything committed so far is safe; run the same command again to go on.", err=True)
        sys.exit(_INTERRUPTED)
    except BrokenPipeError:  # `semsearch search … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except (SemsearchError, ValueError, OSError) as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)


def _index_option(command: _Command) -> _Command:
    return click.option(
        "--index",
        "index",
        type=click.Path(path_type=Path, file_okay=False),
        default=DEFAULT_INDEX,
        show_default=True,
        metavar="FOLDER",
        help="The index to use.",
    )(command)


def _json_option(command: _Command) -> _Command:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for machines instead of text.")(command)


def _device_option(command: _Command) -> _Command:
    return click.option(
        "--device",
        metavar="NAME",
        help="cpu, cuda, cuda:1, mps ...  [default: a GPU for indexing if there is one, else cpu]",
    )(command)


def _paging_options(command: _Command) -> _Command:
    limit = click.option(
        "--limit", "-n", type=click.IntRange(1, 100), default=10, show_default=True, help="How many papers."
    )
    offset = click.option("--offset", type=click.IntRange(0, 999), default=0, show_default=True, help="Skip so many.")
    return limit(offset(command))


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, package_name="semsearch", message="semsearch %(version)s")
@click.option("--verbose", "-v", is_flag=True, help="Say on stderr what is going on inside.")
def cli(verbose: bool) -> None:
    """Semantic search over scientific-paper abstracts, on your own machine.

    \b
    semsearch index papers.jsonl.zst            papers in (run again when new ones come)
    semsearch search "next topic prediction"    nearest papers out
    semsearch related 1706.03762                papers like this one
    semsearch serve                             the same in a browser, and as an HTTP API
    semsearch eval                              how good the answers are
    """  # noqa: D301  # click wants the character \b itself, before lines that it shall not wrap
    import logging

    logging.basicConfig(level=logging.INFO if verbose else logging.ERROR, format="%(message)s", stream=sys.stderr)
    logging.getLogger("semsearch").setLevel(logging.INFO if verbose else logging.WARNING)


@cli.command()
@click.argument("sources", nargs=-1, metavar="[SOURCE]...")
@_index_option
@click.option(
    "--format", "format_", metavar="NAME", help="jsonl, json, csv, tsv or page.  [default: by name and content]"
)
@click.option("--origin", metavar="NAME", help="Name of this import.  [default: the file's or folder's name]")
@click.option("--sync", is_flag=True, help="Also delete papers of this import that its source no longer holds.")
@click.option("--strict", is_flag=True, help="Stop at the first bad record instead of reporting and skipping it.")
@click.option(
    "--model", metavar="NAME", help="A sentence-transformers model, by hub name or folder.  [default: the index's]"
)
@click.option(
    "--precision",
    type=click.Choice(["float32", "int8"]),
    help="int8: a smaller, faster, slightly less exact network, calibrated on your papers; where the processor has "
    "instructions for it.  [default: the index's, or float32]",
)
@_device_option
@_json_option
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
    with _progress(hidden=as_json) as on_progress:
        report = update_index(index, imports, model=model, precision=precision, device=device, on_progress=on_progress)
    if as_json:
        _print_json(_report_envelope(report))
    else:
        _print_report(report)
    if report.failures or (report.rejected_count and not report.papers):
        raise click.exceptions.Exit(1)


@cli.command()
@click.argument("query", nargs=-1, required=True)
@_index_option
@_paging_options
@_device_option
@_json_option
def search(query: tuple[str, ...], index: Path, limit: int, offset: int, device: str | None, as_json: bool) -> None:
    """Show the papers nearest to QUERY, a question in plain words (- reads it from standard input)."""
    text = sys.stdin.read() if query == ("-",) else " ".join(query)
    with _searcher(index, device) as searcher:
        _print_answer(searcher.search(text, limit, offset), limit, offset, as_json)


@cli.command()
@click.argument("paper_ids", nargs=-1, metavar="[ID]...")
@click.option("--text", metavar="TEXT", help="A pasted title and abstract instead of ids (- reads standard input).")
@_index_option
@_paging_options
@_device_option
@_json_option
def related(
    paper_ids: tuple[str, ...],
    text: str | None,
    index: Path,
    limit: int,
    offset: int,
    device: str | None,
    as_json: bool,
) -> None:
    """Show the papers nearest to the papers named by ID, which are left out themselves, or to a pasted abstract."""
    if bool(paper_ids) == (text is not None):
        raise click.UsageError("name either papers by ID or a --text")
    with _searcher(index, device) as searcher:
        if text is None:
            answer = searcher.related(paper_ids, limit, offset)
        else:
            answer = searcher.related_to_text("", sys.stdin.read() if text == "-" else text, limit, offset)
        _print_answer(answer, limit, offset, as_json)


@cli.command()
@click.argument("paper_ids", nargs=-1, required=True, metavar="ID...")
@_index_option
@_json_option
def delete(paper_ids: tuple[str, ...], index: Path, as_json: bool) -> None:
    """Delete the papers named by ID from the index; their history stays in the library until purged."""
    from semsearch.generation import IndexFolder, open_current
    from semsearch.library import Library
    from semsearch.papers import normalise_id
    from semsearch.publishing import publish_pending

    folder = IndexFolder(index)
    folder.check_exists()
    names = [normalise_id(paper_id) for paper_id in paper_ids]
    encoder = open_current(folder).manifest.encoder  # first of all: what cannot be published must not be deleted
    with Library.open(folder.library) as library:
        if unknown := sorted(set(names) - set(library.live_seqs(names))):
            raise click.ClickException(f"not in the index: {', '.join(unknown)}; nothing was deleted")
        deleted = library.delete(names)
        generation = publish_pending(folder, library, encoder)
    result = {"deleted": deleted, "papers": generation.papers, "generation": generation.manifest.generation}
    _say(result, as_json, f"{len(deleted)} deleted; {generation.papers:,} papers remain")


@cli.command()
@click.argument("paper_ids", nargs=-1, required=True, metavar="ID...")
@_index_option
@_json_option
def purge(paper_ids: tuple[str, ...], index: Path, as_json: bool) -> None:
    """Erase the text of deleted papers from the library for good. This cannot be undone.

    Their vectors stay in the generations, where nothing finds them, until segments are merged.
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
    _say({"purged_versions": erased}, as_json, f"{erased} versions erased")


@cli.command()
@_index_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="Port to listen on; 0: any."
)
@_device_option
def serve(index: Path, host: str, port: int, device: str | None) -> None:
    """Serve the page and the HTTP API. A reindex beside it needs no restart."""
    from semsearch.generation import IndexFolder
    from semsearch.service import create_app, run

    IndexFolder(index).check_exists()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a service never goes out to fetch a model
    run(create_app(index, device=device), host, port, on_start=lambda url: click.echo(f"semsearch is at {url}"))


@cli.command()
@_index_option
@_json_option
def stats(index: Path, as_json: bool) -> None:
    """Show what the index holds and what made it."""
    from semsearch.generation import IndexFolder, open_current
    from semsearch.library import Library

    folder = IndexFolder(index)
    folder.check_exists()
    with Library.open(folder.library) as library:
        manifest = open_current(folder).manifest
        counts = library.counts()
        number = library.known_encoder(manifest.encoder.fingerprint)
        live = library.all_live_seqs(manifest.last_seq).tolist()
        truncated = library.truncated(live, number, manifest.encoder.max_tokens) if number else 0
        pending = library.last_seq() - manifest.last_seq
    disk_bytes = _disk_bytes(index)
    result = {
        "papers": manifest.papers,
        "generation": manifest.generation,
        "published": manifest.created_at,
        "segments": [asdict(segment) for segment in manifest.segments],
        "model": asdict(manifest.encoder),
        "index_recipe": manifest.index_recipe,
        "text_recipe": manifest.text_recipe,
        "truncated": truncated,
        "pending_changes": pending,
        "library": asdict(counts),
        "bytes": disk_bytes,
    }
    if as_json:
        _print_json(result)
        return
    click.echo(f"papers      {manifest.papers:,}")
    click.echo(f"library     {counts.changes:,} changes, {counts.embeddings:,} embeddings")
    click.echo(f"generation  {manifest.generation}, published {manifest.created_at}, {len(manifest.segments)} segments")
    click.echo(
        f"model       {manifest.encoder.name} ({manifest.encoder.dimension} dimensions, {manifest.index_recipe})"
    )
    click.echo(
        f"truncated   {truncated:,} papers have more than the {manifest.encoder.max_tokens} tokens the model reads"
    )
    click.echo(f"on disk     {disk_bytes / 1e6:,.1f} MB")
    if pending:
        click.echo(f"pending     {pending:,} changes are not searchable yet; publish them with: {folder.command}")


@cli.command()
@_index_option
@_json_option
def verify(index: Path, as_json: bool) -> None:
    """Check every row, vector and file of the index, and that they agree. Exit code 1 if anything is wrong."""
    from semsearch.generation import IndexFolder
    from semsearch.verify import problems

    found = list(problems(IndexFolder(index)))
    if as_json:
        _print_json({"sound": not found, "problems": found})
    else:
        for line in found:
            click.echo(line)
        click.echo(f"{len(found)} problems" if found else "sound")
    if found:
        raise click.exceptions.Exit(1)


@cli.command("eval")
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.option("--split", metavar="NAME", help="Which judgements: qrels/NAME.tsv of the FOLDER.  [default: test]")
@click.option(
    "--index",
    "index",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help=f"The index to question; with a FOLDER, where to keep its index.  [default: {DEFAULT_INDEX}; a temporary one]",
)
@click.option("--mode", type=click.Choice(_MODES), default=_MODES[0], show_default=True, help="How to search.")
@click.option("--model", metavar="NAME", help="Index the FOLDER with this sentence-transformers model.")
@click.option(
    "--sample", type=click.IntRange(1, 100_000), metavar="N", help=f"Draw N papers for each test.  [default: {_SAMPLE}]"
)
@click.option("--seed", type=click.IntRange(0), metavar="N", help="Draw other papers.  [default: 0]")
@click.option("--save", type=click.Path(path_type=Path, dir_okay=False), help="Keep the run, question by question.")
@click.option(
    "--against", type=click.Path(path_type=Path, dir_okay=False, exists=True), help="Compare with a run kept by --save."
)
@click.option(
    "--fail-under",
    type=click.FloatRange(0, 1),
    metavar="X",
    help="Exit with 3 if nDCG@10 (without a FOLDER: the title test's MRR) is below X.",
)
@_device_option
@_json_option
def evaluate(
    folder: Path | None,
    split: str | None,
    index: Path | None,
    mode: str,
    model: str | None,
    sample: int | None,
    seed: int | None,
    save: Path | None,
    against: Path | None,
    fail_under: float | None,
    device: str | None,
    as_json: bool,
) -> None:
    """Measure how good the answers are.

    With a FOLDER in BEIR's format (corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv) its corpus is indexed and every
    judged query asked: nDCG@10, recall@100 and MRR over the first 1,000 papers, each with its 95 % interval.

    \b
    semsearch eval scifact --split train --index indexes/scifact --save before.json
    semsearch eval scifact --split train --index indexes/scifact --model OTHER --against before.json

    Without a FOLDER your own index is asked for what it is known to hold, and no judgements are needed: papers are
    drawn, and each should come first for its title, for a part of its title, for the second half of its abstract, and
    for its name where the title is like "word2vec: ...". MRR, and the share that comes first.

    \b
    semsearch eval --index indexes/mine
    semsearch eval --index indexes/mine --fail-under 0.95

    --save keeps a run and --against compares with it: the difference, its interval, and the p-value of a paired
    randomisation test. Below --fail-under the exit code is 3.
    """  # noqa: D301
    _check_eval_options(folder, split=split, model=model, sample=sample, seed=seed, save=save)
    from semsearch.evaluate import envelope, load_run, save_run, table

    before = load_run(against) if against else None
    with _progress(hidden=as_json) as on_progress:
        if folder:
            run = _judged_run(folder, split or "test", index, mode, model, device, before, on_progress)
        else:
            where = index or Path(DEFAULT_INDEX)
            run = _known_item_run(where, mode, sample or _SAMPLE, seed or 0, device, before, on_progress)
    if as_json:
        _print_json(envelope(run, before))
    else:
        click.echo(table(run, before))
    if save:  # after the figures are shown: a full disk shall not cost them
        save_run(run, save)
    if fail_under is not None:
        _check_floor(run, fail_under)


def _check_eval_options(folder: Path | None, *, save: Path | None, **options: object) -> None:
    useless = ("sample", "seed") if folder else ("split", "model")
    if wrong := [f"--{name}" for name in useless if options[name] is not None]:
        raise click.UsageError(f"{wrong[0]} has no meaning {'with' if folder else 'without'} a FOLDER of judgements")
    if save and not save.absolute().parent.is_dir():  # rather than find out after an hour
        raise click.UsageError(f"--save: there is no folder {save.parent}")


def _check_floor(run: "Run", floor: float) -> None:
    name, value = run.headline
    if value is None:
        raise click.ClickException(f"no question gives {name}, so it cannot be compared with {floor}")
    if value < floor:
        click.echo(f"{name} {value:.6f} is under {floor}", err=True)
        raise click.exceptions.Exit(_UNDER)


def _judged_run(
    folder: Path,
    split: str,
    index: Path | None,
    mode: str,
    model: str | None,
    device: str | None,
    before: "Run | None",
    on_progress: "Callable[[Progress], None]",
) -> "Run":
    from semsearch.evaluate import JUDGED, JudgedSet, Run, ask_judged, check_comparable, index_corpus, notes, setting_of

    started = time.perf_counter()
    judged = JudgedSet.read(folder, split)
    if before:
        check_comparable(before, judged.subject)
    for line in notes(judged.counts()):
        click.echo(f"Note: {line}", err=True)
    with _kept_or_temporary(index) as where:
        report = index_corpus(judged, where, model=model, device=device, on_progress=on_progress)
        _print_rejected(report)
        with _searcher(where, device) as searcher:
            find = _finder(searcher, mode)
            scores = ask_judged(
                judged, lambda query: [paper.paper_id for paper in find(query)], _counting("queries", on_progress)
            )
            setting = setting_of(searcher.generation, mode, time.perf_counter() - started)
    return Run(judged.subject, setting | {"encoded": report.encoded, "judged": judged.counts()}, {JUDGED: scores})


def _known_item_run(
    index: Path,
    mode: str,
    sample: int,
    seed: int,
    device: str | None,
    before: "Run | None",
    on_progress: "Callable[[Progress], None]",
) -> "Run":
    from semsearch.evaluate import KnownItems, Run, ask_known, check_comparable, setting_of

    started = time.perf_counter()
    with _searcher(index, device) as searcher:
        known = KnownItems.draw(searcher.library, searcher.generation.live_seqs(), sample, seed)
        subject = known.subject(str(index))
        if before:
            check_comparable(before, subject)
        tests = ask_known(known, _finder(searcher, mode), _counting("questions", on_progress))
        setting = setting_of(searcher.generation, mode, time.perf_counter() - started)
    return Run(subject, setting | {"sample": sample, "seed": seed}, tests)


def _finder(searcher: "Searcher", mode: str) -> "Find":
    """Return how an evaluation searches: as deep as one can page."""
    from semsearch.search import MAX_WINDOW

    assert mode in _MODES, "click has checked it"
    return lambda query: [hit.paper for hit in searcher.search(query, MAX_WINDOW).hits]


@contextmanager
def _kept_or_temporary(index: Path | None) -> Iterator[Path]:
    """Give the index folder, or one that is gone afterwards."""
    if index:
        yield index
        return
    with tempfile.TemporaryDirectory(prefix="semsearch-eval-") as scratch:
        try:
            yield Path(scratch) / "index"
        except KeyboardInterrupt:
            click.echo("Interrupted. Nothing was kept; with --index FOLDER a run goes on where it was.", err=True)
            raise click.exceptions.Exit(_INTERRUPTED) from None


def _counting(what: str, on_progress: "Callable[[Progress], None]") -> Callable[[int, int], None]:
    from semsearch.reindex import Progress

    return lambda done, of: on_progress(Progress(what, done, of, 0))


class _progress:
    """A progress bar on stderr with rate and time left, absent where stderr is no terminal."""

    def __init__(self, *, hidden: bool) -> None:
        self._hidden = hidden

    def __enter__(self) -> "Callable[[Progress], None]":
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        console = Console(stderr=True)
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=self._hidden or not console.is_terminal,
        )
        task = self._bar.add_task("reading", total=None, rate="")

        def on_progress(progress: "Progress") -> None:
            elapsed = self._bar.tasks[task].elapsed or 0
            rate = f"{progress.encoded / elapsed:,.1f} encoded/s" if progress.encoded and elapsed else ""
            self._bar.update(
                task, description=progress.source, completed=progress.done, total=progress.expected, rate=rate
            )

        self._bar.start()
        return on_progress

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


def _disk_bytes(index: Path) -> int:
    """Return the size of all files below the folder, each hard-linked one counted once."""
    sizes: dict[int, int] = {}
    for path in index.rglob("*"):
        with suppress(FileNotFoundError):  # a log or an old generation may go while we count
            if path.is_file():
                sizes[path.stat().st_ino] = path.stat().st_size
    return sum(sizes.values())


def _searcher(index: Path, device: str | None) -> "Searcher":
    from semsearch.generation import IndexFolder
    from semsearch.search import Searcher

    searcher = Searcher.open(index, device)
    pending = searcher.library.last_seq() - searcher.generation.manifest.last_seq
    if pending:
        command = IndexFolder(index).command
        click.echo(f"Note: {pending:,} changes are not searchable yet; publish them with: {command}", err=True)
    return searcher


def _print_answer(answer: "Answer", limit: int, offset: int, as_json: bool) -> None:
    if as_json:
        from semsearch.envelope import answer_envelope

        _print_json(answer_envelope(answer, limit, offset))
        return
    for hit in answer.hits:
        paper = hit.paper
        names = ", ".join(paper.authors[:3]) + (" and others" if len(paper.authors) > 3 else "")
        about = " · ".join(part for part in (names, paper.published and paper.published[:4], paper.venue) if part)
        click.echo(f"{hit.rank:>3}. {click.style(paper.title, bold=True)}  {hit.score:.3f}")
        click.echo(f"     {about}" if about else "", nl=bool(about))
        click.echo(f"     {click.style(paper.paper_id, dim=True)}  {paper.url or ''}")
        click.echo(f"     {_shortened(paper.abstract)}\n")
    click.echo(f"{len(answer.hits)} of {answer.total:,} papers in {answer.took_ms:.0f} ms", err=True)


def _shortened(text: str, width: int = 240) -> str:
    return text if len(text) <= width else text[:width].rsplit(" ", 1)[0] + " …"


def _print_report(report: "ReindexReport") -> None:
    _print_rejected(report)
    for failure in report.failures:
        click.echo(f"Error: {failure}", err=True)
    click.echo(
        f"{report.new:,} new, {report.changed:,} changed, {report.unchanged:,} unchanged"
        + (f", {report.deleted:,} deleted" if report.deleted else "")
        + (f", {report.rejected_count:,} skipped" if report.rejected_count else "")
    )
    if report.truncated:
        click.echo(f"{report.truncated:,} abstracts are longer than the model reads; their end is not searched")
    click.echo(
        f"{report.papers:,} papers searchable (generation {report.generation}, {report.encoded:,} texts encoded)"
    )


def _print_rejected(report: "ReindexReport") -> None:
    for entry in report.rejected[:_SHOWN_REJECTIONS]:
        click.echo(f"skipped {entry.place}: {entry.reason}", err=True)
    if report.rejected_count > _SHOWN_REJECTIONS:
        rest = report.rejected_count - _SHOWN_REJECTIONS
        click.echo(f"skipped {rest:,} more records; --json lists the first 1,000 of all", err=True)


def _report_envelope(report: "ReindexReport") -> dict[str, Any]:
    rejected = [{"place": str(entry.place), "reason": entry.reason, "id": entry.paper_id} for entry in report.rejected]
    return asdict(report) | {"rejected": rejected}


def _say(result: dict[str, Any], as_json: bool, text: str) -> None:
    if as_json:
        _print_json(result)
    else:
        click.echo(text)


def _print_json(value: object) -> None:
    click.echo(json.dumps(value, ensure_ascii=False, indent=2))


if __name__ == "__main__":
    main()
