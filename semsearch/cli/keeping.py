"""How is an index served, and how is it? `serve`, `stats`, `merge`."""

import os
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import click

from semsearch.cli.options import device_option, index_option, json_option
from semsearch.cli.terminal import print_json, say

_PATIENCE = 10  # a merge lets everything else go first


@click.command()
@index_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="Port to listen on; 0: any."
)
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    metavar="N",
    help="Processes that search.  [default: one for each core, 4 at most]",
)
@click.option(
    "--admin-token-file",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    metavar="FILE",
    help="Let whoever sends the token in this file add and delete papers; or set SEMSEARCH_ADMIN_TOKEN to it.",
)
@click.option(
    "--allowed-host",
    "allowed_hosts",
    multiple=True,
    metavar="NAME",
    help="A name by which it is reached besides localhost and --host, say that of a proxy; '*' for any.",
)
@click.option(
    "--rate-limit",
    type=click.IntRange(0),
    metavar="N",
    help="Requests a minute of one client; 0: any number.  [default: 0 on this machine only, else 60]",
)
@click.option(
    "--metrics",
    "metrics_for",
    type=click.Choice(["local", "all", "none"]),
    default="local",
    show_default=True,
    help="Who may read /metrics; local: from this machine and not through a proxy.",
)
@click.option(
    "--log",
    "log_form",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Log warnings as text, or them and every request as lines of JSON.",
)
@click.option("--log-private", is_flag=True, help="Let the log hold what is asked, and from where.")
@device_option
def serve(
    index: Path,
    host: str,
    port: int,
    workers: int | None,
    allowed_hosts: tuple[str, ...],
    rate_limit: int | None,
    metrics_for: Literal["local", "all", "none"],
    log_form: Literal["text", "json"],
    log_private: bool,
    admin_token_file: Path | None,
    device: str | None,
) -> None:
    """Serve the page and the HTTP API. A reindex beside it needs no restart."""
    from semsearch.generation import IndexFolder
    from semsearch.service import Admin, Hosts, Limits, Workers, create_app, log_to_stderr, run

    IndexFolder(index).check_exists()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a service never goes out to fetch a model
    token = _admin_token(admin_token_file)
    log_to_stderr(log_form, private=log_private)
    app = create_app(
        index,
        device=device,
        limits=Limits.of(host, rate_limit),
        hosts=Hosts.of(host, allowed_hosts),
        metrics_for=metrics_for,
        log_private=log_private,
        admin=Admin.of(token) if token is not None else None,
        workers=Workers.over(index, workers, device, log_form, log_private),
    )
    run(app, host, port, on_start=lambda url: click.echo(f"semsearch is at {url}"))


def _admin_token(file: Path | None) -> str | None:
    if file is None:
        return os.environ.pop("SEMSEARCH_ADMIN_TOKEN", None)  # no child process needs it
    return file.read_text(encoding="utf-8").strip()


@click.command()
@index_option
@json_option
def stats(index: Path, as_json: bool) -> None:
    """Show what the index holds and what made it."""
    from semsearch.generation import STAGED, IndexFolder, open_current, spec_before, spec_of
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
    staged, before = spec_of(folder, STAGED), spec_before(folder)
    result = {
        "papers": manifest.papers,
        "generation": manifest.generation,
        "published": manifest.created_at,
        "segments": [asdict(segment) for segment in manifest.segments],
        "model": asdict(manifest.encoder),
        "index_recipe": manifest.index_recipe,
        "text_recipe": manifest.text_recipe,
        "weak_below": manifest.weak_below and asdict(manifest.weak_below),
        "staged": staged and staged.name,
        "before": before and before.name,
        "truncated": truncated,
        "pending_changes": pending,
        "library": asdict(counts),
        "bytes": disk_bytes,
    }
    if as_json:
        print_json(result)
        return
    click.echo(f"papers      {manifest.papers:,}")
    click.echo(f"library     {counts.changes:,} changes, {counts.embeddings:,} embeddings")
    click.echo(f"generation  {manifest.generation}, published {manifest.created_at}, {len(manifest.segments)} segments")
    click.echo(
        f"model       {manifest.encoder.name} ({manifest.encoder.dimension} dimensions, {manifest.index_recipe})"
    )
    if staged:
        click.echo(f"staged      {staged.name}, which semsearch switch lets be live")
    if before:
        click.echo(f"before      {before.name}, to which semsearch rollback goes back")
    click.echo(
        f"truncated   {truncated:,} papers have more than the {manifest.encoder.max_tokens} tokens the model reads"
    )
    if manifest.weak_below and manifest.weak_below.scores:
        scores = ", ".join(f"{score:.3f} in {mode} mode" for mode, score in manifest.weak_below.scores.items())
        click.echo(f"weak        answers whose best hit scores below {scores}, before feedback")
    click.echo(f"on disk     {disk_bytes / 1e6:,.1f} MB")
    if pending:
        click.echo(f"pending     {pending:,} changes are not searchable yet; publish them with: {folder.command}")


@click.command()
@index_option
@click.option(
    "--spare",
    type=click.IntRange(0),
    default=0,
    metavar="ROWS",
    help="Leave the newest segments alone that have so many rows together.  [default: 0]",
)
@json_option
def merge(index: Path, spare: int, as_json: bool) -> None:
    """Merge small segments into large ones, where there are many. `index` and `serve` see to that by themselves."""
    from semsearch.generation import IndexFolder
    from semsearch.merging import merge_segments

    with suppress(OSError):
        os.nice(_PATIENCE)
    generation = merge_segments(IndexFolder(index), spare)
    if generation is None:
        say({"merged": False}, as_json, "nothing to merge")
        return
    number, rows = generation.manifest.generation, [segment.rows for segment in generation.segments]
    result = {"merged": True, "generation": number, "segments": rows}
    say(result, as_json, f"generation {number} has segments of {', '.join(f'{count:,}' for count in rows)} rows")


def _disk_bytes(index: Path) -> int:
    """Return the size of all files below the folder, each hard-linked one counted once."""
    sizes: dict[int, int] = {}
    for folder, _, names in os.walk(index):
        for name in names:
            with suppress(FileNotFoundError):  # a log or an old generation may go while we count
                facts = os.stat(os.path.join(folder, name))
                sizes[facts.st_ino] = facts.st_size
    return sum(sizes.values())
