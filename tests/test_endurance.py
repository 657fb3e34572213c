"""What the measurements of endurance compute."""

import os
import random
import subprocess
from pathlib import Path

import pytest
from benchmark_soak import Seen, Texts, disk_bytes, family, figures, of_process, quarters, slope

from semsearch.generation import IndexFolder


def samples(*values: float) -> list[dict[str, float]]:
    """Return a sample every six minutes."""
    return [{"seconds": 360.0 * number, "threads": value} for number, value in enumerate(values)]


def test_a_steady_growth_is_told_by_the_hour() -> None:
    assert slope(samples(*range(20)), "threads") == {"slope": 10.0, "low": 10.0, "high": 10.0}
    assert slope(samples(*[7.0] * 20), "threads") == {"slope": 0.0, "low": 0.0, "high": 0.0}


def test_the_interval_of_a_slope_holds_what_is_true_nearly_always() -> None:
    chance = random.Random(1)
    held = 0
    for _ in range(200):
        found = slope(samples(*[2.0 * number + chance.gauss(0, 5) for number in range(60)]), "threads")
        held += found["low"] <= 20.0 <= found["high"]
    assert 180 <= held <= 199


def test_the_interval_of_a_slope_by_hand() -> None:
    found = slope([{"seconds": 3600.0 * hour, "files": value} for hour, value in enumerate([0, 0, 3, 1])], "files")
    assert found["slope"] == 0.6
    # residuals -0.1, -0.7, 1.7, -0.9: squares 4.2; error sqrt(4.2 / 2 / 5)
    assert found["high"] - found["slope"] == pytest.approx(1.96 * 0.648, abs=0.06)


def test_what_comes_in_the_warm_up_is_left_out(tmp_path: Path) -> None:
    seen = Seen(1, IndexFolder(tmp_path))
    seen.waits["search"] = [(float(second), 9.0 if second < 100 else 0.001 * second) for second in range(300)]
    first, last = quarters(seen, 100).values()
    assert first["number"] == last["number"] == 50
    assert first["p50_ms"] == pytest.approx(124.5)
    assert last["p50_ms"] == pytest.approx(274.5)


def test_everything_unexpected_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen = Seen(1, IndexFolder(tmp_path))
    names = ("anonymous_bytes", "rss_bytes", "proportional_bytes", "open_files", "threads", "generations")
    seen.samples = [dict.fromkeys(names, 1.0) | {"seconds": 10.0 * number, "disk_bytes": 2e6} for number in range(90)]
    seen.note("search", "200", 0.5)
    seen.complain("search: 500")
    found = figures(seen, 60)
    assert (found["requests"], found["unexpected_answers"], found["measured_minutes"]) == (2, 1, 13.8)
    assert found["what_was_unexpected"] == ["after 0 s: search: 500"]
    assert found["growth_per_hour"]["open_files"]["slope"] == 0
    assert [sample["minute"] for sample in found["every_5_minutes"]] == [0, 5, 10]
    assert found["every_5_minutes"][0]["disk_mb"] == 2
    assert "search: 500" in capsys.readouterr().err


def test_no_text_comes_twice() -> None:
    texts = Texts(1)
    questions = [texts.question() for _ in range(200)]
    abstracts = [texts.paper("a")["abstract"] for _ in range(200)]
    assert len({*questions, *abstracts}) == 400


def test_files_with_several_names_are_counted_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(100_000))
    before = disk_bytes(tmp_path)
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    assert disk_bytes(tmp_path) == before >= 100_000


def test_a_process_and_what_it_started_are_looked_at() -> None:
    with subprocess.Popen(["sleep", "20"]) as child:
        assert {os.getpid(), child.pid} <= set(family(os.getpid()))
        found = of_process(child.pid)
        child.kill()
    assert found["threads"] == found["processes"] == 1
    assert found["rss_bytes"] >= found["anonymous_bytes"] > 0
    assert of_process(child.pid) == {}
    assert family(child.pid) == []
