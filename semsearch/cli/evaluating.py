"""How are the answers measured? `eval`."""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from semsearch.cli.asking import opened
from semsearch.cli.changing import print_rejected
from semsearch.cli.options import DEFAULT_INDEX, MODES, device_option, json_option
from semsearch.cli.terminal import INTERRUPTED, print_json, progress_bar

if TYPE_CHECKING:
    from semsearch.evaluate import Rank, Run
    from semsearch.ranking import Mode
    from semsearch.reindex import Progress
    from semsearch.search import Searcher

_SAMPLE = 200
_UNDER = 3  # an evaluation below --fail-under; not 1, so that a build can tell it from an error


@click.command("eval")
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.option("--split", metavar="NAME", help="Which judgements: qrels/NAME.tsv of the FOLDER.  [default: test]")
@click.option(
    "--index",
    "index",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help=f"The index to question; with a FOLDER, where to keep its index.  [default: {DEFAULT_INDEX}; a temporary one]",
)
@click.option("--mode", type=click.Choice(MODES), default=MODES[0], show_default=True, help="How to search.")
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
@device_option
@json_option
def evaluate(
    folder: Path | None,
    split: str | None,
    index: Path | None,
    mode: "Mode",
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
    with progress_bar(hidden=as_json) as on_progress:
        if folder:
            run = _judged_run(folder, split or "test", index, mode, model, device, before, on_progress)
        else:
            where = index or Path(DEFAULT_INDEX)
            run = _known_item_run(where, mode, sample or _SAMPLE, seed or 0, device, before, on_progress)
    if as_json:
        print_json(envelope(run, before))
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
    if not value >= floor:  # nan, which is not under anything, is no floor that was reached
        click.echo(f"{name} {value:.6f} is under {floor}", err=True)
        raise click.exceptions.Exit(_UNDER)


def _judged_run(
    folder: Path,
    split: str,
    index: Path | None,
    mode: "Mode",
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
        print_rejected(report)
        with opened(where, device) as searcher:
            scores = ask_judged(judged, ranks(searcher, mode), counting("queries", on_progress))
            setting = setting_of(searcher.generation, mode, time.perf_counter() - started)
    return Run(judged.subject, setting | {"encoded": report.encoded, "judged": judged.counts()}, {JUDGED: scores})


def _known_item_run(
    index: Path,
    mode: "Mode",
    sample: int,
    seed: int,
    device: str | None,
    before: "Run | None",
    on_progress: "Callable[[Progress], None]",
) -> "Run":
    from semsearch.evaluate import TESTS, KnownItems, Run, ask_known, check_comparable, setting_of

    started = time.perf_counter()
    with opened(index, device) as searcher:
        counts = dict.fromkeys(TESTS, sample)
        known = KnownItems.draw(searcher.library, searcher.generation.live_seqs(), counts, seed)
        subject = known.subject(str(index))
        if before:
            check_comparable(before, subject)
        tests = ask_known(known, ranks(searcher, mode), counting("questions", on_progress))
        setting = setting_of(searcher.generation, mode, time.perf_counter() - started)
    return Run(subject, setting | {"sample": sample, "seed": seed}, tests)


def ranks(searcher: "Searcher", mode: "Mode") -> "Rank":
    """Return how an evaluation searches: as deep as one can page, each paper by itself."""
    return lambda query: searcher.ranked(query, mode)


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
            raise click.exceptions.Exit(INTERRUPTED) from None


def counting(what: str, on_progress: "Callable[[Progress], None]") -> Callable[[int, int], None]:
    """Return what shows how many questions are done."""
    from semsearch.reindex import Progress

    return lambda done, of: on_progress(Progress(what, done, of, 0))
