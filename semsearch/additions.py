"""How do papers come into an index, and go, while it is searched?

One thread does the writing. It takes what waits, encodes it together and commits it, each paper's version with its
vector and each request as a whole; only then does anyone hear that it is done. Publishing is not its work: whoever
searches is told that there is something new.

Other processes may write the same library meanwhile, a reindex among them: what is compared, encoded and committed
here depends on nothing that they hold for long.
"""

import hashlib
import json
import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from semsearch.encoders import Encoder
from semsearch.encoding import EncodingLine
from semsearch.errors import (
    AdditionsFullError,
    EncoderError,
    KeyUsedError,
    NotEncodedError,
    PaperNotFoundError,
    RecordError,
    SemsearchError,
)
from semsearch.library import Embedding, Library, Receipt, content_digest, text_digest
from semsearch.papers import Paper, normalise_id
from semsearch.readers.fields import paper_of, readable_id

logger = logging.getLogger(__name__)

Outcome = Literal["new", "changed", "unchanged", "refused"]

MOST_WAITING = 512
"""Papers that may wait to be encoded; a second's to half a minute's work, by machine and length."""
_PAPERS_PER_GROUP = 128
_BATCH_TOKENS = 512  # a tenth of a second on two cores: queries wait for the batch that is being encoded
_STRAYS_PER_READ = 256


@dataclass(frozen=True, slots=True)
class Entry:
    """What became of one paper of a request: its id as it is stored, None where it has no readable one.

    `truncated`: its text has more tokens than the encoder reads. `reason`: why it is refused.
    """

    outcome: Outcome
    id: str | None
    truncated: bool = False
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What became of the papers of one request, in their order."""

    entries: tuple[Entry, ...]

    @property
    def counts(self) -> Counter[Outcome]:
        """How many papers had each outcome."""
        return Counter(entry.outcome for entry in self.entries)

    def to_json(self) -> str:
        """Return the report as a text to be kept."""
        return json.dumps([asdict(entry) for entry in self.entries])

    @classmethod
    def from_json(cls, text: str) -> "Report":
        """Return the report that `to_json` wrote."""
        return cls(tuple(Entry(**entry) for entry in json.loads(text)))


@dataclass(frozen=True, slots=True)
class Addition:
    """Papers to be added, as `add` takes them, read; `refused` are those that are none, by position."""

    origin: str
    papers: Mapping[int, Paper]
    refused: Mapping[int, Entry]
    key: str | None
    request: bytes

    @classmethod
    def read(cls, origin: str, records: Sequence[Mapping[str, Any]], key: str | None = None) -> "Addition":
        """Return the records as papers; of those with one id, the first wins, as in an import.

        :param key: names the request, so that it can be sent again without being done again.
        """
        papers: dict[int, Paper] = {}
        refused: dict[int, Entry] = {}
        positions: dict[str, int] = {}
        for position, record in enumerate(records):
            try:
                paper = paper_of(record, default_source=origin)
            except RecordError as error:
                refused[position] = Entry("refused", readable_id(record), reason=str(error))
                continue
            before = positions.setdefault(paper.paper_id, position)
            if before == position:
                papers[position] = paper
            else:
                reason = f"this id stands at position {before} already"
                refused[position] = Entry("refused", paper.paper_id, reason=reason)
        sent = json.dumps([origin, records], sort_keys=True).encode("utf-8", "surrogatepass")
        return cls(origin, papers, refused, key, hashlib.sha256(sent).digest())


@dataclass(frozen=True, slots=True)
class Deletion:
    """A paper to be taken out of the index, whatever import it came by."""

    paper_id: str


_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class _Job(Generic[_Result]):
    """Something to do, and whom to tell."""

    what: Addition | Deletion
    done: "Future[_Result]"


class Additions:
    """The one writer of a service; `start` and `stop` belong to the service's own start and end."""

    def __init__(self, library: Path, encoder: Callable[[], Encoder], on_commit: Callable[[], None]) -> None:
        """Prepare, without touching the library.

        :param encoder: gives the encoder of the vector space that is served.
        :param on_commit: is called whenever there is something new to publish.
        """
        self._library = library
        self._encoder = encoder
        self._on_commit = on_commit
        self._changed = threading.Condition()
        self._waiting: deque[_Job[Any]] = deque()
        self._stopping = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to take what comes."""
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name="semsearch-write", daemon=True)
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """Take nothing more, and finish what was taken if that can be done in time."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        assert self._thread, "it was started"
        self._thread.join(seconds)

    def add(self, addition: Addition) -> "Future[Report]":
        """Return what will tell what became of these papers, once it is committed.

        The future raises KeyUsedError if the key named another request before, EncoderError if the papers cannot be
        encoded, and what the library raises if it cannot be written.

        :raises AdditionsFullError: if too many papers wait.
        """
        job: _Job[Report] = _Job(addition, Future())
        self._put(job, len(addition.papers))
        return job.done

    def delete(self, paper_id: str) -> "Future[int]":
        """Return what will tell the seq of the library's last change once the paper is deleted.

        The future raises PaperNotFoundError if there never was such a paper; one that is gone already is no error.

        :raises AdditionsFullError: if too much waits.
        """
        job: _Job[int] = _Job(Deletion(paper_id), Future())
        self._put(job, 1)
        return job.done

    def _put(self, job: _Job[Any], papers: int) -> None:
        with self._changed:
            if self._stopping or sum(map(_size, self._waiting)) + papers > MOST_WAITING:
                raise AdditionsFullError("too many papers wait to be added; send them again in a moment")
            self._waiting.append(job)
            self._changed.notify()

    # In the writing thread

    def _work(self) -> None:
        while group := self._next_group():
            try:
                self._settle(group)
            except BaseException as error:
                for job in group:
                    if not job.done.done():
                        job.done.set_exception(error)
                if not isinstance(error, SemsearchError):
                    logger.exception("additions ran into a bug")

    def _next_group(self) -> list[_Job[Any]]:
        """Return what waits and can be done together, when there is something; nothing at the end."""
        group: list[_Job[Any]] = []
        with self._changed:
            while not group:
                self._changed.wait_for(lambda: self._waiting or self._stopping)
                if not self._waiting:
                    return []
                while self._waiting and _joins(group, self._waiting[0]):
                    job = self._waiting.popleft()
                    if job.done.set_running_or_notify_cancel():  # else nobody waits for it any more
                        group.append(job)
        return group

    def _settle(self, group: Sequence[_Job[Any]]) -> None:
        with Library.open(self._library) as library:
            if isinstance(group[0].what, Deletion):
                seq = _delete(library, group[0].what)
                self._on_commit()
                group[0].done.set_result(seq)
            else:
                self._settle_additions(library, group)

    def _settle_additions(self, library: Library, group: Sequence[_Job[Report]]) -> None:
        try:
            answers = _add(library, self._encoder(), [job.what for job in group if isinstance(job.what, Addition)])
        except EncoderError:
            if len(group) == 1:
                raise
            for job in group:  # the text that cannot be encoded shall not take its neighbours with it
                try:
                    self._settle_additions(library, [job])
                except SemsearchError as error:
                    job.done.set_exception(error)
            return
        self._on_commit()
        for job, answer in zip(group, answers, strict=True):
            if isinstance(answer, Report):
                job.done.set_result(answer)
            else:
                job.done.set_exception(answer)


def _size(job: _Job[Any]) -> int:
    return len(job.what.papers) if isinstance(job.what, Addition) else 1


def _joins(group: Sequence[_Job[Any]], job: _Job[Any]) -> bool:
    """Return whether a job can be done together with these: few additions, of which no two have one key."""
    if not group:
        return True
    if isinstance(job.what, Deletion) or isinstance(group[0].what, Deletion):
        return False
    keys = {other.what.key for other in group if isinstance(other.what, Addition)}
    return sum(map(_size, group)) + _size(job) <= _PAPERS_PER_GROUP and (
        job.what.key is None or job.what.key not in keys
    )


def _delete(library: Library, deletion: Deletion) -> int:
    try:
        paper_id = normalise_id(deletion.paper_id)
    except RecordError:
        raise PaperNotFoundError("no paper can have this id") from None
    if not library.has_met(paper_id):
        raise PaperNotFoundError(f"not in the index: {paper_id!r}")
    library.delete([paper_id])
    return library.last_seq()


def _add(library: Library, encoder: Encoder, additions: Sequence[Addition]) -> list[Report | KeyUsedError]:
    """Add the papers of several requests, in their order and in one commit; return what to answer to each."""
    number = library.encoder_number(encoder.spec.fingerprint, encoder.spec.name)
    while True:
        known = [library.receipt(addition.key) if addition.key else None for addition in additions]
        todo = [addition for addition, receipt in zip(additions, known, strict=True) if receipt is None]
        outcomes = _outcomes(library, todo)
        embeddings = _encoded(library, encoder, number, list(_fresh(todo, outcomes)))
        truncated = _truncated(encoder, todo, embeddings)
        reports = [_report(each, found, truncated) for each, found in zip(todo, outcomes, strict=True)]
        try:
            _commit(library, number, todo, outcomes, reports, embeddings)
        except KeyUsedError:
            continue  # another process answered one of them meanwhile, and now its receipt is found
        done = iter(reports)
        return [
            _answered(addition, receipt) if receipt else next(done)
            for addition, receipt in zip(additions, known, strict=True)
        ]


def _answered(addition: Addition, receipt: Receipt) -> Report | KeyUsedError:
    if receipt.request != addition.request:
        return KeyUsedError("this key came with other papers before; use a new key for a new request")
    return Report.from_json(receipt.answer)


def _outcomes(library: Library, additions: Sequence[Addition]) -> list[dict[int, Outcome]]:
    """Return the outcome of each request's papers by position: compared with what their import said last."""
    known: dict[tuple[str, str], bytes] = {}
    for addition in additions:
        contents = library.known_contents(addition.origin, [paper.paper_id for paper in addition.papers.values()])
        known |= {(addition.origin, paper_id): digest for paper_id, digest in contents.items()}
    outcomes: list[dict[int, Outcome]] = []
    for addition in additions:
        found: dict[int, Outcome] = {}
        for position, paper in addition.papers.items():
            content = content_digest(paper.to_json())
            before = known.get((addition.origin, paper.paper_id))
            found[position] = "new" if before is None else "unchanged" if before == content else "changed"
            known[addition.origin, paper.paper_id] = content
        outcomes.append(found)
    return outcomes


def _fresh(additions: Sequence[Addition], outcomes: Sequence[Mapping[int, Outcome]]) -> Iterator[Paper]:
    for addition, found in zip(additions, outcomes, strict=True):
        yield from (paper for position, paper in addition.papers.items() if found[position] != "unchanged")


def _encoded(library: Library, encoder: Encoder, number: int, papers: Sequence[Paper]) -> list[Embedding]:
    """Return the embeddings that these papers' texts still lack."""
    with EncodingLine(library, encoder, number, _BATCH_TOKENS) as line:
        batches = [*line.put(papers), *line.rest()]
    return [embedding for batch in batches for embedding in batch.embeddings]


def _truncated(encoder: Encoder, additions: Sequence[Addition], embeddings: Sequence[Embedding]) -> set[bytes]:
    """Return the digests of the texts that have more tokens than the encoder reads."""
    tokens = {embedding.text_digest: embedding.tokens for embedding in embeddings}
    texts = {text_digest(paper.text): paper.text for addition in additions for paper in addition.papers.values()}
    known_before = {digest: text for digest, text in texts.items() if digest not in tokens}
    for digest, found in zip(known_before, encoder.tokenise([*known_before.values()]), strict=True):
        tokens[digest] = found.whole
    return {digest for digest, count in tokens.items() if count > encoder.spec.max_tokens}


def _report(addition: Addition, outcomes: Mapping[int, Outcome], truncated: set[bytes]) -> Report:
    entries = dict(addition.refused)
    for position, paper in addition.papers.items():
        entries[position] = Entry(outcomes[position], paper.paper_id, text_digest(paper.text) in truncated)
    return Report(tuple(entries[position] for position in sorted(entries)))


def _commit(
    library: Library,
    number: int,
    additions: Sequence[Addition],
    outcomes: Sequence[Mapping[int, Outcome]],
    reports: Sequence[Report],
    embeddings: Sequence[Embedding],
) -> None:
    with library.one_commit():
        library.add_embeddings(embeddings, number)
        for addition, found, report in zip(additions, outcomes, reports, strict=True):
            library.add_versions(addition.origin, list(_fresh([addition], [found])), (), number)
            if addition.key:
                library.keep_receipt(Receipt(addition.key, addition.request, report.to_json()))


def encode_strays(library: Library, encoder: Encoder, after: int, most: int) -> None:
    """Encode what was committed after seq `after` for another vector space only.

    So a reindex for another model does while this one is served, and so do additions while it takes over.

    :raises NotEncodedError: if these are more than `most` papers.
    """
    number = library.encoder_number(encoder.spec.fingerprint, encoder.spec.name)
    seqs = library.unencoded_seqs(number, after, library.last_seq()).tolist()
    if len(seqs) > most:
        raise NotEncodedError(
            f"{len(seqs)} papers are not encoded for the model that is served, {encoder.spec.name}; whatever encodes "
            "them for another model publishes them when it is done"
        )
    for start in range(0, len(seqs), _STRAYS_PER_READ):
        versions = library.versions_at(seqs[start : start + _STRAYS_PER_READ]).values()
        library.add_embeddings(_encoded(library, encoder, number, [version.paper for version in versions]), number)
