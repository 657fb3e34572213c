"""How is it asked on a terminal? The only room that prints.

```
options.py      options that several commands have
terminal.py     what several commands print: JSON, progress
changing.py     index, delete, purge
asking.py       search, related
answers.py      an answer as text for people
keeping.py      serve, stats, merge
models.py       stage, compare, switch, rollback
mending.py      verify, repair, backup, restore
evaluating.py   eval
```

Heavy rooms are imported inside the commands that need them, so that `semsearch --help` answers at once.
"""

import os
import sys
from typing import Any

import click

from semsearch import __version__
from semsearch.cli.asking import related, search
from semsearch.cli.changing import delete, index, purge
from semsearch.cli.evaluating import evaluate
from semsearch.cli.keeping import merge, serve, stats
from semsearch.cli.mending import backup, repair, restore, verify
from semsearch.cli.models import compare, rollback, stage, switch
from semsearch.cli.terminal import INTERRUPTED
from semsearch.errors import SemsearchError


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
        sys.exit(INTERRUPTED)
    except _NobodyReadsError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except (SemsearchError, ValueError, OSError) as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)


class _NobodyReadsError(Exception):
    """Whoever read the output has closed it, as in `semsearch search … | head`."""


class _Commands(click.Group):
    """The commands; one whose reader has enough has done its work, where click would exit with 1."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was named."""
        try:
            result = super().invoke(ctx)
            if sys.stdout:  # which a caller may have closed
                sys.stdout.flush()
        except BrokenPipeError as error:
            raise _NobodyReadsError from error
        return result


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
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


_COMMANDS = (
    *(index, search, related, serve, stats, merge, evaluate, delete, purge),
    *(stage, compare, switch, rollback),
    *(verify, repair, backup, restore),
)
for _command in _COMMANDS:
    cli.add_command(_command)
