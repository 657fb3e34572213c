import errno
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_paper
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from storage import SPEC, Oracle, Shelf, add, embedding_of, vector_of

from semsearch.errors import (
    DiskFullError,
    IndexMissingError,
    KeyUsedError,
    LibraryDamageError,
    NotEncodedError,
    SemsearchError,
)
from semsearch.library import Embedding, Library, LibraryCounts, Receipt, content_digest, text_digest
from semsearch.library import library as room
from semsearch.papers import Paper


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "index" / "library.db"


@pytest.fixture
def library(path: Path) -> Iterator[Library]:
    with Library.create(path) as library:
        yield library


def number_of(library: Library) -> int:
    return library.encoder_number(SPEC.fingerprint, SPEC.name)


def vectors_of(library: Library, seqs: list[int]) -> list[list[float]]:
    return [row.tolist() for _, block in library.vectors_at(seqs, number_of(library)) for row in block]


def edit(path: Path, statement: str, *values: object) -> None:
    """Change the file behind the library's back."""
    connection = sqlite3.connect(path)
    assert connection.execute(statement, values).rowcount == 1
    connection.commit()
    connection.close()


# What is kept


def test_every_change_has_the_next_seq(library: Library) -> None:
    assert library.last_seq() == 0
    add(library, [make_paper(1), make_paper(2)])
    add(library, [make_paper(1, words="again")])
    assert library.delete(["p2", "p2", "unknown"]) == ["p2"]
    add(library, [])
    assert library.last_seq() == 4
    assert library.ids_at([1, 2, 3, 4]) == {1: "p1", 2: "p2", 3: "p1", 4: "p2"}
    assert library.versions_of("p1") == [1, 3]
    assert library.all_live_seqs(4).tolist() == [3]
    assert library.all_live_seqs(2).tolist() == [1, 2], "as it was then"
    assert library.counts() == LibraryCounts(changes=4, embeddings=3)


def test_a_paper_comes_back_as_it_was(library: Library) -> None:
    paper = Paper.build(
        title="Über ∂x",
        abstract="naïve “quotes” 中文 \U0001d4d0",
        paper_id="x/1",
        authors=("A. Ström", "李"),
        published="2017-06-12",
        categories=("cs.CL", "stat.ML"),
        venue="V",
        url="https://example.org/?a=1",
        doi="10.1000/ABC",
        source="s",
        popularity=1.5,
        extra={"nested": {"list": [1, None, "x"]}},
    )
    add(library, [paper])
    version = library.versions_at([1])[1]
    assert version.paper == paper
    assert (version.seq, version.text_digest) == (1, text_digest(paper.text))
    assert vectors_of(library, [1]) == [vector_of(paper.text).tolist()]


def test_versions_and_deletions_outlive_the_process(path: Path) -> None:
    with Library.create(path) as library:
        add(library, [make_paper(1)])
        library.delete(["p1"])
    with Library.open(path) as library:
        assert (library.last_seq(), library.live_seqs(["p1"])) == (2, {})
        add(library, [make_paper(1)])
        assert library.live_seqs(["p1"]) == {"p1": 3}


def test_unchanged_is_asked_of_the_import_that_said_so(library: Library) -> None:
    first, second = make_paper(1, words="of one"), make_paper(1, words="of two")
    add(library, [first], "one")
    add(library, [second], "two")
    assert library.known_contents("one", ["p1", "p9"]) == {"p1": content_digest(first.to_json())}
    assert library.known_contents("two", ["p1"]) == {"p1": content_digest(second.to_json())}
    assert library.known_contents("three", ["p1"]) == {}
    library.delete(["p1"], "two")
    assert library.known_contents("two", ["p1"]) == {}
    assert library.live_seqs(["p1"]) == {"p1": 1}


def test_a_deletion_without_origin_is_of_all_imports(library: Library) -> None:
    add(library, [make_paper(1, words="of one")], "one")
    add(library, [make_paper(1, words="of two")], "two")
    assert library.delete(["p1"], "three") == []
    assert library.delete(["p1"]) == ["p1"]
    assert (library.last_seq(), library.live_seqs(["p1"])) == (4, {})


def test_a_text_is_embedded_once_for_all_papers_and_per_encoder(library: Library) -> None:
    one, two = number_of(library), library.encoder_number("another", "another")
    twins = [make_paper(number, title="T", words="same") for number in (1, 2)]
    digest = text_digest(twins[0].text)
    assert library.missing_texts([digest], one) == {digest}
    library.add_versions("o", twins, [embedding_of(twins[0])], one)
    assert library.missing_texts([digest], one) == set()
    assert library.missing_texts([digest], two) == {digest}
    assert library.unencoded_seqs(one, 0, 2).tolist() == []
    assert library.unencoded_seqs(two, 0, 2).tolist() == [1, 2]
    assert library.unencoded_seqs(two, 1, 2).tolist() == [2]
    library.add_embeddings([Embedding(digest, np.ones(3, dtype=np.float32), 9)], two)
    assert [block.tolist() for _, block in library.vectors_at([2, 1], two)] == [[[1, 1, 1], [1, 1, 1]]]
    assert vectors_of(library, [1]) == [vector_of(twins[0].text).tolist()]
    assert library.truncated([1, 2], two, 8) == 2
    assert library.truncated([1, 2], two, 9) == 0


def test_a_version_and_its_vector_are_one_commit(library: Library) -> None:
    def embeddings() -> Iterator[Embedding]:
        yield embedding_of(make_paper(1))
        raise RuntimeError("the encoder broke")

    with pytest.raises(RuntimeError, match="the encoder broke"):
        library.add_versions("o", [make_paper(1)], embeddings(), number_of(library))
    assert library.counts() == LibraryCounts(0, 0)
    add(library, [make_paper(2)])
    assert library.last_seq() == 1


def test_vectors_come_in_the_order_asked_for_and_in_bounded_blocks(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("semsearch.library.library._ROWS_PER_READ", 4)
    papers = [make_paper(number) for number in range(11)]
    add(library, papers)
    order = [7, 1, 11, 2, 3, 10, 9]
    blocks = list(library.vectors_at(order, number_of(library)))
    assert [seqs.tolist() for seqs, _ in blocks] == [[7, 1, 11, 2], [3, 10, 9]]
    assert vectors_of(library, order) == [vector_of(papers[seq - 1].text).tolist() for seq in order]
    assert list(library.vectors_at([], 1)) == []
    assert list(library.damage()) == []


def test_more_ids_than_sqlite_has_variables(library: Library) -> None:
    library._connection.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 600)
    count = 2_500
    papers = [Paper(paper_id=f"p{number:05d}", title="", abstract=f"{number}") for number in range(count)]
    ids = [paper.paper_id for paper in papers]
    library.add_versions("o", papers, (), 1)
    assert library.live_seqs(ids) == {paper_id: seq for seq, paper_id in enumerate(ids, 1)}
    assert len(library.known_contents("o", ids)) == count
    assert [version.paper for version in library.versions_at(range(1, count + 1)).values()] == papers
    assert list(library.ids_at(range(1, count + 1)).values()) == ids
    assert library.touched_after(0, count) == {paper_id: [seq] for seq, paper_id in enumerate(ids, 1)}
    assert len(library.missing_texts([text_digest(paper.text) for paper in papers], 1)) == count
    assert library.delete(ids) == ids
    assert library.all_live_seqs(2 * count).tolist() == []


def test_what_a_run_saw(library: Library) -> None:
    add(library, [make_paper(number) for number in range(4)], "one")
    add(library, [make_paper(9)], "two")
    library.start_sightings()
    assert library.sight("one", {"p0": "a:1", "p2": "a:2", "new": "a:3"}) == {}
    assert library.sight("one", {"p2": "b:7", "p3": "b:8"}) == {"p2": "a:2"}
    assert library.sight("two", {"p2": "c:1"}) == {}, "another import's sightings are its own"
    assert library.unsighted("one") == ["p1"]
    assert library.unsighted("two") == ["p9"]
    library.delete(["p1"])
    assert library.unsighted("one") == []
    library.start_sightings()
    assert library.unsighted("one") == ["p0", "p2", "p3"]
    assert library.sight("one", {"p2": "d:1"}) == {}


def test_a_failed_sighting_leaves_the_library_usable(library: Library) -> None:
    with pytest.raises(SemsearchError, match="no such table"):
        library.sight("one", {"p1": "a:1"})
    add(library, [make_paper(1)])
    assert library.last_seq() == 1


ORIGINS = ("one", "two", "three")
_ids = st.lists(st.sampled_from([f"p{number}" for number in range(5)]), max_size=4, unique=True)
_step = st.one_of(
    st.tuples(st.just("add"), _ids, st.sampled_from(ORIGINS), st.integers(0, 3)),
    st.tuples(st.just("delete"), _ids, st.sampled_from((*ORIGINS, None)), st.just(0)),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(_step, max_size=12), split=st.integers(0, 40))
def test_what_is_live_agrees_with_the_oracle(tmp_path: Path, steps: list[Any], split: int) -> None:
    oracle = Oracle()
    shutil.rmtree(tmp_path / "index", ignore_errors=True)
    with Library.create(tmp_path / "index" / "library.db") as library:
        for kind, ids, origin, words in steps:
            if kind == "add":
                papers = [make_paper(int(paper_id[1:]), words=f"words {words}") for paper_id in ids]
                add(library, papers, origin)
                oracle.add(papers, origin)
            else:
                assert sorted(library.delete(ids, origin)) == sorted(oracle.delete(sorted(ids), origin))
            assert library.last_seq() == len(oracle.changes)
        every = [f"p{number}" for number in range(5)]
        assert library.live_seqs(every) == oracle.live()
        for up_to in range(len(oracle.changes) + 1):
            assert library.all_live_seqs(up_to).tolist() == sorted(oracle.live(up_to).values())
        for origin in ORIGINS:
            said = {paper_id: oracle.last_of(origin, paper_id) for paper_id in every}
            assert library.known_contents(origin, every) == {
                paper_id: content_digest(paper.to_json()) for paper_id, paper in said.items() if paper
            }
        since = min(split, len(oracle.changes))
        touched = {about for about, _, _ in oracle.changes[since:]}
        versions = {
            about: [seq for seq, change in enumerate(oracle.changes, 1) if change[0] == about and change[2]]
            for about in touched
        }
        found = library.touched_after(since, len(oracle.changes))
        assert found == {about: seqs for about, seqs in versions.items() if seqs}
        assert list(library.damage()) == []


# Receipts


def test_a_receipt_is_kept_a_week_at_least(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    assert library.receipt("a") is None, "there is not even a place for them"
    monkeypatch.setattr(time, "time", lambda: 1_000_000 * 86_400.0)
    library.keep_receipt(Receipt("a", b"sent", "answered"))
    assert (library.receipt("a"), library.receipt("b")) == (Receipt("a", b"sent", "answered"), None)
    with pytest.raises(KeyUsedError, match="'a' was used by another request"):
        library.keep_receipt(Receipt("a", b"other", "answered"))
    monkeypatch.setattr(time, "time", lambda: (1_000_000 + 7.99) * 86_400)
    library.keep_receipt(Receipt("b", b"sent", "answered"))
    assert library.receipt("a") == Receipt("a", b"sent", "answered")
    monkeypatch.setattr(time, "time", lambda: (1_000_000 + 9) * 86_400)
    library.keep_receipt(Receipt("c", b"sent", "answered"))
    assert [library.receipt(key) is None for key in "abc"] == [True, False, False]


@pytest.mark.parametrize("change", ["request = x'00'", "answer = 'other'", "day = day + 1", "key = 'b'", "digest = 0"])
def test_a_damaged_receipt_is_refused(path: Path, change: str) -> None:
    with Library.create(path) as library:
        library.keep_receipt(Receipt("a", b"sent", "answered"))
        assert list(library.damage()) == []
    edit(path, f"UPDATE receipts SET {change}")
    with Library.open(path) as library:
        with pytest.raises(LibraryDamageError, match="the receipt of a request fails its digest"):
            library.receipt("b" if "key" in change else "a")
        assert list(library.damage()) == ["the receipt of a request fails its digest"]


def test_what_is_written_in_one_commit_is_there_as_a_whole_or_not_at_all(path: Path, library: Library) -> None:
    number = number_of(library)
    with Library.open(path) as other:
        with library.one_commit():
            add(library, [make_paper(1)])
            library.keep_receipt(Receipt("a", b"", ""))
            assert (library.last_seq(), other.last_seq(), other.receipt("a")) == (1, 0, None)
        assert (other.last_seq(), other.receipt("a")) == (1, Receipt("a", b"", ""))
        with pytest.raises(KeyUsedError), library.one_commit():
            add(library, [make_paper(2)])
            library.keep_receipt(Receipt("a", b"", ""))
        assert (library.last_seq(), other.last_seq()) == (1, 1)
        assert library.missing_texts([text_digest(make_paper(2).text)], number) == {text_digest(make_paper(2).text)}
        add(library, [make_paper(3)])
        assert other.last_seq() == 2


# More than one at a time


def test_two_connections_see_each_others_commits(path: Path, library: Library) -> None:
    with Library.open(path) as other:
        add(library, [make_paper(1)])
        assert other.live_seqs(["p1"]) == {"p1": 1}
        add(other, [make_paper(2)])
        assert library.last_seq() == 2
        assert number_of(library) == number_of(other)


def test_a_library_gets_its_name_when_it_is_whole(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(made: Path, name: Path) -> None:
        assert made.read_bytes()[:15] == b"SQLite format 3"
        raise OSError(errno.EIO, "the power is cut")

    with monkeypatch.context() as patch:
        patch.setattr(room, "name_file", fail)
        with pytest.raises(OSError, match="the power is cut"):
            Library.create(path)
    assert list(path.parent.iterdir()) == []
    Library.create(path).close()
    assert list(path.parent.iterdir()) == [path]


def test_a_log_without_its_library_is_not_put_into_a_new_one(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    log = path.with_name(f"{path.name}-wal")
    log.write_bytes(b"papers")
    with pytest.raises(IndexMissingError, match="is missing although its log is there"):
        Library.create(path)
    assert log.read_bytes() == b"papers"


def test_two_creators_make_one_library(path: Path) -> None:
    start = threading.Barrier(4)
    made: list[Library] = []

    def create() -> None:
        start.wait(30)
        made.append(Library.create(path))

    threads = [threading.Thread(target=create) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(made) == 4
    for number, library in enumerate(made):
        add(library, [make_paper(number)])
    assert [library.last_seq() for library in made] == [4] * 4
    for library in made:
        library.close()


def test_threads_share_one_library_and_writers_do_not_stop_readers(path: Path, library: Library) -> None:
    failures: list[BaseException] = []
    acknowledged: list[str] = []
    done = threading.Event()

    def write(first: int) -> None:
        for number in range(first, first + 15):
            add(library, [make_paper(number)], f"origin {first}")
            acknowledged.append(f"p{number}")

    def read(shared: Library) -> None:
        while not done.is_set():
            known = list(acknowledged)
            seqs = shared.live_seqs(known)
            assert set(seqs) == set(known)
            last = shared.last_seq()
            versions = shared.versions_at(range(1, last + 1))
            assert [version.paper.paper_id for version in versions.values()] == list(
                shared.ids_at(list(versions)).values()
            )
            assert len(shared.all_live_seqs(last)) == last
            assert [len(block) for _, block in shared.vectors_at(list(versions), 1)] in ([last], [])

    def guarded(work: Callable[[], None]) -> threading.Thread:
        def run() -> None:
            try:
                work()
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    with Library.open(path) as other:
        number_of(library)
        writers = [guarded(lambda first=first: write(first)) for first in (100, 200)]  # type: ignore[misc]
        readers = [guarded(lambda: read(library)), guarded(lambda: read(other))]
        for thread in writers:
            thread.join(120)
        done.set()
        for thread in readers:
            thread.join(120)
    assert failures == []
    assert len(acknowledged) == library.last_seq() == 30


_WRITER = """
import sys
from pathlib import Path
import numpy as np
from semsearch.library import Embedding, Library, text_digest
from semsearch.papers import Paper
library = Library.create(Path(sys.argv[1]))
print("ready", flush=True)
for start in range(library.last_seq(), 1_000_000, 3):
    papers = [Paper(paper_id=f"p{number}", title="", abstract=f"paper {number}") for number in range(start, start + 3)]
    vectors = [np.full(4, number, dtype=np.float32) for number in range(start, start + 3)]
    embeddings = [Embedding(text_digest(paper.text), vector, 1) for paper, vector in zip(papers, vectors)]
    library.add_versions("one", papers, embeddings, 1)
    print(library.last_seq(), flush=True)
"""


def test_a_kill_in_the_middle_of_commits_loses_nothing_acknowledged(path: Path) -> None:
    seed = random.Random(7)
    for _ in range(4):
        with subprocess.Popen([sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
            for _ in range(seed.randrange(1, 12)):
                acknowledged = int(writer.stdout.readline())
            writer.send_signal(signal.SIGKILL)
            rest = writer.stdout.read().splitlines()
            assert writer.wait() == -signal.SIGKILL
        with Library.open(path) as library:
            last = library.last_seq()
            assert last >= max([acknowledged, *(int(line) for line in rest[:-1])])
            assert last % 3 == 0, "a commit is whole or not there"
            assert library.live_seqs([f"p{number}" for number in range(last)]) == {
                f"p{number}": number + 1 for number in range(last)
            }
            stored = [row.tolist() for _, block in library.vectors_at(range(1, last + 1), 1) for row in block]
            assert stored == [[number] * 4 for number in range(last)]
            assert list(library.damage()) == []


# Damage


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE changes SET content = replace(content, 'finding1', 'finding2') WHERE seq = ?",
        "UPDATE changes SET content = CAST(content AS BLOB) WHERE seq = ?",
        "UPDATE changes SET content = NULL WHERE seq = ?",
        "UPDATE changes SET content = CAST(x'FF7B7D' AS TEXT) WHERE seq = ?",
        "UPDATE changes SET content_digest = zeroblob(16) WHERE seq = ?",
        "UPDATE changes SET text_digest = zeroblob(16) WHERE seq = ?",
        "UPDATE changes SET text_digest = NULL WHERE seq = ?",
        "UPDATE changes SET digest = zeroblob(16) WHERE seq = ?",
        "UPDATE changes SET head_digest = 'text' WHERE seq = ?",
        "UPDATE changes SET paper_id = 'p2' WHERE seq = ?",
        "UPDATE changes SET origin = CAST(x'C328' AS TEXT) WHERE seq = ?",
        "UPDATE changes SET kind = 0 WHERE seq = ?",
        "UPDATE changes SET kind = 2 WHERE seq = ?",
        "UPDATE changes SET kind = 'x' WHERE seq = ?",
        "UPDATE changes SET seq = 9 WHERE seq = ?",
        "DELETE FROM changes WHERE seq = ?",
    ],
)
def test_a_damaged_row_is_refused_by_every_reader_and_named(path: Path, statement: str) -> None:
    with Library.create(path) as library:
        add(library, [make_paper(1), make_paper(3)])
    edit(path, statement, 1)
    with Library.open(path) as library:
        for refuses in (lambda: library.versions_at([2, 1]), lambda: vectors_of(library, [2, 1])):
            with pytest.raises(LibraryDamageError, match=r"seq 1\b"):
                refuses()
        assert [version.paper for version in library.versions_at([2]).values()] == [make_paper(3)]
        assert vectors_of(library, [2]) == [vector_of(make_paper(3).text).tolist()]
        assert any("seq 1)" in line or "change 1 is missing" in line for line in library.damage())
        head_is_sound = " content = " in statement or "text_digest" in statement or " SET digest" in statement
        if not head_is_sound:
            with pytest.raises(LibraryDamageError):
                library.all_live_seqs(2)
            with pytest.raises(LibraryDamageError):
                library.touched_after(0, 2)
            with pytest.raises(LibraryDamageError):
                library.ids_at([1, 2])


@pytest.mark.parametrize(
    "change",
    [
        "vector = zeroblob(32)",
        "vector = substr(vector, 1, 28)",
        "vector = 'text'",
        "tokens = tokens + 1",
        "digest = zeroblob(16)",
        "text_digest = zeroblob(16)",
        "encoder = 2",
    ],
)
def test_a_damaged_vector_is_refused_and_named(path: Path, change: str) -> None:
    with Library.create(path) as library:
        add(library, [make_paper(1), make_paper(2)])
    edit(path, f"UPDATE embeddings SET {change} WHERE embedding = ?", 1)
    with Library.open(path) as library:
        with pytest.raises((LibraryDamageError, NotEncodedError), match=r"'p1' \(seq 1\)"):
            vectors_of(library, [1])
        assert vectors_of(library, [2]) == [vector_of(make_paper(2).text).tolist()]
        assert "embedding 1 fails its digest" in list(library.damage())


def test_one_flipped_bit_of_a_vector_is_refused(path: Path) -> None:
    with Library.create(path) as library:
        add(library, [make_paper(1)])
    stored = bytearray(vector_of(make_paper(1).text).astype("<f4").tobytes())
    stored[5] ^= 0x10
    edit(path, "UPDATE embeddings SET vector = ?", bytes(stored))
    with Library.open(path) as library, pytest.raises(LibraryDamageError, match="fails its digest"):
        vectors_of(library, [1])


def test_lost_changes_are_noticed(path: Path, library: Library) -> None:
    add(library, [make_paper(number) for number in range(4)])
    edit(path, "DELETE FROM changes WHERE seq = ?", 2)
    for read in (library.versions_at, library.ids_at):
        with pytest.raises(LibraryDamageError, match="has lost 1 changes that it held, such as seq 2"):
            read([1, 2, 3])
    with pytest.raises(LibraryDamageError, match="has lost some of the changes 1 to 4"):
        library.all_live_seqs(4)
    with pytest.raises(LibraryDamageError, match="has lost some of the changes 2 to 4"):
        library.touched_after(1, 4)
    assert list(library.damage()) == ["change 2 is missing"]


def test_a_change_with_a_huge_number_is_told_in_a_line(tmp_path: Path) -> None:
    path = tmp_path / "library.db"
    with Library.create(path) as library:
        add(library, [make_paper(number) for number in range(1, 5)])
    edit(path, "UPDATE changes SET seq = ? WHERE seq = 4", 2**62)
    with Library.open(path) as library:
        lines = list(library.damage())
    assert lines[0] == f"changes 4 to {2**62 - 1} are missing"
    assert len(lines) == 2 and f"seq {2**62}" in lines[1]


def _reads(library: Library, changes: int) -> dict[str, Callable[[], Any]]:
    every = [f"p{number}" for number in range(40)]
    versions = list(range(1, 53))
    return {
        "versions_at": lambda: library.versions_at(versions),
        "vectors_at": lambda: vectors_of(library, versions),
        "ids_at": lambda: library.ids_at(range(1, changes + 1)),
        "all_live_seqs": lambda: library.all_live_seqs(changes).tolist(),
        "touched_after": lambda: library.touched_after(0, changes),
        "live_seqs": lambda: library.live_seqs(every),
        "known_contents": lambda: library.known_contents("one", every),
        "versions_of": lambda: [library.versions_of(paper_id) for paper_id in every],
        "last_seq": library.last_seq,
        "counts": library.counts,
    }


def test_no_flipped_bit_anywhere_in_the_file_is_silent(tmp_path: Path) -> None:
    sound = tmp_path / "sound.db"
    with Library.create(sound) as library:
        add(library, [make_paper(number, words=f"word {number} ÄÖÜ " * 12) for number in range(40)])
        add(library, [make_paper(number, words=f"changed {number} " * 9) for number in range(0, 36, 3)])
        library.delete([f"p{number}" for number in range(0, 40, 7)])
        changes = library.last_seq()
        assert changes == 58
        truth = {name: read() for name, read in _reads(library, changes).items()}
    data = sound.read_bytes()
    seed = random.Random(20)
    refused = differing = 0
    by_key = {"live_seqs", "known_contents", "versions_of"}  # a damaged key can hide a row from a search for that key
    for number in range(200):
        damaged = bytearray(data)
        position = seed.randrange(len(data))
        damaged[position] ^= 1 << seed.randrange(8)
        path = tmp_path / f"{number}.db"
        path.write_bytes(damaged)
        try:
            with Library.open(path) as library:
                silent = set()
                for name, read in _reads(library, changes).items():
                    try:
                        if read() != truth[name]:
                            silent.add(name)
                    except SemsearchError:
                        refused += 1
                assert silent <= by_key, (position, silent)
                if silent:
                    differing += 1
                    assert list(library.damage()), position
        except SemsearchError:
            refused += 1
        path.unlink()
    assert refused > 50
    assert differing < 10


def test_a_schema_that_is_no_text_any_more_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "library.db"
    with Library.create(path) as library:
        add(library, [make_paper(1)])
    data = path.read_bytes()
    assert data.count(b"tableencodersencoders") == 1
    path.write_bytes(data.replace(b"tableencodersencoders", b"tableencod\xe5rsencoders"))
    with pytest.raises(LibraryDamageError, match="restore it from a backup"):
        Library.open(path)


@pytest.mark.parametrize("cut", [0, 100, 4_096, 10_000, -4_096, -1])
def test_a_truncated_library_is_not_read(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "library.db"
    with Library.create(path) as library:
        add(library, [make_paper(number, words=f"word {number} " * 50) for number in range(30)])
    data = path.read_bytes()
    path.write_bytes(data[:cut])
    with pytest.raises(LibraryDamageError), Library.open(path) as library:
        assert list(library.damage())
        library.versions_at(range(1, 31))
        vectors_of(library, list(range(1, 31)))


# Purge


def _bytes_of(path: Path) -> bytes:
    return b"".join(file.read_bytes() for file in path.parent.iterdir())


@pytest.mark.parametrize("chosen", [42, 55])  # with these, deleting alone leaves copies behind in half-empty pages
def test_a_purge_leaves_neither_text_nor_vector_in_any_file(path: Path, chosen: int) -> None:
    seed = random.Random(chosen)
    secrets: dict[str, list[bytes]] = {}
    purged: set[str] = set()
    with Library.create(path) as library:
        for _ in range(4):
            papers = []
            for number in range(len(secrets), len(secrets) + 30):
                paper = make_paper(number, words=f"<secret {number:04d}> " + "filling " * seed.randrange(1, 500))
                secrets[paper.paper_id] = [f"<secret {number:04d}>".encode(), vector_of(paper.text).tobytes()]
                papers.append(paper)
            add(library, papers)
            alive = sorted(set(secrets) - purged)
            gone = seed.sample(alive, min(len(alive), seed.randrange(1, 28)))
            library.delete(gone)
            assert library.purge(gone) == len(gone)
            purged |= set(gone)
            content = _bytes_of(path)
            for paper_id, (text, vector) in secrets.items():
                assert (text in content, vector in content) == ((paper_id not in purged,) * 2), paper_id
        assert list(library.damage()) == []
        last = library.last_seq()
        assert len(library.all_live_seqs(last)) == len(secrets) - len(purged)
        assert len(library.versions_at(library.all_live_seqs(last).tolist())) == len(secrets) - len(purged)


def test_a_purge_keeps_what_others_share_and_the_numbers(library: Library) -> None:
    twin, other = make_paper(1, title="T", words="same"), make_paper(2, title="T", words="same")
    add(library, [twin, other, make_paper(3)])
    add(library, [make_paper(3, words="a second version")], "two")
    library.delete(["p1", "p3"])
    assert library.purge(["p1", "p3"]) == 3
    assert library.last_seq() == 7
    assert library.versions_at([1, 2, 3, 4]).keys() == {2}
    assert vectors_of(library, [2]) == [vector_of(other.text).tolist()]
    assert library.counts() == LibraryCounts(changes=7, embeddings=1)
    assert library.known_contents("one", ["p1"]) == {}
    assert library.purge(["p1", "p3"]) == 0
    add(library, [twin])
    assert library.live_seqs(["p1"]) == {"p1": 8}
    assert list(library.damage()) == []


def test_a_live_paper_is_not_purged(library: Library) -> None:
    add(library, [make_paper(1), make_paper(2)])
    library.delete(["p1"])
    with pytest.raises(SemsearchError, match="1 of these papers are live, such as 'p2'; delete them first"):
        library.purge(["p1", "p2"])
    assert library.versions_at([1, 2]).keys() == {1, 2}
    add(library, [make_paper(1)], "two")
    library.delete(["p1"], "one")
    with pytest.raises(SemsearchError, match="delete them first"):
        library.purge(["p1"])


def test_a_purge_while_another_reads_says_so_and_is_finished_later(path: Path, library: Library) -> None:
    add(library, [make_paper(1, words="<secret>")])
    library.delete(["p1"])
    library._connection.execute("PRAGMA busy_timeout = 50")
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM changes").fetchone()
    with pytest.raises(SemsearchError, match="another process reads the library"):
        library.purge(["p1"])
    reader.execute("COMMIT")
    reader.close()
    assert library.purge(["p1"]) == 0
    assert b"<secret>" not in _bytes_of(path)


# Files that are none


def test_a_missing_file_is_not_made_by_opening(path: Path) -> None:
    with pytest.raises(IndexMissingError, match=r"create one with: semsearch index --index .* FILE"):
        Library.open(path)
    assert not path.exists()


@pytest.mark.parametrize("content", [b"", b"not a database at all, but long enough to have a header " * 9, b"SQLite"])
def test_another_kind_of_file_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "library.db"
    path.write_bytes(content)
    with pytest.raises(LibraryDamageError, match=r"library\.db"):
        Library.open(path)
    assert path.read_bytes() == content
    assert [file.name for file in tmp_path.iterdir()] == ["library.db"]


def test_another_programs_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "library.db"
    foreign = sqlite3.connect(path)
    foreign.execute("CREATE TABLE changes (seq INTEGER)")
    foreign.close()
    content = path.read_bytes()
    for refuse in (Library.open, Library.create):
        with pytest.raises(LibraryDamageError, match="is not a semsearch library"):
            refuse(path)
    assert path.read_bytes() == content
    assert [file.name for file in tmp_path.iterdir()] == ["library.db"]


def test_a_newer_format_is_refused(path: Path) -> None:
    Library.create(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 2")
    connection.close()
    for refuse in (Library.open, Library.create):
        with pytest.raises(
            LibraryDamageError, match="has library format 2, this semsearch reads 1; use the semsearch that"
        ):
            refuse(path)


def test_a_folder_is_no_library(tmp_path: Path) -> None:
    (tmp_path / "library.db").mkdir()
    with pytest.raises(
        SemsearchError, match="unable to open database file; even to be read, a library must stand in a folder"
    ):
        Library.create(tmp_path / "library.db")


def test_a_journal_that_cannot_be_had_is_said(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.parent.mkdir()
    real = sqlite3.connect
    monkeypatch.setattr(
        "sqlite3.connect", lambda path, **options: real(":memory:", **options)
    )  # it has no such journal
    with pytest.raises(SemsearchError, match=r"SQLite keeps to 'memory'.*keep the index on a local disk"):
        Library.create(path)


def test_an_unfinished_creation_is_finished(path: Path) -> None:
    path.parent.mkdir()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")  # a creator that was killed at this point leaves an empty database
    connection.close()
    with Library.create(path) as library:
        add(library, [make_paper(1)])
        assert library.last_seq() == 1


def test_a_closed_library_is_not_called_damaged(path: Path) -> None:
    library = Library.create(path)
    library.close()
    with pytest.raises(sqlite3.ProgrammingError, match="closed database"):
        library.last_seq()


# Full disk


def test_a_full_disk_is_said_and_the_library_goes_on_when_there_is_space(library: Library) -> None:
    add(library, [make_paper(number) for number in range(20)])
    pages = library._connection.execute("PRAGMA page_count").fetchone()[0]
    library._connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    big = [make_paper(number, words=f"word {number} " * 300) for number in range(20, 60)]
    for _ in range(2):
        with pytest.raises(DiskFullError, match="the disk is full; free some space and run the same command again"):
            add(library, big)
        assert library.last_seq() == 20
        assert library.counts().embeddings == 20
    library.delete(["p3"])
    library._connection.execute("PRAGMA max_page_count = 1000000")
    add(library, big)
    assert library.all_live_seqs(61).tolist() == [seq for seq in range(1, 62) if seq not in (4, 21)]
    assert list(library.damage()) == []


def test_a_write_error_becomes_one_of_ours(path: Path, library: Library) -> None:
    add(library, [make_paper(1)])
    library._connection.execute("PRAGMA query_only = ON")
    with pytest.raises(
        SemsearchError, match=r"attempt to write a readonly database; .* in a folder that this user can write"
    ):
        add(library, [make_paper(2)])
    library._connection.execute("PRAGMA query_only = OFF")
    add(library, [make_paper(2)])
    assert library.last_seq() == 2


def test_a_commit_is_on_the_disk_and_in_a_log(library: Library) -> None:
    pragma = {
        name: library._connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")
    }
    assert pragma == {"journal_mode": "wal", "synchronous": 2}


def test_a_change_is_told_from_another_of_its_number(tmp_path: Path) -> None:
    one, other = Shelf(tmp_path / "one"), Shelf(tmp_path / "other")
    one.add([make_paper(1), make_paper(2)])
    other.add([make_paper(1), make_paper(2, words="changed")])
    names = [one.library.change_name(seq) for seq in (0, 1, 2)]
    assert names[0] == ""
    assert [one.library.is_change(seq, names[seq]) for seq in (0, 1, 2)] == [True, True, True]
    assert [other.library.is_change(seq, names[seq]) for seq in (0, 1, 2)] == [True, True, False]
    assert not one.library.is_change(3, names[2])
    assert not one.library.is_change(2, "")
    one.delete(["p2"])
    one.library.purge(["p2"])
    assert one.library.is_change(2, names[2])
    one.library.close()
    other.library.close()
