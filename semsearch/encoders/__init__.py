"""What turns texts into vectors?

    model.py        which model, and which vector space: nothing heavy is loaded for that
    tokens.py       which tokens of a text the model reads
    protocol.py     what the rest of semsearch knows of an encoder
    reference.py    sentence-transformers: what all others are checked against
    compiled.py     the converted network on OpenVINO: the fast way on a processor, without torch
    accelerated.py  the model in half precision: the fast way on a GPU
    networks.py     where converted networks are kept; conversion.py makes them, apart.py in a process of its own,
                    probes.py compares
    queries.py      how concurrent queries share an encoder
    loading.py      which of them it is to be

torch and sentence-transformers are imported in reference.py, accelerated.py and conversion.py only.
"""

import sys

from semsearch.encoders.loading import GPU_IF_ANY, LazyEncoder, find_model, int8_model, int8_place, load_encoder
from semsearch.encoders.model import DEFAULT_MODEL, INT8_SUFFIX, EncoderSpec, ModelFolder
from semsearch.encoders.protocol import Encoder, checked
from semsearch.encoders.tokens import Tokenised

# OpenVINO and NNCF report every conversion to their makers, and try to at every start without a network. Where the
# module for that cannot be imported they do without. What people search is nobody's business.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

__all__ = [
    "DEFAULT_MODEL",
    "GPU_IF_ANY",
    "INT8_SUFFIX",
    "Encoder",
    "EncoderSpec",
    "LazyEncoder",
    "ModelFolder",
    "Tokenised",
    "checked",
    "find_model",
    "int8_model",
    "int8_place",
    "load_encoder",
]
