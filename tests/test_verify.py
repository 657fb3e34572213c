import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_paper
from storage import (
    SPEC,
    Shelf,
    add,
    clone,
    files_below,
    hurry,
    name_as_current,
    rewrite_manifest,
    rich_paper,
    unit_rows,
)

from semsearch.errors import IndexMissingError
from semsearch.generation import Draft, IndexFolder, SegmentDraft, publish
from semsearch.library import Library
from semsearch.papers import Paper
from semsearch.verify import problems


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shelf = Shelf(tmp_path_factory.mktemp("base") / "index")
    shelf.add([rich_paper(number, 0) for number in range(12)])
    shelf.publish()
    shelf.add([rich_paper(20, 0), rich_paper(3, 1)])
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
    "lexical index": (
        lambda folder: flip(next((folder.generation(2) / "lexical").glob("*.del"))),
        r"generation 2: lexical/\w+\.\d+\.del fails its digest",
    ),
    "lost words": (
        lambda folder: next((folder.generation(2) / "lexical").glob("*.pos")).unlink(),
        r"generation 2: lexical/\w+\.pos is missing",
    ),
    "columns": (
        lambda folder: flip(folder.generation(2) / "segments/000001/columns.npy"),
        r"generation 1: segments/000001/columns\.npy fails its digest",
    ),
    "works": (
        lambda folder: flip(folder.generation(2) / "works.npy"),
        r"generation 2: works\.npy fails its digest",
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


def draft_of(folder: IndexFolder, papers: dict[int, Paper] | None = None) -> Draft:
    """Return a draft of the library, made by hand: with these papers, if they are not to be the library's own."""
    with Library.open(folder.library) as library:
        live = library.all_live_seqs(15)
        assert live.tolist() == [1, 2, 3, *range(6, 15)]
        number = library.encoder_number(SPEC.fingerprint, SPEC.name)
        ((_, vectors),) = library.vectors_at(live.tolist(), number)
        held = {seq: version.paper for seq, version in library.versions_at(live.tolist()).items()} | (papers or {})
        last_change = library.change_name(15)

    def papers_held() -> Iterator[tuple[int, Paper]]:
        return iter(sorted(held.items()))

    return Draft(
        parent=None,
        kept=(),
        added=SegmentDraft([(live, vectors)], 12, papers_held, SPEC.dimension),
        unfound=(),
        newly_found=papers_held,
        tombstones=np.empty(0, dtype=np.int64),
        last_seq=15,
        last_change=last_change,
        encoder=SPEC,
    )


def redrafted(draft: Draft, papers: Callable[[], Iterator[tuple[int, Paper]]], **segment: Any) -> Draft:
    """Return the draft with the columns and words of other papers, and other changes of its new segment."""
    return replace(draft, newly_found=papers, added=replace(draft.added, papers=papers, **segment))


def test_a_generation_that_disagrees_with_its_library_is_seen_row_by_row(folder: IndexFolder) -> None:
    """A generation whose files are all sound, made of other papers and other vectors than the library's."""
    draft = draft_of(folder)
    seqs = np.array([1, 2, 3, 5, *range(7, 15)])
    ((_, vectors),) = draft.added.vectors
    vectors[4] = unit_rows(np.random.default_rng(1), 1)[0]
    papers = [paper for _, paper in draft.newly_found()]
    wrong = redrafted(draft, lambda: zip(seqs.tolist(), papers, strict=True), vectors=[(seqs, vectors)])
    assert publish(folder, wrong).manifest.generation == 3
    assert list(problems(folder)) == [
        "generation 3: the paper of seq 6 is live in the library and cannot be found",
        "generation 3: the paper of seq 5 can be found and is not live in the library",
        "generation 3: the vector of seq 7 is not the library's",
    ]


def test_words_under_another_seq_than_the_librarys_are_seen(folder: IndexFolder) -> None:
    draft = draft_of(folder)
    seqs = {7: 70, 9: 90}
    publish(folder, redrafted(draft, lambda: ((seqs.get(seq, seq), paper) for seq, paper in draft.newly_found())))
    assert list(problems(folder)) == [
        "generation 3: the paper of seq 7 is not in the lexical index",
        "generation 3: the paper of seq 9 is not in the lexical index",
    ]


def test_columns_of_other_papers_than_the_librarys_are_seen(folder: IndexFolder) -> None:
    (held,) = (paper for seq, paper in draft_of(folder).newly_found() if seq == 8)
    assert (held.year, held.categories, held.venue) == (2002, ("cs.CL", "stat.ML"), "Venue 0")
    publish(folder, draft_of(folder, {8: replace(held, published="1999", categories=("CS.cl",), venue="VENUE  0")}))
    assert list(problems(folder)) == [
        "generation 3: its columns count other papers of year '1999' than the library",
        "generation 3: its columns count other papers of year '2002' than the library",
        "generation 3: its columns count other papers of category 'stat.ml' than the library",
    ]


def test_a_paper_under_another_id_than_the_librarys_is_seen(folder: IndexFolder) -> None:
    (held,) = (paper for seq, paper in draft_of(folder).newly_found() if seq == 8)
    publish(folder, draft_of(folder, {8: replace(held, paper_id="someone-else")}))
    assert list(problems(folder)) == [
        f"generation 3: the paper of seq 8 is '{held.paper_id}', its columns call it 'someone-else'"
    ]


def test_a_generation_of_an_older_format_is_no_problem_unless_it_is_served(folder: IndexFolder) -> None:
    rewrite_manifest(folder, 1, format_version=1)
    assert list(problems(folder)) == []
    rewrite_manifest(folder, 2, format_version=1)
    name_as_current(folder, 2)
    (line,) = problems(folder)
    assert re.match("generation 2: it has format 1.* make it anew, without encoding, with: semsearch index", line)
