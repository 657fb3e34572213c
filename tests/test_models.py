"""A change of model as a rehearsed step: staged beside the live generation, switched to, rolled back."""

import logging
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from conftest import FakeLoader, make_paper, write_jsonl
from storage import SPEC, Shelf, files_below, hurry, rich_paper, vector_of

from semsearch.encoders import EncoderSpec, ModelFolder
from semsearch.errors import EncoderError, NoGenerationError, NotEncodedError
from semsearch.evaluate import Remembered, overlaps
from semsearch.evaluate.overlap import overlap
from semsearch.generation import (
    Generation,
    IndexFolder,
    last_spec,
    open_current,
    open_staged,
    spec_before,
    writing,
)
from semsearch.library import Embedding, text_digest
from semsearch.papers import Paper
from semsearch.publishing import model_of, publish_pending, stage_pending
from semsearch.reindex import imports_of, switch_to, update_index
from semsearch.verify import problems

OTHER = EncoderSpec("other-model", "a" * 64, 8, 256)
PAPERS = [rich_paper(number, 0) for number in range(10)]


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    """An index of ten papers, encoded for both models and live for the first."""
    shelf = Shelf(tmp_path / "index")
    shelf.add(PAPERS)
    shelf.publish()
    encode(shelf, PAPERS)
    yield shelf
    shelf.library.close()


def encode(shelf: Shelf, papers: Sequence[Paper]) -> None:
    """Give the papers vectors of the other model: those of the first, with the signs turned."""
    embeddings = [Embedding(text_digest(paper.text), -vector_of(paper.text), 9) for paper in papers]
    shelf.library.add_embeddings(embeddings, shelf.library.encoder_number(OTHER.fingerprint, OTHER.name))


def staged(shelf: Shelf) -> Generation:
    return stage_pending(shelf.folder, shelf.library, OTHER, shelf.library.last_seq())


def switched(shelf: Shelf, spec: EncoderSpec = OTHER) -> Generation:
    return publish_pending(shelf.folder, shelf.library, spec)


def first_found(generation: Generation, paper: Paper) -> int:
    """Return the seq that is nearest to this paper's vector of the other model."""
    return int(generation.seqs_at(generation.nearest(-vector_of(paper.text)[None], 1)[1][0])[0])


def age(shelf: Shelf, seconds: float) -> None:
    for number in shelf.folder.published():
        stamp = time.time() - seconds
        os.utime(shelf.folder.generation(number), (stamp, stamp))


def test_what_is_staged_stands_beside_the_live_generation_and_changes_nothing_of_it(shelf: Shelf) -> None:
    before = files_below(shelf.folder.path / "generations"), shelf.folder.current.read_bytes()
    assert first_found(staged(shelf), PAPERS[4]) == 5
    assert (files_below(shelf.folder.path / "generations"), shelf.folder.current.read_bytes()) == before
    opened = open_staged(shelf.folder)
    assert (opened.manifest.encoder, opened.papers, opened.manifest.generation) == (OTHER, 10, 0)
    assert open_current(shelf.folder).manifest.encoder == SPEC
    assert list(problems(shelf.folder)) == []
    assert not shelf.folder.staging.exists()


def test_staging_again_takes_the_place_of_what_was_staged(shelf: Shelf) -> None:
    staged(shelf)
    shelf.add([rich_paper(20, 0)])
    encode(shelf, [rich_paper(20, 0)])
    (shelf.folder.staging / "new").mkdir(parents=True)  # as a killed run leaves it
    staged(shelf)
    assert open_staged(shelf.folder).papers == 11
    assert sorted(path.name for path in shelf.folder.path.iterdir() if path.is_dir()) == ["generations", "staged"]


def test_what_is_not_encoded_is_not_staged(shelf: Shelf) -> None:
    shelf.add([rich_paper(20, 0)])
    with pytest.raises(NotEncodedError, match="p20"):
        staged(shelf)
    assert not shelf.folder.staged.exists()
    assert not shelf.folder.staging.exists()


def test_publishes_neither_touch_what_is_staged_nor_count_it(shelf: Shelf) -> None:
    staged(shelf)
    before = files_below(shelf.folder.staged)
    for number in range(20, 24):
        shelf.add([rich_paper(number, 0)])
        shelf.publish()
        age(shelf, writing.KEEP_SECONDS + 60)
    assert shelf.folder.published() == [5, 4]
    assert files_below(shelf.folder.staged) == before
    assert open_current(shelf.folder).papers == 14


def test_a_switch_takes_all_along_that_came_and_went_since(shelf: Shelf) -> None:
    staged(shelf)
    new, changed = rich_paper(20, 0), rich_paper(3, 1)
    shelf.add([new, changed])
    encode(shelf, [new, changed])
    shelf.delete(["p5"])
    shelf.publish()
    live = switched(shelf)
    assert live.live_seqs().tolist() == sorted(shelf.oracle.live().values())
    assert (first_found(live, new), first_found(live, changed)) == (11, 12)
    assert live.manifest.encoder == OTHER
    assert (shelf.folder.generation(3) / "segments/000000/vectors.faiss").exists(), "what was staged is gone on from"
    assert not shelf.folder.staged.exists()
    assert open_current(shelf.folder).name == live.name
    assert list(problems(shelf.folder)) == []


def test_a_rollback_changes_the_model_and_no_paper(shelf: Shelf) -> None:
    staged(shelf)
    switched(shelf)
    shelf.add([rich_paper(20, 0)])
    encode(shelf, [rich_paper(20, 0)])
    shelf.delete(["p1"])
    switched(shelf)
    assert spec_before(shelf.folder) == SPEC
    back = switched(shelf, SPEC)
    assert back.live_seqs().tolist() == sorted(shelf.oracle.live().values())
    assert back.manifest.encoder == SPEC
    assert back.manifest.parent == 1, "the generation that was live is gone on from"
    assert spec_before(shelf.folder) == OTHER, "and so it can be taken back again"
    assert switched(shelf).manifest.parent == 3


def test_the_newest_generation_of_the_model_before_stays_for_a_month(shelf: Shelf) -> None:
    shelf.add([rich_paper(20, 0)])
    encode(shelf, [rich_paper(20, 0)])
    shelf.publish()
    switched(shelf)
    for number in range(21, 24):
        age(shelf, 29 * 86_400)
        shelf.add([rich_paper(number, 0)])
        encode(shelf, [rich_paper(number, 0)])
        switched(shelf)
    assert shelf.folder.published() == [6, 5, 2]
    age(shelf, 31 * 86_400)
    shelf.add([rich_paper(30, 0)])
    encode(shelf, [rich_paper(30, 0)])
    switched(shelf)
    assert shelf.folder.published() == [7, 6]
    assert spec_before(shelf.folder) is None
    assert switched(shelf, SPEC).papers == 15, "the library makes it anew"


def test_damage_never_changes_the_model(shelf: Shelf, caplog: pytest.LogCaptureFixture) -> None:
    staged(shelf)
    switched(shelf)
    (shelf.folder.generation(2) / "tombstones.npy").write_bytes(b"")
    with pytest.raises(NoGenerationError, match="generation 1: it was made with another model"):
        open_current(shelf.folder)
    assert last_spec(shelf.folder) == OTHER
    (shelf.folder.generation(2) / "works.npy").write_bytes(b"")
    with caplog.at_level(logging.CRITICAL):
        healed = switched(shelf)
    assert (healed.manifest.encoder, healed.papers) == (OTHER, 10)
    assert last_spec(shelf.folder) == OTHER


@pytest.mark.parametrize("is_set_aside", [False, True])
def test_damage_of_the_manifest_never_changes_the_model(shelf: Shelf, is_set_aside: bool) -> None:
    staged(shelf)
    switched(shelf)
    (shelf.folder.generation(2) / "manifest.json").write_bytes(b"{}")
    if is_set_aside:
        shutil.rmtree(shelf.folder.generation(2))
    with pytest.raises(NoGenerationError, match="generation 1: it was made with another model"):
        open_current(shelf.folder)
    assert last_spec(shelf.folder) is None
    assert model_of(shelf.folder, shelf.library) == OTHER.name


def test_a_lost_current_does_not_make_what_is_staged_live(shelf: Shelf) -> None:
    staged(shelf)
    shelf.folder.current.unlink()
    assert open_current(shelf.folder).manifest.encoder == SPEC


def test_a_damaged_staged_generation_is_made_anew_from_the_library(
    shelf: Shelf, caplog: pytest.LogCaptureFixture
) -> None:
    staged(shelf)
    (shelf.folder.staged / "tombstones.npy").write_bytes(b"")
    (line,) = problems(shelf.folder)
    assert line == "staged generation: tombstones.npy has 0 bytes instead of 128"
    live = switched(shelf)
    assert "what is there of other-model cannot be gone on from" in caplog.text
    assert (live.papers, live.manifest.parent, live.manifest.encoder) == (10, None, OTHER)
    assert list(problems(shelf.folder)) == []


def test_a_switch_that_was_killed_before_current_named_it_is_forgotten(shelf: Shelf) -> None:
    staged(shelf)
    current = shelf.folder.current.read_bytes()
    switched(shelf)
    shelf.folder.current.write_bytes(current)
    assert open_current(shelf.folder).manifest.encoder == SPEC
    assert switched(shelf).papers == 10, "and does not stand in the way of the next"
    shelf.folder.current.write_bytes(current)
    shelf.add([rich_paper(20, 0)])
    assert shelf.publish().manifest.generation == 2
    assert spec_before(shelf.folder) is None


# With encoders


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> FakeLoader:
    """Two models by their names, made of words and not of weights."""
    one = ModelFolder.find().spec
    two = EncoderSpec("two", "b" * 64, one.dimension, 256)
    found = {one.name: one, "two": two}
    monkeypatch.setattr(
        "semsearch.reindex.find_model", lambda name, networks: ModelFolder(Path("nowhere"), found[name], "", "")
    )
    return FakeLoader()


def test_staging_encodes_for_the_other_model_and_a_switch_only_what_came_since(
    tmp_path: Path, models: FakeLoader
) -> None:
    index, source = tmp_path / "index", tmp_path / "papers.jsonl"
    papers = [make_paper(number) for number in range(12)]
    update_index(index, imports_of([write_jsonl(source, papers)]), load=models)
    with pytest.raises(ValueError, match="is live already"):
        update_index(index, [], beside=True, load=models)
    report = update_index(index, [], model="two", beside=True, load=models)
    assert (report.encoded, report.papers, report.generation) == (12, 12, 0)
    update_index(index, imports_of([write_jsonl(source, [*papers, make_paper(12)])]), load=models)
    two = open_staged(IndexFolder(index)).manifest.encoder
    report = switch_to(index, two, load=models)
    assert (report.encoded, report.papers) == (1, 13)
    assert open_current(IndexFolder(index)).manifest.encoder == two
    with pytest.raises(EncoderError, match=r"that name now gives another .*semsearch stage"):
        switch_to(index, EncoderSpec("two", "c" * 64, 8, 256), load=models)


# How alike they are


def test_overlap_by_hand() -> None:
    one = {"a": ["p1", "p2", "p3"], "b": ["p1"], "asked of one alone": []}
    other = {"a": ["p2", "p1", "p4"], "b": []}
    scores = overlaps(one, other)
    assert scores.questions == ("a", "b")
    assert scores.measures == ("overlap@1", "overlap@10", "overlap@100")
    np.testing.assert_allclose(scores.values, np.array([[0, 2 / 3, 2 / 3], [0, 0, 0]]))
    assert overlap([], [], 10) == 1.0


def test_a_question_is_asked_once() -> None:
    asked: list[str] = []

    def rank(query: str) -> list[str]:
        asked.append(query)
        return [query]

    remembered = Remembered(rank)
    assert [remembered("x"), remembered("x")] == [["x"], ["x"]]
    assert (asked, remembered.found) == (["x"], {"x": ["x"]})
