#!/usr/bin/env python3
"""Measure search quality over a judged set in BEIR's folder format: corpus.jsonl, queries.jsonl, qrels/<split>.tsv.

    scripts/evaluate.py FOLDER --split test

Builds an index of the corpus, asks every judged query, and reports measures by ir_measures. A judged query without
a result counts as zero.
"""

import argparse
import csv
import json
import tempfile
from pathlib import Path

import ir_measures
from ir_measures import RR, R, nDCG
from measuring import keep

from semsearch import Searcher, imports_of, update_index

_DEPTH = 100


def main() -> None:
    """Run the evaluation and keep its result."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--split", default="test")
    arguments.add_argument("--index", type=Path, help="keep the index here (default: build it anew and forget it)")
    options = arguments.parse_args()
    judgements = options.folder / "qrels" / f"{options.split}.tsv"
    qrels = read_qrels(judgements)
    queries = read_queries(options.folder / "queries.jsonl")
    with tempfile.TemporaryDirectory() as scratch:
        index = options.index or Path(scratch) / "index"
        report = update_index(index, imports_of([options.folder / "corpus.jsonl"]))
        with Searcher.open(index) as searcher:
            run = [
                ir_measures.ScoredDoc(query, hit.paper.paper_id, hit.score)
                for query in sorted({qrel.query_id for qrel in qrels})
                for hit in searcher.search(queries[query], _DEPTH).hits
            ]
    measures = [nDCG @ 10, R @ 100, RR @ 10]
    found = ir_measures.calc_aggregate(measures, qrels, run)
    keep(
        f"evaluation-{options.folder.name}-{options.split}",
        {
            "queries": len({qrel.query_id for qrel in qrels}),
            "papers": report.papers,
            "rejected": report.rejected_count,
            "longer_than_the_model_reads": report.truncated,
            **{str(measure): round(found[measure], 4) for measure in measures},
        },
        [options.folder / "corpus.jsonl", options.folder / "queries.jsonl", judgements],
    )


def read_qrels(path: Path) -> list[ir_measures.Qrel]:
    """Return the judgements of one split."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t")
        return [ir_measures.Qrel(row["query-id"], row["corpus-id"], int(row["score"])) for row in rows]


def read_queries(path: Path) -> dict[str, str]:
    """Return the queries by their ids."""
    with path.open(encoding="utf-8") as file:
        return {query["_id"]: query["text"] for query in map(json.loads, file)}


if __name__ == "__main__":
    main()
