"""The scripts that people run, as processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

from conftest import SAMPLES

from semsearch.durable import exclusive_lock
from semsearch.generation import IndexFolder

SCRIPTS = Path(__file__).parents[1] / "scripts"


def run(script: str, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(SCRIPTS / script), *map(str, arguments)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)


def test_the_demo_asks_a_question_and_gets_its_paper(tmp_path: Path) -> None:
    done = run("demo.py", "--once", "--port", "0", "--index", tmp_path / "index")
    assert done.returncode == 0, done.stderr
    assert "96 papers searchable" in done.stdout
    assert "A Programmable Dual-RNA–Guided DNA Endonuclease" in done.stdout
    assert "Open http://127.0.0.1:" in done.stdout


def test_two_reindexes_at_once_refuse_politely(tmp_path: Path) -> None:
    folder = IndexFolder(tmp_path / "index")
    with exclusive_lock(folder.reindex_lock, "reindex"):
        done = run("reindex.py", "--index", folder.path, SAMPLES)
    assert done.returncode == 1
    assert done.stderr == f"Error: reindex: another process holds {folder.reindex_lock}; wait for it to finish\n"


def test_the_measuring_scripts_explain_themselves() -> None:
    for script in [*sorted(SCRIPTS.glob("benchmark*.py")), SCRIPTS / "check_filters.py"]:
        done = run(script.name, "--help")
        assert done.returncode == 0, done.stderr
        assert script.name in done.stdout
