#!/usr/bin/env python3
"""Compare the encoders with sentence-transformers' own default: speed and nearness, or what it means for the answers.

    scripts/benchmark_encoding.py PAPERS.jsonl.zst --int8                               speed and cosines
    scripts/benchmark_encoding.py PAPERS.jsonl.zst --int8 --judged scifact --judged cisi     the answers

All encoders take turns on the same texts in one process, so that whatever else the machine does falls on all of them.
What the processor cannot do (bfloat16) is left out and said so. An int8 network is calibrated on PAPERS.
"""

import argparse
import random
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from measuring import keep, stopwatch
from numpy.typing import NDArray

from semsearch.encoders import Encoder, ModelFolder, Tokenised, load_encoder
from semsearch.encoders.compiled import BFLOAT16, FLOAT32, CompiledEncoder, native_precision
from semsearch.encoders.conversion import calibrate
from semsearch.encoders.networks import cached_place
from semsearch.encoders.reference import ReferenceEncoder
from semsearch.evaluate.certainty import compare
from semsearch.evaluate.judged import JudgedSet
from semsearch.evaluate.measures import ndcg
from semsearch.readers import Found, read

Vectors = NDArray[np.float32]
Encode = Callable[[Sequence[str]], Vectors]
_BASELINE = "sentence-transformers default"
_REORDERED = "sentence-transformers in our batches"
_ROUND = 64
_CALIBRATION = 300
_TITLES_IN_TURN = 20  # one by one, each encoder would find the processor's caches full of the others' weights


def main() -> None:
    """Run the measurements and keep their result."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("papers", type=Path)
    arguments.add_argument("--texts", type=int, default=512, help="abstracts to encode")
    arguments.add_argument("--judged", type=Path, action="append", default=[], help="a BEIR folder with a test split")
    arguments.add_argument("--int8", action="store_true", help="with an int8 network calibrated on other abstracts")
    options = arguments.parse_args()
    texts, titles, others = sample(options.papers, options.texts)
    with tempfile.TemporaryDirectory() as folder:
        passages, queries = encoders(Path(folder), others if options.int8 else [])
        if options.judged:
            del passages[_REORDERED]  # whose vectors are the baseline's
            figures = [answers(passages, queries, judged) for judged in options.judged]
        else:
            figures = [passage_speed(passages, texts), query_speed(queries, titles)]
    result = {
        "processor": {"bfloat16": native_precision() == BFLOAT16, "fastest_precision": native_precision()},
        "encoders": {name: {key: each[name][key] for each in figures for key in each[name]} for name in passages},
    }
    if options.judged:
        keep("encoding-answers", result, [folder / "corpus.jsonl" for folder in options.judged])
    else:
        keep("encoding", result | {"texts": len(texts)}, [options.papers])


def sample(papers: Path, count: int) -> tuple[list[str], list[str], list[str]]:
    """Return abstracts to encode, titles to ask, and other abstracts to calibrate on, all chosen by chance."""
    entries = [entry.paper for entry in read(papers) if isinstance(entry, Found)]
    random.Random(0).shuffle(entries)
    chosen, others = entries[:count], entries[count : count + _CALIBRATION]
    return [paper.text for paper in chosen], [paper.title for paper in chosen[:200]], [paper.text for paper in others]


def encoders(folder: Path, calibration: list[str]) -> tuple[dict[str, Encode], dict[str, Encode]]:
    """Return what encodes passages and what encodes queries, by name; the baseline first."""
    model = ModelFolder.find()
    load_encoder(model)  # converts it, if that was not done yet
    reference = ReferenceEncoder(model, "cpu")

    def baseline(texts: Sequence[str]) -> Vectors:
        encoded: Vectors = reference.model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)
        return encoded

    ours: dict[str, Encoder] = {_REORDERED: reference}
    for precision in sorted({FLOAT32, native_precision()}):
        ours[f"OpenVINO {precision}"] = CompiledEncoder(model, cached_place(model, native_precision()), precision)
    if calibration:
        network = calibrate(model, folder / "int8", calibration)
        int8 = model.in_int8(network.folder, network.digests)
        ours["OpenVINO int8"] = CompiledEncoder(int8, network.folder, native_precision())
    passages: dict[str, Encode] = {_BASELINE: baseline}
    queries: dict[str, Encode] = {_BASELINE: baseline}
    for name, encoder in ours.items():
        passages[name], queries[name] = in_batches(encoder), encoder.encode_queries
    return passages, queries


def in_batches(encoder: Encoder) -> Encode:
    """Return a function that encodes passages as indexing does: in batches of like length."""
    return lambda texts: encoded(encoder, encoder.tokenise(texts), encoder.batch_tokens)


def encoded(encoder: Encoder, tokens: Sequence[Tokenised], batch_tokens: int) -> Vectors:
    """Return the vectors of the passages, shape (n, dimension), in their order, encoded in batches of like length."""
    vectors = np.empty((len(tokens), encoder.spec.dimension), dtype=np.float32)
    batch: list[int] = []
    for place in sorted(range(len(tokens)), key=lambda place: len(tokens[place].ids)):
        if batch and (len(batch) + 1) * len(tokens[place].ids) > batch_tokens:
            vectors[batch] = encoder.encode_passages([tokens[each] for each in batch])
            batch = []
        batch.append(place)
    vectors[batch] = encoder.encode_passages([tokens[each] for each in batch])
    return vectors


def passage_speed(passages: dict[str, Encode], texts: list[str]) -> dict[str, dict[str, Any]]:
    """Return abstracts per second, the ratio to the baseline in the same round, and the cosines to it."""
    rates: dict[str, list[float]] = {name: [] for name in passages}
    vectors: dict[str, list[Vectors]] = {name: [] for name in passages}
    for start in range(0, len(texts), _ROUND):
        block = texts[start : start + _ROUND]
        for name, encode in passages.items():
            if start == 0:
                encode(block)  # the first time compiles for the lengths that come
            with stopwatch() as watch:
                vectors[name].append(encode(block))
            rates[name].append(len(block) / watch.seconds)
    expected = np.concatenate(vectors[_BASELINE])
    result = {}
    for name, measured in rates.items():
        ratios = [own / base for own, base in zip(measured, rates[_BASELINE], strict=True)]
        cosines = np.einsum("nd,nd->n", np.concatenate(vectors[name]), expected)
        result[name] = {
            "abstracts_per_second": round(statistics.median(measured), 2),
            "times_the_baseline": round(statistics.median(ratios), 2),
            "times_the_baseline_range": [round(min(ratios), 2), round(max(ratios), 2)],
            "worst_cosine": round(float(cosines.min()), 6),
            "mean_cosine": round(float(cosines.mean()), 6),
        }
    return result


def query_speed(queries: dict[str, Encode], titles: list[str]) -> dict[str, dict[str, Any]]:
    """Return the median milliseconds of one title encoded alone, and the ratio to the baseline."""
    seconds: dict[str, list[float]] = {name: [] for name in queries}
    for start in range(0, len(titles), _TITLES_IN_TURN):
        for name, encode in queries.items():
            for title in titles[start : start + _TITLES_IN_TURN]:
                with stopwatch() as watch:
                    encode([title])
                seconds[name].append(watch.seconds)
    base = statistics.median(seconds[_BASELINE])
    return {
        name: {
            "query_milliseconds_p50": round(1_000 * statistics.median(measured), 2),
            "query_times_the_baseline": round(base / statistics.median(measured), 2),
        }
        for name, measured in seconds.items()
    }


def answers(passages: dict[str, Encode], queries: dict[str, Encode], folder: Path) -> dict[str, dict[str, Any]]:
    """Return nDCG@10 of exact dense search, and how it differs from the baseline's, question by question."""
    judged = JudgedSet.read(folder, "test")
    papers = [entry.paper for entry in read(folder / "corpus.jsonl") if isinstance(entry, Found)]
    asked = [(text, judged.grades[query]) for query, text in judged.queries.items()]
    ids, texts = [paper.paper_id for paper in papers], [paper.text for paper in papers]
    values: dict[str, NDArray[np.float64]] = {}
    for name, encode in passages.items():
        cosines = encode(texts) @ np.concatenate([queries[name]([text]) for text, _ in asked]).T
        best = np.argsort(-cosines, axis=0, kind="stable")[:10].T
        scores = [ndcg([ids[row] for row in rows], grades, 10) for rows, (_, grades) in zip(best, asked, strict=True)]
        values[name] = np.array(scores)
    result = {}
    for name, own in values.items():
        difference = compare(own, values[_BASELINE])
        result[name] = {
            f"nDCG@10 on {folder.name} test": {
                "value": round(float(own.mean()), 4),
                "difference": round(difference.difference, 4),
                "interval_95": [round(difference.low, 4), round(difference.high, 4)],
            }
        }
    return result


if __name__ == "__main__":
    main()
