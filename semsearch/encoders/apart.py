"""How is a model converted without all that torch takes for it staying in memory?

By a process of its own, which ends with it: one that goes on to encode and index would hold half a gigabyte more.
"""

import json
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import IO

from semsearch.encoders.model import EncoderSpec, ModelFolder
from semsearch.encoders.networks import StoredNetwork
from semsearch.errors import EncoderError
from semsearch.processes import python_module

NOT_WRITTEN = 3
"""The exit code that says that the folder cannot be written."""


def convert_apart(model: ModelFolder, folder: Path, precision: str) -> StoredNetwork:
    """Return what `semsearch.encoders.conversion.convert` stores in `folder`.

    :raises EncoderError: if the reference itself cannot be loaded, or the process was ended.
    :raises OSError: if the folder cannot be written.
    """
    command = python_module("semsearch.encoders.conversion")
    request = json.dumps({"model": asdict(model), "folder": str(folder), "precision": precision}, default=str)
    done = subprocess.run(command, input=request, capture_output=True, text=True, check=False)
    last_words = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    if done.returncode == NOT_WRITTEN:
        raise OSError(last_words)
    if done.returncode:
        raise EncoderError(f"{model.spec.name} could not be converted: {last_words}")
    return StoredNetwork.open(folder)


def read_request(source: IO[str]) -> tuple[ModelFolder, Path, str]:
    """Return the model, the folder and the precision that a process is asked to convert with."""
    request = json.load(source)
    model = request["model"]
    spec = EncoderSpec(**model.pop("spec"))
    path, network = Path(model.pop("path")), model.pop("network")
    assert network is None, "what is converted has weights"
    return ModelFolder(path=path, spec=spec, **model), Path(request["folder"]), request["precision"]
