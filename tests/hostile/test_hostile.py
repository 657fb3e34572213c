"""A little of what `scripts/hostile.py` and `scripts/fuzz.py` do for hours, and that both would notice."""

import random
from pathlib import Path

import content
import corpus
import fuzz
import hostile
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from targets import TARGETS

from semsearch.service import html


def test_an_index_answers_as_a_plain_one_does_after_any_steps() -> None:
    result = hostile.model(250, seed=7, control="none")
    assert result.failures == 0, result.examples
    assert result.trials >= 250


def test_a_wrong_answer_would_be_noticed_by_the_plain_index() -> None:
    assert hostile.model(150, seed=1, control="filters off").failures


def test_every_route_answers_what_is_documented_and_nothing_else() -> None:
    result = hostile.requests(600, seed=7, control="none")
    assert (result.trials, result.failures) == (600, 0), result.examples
    assert set(result.counts) == {route.name for route in corpus.ROUTES}


def test_an_answer_that_is_not_documented_would_be_noticed() -> None:
    assert hostile.requests(400, seed=7, control="JSON as Python reads it").failures


@pytest.mark.parametrize("route", corpus.ROUTES, ids=lambda route: route.name)
def test_every_route_has_its_hundreds_of_cases(route: corpus.Route) -> None:
    cases = list(corpus.cases(route))
    assert len(cases) >= 400
    assert len({(case.name, case.parts) for case in cases}) > 0.95 * len(cases)


def test_hostile_papers_are_shown_as_text_or_refused() -> None:
    assert len(content.TEXTS) >= 300
    dice = random.Random(7)
    tried = list(
        content.tried(dice, [*dice.sample(content.TEXTS, 40), *content.composed(dice, 20)], lambda *told: None)
    )
    assert len(tried) > 60
    assert [each for each in tried if each[1]] == []


def test_markup_that_came_through_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html, "_environment", html._environment.overlay(autoescape=False))
    tried = content.tried(random.Random(7), ["<b onclick=x>"] * 9, lambda *told: None)
    assert [wrong for _, wrong in tried if wrong]


@pytest.mark.parametrize("name", TARGETS)
def test_a_fuzzing_target_stands_what_it_begins_with(name: str) -> None:
    target = TARGETS[name]
    for seed in target.seeds:
        for data in (seed, seed[: len(seed) // 2], seed[::-1], seed * 2, seed.replace(b'"', b"'")):
            target.run(data)


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_bytes_break_a_reader_or_a_parser(name: str, data: st.DataObject) -> None:
    seeds = st.sampled_from(TARGETS[name].seeds)
    cuts = st.tuples(seeds, st.integers(0, 400), st.binary(max_size=20), st.integers(0, 20))
    mutated = cuts.map(lambda cut: cut[0][: cut[1]] + cut[2] + cut[0][cut[1] + cut[3] :])
    TARGETS[name].run(data.draw(st.one_of(st.binary(max_size=200), mutated)))


def test_figures_say_what_was_tried_and_what_went_wrong() -> None:
    batches = [
        {"what": "model", "control": "none", "seed": 2, "trials": 2_000, "failures": 0},
        {"what": "model", "control": "none", "seed": 1, "trials": 1_000, "failures": 0},
        {"what": "requests", "control": "none", "seed": 1, "trials": 500, "failures": 2},
        {"what": "model", "control": "filters off", "seed": 1, "trials": 300, "failures": 7},
        {"what": "fuzzing", "case": "csv", "seed": 1, "trials": 10, "failures": 0, "slowest_ms": "under 50"}
        | {"peak_memory_mb": 90},
        {
            "what": "fuzzing",
            "case": "csv",
            "seed": 2,
            "trials": 20,
            "failures": 1,
            "slowest_ms": 70,
            "peak_memory_mb": 80,
        },
    ]
    told = hostile.tables(batches).splitlines()
    assert "| steps of an index, compared with a plain one | 3,000 | 0 | 0.1% | 1, 2 |" in told
    assert "| requests that only a socket can send | 500 | 2 |  | 1 |" in told
    assert "| steps of an index, compared with a plain one | filters off | 300 | 7 |" in told
    assert "| csv | 30 | 1 | 70 | 90 |" in told


def test_a_target_that_raises_is_told_and_goes_on(tmp_path: Path) -> None:
    def broken(data: bytes) -> None:
        raise KeyError(data)

    watch = fuzz.Watch(broken, tmp_path)
    watch(b"a")
    watch(b"b")
    assert "KeyError in test_hostile.py" in (tmp_path / "broken").read_text()
    assert len(list(tmp_path.glob("broken-*"))) == 1


def test_what_is_no_character_is_replaced_on_a_page_and_kept_in_json() -> None:
    texts = [f"no{character}character" for character in "\ufdd0\ufffe\uffff\U0001fffe\U0010ffff"] * 3
    tried = list(content.tried(random.Random(1), texts, lambda *told: None))
    assert [each for each in tried if each[1]] == []
    typed: dict[str, object] = {"q": "", "mode": "", "collapse": "work", **{name: [] for name in html.FILTER_LABELS}}
    page = bytes(html.render("error.html", 404, messages=["A\ufffeb"], asked=typed).body).decode()
    assert "A\ufffdb" in page
    assert "\ufffe" not in page
