"""What is served is read again and again; a file that has changed answers no more."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from storage import files_below
from test_service import PAPERS, body_of, eventually, publish, service, state
from test_service_metrics import value

from semsearch.errors import GenerationDamageError, NoGenerationError
from semsearch.generation import Generation, IndexFolder, open_current, open_generation, opening
from semsearch.service.scrub import Scrub

_VECTORS = "segments/000001/vectors.faiss"


@pytest.fixture
def folder(tmp_path: Path) -> IndexFolder:
    publish(tmp_path / "index", PAPERS[:10])
    return IndexFolder(tmp_path / "index")


def flip(file: Path, place: int = -5) -> None:
    """Change a bit in place, beneath whoever has the file mapped."""
    with file.open("r+b", buffering=0) as opened:
        opened.seek(place, 2 if place < 0 else 0)
        byte = opened.read(1)[0]
        opened.seek(place, 2 if place < 0 else 0)
        opened.write(bytes([byte ^ 1]))


class Told:
    """What a scrub told of damage."""

    def __init__(self) -> None:
        self.damaged: list[Generation] = []

    def __call__(self, generation: Generation) -> None:
        self.damaged.append(generation)


@pytest.fixture
def told() -> Told:
    return Told()


def test_a_file_that_changes_while_it_is_served_is_replaced(
    folder: IndexFolder, caplog: pytest.LogCaptureFixture
) -> None:
    with service(folder.path, scrub_seconds=0.05) as client:
        before = body_of(client.get("/search?q=subject3"))
        cursor = client.get("/search?q=subject3&limit=2").json()["meta"]["next_cursor"]
        flip(folder.generation(1) / _VECTORS)
        eventually(lambda: client.get("/stats").json().get("generation") == 2)
        assert state(client) == (200, "none")
        after = body_of(client.get("/search?q=subject3"))
        assert client.get(f"/search?q=subject3&limit=2&cursor={cursor}").status_code == 410
        assert value(client, "semsearch_scrub_damaged_files_total") == 1
        assert value(client, "semsearch_scrub_bytes_total") > 0
        assert value(client, "semsearch_unread_bytes") == 0
    assert [hit["paper"]["id"] for hit in after["results"]] == [hit["paper"]["id"] for hit in before["results"]]
    assert f"generation 1 in {folder.path} is damaged while it is served: {_VECTORS} fails its digest" in caplog.text
    assert [each.name[:6] for each in folder.quarantine.iterdir()] == ["000001"]


def test_nothing_answers_while_what_changed_cannot_be_replaced(
    folder: IndexFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_open = threading.Event()
    may_open.set()
    monkeypatch.setattr(opening, "digest_differs", lambda path, record: None if may_open.wait(20) else "never")
    with service(folder.path, scrub_seconds=0.05) as client:
        may_open.clear()
        flip(folder.generation(1) / "tombstones.npy")
        eventually(lambda: state(client) == (503, "damaged"))
        assert client.get("/search?q=subject3").status_code == 503
        assert value(client, "semsearch_ready") == 0
        monkeypatch.undo()  # what waits finds no damage, and so this file is served once more until it is read again
        may_open.set()
        eventually(lambda: state(client) == (200, "none"))


def test_what_is_sound_is_left_alone(folder: IndexFolder, told: Told) -> None:
    scrub = Scrub(folder, told, round_seconds=0.02)
    scrub.start()
    scrub.follow(open_current(folder))
    eventually(lambda: scrub.bytes_read > 3 * sum(map(len, files_below(folder.generation(1)).values())))
    scrub.stop()
    assert not told.damaged
    assert scrub.damaged == 0


def test_a_generation_that_was_removed_is_not_called_damaged(folder: IndexFolder, told: Told) -> None:
    scrub = Scrub(folder, told, round_seconds=0.02)
    scrub.follow(open_current(folder))
    folder.generation(1).rename(folder.path / "elsewhere")
    scrub.start()
    time.sleep(0.2)
    scrub.stop()
    assert not told.damaged


def test_a_missing_file_is_damage(folder: IndexFolder, told: Told) -> None:
    scrub = Scrub(folder, told, round_seconds=0.02)
    opened = open_current(folder)
    scrub.follow(opened)
    (folder.generation(1) / "works.npy").unlink()
    scrub.start()
    eventually(lambda: told.damaged == [opened])
    scrub.stop()


def test_the_manifest_is_read_as_well(folder: IndexFolder, told: Told) -> None:
    scrub = Scrub(folder, told, round_seconds=0.02)
    scrub.follow(open_current(folder))
    flip(folder.generation(1) / "manifest.json")
    scrub.start()
    eventually(lambda: told.damaged)
    scrub.stop()


def test_files_of_the_generation_before_count_as_read_when_they_were(folder: IndexFolder, told: Told) -> None:
    scrub = Scrub(folder, told, round_seconds=1_000)
    first = open_current(folder)
    first.unread = frozenset(first.manifest.files)
    scrub.follow(first)
    unread = scrub.unread_bytes
    assert unread == sum(record.bytes for record in first.manifest.files.values())
    publish(folder.path, PAPERS[10:12])
    second = open_current(folder, first)
    scrub.follow(second)
    shared = set(first.manifest.files.items()) & set(second.manifest.files.items())
    assert scrub.unread_bytes == sum(record.bytes for _, record in shared)
    assert 0 < scrub.unread_bytes < unread
    scrub.start()
    eventually(lambda: scrub.unread_bytes == 0)
    scrub.stop()
    assert not told.damaged


def test_it_keeps_to_its_rate_and_stops_at_once(folder: IndexFolder, told: Told) -> None:
    opened = open_current(folder)
    whole = sum(record.bytes for record in opened.manifest.files.values())
    scrub = Scrub(folder, told, bytes_per_second=whole / 1_000, round_seconds=0)
    scrub.start()
    scrub.follow(opened)
    eventually(lambda: scrub.bytes_read)
    time.sleep(0.2)
    assert scrub.bytes_read < whole / 2, "the first file takes minutes"
    stopping_at = time.monotonic()
    scrub.stop()
    assert time.monotonic() - stopping_at < 1


# Generations too large to be read before the first answer


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "READ_BEFORE_ANSWERING", 1_000)


@pytest.mark.usefixtures("large")
def test_a_large_generation_answers_before_it_is_read(folder: IndexFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    may_read = threading.Event()
    check = Scrub._check

    def late(scrub: Scrub, *arguments: Any) -> None:
        if may_read.wait(0.01):
            check(scrub, *arguments)

    monkeypatch.setattr(Scrub, "_check", late)
    with service(folder.path) as client:
        assert state(client) == (200, "unread")
        assert client.get("/readyz").json()["status"] == "ready"
        assert value(client, "semsearch_unread_bytes") > 1_000
        assert body_of(client.get("/search?q=subject3"))["results"]
        may_read.set()
        eventually(lambda: state(client) == (200, "none"))
        assert value(client, "semsearch_unread_bytes") == 0


@pytest.mark.usefixtures("large")
def test_damage_of_a_large_generation_is_found_and_replaced(folder: IndexFolder) -> None:
    flip(folder.generation(1) / _VECTORS)
    with service(folder.path) as client:
        eventually(lambda: client.get("/stats").json().get("generation") == 2)
        assert state(client) == (200, "none")
    assert [each.name[:6] for each in folder.quarantine.iterdir()] == ["000001"]


@pytest.mark.usefixtures("large")
def test_a_large_generation_of_other_sizes_does_not_open(folder: IndexFolder) -> None:
    file = folder.generation(1) / _VECTORS
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(GenerationDamageError, match=f"{_VECTORS} has .* bytes instead of"):
        open_generation(folder, 1, whole=False)


@pytest.mark.usefixtures("large")
def test_whoever_does_not_serve_reads_all_of_it_first(folder: IndexFolder) -> None:
    flip(folder.generation(1) / _VECTORS)
    with pytest.raises(NoGenerationError, match="fails its digest"):
        open_current(folder)


def test_what_tantivy_panics_over_is_damage(folder: IndexFolder) -> None:
    lexical = open_current(folder).lexical
    (rows,) = (folder.generation(1) / "lexical").glob("*.fast")
    with rows.open("r+b", buffering=0) as changed:
        changed.write(b"\xff" * rows.stat().st_size)
    with pytest.raises(GenerationDamageError, match="its lexical index cannot be read"):
        lexical.example_of("subject3")
