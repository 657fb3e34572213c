import re
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import make_paper
from storage import SPEC, Shelf, add, clone, files_below, hurry, unit_rows

from semsearch.errors import IndexMissingError
from semsearch.generation import Draft, IndexFolder, publish
from semsearch.library import Library
from semsearch.verify import problems


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shelf = Shelf(tmp_path_factory.mktemp("base") / "index")
    shelf.add([make_paper(number) for number in range(12)])
    shelf.publish()
    shelf.add([make_paper(20), make_paper(3, words="changed")])
    shelf.delete(["p4"])
    shelf.publish()
    shelf.library.close()
    return shelf.folder.path


@pytest.fixture
def folder(base: Path, tmp_path: Path) -> IndexFolder:
    return IndexFolder(clone(base, tmp_path / "index"))


def edit(folder: IndexFolder, statement: str) -> None:
    connection = sqlite3.connect(folder.library)
    assert connection.execute(statement).rowcount == 1
    connection.commit()
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def test_a_sound_index_has_no_problems_also_with_changes_to_come(folder: IndexFolder) -> None:
    assert list(problems(folder)) == []
    with Library.open(folder.library) as library:
        add(library, [make_paper(30)])
        library.delete(["p1"])
        library.purge(["p1", "p4"])
    assert list(problems(folder)) == []


def test_an_index_without_anything_published_has_no_problems(tmp_path: Path) -> None:
    Library.create(tmp_path / "library.db").close()
    assert list(problems(IndexFolder(tmp_path))) == []


def test_there_must_be_an_index(tmp_path: Path) -> None:
    with pytest.raises(IndexMissingError, match="there is no index in"):
        list(problems(IndexFolder(tmp_path)))


DAMAGE: dict[str, tuple[Callable[[IndexFolder], object], str]] = {
    "content": (
        lambda folder: edit(folder, "UPDATE changes SET content = 'x' WHERE seq = 2"),
        "library: .*paper 'p1' .seq 2. fails its digest",
    ),
    "dead content": (
        lambda folder: edit(folder, "UPDATE changes SET content = 'x' WHERE seq = 5"),
        "library: .*paper 'p4' .seq 5. fails its digest",
    ),
    "vector": (
        lambda folder: edit(folder, "UPDATE embeddings SET vector = zeroblob(32) WHERE embedding = 7"),
        "library: embedding 7 fails its digest",
    ),
    "lost vector": (
        lambda folder: edit(folder, "DELETE FROM embeddings WHERE embedding = 7"),
        "generation 2: cannot be compared further with the library: .*seq 7. has no embedding of this encoder",
    ),
    "lost change": (lambda folder: edit(folder, "DELETE FROM changes WHERE seq = 6"), "library: change 6 is missing"),
    "lost end": (
        lambda folder: edit(folder, "DELETE FROM changes WHERE seq = 15"),
        "library: .* does not hold change 15 that generation 2 was made from",
    ),
    "text in place of an embedding's digest": (
        lambda folder: edit(folder, "UPDATE embeddings SET text_digest = 'x' WHERE embedding = 7"),
        "library: embedding 7 fails its digest",
    ),
    "encoder": (
        lambda folder: edit(folder, "UPDATE encoders SET fingerprint = 'x'"),
        "generation 2: the library has no vectors of its encoder test-model",
    ),
    "no library at all": (
        lambda folder: folder.library.write_bytes(b"something else"),
        "library: .*library.db",
    ),
    "empty library": (lambda folder: folder.library.write_bytes(b""), "library: .*is not a semsearch library"),
    "segment": (
        lambda folder: flip(folder.generation(2) / "segments/000002/vectors.faiss"),
        r"generation 2: segments/000002/vectors\.faiss fails its digest",
    ),
    "older generation": (
        lambda folder: (folder.generation(1) / "tombstones.npy").unlink(),
        r"generation 1: tombstones\.npy is missing",
    ),
    "extra file": (
        lambda folder: (folder.generation(2) / "segments/x").write_bytes(b""),
        "generation 2: segments/x does not belong there",
    ),
    "manifest": (lambda folder: flip(folder.generation(2) / "manifest.json"), "generation 2: its manifest"),
    "current": (
        lambda folder: flip(folder.current),
        "CURRENT is missing or unreadable; publish again with: semsearch index",
    ),
    "lost current": (lambda folder: folder.current.unlink(), "CURRENT is missing or unreadable"),
    "lost generation": (
        lambda folder: shutil.rmtree(folder.generation(2)),
        "generation 2, which CURRENT names, is missing; publish again with: semsearch index",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_every_damage_is_named_and_nothing_is_changed(folder: IndexFolder, kind: str) -> None:
    damage, expected = DAMAGE[kind]
    damage(folder)
    before = files_below(folder.path)
    lines = list(problems(folder))
    assert any(re.match(expected, line) for line in lines), lines
    assert files_below(folder.path) == before
    assert list(problems(folder)) == lines


def test_a_generation_that_disagrees_with_its_library_is_seen_row_by_row(folder: IndexFolder) -> None:
    """A generation whose files are all sound, made of other papers and other vectors than the library's."""
    with Library.open(folder.library) as library:
        live = library.all_live_seqs(15)
        assert live.tolist() == [1, 2, 3, *range(6, 15)]
        number = library.encoder_number(SPEC.fingerprint, SPEC.name)
        ((_, vectors),) = library.vectors_at(live.tolist(), number)
        last_change = library.change_name(15)
    seqs = np.array([1, 2, 3, 5, *range(7, 15)])
    vectors[4] = unit_rows(np.random.default_rng(1), 1)[0]
    draft = Draft(
        parent=None,
        kept=(),
        added=[(seqs, vectors)],
        added_rows=12,
        tombstones=np.empty(0, dtype=np.int64),
        last_seq=15,
        last_change=last_change,
        encoder=SPEC,
    )
    assert publish(folder, draft).manifest.generation == 3
    assert list(problems(folder)) == [
        "generation 3: the paper of seq 6 is live in the library and cannot be found",
        "generation 3: the paper of seq 5 can be found and is not live in the library",
        "generation 3: the vector of seq 7 is not the library's",
    ]
