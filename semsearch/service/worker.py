"""How does a worker process answer?

With the same routes as the service itself, over the generations that the service tells it to have open. It ends when
the service does, and by nothing else: what a terminal or a service manager sends to all processes is not meant for it.
"""

import asyncio
import json
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from semsearch.encoders import find_model, load_encoder
from semsearch.errors import SemsearchError
from semsearch.generation import IndexFolder, open_generation
from semsearch.library import Library
from semsearch.search import Searcher
from semsearch.service.frames import frame, read_frame
from semsearch.service.live import State
from semsearch.service.logs import log_to_stderr
from semsearch.service.models import Models
from semsearch.service.page import page
from semsearch.service.refusals import add_refusals
from semsearch.service.routes import SEARCHERS, api
from semsearch.service.work import Work
from semsearch.service.workers import Name
from semsearch.stages import STAGES, Stage, listened_by

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Chosen:
    """The searchers that one request may be answered by."""

    state: State
    searcher: Searcher
    kept: Mapping[int, Searcher]

    def searcher_of(self, generation: int) -> Searcher | None:
        """Return the searcher of this generation, if it may answer."""
        if self.searcher.generation.manifest.generation == generation:
            return self.searcher
        return self.kept.get(generation)


class Held:
    """The generations that a worker has open, by their numbers."""

    def __init__(self, models: Models) -> None:
        """Hold none."""
        self._folder = models.folder
        self._models = models
        self._library: Library | None = None
        self._library_file: tuple[int, int] | None = None
        self._searchers: dict[int, Searcher] = {}  # never changed in place
        self._before: dict[int, Searcher] = {}  # of another library, which the service still asks for a moment more

    def follow(self, current: Name, kept: Iterable[Name], library: tuple[int, int], anew: bool) -> None:
        """Have these generations open and no others; of the kept ones those that are still there.

        :param anew: use nothing that is open already.
        :raises SemsearchError: if the current one cannot be opened.
        """
        is_other = library != self._library_file
        opened = Library.open(self._folder.library) if is_other or self._library is None else self._library
        reusable = {} if anew or is_other else self._searchers
        searchers = {current[0]: self._opened(opened, current, reusable)}
        for name in kept:
            try:
                searchers[name[0]] = self._opened(opened, name, reusable)
            except SemsearchError:  # it went while this worker was being started
                logger.info("generation %d is gone, and its pages are with it", name[0])
        self._before = self._searchers if is_other and not anew else {}
        self._library, self._library_file, self._searchers = opened, library, searchers

    def _opened(self, library: Library, name: Name, reusable: Mapping[int, Searcher]) -> Searcher:
        held = reusable.get(name[0])
        if held and held.generation.name == name:
            return held
        reuse = reusable[max(reusable)].generation if reusable else None
        generation = open_generation(self._folder, *name, reuse, whole=False)  # the service reads what is left unread
        in_use = self._searchers[max(self._searchers)].encoder if self._searchers else None
        return Searcher(library, generation, self._models.encoder_for(generation.manifest.encoder, in_use))

    def chosen(self, state: State, current: int, kept: Iterable[int]) -> Chosen:
        """Return what a request may be answered by.

        :raises KeyError: if the current generation is not held.
        """
        searchers = self._searchers
        searcher = searchers.get(current) or self._before[current]
        return Chosen(state, searcher, {number: searchers[number] for number in kept if number in searchers})


class Stages:
    """How many requests are at each stage now."""

    def __init__(self) -> None:
        """Have none."""
        self.now: dict[Stage, int] = dict.fromkeys(STAGES, 0)
        self._lock = threading.Lock()

    def count(self, stage: Stage, change: int) -> None:
        """Count one more, or one less."""
        with self._lock:
            self.now[stage] += change


class WorkerProcess:
    """Answers what comes over one socket."""

    def __init__(self, models: Models) -> None:
        """Hold nothing."""
        self._held = Held(models)
        self._stages = Stages()
        self._following = asyncio.Lock()
        self._app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
        self._app.state.workers = None
        self._app.router.routes += [*api.routes, *page.routes]
        add_refusals(self._app)

    async def run(self, connection: socket.socket) -> None:
        """Answer until the other side is gone."""
        reader, writer = await asyncio.open_connection(sock=connection)
        tasks: set[asyncio.Task[None]] = set()
        while told := await read_frame(reader):
            task = asyncio.create_task(self._answer(writer, *told))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    async def _answer(self, writer: asyncio.StreamWriter, head: dict[str, Any], body: bytes) -> None:
        answers = {"follow": self._follow, "request": self._request, "stages": self._at_stages}
        answer, text = await answers[head["kind"]](head, body)
        writer.write(frame({"id": head["id"], **answer}, text))

    async def _follow(self, head: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        current, kept = tuple(head["current"]), [tuple(name) for name in head["kept"]]
        async with self._following:
            try:
                await asyncio.to_thread(self._held.follow, current, kept, tuple(head["library"]), head["anew"])
            except SemsearchError as error:
                return {"error": (type(error).__name__, str(error))}, b""
            except Exception as error:
                logger.exception("generation %d cannot be opened", current[0])
                return {"error": ("SemsearchError", f"{type(error).__name__}: {error}")}, b""
        return {"error": None}, b""

    async def _at_stages(self, head: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        return {"stages": self._stages.now}, b""

    async def _request(self, head: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        done: list[tuple[Stage, float]] = []
        work, sent = Work(self._stages.count, lambda *stage: done.append(stage), head["seconds"]), _Sent()
        try:
            scope = _scope(head, self._held.chosen(State(*head["state"]), head["current"], head["kept"]))
            with listened_by(work):
                await self._app(scope, _Body(body), sent)
        except Exception:
            logger.exception("request %s ran into a bug", head["request_id"])
            return {"status": None, "stages": done}, b""
        answer = {"status": sent.status, "headers": sent.headers, "stages": done}
        return answer | {"generation": scope["state"].get("generation")}, sent.body


def _scope(head: Mapping[str, Any], chosen: Chosen) -> dict[str, Any]:
    """Return a request as ASGI has it."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": head["method"],
        "scheme": "http",
        "path": head["path"],
        "root_path": "",
        "query_string": head["query"].encode("latin-1"),
        "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in head["headers"]],
        "client": None,
        "server": None,
        "state": {"request_id": head["request_id"]},
        SEARCHERS: chosen,
    }


class _Body:
    """Gives a body that is there already, then says nothing: here nobody hangs up."""

    def __init__(self, body: bytes) -> None:
        self._body: bytes | None = body

    async def __call__(self) -> dict[str, Any]:
        if self._body is None:
            return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]  # it never comes
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


class _Sent:
    """Takes in an answer."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: list[tuple[str, str]] = []
        self.body = b""

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in message["headers"]]
        else:
            self.body += message.get("body", b"")


def work(models: Models) -> None:
    """Answer what comes over the socket that is this process's standard input, until it is closed."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with socket.socket(fileno=os.dup(sys.stdin.fileno())) as connection:
        asyncio.run(_work(models, connection))


async def _work(models: Models, connection: socket.socket) -> None:
    await WorkerProcess(models).run(connection)
    os._exit(0)  # whatever is still being sought, nobody waits for it


def main() -> None:
    """Do as the one argument says, which `worker_command` wrote."""
    orders = json.loads(sys.argv[1])
    log_to_stderr(orders["log_form"], private=orders["log_private"])
    folder = IndexFolder(Path(orders["index"]))
    work(Models(folder, orders["device"], find_model, partial(load_encoder, threads=orders["threads"])))


if __name__ == "__main__":
    main()
