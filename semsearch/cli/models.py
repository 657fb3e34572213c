"""How does an index come to another model, and back? `stage`, `compare`, `switch`, `rollback`."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from semsearch.cli.evaluating import counting, ranks
from semsearch.cli.options import MODES, device_option, index_option, json_option, precision_option
from semsearch.cli.terminal import print_json, progress_bar, say

if TYPE_CHECKING:
    from semsearch.encoders import EncoderSpec
    from semsearch.evaluate import Remembered, Run, Scores
    from semsearch.generation import Generation, IndexFolder
    from semsearch.ranking import Mode
    from semsearch.reindex import Precision
    from semsearch.search import Searcher

_SAMPLE = 200


@click.command()
@click.argument("model")
@index_option
@precision_option
@device_option
@json_option
def stage(index: Path, model: str, precision: "Precision | None", device: str | None, as_json: bool) -> None:
    """Build a generation of another MODEL beside the live one, which stays live.

    Encodes every paper of the index for MODEL, a sentence-transformers model by hub name or folder. A service goes on
    to answer, and to take papers, with the old one. Interrupted, it goes on where it was when run again.

    \b
    semsearch stage intfloat/e5-small-v2
    semsearch compare                        how the answers would change
    semsearch switch                         let it be live
    semsearch rollback                       and back again
    """  # noqa: D301  # click wants the character \b itself, before lines that it shall not wrap
    from semsearch.reindex import update_index

    with progress_bar(hidden=as_json) as on_progress:
        report = update_index(
            index, [], model=model, precision=precision, device=device, beside=True, on_progress=on_progress
        )
    result = {"staged": model, "papers": report.papers, "encoded": report.encoded}
    text = (
        f"{report.papers:,} papers staged for {model} ({report.encoded:,} texts encoded); the live model is as it was"
    )
    say(result, as_json, f"{text}\nnext: semsearch compare --index {index}, semsearch switch --index {index}")


@click.command()
@index_option
@device_option
@json_option
def switch(index: Path, device: str | None, as_json: bool) -> None:
    """Let the staged generation be live, with all that came or went since it was built.

    What is not encoded for its model yet is encoded first. A running service follows by itself. semsearch rollback
    takes it back.
    """
    from semsearch.generation import STAGED, IndexFolder, open_staged, spec_of

    folder = IndexFolder(index)
    folder.check_exists()
    spec = spec_of(folder, STAGED) or open_staged(folder).manifest.encoder  # which says why there is none
    _switch(index, spec, device, as_json)


@click.command()
@index_option
@device_option
@json_option
def rollback(index: Path, device: str | None, as_json: bool) -> None:
    """Let the model be live again that was before the present one. Papers stay: all that came since is there.

    The generation of the model before is kept for a month. Done twice, this comes back to where it began.
    """
    from semsearch.generation import IndexFolder, spec_before

    folder = IndexFolder(index)
    folder.check_exists()
    spec = spec_before(folder)
    if spec is None:
        raise click.ClickException(
            f"no generation of another model than the live one is kept in {index}; a model that the index once had is "
            f"built again, without encoding what it encoded, with: semsearch stage --index {index} MODEL"
        )
    _switch(index, spec, device, as_json)


def _switch(index: Path, spec: "EncoderSpec", device: str | None, as_json: bool) -> None:
    from semsearch.generation import IndexFolder, last_spec
    from semsearch.reindex import switch_to

    before = last_spec(IndexFolder(index))
    with progress_bar(hidden=as_json) as on_progress:
        report = switch_to(index, spec, device=device, on_progress=on_progress)
    was = before.name if before else None
    result = {
        "model": spec.name,
        "before": was,
        "generation": report.generation,
        "papers": report.papers,
        "encoded": report.encoded,
    }
    text = f"{spec.name} is live, {was} was: {report.papers:,} papers searchable (generation {report.generation}"
    say(result, as_json, f"{text}, {report.encoded:,} texts encoded)")


@click.command()
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.option("--split", default="test", show_default=True, metavar="NAME", help="Which judgements of the FOLDER.")
@index_option
@click.option("--mode", type=click.Choice(MODES), default=MODES[0], show_default=True, help="How to search.")
@click.option(
    "--sample",
    type=click.IntRange(1, 100_000),
    default=_SAMPLE,
    show_default=True,
    metavar="N",
    help="Without a FOLDER: draw N papers for each test.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, metavar="N", help="Draw other papers.")
@device_option
@json_option
def compare(
    folder: Path | None,
    split: str,
    index: Path,
    mode: "Mode",
    sample: int,
    seed: int,
    device: str | None,
    as_json: bool,
) -> None:
    """Show how the answers of the staged generation differ from the live one's; after a switch, from the one before.

    Both are asked the same questions. overlap@k is the share of the first k papers that both find, whoever is right.
    The evaluation tells who is: by the judgements of a FOLDER in BEIR's format, whose papers the index holds; else by
    what the index is known to hold, as semsearch eval does. With intervals and the p-value of a paired test.
    """
    from semsearch.evaluate import Remembered, envelope, overlaps, table
    from semsearch.generation import IndexFolder

    live, other = _both(IndexFolder(index), device)
    with live, other, progress_bar(hidden=as_json) as on_progress:
        asked = Remembered(ranks(live, mode)), Remembered(ranks(other, mode))
        if folder:
            runs = _judged(folder, split, (live, other), asked, mode, counting("queries", on_progress))
        else:
            runs = _known(index, sample, seed, (live, other), asked, mode, counting("questions", on_progress))
    shared = overlaps(asked[0].found, asked[1].found)
    if as_json:
        print_json({"overlap": _means(shared), **envelope(runs[1], runs[0])})
    else:
        click.echo(table(runs[1], runs[0], "live"))
        click.echo()
        for name, mean in _means(shared).items():
            click.echo(f"{name:<12} {mean:.4f}" if name != "questions" else f"{name:<12} {mean:,}")


def _both(folder: "IndexFolder", device: str | None) -> "tuple[Searcher, Searcher]":
    from semsearch.generation import open_current
    from semsearch.search import Searcher

    folder.check_exists()
    return Searcher.open(folder.path, device), Searcher.over(folder, _other(folder, open_current(folder)), device)


def _other(folder: "IndexFolder", live: "Generation") -> "Generation":
    from semsearch.generation import open_generation, open_staged, space_of, spec_before

    before = spec_before(folder)
    if folder.staged.exists() or before is None:
        return open_staged(folder)
    number = next(number for number in folder.published() if space_of(folder, number) == before.fingerprint)
    return open_generation(folder, number)


def _judged(
    folder: Path,
    split: str,
    searchers: "tuple[Searcher, Searcher]",
    asked: "tuple[Remembered, Remembered]",
    mode: "Mode",
    on_asked: Any,
) -> "list[Run]":
    from semsearch.evaluate import JUDGED, JudgedSet, Run, ask_judged, notes, setting_of

    judged = JudgedSet.read(folder, split)
    _check_held(judged.relevant, searchers[0], folder)
    for line in notes(judged.counts()):
        click.echo(f"Note: {line}", err=True)
    runs = []
    for searcher, rank in zip(searchers, asked, strict=True):
        started = time.perf_counter()
        scores = ask_judged(judged, rank, on_asked)
        setting = setting_of(searcher.generation, mode, time.perf_counter() - started)
        runs.append(Run(judged.subject, setting, {JUDGED: scores}))
    return runs


def _check_held(relevant: set[str], searcher: "Searcher", folder: Path) -> None:
    """Say how many of the relevant papers the index lacks: they count as not found, for both.

    :raises click.ClickException: if it holds none.
    """
    held = searcher.library.live_seqs(sorted(relevant))
    if relevant and not held:
        raise click.ClickException(f"the index holds none of the papers that {folder} calls relevant")
    if missing := len(relevant) - len(held):
        click.echo(f"Note: {missing:,} of {len(relevant):,} relevant papers are not in the index", err=True)


def _known(
    index: Path,
    sample: int,
    seed: int,
    searchers: "tuple[Searcher, Searcher]",
    asked: "tuple[Remembered, Remembered]",
    mode: "Mode",
    on_asked: Any,
) -> "list[Run]":
    import numpy as np

    from semsearch.evaluate import TESTS, KnownItems, Run, ask_known, setting_of

    live, other = searchers
    seqs = np.intersect1d(live.generation.live_seqs(), other.generation.live_seqs())
    known = KnownItems.draw(live.library, seqs, dict.fromkeys(TESTS, sample), seed)
    subject = known.subject(str(index))
    runs = []
    for searcher, rank in zip(searchers, asked, strict=True):
        started = time.perf_counter()
        tests = ask_known(known, rank, on_asked)
        runs.append(Run(subject, setting_of(searcher.generation, mode, time.perf_counter() - started), tests))
    return runs


def _means(scores: "Scores") -> dict[str, float]:
    means = {name: round(float(scores.of(name).mean()), 6) for name in scores.measures if scores.questions}
    return means | {"questions": len(scores.questions)}
