"""Damage of every derived thing, repaired from the library without encoding; and of the library, as far as can be."""

import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from storage import SPEC, Shelf, clone, files_below, hurry, rich_paper, vector_of
from test_verify import draft_of, edit, flip, redrafted

from semsearch.durable import exclusive_lock
from semsearch.encoders import Encoder, EncoderSpec, ModelFolder, Tokenised
from semsearch.errors import EncoderError, IndexBusyError, IndexMissingError
from semsearch.generation import IndexFolder, open_current, publish
from semsearch.library import Library
from semsearch.publishing import stage_pending
from semsearch.repair import Repaired, repair
from semsearch.verify import problems


class StubEncoder:
    """Gives each text the vector that it has in the shelf, and counts."""

    spec = SPEC
    batch_tokens = 512

    def __init__(self) -> None:
        self.encoded: list[str] = []

    def tokenise(self, passages: list[str]) -> list[Tokenised]:
        return [Tokenised(text, [1] * len(text.split()), len(text.split())) for text in passages]

    def encode_passages(self, passages: list[Tokenised]) -> object:
        self.encoded += [passage.text for passage in passages]
        return np.stack([vector_of(passage.text) for passage in passages])

    def encode_queries(self, queries: list[str]) -> object:
        return np.stack([vector_of(text) for text in queries])


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)
    monkeypatch.setattr("semsearch.repair.find_model", lambda *_: ModelFolder(Path("nowhere"), SPEC, "", ""))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shelf = Shelf(tmp_path_factory.mktemp("base") / "index")
    shelf.add([rich_paper(number, 0) for number in range(12)])
    shelf.publish()
    shelf.add([rich_paper(20, 0), rich_paper(3, 1)])
    shelf.delete(["p4"])
    shelf.publish()
    stage_pending(shelf.folder, shelf.library, SPEC, 15)
    shelf.library.close()
    return shelf.folder.path


@pytest.fixture
def folder(base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> IndexFolder:
    caplog.set_level(logging.CRITICAL)
    return IndexFolder(clone(base, tmp_path / "index"))


@pytest.fixture
def encoder() -> StubEncoder:
    return StubEncoder()


def repaired(folder: IndexFolder, encoder: StubEncoder) -> Repaired:
    def encoder_of(spec: EncoderSpec) -> Encoder:
        assert spec == SPEC
        return encoder  # type: ignore[return-value]

    return repair(folder, encoder_of)


LIVE = [1, 2, 3, *range(6, 15)]


def test_what_is_sound_is_left_as_it_is(folder: IndexFolder, encoder: StubEncoder) -> None:
    before = files_below(folder.path)
    assert repaired(folder, encoder) == Repaired((), ())
    after = files_below(folder.path)
    assert {name: data for name, data in after.items() if not name.startswith(("REINDEX", "library.db-"))} == {
        name: data for name, data in before.items() if not name.startswith(("REINDEX", "library.db-"))
    }
    assert encoder.encoded == []


def _folder_for_current(folder: IndexFolder) -> None:
    folder.current.unlink()
    folder.current.mkdir()
    (folder.current / "x").touch()


def _leftovers(folder: IndexFolder) -> None:
    (folder.path / "library.db-abc123").mkdir()
    (folder.path / "library.db-abc123" / "library.db").touch()
    (folder.generations / "000003.tmp").mkdir()
    folder.merging.mkdir()
    folder.staging.mkdir()
    folder.current.with_name("CURRENT.tmp").touch()


DERIVED: dict[str, tuple[Callable[[IndexFolder], object], str]] = {
    "live segment": (
        lambda folder: flip(folder.generation(2) / "segments/000002/vectors.faiss"),
        "moved 000002, which",
    ),
    "shared segment": (
        lambda folder: flip(folder.generation(2) / "segments/000001/columns.npy"),
        "published generation 3 with 12 papers",
    ),
    "older generation": (lambda folder: (folder.generation(1) / "tombstones.npy").unlink(), "moved 000001, which"),
    "staged": (lambda folder: flip(folder.staged / "works.npy"), "moved staged, which is damaged"),
    "current": (lambda folder: flip(folder.current), "published generation 3 with 12 papers"),
    "lost current": (lambda folder: folder.current.unlink(), "published generation 3 with 12 papers"),
    "folder for current": (_folder_for_current, "moved what stood in the place of CURRENT"),
    "all generations": (lambda folder: shutil.rmtree(folder.generations), "published generation 1 with 12 papers"),
    "leftovers": (_leftovers, "removed .*library.db-abc123"),
    "embedding": (
        lambda folder: edit(folder, "UPDATE embeddings SET vector = zeroblob(32) WHERE embedding = 7"),
        "1 damaged embeddings were dropped",
    ),
    "lost embedding": (
        lambda folder: edit(folder, "DELETE FROM embeddings WHERE embedding = 7"),
        "encoded for test-model 1 papers that had no sound embedding",
    ),
}


@pytest.mark.parametrize("kind", DERIVED)
def test_what_is_derived_is_made_anew_and_repairing_it_again_does_nothing(
    folder: IndexFolder, encoder: StubEncoder, kind: str
) -> None:
    damage, told = DERIVED[kind]
    damage(folder)
    done = repaired(folder, encoder)
    assert any(re.match(told, line) for line in done.done), done
    assert done.left == ()
    assert open_current(folder).live_seqs().tolist() == LIVE
    assert list(problems(folder, lambda spec: encoder)) == []  # type: ignore[arg-type,return-value]
    encoder.encoded.clear()
    assert repaired(folder, encoder) == Repaired((), ())
    assert encoder.encoded == []


def test_only_what_lost_its_embedding_is_encoded(folder: IndexFolder, encoder: StubEncoder) -> None:
    edit(folder, "UPDATE embeddings SET tokens = 77 WHERE embedding = 7")
    for number in folder.published():
        shutil.rmtree(folder.generation(number))
    assert repaired(folder, encoder).left == ()
    assert encoder.encoded == [rich_paper(6, 0).text]


def test_a_damaged_key_of_the_index_by_paper_no_longer_hides_its_row(folder: IndexFolder, encoder: StubEncoder) -> None:
    data = folder.library.read_bytes()
    at = [position for position in range(len(data)) if data.startswith(b"p7one", position)]
    table, index = sorted(at, key=lambda position: b"Finding7" not in data[position : position + 400])
    folder.library.write_bytes(data[:index] + b"q" + data[index + 1 :])
    assert list(problems(folder)) != []
    assert "SQLite's indexes of the library were made anew" in repaired(folder, encoder).done
    assert list(problems(folder)) == []
    with Library.open(folder.library) as library:
        assert library.has_met("p7")
        assert not library.has_met("q7")
    assert table != index


def test_a_damaged_version_is_told_by_its_id_and_never_dropped(folder: IndexFolder, encoder: StubEncoder) -> None:
    edit(folder, "UPDATE changes SET content = 'x' WHERE seq = 2")
    done = repaired(folder, encoder)
    assert any("paper 'p1' (seq 2) fails its digest" in line for line in done.left)
    assert open_current(folder).live_seqs().tolist() == LIVE, "what is published of it stays"
    assert not folder.quarantine.exists()
    shutil.rmtree(folder.generations)
    done = repaired(folder, encoder)
    assert any("paper 'p1' (seq 2) fails its digest" in line for line in done.left)
    assert folder.published() == [], "and without it nothing is published in its name"
    with Library.open(folder.library) as library:
        assert library.versions_of("p1") == [2]


def test_a_generation_that_is_not_what_the_library_makes_is_put_aside(
    folder: IndexFolder, encoder: StubEncoder
) -> None:
    draft = draft_of(folder)
    publish(folder, redrafted(draft, lambda: ((seq + (seq == 9), paper) for seq, paper in draft.newly_found())))
    done = repaired(folder, encoder)
    assert done.left == ()
    assert re.match("moved generation 3, which was not what the library makes, to .*quarantine/000003-", done.done[-1])
    assert folder.published() == [4, 2, 1]


def test_all_can_be_made_anew_although_nothing_is_wrong(folder: IndexFolder, encoder: StubEncoder) -> None:
    done = repair(folder, lambda spec: encoder, anew=True)  # type: ignore[arg-type,return-value]
    assert done == Repaired(("published generation 3 with 12 papers from the library",), ())
    assert open_current(folder).manifest.parent is None
    assert encoder.encoded == []
    assert folder.published() == [3, 2, 1]


def test_a_library_that_is_none_is_told(folder: IndexFolder, encoder: StubEncoder) -> None:
    folder.library.write_bytes(b"something else")
    done = repaired(folder, encoder)
    assert done.done == ()
    assert any("library.db" in line and "restore it from a backup" in line for line in done.left)


def test_without_the_model_the_rest_is_repaired(folder: IndexFolder) -> None:
    def missing(spec: EncoderSpec) -> Encoder:
        raise EncoderError("there is no such model")

    edit(folder, "DELETE FROM embeddings WHERE embedding = 7")
    (folder.path / "library.db-abc123").mkdir()
    done = repair(folder, missing)
    assert "there is no such model" in done.left
    assert len(done.done) == 1


def test_nobody_else_may_be_writing(folder: IndexFolder, encoder: StubEncoder, tmp_path: Path) -> None:
    with pytest.raises(IndexMissingError):
        repaired(IndexFolder(tmp_path / "nothing"), encoder)
    with exclusive_lock(folder.reindex_lock, "test"), pytest.raises(IndexBusyError):
        repaired(folder, encoder)
