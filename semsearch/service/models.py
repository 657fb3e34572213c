"""Which encoder makes the vector space of a generation?"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from semsearch.encoders import Encoder, EncoderSpec, ModelFolder
from semsearch.errors import EncoderError
from semsearch.generation import IndexFolder

LoadEncoder = Callable[[ModelFolder, str | None], Encoder]
FindModel = Callable[[str, Path], ModelFolder]


@dataclass(frozen=True, slots=True)
class Models:
    """Where the encoders of one index come from."""

    folder: IndexFolder
    device: str | None
    find: FindModel
    load: LoadEncoder

    def spec_of(self, name: str) -> EncoderSpec:
        """Return which vector space the model of this name makes."""
        return self.find(name, self.folder.networks).spec

    def encoder_for(self, spec: EncoderSpec, in_use: Encoder | None) -> Encoder:
        """Return the encoder in use if it makes this vector space, else a new one, loaded beside it.

        :raises EncoderError: if the model is not to be had, or makes another vector space now.
        """
        if in_use and in_use.spec.fingerprint == spec.fingerprint:
            return in_use
        model = self.find(spec.name, self.folder.networks)
        if model.spec.fingerprint != spec.fingerprint:  # before seconds go into loading it
            raise EncoderError(
                f"the index was made with {spec.name} ({spec.fingerprint[:12]}), but that name now gives another "
                f"vector space ({model.spec.fingerprint[:12]}); encode the papers anew with: "
                f"{self.folder.command} --model {spec.name}"
            )
        return self.load(model, self.device)
