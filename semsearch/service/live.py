"""Which searcher answers now, and what happens when the index changes beneath the service?

One background thread opens the index, then looks twice a second whether CURRENT names another generation. A new one is
opened and verified beside the old one and swapped in by replacing one reference; a request takes that reference once,
so all it sees is of one generation. The old one is kept for a while, for readers who are in the middle of its pages.
What cannot be opened never takes down what is being served.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from semsearch.durable import exclusive_lock
from semsearch.encoders import DEFAULT_MODEL, Encoder, EncoderSpec, ModelFolder
from semsearch.errors import (
    DamageError,
    EncoderError,
    IndexBusyError,
    IndexMissingError,
    NoGenerationError,
    SemsearchError,
)
from semsearch.generation import KEEP_SECONDS, Generation, IndexFolder, current_generation, open_current
from semsearch.library import Library
from semsearch.publishing import check_made_from, publish_pending
from semsearch.search import Searcher

logger = logging.getLogger(__name__)

LoadEncoder = Callable[[ModelFolder, str | None], Encoder]
FindModel = Callable[[str, Path], ModelFolder]
Reason = Literal["none", "opening", "no_index", "no_generation", "damaged", "encoder", "older_generation", "failed"]

_FIRST_RETRY_SECONDS = 0.5
_LAST_RETRY_SECONDS = 30.0
_STOP_SECONDS = 10.0
_MAX_REPLACED = 8


@dataclass(frozen=True, slots=True)
class State:
    """How the service stands: "degraded" answers, but not from what the index should be; `reason` says why."""

    status: Literal["starting", "ready", "degraded", "unavailable"]
    reason: Reason


def reason_of(error: Exception) -> Reason:
    """Return the word for this failure that may be told to anyone; the error's own text is for the log."""
    reasons: tuple[tuple[type[Exception], Reason], ...] = (
        (IndexMissingError, "no_index"),
        (NoGenerationError, "no_generation"),
        (DamageError, "damaged"),
        (EncoderError, "encoder"),
    )
    return next((reason for kind, reason in reasons if isinstance(error, kind)), "failed")


class LiveSearcher:
    """The searcher of the moment; `start` and `stop` belong to the service's own start and end."""

    def __init__(
        self,
        folder: IndexFolder,
        *,
        device: str | None,
        find_model: FindModel,
        load_encoder: LoadEncoder,
        poll_seconds: float,
    ) -> None:
        """Prepare, without touching the index."""
        self._folder = folder
        self._device = device
        self._find_model = find_model
        self._load_encoder = load_encoder
        self._poll_seconds = poll_seconds
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._reset()

    def _reset(self) -> None:
        self._libraries: list[Library] = []  # the last is in use, the others by requests that began with them
        self._library_file: tuple[int, int] | None = None
        self._searcher: Searcher | None = None
        self._replaced: dict[int, tuple[Searcher, float]] = {}  # by generation, and until when; never changed in place
        self._state = State("starting", "opening")
        self._seen: tuple[int, str] | None = None
        self._retry_at: float | None = 0.0  # None: nothing to do until CURRENT changes
        self._retry_seconds = _FIRST_RETRY_SECONDS
        self._reported = ""

    @property
    def searcher(self) -> Searcher | None:
        """The searcher for one request, from its start to its end; None while there is none."""
        return self._searcher

    def searcher_of(self, generation: int) -> Searcher | None:
        """Return the searcher of this generation, which may have been replaced up to 15 minutes ago."""
        current = self._searcher
        if current and current.generation.manifest.generation == generation:
            return current
        searcher, until = self._replaced.get(generation, (None, 0.0))
        return searcher if time.monotonic() < until else None

    @property
    def state(self) -> State:
        """How the service stands."""
        return self._state

    def start(self) -> None:
        """Begin to open the index, in the background."""
        self._stopping.clear()
        self._thread = threading.Thread(target=self._watch, name="semsearch-live", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop watching and close the library."""
        assert self._thread, "it was started"
        self._stopping.set()
        self._thread.join(_STOP_SECONDS)
        if self._thread.is_alive():
            return  # it is loading an encoder or publishing, and the end of the process may cut both short
        for library in self._libraries:
            library.close()
        self._reset()

    def _watch(self) -> None:
        while not self._stopping.is_set():
            try:
                self._look()
            except Exception as error:  # whatever it is, the next look may succeed, and the old searcher still can
                self._report(error)
                self._state = State("degraded" if self._searcher else "unavailable", reason_of(error))
                self._retry_later()
            self._replaced = {number: kept for number, kept in self._replaced.items() if time.monotonic() < kept[1]}
            self._stopping.wait(self._poll_seconds)

    def _look(self) -> None:
        """Bring the searcher up to what CURRENT names, if that is something else or did not work out before."""
        named = current_generation(self._folder)
        if named == self._seen and (self._retry_at is None or time.monotonic() < self._retry_at):
            return
        self._seen = named
        library = self._opened_library()
        opened = self._opened_generation(library)
        fell_back = opened is None or named is None or opened.manifest.generation < named[0]
        generation, trouble = self._replayed(library, opened, fell_back)
        self._swap(library, generation)
        if trouble == "none" and fell_back and generation is opened:
            trouble = "older_generation"
        self._state = State("degraded" if trouble != "none" else "ready", trouble)
        if trouble != "none" or generation.manifest.last_seq < library.last_seq():
            self._retry_later()
        else:
            self._retry_at = None
            self._retry_seconds = _FIRST_RETRY_SECONDS
            self._reported = ""

    def _opened_library(self) -> Library:
        """Return the library, opened again if the index was made anew: its rows must not join to the old one."""
        self._folder.check_exists()
        found = self._folder.library.stat()
        if (found.st_dev, found.st_ino) != self._library_file:
            self._libraries.append(Library.open(self._folder.library))
            self._library_file = (found.st_dev, found.st_ino)
        return self._libraries[-1]

    def _opened_generation(self, library: Library) -> Generation | None:
        """Return the live generation, or None if none is sound but the library can make one."""
        try:
            return open_current(self._folder, reuse=self._searcher.generation if self._searcher else None)
        except NoGenerationError as error:
            if not library.last_seq():
                raise
            self._report(error)
            return None

    def _replayed(self, library: Library, generation: Generation | None, fell_back: bool) -> tuple[Generation, Reason]:
        """Return the generation with what the library holds beyond it, and what kept that from being done.

        Encodes nothing. A running reindex is left alone: it publishes when it is done.

        :raises LibraryDamageError: if the generation's rows do not mean this library's papers.
        """
        if generation:
            check_made_from(library, generation)
        if generation and not fell_back and generation.manifest.last_seq >= library.last_seq():
            return generation, "none"
        try:
            self._check_nobody_writes()
            return publish_pending(self._folder, library, self._spec(library, generation)), "none"
        except (SemsearchError, OSError) as error:
            if generation is None:
                raise
            if isinstance(error, IndexBusyError):
                return generation, "none"
            self._report(error)
            return generation, reason_of(error)

    def _check_nobody_writes(self) -> None:
        for lock in (self._folder.reindex_lock, self._folder.publish_lock):
            with exclusive_lock(lock, "replay"):
                pass

    def _spec(self, library: Library, generation: Generation | None) -> EncoderSpec:
        return (
            generation.manifest.encoder
            if generation
            else self._find_model(library.main_encoder() or DEFAULT_MODEL, self._folder.networks).spec
        )

    def _swap(self, library: Library, generation: Generation) -> None:
        encoder = self._encoder_for(generation.manifest.encoder)
        self._replaced = self._replaced_by(library, generation)
        self._searcher = Searcher(library, generation, encoder)
        logger.info("serving generation %d with %d papers", generation.manifest.generation, generation.papers)

    def _replaced_by(self, library: Library, generation: Generation) -> dict[int, tuple[Searcher, float]]:
        """Return what is kept once this generation is served; nothing of an index that was made anew."""
        current = self._searcher
        if current is None or current.library is not library:
            return {}
        latest = {current.generation.manifest.generation: (current, time.monotonic() + KEEP_SECONDS)}
        kept = self._replaced | latest
        kept.pop(generation.manifest.generation, None)
        return {number: kept[number] for number in sorted(kept, reverse=True)[:_MAX_REPLACED]}

    def _encoder_for(self, spec: EncoderSpec) -> Encoder:
        """Return the encoder in use if it makes this vector space, else a new one, loaded beside it."""
        if self._searcher and self._searcher.encoder.spec.fingerprint == spec.fingerprint:
            return self._searcher.encoder
        model = self._find_model(spec.name, self._folder.networks)
        if model.spec.fingerprint != spec.fingerprint:  # before seconds go into loading it
            raise EncoderError(
                f"the index was made with {spec.name} ({spec.fingerprint[:12]}), but that name now gives another "
                f"vector space ({model.spec.fingerprint[:12]}); encode the papers anew with: "
                f"{self._folder.command} --model {spec.name}"
            )
        return self._load_encoder(model, self._device)

    def _retry_later(self) -> None:
        self._retry_at = time.monotonic() + self._retry_seconds
        self._retry_seconds = min(2 * self._retry_seconds, _LAST_RETRY_SECONDS)

    def _report(self, error: Exception) -> None:
        """Log a failure once, not at every look."""
        if str(error) != self._reported:
            self._reported = str(error)
            unexpected = not isinstance(error, SemsearchError)
            logger.error("the index cannot be served as it should: %s", error, exc_info=unexpected)
