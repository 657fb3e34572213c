"""How do calls that many threads make at once share one piece of work?"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Shared(Generic[Item, Result]):
    """A function of one item whose calls from many threads are worked off together.

    Nobody waits for company: a caller who finds the work idle starts it at once with whatever has gathered, and those
    who come meanwhile are the next batch.
    """

    def __init__(self, work: Callable[[Sequence[Item]], Sequence[Result]], most: int) -> None:
        """Share `work`, which gives one result per item, over batches of at most `most` items."""
        self._work = work
        self._most = most
        self._waiting: deque[tuple[Item, Future[Result]]] = deque()
        self._busy = threading.Lock()

    def __call__(self, item: Item) -> Result:
        """Return the work's result for this item; what it raises for a batch, every caller of that batch gets."""
        mine: Future[Result] = Future()
        self._waiting.append((item, mine))
        while not mine.done():
            with self._busy:
                if not mine.done():
                    self._work_off()
        return mine.result()

    def _work_off(self) -> None:
        batch = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
        try:
            results = self._work([item for item, _ in batch])
        except BaseException as error:
            for _, caller in batch:
                caller.set_exception(error)
        else:
            for (_, caller), result in zip(batch, results, strict=True):
                caller.set_result(result)
