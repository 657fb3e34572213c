"""How do papers from sources become a published generation?

The writing corridor: sources -> library -> encoder -> generation. A paper's version and its vector are committed
together, batch by batch, so a run that is killed has lost at most the batch it was encoding, and the next run goes on
from there. `publish_pending` turns whatever the library holds beyond the live generation into a new one, without
encoding anything.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from semsearch.durable import exclusive_lock
from semsearch.encoders import DEFAULT_MODEL, Encoder, EncoderSpec, ModelFolder, checked, load_encoder
from semsearch.errors import NoGenerationError, SemsearchError, SourceError
from semsearch.generation import Draft, Generation, IndexFolder, Segment, open_current, publish
from semsearch.library import Embedding, Library, content_digest, text_digest
from semsearch.papers import Paper
from semsearch.readers import Found, Rejected, origin_of, read

logger = logging.getLogger(__name__)

_WINDOW_PAPERS = 2_048
_MAX_BATCH_TEXTS = 256
_ROWS_PER_SCAN = 10_000
_KEPT_REJECTIONS = 1_000
_PUBLISH_WAIT_SECONDS = 120.0  # longer than any publish; a reindex waits for one that only replays


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run has come: papers read and texts encoded so far, and the current source."""

    source: str
    read: int
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
class _Pending:
    """A paper that is new or changed and not yet in the library."""

    paper: Paper
    digest: bytes


class Reindexer:
    """One writer of one index; a run holds the index's reindex lock from beginning to end."""

    def __init__(
        self,
        folder: IndexFolder,
        *,
        model: str | None = None,
        device: str | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        load: Callable[[ModelFolder, str | None], Encoder] = load_encoder,
    ) -> None:
        """Prepare a run; `model` defaults to the one that the index was made with, or the packaged one."""
        self._folder = folder
        self._model_name = model
        self._device = device
        self._load = load
        self._on_progress = on_progress or (lambda progress: None)
        self._loaded: Encoder | None = None

    def run(
        self,
        sources: Sequence[str | Path],
        *,
        format: str | None = None,
        origin: str | None = None,
        sync: bool = False,
        strict: bool = False,
    ) -> ReindexReport:
        """Bring the library and the published generation up to these sources; return what that took.

        With no sources, only what the library already holds is published. With `sync`, papers that an origin no longer
        holds are deleted, provided that all of it could be read. With `strict`, the first bad record ends the run.

        :raises IndexBusyError: if another reindex of this index is running.
        :raises SourceError: with `strict`, naming the bad record; what was read before it stays in the library.
        """
        with exclusive_lock(self._folder.reindex_lock, "reindex"):
            report = ReindexReport()
            with self._open_library() as library:
                parent = self._live_generation()
                self._model = ModelFolder.find(self._model_name or (parent.manifest.encoder.name if parent else DEFAULT_MODEL))
                self._check_model(parent)
                self._number = library.encoder_number(self._model.spec.fingerprint, self._model.spec.name)
                library.start_sightings()
                by_origin: dict[str, list[str | Path]] = {}
                for source in sources:
                    by_origin.setdefault(origin or origin_of(source), []).append(source)
                for name, members in by_origin.items():
                    self._import(library, name, members, format, sync, strict, report)
                self._encode_missing(library, parent, report)
                self._publish(library, report)
            return report

    def _open_library(self) -> Library:
        if not self._folder.library.is_file() and (self._folder.current.exists() or self._folder.published()):
            self._folder.check_exists()  # an index without its library is refused, never begun anew
        return Library.create(self._folder.library)

    def _live_generation(self) -> Generation | None:
        try:
            return open_current(self._folder)
        except NoGenerationError:
            return None

    def _check_model(self, parent: Generation | None) -> None:
        if parent and self._model_name is None and parent.manifest.encoder.fingerprint != self._model.spec.fingerprint:
            raise SemsearchError(
                f"the index was made with {parent.manifest.encoder.name} ({parent.manifest.encoder.fingerprint[:12]}), but "
                f"that name now gives another vector space ({self._model.spec.fingerprint[:12]}); encode everything anew "
                f"with: semsearch index --model {self._model.spec.name}"
            )

    @property
    def _encoder(self) -> Encoder:
        if self._loaded is None:  # only when there is something to encode: loading takes seconds
            self._loaded = self._load(self._model, self._device)
        return self._loaded

    # One origin: read, compare, encode and commit what is new, delete what is gone.

    def _import(
        self,
        library: Library,
        origin: str,
        sources: Sequence[str | Path],
        format: str | None,
        sync: bool,
        strict: bool,
        report: ReindexReport,
    ) -> None:
        unidentified = 0
        complete = True
        entries = self._entries(sources, origin, format, report)
        while window := list(islice(entries, _WINDOW_PAPERS)):
            rejected = [entry for entry in window if isinstance(entry, Rejected)]
            found = [entry for entry in window if isinstance(entry, Found)]
            unidentified += sum(entry.paper_id is None for entry in rejected)
            library.sight(origin, {entry.paper_id: str(entry.place) for entry in rejected if entry.paper_id})
            papers, repeated = self._first_sightings(library, origin, found)
            for entry in rejected + repeated:
                report.reject(entry)
            self._add(library, origin, papers, report)
            if strict and (bad := rejected + repeated):
                raise SourceError(f"{bad[0].place}: {bad[0].reason}; fix the record, or run without --strict to skip it")
            self._on_progress(Progress(origin, report.new + report.changed + report.unchanged, report.encoded))
        complete = not any(failure.startswith(f"{origin}: ") for failure in report.failures)
        if sync:
            self._delete_gone(library, origin, unidentified, complete, report)

    def _entries(
        self, sources: Sequence[str | Path], origin: str, format: str | None, report: ReindexReport
    ) -> Iterator[Found | Rejected]:
        for source in sources:
            try:
                yield from read(source, format=format, default_source=origin)
            except SourceError as error:
                report.failures.append(f"{origin}: {error}")

    def _first_sightings(
        self, library: Library, origin: str, found: Sequence[Found]
    ) -> tuple[list[Paper], list[Rejected]]:
        """Return the papers that this run sees for the first time, and the repeated ones as rejections.

        The first wins and the rest is reported: were the last to win, every run would find both changed.
        """
        first: dict[str, Found] = {}
        repeated: list[tuple[Found, str]] = []
        for entry in found:
            if (earlier := first.setdefault(entry.paper.paper_id, entry)) is not entry:
                repeated.append((entry, str(earlier.place)))
        before = library.sight(origin, {paper_id: str(entry.place) for paper_id, entry in first.items()})
        repeated += [(first.pop(paper_id), place) for paper_id, place in before.items()]
        rejections = [
            Rejected(entry.place, f"the id {entry.paper.paper_id} was read before at {place}", entry.paper.paper_id)
            for entry, place in repeated
        ]
        return [entry.paper for entry in first.values()], rejections

    def _add(self, library: Library, origin: str, papers: Sequence[Paper], report: ReindexReport) -> None:
        known = library.known_contents(origin, [paper.paper_id for paper in papers])
        fresh: list[Paper] = []
        for paper in papers:
            before = known.get(paper.paper_id)
            if before is None:
                report.new += 1
            elif before != content_digest(paper.to_json()):
                report.changed += 1
            else:
                report.unchanged += 1
                continue
            fresh.append(paper)
        for batch, embeddings in self._encoded(library, fresh, report):
            library.add_versions(origin, batch, embeddings, self._number)
            self._on_progress(Progress(origin, report.new + report.changed + report.unchanged, report.encoded))

    def _delete_gone(
        self, library: Library, origin: str, unidentified: int, complete: bool, report: ReindexReport
    ) -> None:
        gone = library.unsighted(origin)
        if gone and (unidentified or not complete):
            why = f"{unidentified} bad records have no readable id" if unidentified else "it could not be read to its end"
            report.failures.append(f"{origin}: {len(gone)} papers seem gone, but nothing was deleted, because {why}")
        elif gone:
            report.deleted += len(library.delete(gone, origin))

    # Encoding

    def _encoded(
        self, library: Library, papers: Sequence[Paper], report: ReindexReport
    ) -> Iterator[tuple[list[Paper], list[Embedding]]]:
        """Yield the papers in batches together with the embeddings that their texts still lacked."""
        digests = {paper.paper_id: text_digest(paper.text) for paper in papers}
        missing = library.missing_texts(list(digests.values()), self._number)
        encoded_already = [paper for paper in papers if digests[paper.paper_id] not in missing]
        if encoded_already:
            yield encoded_already, []
        to_encode = [paper for paper in papers if digests[paper.paper_id] in missing]
        for batch in self._batches(to_encode):
            texts = {digests[paper.paper_id]: paper.text for paper, _ in batch}
            tokens = {digests[paper.paper_id]: count for paper, count in batch}
            yield [paper for paper, _ in batch], self._encode(texts, tokens, report)

    def _batches(self, papers: Sequence[Paper]) -> Iterator[list[tuple[Paper, int]]]:
        """Yield batches of papers of like length with their token counts, so that little is padding."""
        if not papers:
            return
        counts = self._encoder.count_tokens([paper.text for paper in papers])
        limit = self._model.spec.max_tokens
        batch: list[tuple[Paper, int]] = []
        for paper, count in sorted(zip(papers, counts, strict=True), key=lambda pair: pair[1]):
            padded = (len(batch) + 1) * min(count, limit)
            if batch and (padded > self._encoder.batch_tokens or len(batch) == _MAX_BATCH_TEXTS):
                yield batch
                batch = []
            batch.append((paper, count))
        yield batch

    def _encode(self, texts: dict[bytes, str], tokens: dict[bytes, int], report: ReindexReport) -> list[Embedding]:
        spec = self._model.spec
        vectors = checked(self._encoder.encode_passages(list(texts.values())), len(texts), spec.dimension)
        report.encoder_calls += 1
        report.encoded += len(texts)
        report.truncated += sum(count > spec.max_tokens for count in tokens.values())
        return [Embedding(digest, vector, tokens[digest]) for digest, vector in zip(texts, vectors, strict=True)]

    def _encode_missing(self, library: Library, parent: Generation | None, report: ReindexReport) -> None:
        """Encode what the library holds only for another encoder, after a change of model."""
        if parent and parent.manifest.encoder.fingerprint == self._model.spec.fingerprint:
            return
        seqs = library.all_live_seqs(library.last_seq())
        for start in range(0, len(seqs), _WINDOW_PAPERS):
            versions = library.versions_at(seqs[start : start + _WINDOW_PAPERS].tolist())
            papers = [version.paper for version in versions.values()]
            for _, embeddings in self._encoded(library, papers, report):
                library.add_embeddings(embeddings, self._number)
                self._on_progress(Progress(self._model.spec.name, start, report.encoded))

    def _publish(self, library: Library, report: ReindexReport) -> None:
        generation = publish_pending(self._folder, library, self._model.spec)
        report.generation = generation.manifest.generation
        report.papers = generation.papers


def publish_pending(folder: IndexFolder, library: Library, spec: EncoderSpec) -> Generation:
    """Return the live generation after publishing whatever the library holds beyond it; nothing is encoded.

    Where no sound generation of this encoder is left, the whole of it is rebuilt from the library.

    :raises IndexBusyError: if another process is publishing.
    :raises LibraryDamageError: if a row that is needed is damaged, or has no vector of this encoder.
    """
    with exclusive_lock(folder.publish_lock, "publish", _PUBLISH_WAIT_SECONDS):
        try:
            parent: Generation | None = open_current(folder)
        except NoGenerationError:
            parent = None
        if parent and parent.manifest.encoder.fingerprint != spec.fingerprint:
            parent = None
        last_seq = library.last_seq()
        number = library.encoder_number(spec.fingerprint, spec.name)
        if parent and parent.manifest.last_seq == last_seq:
            return parent
        draft = _full_draft if parent is None else _next_draft
        return publish(folder, draft(library, number, parent, last_seq, spec))


def _full_draft(library: Library, number: int, parent: Generation | None, last_seq: int, spec: EncoderSpec) -> Draft:
    seqs = library.all_live_seqs(last_seq)
    return Draft(
        parent=parent,
        kept=(),
        added=library.vectors_at(seqs.tolist(), number),
        added_rows=len(seqs),
        tombstones=np.empty(0, dtype=np.int64),
        last_seq=last_seq,
        encoder=spec,
    )


def _next_draft(library: Library, number: int, parent: Generation | None, last_seq: int, spec: EncoderSpec) -> Draft:
    """Return the parent plus what changed since: dead rows, revived rows, and a new segment for the rest."""
    assert parent is not None, "the next generation has a parent"
    dead, added = _changed_rows(library, parent, last_seq)
    kept = _segments_to_keep(parent, dead, len(added))
    dropped = parent.segments[len(kept) :]
    boundary = parent.starts[len(kept)]
    if dropped:
        moved_rows = np.setdiff1d(np.arange(boundary, parent.manifest.rows), dead)
        added = np.union1d(added, parent.seqs_at(moved_rows))
    return Draft(
        parent=parent,
        kept=kept,
        added=library.vectors_at(added.tolist(), number),
        added_rows=len(added),
        tombstones=dead[dead < boundary],
        last_seq=last_seq,
        encoder=spec,
    )


def _changed_rows(library: Library, parent: Generation, last_seq: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the parent's rows that are dead now, and the seqs that are live now but have no row; both ascending."""
    touched = library.touched_after(parent.manifest.last_seq, last_seq)
    live = library.live_seqs(list(touched))
    all_versions = np.array(sorted(seq for versions in touched.values() for seq in versions), dtype=np.int64)
    live_versions = np.array(sorted(live.values()), dtype=np.int64)
    touched_rows = parent.rows_of(all_versions)
    live_rows = parent.rows_of(live_versions)
    dead = np.union1d(np.setdiff1d(parent.tombstones, live_rows), np.setdiff1d(touched_rows[touched_rows >= 0], live_rows))
    return dead, live_versions[live_rows < 0]


def _segments_to_keep(parent: Generation, dead: NDArray[np.int64], added: int) -> tuple[Segment, ...]:
    """Return the parent's leading segments that the next generation takes over; the rest joins its new segment.

    The rule: going from the newest segment to the oldest, one with fewer than twice the rows gathered so far is merged
    with them, and one of which more than half is dead is rewritten with all that follow. So every segment has at least
    twice the rows of the next: n papers make at most log2(n) + 1 segments, and a row is rewritten at most log2(n) times.
    """
    kept = len(parent.segments)
    gathered = added
    for position in range(len(parent.segments) - 1, -1, -1):
        start, rows = parent.starts[position], parent.segments[position].rows
        dead_rows = int(np.searchsorted(dead, start + rows) - np.searchsorted(dead, start))
        if 2 * dead_rows > rows or (added and rows - dead_rows < 2 * gathered and position == kept - 1):
            gathered = sum(segment.rows for segment in parent.segments[position:]) + added
            kept = position
    return parent.segments[:kept]
