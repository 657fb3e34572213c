#!/usr/bin/env python3
"""Measure how often the flag `weak` is wrong: on questions that an index answers, and on questions that none could.

    scripts/benchmark_weak.py indexes/scifact=SCIFACT:train indexes/nfcorpus=NFCORPUS:dev indexes/acl

An index may name a judged set over its papers, in BEIR's folder format, and a split of it. Every share has a 95 %
interval (Wilson's). For words alone, which has no flag, it is measured what one would say: by the salads' median too.
"""

import argparse
import re
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from measuring import keep

from semsearch import Page, Searcher, parse_filter
from semsearch.evaluate import JudgedSet
from semsearch.evaluate.certainty import share_interval
from semsearch.papers import Paper
from semsearch.queries import parse_query
from semsearch.ranking import MODES, Mode
from semsearch.search import Answer
from semsearch.weakness import word_salads

_EVERYDAY = Path(__file__).parent / "everyday_questions.txt"
_SAMPLE = 300
_SEED = 0
_KEYS = string.ascii_lowercase + " ;,"
_WORDS_OF_AN_ABSTRACT = 10  # stand for the title of a paper that has none


@dataclass(frozen=True, slots=True)
class Subject:
    """One index, some of its papers, and a judged set over it if there is one."""

    name: str
    searcher: Searcher
    papers: list[Paper]
    judged: JudgedSet | None

    @classmethod
    def opened(cls, argument: str) -> "Subject":
        """Return what `INDEX` or `INDEX=FOLDER:SPLIT` names."""
        index, _, judged = argument.partition("=")
        folder, _, split = judged.rpartition(":")
        searcher = Searcher.open(index)
        return cls(
            Path(index).name, searcher, sample(searcher), JudgedSet.read(Path(folder), split) if judged else None
        )


def main() -> None:
    """Run the measurements and keep their result."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("indexes", nargs="+", metavar="INDEX[=FOLDER:SPLIT]")
    options = arguments.parse_args()
    subjects = [Subject.opened(argument) for argument in options.indexes]
    result = {each.name: measured(each, [other for other in subjects if other is not each]) for each in subjects}
    keep("weak", result, [each.judged.corpus.path for each in subjects if each.judged])


def measured(subject: Subject, others: Sequence[Subject]) -> dict[str, Any]:
    """Return the shares of weak answers of one index, by mode and kind of question."""
    generation = subject.searcher.generation
    known = generation.manifest.weak_below
    assert known, "the index has been brought up to date by semsearch index"
    return {
        "papers": generation.papers,
        "weak_below": known.scores,
        "modes": {mode: by_kind(subject, others, mode) for mode in MODES},
    }


def by_kind(subject: Subject, others: Sequence[Subject], mode: Mode) -> dict[str, Any]:
    """Return the shares of weak answers; whoever asks for the first three kinds should get a good answer."""
    is_weak = judge_of(subject.searcher, mode)

    def asked(queries: Sequence[str]) -> dict[str, Any]:
        return share([is_weak(ask(subject.searcher, query, mode), query) for query in queries])

    kinds = of_judged(subject, mode, is_weak) if subject.judged else {}
    titles = [(title_of(paper), paper) for paper in subject.papers]
    kinds["titles_without_their_own_work"] = share(
        [is_weak(ask(subject.searcher, title, mode, without=paper), title) for title, paper in titles]
    )
    kinds["keyboard_noise"] = asked(noise())
    kinds["everyday_questions"] = asked(_EVERYDAY.read_text(encoding="utf-8").splitlines())
    for other in others:
        kinds[f"titles_of_{other.name}"] = asked([title_of(paper) for paper in other.papers])
    return kinds


Judge = Callable[[Answer, str], bool]


def of_judged(subject: Subject, mode: Mode, is_weak: Judge) -> dict[str, Any]:
    """Return the shares among judged queries with a relevant first hit, with one among ten, and with none."""
    assert subject.judged, "only called with one"
    found: dict[str, list[bool]] = {name: [] for name in ("first_is_relevant", "one_of_ten_is_relevant", "none_is")}
    for query_id, query in subject.judged.queries.items():
        answer = ask(subject.searcher, query, mode)
        grades = subject.judged.grades[query_id]
        relevant = [grades.get(hit.paper.paper_id, 0) > 0 for hit in answer.hits]
        weak = is_weak(answer, query)
        if relevant[:1] == [True]:
            found["first_is_relevant"].append(weak)
        found["one_of_ten_is_relevant" if any(relevant) else "none_is"].append(weak)
    return {f"judged_{name}": share(values) for name, values in found.items()}


def ask(searcher: Searcher, query: str, mode: Mode, without: Paper | None = None) -> Answer:
    """Return the ten best papers, every paper by itself, without any version of one."""
    unwanted = [without.paper_id, *versions_of(searcher, without)] if without else []
    where = parse_filter([("ids", f"!{'|'.join(unwanted)}")] if unwanted else [])
    return searcher.search(query, Page(10, where=where, collapse="none"), mode)


def versions_of(searcher: Searcher, paper: Paper) -> list[str]:
    """Return the ids of the other versions of this paper's work."""
    only = Page(1, where=parse_filter([("ids", paper.paper_id)]))
    return [version.paper_id for version in searcher.search(title_of(paper), only, "dense").hits[0].versions]


def judge_of(searcher: Searcher, mode: Mode) -> Judge:
    """Return what tells a weak answer: the flag, or for words alone the share that the salads' median would tell."""
    if mode != "lexical":
        return lambda answer, query: answer.weak is True

    def best(answer: Answer, query: str) -> float:
        most = searcher.generation.lexical.most(parse_query(query))
        return answer.hits[0].score / most if answer.hits and most else 0.0

    salads = word_salads(searcher.library, searcher.generation.lexical)
    median = float(np.median([best(ask(searcher, salad, mode), salad) for salad in salads]))
    return lambda answer, query: best(answer, query) < median


def share(weak: Sequence[bool]) -> dict[str, Any]:
    """Return how many answers there were, which share of them was weak, and how sure that is."""
    interval = share_interval(np.array(weak, dtype=np.float64))
    rounded = None if interval is None else [round(end, 3) for end in interval]
    return {"questions": len(weak), "weak": round(float(np.mean(weak)), 3) if weak else None, "interval_95": rounded}


def sample(searcher: Searcher) -> list[Paper]:
    """Return some papers of an index, drawn with a seed."""
    seqs = searcher.generation.live_seqs()
    chosen = np.random.default_rng(_SEED).choice(seqs, min(_SAMPLE, len(seqs)), replace=False).tolist()
    versions = searcher.library.versions_at(chosen)
    return [versions[seq].paper for seq in chosen]


def title_of(paper: Paper) -> str:
    """Return the title as plain words, without what would be syntax."""
    text = paper.title or " ".join(paper.abstract.split()[:_WORDS_OF_AN_ABSTRACT])
    return re.sub(r"[^\w\s]", " ", text).strip() or "untitled"


def noise() -> list[str]:
    """Return what a cat types."""
    chance = np.random.default_rng(_SEED)
    typed = ["".join(chance.choice(list(_KEYS), chance.integers(5, 41))) for _ in range(_SAMPLE)]
    return [keys for keys in typed if keys.strip()]


if __name__ == "__main__":
    main()
