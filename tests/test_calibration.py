"""int8 on request: a vector space of its own, whose network stays with the index."""

import shutil
from pathlib import Path

import pytest
from conftest import SAMPLES, make_paper, write_jsonl

from semsearch.encoders import ModelFolder, find_model
from semsearch.errors import EncoderError
from semsearch.generation import IndexFolder
from semsearch.reindex import imports_of, update_index
from semsearch.search import Searcher


def test_int8_is_calibrated_once_and_stays_with_the_index(tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    index = tmp_path / "index"
    source = tmp_path / "some.jsonl"
    source.write_text("".join((SAMPLES / "computing.jsonl").read_text().splitlines(keepends=True)[:40]))
    first = update_index(index, imports_of([source]), precision="int8")
    assert (first.papers, first.encoded) == (40, 40)
    again = update_index(index, imports_of([source]))
    assert (again.encoded, again.generation) == (0, first.generation), "without a word, it stays in int8"
    moved = Path(shutil.move(index, tmp_path / "elsewhere"))
    with Searcher.open(moved) as searcher:
        answer = searcher.search("how do servers agree on one sequence of commands")
        assert answer.model == "all-MiniLM-L6-v2@int8"
        assert "Consensus" in answer.hits[0].paper.title
        fingerprint = searcher.encoder.spec.fingerprint
    assert fingerprint != ModelFolder.find().spec.fingerprint
    networks = IndexFolder(moved).networks
    (network,) = networks.iterdir()
    damaged = bytearray((network / "network.bin").read_bytes())
    damaged[1_000] ^= 1
    (network / "network.bin").write_bytes(damaged)
    with pytest.raises(EncoderError, match=r"is damaged.*network\.bin fails its digest.*--precision float32"):
        find_model("all-MiniLM-L6-v2@int8", networks)


def test_too_few_papers_are_refused_with_a_way_out(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "few.jsonl", [make_paper(number) for number in range(5)])
    with pytest.raises(EncoderError, match="at least 30 papers, and here are 5; leave --precision out"):
        update_index(tmp_path / "index", imports_of([source]), precision="int8")


def test_a_missing_network_is_told(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=r"is missing; restore it from a backup"):
        find_model("all-MiniLM-L6-v2@int8", tmp_path / "networks")
