#!/usr/bin/env python3
"""Measure encoding on a GPU: speed against sentence-transformers' default there, nearness to it, and a whole index.

    scripts/benchmark_gpu.py acl-anthology.jsonl.zst arxiv.jsonl.zst --texts 32768

The abstracts are encoded with batches of several sizes, by the baseline last (an eighth of them), each after a warm-up.
Then the papers of all files are indexed as `semsearch index` does it, in this process.
"""

import argparse
import random
import resource
import subprocess
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from benchmark_encoding import Encode, encoded, in_batches
from measuring import counting, keep, stopwatch

from semsearch.encoders import Encoder, ModelFolder, load_encoder
from semsearch.encoders.reference import ReferenceEncoder
from semsearch.readers import Found, read
from semsearch.reindex import Progress, imports_of, update_index

_BATCH_TOKENS = (4_096, 16_384, 65_536, 131_072, 524_288)
_WARM_UP = 2_048
_ALIKE = 2_048  # abstracts whose cosine to the reference is taken
_TEXTS_PER_TURN = 8_192


def main() -> None:
    """Run the measurements and keep their result."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("papers", type=Path, nargs="+")
    arguments.add_argument("--texts", type=int, default=32_768, help="abstracts to encode")
    arguments.add_argument("--device", default="cuda", help="a device of torch's")
    arguments.add_argument("--index", type=Path, help="where to build the index, to keep it")
    options = arguments.parse_args()
    texts = sample(options.papers, options.texts)
    encoder = load_encoder(ModelFolder.find(), options.device)
    reference = ReferenceEncoder(ModelFolder.find(), options.device)
    result = {
        "gpu": name_of(options.device),
        "texts": len(texts),
        "tokenised_per_second": rate(encoder.tokenise, texts),
        "encoding": encoding(encoder, reference, texts),
        "cosines": cosines(encoder, reference, texts[:_ALIKE]),
        "indexing": indexing(options.papers, options.index, encoder),
    }
    keep("gpu", result, options.papers)


def name_of(device: str) -> str:
    """Return what the driver calls the GPU."""
    if not device.startswith("cuda"):
        return device
    ask = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    return subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip()


def sample(files: Sequence[Path], count: int) -> list[str]:
    """Return abstracts chosen by chance from all files."""
    texts = [entry.paper.text for path in files for entry in read(path) if isinstance(entry, Found)]
    return random.Random(0).sample(texts, min(count, len(texts)))


def rate(work: Any, texts: Sequence[str]) -> float:
    """Return how many texts a second this deals with, after a warm-up."""
    work(texts[:_WARM_UP])
    with stopwatch() as watch:
        work(texts)
    return round(len(texts) / watch.seconds, 1)


def encoding(encoder: Encoder, reference: ReferenceEncoder, texts: Sequence[str]) -> dict[str, Any]:
    """Return abstracts a second from text to vector, by size of batch, and the baseline's."""

    def baseline(chosen: Sequence[str]) -> Any:
        return reference.model.encode(list(chosen), normalize_embeddings=True, show_progress_bar=False)

    rates = {f"{size} tokens": rate(tokenising_ahead(encoder, size), texts) for size in _BATCH_TOKENS}
    slow = rate(baseline, texts[: len(texts) // 8])
    return {
        "abstracts_per_second": rates,
        "taken_for_indexing": f"{encoder.batch_tokens} tokens",
        "baseline_per_second": slow,
        "times_the_baseline": round(rates[f"{encoder.batch_tokens} tokens"] / slow, 2),
    }


def tokenising_ahead(encoder: Encoder, batch_tokens: int) -> Encode:
    """Return a function that encodes passages while the next are tokenised."""

    def encode(texts: Sequence[str]) -> Any:
        turns = [texts[start : start + _TEXTS_PER_TURN] for start in range(0, len(texts), _TEXTS_PER_TURN)]
        with ThreadPoolExecutor(1) as worker:
            tokenised = worker.map(encoder.tokenise, turns)
            return np.concatenate([encoded(encoder, tokens, batch_tokens) for tokens in tokenised])

    return encode


def cosines(encoder: Encoder, reference: ReferenceEncoder, texts: Sequence[str]) -> dict[str, float]:
    """Return how near the vectors are to the reference's in float32 on the same device."""
    found, expected = in_batches(encoder)(texts), in_batches(reference)(texts)
    each = np.einsum("nd,nd->n", found, expected)
    return {"worst": round(float(each.min()), 6), "mean": round(float(each.mean()), 6)}


def indexing(files: Sequence[Path], index: Path | None, encoder: Encoder) -> dict[str, Any]:
    """Index all papers; return how long it took until they were committed and until they could be searched."""
    tell, committed = counting("indexing"), [0.0]
    started = time.perf_counter()

    def on_progress(progress: Progress) -> None:
        committed[0] = time.perf_counter() - started
        tell(progress.done, max(progress.done, progress.expected or 0))

    with tempfile.TemporaryDirectory() as folder:
        imports = imports_of([str(path) for path in files])
        report = update_index(
            index or Path(folder) / "index", imports, on_progress=on_progress, load=lambda *_: encoder
        )
        seconds = time.perf_counter() - started
    return {
        "papers": report.papers,
        "encoded": report.encoded,
        "seconds_until_committed": round(committed[0], 1),
        "seconds_until_searchable": round(seconds, 1),
        "papers_per_second_committed": round(report.encoded / committed[0], 1),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


if __name__ == "__main__":
    main()
