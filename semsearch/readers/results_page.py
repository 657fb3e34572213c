"""What titles and abstracts does the text of a search results page hold?

Such a text has no marks, only shape: a short line without a full stop, then a long one of sentences, and again.

* A line is an abstract if its length and its sentences say so (`_is_abstract`). A line in doubt, a single short
  sentence, is one only where a title stands above it and no sure abstract below it.
* The short line right above an abstract is its title. Any other short line is a title without abstract, and costs
  itself only: it never shifts the pairs below it.
* Short lines above the first title are the page's own words and are passed over. The label of a button is often glued
  to the first title; it is taken off.
* Blank lines mean nothing.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from semsearch.readers.records import Reader, Record, Unusable, WrongKindError
from semsearch.readers.streams import MAX_RECORD_REASON, Line, Stream

_STOPS = "\u3002\uff01\uff1f"  # the full stop, exclamation mark and question mark of Chinese and Japanese
_CLOSING = "[\"'\u2019\u201d)\\]]*"
_OPENING = "[\"'\u2018\u201c(\\[]?"
_ENDS_SENTENCE = re.compile(rf"[.!?\u2026{_STOPS}]{_CLOSING}$")
_STARTS_NEXT_SENTENCE = re.compile(rf"[.!?\u2026]{_CLOSING}\s+{_OPENING}[A-Z0-9]|[{_STOPS}].")

_BUTTON_LABEL = re.compile(r"(?:Subscribe|Sign ?[Uu]p|Sign ?[Ii]n|Log ?[Ii]n|Join|Follow)(?=[A-Z0-9])")


class _Text(NamedTuple):
    """One line that is not blank; `problem` says why its text cannot be used."""

    line: int
    text: str
    problem: str | None


def records(stream: Stream) -> Iterator[Record | Unusable]:
    """Return the pairs of title and abstract, and what stands between them unpaired.

    :raises WrongKindError: if no line is an abstract.
    """
    title: _Text | None = None
    seen_abstract = False
    for current, following in _with_following(_texts(stream)):
        is_abstract = _is_abstract(current.text)
        if not is_abstract and seen_abstract and title and _could_be_abstract(current.text):
            is_abstract = not (following and _is_abstract(following.text))
        if is_abstract:
            if title and not seen_abstract:
                title = title._replace(text=_BUTTON_LABEL.sub("", title.text, count=1))
            yield _pair(title, current)
            title, seen_abstract = None, True
        else:
            if title and seen_abstract:
                yield _without_abstract(title)
            title = current
    if title and seen_abstract:
        yield _without_abstract(title)
    if title and not seen_abstract:
        raise WrongKindError("holds no line that reads like an abstract below a title")


def looks_like(head: bytes) -> bool:
    """Whether titles and abstracts stand in turn, at least twice."""
    shapes = [_is_abstract(line) for line in head.decode(errors="replace").split("\n") if line.strip()]
    if True not in shapes:
        return False
    pairs = shapes[max(0, shapes.index(True) - 1) :]
    turns = sum(not first and second for first, second in zip(pairs[::2], pairs[1::2], strict=False))
    return turns >= 2 and turns >= len(pairs) // 2 - 1


def _pair(title: _Text | None, abstract: _Text) -> Record | Unusable:
    if title is None:
        return Unusable(abstract.line, abstract.problem or "an abstract without a title above it")
    if problem := title.problem or abstract.problem:
        return Unusable(title.line, problem)
    return Record(title.line, {"title": title.text, "abstract": abstract.text})


def _without_abstract(title: _Text) -> Unusable:
    return Unusable(title.line, title.problem or "a title without an abstract below it")


def _texts(stream: Stream) -> Iterator[_Text]:
    for line in stream.lines():
        text = _text(line)
        if text.text:
            yield text


def _text(line: Line) -> _Text:
    # A line that cannot be used still has its place in the turn, so that the pairs around it stay as they are.
    if line.data is None:
        return _Text(line.number, "An abstract of too many words. " * 20, MAX_RECORD_REASON)
    try:
        return _Text(line.number, line.data.decode().strip(), None)
    except UnicodeDecodeError as error:
        problem = f"the record is not valid UTF-8 in line {line.number} at its byte {error.start + 1}"
        return _Text(line.number, line.data.decode(errors="replace").strip(), problem)


def _with_following(texts: Iterator[_Text]) -> Iterator[tuple[_Text, _Text | None]]:
    current = next(texts, None)
    while current is not None:
        following = next(texts, None)
        yield current, following
        current = following


def _is_abstract(text: str) -> bool:
    """Whether a line is an abstract by itself.

    Titles of 200 characters are rare and have no full stop; titles that are two sentences ("Does it work? A trial.")
    are shorter than 150.
    """
    length = len(text)
    if length < 150:
        return False
    ends = bool(_ENDS_SENTENCE.search(text[-8:]))
    if length >= 200 and ends:
        return True
    goes_on = bool(_STARTS_NEXT_SENTENCE.search(text))
    return (goes_on and (ends or length >= 300)) or length >= 1000


def _could_be_abstract(text: str) -> bool:
    """Whether a line may be an abstract of one short sentence, if it stands where one is expected."""
    return text.endswith((".", "。")) and (len(text.split()) >= 8 or not text.isascii())


READER = Reader("page", (".txt",), looks_like, records, sure_by_suffix=False)
