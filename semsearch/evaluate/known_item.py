"""How well does an index find what is known to be in it, without anyone's judgements?

Known-item search: a paper is drawn, something of it is asked for, and the paper itself is the one right answer. This
tells nothing of how good the other answers are, but needs no labels, so it works over anyone's own papers.

A draw takes the papers whose ids have the smallest seeded hashes. So it depends on nothing but the ids and the seed:
two indexes of the same papers are asked the same questions, in whatever order their papers came.
"""

import hashlib
import json
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from semsearch.evaluate.asking import OnAsked, Rank, each_value, unheard
from semsearch.evaluate.measures import MRR, Scores, Subject
from semsearch.library import Library
from semsearch.papers import Paper, normalise_text
from semsearch.search import MAX_QUERY_CHARACTERS

FIRST = "first"
"""The measure beside MRR: the share of questions whose paper comes first."""

_IDS_PER_READ = 10_000
_PAPERS_PER_READ = 256
_LOOKED_AT_PER_QUESTION = 20  # few titles begin with a name

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_NAMED = re.compile(r"(?P<name>[^\s:]{2,40}): \S")
_UNLIKE_A_WORD = re.compile(r"\d|(?<!^)(?<!-)[A-Z]")

_Key = Callable[[Paper], str]


@dataclass(frozen=True, slots=True)
class KnownItemTest:
    """What is asked about a paper (None: it gives no such question), and the key by which another is as right."""

    ask: Callable[[Paper, random.Random], str | None]
    key: _Key


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, the paper that should come first, and all that are as right, itself among them."""

    text: str
    paper_id: str
    right: frozenset[str]

    def rank_among(self, found: Sequence[str]) -> int | None:
        """Return the rank, from 1, of the first of these papers, best first, that is right; None if none is."""
        return next((rank for rank, paper_id in enumerate(found, 1) if paper_id in self.right), None)


def _title(paper: Paper, chance: random.Random) -> str | None:
    return paper.title or None


def _partial_title(paper: Paper, chance: random.Random) -> str | None:
    """The title in lower case without one of its words: as it is remembered."""
    words = paper.title.lower().split()
    if len(words) < 2:
        return None
    del words[chance.randrange(len(words))]
    return " ".join(words)


def _later_half(paper: Paper, chance: random.Random) -> str | None:
    """The second half of the abstract's sentences, of its words if it has but one sentence."""
    parts = _SENTENCE_END.split(paper.abstract)
    if len(parts) < 2:
        parts = paper.abstract.split()
    return " ".join(parts[(len(parts) + 1) // 2 :])[:MAX_QUERY_CHARACTERS] or None


def _name(paper: Paper, chance: random.Random) -> str | None:
    """The name before the colon, for titles like "word2vec: ..." but not "Learning: ..."."""
    match = _NAMED.match(paper.title)
    return match["name"] if match and _UNLIKE_A_WORD.search(match["name"]) else None


def _same_title(paper: Paper) -> str:
    return normalise_text(paper.title).casefold().rstrip(".")


def _same_name(paper: Paper) -> str:
    match = _NAMED.match(paper.title)
    return match["name"].casefold() if match else ""


TITLE = "title"
TESTS: Mapping[str, KnownItemTest] = {
    TITLE: KnownItemTest(_title, _same_title),
    "partial_title": KnownItemTest(_partial_title, _same_title),
    "abstract_half": KnownItemTest(_later_half, _same_title),
    "name": KnownItemTest(_name, _same_name),
}


class _Asked(NamedTuple):
    """What is asked about a paper, and its key."""

    text: str
    paper_id: str
    key: str


@dataclass(frozen=True, slots=True)
class KnownItems:
    """What is asked of one index: the questions of each test, and the sha256 of the ids of all its papers."""

    questions: Mapping[str, Sequence[Question]]
    papers_sha256: str

    @classmethod
    def draw(cls, library: Library, seqs: NDArray[np.int64], counts: Mapping[str, int], seed: int = 0) -> "KnownItems":
        """Return up to so many questions for each of these tests about the papers of these versions, drawn by the seed.

        All papers are read once, a few at a time, to find those that are as right as the ones drawn.

        :param counts: how many questions for each of `TESTS` that is wanted.
        """
        plain, seeded = _hashes(library, seqs, seed)
        papers_sha256 = hashlib.sha256(np.sort(plain).astype("<u8").tobytes()).hexdigest()
        drawn = seqs[np.argsort(seeded, kind="stable")][: max(counts.values(), default=0) * _LOOKED_AT_PER_QUESTION]
        asked = _asked_about(_loaded(library, drawn), counts, seed)
        by_key = _papers_by_key(_loaded(library, seqs), asked)
        questions = {test: [_question(each, by_key[TESTS[test].key]) for each in own] for test, own in asked.items()}
        return cls(questions, papers_sha256)

    @property
    def all_questions(self) -> list[Question]:
        """The questions of all tests, one test's after the other's."""
        return [question for own in self.questions.values() for question in own]

    def scores(self, ranks: Sequence[int | None]) -> dict[str, Scores]:
        """Return the scores of each test: the reciprocal rank of the right paper, and whether it came first.

        :param ranks: of the right paper for each of `all_questions`.
        """
        scores, left = {}, iter(ranks)
        for test, own in self.questions.items():
            values = [(1 / found, float(found == 1)) if found else (0.0, 0.0) for found in islice(left, len(own))]
            names = tuple(question.paper_id for question in own)
            scores[test] = Scores(names, (MRR, FIRST), np.array(values, dtype=np.float64).reshape(len(own), 2))
        return scores

    def subject(self, name: str) -> Subject:
        """What tells these questions from others; `name` is the index's, for people."""
        asked = [[test, [[each.paper_id, each.text] for each in own]] for test, own in self.questions.items()]
        return Subject(name, self.papers_sha256, hashlib.sha256(json.dumps(asked).encode()).hexdigest())


def _hashes(library: Library, seqs: NDArray[np.int64], seed: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Return the hash of each version's paper id, and the one that the seed gives it; no paper is loaded."""
    plain, seeded = np.empty(len(seqs), dtype=np.uint64), np.empty(len(seqs), dtype=np.uint64)
    for start in range(0, len(seqs), _IDS_PER_READ):
        batch = seqs[start : start + _IDS_PER_READ].tolist()
        paper_ids = library.ids_at(batch)
        for row, seq in enumerate(batch, start):
            plain[row] = xxhash.xxh3_64_intdigest(paper_ids[seq].encode())
            seeded[row] = xxhash.xxh3_64_intdigest(f"{seed} {paper_ids[seq]}".encode())
    return plain, seeded


def _loaded(library: Library, seqs: NDArray[np.int64]) -> Iterator[Paper]:
    """Yield the papers of these versions in their order, loading a few at a time."""
    for start in range(0, len(seqs), _PAPERS_PER_READ):
        batch = seqs[start : start + _PAPERS_PER_READ].tolist()
        versions = library.versions_at(batch)
        yield from (versions[seq].paper for seq in batch if seq in versions)  # else purged since


def _asked_about(papers: Iterable[Paper], counts: Mapping[str, int], seed: int) -> dict[str, list[_Asked]]:
    """Return up to so many questions for each test, each about the first papers that give one."""
    asked: dict[str, list[_Asked]] = {test: [] for test in counts}
    for paper in papers:
        lacking = [test for test, count in counts.items() if len(asked[test]) < count]
        if not lacking:
            break
        for test in lacking:
            text = TESTS[test].ask(paper, random.Random(f"{seed} {paper.paper_id}"))
            if text:
                asked[test].append(_Asked(text, paper.paper_id, TESTS[test].key(paper)))
    return asked


def _papers_by_key(papers: Iterable[Paper], asked: Mapping[str, Sequence[_Asked]]) -> dict[_Key, dict[str, set[str]]]:
    """Return the ids of the papers that have a key which was asked for, by that key; of no others is anything kept."""
    found: dict[_Key, dict[str, set[str]]] = {TESTS[test].key: {} for test in asked}
    for test, own in asked.items():
        found[TESTS[test].key].update((each.key, set()) for each in own if each.key)
    for paper in papers:
        for key, ids in found.items():
            if (same := ids.get(key(paper))) is not None:
                same.add(paper.paper_id)
    return found


def _question(asked: _Asked, by_key: Mapping[str, set[str]]) -> Question:
    return Question(asked.text, asked.paper_id, frozenset({asked.paper_id} | by_key.get(asked.key, set())))


def ask_known(known: KnownItems, rank: Rank, on_asked: OnAsked = unheard) -> dict[str, Scores]:
    """Return the scores of each test: the reciprocal rank of the right paper, and whether it came first.

    As right as the paper itself is one of the same title (or name, where that was asked for): a preprint and its
    published form, say.
    """
    return known.scores(each_value(known.all_questions, lambda each: each.rank_among(rank(each.text)), on_asked))
