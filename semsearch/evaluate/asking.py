"""How are thousands of questions asked?

By several threads, so that the encoder and the scans work for many at once and all cores have something to do. That
changes no answer, and so no figure.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Rank = Callable[[str], Sequence[str]]
"""A query -> the ids of the papers found for it, best first. Is called by several threads at once."""

OnAsked = Callable[[int, int], None]
"""Is told after each question how many are done, of how many."""

Question = TypeVar("Question")
Value = TypeVar("Value")

_THREADS_PER_CORE = 16  # FAISS multiplies matrices, and reads the vectors once for all, from 20 queries on


def unheard(done: int, of: int) -> None:
    """Tell nobody how many questions are done."""


def each_value(
    questions: Sequence[Question], value: Callable[[Question], Value], on_asked: OnAsked = unheard
) -> list[Value]:
    """Return the value of each question, in their order.

    :param value: is called by several threads; what it raises ends all.
    """
    values: list[Value] = []
    with ThreadPoolExecutor(_THREADS_PER_CORE * (os.cpu_count() or 1)) as pool:
        for each in pool.map(value, questions):
            values.append(each)
            on_asked(len(values), len(questions))
    return values
