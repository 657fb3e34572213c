"""How often may one client ask?"""

import time
from collections import OrderedDict
from collections.abc import Callable

MAX_CLIENTS = 10_000


class RateLimit:
    """A token bucket per client that holds a minute's worth: who was quiet may ask that much at once.

    Kept as the generic cell rate algorithm does (ITU-T I.371): one time per client, when its bucket will be full again.
    Of the clients, the latest 10,000 are remembered.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Let each client ask `per_minute` times a minute, one or more; the clock gives seconds."""
        self._seconds_each = 60 / per_minute
        self._clock = clock
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def wait(self, client: str) -> float:
        """Return 0.0 and take a token, or return the seconds until there is one."""
        now = self._clock()
        full_at = max(self._full_at.get(client, now), now) + self._seconds_each
        if full_at - now > 60 + 1e-6:  # a whole minute's worth, and the rounding of the sums
            return full_at - now - 60
        self._full_at[client] = full_at
        self._full_at.move_to_end(client)
        if len(self._full_at) > MAX_CLIENTS:
            self._full_at.popitem(last=False)
        return 0.0
