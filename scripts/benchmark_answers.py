#!/usr/bin/env python3
"""Ask judged sets in every mode, and compare with reciprocal rank fusion of the same two legs, question by question.

scripts/benchmark_answers.py SCIFACT NFCORPUS --split test --index indexes/scifact indexes/nfcorpus

A set is a folder in BEIR's format. Its index is made if it is not there. Every judged query counts.
"""

import argparse
import math
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measuring import counting, index_facts, keep

from semsearch import Searcher
from semsearch.evaluate import JudgedSet, Rank, ask_judged, index_corpus, notes, side_by_side
from semsearch.search import MAX_WINDOW

_RRF_K = 60


def main() -> None:
    """Ask every set and keep one result for each."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    arguments.add_argument("--split", default="test")
    arguments.add_argument("--index", type=Path, nargs="+", required=True, help="of each set, in the same order")
    arguments.add_argument("--model", help="index with this sentence-transformers model")
    options = arguments.parse_args()
    if len(options.folders) != len(options.index):
        arguments.error(f"{len(options.folders)} sets want as many indexes, not {len(options.index)}")
    sets = [JudgedSet.read(folder, options.split) for folder in options.folders]
    for judged, folder, index in zip(sets, options.folders, options.index, strict=True):
        sources = [folder / "corpus.jsonl", folder / "queries.jsonl", folder / "qrels" / f"{judged.split}.tsv"]
        keep(f"evaluation-{judged.name}-{judged.split}", measured(judged, index, options.model), sources)


def measured(judged: JudgedSet, index: Path, model: str | None) -> dict[str, Any]:
    """Return the figures of each ranking, and how hybrid search differs from the others."""
    for line in notes(judged.counts()):
        print(f"Note: {line}", file=sys.stderr)
    index_corpus(judged, index, model=model)
    with Searcher.open(index) as searcher:
        scores = {
            name: ask_judged(judged, rank, counting(f"{judged.name}, {name}"))
            for name, rank in rankings(searcher).items()
        }
        facts = index_facts(searcher.generation)
    return {
        "rankings": side_by_side(scores),
        "questions_sha256": judged.subject.questions_sha256,
        "judged": judged.counts(),
        **facts,
    }


def rankings(searcher: Searcher) -> dict[str, Rank]:
    """Return what is compared; each ranks as deep as one can page, every paper by itself."""

    def fused(query: str) -> list[str]:
        return reciprocal_rank_fusion([searcher.ranked(query, "dense"), searcher.ranked(query, "lexical")])[:MAX_WINDOW]

    return {
        "hybrid": lambda query: searcher.ranked(query, "hybrid"),
        "dense": lambda query: searcher.ranked(query, "dense"),
        "lexical": lambda query: searcher.ranked(query, "lexical"),
        f"reciprocal_rank_fusion_k{_RRF_K}": fused,
    }


def reciprocal_rank_fusion(rankings: Sequence[Sequence[str]], k: int = _RRF_K) -> list[str]:
    """Return all ids by the sum of 1 / (k + rank) over the rankings that hold them, best first; equal ones by id.

    Cormack, Clarke and Büttcher 2009, with their k.
    """
    parts: defaultdict[str, list[float]] = defaultdict(list)
    for ranking in rankings:
        for rank, paper_id in enumerate(ranking, 1):
            parts[paper_id].append(1 / (k + rank))
    return sorted(parts, key=lambda paper_id: (-math.fsum(parts[paper_id]), paper_id))


if __name__ == "__main__":
    main()
