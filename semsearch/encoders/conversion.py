"""How does a model become a network for this processor, and is that still the same model?

Both ways begin with the reference, traced from token numbers to unit rows: as it is, or quantised to int8 after it has
been watched on some of the user's own abstracts. Nothing is kept before it was compared with the reference.

`python -m semsearch.encoders.conversion` is what `semsearch.encoders.apart` starts.
"""

import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import openvino
import torch

from semsearch.encoders.apart import NOT_WRITTEN, read_request
from semsearch.encoders.compiled import CompiledEncoder, native_precision
from semsearch.encoders.model import ModelFolder
from semsearch.encoders.networks import NETWORK, StoredNetwork, store
from semsearch.encoders.probes import LOWEST_COSINE, LOWEST_INT8_COSINE, compared, probed
from semsearch.encoders.reference import Network, ReferenceEncoder
from semsearch.encoders.tokens import Tokeniser
from semsearch.errors import EncoderError

logger = logging.getLogger(__name__)


def convert(model: ModelFolder, folder: Path, precision: str) -> StoredNetwork:
    """Convert the model, compare it with the reference in this arithmetic and store it in `folder`; return that.

    Where it cannot be converted, or is not near enough, the reason is stored instead.

    :raises EncoderError: if the reference itself cannot be loaded.
    """
    reference = ReferenceEncoder(model, "cpu")

    def make(into: Path) -> tuple[float, str]:
        try:
            _save(_traced(reference), into)
            found = probed(CompiledEncoder(model, into, precision))
        except Exception as error:  # both libraries raise anything on a model that they cannot follow
            return 0.0, f"it cannot be converted ({type(error).__name__}: {error})"
        return compared(found, probed(reference), LOWEST_COSINE)

    return store(folder, model.spec.fingerprint, precision, make)


def calibrate(model: ModelFolder, folder: Path, abstracts: Sequence[str]) -> StoredNetwork:
    """Quantise the model to int8, watched on these abstracts, and store it in `folder`; return that.

    Weights and the activations between layers become 8-bit numbers whose ranges are those met on the abstracts
    (post-training quantisation with NNCF's scheme for transformers).

    :param abstracts: a few hundred, of the kind that will be encoded.
    :raises EncoderError: if NNCF is not installed, or the result is too far from the reference.
    """
    try:
        import nncf  # an extra, needed once in an index's life
    except ModuleNotFoundError:
        raise EncoderError(
            "int8 needs NNCF for its calibration; install it with: pip install 'semsearch[int8]'"
        ) from None

    reference = ReferenceEncoder(model, "cpu")
    tokeniser = Tokeniser(model)

    def inputs(abstract: str) -> dict[str, Any]:
        ids, mask = tokeniser.padded(tokeniser.passages([abstract]))
        return {"ids": ids, "mask": mask}

    def make(into: Path) -> tuple[float, str]:
        watched = nncf.Dataset(list(abstracts), inputs)
        kind = nncf.ModelType.TRANSFORMER
        _save(nncf.quantize(_traced(reference), watched, model_type=kind, subset_size=len(abstracts)), into)
        found = probed(CompiledEncoder(model, into, native_precision()))
        return compared(found, probed(reference), LOWEST_INT8_COSINE)

    stored = store(folder, model.spec.fingerprint, "int8", make)
    if stored.unfit:
        raise EncoderError(f"{model.spec.name} is no model for int8: {stored.unfit}; leave --precision out")
    return stored


def _save(network: openvino.Model, into: Path) -> None:
    openvino.save_model(network, into / NETWORK, compress_to_fp16=False)


def _traced(reference: ReferenceEncoder) -> openvino.Model:
    ids = torch.tensor([[1, 2, 3, 4, 5], [1, 2, 3, 0, 0]])
    example = {"ids": ids, "mask": (ids > 0).long()}
    any_shape = openvino.PartialShape([-1, -1])
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # the tracer's worries are what the comparison is for
        traced: openvino.Model = openvino.convert_model(
            Network(reference), example_input=example, input=[("ids", any_shape), ("mask", any_shape)]
        )
    return traced


def main() -> None:
    """Do what the process that started this one has asked for."""
    try:
        convert(*read_request(sys.stdin))
    except EncoderError as error:
        sys.exit(str(error))
    except OSError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(NOT_WRITTEN)


if __name__ == "__main__":
    main()
