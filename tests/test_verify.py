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
    vector_of,
)

from semsearch.durable import exclusive_lock
from semsearch.errors import EncoderError, IndexMissingError
from semsearch.generation import Draft, IndexFolder, SegmentDraft, open_current, open_generation, publish
from semsearch.library import Library, rows, text_digest
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


def test_it_tells_how_far_it_has_come(folder: IndexFolder) -> None:
    told: list[tuple[str, int, int]] = []
    assert list(problems(folder, on_rows=lambda *each: told.append(each))) == []
    with Library.open(folder.library) as library:
        counts, live = library.counts(), len(open_current(folder).live_seqs())
    of = {"rows of the library": counts.changes + counts.embeddings, "papers of the generation": live}
    last = {what: (done, total) for what, done, total in told}
    assert {what: last[what] for what in of} == {what: (total, total) for what, total in of.items()}
    assert {(what, done) for what, done, total in told if not total} == {
        (f"files of generation {number}", 0) for number in folder.published()
    }


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


# Deep


class _Encoder:
    """Gives each text its vector, or another."""

    def __init__(self, turned: bool = False) -> None:
        self._turned = turned

    def tokenise(self, passages: list[str]) -> list[str]:
        return passages

    def encode_passages(self, passages: list[str]) -> Any:
        return np.stack([vector_of(text[::-1] if self._turned else text) for text in passages])


def deep_problems(folder: IndexFolder, encoder: _Encoder | None = None) -> list[str]:
    return list(problems(folder, lambda spec: encoder or _Encoder()))  # type: ignore[arg-type,return-value]


def test_a_sound_index_stays_sound_when_all_is_derived_anew(folder: IndexFolder) -> None:
    before = files_below(folder.path)
    assert deep_problems(folder) == []
    assert files_below(folder.path) == before
    with Library.open(folder.library) as library:
        add(library, [make_paper(30)])
        library.delete(["p1"])
        library.purge(["p1", "p4"])
    assert deep_problems(folder) == []


def test_words_of_other_texts_than_the_librarys_are_seen(folder: IndexFolder) -> None:
    papers = dict(draft_of(folder).newly_found())
    assert "finding8" in papers[9].abstract.lower()
    wrong = papers | {
        9: replace(papers[9], abstract=papers[9].abstract.lower().replace("finding8", "findings of whales"))
    }
    publish(folder, replace(draft_of(folder), newly_found=lambda: iter(sorted(wrong.items()))))
    assert list(problems(folder)) == []
    assert deep_problems(folder) == [
        f"generation 3: the word {word!r} finds other papers than it should" for word in ("find", "finding8", "whale")
    ]


def test_titles_and_people_of_others_than_the_librarys_are_seen(folder: IndexFolder) -> None:
    papers = dict(draft_of(folder).newly_found())
    wrong = papers | {9: replace(papers[9], authors=("Emmy Noether",))}
    publish(folder, replace(draft_of(folder), newly_found=lambda: iter(sorted(wrong.items()))))
    lines = deep_problems(folder)
    assert "generation 3: id, title or an author of seq 9 finds other papers than it should" in lines


def test_columns_and_traits_of_other_papers_are_seen_byte_by_byte(folder: IndexFolder) -> None:
    draft = draft_of(folder)
    papers = dict(draft.newly_found())
    wrong = papers | {9: replace(papers[9], title=papers[9].title + "!", doi="10.1000/182")}
    added = replace(draft.added, papers=lambda: iter(sorted(wrong.items())))
    publish(folder, replace(draft, added=added))
    assert list(problems(folder)) == []
    assert deep_problems(folder) == ["generation 3: the columns of segment 000003 are not those of its papers"]


def test_pairs_that_are_not_told_and_pairs_that_are_none_are_seen(
    folder: IndexFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    generation = open_generation(folder, 2)
    told = {
        tuple(sorted(pair))
        for pair in generation.work_pairs[generation.live[generation.work_pairs].all(axis=1)].tolist()
    }
    ids = generation.ids_at(np.arange(generation.manifest.rows))
    one, other = next((one, other) for one in range(3) for other in range(one + 1, 3) if (one, other) not in told)
    pairs = np.array([[one, other]])
    monkeypatch.setattr("semsearch.generation.writing._new_pairs", lambda segments: pairs)
    publish(folder, draft_of(folder))
    lines = deep_problems(folder)
    assert f"generation 3: {ids[one]!r} and {ids[other]!r} are called one work, and are not" in lines
    assert len(lines) == len(told) + 1
    assert all("are one work, and not called so" in line for line in lines[:-1])


def test_vectors_that_the_encoder_no_longer_gives_are_seen(folder: IndexFolder) -> None:
    lines = deep_problems(folder, _Encoder(turned=True))
    assert len(lines) == 12
    assert re.match(
        r"generation 2: its encoder gives the paper of seq 1 another vector, with a cosine of -?0\.\d+", lines[0]
    )


def test_a_missing_encoder_is_told(folder: IndexFolder) -> None:
    def missing(spec: object) -> Any:
        raise EncoderError("there is no such model")

    assert list(problems(folder, missing)) == [
        "generation 2: no vector can be compared with its encoder's: there is no such model"
    ]


def test_a_version_whose_digests_name_another_text_is_seen(folder: IndexFolder) -> None:
    with Library.open(folder.library) as library:
        *head, digest, _, content, _ = rows.version_row(16, make_paper(30), "one")
        text = text_digest("another text")
        row = (*head, digest, text, content, rows.change_digest(digest, text, content))
        library._run("INSERT INTO changes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    assert list(problems(folder)) == []
    assert deep_problems(folder) == ["library: the text of paper 'p30' (seq 16) is not what its digest names"]


def test_what_killed_processes_left_is_seen_unless_somebody_works_on_it(folder: IndexFolder) -> None:
    folder.staging.mkdir()
    (folder.generations / "000003.tmp").mkdir()
    left = "was left by a process that was killed"
    assert deep_problems(folder) == [f"{folder.generations / '000003.tmp'} {left}", f"{folder.staging} {left}"]
    with exclusive_lock(folder.reindex_lock, "test"), exclusive_lock(folder.publish_lock, "test"):
        assert deep_problems(folder) == []
