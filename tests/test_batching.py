"""Calls from many threads that share one piece of work."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from semsearch.batching import Shared


def test_a_single_call_is_a_batch_of_one() -> None:
    batches: list[list[int]] = []

    def doubled(items: Sequence[int]) -> list[int]:
        batches.append(list(items))
        return [2 * item for item in items]

    double = Shared(doubled, most=8)
    assert [double(3), double(4)] == [6, 8]
    assert batches == [[3], [4]]


def test_those_who_come_while_others_are_served_are_served_together() -> None:
    first_began, go_on = threading.Event(), threading.Event()
    batches: list[list[int]] = []

    def square(items: Sequence[int]) -> list[int]:
        batches.append(list(items))
        first_began.set()
        go_on.wait(10)
        return [item * item for item in items]

    shared = Shared(square, most=4)
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(shared, 0)
        assert first_began.wait(10)
        rest = [pool.submit(shared, item) for item in range(1, 8)]
        while len(shared._waiting) < 7:  # all of them stand in line
            pass
        go_on.set()
        assert [future.result(10) for future in [first, *rest]] == [item * item for item in range(8)]
    assert batches[0] == [0]
    assert [len(batch) for batch in batches] == [1, 4, 3]
    assert sorted(item for batch in batches for item in batch) == list(range(8))


def test_a_failure_reaches_everyone_of_its_batch_and_nobody_else() -> None:
    def reciprocal(items: Sequence[int]) -> list[float]:
        return [1 / item for item in items]

    shared = Shared(reciprocal, most=4)
    with pytest.raises(ZeroDivisionError):
        shared(0)
    assert shared(2) == 0.5


def test_many_threads_each_get_their_own_answer() -> None:
    shared: Shared[int, int] = Shared(lambda items: [item + 1 for item in items], most=3)
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(shared, range(2_000))) == list(range(1, 2_001))
