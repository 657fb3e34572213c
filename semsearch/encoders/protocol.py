"""What does the rest of semsearch know of an encoder?"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from semsearch.encoders.model import EncoderSpec
from semsearch.encoders.tokens import Tokenised
from semsearch.errors import EncoderError

_UNIT_TOLERANCE = 1e-3


class Encoder(Protocol):
    """Texts in, unit vectors out; passages and queries apart, because some models treat them differently."""

    @property
    def spec(self) -> EncoderSpec:
        """The vector space: two encoders with one fingerprint may share vectors."""

    @property
    def batch_tokens(self) -> int:
        """How many tokens, padding included, one batch should hold for the best speed."""

    def tokenise(self, passages: Sequence[str]) -> list[Tokenised]:
        """Return the passages' tokens, as `encode_passages` takes them."""

    def encode_passages(self, passages: Sequence[Tokenised]) -> NDArray[np.float32]:
        """Return the passages' vectors, shape (n, dimension), as one batch."""

    def encode_queries(self, queries: Sequence[str]) -> NDArray[np.float32]:
        """Return the queries' vectors, shape (n, dimension)."""


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
