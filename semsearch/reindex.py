"""How do papers from sources become a published generation?

The writing corridor: sources -> library -> encoder -> generation. A paper's version and its vector are committed
together, batch by batch, so a run that is killed has lost no more than the batches it was encoding and committing, and
the next run goes on from there.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal

from semsearch.calibration import calibrated
from semsearch.durable import exclusive_lock
from semsearch.encoders import (
    DEFAULT_MODEL,
    GPU_IF_ANY,
    INT8_SUFFIX,
    Encoder,
    EncoderSpec,
    LazyEncoder,
    ModelFolder,
    find_model,
    load_encoder,
)
from semsearch.encoding import EncodedBatch, EncodingLine
from semsearch.errors import EncoderError, LibraryDamageError, NoGenerationError, SemsearchError, SourceError
from semsearch.filters.folding import fold_title
from semsearch.generation import Generation, IndexFolder, open_current
from semsearch.library import Library, content_digest
from semsearch.papers import Paper
from semsearch.publishing import check_made_from, model_of, publish_pending, stage_pending
from semsearch.readers import Found, Rejected, origin_of, read, size_of

Precision = Literal["float32", "int8"]

_WINDOW_PAPERS = 256  # few enough to stay in the cache while they are compared
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
    """What one run did.

    `rejected` holds the first thousand bad records, `rejected_count` counts all; so with `retitled`, the ids that
    another origin gives to a paper of another title.
    """

    new: int = 0
    changed: int = 0
    unchanged: int = 0
    deleted: int = 0
    rejected_count: int = 0
    rejected: list[Rejected] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    retitled_count: int = 0
    retitled: list[str] = field(default_factory=list)
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
    precision: Precision | None = None,
    device: str | None = None,
    beside: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
    load: Callable[[ModelFolder, str | None], Encoder] = load_encoder,
) -> ReindexReport:
    """Bring the library and the published generation up to these imports; return what that took.

    With no imports, only what the library already holds is published. With `sync`, papers that an origin no longer
    holds are deleted, provided that all of it could be read. With `strict`, the first bad record ends the run.

    :param model: defaults to the one that the index was made with, or the packaged one for a new index.
    :param precision: "int8" encodes with a smaller network, calibrated on some of the papers: another vector space.
        Defaults to what the index was made with, or "float32".
    :param device: defaults to the GPU where there is one, else to the processor.
    :param beside: build a generation of the model beside the live one, which stays live; `switch_to` publishes it.
    :raises ValueError: with `beside`, if the model is the one that is live.
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
        name = model or model_of(folder, library) or DEFAULT_MODEL
        if precision == "int8":
            found = calibrated(name, folder.networks, library, _papers_of(imports))
        else:
            found = find_model(name.removesuffix(INT8_SUFFIX) if precision else name, folder.networks)
        if parent and model is None and precision is None:
            _check_same_space(folder, parent, found)
        same_space = parent and parent.manifest.encoder.fingerprint == found.spec.fingerprint
        if beside and same_space:
            raise ValueError(f"{found.spec.name} is live already: there is nothing to build beside it")
        number = library.encoder_number(found.spec.fingerprint, found.spec.name)
        encoder = LazyEncoder(found, device or GPU_IF_ANY, load)
        with EncodingLine(library, encoder, number) as line:
            run = _Run(library, number, line, on_progress or (lambda progress: None))
            run.bring_in_all(imports)
            after = parent.manifest.last_seq if parent and same_space else 0
            # A service may add and delete papers meanwhile, encoded for the model that it still serves. They are
            # published too: an older state of the library would take back what was deleted.
            before = run.encode_missing(after, library.last_seq())
            while before > (lately := run.encode_missing(after, library.last_seq())) > _WINDOW_PAPERS:
                before = lately
            if beside:
                up_to = library.last_seq()
                run.encode_missing(after, up_to)
                return run.reported(stage_pending(folder, library, found.spec, up_to, encoder))
            return run.reported(
                publish_pending(
                    folder, library, found.spec, prepare=partial(run.encode_missing, after), encoder=encoder
                )
            )


def switch_to(
    index: str | Path,
    spec: EncoderSpec,
    *,
    device: str | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    load: Callable[[ModelFolder, str | None], Encoder] = load_encoder,
) -> ReindexReport:
    """Publish what the library holds in this vector space, going on from what stands there of it; return what it took.

    Papers are never taken back: what came or went since is published with it, encoded first where it is not yet.

    :raises EncoderError: if the model is not to be had, or makes another vector space now.
    :raises IndexBusyError: if a reindex of this index is running.
    """
    folder = IndexFolder(Path(index))
    found = find_model(spec.name, folder.networks)
    if found.spec.fingerprint != spec.fingerprint:
        raise EncoderError(
            f"{spec.name} made the vector space {spec.fingerprint[:12]}, but that name now gives another "
            f"({found.spec.fingerprint[:12]}); build it anew with: semsearch stage --index {folder.path} {spec.name}"
        )
    return update_index(folder.path, [], model=spec.name, device=device, on_progress=on_progress, load=load)


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


def _papers_of(imports: Sequence[Import]) -> Iterator[Paper]:
    """Yield the papers of all sources that can be read twice."""
    for each in imports:
        for path in each.sources:
            if str(path) != "-":
                found = read(path, format=each.format, default_source=each.origin)
                yield from (entry.paper for entry in found if isinstance(entry, Found))


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


class _Run:
    """One run of one writer: what it works with and what it has done so far."""

    def __init__(
        self, library: Library, number: int, line: EncodingLine, on_progress: Callable[[Progress], None]
    ) -> None:
        self.report = ReindexReport()
        self._library = library
        self._number = number
        self._line = line
        self._on_progress = on_progress
        self._bytes: int | None = None  # of the current import, and how much of it is read
        self._bytes_read = 0
        self._taken = 0  # papers read and compared, in all
        self._taken_before = 0  # of the imports before this one
        self._changed: set[str] = set()  # ids of papers underway that the library knew before
        self._caught_up = 0

    def bring_in_all(self, imports: Sequence[Import]) -> None:
        """Bring the library up to these imports.

        :raises SourceError: if nothing at all could be read: rather than publish an index of nothing.
        """
        self._library.start_sightings()
        for each in imports:
            self.bring_in(each)
        if self.report.failures and not self._library.last_seq():
            raise SourceError("; ".join(self.report.failures))

    def reported(self, published: Generation) -> ReindexReport:
        """Return the report, complete."""
        self.report.encoded = self._line.encoded
        self.report.encoder_calls = self._line.encoder_calls
        self.report.truncated = self._line.truncated
        self.report.generation = published.manifest.generation
        self.report.papers = published.papers
        return self.report

    # One import: read, compare, encode and commit what is new, delete what is gone.

    def bring_in(self, source: Import) -> None:
        """Bring the library up to this import."""
        sizes = [size_of(path) for path in source.sources]
        self._bytes = None if None in sizes else sum(size or 0 for size in sizes)
        self._bytes_read = 0
        self._taken_before = self._taken
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
                self._commit(source, self._line.rest())
                bad = bad_records[0]
                raise SourceError(f"{bad.place}: {bad.reason}; fix the record, or run without --strict to skip it")
            unidentified += sum(entry.paper_id is None for entry in rejected)
        self._commit(source, self._line.rest())
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
        known = self._library.known_contents(source.origin, [paper.paper_id for paper in papers])
        fresh: list[Paper] = []
        for paper in papers:
            before = known.get(paper.paper_id)
            if before == content_digest(paper.to_json()):
                self.report.unchanged += 1
            else:
                fresh.append(paper)
                if before is not None:
                    self._changed.add(paper.paper_id)
        self._note_retitled([paper for paper in fresh if paper.paper_id not in known])
        self._taken += len(papers)
        self._tell(source.origin)
        self._commit(source, self._line.put(fresh))

    def _note_retitled(self, papers: Sequence[Paper]) -> None:
        """Note which of these papers, new from their origin, another origin calls otherwise: they may be two.

        Running numbers clash so. The newest is shown, as always; but silently, the other would only be gone.
        """
        with suppress(LibraryDamageError):  # of a paper that this run need not read
            live = self._library.live_seqs([paper.paper_id for paper in papers])
            versions = self._library.versions_at(list(live.values()))
            for paper in papers:
                other = versions.get(live.get(paper.paper_id, 0))
                if other and fold_title(other.paper.title) != fold_title(paper.title):
                    self.report.retitled_count += 1
                    self.report.retitled += [paper.paper_id] if len(self.report.retitled) < _KEPT_REJECTIONS else []

    def _commit(self, source: Import, batches: Iterable[EncodedBatch]) -> None:
        for papers, embeddings in batches:
            self._library.add_versions(source.origin, papers, embeddings, self._number)
            changed = self._changed.intersection(paper.paper_id for paper in papers)
            self._changed -= changed
            self.report.changed += len(changed)
            self.report.new += len(papers) - len(changed)
            self._tell(source.origin)

    def _tell(self, source: str) -> None:
        done = self.report.new + self.report.changed + self.report.unchanged
        expected = None
        if self._bytes and self._bytes_read:
            whole = round((self._taken - self._taken_before) * self._bytes / self._bytes_read)
            expected = max(self._taken, self._taken_before + whole)
        self._on_progress(Progress(source, done, expected, self._line.encoded))

    def _delete_gone(self, origin: str, unidentified: int, incomplete: bool) -> None:
        gone = self._library.unsighted(origin)
        why = ""
        if incomplete:
            why = "it could not be read to its end"
        elif unidentified:
            why = f"{unidentified} bad records have no readable id"
        elif self._taken == self._taken_before:
            why = "it holds no papers at all"
        if gone and why:
            self.report.failures.append(
                f"{origin}: {len(gone)} papers seem gone, but nothing was deleted, because {why}"
            )
        elif gone:
            self.report.deleted += len(self._library.delete(gone, origin))

    def encode_missing(self, after: int, up_to: int) -> int:
        """Encode what only another encoder has encoded since seq `after`, and return how many versions that were.

        After a change of model that is all that the library held at `up_to`.
        """
        self._caught_up = 0
        seqs = self._library.unencoded_seqs(self._number, after, up_to)
        for start in range(0, len(seqs), _WINDOW_PAPERS):
            versions = self._library.versions_at(seqs[start : start + _WINDOW_PAPERS].tolist())
            self._add_embeddings(self._line.put([version.paper for version in versions.values()]), len(seqs))
        self._add_embeddings(self._line.rest(), len(seqs))
        return len(seqs)

    def _add_embeddings(self, batches: Iterable[EncodedBatch], expected: int) -> None:
        for papers, embeddings in batches:
            self._library.add_embeddings(embeddings, self._number)
            self._caught_up += len(papers)
            self._on_progress(Progress("library", self._caught_up, expected, self._line.encoded))
