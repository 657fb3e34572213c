"""The encoder on OpenVINO: the model's converted network, compiled for this processor. It needs no torch."""

import logging
import os
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import openvino
from numpy.typing import NDArray

from semsearch.encoders.model import EncoderSpec, ModelFolder
from semsearch.encoders.networks import NETWORK
from semsearch.encoders.tokens import Tokenised, Tokeniser, of_one_length
from semsearch.errors import EncoderError

logger = logging.getLogger(__name__)

BFLOAT16, FLOAT32 = "bf16", "f32"
_BATCH_TOKENS = 4_096  # on two cores 1,024 to 8,192 made no difference beyond noise (24 to 26 abstracts/s in float32)
_LENGTH_STEP = 8  # passages are padded to multiples of it: each length is compiled for anew, and kept


def native_precision() -> str:
    """Return the arithmetic that this processor is fastest in among those that leave the vector space as it is."""
    able = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return BFLOAT16 if "BF16" in able else FLOAT32


class CompiledEncoder:
    """A converted model on the processor; safe to share between threads."""

    def __init__(self, model: ModelFolder, network: Path, precision: str, threads: int | None = None) -> None:
        """Compile the network in this folder.

        :param precision: the arithmetic between float32 in and float32 out, "bf16" or "f32".
        :param threads: to compute with; by default as many as this process may have cores.
        :raises EncoderError: if the runtime refuses it.
        """
        self.spec: EncoderSpec = model.spec
        self.batch_tokens = _BATCH_TOKENS
        self.precision = precision
        self._tokeniser = Tokeniser(model)
        self._lock = threading.Lock()
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
        settings = {
            "PERFORMANCE_HINT": "LATENCY",  # one inference at a time, on all those threads
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": threads or cores,
        }
        try:
            compiled = openvino.Core().compile_model(network / NETWORK, "CPU", settings)
        except RuntimeError as error:
            raise EncoderError(f"the network in {network} cannot be loaded: {error}") from error
        self._request = compiled.create_infer_request()
        logger.info("compiled %s in %s", model.spec.name, precision)

    def tokenise(self, passages: Sequence[str]) -> list[Tokenised]:
        """Return the passages' tokens."""
        return self._tokeniser.passages(passages)

    def encode_passages(self, passages: Sequence[Tokenised]) -> NDArray[np.float32]:
        """Return the passages' vectors, shape (n, dimension), float32, unit rows, as one batch."""
        return self._encoded(passages, _LENGTH_STEP)

    def encode_queries(self, queries: Sequence[str]) -> NDArray[np.float32]:
        """Return the queries' vectors, shape (n, dimension), float32, unit rows; in company the same as alone."""
        return of_one_length(self._tokeniser.queries(queries), lambda group: self._encoded(group, 1))

    def _encoded(self, batch: Sequence[Tokenised], step: int) -> NDArray[np.float32]:
        ids, mask = self._tokeniser.padded(batch, step=step)
        with self._lock:
            try:
                answer = self._request.infer({"ids": ids, "mask": mask})
            except RuntimeError as error:
                raise EncoderError(f"encoding {len(batch)} texts failed: {error}") from error
            vectors: NDArray[np.float32] = answer[0].copy()  # what it gave is its own memory, and will be used again
        return vectors
