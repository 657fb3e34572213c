"""Which searcher answers now, and what happens when the index changes beneath the service?

One background thread opens the index, then looks twice a second whether CURRENT names another generation. A new one is
opened and verified beside the old one and swapped in by replacing one reference; a request takes that reference once,
so all it sees is of one generation. The old one is kept for a while, for readers who are in the middle of its pages.
What cannot be opened never takes down what is being served.

What is added while the service runs is published by the same thread, as soon as it is committed and at most twice a
second: what comes in between goes into one generation.
"""

import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Literal, Protocol

from semsearch.additions import encode_strays
from semsearch.durable import exclusive_lock
from semsearch.encoders import DEFAULT_MODEL, Encoder, EncoderSpec
from semsearch.errors import (
    DamageError,
    EncoderError,
    IndexBusyError,
    IndexMissingError,
    NoGenerationError,
    NotEncodedError,
    SemsearchError,
)
from semsearch.generation import KEEP_SECONDS, Generation, IndexFolder, current_generation, open_current
from semsearch.library import Library
from semsearch.publishing import check_made_from, model_of, publish_pending
from semsearch.search import Searcher
from semsearch.service.merges import Merges
from semsearch.service.models import Models
from semsearch.service.scrub import ROUND_SECONDS, Scrub

logger = logging.getLogger(__name__)

Reason = Literal[
    "none",
    "opening",
    "no_index",
    "no_generation",
    "not_encoded",
    "damaged",
    "encoder",
    "older_generation",
    "unread",
    "failed",
    "workers",
]

_FIRST_RETRY_SECONDS = 0.5
_LAST_RETRY_SECONDS = 30.0
_STOP_SECONDS = 1.5  # with the 8 s of draining less than the 10 s after which a manager kills
_MOST_REPLACED, _ROWS_OF_REPLACED = 32, 100_000_000
"""So many generations, and of so many rows in all, are kept open to be read on: each process holds some three bytes a
row of each. Additions that keep coming make two a second."""
_PUBLISH_SECONDS = 0.5
_MOST_STRAYS = 1_000  # papers that are encoded here because who brought them encoded them for another model
_MOST_MERGED = 1_000  # rows that a publish may write again: more would keep what is new waiting


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
        (NotEncodedError, "not_encoded"),
        (DamageError, "damaged"),
        (EncoderError, "encoder"),
    )
    return next((reason for kind, reason in reasons if isinstance(error, kind)), "failed")


class Searchers(Protocol):
    """What one request may be answered by."""

    @property
    def searcher(self) -> Searcher | None:
        """The searcher of the moment; None while there is none."""
        ...

    @property
    def state(self) -> State:
        """How the service stands."""
        ...

    def searcher_of(self, generation: int) -> Searcher | None:
        """Return the searcher of this generation, if it may still answer."""
        ...


class Followers(Protocol):
    """Other processes that answer from the same generations."""

    @property
    def missing(self) -> int:
        """How many of them should answer and do not."""
        ...

    def follow(
        self, current: tuple[int, str], kept: Sequence[tuple[int, str]], library: tuple[int, int], *, anew: bool
    ) -> None:
        """Return once all that answer can do so from these generations, and may forget all others.

        :param anew: what they have open already must not be used any more.
        :raises SemsearchError: if none can.
        """
        ...


class LiveSearcher:
    """The searcher of the moment; `start` and `stop` belong to the service's own start and end."""

    def __init__(
        self,
        folder: IndexFolder,
        models: Models,
        *,
        poll_seconds: float,
        followers: Followers | None = None,
        scrub_seconds: float = ROUND_SECONDS,
    ) -> None:
        """Prepare, without touching the index."""
        self.scrub = Scrub(folder, self._distrust, round_seconds=scrub_seconds)
        self._folder = folder
        self._models = models
        self._followers = followers
        self._poll_seconds = poll_seconds
        self._merges = Merges(folder.path, _MOST_MERGED)
        self._stopping = threading.Event()
        self._woken = threading.Event()
        self._thread: threading.Thread | None = None
        self._waiting = threading.Lock()
        self._waiters: list[tuple[int, Future[None]]] = []  # for a generation that goes up to this seq
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
        self._is_dirty = False  # something was committed here that is not known to be published
        self._publish_at = 0.0
        self._is_distrusted = False  # a file of what is open has changed, so nothing of it answers any more
        self._deleted_up_to = 0  # no searcher of a generation that ends before this seq may be asked any more

    @property
    def searcher(self) -> Searcher | None:
        """The searcher for one request, from its start to its end; None while there is none."""
        return None if self._is_distrusted else self._searcher

    def searcher_of(self, generation: int) -> Searcher | None:
        """Return the searcher of this generation, which may have been replaced up to 15 minutes ago."""
        current = self._searcher
        if current and current.generation.manifest.generation == generation:
            return current
        searcher, until = self._replaced.get(generation, (None, 0.0))
        return searcher if searcher and self._may_answer(searcher, until) else None

    def _may_answer(self, searcher: Searcher, until: float) -> bool:
        """Return whether a searcher that was replaced may still be asked: not if it would show what was deleted."""
        return time.monotonic() < until and searcher.generation.manifest.last_seq >= self._deleted_up_to

    @property
    def kept(self) -> list[int]:
        """The generations, besides the one of the moment, whose pages may be read on."""
        return [number for number, kept in self._replaced.items() if self._may_answer(*kept)]

    @property
    def state_of_index(self) -> State:
        """How the service stands, whoever answers."""
        if self._is_distrusted and self._state.status != "unavailable":
            return State("unavailable", "damaged")
        if self._state == State("ready", "none") and self.scrub.unread_bytes:
            return State("ready", "unread")
        return self._state

    @property
    def state(self) -> State:
        """How the service stands."""
        state = self.state_of_index
        if state.status == "ready" and self._followers and self._followers.missing:
            return State("degraded", "workers")
        return state

    def encoder(self) -> Encoder:
        """Return the encoder of the vector space that is served.

        :raises EncoderError: if nothing is served.
        """
        if self._searcher is None:
            raise EncoderError("no index is served yet, so it is not known which encoder it takes")
        return self._searcher.encoder

    def changed(self) -> None:
        """Publish and serve soon what the library holds; called when something was committed."""
        self._is_dirty = True
        self._woken.set()

    def without_deleted(self, seq: int) -> "Future[None]":
        """Return what is done once the library's deletions up to this seq are served, and nobody can page in older."""
        self._deleted_up_to = max(seq, self._deleted_up_to)
        served: Future[None] = Future()
        with self._waiting:
            self._waiters.append((seq, served))
        self._tell_waiters()
        self.changed()
        return served

    def _tell_waiters(self) -> None:
        searcher = self._searcher
        served = searcher.generation.manifest.last_seq if searcher else 0
        with self._waiting:
            told = [future for seq, future in self._waiters if seq <= served]
            self._waiters = [(seq, future) for seq, future in self._waiters if seq > served and not future.done()]
        for future in told:
            if future.set_running_or_notify_cancel():
                future.set_result(None)

    def start(self) -> None:
        """Begin to open the index, in the background."""
        self._stopping.clear()
        self._thread = threading.Thread(target=self._watch, name="semsearch-live", daemon=True)
        self._thread.start()
        self.scrub.start()

    def stop(self) -> None:
        """Stop watching and close the library."""
        assert self._thread, "it was started"
        self._stopping.set()
        self._woken.set()
        self.scrub.stop()
        self._thread.join(_STOP_SECONDS)
        self._merges.stop()
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
                self._state = State("degraded" if self.searcher else "unavailable", reason_of(error))
                self._retry_later()
            self._replaced = {number: kept for number, kept in self._replaced.items() if self._may_answer(*kept)}
            self._woken.wait(self._pause())
            self._woken.clear()

    def _pause(self) -> float:
        """Return for how many seconds there is nothing to do but to look at CURRENT, unless something is committed."""
        if not self._is_dirty:
            return self._poll_seconds
        return min(self._poll_seconds, max(self._publish_at - time.monotonic(), 0.001))

    def _look(self) -> None:
        """Bring the searcher up to what CURRENT names and the library holds, if there may be anything new."""
        named = current_generation(self._folder)
        same_library = self._is_library_in_use()
        if named == self._seen and same_library and not self._is_due():
            return
        anew = self._is_distrusted
        was_dirty, self._is_dirty = self._is_dirty, False  # before looking: what is committed from now on makes it true
        try:
            ready = self._searcher and self._state.status == "ready" and not anew
            if named == self._seen and same_library and was_dirty and self._searcher and ready:
                self._publish_at = time.monotonic() + _PUBLISH_SECONDS
                behind = self._extend(self._searcher)
            else:
                behind = self._open(named, was_dirty, anew)
        except BaseException:
            self._is_dirty |= was_dirty
            raise
        self._is_dirty |= was_dirty and behind

    def _is_due(self) -> bool:
        """Return whether to try again what did not work out, or to publish what was committed here."""
        now = time.monotonic()
        if self._is_distrusted and self._retry_at is None:
            return True
        if self._retry_at is not None and now >= self._retry_at:
            return True
        hindered = self._retry_at is not None and self._state.status != "ready"
        return self._is_dirty and now >= self._publish_at and not hindered

    def _extend(self, searcher: Searcher) -> bool:
        """Publish what the library holds beyond the generation that is served; return whether there is more."""
        library = searcher.library
        generation = self._published(library, searcher.generation, None, _MOST_MERGED)
        if generation is not searcher.generation:
            self._swap(library, generation)
        self._seen = generation.name
        self._merges.consider(generation)
        return self._settled(library, generation, "none")

    def _open(self, named: tuple[int, str] | None, is_dirty: bool, anew: bool) -> bool:
        """Serve what CURRENT names with what the library holds beyond; return whether it holds more than is served.

        :param anew: trust nothing that is open already.
        """
        self._seen = named
        library = self._opened_library()
        opened = self._opened_generation(library, anew)
        fell_back = opened is None or named is None or opened.manifest.generation < named[0]
        generation, trouble = self._replayed(library, opened, fell_back, is_dirty)
        self._swap(library, generation, anew)
        if trouble == "none" and fell_back and generation is opened:
            trouble = "older_generation"
        if generation is not opened:
            self._seen = generation.name
        return self._settled(library, generation, trouble)

    def _settled(self, library: Library, generation: Generation, trouble: Reason) -> bool:
        """Say how this generation stands, and when to look again; return whether the library holds more."""
        self._state = State("degraded" if trouble != "none" else "ready", trouble)
        behind = generation.manifest.last_seq < library.last_seq()
        if trouble != "none" or behind:
            self._retry_later()
        else:
            self._retry_at = None
            self._retry_seconds = _FIRST_RETRY_SECONDS
            self._reported = ""
        return behind

    def _is_library_in_use(self) -> bool:
        """Return whether the library that was opened last is the one in the folder, or there is none."""
        if self._library_file is None:
            return True
        try:
            found = self._folder.library.stat()
        except FileNotFoundError:
            return True
        return (found.st_dev, found.st_ino) == self._library_file

    def _opened_library(self) -> Library:
        """Return the library, opened again if the index was made anew: its rows must not join to the old one."""
        self._folder.check_exists()
        if self._library_file is None or not self._is_library_in_use():
            found = self._folder.library.stat()
            self._libraries.append(Library.open(self._folder.library))
            self._library_file = (found.st_dev, found.st_ino)
        return self._libraries[-1]

    def _opened_generation(self, library: Library, anew: bool) -> Generation | None:
        """Return the live generation, or None if none is sound but the library can make one."""
        reuse = self._searcher.generation if self._searcher and not anew else None
        try:
            return open_current(self._folder, reuse, whole=anew)
        except NoGenerationError as error:
            if not library.last_seq():
                raise
            self._report(error)
            return None

    def _replayed(
        self, library: Library, generation: Generation | None, fell_back: bool, is_dirty: bool
    ) -> tuple[Generation, Reason]:
        """Return the generation with what the library holds beyond it, and what kept that from being done.

        A running reindex is left alone, since it publishes when it is done, unless something was added here: that
        cannot wait so long. What the reindex has committed so far is then published with it.

        :raises LibraryDamageError: if the generation's rows do not mean this library's papers.
        """
        if generation:
            check_made_from(library, generation)
        if generation and not fell_back and generation.manifest.last_seq >= library.last_seq():
            return generation, "none"
        try:
            if not is_dirty:
                self._check_nobody_writes()
            return self._published(library, generation, self._spec(library, generation), None), "none"
        except (SemsearchError, OSError) as error:
            if generation is None:
                raise
            if isinstance(error, IndexBusyError):
                return generation, "none"
            self._report(error)
            return generation, reason_of(error)

    def _published(
        self, library: Library, parent: Generation | None, spec: EncoderSpec | None, most_merged: int | None
    ) -> Generation:
        """Return the live generation with all that the library holds, encoded first where that is little.

        :param spec: of the vector space; None for that of the live generation, which may be another by now.
        """
        try:
            return publish_pending(self._folder, library, spec, parent, most_merged=most_merged)
        except NotEncodedError:  # a reindex for another model has brought new papers, or the model has been changed
            if parent is None:
                raise
            in_use = self._searcher.encoder if self._searcher else None
            encoder = self._models.encoder_for(parent.manifest.encoder, in_use)
            encode_strays(library, encoder, parent.manifest.last_seq, _MOST_STRAYS)
            return publish_pending(self._folder, library, spec, parent, most_merged=most_merged)

    def _check_nobody_writes(self) -> None:
        for lock in (self._folder.reindex_lock, self._folder.publish_lock):
            with exclusive_lock(lock, "replay"):
                pass

    def _spec(self, library: Library, generation: Generation | None) -> EncoderSpec | None:
        if generation:
            return None
        return self._models.spec_of(model_of(self._folder, library) or DEFAULT_MODEL)

    def _swap(self, library: Library, generation: Generation, anew: bool = False) -> None:
        in_use = self._searcher.encoder if self._searcher else None
        encoder = self._models.encoder_for(generation.manifest.encoder, in_use)
        served = self._searcher.generation.manifest.last_seq if self._searcher else 0
        if self._searcher and self._searcher.library is not library:
            self._deleted_up_to = 0  # the seqs of another index are others
        elif self._searcher:  # others delete too, and nobody may page on in what they deleted
            self._deleted_up_to = max(library.last_deletion(served, generation.manifest.last_seq), self._deleted_up_to)
        replaced = {} if anew else self._replaced_by(library, generation)
        if self._followers:
            assert self._library_file, "the library is open"
            names = [kept.generation.name for kept, _ in replaced.values()]
            self._followers.follow(generation.name, names, self._library_file, anew=anew)
        self._replaced = replaced
        self._searcher = Searcher(library, generation, encoder)
        self.scrub.follow(generation, anew=anew)
        if anew:
            self._is_distrusted = False
        self._tell_waiters()
        logger.info("serving generation %d with %d papers", generation.manifest.generation, generation.papers)

    def _replaced_by(self, library: Library, generation: Generation) -> dict[int, tuple[Searcher, float]]:
        """Return what is kept once this generation is served; nothing of an index that was made anew."""
        current = self._searcher
        if current is None or current.library is not library:
            return {}
        latest = {current.generation.manifest.generation: (current, time.monotonic() + KEEP_SECONDS)}
        kept = self._replaced | latest
        kept.pop(generation.manifest.generation, None)
        most = min(_MOST_REPLACED, _ROWS_OF_REPLACED // max(generation.manifest.rows, 1))
        return {number: kept[number] for number in sorted(kept, reverse=True)[:most]}

    def _distrust(self, generation: Generation) -> None:
        """Let nothing answer that shares files with this generation, and open the index anew."""
        self._is_distrusted = True
        self._woken.set()

    def _retry_later(self) -> None:
        self._retry_at = time.monotonic() + self._retry_seconds
        self._retry_seconds = min(2 * self._retry_seconds, _LAST_RETRY_SECONDS)

    def _report(self, error: Exception) -> None:
        """Log a failure once, not at every look."""
        if str(error) != self._reported:
            self._reported = str(error)
            unexpected = not isinstance(error, SemsearchError)
            logger.error("the index cannot be served as it should: %s", error, exc_info=unexpected)
