import json
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import FakeEncoder
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from storage import Oracle, memory_folder

from semsearch import additions as room
from semsearch.additions import Addition, Additions, Entry, Report, encode_strays
from semsearch.encoders import EncoderSpec, Tokenised
from semsearch.errors import AdditionsFullError, EncoderError, KeyUsedError, NotEncodedError, PaperNotFoundError
from semsearch.library import Library, text_digest
from semsearch.readers.fields import ABSTRACT_NAMES

SPEC = EncoderSpec("fake", "f" * 64, 16, 12)
OTHER_SPEC = EncoderSpec("other", "e" * 64, 8, 12)
SECONDS = 20


class Gate:
    """Holds whoever passes until it is opened; `reached` tells that somebody did."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.open = threading.Event()

    def passed(self) -> None:
        self.reached.set()
        assert self.open.wait(SECONDS)


class HeldEncoder(FakeEncoder):
    """Encodes only when it is let."""

    def __init__(self, gate: Gate) -> None:
        super().__init__(SPEC)
        self._gate = gate

    def encode_passages(self, passages: Sequence[Tokenised]) -> NDArray[np.float32]:
        self._gate.passed()
        return super().encode_passages(passages)


@contextmanager
def writer(
    path: Path, encoder: FakeEncoder | None = None, on_commit: Callable[[], None] = lambda: None
) -> Iterator[Additions]:
    Library.create(path).close()
    used = encoder or FakeEncoder(SPEC)
    additions = Additions(path, lambda: used, on_commit)
    additions.start()
    try:
        yield additions
    finally:
        additions.stop(SECONDS)


def record(number: int, words: str = "", **fields: object) -> dict[str, Any]:
    return {"id": f"p{number}", "title": f"Paper {number}", "abstract": words or f"finding{number}"} | fields


def reading(*records: dict[str, Any], origin: str = "api", key: str | None = None) -> Addition:
    return Addition.read(origin, records, key)


def told(additions: Additions, *records: dict[str, Any], origin: str = "api", key: str | None = None) -> Report:
    return additions.add(reading(*records, origin=origin, key=key)).result(SECONDS)


def outcomes(report: Report) -> list[str]:
    return [entry.outcome for entry in report.entries]


def live_ids(path: Path) -> list[str]:
    with Library.open(path) as library:
        seqs = library.all_live_seqs(library.last_seq()).tolist()
        return sorted(library.ids_at(seqs).values())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "library.db"


# What is said of each paper


def test_each_paper_is_new_changed_unchanged_or_refused(path: Path) -> None:
    with writer(path) as additions:
        assert outcomes(told(additions, record(1), record(2))) == ["new", "new"]
        report = told(additions, record(2), record(1, "other words"), record(3), {"id": "p4"}, record(3, "again"))
        assert report.entries == (
            Entry("unchanged", "p2"),
            Entry("changed", "p1"),
            Entry("new", "p3"),
            Entry(
                "refused",
                "p4",
                reason=f"the record has no abstract, or a blank one (looked for: {ABSTRACT_NAMES})",
            ),
            Entry("refused", "p3", reason="this id stands at position 2 already"),
        )
        assert report.counts == {"unchanged": 1, "changed": 1, "new": 1, "refused": 2}
        assert Report.from_json(report.to_json()) == report
    with Library.open(path) as library:
        assert library.last_seq() == 4
        papers = [version.paper for version in library.versions_at([1, 2, 3, 4]).values()]
    assert [(paper.paper_id, paper.abstract, paper.source) for paper in papers] == [
        ("p1", "finding1", "api"),
        ("p2", "finding2", "api"),
        ("p1", "other words", "api"),
        ("p3", "finding3", "api"),
    ]


def test_each_origin_has_its_own_word(path: Path) -> None:
    with writer(path) as additions:
        assert outcomes(told(additions, record(1), origin="one")) == ["new"]
        assert outcomes(told(additions, record(1), origin="two")) == ["new"]
        assert outcomes(told(additions, record(1), origin="one")) == ["unchanged"]


def test_a_paper_that_was_deleted_is_new_again(path: Path) -> None:
    with writer(path) as additions:
        told(additions, record(1))
        assert additions.delete("p1").result(SECONDS) == 2
        assert live_ids(path) == []
        assert outcomes(told(additions, record(1))) == ["new"]
        assert live_ids(path) == ["p1"]


def test_a_text_that_the_encoder_cuts_is_told_whether_or_not_it_is_encoded_now(path: Path) -> None:
    long = record(1, " ".join(f"word{number}" for number in range(20)))
    with writer(path) as additions:
        for _ in range(2):
            report = told(additions, long, record(2))
            assert [entry.truncated for entry in report.entries] == [True, False]


def test_a_version_and_its_vector_are_there_when_it_is_told(path: Path) -> None:
    encoder = FakeEncoder(SPEC)
    with writer(path, encoder) as additions:
        told(additions, record(1), record(2), record(3, "finding1", title="Paper 1"))
        with Library.open(path) as library:
            ((seqs, vectors),) = library.vectors_at([1, 2, 3], library.encoder_number(SPEC.fingerprint, SPEC.name))
    assert seqs.tolist() == [1, 2, 3]
    np.testing.assert_array_equal(vectors[0], vectors[2])
    assert sorted(text for batch in encoder.passages for text in batch) == ["Paper 1 finding1", "Paper 2 finding2"]


# Groups


def test_what_waits_is_encoded_and_committed_together(path: Path) -> None:
    gate, commits = Gate(), []
    encoder = HeldEncoder(gate)
    with writer(path, encoder, lambda: commits.append(len(live_ids(path)))) as additions:
        first = additions.add(reading(record(0)))
        assert gate.reached.wait(SECONDS)
        others = [additions.add(reading(record(number), record(number, "again"))) for number in range(1, 51)]
        assert not first.done()
        assert live_ids(path) == []
        gate.open.set()
        reports = [first.result(SECONDS), *(other.result(SECONDS) for other in others)]
    assert {entry.id for report in reports for entry in report.entries} == {f"p{number}" for number in range(51)}
    assert commits == [1, 51], "told when it was committed"
    assert len(encoder.passages) == 2


def test_one_paper_from_several_requests_of_a_group_goes_through_all_its_versions(path: Path) -> None:
    gate = Gate()
    with writer(path, HeldEncoder(gate)) as additions:
        additions.add(reading(record(0)))
        assert gate.reached.wait(SECONDS)
        words = ["one", "two", "two", "one"]
        waiting = [additions.add(reading(record(1, each))) for each in words]
        gate.open.set()
        assert [outcomes(each.result(SECONDS)) for each in waiting] == [
            ["new"],
            ["changed"],
            ["unchanged"],
            ["changed"],
        ]
    with Library.open(path) as library:
        assert [version.paper.abstract for version in library.versions_at([2, 3, 4]).values()] == ["one", "two", "one"]


def test_order_is_kept_around_a_deletion(path: Path) -> None:
    gate = Gate()
    with writer(path, HeldEncoder(gate)) as additions:
        additions.add(reading(record(0)))
        assert gate.reached.wait(SECONDS)
        futures: list[Future[Any]] = [
            additions.add(reading(record(1))),
            additions.delete("p1"),
            additions.delete("p0"),
            additions.add(reading(record(1, "back"))),
        ]
        gate.open.set()
        for future in futures:
            future.result(SECONDS)
    assert live_ids(path) == ["p1"]


def test_too_many_papers_are_not_taken(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MOST_WAITING", 5)
    gate = Gate()
    with writer(path, HeldEncoder(gate)) as additions:
        first = additions.add(reading(record(0)))
        assert gate.reached.wait(SECONDS)
        waiting: list[Future[Any]] = [
            additions.add(reading(*(record(number) for number in range(1, 4)))),
            additions.delete("p0"),
        ]
        with pytest.raises(AdditionsFullError, match="too many papers wait"):
            additions.add(reading(record(5), record(6)))
        last = additions.add(reading(record(5)))
        with pytest.raises(AdditionsFullError):
            additions.delete("p1")
        gate.open.set()
        for future in (first, *waiting, last):
            future.result(SECONDS)
        told(additions, record(5), record(6))


def test_a_text_that_cannot_be_encoded_takes_no_other_with_it(path: Path) -> None:
    gate = Gate()

    class Choosy(HeldEncoder):
        def encode_passages(self, passages: Sequence[Tokenised]) -> NDArray[np.float32]:
            vectors = super().encode_passages(passages)
            vectors[["poison" in passage.text for passage in passages]] = np.nan
            return vectors

    with writer(path, Choosy(gate)) as additions:
        additions.add(reading(record(0)))
        assert gate.reached.wait(SECONDS)
        good, bad, after = (additions.add(reading(record(*each))) for each in ((1, ""), (2, "poison"), (3, "")))
        gate.open.set()
        assert outcomes(good.result(SECONDS)) == outcomes(after.result(SECONDS)) == ["new"]
        with pytest.raises(EncoderError, match="a vector of length nan"):
            bad.result(SECONDS)
    assert live_ids(path) == ["p0", "p1", "p3"]


def test_a_failure_is_told_and_the_next_is_taken(path: Path) -> None:
    with writer(path) as additions:
        told(additions, record(1))
        away = path.with_name("away")
        path.rename(away)
        with pytest.raises(Exception, match="there is no library"):
            told(additions, record(2))
        away.rename(path)
        assert outcomes(told(additions, record(2))) == ["new"]


def test_what_nobody_waits_for_is_not_done(path: Path) -> None:
    gate = Gate()
    with writer(path, HeldEncoder(gate)) as additions:
        first = additions.add(reading(record(0)))
        assert gate.reached.wait(SECONDS)
        assert additions.add(reading(record(1))).cancel()
        gate.open.set()
        first.result(SECONDS)
        told(additions, record(2))
    assert live_ids(path) == ["p0", "p2"]


def test_what_was_taken_is_finished_at_the_end_and_nothing_more_is_taken(path: Path) -> None:
    gate = Gate()
    with writer(path, HeldEncoder(gate)) as additions:
        taken = [additions.add(reading(record(number))) for number in range(3)]
        gate.open.set()
    assert [outcomes(each.result(0)) for each in taken] == [["new"]] * 3
    with pytest.raises(AdditionsFullError):
        additions.add(reading(record(4)))


# Deletions


def test_a_deletion_takes_the_paper_from_all_origins_whatever_its_spelling(path: Path) -> None:
    with writer(path) as additions:
        for origin in ("one", "two"):
            told(additions, record(1, id="doi:10.1000/ABC"), origin=origin)
        assert additions.delete("https://doi.org/10.1000/abc").result(SECONDS) == 4
        assert live_ids(path) == []
        assert additions.delete("10.1000/abc").result(SECONDS) == 4, "gone already"


@pytest.mark.parametrize("paper_id", ["p2", "no id", "", "x" * 200])
def test_what_never_was_there_cannot_be_deleted(path: Path, paper_id: str) -> None:
    with writer(path) as additions:
        told(additions, record(1))
        with pytest.raises(PaperNotFoundError):
            additions.delete(paper_id).result(SECONDS)


# Keys


def test_a_request_that_is_sent_again_gets_its_first_answer_and_changes_nothing(path: Path) -> None:
    with writer(path) as additions:
        first = told(additions, record(1, "one"), {"id": "bad"}, key="k")
        told(additions, record(1, "two"))
    with writer(path) as additions:  # after a restart as well
        assert told(additions, record(1, "one"), {"id": "bad"}, key="k") == first
        with Library.open(path) as library:
            assert library.last_seq() == 2
        for other in (
            reading(record(1, "one"), key="k"),
            reading(record(1, "one"), {"id": "bad"}, origin="o", key="k"),
        ):
            with pytest.raises(KeyUsedError, match="use a new key"):
                additions.add(other).result(SECONDS)
        assert outcomes(told(additions, record(1, "one"), {"id": "bad"}, key="another")) == ["changed", "refused"]


def test_a_request_may_be_sent_again_before_it_is_answered(path: Path) -> None:
    gate = Gate()
    with writer(path, HeldEncoder(gate)) as additions:
        sent = [additions.add(reading(record(0), key="k")) for _ in range(3)]
        other = additions.add(reading(record(1), key="k"))
        gate.open.set()
        assert [outcomes(each.result(SECONDS)) for each in sent] == [["new"]] * 3
        with pytest.raises(KeyUsedError):
            other.result(SECONDS)
    assert live_ids(path) == ["p0"]


def test_a_request_that_two_services_get_at_once_is_done_by_one(path: Path) -> None:
    gates = Gate(), Gate()
    with writer(path, HeldEncoder(gates[0])) as one, writer(path, HeldEncoder(gates[1])) as two:
        sent = [each.add(reading(record(1), key="k")) for each in (one, two)]
        for gate in gates:
            assert gate.reached.wait(SECONDS), "neither has found a receipt"
        for gate in gates:
            gate.open.set()
        assert sent[0].result(SECONDS) == sent[1].result(SECONDS)
    with Library.open(path) as library:
        assert library.last_seq() == 1


def test_nothing_of_a_request_is_kept_if_its_receipt_cannot_be(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(library: Library, receipt: object) -> None:
        raise OSError("no")

    with writer(path) as additions:
        monkeypatch.setattr(Library, "keep_receipt", fail)
        with pytest.raises(OSError, match="no"):
            told(additions, record(1), key="k")
        monkeypatch.undo()
        with Library.open(path) as library:
            assert (library.last_seq(), library.counts().embeddings) == (0, 0)
        assert outcomes(told(additions, record(1), key="k")) == ["new"]


# Papers of another vector space


def test_what_was_encoded_for_another_model_is_encoded_for_this_one(path: Path) -> None:
    with writer(path, FakeEncoder(OTHER_SPEC)) as additions:
        told(additions, *(record(number) for number in range(5)))
    encoder = FakeEncoder(SPEC)
    with Library.open(path) as library:
        with pytest.raises(NotEncodedError, match="3 papers are not encoded for the model that is served, fake"):
            encode_strays(library, encoder, after=2, most=2)
        assert encoder.passages == []
        encode_strays(library, encoder, after=2, most=3)
        missing = library.missing_texts(
            [text_digest(f"Paper {number} finding{number}") for number in range(5)],
            library.encoder_number(SPEC.fingerprint, SPEC.name),
        )
    assert missing == {text_digest(f"Paper {number} finding{number}") for number in range(2)}


# Against an oracle

_papers = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2)), min_size=1, max_size=4)
_steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), _papers, st.sampled_from(["one", "two"]), st.sampled_from([None, "k", "l"])),
        st.tuples(st.just("delete"), st.integers(0, 5), st.just(""), st.none()),
    ),
    max_size=12,
)


@settings(max_examples=40)
@given(steps=_steps)
def test_any_sequence_leaves_what_the_oracle_says(steps: list[Any]) -> None:
    oracle = Oracle()
    answered: dict[str, tuple[str, Report]] = {}
    with memory_folder() as memory, writer(memory / "library.db") as additions:
        for kind, what, origin, key in steps:
            if kind == "delete":
                known = any(about == f"p{what}" for about, _, _ in oracle.changes)
                try:
                    additions.delete(f"p{what}").result(SECONDS)
                except PaperNotFoundError:
                    assert not known
                else:
                    assert known
                    oracle.delete([f"p{what}"])
                continue
            addition = reading(*(record(number, f"words{words}") for number, words in what), origin=origin, key=key)
            sent = json.dumps([what, origin])
            future = additions.add(addition)
            if key in answered and answered[key][0] != sent:
                with pytest.raises(KeyUsedError):
                    future.result(SECONDS)
                continue
            report = future.result(SECONDS)
            if key in answered:
                assert report == answered[key][1]
                continue
            if key:
                answered[key] = sent, report
            for position, paper in addition.papers.items():
                before = oracle.last_of(origin, paper.paper_id)
                expected = "new" if before is None else "unchanged" if before == paper else "changed"
                assert report.entries[position].outcome == expected
                if expected != "unchanged":
                    oracle.add([paper], origin)
        with Library.open(memory / "library.db") as library:
            assert library.last_seq() == len(oracle.changes)
            assert library.live_seqs([f"p{number}" for number in range(6)]) == oracle.live()
            number = library.encoder_number(SPEC.fingerprint, SPEC.name)
            assert library.unencoded_seqs(number, 0, library.last_seq()).size == 0
