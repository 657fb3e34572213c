"""The whole walk, with the real model and real processes: from files to answers, and through kill -9."""

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SAMPLES, SHARED, FakeEncoder, FakeLoader, make_paper, write_jsonl
from numpy.typing import NDArray

from semsearch.encoders import Encoder, EncoderSpec, ModelFolder, Tokenised
from semsearch.encoding import MOST_UNCOMMITTED
from semsearch.generation import IndexFolder, open_current
from semsearch.library import Library
from semsearch.reindex import imports_of, update_index
from semsearch.verify import problems

README = Path(__file__).parents[1] / "README.md"
OFFLINE = os.environ | {"HF_HUB_OFFLINE": "1"}


def semsearch(*arguments: str | Path) -> str:
    """Run the command line in a process of its own and return what it printed."""
    command = [sys.executable, "-m", "semsearch.cli", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=OFFLINE, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def samples_index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an index of the papers that ship with semsearch, made by the command line."""
    index = tmp_path_factory.mktemp("walk") / "index"
    report = semsearch("index", SAMPLES, "--index", index)
    assert report.splitlines()[0] == "96 new, 0 changed, 0 unchanged"
    return index


@pytest.fixture(scope="module")
def service(samples_index: Path) -> Iterator[str]:
    """Return the address of a real service over that index."""
    command = [sys.executable, "-m", "semsearch.cli", "serve", "--index", str(samples_index), "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=OFFLINE)
    assert server.stdout is not None
    url = server.stdout.readline().strip().rsplit(" ", 1)[-1]
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"{url}/readyz", timeout=10).close()
            break
        except urllib.error.HTTPError as error:
            error.close()
            time.sleep(0.2)
    yield url
    server.terminate()
    assert server.wait(timeout=30) == -signal.SIGTERM, "it ended in order and then by the signal, as its caller meant"
    server.stdout.close()


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=60) as response:
        return json.load(response)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("how+do+bacteria+defend+themselves+against+viruses", "doi:10.1126/science.1225829"),
        ("translation+without+recurrence", "arxiv:1706.03762"),
        ("why+are+used+cars+hard+to+sell", "doi:10.2307/1879431"),
        ("the+universe+is+expanding+faster+and+faster", "doi:10.1086/300499"),
    ],
)
def test_a_question_in_plain_words_finds_its_paper(service: str, query: str, expected: str) -> None:
    results = get(f"{service}/search?q={query}&limit=3")["results"]
    assert expected in [result["paper"]["id"] for result in results]


def test_the_command_line_and_the_service_give_one_answer(service: str, samples_index: Path) -> None:
    printed = json.loads(semsearch("search", "nearest neighbour graphs", "--index", samples_index, "--json"))
    served = get(f"{service}/search?q=nearest+neighbour+graphs")
    assert printed["results"] == served["results"]
    assert printed["results"][0]["paper"]["id"] == "arxiv:1603.09320"


def test_an_evaluation_tells_a_build_by_its_exit_code_whether_it_is_below(samples_index: Path, tmp_path: Path) -> None:
    (tmp_path / "qrels").mkdir()
    papers = [
        {"_id": "w", "title": "Songs of whales", "text": "whales sing long songs in the deep sea"},
        {"_id": "s", "title": "Prices", "text": "stock prices follow a random walk"},
    ]
    asked = [{"_id": "1", "text": "who sings in the sea"}, {"_id": "2", "text": "what is not in this corpus"}]
    for name, lines in (("corpus", papers), ("queries", asked)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n1\tw\t1\n2\telsewhere\t1\n")

    def evaluated(*arguments: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "semsearch.cli", "eval", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=OFFLINE, timeout=300, check=False)
        assert "nDCG@10" in done.stdout or "title" in done.stdout, "the figures are shown in any case"
        return done.returncode, done.stderr.splitlines()[-1] if done.stderr else ""

    judged = (str(tmp_path), "--index", str(tmp_path / "index"), "--fail-under")
    assert evaluated(*judged, "0.5")[0] == 0, "which is not below: one question is answered, one cannot be"
    assert evaluated(*judged, "0.501") == (3, "nDCG@10 0.500000 is under 0.501")
    known = ("--index", str(samples_index), "--sample", "20", "--fail-under")
    assert evaluated(*known, "0.9")[0] == 0


def test_related_papers_over_http(service: str) -> None:
    related = get(f"{service}/papers/doi:10.1038/171737a0/related?limit=5")["results"]
    assert "doi:10.1038/171737a0" not in [result["paper"]["id"] for result in related]
    assert "doi:10.1073/pnas.44.7.671" in [result["paper"]["id"] for result in related]


def test_the_index_is_sound_and_answers_numpy_would_give(samples_index: Path) -> None:
    assert list(problems(IndexFolder(samples_index))) == []
    generation = open_current(IndexFolder(samples_index))
    with Library.open(IndexFolder(samples_index).library) as library:
        number = library.encoder_number(generation.manifest.encoder.fingerprint, "")
        seqs = library.all_live_seqs(library.last_seq())
        matrix = np.concatenate([vectors for _, vectors in library.vectors_at(seqs.tolist(), number)])
    scores, rows = generation.nearest(matrix, 10)
    assert np.allclose(scores, -np.sort(-(matrix @ matrix.T), axis=1)[:, :10], atol=1e-6)
    assert (rows[:, 0] == generation.rows_of(seqs)).all(), "every text finds itself"


def test_the_readme_example_runs(samples_index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    papers = write_jsonl(tmp_path / "papers.jsonl", [make_paper(1, words="a study of graphs"), make_paper(2)])
    monkeypatch.chdir(tmp_path)
    assert papers.name in example
    command = [sys.executable, "-c", example]
    done = subprocess.run(command, capture_output=True, text=True, env=OFFLINE, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "Paper 1" in done.stdout


def test_the_results_page_of_the_field_becomes_27_papers(tmp_path: Path, loader: FakeLoader) -> None:
    page = SHARED / "data" / "pages" / "paper-search-results.txt"
    if not page.exists():
        pytest.skip("the results page is not on this machine")
    report = update_index(tmp_path / "index", imports_of([page]), load=loader)
    assert (report.new, report.rejected_count) == (27, 0)


# kill -9


class SlowEncoder(FakeEncoder):
    """Writes down what it is about to encode, and takes its time."""

    def __init__(self, spec: EncoderSpec, log: Path) -> None:
        super().__init__(spec)
        self._log = log

    def encode_passages(self, passages: Sequence[Tokenised]) -> NDArray[np.float32]:
        with self._log.open("a") as file:
            file.write(json.dumps([passage.text for passage in passages]) + "\n")
        time.sleep(0.02)
        return super().encode_passages(passages)


def index_slowly(source: Path, index: Path, log: Path) -> None:
    def load(model: ModelFolder, device: str | None) -> Encoder:
        return SlowEncoder(model.spec, log)

    update_index(index, imports_of([source]), load=load)


def test_kill_9_loses_nothing_and_encodes_at_most_three_batches_again(tmp_path: Path, loader: FakeLoader) -> None:
    papers = [make_paper(number) for number in range(900)]
    source, index, log = write_jsonl(tmp_path / "s.jsonl", papers), tmp_path / "index", tmp_path / "log"
    update_index(index, imports_of([write_jsonl(tmp_path / "before.jsonl", papers[:10])], origin="s"), load=loader)
    spawn = multiprocessing.get_context("spawn")
    kills = 0
    for moment in (0, 12, 25):
        run = spawn.Process(target=index_slowly, args=(source, index, log))
        run.start()
        before = len(log.read_text().splitlines()) if log.exists() else 0
        deadline = time.monotonic() + 60
        while run.is_alive() and time.monotonic() < deadline:
            if log.exists() and len(log.read_text().splitlines()) > before + moment // 3:
                break
            time.sleep(0.005)
        if run.is_alive():
            assert run.pid is not None
            os.kill(run.pid, signal.SIGKILL)
            kills += 1
        run.join()
        assert open_current(IndexFolder(index)).papers == 10, "the previous generation serves throughout"
    assert kills == 3
    index_slowly(source, index, log)
    batches = [json.loads(line) for line in log.read_text().splitlines()]
    texts = [text for batch in batches for text in batch]
    assert len(set(texts)) == 890, "the ten that were there were never encoded again"
    assert len(texts) - len(set(texts)) <= kills * MOST_UNCOMMITTED * max(map(len, batches))
    assert open_current(IndexFolder(index)).papers == 900
    assert list(problems(IndexFolder(index))) == []
