"""How do several processes answer the questions of one service?

The process that listens does everything but the searching itself: it alone holds connections, limits, the token, the
writer and the metrics, publishes, and decides which generation a request sees. A request that is to be searched for
goes to a worker process, which has a Python of its own and shares nothing but the index's files; that request and not
its connection is what is handed out, so none waits while a worker is idle, and one that its worker died of is given
to another. A generation is served once every worker has it open.

Workers are started anew, never forked: neither FAISS nor OpenVINO survives that.
"""

import asyncio
import json
import logging
import os
import socket
import subprocess
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import Response

from semsearch import errors
from semsearch.errors import SemsearchError
from semsearch.processes import python_module
from semsearch.service.frames import frame, read_frame
from semsearch.service.live import LiveSearcher
from semsearch.service.logs import Form
from semsearch.service.refusals import plain_refusal, took_too_long, unavailable
from semsearch.stages import Stage

logger = logging.getLogger(__name__)

Name = tuple[int, str]
"""A generation's number and its manifest's sha256."""

_MOST_BY_DEFAULT = 4
_Told = tuple[dict[str, Any], bytes]
_TRIES = 2  # workers that a request may end before it is given up
_FIRST_RETRY_SECONDS = 0.5
_LAST_RETRY_SECONDS = 30.0
_SOUND_SECONDS = 60.0  # a worker that lived so long is started again at once
_START_SECONDS = 900.0  # the first may have to convert the model, while the others wait for it
_FOLLOW_SECONDS = 30.0
_OVERTIME_SECONDS = 20.0  # beyond a request's time, after which its worker hangs
_GRACE_SECONDS = 1.0  # for a worker to say itself that a request's time is over
_STATE_SECONDS = 1.0
_OF_THE_SERVICE = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "SEMSEARCH_ADMIN_TOKEN")
_HEADERS = (b"accept", b"content-type")  # what answers depend on; nothing else of a client goes further


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class WorkerGoneError(SemsearchError):
    """A worker process ended before it answered."""


class _Worker:
    """One worker process."""

    def __init__(self, place: int, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start it; its end of the pair of sockets is its standard input."""
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                command, stdin=theirs.fileno(), stdout=subprocess.DEVNULL, env=environment, process_group=0
            )
        self._asked: dict[int, asyncio.Future[_Told]] = {}
        self._number = 0
        self.place = place
        self.at_work = False  # two requests would take turns in one Python, and wait for each other
        self.pid = self._process.pid

    async def connect(self) -> None:
        self._reader, self._writer = await asyncio.open_connection(sock=self._socket)
        self._listening = asyncio.create_task(self._listen())

    @property
    def lives(self) -> bool:
        """Whether it can be asked."""
        return not self._listening.done()

    async def ask(self, head: dict[str, Any], body: bytes = b"") -> _Told:
        """Return what the worker says to this.

        :raises WorkerGoneError: if it ends before.
        """
        if not self.lives:
            raise WorkerGoneError("a worker process has ended")
        self._number += 1
        number = self._number
        answer: asyncio.Future[_Told] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        try:
            self._writer.write(frame({"id": number, **head}, body))
            with suppress(ConnectionError):  # then it will be seen to be gone
                await self._writer.drain()
            return await answer
        finally:
            del self._asked[number]

    async def follow(self, current: Name, kept: Iterable[Name], library: tuple[int, int], anew: bool = False) -> None:
        """Have these generations opened; anew: whatever it has open already.

        :raises SemsearchError: if the current one cannot be.
        """
        told, _ = await self.ask(
            {"kind": "follow", "current": current, "kept": [*kept], "library": library, "anew": anew}
        )
        if told["error"]:
            kind, message = told["error"]
            raise getattr(errors, kind, SemsearchError)(message)

    async def gone(self) -> int:
        """Return its exit code once it has ended."""
        await asyncio.wait([self._listening])
        return await asyncio.to_thread(self._process.wait)

    def kill(self) -> None:
        self._process.kill()

    async def end(self) -> None:
        """Let it end, by itself or not."""
        self._writer.close()
        try:
            async with asyncio.timeout(0.5):
                await asyncio.to_thread(self._process.wait, 0.4)
        except (TimeoutError, subprocess.TimeoutExpired):
            self.kill()
            await asyncio.to_thread(self._process.wait)

    async def _listen(self) -> None:
        while told := await read_frame(self._reader):
            head, body = told
            asked = self._asked.get(head["id"])
            if asked and not asked.done():  # else whoever asked does not wait any more
                asked.set_result((head, body))
        for asked in self._asked.values():
            if not asked.done():
                asked.set_exception(WorkerGoneError("a worker process ended before it answered"))
        self._writer.close()


class Workers:
    """The worker processes of one service; all but `follow` is for its event loop."""

    def __init__(self, command: Sequence[str], count: int, threads: int = 1) -> None:
        """Start none yet.

        :param threads: that one worker may compute with.
        """
        self._command = command
        self.count = count
        self._environment = {name: value for name, value in os.environ.items() if name not in _OF_THE_SERVICE}
        self._environment |= {"OMP_NUM_THREADS": str(threads)}
        self._up: list[_Worker] = []  # in the order of their places, so that a single client finds warm caches
        self._queue: deque[asyncio.Future[_Worker]] = deque()
        self._wanted: tuple[Name, tuple[Name, ...], tuple[int, int]] | None = None
        self._tried: set[int] = set()  # the places whose first worker is up, or failed
        self._trouble: SemsearchError | None = None
        self._asking: set[asyncio.Task[_Told | None]] = set()
        self._stopping = False
        self.restarts = 0

    @classmethod
    def over(
        cls, index: Path, count: int | None, device: str | None, log_form: Form, log_private: bool
    ) -> "Workers | None":
        """Return so many workers over the index folder at `index`, None if this process shall search by itself.

        :param count: None for what suits the machine; 1 for none.
        """
        of_machine = _cores()
        count = min(of_machine, _MOST_BY_DEFAULT) if count is None else count
        if count == 1:
            return None
        threads = max(1, of_machine // count)
        orders = {
            "index": str(index),
            "device": device,
            "threads": threads,
            "log_form": log_form,
            "log_private": log_private,
        }
        return cls(python_module("semsearch.service.worker", json.dumps(orders)), count, threads)

    async def start(self, live: LiveSearcher, on_stage: Callable[[Stage, float], None], seconds: float) -> None:
        """Start the workers, in the background.

        :param on_stage: is told how long each stage took.
        :param seconds: that a request has.
        """
        self._live = live
        self._on_stage = on_stage
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Condition()
        self._stopping = False
        self._keepers = [asyncio.create_task(self._keep(place)) for place in range(self.count)]

    async def stop(self) -> None:
        """End them all, and whatever waits for them."""
        self._stopping = True
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        async with self._changed:
            self._changed.notify_all()

    @property
    def missing(self) -> int:
        """How many workers should answer and do not."""
        return self.count - len(self._up)

    @property
    def waiting(self) -> int:
        """How many requests wait for a worker."""
        return sum(not turn.done() for turn in self._queue)

    @property
    def pids(self) -> dict[int, int]:
        """The process ids of the workers that answer, by their places."""
        return {worker.place: worker.pid for worker in self._up}

    # Which generation they have open

    def follow(self, current: Name, kept: Sequence[Name], library: tuple[int, int], *, anew: bool) -> None:
        """Return once every worker that answers can do so from these generations; called in another thread.

        A worker that cannot is ended, unless none can.

        :param library: what tells the library's file from another in its place.
        :param anew: what they have open already must not be used any more.
        :raises SemsearchError: if no worker can open the current one. They go on with what they have.
        """
        following = self._follow((current, tuple(kept), library), anew)
        asyncio.run_coroutine_threadsafe(following, self._loop).result()

    async def _follow(self, wanted: tuple[Name, tuple[Name, ...], tuple[int, int]], anew: bool) -> None:
        before, self._wanted = self._wanted, wanted
        async with self._changed:
            self._changed.notify_all()
            await self._changed.wait_for(lambda: self._stopping or len(self._tried) == self.count)
        up = list(self._up)
        failed = await asyncio.gather(*(self._followed(worker, anew) for worker in up))
        errors_met = [error for error in failed if error]
        if len(errors_met) < len(up):
            for worker, error in zip(up, failed, strict=True):
                if error:
                    logger.warning("a worker process is ended, because it could not open the generation: %s", error)
                    self._take_out(worker)
            return
        self._wanted = before or wanted
        raise errors_met[0] if errors_met else self._trouble or SemsearchError("no worker process answers just now")

    async def _followed(self, worker: _Worker, anew: bool) -> SemsearchError | None:
        assert self._wanted, "it is what is followed"
        try:
            async with asyncio.timeout(_FOLLOW_SECONDS):
                await worker.follow(*self._wanted, anew)
        except TimeoutError:
            return SemsearchError(f"a worker process did not open the generation within {_FOLLOW_SECONDS:g} seconds")
        except SemsearchError as error:
            return error
        return None

    # That there are as many as there should be

    async def _keep(self, place: int) -> None:
        """Have a worker in this place, and another whenever it ends."""
        wait = _FIRST_RETRY_SECONDS
        while True:
            worker, began = None, time.monotonic()
            try:
                worker = _Worker(place, self._command, self._environment)
                await worker.connect()
                async with asyncio.timeout(_START_SECONDS):
                    await self._raise(worker)
                await self._told_of(place, None)
                code = await worker.gone()
                logger.error("a worker process ended (exit code %d) and is started again", code)
            except (SemsearchError, OSError) as error:
                logger.error("a worker process cannot be used, which is tried again later: %s", error or "it hangs")
                await self._told_of(place, error if isinstance(error, SemsearchError) else SemsearchError(str(error)))
            finally:
                if worker:
                    self._take_out(worker)
                    await asyncio.shield(worker.end())
            self.restarts += 1
            wait = _FIRST_RETRY_SECONDS if time.monotonic() - began > _SOUND_SECONDS else wait
            await asyncio.sleep(wait)
            wait = min(2 * wait, _LAST_RETRY_SECONDS)

    async def _raise(self, worker: _Worker) -> None:
        """Let the worker answer once it has open what the others have."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._wanted)
        followed = None
        while followed != self._wanted:
            followed = self._wanted
            assert followed, "it was waited for"
            await worker.follow(*followed)
        self._up = sorted([*self._up, worker], key=lambda each: each.place)
        self._hand_out()

    async def _told_of(self, place: int, trouble: SemsearchError | None) -> None:
        self._trouble = trouble or self._trouble
        async with self._changed:
            self._tried.add(place)
            self._changed.notify_all()

    def _take_out(self, worker: _Worker) -> None:
        """Give it no more requests, and end it."""
        self._up = [other for other in self._up if other is not worker]
        worker.kill()

    # Requests

    @property
    def can_answer(self) -> bool:
        """Whether there is anything to answer from."""
        return self._live.searcher is not None

    async def answer(self, request: Request) -> Response:
        """Return what a worker answers.

        :raises Refusal: 504 when that is over, 503 if what it would be answered from turned out to be damaged, 500 if
            the workers that were asked ended.
        """
        deadline = time.monotonic() + self._seconds
        body = await request.body()
        for _ in range(_TRIES):
            worker = await self._turn(deadline)
            if not self.can_answer:
                self._give_back(worker)
                raise unavailable(self._live.state.reason)
            head = _told(request, self._live, deadline - time.monotonic())
            asking = asyncio.create_task(self._ask(worker, head, body))
            self._asking.add(asking)
            asking.add_done_callback(self._asking.discard)
            await asyncio.wait({asking}, timeout=deadline + _GRACE_SECONDS - time.monotonic())
            if not asking.done():
                raise took_too_long()
            told, text = asking.result() or ({"status": None, "stages": ()}, b"")
            for stage, stage_seconds in told["stages"]:
                self._on_stage(stage, stage_seconds)
            if asking.result() is None:
                continue
            if told["status"] is None:
                break
            request.state.generation = told["generation"]
            response = Response(text, told["status"])
            response.raw_headers = [
                (name.encode("latin-1"), value.encode("latin-1")) for name, value in told["headers"]
            ]
            return response
        logger.error("request %s could not be answered by a worker process", request.state.request_id)
        raise plain_refusal(500)

    async def _ask(self, worker: _Worker, head: dict[str, Any], body: bytes) -> _Told | None:
        """Return what the worker says to a request, None if it ends before; a worker that hangs is ended."""
        try:
            async with asyncio.timeout(self._seconds + _OVERTIME_SECONDS):
                return await worker.ask(head, body)
        except TimeoutError:
            logger.error("request %s: a worker process hangs, and is ended", head["request_id"])
            self._take_out(worker)
        except WorkerGoneError:
            pass
        finally:
            self._give_back(worker)
        return None

    async def _turn(self, deadline: float) -> _Worker:
        """Return a worker that has nothing else to do, to each request in the order in which they came."""
        turn: asyncio.Future[_Worker] = self._loop.create_future()
        self._queue.append(turn)
        self._hand_out()
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                return await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():  # its turn came at the moment when it gave up
                self._give_back(turn.result())
            if isinstance(error, TimeoutError):
                raise took_too_long() from None
            raise

    def _give_back(self, worker: _Worker) -> None:
        worker.at_work = False
        self._hand_out()

    def _hand_out(self) -> None:
        """Give the idle workers to who waits longest."""
        while self._queue:
            if self._queue[0].done():  # it gave up
                self._queue.popleft()
                continue
            idle = next((worker for worker in self._up if worker.lives and not worker.at_work), None)
            if idle is None:
                return
            idle.at_work = True
            self._queue.popleft().set_result(idle)

    async def at_stages(self) -> Counter[Stage]:
        """Return how many requests are at each stage now, as far as the workers can be asked."""
        asked = await asyncio.gather(*(self._at_stages(worker) for worker in self._up))
        return sum(asked, Counter())

    async def _at_stages(self, worker: _Worker) -> Counter[Stage]:
        with suppress(TimeoutError, WorkerGoneError):
            async with asyncio.timeout(_STATE_SECONDS):
                told, _ = await worker.ask({"kind": "stages"})
                return Counter(told["stages"])
        return Counter()


def _told(request: Request, live: LiveSearcher, seconds: float) -> dict[str, Any]:
    """Return what a worker is told of a request, and from which generations it may be answered."""
    scope, searcher = request.scope, live.searcher
    assert searcher, "there is one before any worker answers"
    state = live.state_of_index
    return {
        "kind": "request",
        "request_id": request.state.request_id,
        "method": scope["method"],
        "path": scope["path"],
        "query": scope["query_string"].decode("latin-1"),
        "headers": [
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"] if name in _HEADERS
        ],
        "seconds": seconds,
        "state": (state.status, state.reason),
        "current": searcher.generation.manifest.generation,
        "kept": live.kept,
    }
