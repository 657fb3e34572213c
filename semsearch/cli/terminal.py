"""What do several commands print?"""

import json
import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from semsearch.reindex import Progress

INTERRUPTED = 130
"""The exit code that shells expect of a program ended by Ctrl-C."""


def standard_input() -> str:
    """Return all that is on standard input.

    :raises click.UsageError: if there is none.
    """
    if sys.stdin is None:
        raise click.UsageError("there is no standard input to read; give the text itself")
    return sys.stdin.read()


def say(result: dict[str, Any], as_json: bool, text: str) -> None:
    """Print the result for machines, or the text for people."""
    if as_json:
        print_json(result)
    else:
        click.echo(text)


def print_json(value: object) -> None:
    """Print the value as people can still read it."""
    click.echo(json.dumps(value, ensure_ascii=False, indent=2))


class progress_bar:
    """A progress bar on stderr with rate and time left, absent where stderr is no terminal."""

    def __init__(self, *, hidden: bool) -> None:
        self._hidden = hidden

    def __enter__(self) -> "Callable[[Progress], None]":
        """Show the bar; return what moves it."""
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
        """Take the bar away."""
        self._bar.stop()
