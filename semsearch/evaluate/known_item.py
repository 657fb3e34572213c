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

import numpy as np
import xxhash
from numpy.typing import NDArray

from semsearch.evaluate.measures import MRR, Scores, Subject
from semsearch.library import Library
from semsearch.papers import Paper, normalise_text
from semsearch.search import MAX_QUERY_CHARACTERS

Find = Callable[[str], Sequence[Paper]]
"""A query -> the papers found for it, best first."""

FIRST = "first"
"""The measure beside MRR: the share of questions whose paper comes first."""

_IDS_PER_READ = 10_000
_PAPERS_PER_READ = 256
_LOOKED_AT_PER_QUESTION = 20  # few titles begin with a name

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_NAMED = re.compile(r"(?P<name>[^\s:]{2,40}): \S")
_UNLIKE_A_WORD = re.compile(r"\d|(?<!^)(?<!-)[A-Z]")


@dataclass(frozen=True, slots=True)
class KnownItemTest:
    """What is asked about a paper (None: it gives no such question), and the key by which another is as right."""

    ask: Callable[[Paper, random.Random], str | None]
    key: Callable[[Paper], str]


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, and the paper that should come first."""

    text: str
    paper: Paper


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


@dataclass(frozen=True, slots=True)
class KnownItems:
    """What is asked of one index: the questions of each test, and the sha256 of the ids of all its papers."""

    questions: Mapping[str, Sequence[Question]]
    papers_sha256: str

    @classmethod
    def draw(cls, library: Library, seqs: NDArray[np.int64], count: int, seed: int = 0) -> "KnownItems":
        """Return up to `count` questions for each of `TESTS` about the papers of these versions, drawn by the seed."""
        plain, seeded = _hashes(library, seqs, seed)
        papers_sha256 = hashlib.sha256(np.sort(plain).astype("<u8").tobytes()).hexdigest()
        drawn = seqs[np.argsort(seeded, kind="stable")][: count * _LOOKED_AT_PER_QUESTION]
        return cls(_questions_about(_loaded(library, drawn), count, seed), papers_sha256)

    def subject(self, name: str) -> Subject:
        """What tells these questions from others; `name` is the index's, for people."""
        asked = [[test, [[each.paper.paper_id, each.text] for each in own]] for test, own in self.questions.items()]
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


def _questions_about(papers: Iterable[Paper], count: int, seed: int) -> dict[str, list[Question]]:
    """Return up to `count` questions for each of `TESTS`, each about the first papers that give one."""
    questions: dict[str, list[Question]] = {name: [] for name in TESTS}
    for paper in papers:
        lacking = [name for name in TESTS if len(questions[name]) < count]
        if not lacking:
            break
        for name in lacking:
            text = TESTS[name].ask(paper, random.Random(f"{seed} {paper.paper_id}"))
            if text:
                questions[name].append(Question(text, paper))
    return questions


def ask_known(
    known: KnownItems, find: Find, on_asked: Callable[[int, int], None] = lambda done, of: None
) -> dict[str, Scores]:
    """Return the scores of each test: the reciprocal rank of the right paper, and whether it came first.

    As right as the paper itself is one of the same title (or name, where that was asked for): a preprint and its
    published form, say.

    :param on_asked: told after each question how many are done, of how many.
    """
    total, done = sum(map(len, known.questions.values())), 0
    scores: dict[str, Scores] = {}
    for name, asked in known.questions.items():
        values = np.zeros((len(asked), 2))
        for row, question in enumerate(asked):
            rank = _rank_of(question.paper, find(question.text), TESTS[name].key)
            values[row] = (1 / rank, rank == 1) if rank else (0, 0)
            done += 1
            on_asked(done, total)
        scores[name] = Scores(tuple(question.paper.paper_id for question in asked), (MRR, FIRST), values)
    return scores


def _rank_of(paper: Paper, found: Sequence[Paper], key: Callable[[Paper], str]) -> int | None:
    wanted = key(paper)
    for rank, other in enumerate(found, 1):
        if other.paper_id == paper.paper_id or (wanted and key(other) == wanted):
            return rank
    return None
