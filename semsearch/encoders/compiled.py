"""The encoder on OpenVINO: the model's converted network, compiled for this processor. It needs no torch."""

import logging
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from semsearch.encoders.model import EncoderSpec, ModelFolder
from semsearch.encoders.networks import NETWORK
from semsearch.encoders.tokens import Tokenised, Tokeniser, of_one_length
from semsearch.errors import EncoderError

logger = logging.getLogger(__name__)

BFLOAT16, FLOAT32 = "bf16", "f32"
_TOKENS_PER_THREAD = 2_048  # from 512 to 4,096 made no difference beyond noise (24 to 26 abstracts/s in float32)
_KEPT_KERNELS = 256  # OpenVINO keeps 5,000: half a megabyte for each shape of batch, of which a service meets thousands
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
        self.precision = precision
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        self._threads = threads or cores or 1
        self.batch_tokens = self._threads * _TOKENS_PER_THREAD
        self._tokeniser = Tokeniser(model)
        self._network = network / NETWORK
        self._lock = threading.Lock()
        self._request = self._compiled({"PERFORMANCE_HINT": "LATENCY"}).create_infer_request()
        logger.info("compiled %s in %s", model.spec.name, precision)

    def _compiled(self, settings: dict[str, Any]) -> openvino.CompiledModel:
        settings |= {
            "INFERENCE_PRECISION_HINT": self.precision,
            "INFERENCE_NUM_THREADS": self._threads,
            "CPU_RUNTIME_CACHE_CAPACITY": _KEPT_KERNELS,
            "ENABLE_CPU_PINNING": False,  # each process would choose the same cores, and wait there for the others
        }
        try:
            return openvino.Core().compile_model(self._network, "CPU", settings)
        except RuntimeError as error:
            raise EncoderError(f"the network in {self._network.parent} cannot be loaded: {error}") from error

    @cached_property
    def _passage_requests(self) -> list[openvino.InferRequest]:
        """One request a thread, each with its own part of a batch: so no thread waits for another at every layer.

        Two threads on one request made 68 abstracts a second where one alone made 54 (a Xeon with AMX); on an EPYC
        (Zen 4) it is all the same. A query alone is answered sooner by all threads together.
        """
        compiled = self._compiled({"NUM_STREAMS": self._threads})
        return [compiled.create_infer_request() for _ in range(self._threads)]

    def tokenise(self, passages: Sequence[str]) -> list[Tokenised]:
        """Return the passages' tokens."""
        return self._tokeniser.passages(passages)

    def encode_passages(self, passages: Sequence[Tokenised]) -> NDArray[np.float32]:
        """Return the passages' vectors, shape (n, dimension), float32, unit rows, as one batch."""
        if len(passages) < self._threads:
            return self._together(passages, _LENGTH_STEP)
        parts = np.array_split(np.arange(len(passages)), self._threads)
        with self._lock, _failing(passages):
            underway = list(zip(self._passage_requests, parts, strict=True))
            for request, part in underway:
                request.start_async(self._padded([passages[row] for row in part], _LENGTH_STEP))
            for request, _ in underway:
                request.wait()
            return np.concatenate([request.get_output_tensor().data for request, _ in underway])

    def encode_queries(self, queries: Sequence[str]) -> NDArray[np.float32]:
        """Return the queries' vectors, shape (n, dimension), float32, unit rows; in company the same as alone."""
        return of_one_length(self._tokeniser.queries(queries), lambda group: self._together(group, 1))

    def _together(self, batch: Sequence[Tokenised], step: int) -> NDArray[np.float32]:
        with self._lock, _failing(batch):
            answer = self._request.infer(self._padded(batch, step))
            vectors: NDArray[np.float32] = answer[0].copy()  # what it gave is its own memory, and will be used again
        return vectors

    def _padded(self, batch: Sequence[Tokenised], step: int) -> dict[str, NDArray[np.int64]]:
        ids, mask = self._tokeniser.padded(batch, step=step)
        return {"ids": ids, "mask": mask}


@contextmanager
def _failing(batch: Sequence[Tokenised]) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise EncoderError(f"encoding {len(batch)} texts failed: {error}") from error
