"""How do papers get their vectors while others are still being read, and those before them committed?

One thread encodes, the caller's reads, tokenises and commits. Batches come out in the order in which they went in, so
what a batch relies on is committed before it.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Semaphore
from types import TracebackType
from typing import NamedTuple, Self

from semsearch.encoders import Encoder, Tokenised, checked
from semsearch.library import Embedding, Library, text_digest
from semsearch.papers import Paper

_FEWEST_PAPERS = 256
_BATCHES_TO_SORT = 4  # of typical abstracts, so that batches of like length can be made of them
_TYPICAL_TOKENS = 256
MOST_UNCOMMITTED = 3
"""Batches that are encoded or being encoded, but not committed: what a kill can cost."""
_MOST_TEXTS = 4_096  # in a batch, however short they are


class EncodedBatch(NamedTuple):
    """Papers, and the embeddings that their texts still lacked: to be committed together."""

    papers: list[Paper]
    embeddings: list[Embedding]


class _Underway(NamedTuple):
    papers: list[Paper]
    embeddings: Future[list[Embedding]]
    digests: list[bytes]


class EncodingLine:
    """Papers go in, batches ready to be committed come out; a context manager, because it owns a thread."""

    def __init__(self, library: Library, encoder: Encoder, number: int, batch_tokens: int | None = None) -> None:
        """Encode what the library lacks of this encoder, which it knows under `number`.

        :param batch_tokens: how many tokens one batch may hold, padding included; defaults to what the encoder likes.
        """
        self.encoder_calls = 0
        self.encoded = 0
        self.truncated = 0
        self._library = library
        self._encoder = encoder
        self._number = number
        self._batch_tokens = batch_tokens
        self._gathered: list[Paper] = []
        self._underway: deque[_Underway] = deque()
        self._digests_underway: set[bytes] = set()
        self._room = Semaphore(MOST_UNCOMMITTED)
        self._stopping = False
        self._worker = ThreadPoolExecutor(1, "semsearch-encode")

    def __enter__(self) -> Self:
        """Return the line itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the batch being encoded and drop those behind it: whoever wanted them has taken them by now."""
        self._stopping = True
        self._room.release()
        self._worker.shutdown(cancel_futures=True)

    def put(self, papers: Sequence[Paper]) -> Iterator[EncodedBatch]:
        """Take papers over; yield batches that are done, to be committed before the next is asked for.

        The last batches stay underway, so that the encoder has work while the next papers are read: `rest` has them.
        """
        self._gathered += papers
        if self._gathered and len(self._gathered) >= self._enough:
            yield from self._finished(leave=self._start())

    def rest(self) -> Iterator[EncodedBatch]:
        """Yield everything that was put in and has not come out."""
        self._start()
        yield from self._finished(leave=0)

    @property
    def _enough(self) -> int:
        if len(self._gathered) < _FEWEST_PAPERS:
            return _FEWEST_PAPERS  # before the encoder is asked, which would load it
        return max(_FEWEST_PAPERS, _BATCHES_TO_SORT * self._encoder.batch_tokens // _TYPICAL_TOKENS)

    def _start(self) -> int:
        """Give what was gathered to the encoder, in batches; return how many."""
        sharing: dict[bytes, list[Paper]] = {}  # papers by the text they share: one text is encoded once
        for paper in self._gathered:
            sharing.setdefault(text_digest(paper.text), []).append(paper)
        self._gathered = []
        missing = self._library.missing_texts(list(sharing), self._number) - self._digests_underway
        known = [paper for digest, group in sharing.items() if digest not in missing for paper in group]
        if known:
            nothing: Future[list[Embedding]] = Future()
            nothing.set_result([])
            self._underway.append(_Underway(known, nothing, []))
        batches = self._batches({digest: group[0].text for digest, group in sharing.items() if digest in missing})
        for batch in batches:
            papers = [paper for digest in batch for paper in sharing[digest]]
            embeddings = self._worker.submit(self._encode, batch)
            self._underway.append(_Underway(papers, embeddings, list(batch)))
            self._digests_underway.update(batch)
        return len(batches)

    def _batches(self, texts: dict[bytes, str]) -> list[dict[bytes, Tokenised]]:
        """Return the texts' tokens in batches of like length, so that little is padding."""
        if not texts:
            return []
        tokenised = zip(texts, self._encoder.tokenise(list(texts.values())), strict=True)
        most = self._batch_tokens or self._encoder.batch_tokens
        batches: list[dict[bytes, Tokenised]] = [{}]
        for digest, tokens in sorted(tokenised, key=lambda pair: len(pair[1].ids)):
            padded = (len(batches[-1]) + 1) * len(tokens.ids)
            if batches[-1] and (padded > most or len(batches[-1]) == _MOST_TEXTS):
                batches.append({})
            batches[-1][digest] = tokens
        return batches

    def _encode(self, batch: dict[bytes, Tokenised]) -> list[Embedding]:
        self._room.acquire()
        if self._stopping:
            return []
        texts = list(batch.values())
        vectors = checked(self._encoder.encode_passages(texts), len(texts), self._encoder.spec.dimension)
        return [
            Embedding(digest, vector, text.whole) for digest, text, vector in zip(batch, texts, vectors, strict=True)
        ]

    def _finished(self, leave: int) -> Iterator[EncodedBatch]:
        while len(self._underway) > leave:
            papers, future, digests = self._underway.popleft()
            embeddings = future.result()
            self.encoder_calls += bool(embeddings)
            self.encoded += len(embeddings)
            self.truncated += sum(entry.tokens > self._encoder.spec.max_tokens for entry in embeddings)
            yield EncodedBatch(papers, embeddings)
            if digests:  # and committed by now
                self._digests_underway.difference_update(digests)
                self._room.release()
