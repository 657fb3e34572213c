"""Where does the time of an answer go?

The reading corridor names its stages; who wants to know of them listens to what runs in its context. Where nobody
listens, a stage costs some microseconds.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, Protocol, get_args

Stage = Literal["encode", "filter", "scan", "lexical", "fuse", "explain", "facets"]
STAGES: tuple[Stage, ...] = get_args(Stage)
"""What a search does, in this order: encode the text, find the rows allowed, ask each leg, join the legs, read the
papers and say why they are there, count facets. No stage holds another."""


class Listener(Protocol):
    """Is told of each stage, in the thread that does the work."""

    def begins(self, stage: Stage) -> None:
        """Take note; whatever this raises ends the work here."""
        ...

    def ended(self, stage: Stage, seconds: float) -> None:
        """Take note of a stage that began, also if it failed."""
        ...


_listener: ContextVar[Listener | None] = ContextVar("semsearch_stages", default=None)


@contextmanager
def listened_by(listener: Listener) -> Iterator[None]:
    """Tell the listener of all stages of what is done inside, threads that are given this context included."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


@contextmanager
def stage(name: Stage) -> Iterator[None]:
    """Let what is done inside be known as this stage; also a decorator."""
    listener = _listener.get()
    if listener is None:
        yield
        return
    listener.begins(name)
    started = time.perf_counter()
    try:
        yield
    finally:
        listener.ended(name, time.perf_counter() - started)
