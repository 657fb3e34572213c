"""What turns texts into vectors?

`Encoder` is what the rest of semsearch knows of it. `model.py` says which model and which vector space, without loading
anything heavy; `reference.py` is the implementation on sentence-transformers and the only file that imports torch.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from semsearch.encoders.model import DEFAULT_MODEL, EncoderSpec, ModelFolder
from semsearch.errors import EncoderError

__all__ = ["DEFAULT_MODEL", "Encoder", "EncoderSpec", "LazyEncoder", "ModelFolder", "checked", "load_encoder"]

_UNIT_TOLERANCE = 1e-3


class Encoder(Protocol):
    """Texts in, unit vectors out; passages and queries apart, because some models treat them differently."""

    @property
    def spec(self) -> EncoderSpec:
        """The vector space: two encoders with one fingerprint may share vectors."""

    @property
    def batch_tokens(self) -> int:
        """How many tokens, padding included, one batch should hold for the best speed."""

    def count_tokens(self, passages: Sequence[str]) -> list[int]:
        """Return the tokens of each whole passage, before the encoder's limit cuts it."""

    def encode_passages(self, passages: Sequence[str]) -> NDArray[np.float32]:
        """Return the passages' vectors, shape (n, dimension), as one batch."""

    def encode_queries(self, queries: Sequence[str]) -> NDArray[np.float32]:
        """Return the queries' vectors, shape (n, dimension), as one batch."""


def load_encoder(model: ModelFolder, device: str | None = None) -> Encoder:
    """Return the encoder for this model; this imports torch and takes seconds.

    :raises EncoderError: if the model cannot be loaded or is not what its folder says.
    """
    from semsearch.encoders.reference import ReferenceEncoder  # torch must not load with the package

    return ReferenceEncoder(model, device)


class LazyEncoder:
    """An encoder that is loaded when it is first needed: much of what one does with an index needs none."""

    def __init__(
        self,
        model: ModelFolder,
        device: str | None = None,
        load: Callable[[ModelFolder, str | None], Encoder] = load_encoder,
    ) -> None:
        self.spec = model.spec
        self._model = model
        self._device = device
        self._load = load
        self._lock = threading.Lock()
        self._loaded: Encoder | None = None

    @property
    def _encoder(self) -> Encoder:
        with self._lock:
            if self._loaded is None:
                self._loaded = self._load(self._model, self._device)
            return self._loaded

    @property
    def batch_tokens(self) -> int:
        """How many tokens one batch should hold."""
        return self._encoder.batch_tokens

    def count_tokens(self, passages: Sequence[str]) -> list[int]:
        """Return the tokens of each whole passage."""
        return self._encoder.count_tokens(passages)

    def encode_passages(self, passages: Sequence[str]) -> NDArray[np.float32]:
        """Return the passages' vectors, shape (n, dimension)."""
        return self._encoder.encode_passages(passages)

    def encode_queries(self, queries: Sequence[str]) -> NDArray[np.float32]:
        """Return the queries' vectors, shape (n, dimension)."""
        return self._encoder.encode_queries(queries)


def checked(vectors: NDArray[np.float32], count: int, dimension: int) -> NDArray[np.float32]:
    """Return the vectors if they are `count` finite unit rows of this dimension.

    :raises EncoderError: saying which row is wrong and how; nothing wrong is ever stored or searched with.
    """
    if vectors.shape != (count, dimension):
        raise EncoderError(
            f"the encoder gave an array of shape {vectors.shape} for {count} texts of dimension {dimension}"
        )
    lengths = np.linalg.norm(vectors, axis=1)
    wrong = np.flatnonzero(~(np.abs(lengths - 1) <= _UNIT_TOLERANCE))  # written so that NaN is wrong too
    if wrong.size:
        raise EncoderError(
            f"the encoder gave a vector of length {lengths[wrong[0]]} for text {wrong[0]} of a batch, not 1"
        )
    return vectors
