"""At which stage is a request, and has it any time left?"""

import time
from collections.abc import Callable

from semsearch.service.refusals import took_too_long
from semsearch.stages import Stage


class Work:
    """Listens to the stages of one request, and ends it when its time is over."""

    def __init__(
        self, on_change: Callable[[Stage, int], None], on_end: Callable[[Stage, float], None], seconds: float
    ) -> None:
        """Begin now; the request may take this long.

        :param on_change: is told of one more request at a stage, or one less.
        :param on_end: is told how many seconds a stage took.
        """
        self._on_change = on_change
        self._on_end = on_end
        self._deadline = time.monotonic() + seconds

    def begins(self, stage: Stage) -> None:
        """Count a request that goes into a stage.

        :raises Refusal: 504 if its time is over. Nothing stops a stage that has begun; each takes a moment only, and
            what takes long under load is waiting for one's turn.
        """
        if time.monotonic() > self._deadline:
            raise took_too_long()
        self._on_change(stage, 1)

    def ended(self, stage: Stage, seconds: float) -> None:
        """Count it as done."""
        self._on_change(stage, -1)
        self._on_end(stage, seconds)
