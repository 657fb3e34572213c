"""The encoder on sentence-transformers: the reference that any faster one is checked against."""

import ctypes
import logging
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from transformers.utils import logging as transformers_logging

from semsearch.encoders.model import EncoderSpec, ModelFolder
from semsearch.encoders.tokens import Tokenised, Tokeniser
from semsearch.errors import EncoderError

logger = logging.getLogger(__name__)

# Measured with all-MiniLM-L6-v2 on two cores: 16 full abstracts are the fastest batch (18.2/s; 8: 16.6/s, 32: 14.1/s),
# because activations then stay in the cache. A GPU wants to be filled.
_CPU_BATCH_TOKENS = 4_096
_GPU_BATCH_TOKENS = 131_072

_BATCHES_PER_TRIM = 8


def _trim_memory() -> None:
    """Give freed memory back to the system, where the C library can.

    Activations of every length leave holes in glibc's heap: without this a run of 64,000 abstracts grew from 0.6 to
    1.9 GB. It takes milliseconds.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim:
        trim(0)


class ReferenceEncoder:
    """Any sentence-transformers model, on whatever device there is; safe to share between threads."""

    def __init__(self, model: ModelFolder, device: str | None = None) -> None:
        """Load the model's weights.

        :raises EncoderError: if loading fails, or the model's dimension or token limit is not what its folder says.
        """
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        self.spec: EncoderSpec = model.spec
        self._lock = threading.Lock()
        self._batches = 0
        self._tokeniser = Tokeniser(model)
        try:
            self.model = SentenceTransformer(
                str(model.path), device=device, local_files_only=True, model_kwargs={"use_safetensors": True}
            )
            dimension = self.model.encode_query(["probe"], show_progress_bar=False).shape[1]
        except Exception as error:  # the libraries below raise anything, down to bare Exception
            raise EncoderError(f"the model in {model.path} cannot be loaded: {error}") from error
        self._check_spec(model, dimension)
        self.device = str(self.model.device)
        self.batch_tokens = _CPU_BATCH_TOKENS if self.device == "cpu" else _GPU_BATCH_TOKENS
        logger.info("loaded %s on %s", model.spec.name, self.device)

    def _check_spec(self, model: ModelFolder, dimension: int) -> None:
        found = (dimension, self.model.max_seq_length)
        expected = (model.spec.dimension, model.spec.max_tokens)
        if found != expected:
            raise EncoderError(
                f"{model.path}: its files promise (dimension, tokens) {expected}, the loaded model has {found}"
            )

    def tokenise(self, passages: Sequence[str]) -> list[Tokenised]:
        """Return the passages' tokens; only their number is used, sentence-transformers makes its own."""
        return self._tokeniser.passages(passages)

    def encode_passages(self, passages: Sequence[Tokenised]) -> NDArray[np.float32]:
        """Return the passages' vectors, shape (n, dimension), float32, unit rows, as one batch.

        :raises EncoderError: if the device cannot do it, for lack of memory most of all.
        """
        with self._lock:
            self._batches += 1
            if self._batches % _BATCHES_PER_TRIM == 0:
                _trim_memory()
            return self._encoded(self.model.encode_document, [passage.text for passage in passages])

    def encode_queries(self, queries: Sequence[str]) -> NDArray[np.float32]:
        """Return the queries' vectors, shape (n, dimension), float32, unit rows.

        :raises EncoderError: if the device cannot do it.
        """
        with self._lock:
            return self._encoded(self.model.encode_query, queries)

    def _encoded(self, encode: Callable[..., Any], texts: Sequence[str]) -> NDArray[np.float32]:
        try:
            with torch.inference_mode():
                vectors = encode(list(texts), batch_size=len(texts), show_progress_bar=False, normalize_embeddings=True)
        except RuntimeError as error:  # torch's word for running out of memory, among others
            raise EncoderError(f"encoding failed on {self.device}: {error}; try --device cpu") from error
        return np.asarray(vectors, dtype=np.float32)


class Network(torch.nn.Module):
    """The model from token numbers to unit rows, as one function that can be traced."""

    def __init__(self, reference: ReferenceEncoder) -> None:
        """Take the reference's modules over; they are put into evaluation mode."""
        super().__init__()
        self._modules_in_order = reference.model
        self._token_types = "token_type_ids" in reference.model.tokenizer.model_input_names
        self.eval()

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the rows' vectors, shape (n, dimension), for token numbers and attention mask of shape (n, length)."""
        features = {"input_ids": ids, "attention_mask": mask}
        if self._token_types:
            features["token_type_ids"] = torch.zeros_like(ids)
        vectors: torch.Tensor = self._modules_in_order(features)["sentence_embedding"]
        return torch.nn.functional.normalize(vectors.float(), dim=1)  # half precision would miss length 1 by 0.4 %
