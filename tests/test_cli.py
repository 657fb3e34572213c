"""The command line as people and scripts use it: exit code, standard output, standard error."""

import hashlib
import json
import math
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import FakeEncoder, make_paper, write_jsonl
from starlette.testclient import TestClient

from semsearch import cli, ranking, weakness
from semsearch.cli import options
from semsearch.encoders import ModelFolder

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs a command line in `tmp_path` with the fake encoder: (exit code, stdout, stderr)."""

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("semsearch.encoders.loading._on_processor", lambda model, threads=None: FakeEncoder(model.spec))

    def run(*arguments: str, stdin: str | None = None) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["semsearch", *arguments])
        if stdin is not None:
            (tmp_path / "stdin").write_text(stdin, encoding="utf-8")
            monkeypatch.setattr(sys, "stdin", (tmp_path / "stdin").open(encoding="utf-8"))
        code = 0
        try:
            cli.main()
        except SystemExit as request:
            code = int(request.code or 0)
        finally:
            if stdin is not None:
                sys.stdin.close()
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def papers(tmp_path: Path) -> Path:
    return write_jsonl(
        tmp_path / "papers.jsonl",
        [
            make_paper(1, words="whales sing long songs in the deep sea", title="Songs of whales", authors=("A. One",)),
            make_paper(
                2, words="birds learn songs from their parents", title="Birdsong", published="1999", venue="Nest"
            ),
            make_paper(3, words="stock prices follow a random walk", title="Prices", url="https://example.org/3"),
        ],
    )


def test_index_says_what_was_new_and_then_that_nothing_was(run: Run, papers: Path) -> None:
    assert run("index", "papers.jsonl") == (
        0,
        "3 new, 0 changed, 0 unchanged\n3 papers searchable (generation 1, 3 texts encoded)\n",
        "",
    )
    code, out, _ = run("index", "papers.jsonl")
    assert (code, out.splitlines()[0]) == (0, "0 new, 0 changed, 3 unchanged")


def test_index_reports_bad_records_and_keeps_their_neighbours(run: Run, papers: Path) -> None:
    papers.write_text("{broken\n" + papers.read_text() + '{"id": "p9", "title": "No abstract"}\n')
    code, out, err = run("index", "papers.jsonl")
    assert (code, out.splitlines()[0]) == (0, "3 new, 0 changed, 0 unchanged, 2 skipped")
    assert err.splitlines()[0].startswith("skipped papers.jsonl:1: ")
    assert err.splitlines()[1].startswith("skipped papers.jsonl:5: ")


def test_index_as_json(run: Run, papers: Path) -> None:
    papers.write_text(papers.read_text() + "{}\n")
    code, out, err = run("index", "papers.jsonl", "--json")
    report = json.loads(out)
    assert (code, err, report["new"], report["generation"], report["rejected_count"]) == (0, "", 3, 1, 1)
    assert report["rejected"][0]["place"] == "papers.jsonl:4"


def test_a_source_that_is_not_there_is_an_error(run: Run, papers: Path) -> None:
    code, out, err = run("index", "papers.jsonl", "nowhere.jsonl")
    assert code == 1
    assert "nowhere.jsonl" in err
    assert "3 papers searchable" in out, "the other source is read all the same"


def test_only_bad_records_are_an_error(run: Run, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text("{}\n{}\n")
    assert run("index", "bad.jsonl")[0] == 1


def test_strict_stops(run: Run, papers: Path) -> None:
    papers.write_text(papers.read_text() + "{broken\n")
    code, _, err = run("index", "papers.jsonl", "--strict")
    assert code == 1
    assert err.startswith("Error: papers.jsonl:4: ")
    assert run("index")[1].startswith("0 new, 0 changed, 0 unchanged\n3 papers searchable")


def test_sync_needs_a_source(run: Run) -> None:
    code, _, err = run("index", "--sync")
    assert code == 2
    assert "--sync needs a SOURCE" in err


def test_index_from_standard_input(run: Run, papers: Path) -> None:
    assert run("index", "-", stdin=papers.read_text())[1].startswith("3 new")


def test_search_shows_the_nearest_first(run: Run, papers: Path) -> None:
    run("index", "papers.jsonl")
    code, out, err = run("search", "what", "songs", "do", "whales", "sing", "-n", "2")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].startswith("  1. Songs of whales  0.")
    assert lines[1].strip() == "A. One"
    assert lines[2].split() == ["p1"]
    assert lines[3].strip() == "whales sing long songs in the deep sea"
    assert lines[5].startswith("  2. Birdsong")
    assert lines[6].strip() == "1999 · Nest"
    assert err.startswith("2 of 3 papers in ")


def test_search_says_when_nothing_is_good(run: Run, papers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("index", "papers.jsonl", "--index", "small")
    assert run("search", "qwpo zxmn", "--index", "small")[2].startswith("3 of 3 papers in ")
    assert json.loads(run("stats", "--json", "--index", "small")[1])["weak_below"] is None
    for name in ("FEWEST_PAPERS", "_FEWEST_WORDS", "_FEWEST_PAPERS_OF_A_WORD"):
        monkeypatch.setattr(weakness, name, 1)
    run("index", "papers.jsonl")
    code, out, err = run("search", "qwpo zxmn")
    assert (code, err.splitlines()[0]) == (0, "Note: nothing here answers this well.")
    assert out.splitlines()[0].startswith("  1. ")
    assert json.loads(run("search", "qwpo zxmn", "--json")[1])["meta"]["weak"] is True
    assert run("search", "whales sing long songs")[2].startswith("3 of 3 papers in ")
    assert json.loads(run("search", "whales sing long songs", "--json")[1])["meta"]["weak"] is False
    assert run("search", "nobody", "--mode", "lexical")[2].startswith("0 of 0 papers in "), "that says it already"
    known = json.loads(run("stats", "--json")[1])["weak_below"]
    assert (known["papers"], sorted(known["scores"])) == (3, ["dense", "hybrid"])
    (line,) = (line for line in run("stats")[1].splitlines() if line.startswith("weak "))
    assert f"{known['scores']['hybrid']:.3f} in hybrid mode" in line


def test_search_as_json_is_the_envelope_of_the_service(run: Run, papers: Path) -> None:
    run("index", "papers.jsonl")
    code, out, _ = run("search", "-", "--json", "--limit", "1", "--offset", "1", stdin="songs of birds and whales\n")
    answer = json.loads(out)
    assert code == 0
    assert answer["meta"]["total"] == 3
    assert [result["rank"] for result in answer["results"]] == [2]


def test_related_by_id_and_by_text(run: Run, papers: Path) -> None:
    run("index", "papers.jsonl")
    by_id = json.loads(run("related", "p1", "--json")[1])
    assert [result["paper"]["id"] for result in by_id["results"]] == ["p2", "p3"]
    by_text = json.loads(run("related", "--text", "random walk of stock prices", "--json")[1])
    assert by_text["results"][0]["paper"]["id"] == "p3"
    from_stdin = json.loads(run("related", "--text", "-", "--json", stdin="birds learn")[1])
    assert from_stdin["results"][0]["paper"]["id"] == "p2"


def found(run: Run, *arguments: str) -> list[str]:
    code, out, err = run(*arguments, "--json")
    assert code == 0, err
    return [result["paper"]["id"] for result in json.loads(out)["results"]]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--year", "1999"), {"p2"}),
        (("--from", "1999-02", "--to", "1999-03"), {"p2"}),
        (("--author", "a. one"), {"p1"}),
        (("--author", "one", "--author", "two"), set()),
        (("--venue", "!nest"), {"p1", "p3"}),
        (("--venue", "Ne*", "--no-doi"), {"p2"}),
        (("--has-doi",), set()),
        (("--id", "p1", "--id", "p3", "--id", "p9"), {"p1", "p3"}),
        (("--source", "papers*", "--category", "!*"), {"p1", "p2", "p3"}),
        (("--mode", "lexical"), {"p1", "p2"}),
    ],
)
def test_search_can_be_filtered(run: Run, papers: Path, options: tuple[str, ...], expected: set[str]) -> None:
    run("index", "papers.jsonl")
    assert set(found(run, "search", "songs", *options)) == expected


def test_related_can_be_filtered_and_kept_away_from_papers(run: Run, papers: Path) -> None:
    run("index", "papers.jsonl")
    assert found(run, "related", "p1", "--not", "p2") == ["p3"]
    assert found(run, "related", "p1", "--year", "1999") == ["p2"]
    assert found(run, "related", "--text", "songs", "--venue", "Nest") == ["p2"]


def test_the_syntax_of_questions_is_that_of_searching(run: Run, papers: Path) -> None:
    run("index", "papers.jsonl")
    assert found(run, "search", 'songs -parents "in the deep"') == ["p1"]
    assert found(run, "search", "author:one") == ["p1"]
    code, out, _ = run("search", "--json", "--", "-songs -sea")
    assert code == 0
    assert json.loads(out)["meta"]["total"] == 3, "there is nothing to take them from, so they are words"


def test_exact_is_what_small_indexes_always_are(run: Run, papers: Path) -> None:
    run("index", "papers.jsonl")
    code, out, _ = run("search", "songs", "--exact", "--json")
    assert code == 0
    assert json.loads(out)["meta"]["approximate"] is False


@pytest.mark.parametrize("asked", [["search", "-"], ["related", "--text", "-"]])
def test_no_standard_input_is_said_so(
    run: Run, papers: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run("index", "papers.jsonl")
    monkeypatch.setattr("sys.stdin", None)
    code, _, err = run(*asked)
    assert code == 2 and "there is no standard input to read; give the text itself" in err


def test_whoever_reads_may_have_enough(run: Run, papers: Path, tmp_path: Path) -> None:
    run("index", "papers.jsonl")
    for command in (["stats", "--json"], ["search", "songs", "--mode", "lexical"]):
        reading, writing = os.pipe()
        os.close(reading)
        semsearch = [sys.executable, "-P", "-m", "semsearch.cli", *command]
        done = subprocess.run(semsearch, stdout=writing, stderr=subprocess.PIPE, cwd=tmp_path, check=False)
        os.close(writing)
        assert (done.returncode, done.stderr) == (0, b"")


def test_an_id_is_meant_as_it_is_written(run: Run, papers: Path) -> None:
    run("index", "papers.jsonl")
    found = json.loads(run("search", "songs", "--id", "!p1", "--id", "p2", "--json")[1])
    assert [hit["paper"]["id"] for hit in found["results"]] == ["p2"]


def test_facets_follow_the_hits(run: Run, papers: Path) -> None:
    run("index", "papers.jsonl")
    code, out, _ = run("search", "songs", "--facets", "1")
    assert code == 0
    assert out.split("\n\n")[3:-1] == [
        "year\n        1  1999",
        "venue\n        1  Nest",
        "source\n        3  papers",
    ]
    assert json.loads(run("search", "songs", "--json")[1]).keys() == {"meta", "results"}


def test_versions_of_a_work_are_one_hit_or_several(run: Run, papers: Path) -> None:
    words = (
        "Owls turn their heads so far because a reservoir of blood above the neck feeds the brain meanwhile, we find."
    )
    write_jsonl(
        papers,
        [
            make_paper(1, title="How owls turn", words=words, published="2020", source="preprints"),
            make_paper(2, title="How owls turn", words=words, published="2021-05", venue="Owl"),
        ],
    )
    run("index", "papers.jsonl")
    hits = run("search", "owls")[1].strip().split("\n\n")
    assert len(hits) == 1
    assert hits[0].splitlines()[-1].strip() in ("also: p1 (preprints 2020)", "also: p2 (Owl 2021)")
    apart = run("search", "owls", "--no-collapse")[1].strip().split("\n\n")
    assert len(apart) == 2
    assert "also:" not in "".join(apart)


def test_matched_words_are_bold_on_a_terminal_only(run: Run, papers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("index", "papers.jsonl")
    assert "\033" not in run("search", "singing whale")[1]
    monkeypatch.setattr("click.utils.should_strip_ansi", lambda *_: False)
    out = run("search", "a singing whale")[1]
    assert "\033[1mwhales\033[0m \033[1msing\033[0m long songs in the deep sea" in out
    assert "\033[2mp1\033[0m" in out


def test_the_modes_are_those_there_are() -> None:
    assert options.MODES == ranking.MODES


@pytest.mark.parametrize("arguments", [(), ("p1", "--text", "words")])
def test_related_wants_ids_or_a_text(run: Run, arguments: tuple[str, ...]) -> None:
    code, _, err = run("related", *arguments)
    assert code == 2
    assert "name either papers by ID or a --text" in err


def test_a_text_has_nothing_to_keep_away_from(run: Run) -> None:
    code, _, err = run("related", "--text", "words", "--not", "p1")
    assert code == 2
    assert "--not has no meaning without papers named by ID" in err


def test_delete_then_purge(run: Run, papers: Path, tmp_path: Path) -> None:
    run("index", "papers.jsonl")
    assert run("purge", "p1")[0] == 1, "a live paper is not purged"
    assert run("delete", "p1", "p2") == (0, "2 deleted; 1 papers remain\n", "")
    assert run("purge", "p1", "--json") == (0, '{\n  "purged_versions": 1\n}\n', "")
    assert b"whales" not in (tmp_path / "indexes" / "default" / "library.db").read_bytes()
    assert json.loads(run("search", "songs", "--json")[1])["meta"]["total"] == 1


def test_purging_what_was_never_there_is_refused(run: Run, papers: Path) -> None:
    run("index", "papers.jsonl")
    code, _, err = run("purge", "p9")
    assert (code, err) == (1, "Error: the library has never held: p9; nothing was purged\n")


def test_deleting_an_unknown_paper_deletes_nothing(run: Run, papers: Path) -> None:
    run("index", "papers.jsonl")
    code, _, err = run("delete", "p1", "p9")
    assert (code, err) == (1, "Error: not in the index: p9; nothing was deleted\n")
    assert json.loads(run("stats", "--json")[1])["papers"] == 3


def test_a_deletion_that_was_interrupted_is_published_by_the_same_command(
    run: Run, papers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("index", "papers.jsonl")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("semsearch.publishing.publish_pending", interrupted)
        assert run("delete", "p1")[0] == 130
    assert json.loads(run("stats", "--json")[1])["papers"] == 3
    assert run("delete", "p1") == (0, "0 deleted; 2 papers remain\n", "")


def test_stats_and_verify(run: Run, papers: Path, tmp_path: Path) -> None:
    run("index", "papers.jsonl")
    code, out, _ = run("stats")
    assert code == 0
    assert out.splitlines()[0].split() == ["papers", "3"]
    stats = json.loads(run("stats", "--json")[1])
    assert (stats["papers"], stats["pending_changes"], stats["library"]["changes"]) == (3, 0, 3)
    assert run("verify") == (0, "sound\n", "")
    with sqlite3.connect(tmp_path / "indexes" / "default" / "library.db") as connection:
        connection.execute("UPDATE changes SET content = replace(content, 'whales', 'whalez')")
    connection.close()
    code, out, _ = run("verify")
    assert code == 1
    assert "'p1'" in out
    assert json.loads(run("verify", "--json")[1])["sound"] is False


def test_changes_that_are_not_searchable_yet_are_named(run: Run, papers: Path, tmp_path: Path) -> None:
    from semsearch.library import Library

    run("index", "papers.jsonl")
    with Library.open(tmp_path / "indexes" / "default" / "library.db") as library:
        library.delete(["p3"])
    _, _, err = run("search", "songs")
    assert err.startswith(
        "Note: 1 changes are not searchable yet; publish them with: semsearch index --index indexes/default\n"
    )
    assert "pending     1 changes" in run("stats")[1]
    assert run("index")[1] == "0 new, 0 changed, 0 unchanged\n2 papers searchable (generation 2, 0 texts encoded)\n"


@pytest.mark.parametrize("command", ["verify", "repair"])
def test_a_terminal_shows_how_far_a_check_has_come(
    run: Run, papers: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("index", "papers.jsonl")
    assert run(command) == (0, "sound\n", ""), "which is no terminal"
    monkeypatch.setenv("FORCE_COLOR", "1")  # by which rich takes anything for a terminal
    code, out, err = run(command)
    assert (code, out) == (0, "sound\n")
    assert "papers of the generation" in err
    assert "3/3" in err
    assert json.loads(run(command, "--json")[1])["sound"]


@pytest.mark.parametrize(
    "command", [("search", "x"), ("related", "x"), ("delete", "x"), ("stats",), ("verify",), ("serve",), ("eval",)]
)
def test_without_an_index_every_command_says_how_to_make_one(run: Run, command: tuple[str, ...]) -> None:
    code, out, err = run(*command, "--index", "nothing-here")
    assert (code, out) == (1, "")
    assert err == (
        "Error: there is no index in nothing-here; create one with: semsearch index --index nothing-here FILE\n"
    )
    assert not Path("nothing-here").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("search", " "), "the text is blank"),
        (("search", "x" * 10_001), "shorten it"),
        (("related", "p99"), "not in the index: 'p99'"),
        (("related", "p1", "--not", "p99"), "not in the index: 'p99'"),
        (("search", "x", "--year", "2o20"), "neither a year nor a range of years. Write for example year=2020"),
        (("search", "x", "--from", "2021", "--to", "2020"), "swap the two"),
        (("search", "x", "--limit", "100", "--offset", "950"), "both together at most 1,000"),
    ],
)
def test_bad_input_is_one_line_and_no_traceback(
    run: Run, papers: Path, arguments: tuple[str, ...], message: str
) -> None:
    run("index", "papers.jsonl")
    code, _, err = run(*arguments)
    assert code == 1
    assert err.startswith("Error: ")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "host", "rate", "name_let_in"),
    [
        ((), "127.0.0.1", 0, "localhost"),
        (("--host", "0.0.0.0"), "0.0.0.0", 60, "192.0.2.1"),
        (("--host", "0.0.0.0", "--rate-limit", "0"), "0.0.0.0", 0, "192.0.2.1"),
        (("--rate-limit", "5", "--allowed-host", "papers.example"), "127.0.0.1", 5, "papers.example"),
    ],
)
def test_where_it_serves_decides_whom_it_lets_in(
    run: Run,
    papers: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    host: str,
    rate: int,
    name_let_in: str,
) -> None:
    served: list[tuple[Any, str, int]] = []
    monkeypatch.setattr("semsearch.service.run", lambda app, host, port, on_start: served.append((app, host, port)))
    monkeypatch.setattr("semsearch.service.log_to_stderr", lambda form, private: None)
    run("index", "papers.jsonl")
    assert run("serve", *arguments, "--metrics", "none")[0] == 0
    ((app, *address),) = served
    assert address == [host, 8000]
    assert (app.state.crowd.limits.requests_per_minute, app.state.metrics_for) == (rate, "none")
    client = TestClient(app)
    assert client.get("/healthz", headers={"Host": name_let_in}).status_code == 200
    assert client.get("/healthz", headers={"Host": "attacker.example"}).status_code == 421


def test_ctrl_c_says_that_nothing_is_lost(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("semsearch.reindex.update_index", interrupted)
    code, _, err = run("index", "x.jsonl")
    assert code == 130
    assert err.strip().startswith("Interrupted. Everything committed so far is safe")


@pytest.mark.parametrize(
    "command", ["index", "search", "related", "delete", "purge", "serve", "stats", "verify", "eval"]
)
def test_every_command_has_help(run: Run, command: str) -> None:
    code, out, _ = run(command, "--help")
    assert code == 0
    assert "--index FOLDER" in out
    assert "[default: indexes/default" in " ".join(out.split())
    assert "\\b" not in out


def test_help_shows_its_examples_a_line_each(run: Run) -> None:
    assert '\n  semsearch search "next topic prediction"    nearest papers out\n' in run("--help")[1]
    assert "\n  semsearch eval --index indexes/mine --fail-under 0.95\n" in run("eval", "--help")[1]
    assert "\n  semsearch search whale songs --facets 5\n" in run("search", "--help")[1]
    assert "\n  semsearch related --text - < abstract.txt\n" in run("related", "--help")[1]


def test_the_version_is_the_packages(run: Run) -> None:
    from semsearch import __version__

    assert run("--version") == (0, f"semsearch {__version__}\n", "")


# eval


@pytest.fixture
def judged(tmp_path: Path) -> Path:
    """Return a judged set whose first query finds its paper first, whose second second, whose third never."""
    folder = tmp_path / "tiny"
    (folder / "qrels").mkdir(parents=True)
    corpus = [
        {"_id": "w", "title": "Songs of whales", "text": "whales sing long songs in the deep sea"},
        {"_id": "b", "title": "Birdsong", "text": "birds learn songs from their parents"},
        {"_id": "s", "title": "Prices", "text": "stock prices follow a random walk"},
        {"_id": "empty", "title": "Nothing in it", "text": ""},
    ]
    queries = {"1": "what songs do whales sing", "2": "what songs do whales sing in the sea", "3": "empty"}
    (folder / "corpus.jsonl").write_text("".join(json.dumps(paper) + "\n" for paper in corpus))
    lines = [json.dumps({"_id": query, "text": text}) for query, text in queries.items()]
    (folder / "queries.jsonl").write_text("\n".join(lines))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n1\tw\t1\n2\tb\t1\n3\tempty\t1\n")
    return folder


def test_eval_of_a_judged_set(run: Run, judged: Path, tmp_path: Path) -> None:
    code, out, err = run("eval", "tiny", "--json")
    assert code == 0
    assert err.splitlines() == [
        "Note: 1 records of the corpus are no papers to semsearch (no text, most often)",
        "Note: 1 relevant papers are not indexed for one of these reasons, and count as not found",
        "skipped corpus.jsonl:4: the record has no abstract, or a blank one "
        "(looked for: abstract, summary, text, description, abstract_note, abstract_text)",
    ]
    figures = json.loads(out)
    assert figures["nDCG@10"] == pytest.approx((1 + 1 / math.log2(3) + 0) / 3, abs=1e-6)
    assert figures["recall@100"] == pytest.approx(2 / 3, abs=1e-6)
    assert figures["MRR"] == pytest.approx((1 + 1 / 2 + 0) / 3, abs=1e-6)
    assert figures["queries"] == 3
    for name in ("nDCG@10", "recall@100", "MRR"):
        low, high = figures["intervals_95"][name]
        assert 0 <= low < figures[name] < high <= 1
    assert (figures["corpus"], figures["split"], figures["mode"], figures["papers"]) == ("tiny", "test", "hybrid", 3)
    assert figures["corpus_sha256"] == hashlib.sha256((judged / "corpus.jsonl").read_bytes()).hexdigest()
    assert figures["model"]["fingerprint"] == ModelFolder.find().spec.fingerprint
    assert figures["encoded"] == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny"], "the index was temporary"


def test_eval_in_every_mode_and_one_against_another(run: Run, judged: Path) -> None:
    expected = {"hybrid": 1.5 / 3, "dense": 1.5 / 3, "lexical": 1 / 3}  # most papers hold "songs": no word to look for
    for mode in options.MODES:
        save = ("--save", f"{mode}.json")
        figures = json.loads(run("eval", "tiny", "--index", "kept", "--mode", mode, *save, "--json")[1])
        assert figures["mode"] == mode
        assert figures["MRR"] == pytest.approx(expected[mode], abs=1e-6)
    code, out, _ = run("eval", "tiny", "--index", "kept", "--mode", "lexical", "--against", "dense.json")
    assert code == 0
    assert "lexical search" in out.splitlines()[0]
    assert "dense search" in out.splitlines()[1]


def test_eval_keeps_an_index_and_encodes_nothing_again(run: Run, judged: Path) -> None:
    first = json.loads(run("eval", "tiny", "--index", "kept", "--json")[1])
    second = json.loads(run("eval", "tiny", "--index", "kept", "--json")[1])
    assert (first["encoded"], second["encoded"]) == (3, 0)
    assert {name: first[name] for name in ("nDCG@10", "intervals_95", "questions_sha256")} == {
        name: second[name] for name in ("nDCG@10", "intervals_95", "questions_sha256")
    }
    assert run("verify", "--index", "kept")[0] == 0


def test_eval_refuses_to_fill_an_index_of_other_papers(run: Run, judged: Path, papers: Path) -> None:
    run("index", "papers.jsonl")
    code, _, err = run("eval", "tiny", "--index", "indexes/default")
    assert code == 1
    assert "indexes/default holds papers that are not in tiny/corpus.jsonl, such as p1" in err
    assert json.loads(run("stats", "--json")[1])["papers"] == 3


def test_eval_as_a_table_and_against_an_earlier_run(run: Run, judged: Path) -> None:
    code, out, _ = run("eval", "tiny", "--index", "kept", "--save", "before.json")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].startswith("tiny, split test: 3 papers, hybrid search, all-MiniLM-L6-v2 (")
    assert lines[3].split()[:3] == ["nDCG@10", "3", "0.5436"]
    saved = json.loads(Path("before.json").read_text())
    assert saved["per_query"]["judged"]["2"]["MRR"] == 0.5
    code, out, _ = run("eval", "tiny", "--index", "kept", "--against", "before.json", "--json")
    assert code == 0
    assert json.loads(out)["compared"]["nDCG@10"] == {
        "value": saved["nDCG@10"],
        "against": saved["nDCG@10"],
        "difference": 0,
        "low": 0,
        "high": 0,
        "p_value": 1,
    }
    saved["per_query"]["judged"]["2"]["MRR"] = 0.0
    Path("before.json").write_text(json.dumps(saved))
    compared = json.loads(run("eval", "tiny", "--index", "kept", "--against", "before.json", "--json")[1])["compared"]
    assert compared["MRR"]["difference"] == pytest.approx(0.5 / 3, abs=1e-6)


def test_eval_refuses_to_compare_what_cannot_be_compared(run: Run, judged: Path) -> None:
    run("eval", "tiny", "--index", "kept", "--save", "before.json")
    with (judged / "corpus.jsonl").open("a") as corpus:
        corpus.write('{"_id": "new", "title": "New", "text": "one more paper"}\n')
    code, out, err = run("eval", "tiny", "--index", "kept", "--against", "before.json")
    assert (code, out) == (1, "")
    assert err.startswith("Error: the earlier run was over other papers: tiny (")
    code, _, err = run("eval", "--index", "kept", "--against", "before.json")
    assert code == 1
    assert err.startswith("Error: the earlier run was over other papers")
    assert json.loads(run("stats", "--index", "kept", "--json")[1])["papers"] == 3, "it was refused before any work"


def test_eval_asks_an_index_for_what_it_holds(run: Run, papers: Path) -> None:
    run("index", "papers.jsonl")
    code, out, _ = run("eval", "--sample", "2", "--seed", "5", "--json", "--save", "run.json")
    assert code == 0
    answer = json.loads(out)
    assert (answer["corpus"], answer["split"], answer["sample"], answer["seed"]) == ("indexes/default", None, 2, 5)
    assert {test: each["queries"] for test, each in answer["tests"].items()} == {
        "title": 2,
        "partial_title": 1,
        "abstract_half": 2,
        "name": 0,
    }
    assert answer["tests"]["abstract_half"]["MRR"] == 1, "the words of an abstract find it"
    assert answer["tests"]["abstract_half"]["intervals_95"]["first"] == pytest.approx([0.3424, 1], abs=1e-4)
    code, out, _ = run("eval", "--sample", "2", "--seed", "5", "--against", "run.json")
    assert code == 0
    assert out.splitlines()[1].startswith("before: indexes/default: 3 papers")
    code, _, err = run("eval", "--sample", "2", "--seed", "4", "--against", "run.json")
    assert code == 1
    assert "give both the same judged set and split, or the same --sample and --seed" in err


def test_eval_below_the_floor_has_an_exit_code_of_its_own(run: Run, judged: Path, papers: Path) -> None:
    assert run("eval", "tiny", "--index", "kept", "--fail-under", "0.5")[0] == 0
    code, out, err = run("eval", "tiny", "--index", "kept", "--fail-under", "0.55")
    assert code == 3
    assert "nDCG@10" in out, "the figures are shown all the same"
    assert err.splitlines()[-1] == "nDCG@10 0.543643 is under 0.55"
    assert run("eval", "--index", "kept", "--fail-under", "0.3")[0] == 0
    for paper in ("w", "b", "s"):
        run("delete", paper, "--index", "kept")
    code, _, err = run("eval", "--index", "kept", "--fail-under", "0.3")
    assert (code, err) == (1, "Error: no question gives title MRR, so it cannot be compared with 0.3\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tiny", "--sample", "3"), "--sample has no meaning with a FOLDER of judgements"),
        (("--split", "test"), "--split has no meaning without a FOLDER of judgements"),
        (("--model", "x"), "--model has no meaning without a FOLDER of judgements"),
        (("tiny", "--save", "nowhere/run.json"), "--save: there is no folder nowhere"),
        (("tiny", "--fail-under", "70"), "70.0 is not in the range 0<=x<=1"),
        (("tiny", "--against", "nothing.json"), "File 'nothing.json' does not exist"),
        (("tiny", "--mode", "psychic"), "'psychic' is not one of 'hybrid', 'dense', 'lexical'"),
    ],
)
def test_eval_used_wrongly(run: Run, judged: Path, arguments: tuple[str, ...], message: str) -> None:
    code, out, err = run("eval", *arguments)
    assert (code, out) == (2, "")
    assert message in err


def test_eval_of_a_split_that_is_not_there(run: Run, judged: Path) -> None:
    assert run("eval", "tiny", "--split", "train") == (1, "", "Error: tiny has no split 'train'; it has test\n")


def test_eval_interrupted_says_what_was_kept(run: Run, judged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("semsearch.evaluate.ask_judged", interrupted)
    code, _, err = run("eval", "tiny")
    assert code == 130
    assert err.splitlines()[-1] == "Interrupted. Nothing was kept; with --index FOLDER a run goes on where it was."
    code, _, err = run("eval", "tiny", "--index", "kept")
    assert code == 130
    assert "Everything committed so far is safe" in err


# Another model, and copies


def other_model(tmp_path: Path) -> str:
    """Return the folder of a copy of the default model that reads fewer tokens, and so has another vector space."""
    original = ModelFolder.find().path
    copy = tmp_path / "other-model"
    copy.mkdir()
    for path in sorted(original.rglob("*")):
        target = copy / path.relative_to(original)
        if path.is_dir():
            target.mkdir()
        elif path.suffix == ".safetensors":
            target.symlink_to(path)
        else:
            target.write_bytes(path.read_bytes())
    config = copy / "sentence_bert_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"max_seq_length": 128}))
    return str(copy)


def test_a_model_is_staged_compared_switched_to_and_rolled_back(run: Run, papers: Path, tmp_path: Path) -> None:
    run("index", "papers.jsonl")
    assert run("switch") == (
        1,
        "",
        "Error: nothing is staged in indexes/default; build a generation of another model beside the live one with: "
        "semsearch stage --index indexes/default MODEL\n",
    )
    code, _, err = run("rollback")
    assert (code, "no generation of another model than the live one is kept" in err) == (1, True)
    other = other_model(tmp_path)
    code, out, _ = run("stage", other)
    assert (code, out.splitlines()[0]) == (
        0,
        f"3 papers staged for {other} (3 texts encoded); the live model is as it was",
    )
    assert json.loads(run("stats", "--json")[1])["staged"] == other
    compared = json.loads(run("compare", "--json", "--sample", "3")[1])
    assert compared["overlap"]["overlap@1"] == 1.0, "the fake encoder is the same for both"
    assert compared["overlap"]["questions"] == 7, "three titles, one of which has two words to drop one of, and halves"
    assert compared["tests"]["title"]["compared"]["MRR"]["p_value"] == 1.0
    assert (compared["model"]["name"], compared["against"]["model"]["name"]) == (other, "all-MiniLM-L6-v2")
    code, out, _ = run("compare", "--sample", "3")
    assert code == 0
    assert out.splitlines()[1].startswith("live: indexes/default: 3 papers, hybrid search, all-MiniLM-L6-v2 (")
    assert out.splitlines()[-4:] == [
        "overlap@1    1.0000",
        "overlap@10   1.0000",
        "overlap@100  1.0000",
        "questions    7",
    ]
    run("delete", "p1")
    assert run("switch") == (
        0,
        f"{other} is live, all-MiniLM-L6-v2 was: 2 papers searchable (generation 3, 0 texts encoded)\n",
        "",
    )
    found = json.loads(run("stats", "--json")[1])
    assert (found["model"]["name"], found["staged"], found["before"]) == (other, None, "all-MiniLM-L6-v2")
    assert f"before      {found['before']}, to which" in run("stats")[1]
    assert json.loads(run("compare", "--json", "--sample", "2")[1])["model"]["name"] == "all-MiniLM-L6-v2"
    assert json.loads(run("rollback", "--json")[1]) == {
        "model": "all-MiniLM-L6-v2",
        "before": other,
        "generation": 4,
        "papers": 2,
        "encoded": 0,
    }


def test_models_are_compared_by_judgements_too(run: Run, papers: Path, tmp_path: Path) -> None:
    run("index", "papers.jsonl")
    run("stage", other_model(tmp_path))
    judged = tmp_path / "judged"
    (judged / "qrels").mkdir(parents=True)
    (judged / "corpus.jsonl").write_text('{"_id": "p1", "title": "x", "text": "y"}\n{"_id": "q9", "text": "z"}\n')
    (judged / "queries.jsonl").write_text('{"_id": "1", "text": "songs in the sea"}\n{"_id": "2", "text": "prices"}\n')
    (judged / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n1\tp1\t1\n2\tq9\t1\n")
    code, out, err = run("compare", "judged", "--json")
    result = json.loads(out)
    assert (code, "Note: 1 of 2 relevant papers are not in the index\n" in err) == (0, True)
    assert (result["nDCG@10"], result["queries"], result["overlap"]["questions"]) == (0.5, 2, 2)
    (judged / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n2\tq9\t1\n")
    code, _, err = run("compare", "judged")
    assert (code, err) == (1, "Error: the index holds none of the papers that judged calls relevant\n")


def test_an_index_is_backed_up_restored_and_repaired(run: Run, papers: Path, tmp_path: Path) -> None:
    run("index", "papers.jsonl")
    assert run("backup", "copy") == (0, "copy holds all of indexes/default, and is sound\n", "")
    code, _, err = run("backup", "copy")
    assert (code, err.startswith("Error: ")) == (1, True)
    assert err.endswith("copy exists already, and a backup never goes over anything; name a new folder\n")
    run("delete", "p1")
    code, _, err = run("restore", "copy")
    assert (code, "nothing is written over; move it aside with --aside" in err) == (1, True)
    code, out, _ = run("restore", "copy", "--aside", "--json")
    aside = json.loads(out)["aside"]
    assert code == 0
    assert Path(aside).is_dir()
    assert json.loads(run("stats", "--json")[1])["papers"] == 3
    assert run("repair") == (0, "sound\n", "")
    assert run("verify", "--deep") == (0, "sound\n", "")
    (tmp_path / "indexes/default/CURRENT").unlink()
    code, out, _ = run("repair")
    assert (code, out) == (0, "published generation 2 with 3 papers from the library\nsound\n")
    connection = sqlite3.connect(tmp_path / "indexes/default/library.db")
    connection.execute("UPDATE changes SET content = 'x' WHERE seq = 2")
    connection.commit()
    connection.close()
    code, out, _ = run("repair")
    assert code == 1
    assert out.splitlines()[-1] == f"problems left: {len(out.splitlines()) - 1}"
    assert "paper 'p3' (seq 2) fails its digest" in out
    assert json.loads(run("repair", "--json")[1])["sound"] is False
