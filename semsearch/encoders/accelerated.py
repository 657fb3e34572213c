"""The encoder for a GPU: the model in half precision, fed with tokens that were made elsewhere."""

import logging
import threading
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from semsearch.encoders.model import EncoderSpec, ModelFolder
from semsearch.encoders.probes import LOWEST_COSINE, compared, probed
from semsearch.encoders.reference import Network, ReferenceEncoder
from semsearch.encoders.tokens import Tokenised, Tokeniser, of_one_length
from semsearch.errors import EncoderError

logger = logging.getLogger(__name__)

_BATCH_TOKENS = 131_072
_LENGTH_STEP = 8  # what tensor cores like


class AcceleratedEncoder:
    """A sentence-transformers model on a GPU; safe to share between threads."""

    def __init__(self, model: ModelFolder, device: str) -> None:
        """Load the model and halve its precision, if that leaves the vectors where they are.

        :raises EncoderError: if the device is not there, or the model cannot be loaded.
        """
        reference = ReferenceEncoder(model, device)
        expected = probed(reference)  # before its weights lose half of their digits
        self.spec: EncoderSpec = model.spec
        self.batch_tokens = _BATCH_TOKENS
        self._device = device
        self._tokeniser = Tokeniser(model)
        self._lock = threading.Lock()
        for half in (torch.float16, torch.bfloat16):  # the finer one first; only the other cannot overflow
            self._network = Network(reference).to(half)
            _, trouble = compared(probed(self), expected, LOWEST_COSINE)
            if not trouble:
                return
            logger.info("%s in %s on %s: %s", model.spec.name, half, device, trouble)
            reference = ReferenceEncoder(model, device)  # its weights have lost half of their digits
        logger.warning("%s is used in float32 on %s: in half precision %s", model.spec.name, device, trouble)
        self._network = Network(reference)

    def tokenise(self, passages: Sequence[str]) -> list[Tokenised]:
        """Return the passages' tokens."""
        return self._tokeniser.passages(passages)

    def encode_passages(self, passages: Sequence[Tokenised]) -> NDArray[np.float32]:
        """Return the passages' vectors, shape (n, dimension), float32, unit rows, as one batch.

        :raises EncoderError: if the device cannot do it, for lack of memory most of all.
        """
        return self._encoded(passages, _LENGTH_STEP)

    def encode_queries(self, queries: Sequence[str]) -> NDArray[np.float32]:
        """Return the queries' vectors, shape (n, dimension), float32, unit rows."""
        return of_one_length(self._tokeniser.queries(queries), lambda group: self._encoded(group, 1))

    def _encoded(self, batch: Sequence[Tokenised], step: int) -> NDArray[np.float32]:
        ids, mask = (torch.from_numpy(array) for array in self._tokeniser.padded(batch, step=step))
        try:
            with self._lock, torch.inference_mode():
                vectors: NDArray[np.float32] = self._network(ids.to(self._device), mask.to(self._device)).cpu().numpy()
        except RuntimeError as error:  # torch's word for running out of memory, among others
            raise EncoderError(f"encoding failed on {self._device}: {error}; try --device cpu") from error
        return vectors
