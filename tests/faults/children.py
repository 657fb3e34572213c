"""How is a trial kept from taking the others with it?

Each trial runs in a process of its own, forked from one that has imported everything and started no thread: a crash or
a hang is a result, nothing is left open or cached, and it costs some milliseconds.
"""

import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

TRIAL_SECONDS = 60.0


class Crashed(Exception):
    """The process was ended by a signal that nobody sent it, or by a bug in the trial."""


class Hung(Exception):
    """The process did not end in time."""


def in_child(work: Callable[[], Any], seconds: float = TRIAL_SECONDS) -> Any:
    """Return what `work` returns, which must fit into JSON, computed in a process of its own.

    :raises Crashed: if it does not come to its end.
    :raises Hung: if it takes longer than this.
    """
    reading, writing = os.pipe()
    child = forked(lambda: _report(work, writing))
    os.close(writing)
    try:
        answer = _all_of(reading, time.monotonic() + seconds)
    finally:
        os.close(reading)
    if answer is None:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if answer is None:
        raise Hung(f"after {seconds:.0f} s")
    if os.WIFSIGNALED(status):
        raise Crashed(signal.Signals(os.WTERMSIG(status)).name)
    if status:
        raise Crashed(f"exit status {os.WEXITSTATUS(status)}")
    return json.loads(answer)


def forked(work: Callable[[], object]) -> int:
    """Return the process that does this and nothing else."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _report(work: Callable[[], Any], writing: int) -> None:
    with os.fdopen(writing, "w", encoding="utf-8") as pipe:
        json.dump(work(), pipe)


def _all_of(reading: int, deadline: float) -> bytes | None:
    """Return all that comes until the other end is closed, None if that is not in time."""
    data = b""
    while select.select([reading], [], [], max(0.0, deadline - time.monotonic()))[0]:
        block = os.read(reading, 1 << 16)
        if not block:
            return data
        data += block
    return None
