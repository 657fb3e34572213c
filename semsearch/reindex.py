"""How do papers from sources become a published generation?

The writing corridor: sources -> library -> encoder -> generation. A paper's version and its vector are committed
together, batch by batch, so a run that is killed has lost at most the batch it was encoding, and the next run goes on
from there.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from semsearch.durable import exclusive_lock
from semsearch.encoders import DEFAULT_MODEL, Encoder, LazyEncoder, ModelFolder, checked, load_encoder
from semsearch.errors import NoGenerationError, SemsearchError, SourceError
from semsearch.generation import Generation, IndexFolder, open_current
from semsearch.library import Embedding, Library, content_digest, text_digest
from semsearch.papers import Paper
from semsearch.publishing import check_made_from, publish_pending
from semsearch.readers import Found, Rejected, origin_of, read, size_of

_WINDOW_PAPERS = 256  # enough to batch by length, few enough to stay in the cache while they are compared
_MAX_BATCH_TEXTS = 256
_KEPT_REJECTIONS = 1_000
_LOCK_WAIT_SECONDS = 2.0  # a service that starts looks into the lock for an instant


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run has come: papers dealt with, how many are expected in all, texts encoded.

    `expected` is estimated from the bytes read so far; None while nothing can be said.
    """

    source: str
    done: int
    expected: int | None
    encoded: int


@dataclass(slots=True)
class ReindexReport:
    """What one run did; `rejected` holds the first thousand bad records, `rejected_count` counts all."""

    new: int = 0
    changed: int = 0
    unchanged: int = 0
    deleted: int = 0
    rejected_count: int = 0
    rejected: list[Rejected] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    encoded: int = 0
    encoder_calls: int = 0
    truncated: int = 0
    generation: int | None = None
    papers: int = 0

    def reject(self, entry: Rejected) -> None:
        """Count a record that cannot become a paper, and keep it while there is room."""
        self.rejected_count += 1
        if len(self.rejected) < _KEPT_REJECTIONS:
            self.rejected.append(entry)


@dataclass(frozen=True, slots=True)
class Import:
    """What to read: sources that share one origin, and how strictly."""

    origin: str
    sources: tuple[str | Path, ...]
    format: str | None = None
    sync: bool = False
    strict: bool = False


def imports_of(
    sources: Sequence[str | Path],
    *,
    origin: str | None = None,
    format: str | None = None,
    sync: bool = False,
    strict: bool = False,
) -> list[Import]:
    """Return the sources grouped by origin: the one given, or each source's own name."""
    by_origin: dict[str, list[str | Path]] = {}
    for source in sources:
        by_origin.setdefault(origin or origin_of(source), []).append(source)
    return [Import(name, tuple(members), format, sync, strict) for name, members in by_origin.items()]


def update_index(
    index: str | Path,
    imports: Sequence[Import],
    *,
    model: str | None = None,
    device: str | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    load: Callable[[ModelFolder, str | None], Encoder] = load_encoder,
) -> ReindexReport:
    """Bring the library and the published generation up to these imports; return what that took.

    With no imports, only what the library already holds is published. With `sync`, papers that an origin no longer
    holds are deleted, provided that all of it could be read. With `strict`, the first bad record ends the run.

    :param model: defaults to the one that the index was made with, or the packaged one for a new index.
    :raises IndexBusyError: if another reindex of this index is running.
    :raises IndexMissingError: without imports, if there is no index.
    :raises SourceError: with `strict`, naming the bad record; what was read before it stays in the library. Also if no
        source of a new index could be read.
    :raises EncoderError: if the encoder is not to be had, or gives unusable vectors; nothing is published then.
    """
    folder = IndexFolder(Path(index))
    if not imports:
        folder.check_exists()
    with exclusive_lock(folder.reindex_lock, "reindex", _LOCK_WAIT_SECONDS), _open_library(folder) as library:
        parent = _live_generation(folder)
        if parent:
            check_made_from(library, parent)
        made_by = parent.manifest.encoder.name if parent else library.main_encoder()
        found = ModelFolder.find(model or made_by or DEFAULT_MODEL)
        if parent and model is None:
            _check_same_space(folder, parent, found)
        run = _Run(library, LazyEncoder(found, device, load), on_progress or (lambda progress: None))
        library.start_sightings()
        for each in imports:
            run.bring_in(each)
        if run.report.failures and not library.last_seq():
            raise SourceError("; ".join(run.report.failures))  # rather than publish an index of nothing
        same_space = parent and parent.manifest.encoder.fingerprint == found.spec.fingerprint
        run.encode_missing(after=parent.manifest.last_seq if parent and same_space else 0)
        generation = publish_pending(folder, library, found.spec)
        run.report.generation = generation.manifest.generation
        run.report.papers = generation.papers
        return run.report


def _open_library(folder: IndexFolder) -> Library:
    if folder.current.exists() or folder.published():
        folder.check_exists()  # an index that lost its library is refused, never begun anew
        return Library.open(folder.library)
    return Library.create(folder.library)


def _live_generation(folder: IndexFolder) -> Generation | None:
    try:
        return open_current(folder)
    except NoGenerationError:
        return None


def _check_same_space(folder: IndexFolder, parent: Generation, found: ModelFolder) -> None:
    made_by, now = parent.manifest.encoder, found.spec
    if made_by.fingerprint != now.fingerprint:
        raise SemsearchError(
            f"the index was made with {made_by.name} ({made_by.fingerprint[:12]}), but that name now gives another "
            f"vector space ({now.fingerprint[:12]}); encode everything anew with: "
            f"{folder.command} --model {now.name}"
        )


def _count_before(window: Sequence[Found | Rejected], first: Sequence[Found], bad: Rejected) -> int:
    """Return how many of the first sightings stand before the bad record."""
    places = {entry.place: position for position, entry in enumerate(window)}
    return sum(places[entry.place] < places[bad.place] for entry in first)


class _Text(NamedTuple):
    digest: bytes
    text: str
    tokens: int


class _Run:
    """One run of one writer: what it works with and what it has done so far."""

    def __init__(self, library: Library, encoder: Encoder, on_progress: Callable[[Progress], None]) -> None:
        self.report = ReindexReport()
        self._library = library
        self._encoder = encoder
        self._number = library.encoder_number(encoder.spec.fingerprint, encoder.spec.name)
        self._on_progress = on_progress
        self._bytes: int | None = None  # of the current import, and how much of it is read
        self._bytes_read = 0
        self._done_before = 0  # papers of the imports before it

    # One import: read, compare, encode and commit what is new, delete what is gone.

    def bring_in(self, source: Import) -> None:
        """Bring the library up to this import."""
        sizes = [size_of(path) for path in source.sources]
        self._bytes = None if None in sizes else sum(size or 0 for size in sizes)
        self._bytes_read = 0
        self._done_before = self._done
        failures_before = len(self.report.failures)
        unidentified = 0
        entries = self._entries(source)
        while window := list(islice(entries, _WINDOW_PAPERS)):
            rejected = [entry for entry in window if isinstance(entry, Rejected)]
            if source.strict and rejected:
                window = window[: window.index(rejected[0])]
            first, repeated = self._first_sightings(source.origin, [e for e in window if isinstance(e, Found)])
            if source.strict and repeated:
                first = first[: _count_before(window, first, repeated[0])]
            self._library.glimpse(source.origin, [bad.paper_id for bad in rejected if bad.paper_id])
            for entry in rejected + repeated:
                self.report.reject(entry)
            self._add(source, [entry.paper for entry in first])
            if source.strict and (bad_records := repeated or rejected):
                bad = bad_records[0]
                raise SourceError(f"{bad.place}: {bad.reason}; fix the record, or run without --strict to skip it")
            unidentified += sum(entry.paper_id is None for entry in rejected)
        if source.sync:
            self._delete_gone(source.origin, unidentified, len(self.report.failures) > failures_before)

    def _entries(self, source: Import) -> Iterator[Found | Rejected]:
        for path in source.sources:
            try:
                yield from read(path, format=source.format, default_source=source.origin, on_read=self._count_bytes)
            except SourceError as error:
                self.report.failures.append(f"{source.origin}: {error}")

    def _count_bytes(self, number: int) -> None:
        self._bytes_read += number

    def _first_sightings(self, origin: str, found: Sequence[Found]) -> tuple[list[Found], list[Rejected]]:
        """Return the papers that this run sees for the first time, and the repeated ones, by place, as rejections.

        The first wins and the rest is reported: were the last to win, every run would find both changed.
        """
        first: dict[str, Found] = {}
        for entry in found:
            first.setdefault(entry.paper.paper_id, entry)
        before = self._library.sight(origin, {paper_id: str(entry.place) for paper_id, entry in first.items()})
        repeated: list[Rejected] = []
        for entry in found:
            paper_id = entry.paper.paper_id
            if paper_id in before or first[paper_id] is not entry:
                place = before.get(paper_id) or str(first[paper_id].place)
                repeated.append(Rejected(entry.place, f"the id {paper_id} was read before at {place}", paper_id))
        return [entry for paper_id, entry in first.items() if paper_id not in before], repeated

    def _add(self, source: Import, papers: Sequence[Paper]) -> None:
        report = self.report
        known = self._library.known_contents(source.origin, [paper.paper_id for paper in papers])
        fresh: list[Paper] = []
        kinds: dict[str, bool] = {}
        for paper in papers:
            before = known.get(paper.paper_id)
            if before == content_digest(paper.to_json()):
                report.unchanged += 1
            else:
                fresh.append(paper)
                kinds[paper.paper_id] = before is None
        self._tell(source)
        for batch, embeddings in self._encoded(fresh):
            self._library.add_versions(source.origin, batch, embeddings, self._number)
            news = sum(kinds[paper.paper_id] for paper in batch)
            report.new += news
            report.changed += len(batch) - news
            self._tell(source)

    @property
    def _done(self) -> int:
        return self.report.new + self.report.changed + self.report.unchanged

    def _tell(self, source: Import) -> None:
        expected = None
        if self._bytes and self._bytes_read:
            whole = round((self._done - self._done_before) * self._bytes / self._bytes_read)
            expected = max(self._done, self._done_before + whole)
        self._on_progress(Progress(source.origin, self._done, expected, self.report.encoded))

    def _delete_gone(self, origin: str, unidentified: int, incomplete: bool) -> None:
        gone = self._library.unsighted(origin)
        why = ""
        if incomplete:
            why = "it could not be read to its end"
        elif unidentified:
            why = f"{unidentified} bad records have no readable id"
        elif self._done == self._done_before:
            why = "it holds no papers at all"
        if gone and why:
            self.report.failures.append(
                f"{origin}: {len(gone)} papers seem gone, but nothing was deleted, because {why}"
            )
        elif gone:
            self.report.deleted += len(self._library.delete(gone, origin))

    # Encoding

    def encode_missing(self, after: int) -> None:
        """Encode what only another encoder has encoded since seq `after`: all of it after a change of model."""
        seqs = self._library.unencoded_seqs(self._number, after)
        for start in range(0, len(seqs), _WINDOW_PAPERS):
            versions = self._library.versions_at(seqs[start : start + _WINDOW_PAPERS])
            for _, embeddings in self._encoded([version.paper for version in versions.values()]):
                self._library.add_embeddings(embeddings, self._number)
            self._on_progress(Progress("library", start + len(versions), len(seqs), self.report.encoded))

    def _encoded(self, papers: Sequence[Paper]) -> Iterator[tuple[list[Paper], list[Embedding]]]:
        """Yield the papers in batches together with the embeddings that their texts still lacked."""
        sharing: dict[bytes, list[Paper]] = {}  # papers by the text they share: one text is encoded once
        for paper in papers:
            sharing.setdefault(text_digest(paper.text), []).append(paper)
        missing = self._library.missing_texts(list(sharing), self._number)
        encoded_already = [paper for digest, group in sharing.items() if digest not in missing for paper in group]
        if encoded_already:
            yield encoded_already, []
        for batch in self._batches({digest: group[0].text for digest, group in sharing.items() if digest in missing}):
            yield [paper for text in batch for paper in sharing[text.digest]], self._encode(batch)

    def _batches(self, texts: dict[bytes, str]) -> Iterator[list[_Text]]:
        """Yield the texts in batches of like length, so that little is padding."""
        if not texts:
            return
        counts = self._encoder.count_tokens(list(texts.values()))
        by_length = sorted(map(_Text, texts, texts.values(), counts), key=lambda text: text.tokens)
        batch: list[_Text] = []
        for text in by_length:
            padded = (len(batch) + 1) * min(text.tokens, self._encoder.spec.max_tokens)
            if batch and (padded > self._encoder.batch_tokens or len(batch) == _MAX_BATCH_TEXTS):
                yield batch
                batch = []
            batch.append(text)
        yield batch

    def _encode(self, batch: Sequence[_Text]) -> list[Embedding]:
        spec = self._encoder.spec
        vectors = checked(self._encoder.encode_passages([text.text for text in batch]), len(batch), spec.dimension)
        self.report.encoder_calls += 1
        self.report.encoded += len(batch)
        self.report.truncated += sum(text.tokens > spec.max_tokens for text in batch)
        return [Embedding(text.digest, vector, text.tokens) for text, vector in zip(batch, vectors, strict=True)]
