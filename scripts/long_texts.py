"""Vectors of papers that are longer than the model reads: cut, cut later, or pooled from windows, one row a paper."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from judged_legs import JudgedSet
from measuring import corpus
from numpy.typing import NDArray

from semsearch.encoders import Encoder, ModelFolder, Tokenised
from semsearch.encoders.tokens import Tokeniser

Vectors = NDArray[np.float32]

CUT, CUT_LATER = 256, 512
"""What the model reads as it was trained, and what its positions allow; tokens, the two special ones among them."""
_ANY_LENGTH = 100_000


def vectors_by_way(judged: JudgedSet, model: ModelFolder, encoder: Encoder, cache: Path) -> dict[str, Vectors]:
    """Return the papers' vectors in each way to read a long text, shape (papers, dimension); the first is the recipe's.

    :param cache: keeps what was encoded for this corpus and this model.
    """
    assert encoder.spec.max_tokens == CUT, "the names below say so"
    whole = Tokeniser(replace(model, spec=replace(model.spec, max_tokens=_ANY_LENGTH)))
    texts = whole.passages([document.text for document in judged.documents])

    def kept(name: str, make: Callable[[], Vectors]) -> Vectors:
        digest = corpus(judged.files[0])["sha256"]
        path = cache / f"{digest[:12]}-{encoder.spec.fingerprint[:12]}-{name}.npy"
        if not path.exists():
            cache.mkdir(parents=True, exist_ok=True)
            np.save(path, make())
        vectors: Vectors = np.load(path)
        return vectors

    long = [row for row, text in enumerate(texts) if len(text.ids) > CUT]
    cut = kept("cut-256", lambda: _encoded(encoder, [_cut(text, CUT) for text in texts]))
    later = kept("cut-512", lambda: _encoded(encoder, [_cut(texts[row], CUT_LATER) for row in long]))
    windows = {row: _windows(texts[row]) for row in long}
    flat = kept("windows", lambda: _encoded(encoder, [window for own in windows.values() for window in own]))
    cut_later = cut.copy()
    cut_later[long] = later
    return {
        f"cut at {CUT} tokens": cut,
        f"cut at {CUT_LATER} tokens": cut_later,
        "windows, each by its tokens": _pooled(cut, windows, flat, lambda window: len(window.ids) - 2),
        "windows, all alike": _pooled(cut, windows, flat, lambda window: 1),
    }


def _cut(text: Tokenised, most: int) -> Tokenised:
    ids = text.ids if len(text.ids) <= most else [*text.ids[: most - 1], text.ids[-1]]
    return Tokenised(text.text, ids, text.whole)


def _windows(text: Tokenised) -> list[Tokenised]:
    """Return the text in pieces that follow each other, each with the special tokens of a text of its own."""
    first, *inner, last = text.ids
    pieces = [inner[start : start + CUT - 2] for start in range(0, len(inner), CUT - 2)]
    return [Tokenised(text.text, [first, *piece, last], len(piece) + 2) for piece in pieces]


def _pooled(
    cut: Vectors, windows: Mapping[int, Sequence[Tokenised]], flat: Vectors, weight: Callable[[Tokenised], int]
) -> Vectors:
    """Return the vectors with those of long texts replaced by the weighted mean of their windows', of unit length."""
    pooled, start = cut.copy(), 0
    for row, own in windows.items():
        mean = np.average(flat[start : start + len(own)], axis=0, weights=[weight(window) for window in own])
        pooled[row] = mean / np.linalg.norm(mean)
        start += len(own)
    return pooled


def _encoded(encoder: Encoder, texts: Sequence[Tokenised]) -> Vectors:
    vectors = np.empty((len(texts), encoder.spec.dimension), dtype=np.float32)
    order = np.argsort([len(text.ids) for text in texts], kind="stable")
    size = max(1, encoder.batch_tokens // encoder.spec.max_tokens)
    for start in range(0, len(order), size):
        batch = order[start : start + size]
        vectors[batch] = encoder.encode_passages([texts[row] for row in batch])
    return vectors
