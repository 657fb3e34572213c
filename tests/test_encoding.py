"""The line that encodes papers while others are read and committed."""

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from conftest import FakeEncoder, make_paper, passage_vectors
from numpy.typing import NDArray

from semsearch.encoders import Tokenised
from semsearch.encoding import MOST_UNCOMMITTED, EncodedBatch, EncodingLine
from semsearch.library import Library, text_digest
from semsearch.papers import Paper


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    with Library.create(tmp_path / "library.db") as library:
        yield library


@pytest.fixture
def encoder(fake_encoder: FakeEncoder) -> FakeEncoder:
    return FakeEncoder(fake_encoder.spec)


def run(library: Library, encoder: FakeEncoder, windows: Sequence[Sequence[Paper]]) -> list[EncodedBatch]:
    """Put the windows in one after the other and commit what comes out, as a reindex does."""
    number = library.encoder_number(encoder.spec.fingerprint, encoder.spec.name)
    done = []

    def commit(batches: Iterator[EncodedBatch]) -> None:
        for batch in batches:
            library.add_versions("test", batch.papers, batch.embeddings, number)
            done.append(batch)

    with EncodingLine(library, encoder, number) as line:
        for window in windows:
            commit(line.put(window))
        commit(line.rest())
        assert line.encoded == sum(len(batch.embeddings) for batch in done)
        assert line.encoder_calls == len(encoder.passages)
    return done


def test_every_paper_comes_out_once_with_its_own_vector(library: Library, encoder: FakeEncoder) -> None:
    papers = [make_paper(number) for number in range(1_000)]
    done = run(library, encoder, [papers[start : start + 100] for start in range(0, 1_000, 100)])
    assert sorted(paper.paper_id for batch in done for paper in batch.papers) == sorted(p.paper_id for p in papers)
    embeddings = {entry.text_digest: entry for batch in done for entry in batch.embeddings}
    expected = passage_vectors(encoder, [paper.text for paper in papers])
    for paper, vector in zip(papers, expected, strict=True):
        embedding = embeddings[text_digest(paper.text)]
        assert np.array_equal(embedding.vector, vector)
        assert embedding.tokens == len(paper.text.split()) + 2


def test_batches_hold_texts_of_like_length_within_the_budget(library: Library, encoder: FakeEncoder) -> None:
    papers = [make_paper(number, words=f"text{number} " + "word " * (number * 37 % 90)) for number in range(300)]
    run(library, encoder, [papers])
    lengths = [[len(text.split()) + 2 for text in batch] for batch in encoder.passages]
    assert [length for batch in lengths for length in batch] == sorted(length for batch in lengths for length in batch)
    assert all(max(batch) * len(batch) <= encoder.batch_tokens for batch in lengths)
    assert len(lengths) < 60  # and not one by one


def test_a_text_that_several_papers_share_is_encoded_once(library: Library, encoder: FakeEncoder) -> None:
    shared = [make_paper(number, words="the same words", title="Twins") for number in range(700)]
    done = run(library, encoder, [shared[:1], shared[1:300], shared[300:600], shared[600:]])
    assert encoder.passages == [["Twins the same words"]]
    assert sum(len(batch.papers) for batch in done) == 700


def test_a_text_underway_is_not_encoded_again(library: Library, encoder: FakeEncoder) -> None:
    """The second window is looked up in the library while the first is not yet committed."""
    papers = [make_paper(number) for number in range(512)]
    twins = [make_paper(number + 1_000, words=paper.abstract, title=paper.title) for number, paper in enumerate(papers)]
    done = run(library, encoder, [papers[:256], twins[:256], papers[256:], twins[256:]])
    assert sum(len(batch) for batch in encoder.passages) == 512
    places = {paper.paper_id: place for place, batch in enumerate(done) for paper in batch.papers}
    assert all(places[f"p{number}"] <= places[f"p{number + 1_000}"] for number in range(512))


def test_what_the_library_knows_is_not_encoded(library: Library, encoder: FakeEncoder) -> None:
    papers = [make_paper(number) for number in range(300)]
    run(library, encoder, [papers])
    encoder.passages.clear()
    done = run(library, encoder, [papers])
    assert encoder.passages == []
    assert [len(batch.papers) for batch in done] == [300]


def test_the_encoder_works_while_others_are_read(library: Library, encoder: FakeEncoder) -> None:
    class Waiting(FakeEncoder):
        began, go_on = threading.Event(), threading.Event()

        def encode_passages(self, passages: Sequence[Tokenised]) -> NDArray[np.float32]:
            self.began.set()
            assert self.go_on.wait(10)
            return super().encode_passages(passages)

    waiting = Waiting(encoder.spec)
    papers = [make_paper(number) for number in range(300)]
    with EncodingLine(library, waiting, library.encoder_number(encoder.spec.fingerprint, "fake")) as line:
        assert list(line.put(papers)) == []  # although the encoder has not finished a single batch
        assert waiting.began.wait(10)
        waiting.go_on.set()
        assert sum(len(batch.papers) for batch in line.rest()) == 300


def test_a_failure_stops_the_line(library: Library, encoder: FakeEncoder) -> None:
    class Failing(FakeEncoder):
        def encode_passages(self, passages: Sequence[Tokenised]) -> NDArray[np.float32]:
            raise MemoryError("no room")

    failing = Failing(encoder.spec)
    with (
        EncodingLine(library, failing, library.encoder_number(encoder.spec.fingerprint, "fake")) as line,
        pytest.raises(MemoryError, match="no room"),
    ):
        list(line.put([make_paper(number) for number in range(300)]))
        list(line.rest())


def test_no_more_is_encoded_than_may_be_lost(library: Library, encoder: FakeEncoder) -> None:
    number = library.encoder_number(encoder.spec.fingerprint, encoder.spec.name)
    with EncodingLine(library, encoder, number) as line:
        assert list(line.put([make_paper(number, words="word " * 80 + str(number)) for number in range(300)])) == []
        batches = line.rest()
        for committed in range(1, 10):
            next(batches)
            time.sleep(0.02)  # the encoder has nothing else to do
            assert len(encoder.passages) <= committed + MOST_UNCOMMITTED
