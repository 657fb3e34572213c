"""When are small segments merged, and by whom?

By a process of its own, one at a time, whenever additions have left enough to merge: it takes a while, and neither
searches nor additions shall wait for it. What it publishes is found and swapped in like any other generation.
"""

import logging
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from semsearch.generation import Generation
from semsearch.merging import due_merge
from semsearch.processes import python_module

logger = logging.getLogger(__name__)

_RETRY_SECONDS = 60.0

Run = Callable[[Sequence[str]], "subprocess.Popen[bytes]"]


def _run(arguments: Sequence[str]) -> "subprocess.Popen[bytes]":
    command = python_module("semsearch.cli", *arguments)
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


class Merges:
    """The merges of one index."""

    def __init__(self, index: Path, spared_rows: int, run: Run = _run) -> None:
        """Begin none.

        :param spared_rows: the newest rows, which every addition merges itself.
        """
        self._arguments = ["merge", "--index", str(index), "--spare", str(spared_rows)]
        self._spared_rows = spared_rows
        self._run = run
        self._process: subprocess.Popen[bytes] | None = None
        self._retry_at = 0.0

    def consider(self, generation: Generation) -> None:
        """Begin to merge the segments of this generation, if that is due and none is being done."""
        if self._is_running() or time.monotonic() < self._retry_at:
            return
        if due_merge(generation, self._spared_rows):
            try:
                self._process = self._run(self._arguments)
            except OSError as error:
                self._failed(error)

    def _is_running(self) -> bool:
        if self._process is None:
            return False
        status = self._process.poll()
        if status is None:
            return True
        if status:
            self._failed(f"exit code {status}")
        self._process = None
        return False

    def _failed(self, reason: object) -> None:
        self._retry_at = time.monotonic() + _RETRY_SECONDS
        logger.warning("segments could not be merged, which is tried again later: %s", reason)

    def stop(self) -> None:
        """End a merge that is being done; it comes to nothing, and another will do it."""
        if self._process:
            self._process.terminate()
            self._process.wait()
            self._process = None
