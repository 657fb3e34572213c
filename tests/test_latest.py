"""What is remembered of what was asked last."""

import threading

from semsearch.latest import Latest


def test_a_value_is_made_once_while_it_is_remembered() -> None:
    made: list[str] = []

    def make(key: str) -> str:
        made.append(key)
        return key.upper()

    latest: Latest[str, str] = Latest(2)
    for key in ("a", "b", "a", "c", "a", "b"):  # "a" was asked for after "b", so "c" takes the place of "b"
        assert latest.get(key, lambda key=key: make(key)) == key.upper()  # type: ignore[misc]
    assert made == ["a", "b", "c", "b"]


def test_what_fails_is_not_remembered_and_holds_up_nobody() -> None:
    latest: Latest[int, int] = Latest(1)
    for _ in range(2):
        try:
            latest.get(1, lambda: 1 // 0)
        except ZeroDivisionError:
            continue
        raise AssertionError("it was not made")
    assert latest.get(1, lambda: 5) == 5


def test_threads_that_ask_at_once_all_get_it() -> None:
    latest: Latest[int, int] = Latest(3)
    found: list[int] = []
    threads = [
        threading.Thread(target=lambda: found.extend(latest.get(n % 7, lambda: 1) for n in range(2_000)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [1] * 8_000
