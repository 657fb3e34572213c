"""Which implementation encodes with this model here?

On the processor: the converted network, made at the first use and kept; where it cannot be had, sentence-transformers,
and the user is told. On any other device: the model in half precision.
"""

import ctypes
import logging
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from semsearch.durable import exclusive_lock
from semsearch.encoders.apart import convert_apart
from semsearch.encoders.model import INT8_SUFFIX, EncoderSpec, ModelFolder
from semsearch.encoders.networks import StoredNetwork, cached_place
from semsearch.encoders.protocol import Encoder
from semsearch.encoders.queries import SharingEncoder
from semsearch.encoders.tokens import Tokenised
from semsearch.errors import EncoderError

logger = logging.getLogger(__name__)

CPU, GPU_IF_ANY = "cpu", "gpu if any"
_CONVERSION_SECONDS = 600.0  # how long another process may take over the same conversion


def find_model(name: str, networks: Path) -> ModelFolder:
    """Return the model of this name, as `ModelFolder.find` does, or the int8 network that an index keeps of it.

    :param networks: the index's folder of such networks.
    :raises EncoderError: if it is not to be had, or damaged.
    """
    base = ModelFolder.find(name.removesuffix(INT8_SUFFIX))
    return int8_model(base, networks) if name.endswith(INT8_SUFFIX) else base


def int8_model(base: ModelFolder, networks: Path) -> ModelFolder:
    """Return the int8 network that stands for the base model among these.

    :raises EncoderError: if it is missing or damaged.
    """
    place = int8_place(base, networks)
    try:
        return base.in_int8(place, StoredNetwork.open(place).digests)
    except FileNotFoundError:
        trouble = "is missing"
    except EncoderError as error:
        trouble = f"is damaged ({error})"
    raise EncoderError(
        f"the int8 network in {place} {trouble}; restore it from a backup, or encode the papers anew with: "
        f"semsearch index --index {networks.parent} --model {base.spec.name} --precision float32"
    )


def int8_place(base: ModelFolder, networks: Path) -> Path:
    """Return where an index keeps its int8 network of the base model: there is one, calibrated once."""
    return networks / base.spec.fingerprint[:16]


def load_encoder(model: ModelFolder, device: str | None = None, threads: int | None = None) -> Encoder:
    """Return the encoder for this model; seconds pass only where torch is needed.

    :param device: "cpu" (the default), a device of torch's, or `GPU_IF_ANY`.
    :param threads: to compute with on the processor; by default one for each core.
    :raises EncoderError: if the model cannot be loaded or is not what its folder says.
    """
    if device == GPU_IF_ANY:
        return SharingEncoder(_on_gpu_if_any(model))
    if device in (None, CPU):
        return SharingEncoder(_on_processor(model, threads))
    assert device, "None was dealt with"
    if model.network:
        raise EncoderError(f"{model.spec.name} runs on the processor only; leave --device out")
    return SharingEncoder(_on_device(model, device))


def _on_gpu_if_any(model: ModelFolder) -> Encoder:
    if not model.network and _has_gpu():
        try:
            return _on_device(model, "cuda")
        except EncoderError as error:  # most often a torch that was built without CUDA
            logger.warning("the GPU cannot be used, the processor is: %s", error)
    return _on_processor(model)


def _on_device(model: ModelFolder, device: str) -> Encoder:
    from semsearch.encoders.accelerated import AcceleratedEncoder  # torch must not load with the package

    return AcceleratedEncoder(model, device)


def _has_gpu() -> bool:
    """Return whether NVIDIA's driver knows a device, without loading torch to find out."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int()
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0


def _on_processor(model: ModelFolder, threads: int | None = None) -> Encoder:
    from semsearch.encoders.compiled import CompiledEncoder, native_precision  # half a second

    precision = native_precision()
    if model.network:
        return CompiledEncoder(model, model.network, precision, threads)
    place = cached_place(model, precision)
    try:
        network = _stored(place) or _converted(model, place, precision)
    except OSError as error:
        logger.warning("%s cannot be written (%s), so the model is converted at every start", place, error)
        with tempfile.TemporaryDirectory() as folder:
            network = _converted(model, Path(folder) / "network", precision)
            return _compiled_or_reference(model, network, threads)
    return _compiled_or_reference(model, network, threads)


def _compiled_or_reference(model: ModelFolder, network: StoredNetwork, threads: int | None) -> Encoder:
    from semsearch.encoders.compiled import CompiledEncoder

    if not network.unfit:
        return CompiledEncoder(model, network.folder, network.precision, threads)
    from semsearch.encoders.reference import ReferenceEncoder

    logger.warning("%s is slower here than it could be: %s", model.spec.name, network.unfit)
    return ReferenceEncoder(model, CPU)


def _stored(place: Path) -> StoredNetwork | None:
    try:
        return StoredNetwork.open(place)
    except FileNotFoundError:
        return None
    except EncoderError as error:
        logger.warning("%s; the model is converted again", error)
        return None


def _converted(model: ModelFolder, place: Path, precision: str) -> StoredNetwork:
    with exclusive_lock(place.with_suffix(".lock"), "convert", _CONVERSION_SECONDS):
        stored = _stored(place)  # by another process, while this one waited
        if stored:
            return stored
        logger.warning("converting %s for this processor; this takes half a minute, once", model.spec.name)
        return convert_apart(model, place, precision)


class LazyEncoder:
    """An encoder that is loaded when it is first needed: much of what one does with an index needs none."""

    def __init__(
        self,
        model: ModelFolder,
        device: str | None = None,
        load: Callable[[ModelFolder, str | None], Encoder] = load_encoder,
    ) -> None:
        self.spec: EncoderSpec = model.spec
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

    def tokenise(self, passages: Sequence[str]) -> list[Tokenised]:
        """Return the passages' tokens."""
        return self._encoder.tokenise(passages)

    def encode_passages(self, passages: Sequence[Tokenised]) -> NDArray[np.float32]:
        """Return the passages' vectors, shape (n, dimension), as one batch."""
        return self._encoder.encode_passages(passages)

    def encode_queries(self, queries: Sequence[str]) -> NDArray[np.float32]:
        """Return the queries' vectors, shape (n, dimension)."""
        return self._encoder.encode_queries(queries)
