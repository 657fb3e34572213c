"""What several tests need: an encoder that needs no model, papers to index, indexes made of them."""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from numpy.typing import NDArray

from semsearch.encoders import Encoder, EncoderSpec, ModelFolder, Tokenised
from semsearch.papers import Paper
from semsearch.reindex import Import, ReindexReport, update_index

settings.register_profile("semsearch", deadline=None)  # how fast the machine is just now says nothing of the code
settings.load_profile("semsearch")

SHARED = Path(__file__).parents[2] / "shared"
SAMPLES = Path(__file__).parents[1] / "semsearch" / "samples"


class FakeEncoder:
    """A hashed bag of words: the same text always gets the same vector, and texts that share words are near."""

    def __init__(self, spec: EncoderSpec, device: str | None = None) -> None:
        self.spec = spec
        self.device = device
        self.batch_tokens = 512
        self.passages: list[list[str]] = []

    def tokenise(self, passages: Sequence[str]) -> list[Tokenised]:
        whole = [len(passage.split()) + 2 for passage in passages]
        limit = self.spec.max_tokens
        return [Tokenised(text, [1] * min(n, limit), n) for text, n in zip(passages, whole, strict=True)]

    def encode_passages(self, passages: Sequence[Tokenised]) -> NDArray[np.float32]:
        self.passages.append([passage.text for passage in passages])
        return self._vectors(self.passages[-1])

    def encode_queries(self, queries: Sequence[str]) -> NDArray[np.float32]:
        return self._vectors(queries)

    def _vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        rows = np.stack([sum((self._word(word) for word in self._words(text)), self._word("")) for text in texts])
        unit: NDArray[np.float32] = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
        return unit

    @staticmethod
    def _words(text: str) -> list[str]:
        return re.findall(r"\w+", text.lower())

    def _word(self, word: str) -> NDArray[np.float64]:
        seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "little")
        return np.random.default_rng(seed).normal(size=self.spec.dimension)


def passage_vectors(encoder: Encoder, passages: Sequence[str]) -> NDArray[np.float32]:
    """Return the vectors of these passages as one batch."""
    return encoder.encode_passages(encoder.tokenise(passages))


class FakeLoader:
    """Stands in for `load_encoder` and remembers the encoders that it made."""

    def __init__(self) -> None:
        self.made: list[FakeEncoder] = []

    def __call__(self, model: ModelFolder, device: str | None = None) -> FakeEncoder:
        self.made.append(FakeEncoder(model.spec, device))
        return self.made[-1]

    @property
    def encoded(self) -> list[str]:
        return [text for encoder in self.made for batch in encoder.passages for text in batch]


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep converted networks where the tests, and the processes they start, have them to themselves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def loader() -> FakeLoader:
    return FakeLoader()


@pytest.fixture(scope="session")
def fake_encoder() -> FakeEncoder:
    return FakeEncoder(ModelFolder.find().spec)


def make_paper(number: int, words: str = "", **fields: object) -> Paper:
    """Return paper number `number`; its text is its own unless `words` says what it shares."""
    text = words or f"subject{number % 7} method{number % 5} finding{number}"
    values: dict[str, object] = {"paper_id": f"p{number}", "title": f"Paper {number}", "abstract": text} | fields
    return Paper.build(**values)  # type: ignore[arg-type]


def write_jsonl(path: Path, papers: Sequence[Paper]) -> Path:
    """Write the papers as a source that the readers read back as they are."""
    lines = [paper.to_json() for paper in papers]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


Index = Callable[..., ReindexReport]


@pytest.fixture
def index_papers(tmp_path: Path, loader: FakeLoader) -> Index:
    """Return a function that indexes papers into `tmp_path / "index"` through a source file of the given origin."""

    def run(papers: Sequence[Paper], origin: str = "test", *, sync: bool = False) -> ReindexReport:
        source = write_jsonl(tmp_path / f"{origin}.jsonl", papers)
        return update_index(tmp_path / "index", [Import(origin, (source,), sync=sync)], load=loader)

    return run
