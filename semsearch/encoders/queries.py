"""How do queries that come at once, or come again, share the encoder?"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from semsearch.batching import Shared
from semsearch.encoders.model import EncoderSpec
from semsearch.encoders.protocol import Encoder
from semsearch.encoders.tokens import Tokenised
from semsearch.latest import Latest

Vector = NDArray[np.float32]

_KEPT_VECTORS = 1_024  # 1.5 MB: the pages of an answer, and what a service hears all day
_MOST_QUERIES = 64


class SharingEncoder:
    """An encoder whose concurrent queries share batches, and whose latest query vectors are remembered."""

    def __init__(self, encoder: Encoder) -> None:
        """Stand before this encoder."""
        self.spec: EncoderSpec = encoder.spec
        self.batch_tokens = encoder.batch_tokens
        self._encoder = encoder
        self._encoded: Shared[str, Vector] = Shared(lambda batch: list(encoder.encode_queries(batch)), _MOST_QUERIES)
        self._latest: Latest[str, Vector] = Latest(_KEPT_VECTORS)

    def tokenise(self, passages: Sequence[str]) -> list[Tokenised]:
        """Return the passages' tokens."""
        return self._encoder.tokenise(passages)

    def encode_passages(self, passages: Sequence[Tokenised]) -> NDArray[np.float32]:
        """Return the passages' vectors, shape (n, dimension), as one batch."""
        return self._encoder.encode_passages(passages)

    def encode_queries(self, queries: Sequence[str]) -> NDArray[np.float32]:
        """Return the queries' vectors, shape (n, dimension); a single one is encoded with what others ask just now."""
        if len(queries) != 1:  # a batch as it is, and of nobody who will ask again
            return self._encoder.encode_queries(queries)
        (query,) = queries
        return self._latest.get(query, lambda: self._encoded(query))[None, :]
