"""What the ablation computes, by hand."""

import numpy as np
import pytest
from ablation_trials import _cross_fitted, _in_deviations, _smoothed
from judged_legs import MEASURES, Candidates, Document, LexicalLeg
from long_texts import CUT, _cut, _pooled, _windows

from semsearch.encoders import Tokenised


def tokens(count: int) -> Tokenised:
    """Return a text of so many tokens, the first and the last of which are special."""
    return Tokenised("text", [101, *range(count - 2), 102], count)


def test_windows_hold_every_token_once_and_the_first_is_what_a_cut_leaves() -> None:
    text = tokens(2 + 254 + 254 + 7)
    windows = _windows(text)
    assert [len(window.ids) for window in windows] == [256, 256, 9]
    assert all((window.ids[0], window.ids[-1]) == (101, 102) for window in windows)
    assert [token for window in windows for token in window.ids[1:-1]] == text.ids[1:-1]
    assert windows[0].ids == _cut(text, CUT).ids
    assert _cut(tokens(20), CUT).ids == tokens(20).ids


def test_pooled_vectors_are_weighted_means_of_unit_length() -> None:
    cut = np.array([[1, 0], [0, 1]], dtype=np.float32)
    flat = np.array([[1, 0], [0, 1]], dtype=np.float32)
    pooled = _pooled(cut, {1: [tokens(5), tokens(6)]}, flat, lambda window: len(window.ids) - 2)
    assert np.allclose(pooled, [[1.0, 0.0], [0.6, 0.8]])


def test_a_choice_is_made_by_the_other_queries_alone() -> None:
    gain, at = str(MEASURES[0]), np.arange(10) == 0
    lucky = {gain: np.where(at, 1.0, 0.0)}  # best for one query, worse for all others
    steady = {gain: np.where(at, 0.0, 0.1)}
    everything = np.ones(10, dtype=np.bool_)
    assert _cross_fitted([lucky, steady], [everything])[gain][0] == pytest.approx(0.0)


def found(scores: list[float]) -> Candidates:
    rows, vectors = np.arange(len(scores)), np.ones((3, 2), dtype=np.float32)
    values, ranks = np.array(scores), np.arange(1, len(scores) + 1, dtype=np.float64)
    return Candidates(rows, vectors, vectors[0], values, values, ranks, ranks, 1.0)


def test_smoothing_takes_its_share_from_neighbours_that_are_candidates() -> None:
    graph = np.array([[1, 2], [0, 2], [0, 1]])
    smoothed = _smoothed(graph, 0.5, lambda each: each.cosine)
    np.testing.assert_allclose(smoothed(found([1.0, 0.2])), [0.6, 0.6])  # row 2 is no candidate


def test_deviations_from_the_mean_of_a_window() -> None:
    inside = np.array([True, True, False])
    np.testing.assert_allclose(_in_deviations(np.array([3.0, 1.0, 9.0]), inside), [1, -1, -1])


def test_repeated_words_count_as_often_as_they_are_said_and_pairs_come_on_top() -> None:
    leg = LexicalLeg(
        [Document("a", "", "red fish swim"), Document("b", "", "fish red swim"), Document("c", "", "sand")]
    )
    once, twice = (leg.search(text, {"text": 1.0})[1] for text in ("fish", "fish fish"))
    np.testing.assert_allclose(twice, 2 * once, rtol=1e-6)
    rows, scores = leg.search_pairs("red fish", 0.5)
    assert rows.tolist() == [0, 1]
    assert scores[0] > scores[1]
