import doctest
import gzip
import io
import json
import os
import re
import subprocess
import sys
import tracemalloc
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from semsearch import readers
from semsearch.errors import RecordError, SourceError
from semsearch.papers import Paper, text_id
from semsearch.readers import FORMATS, Entry, Found, Place, Rejected, bibtex, fields, origin_of, read, services, size_of
from semsearch.readers.fields import LEFT_OUT, paper_of, readable_id

SHARED = Path(__file__).parents[2] / "shared"

GOOD = b'{"id": "a1", "title": "First title", "abstract": "First abstract."}'
ALSO_GOOD = b'{"id": "a2", "title": "Second title", "abstract": "Second abstract."}'
MEBIBYTE = 1024 * 1024


def write(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def entries(path: Path | str, **how: Any) -> list[Entry]:
    return list(read(path, **how))


def ids(path: Path | str, **how: Any) -> list[str]:
    return [entry.paper.paper_id if isinstance(entry, Found) else "-" for entry in read(path, **how)]


def papers(path: Path | str, **how: Any) -> list[Paper]:
    found = entries(path, **how)
    assert [entry for entry in found if isinstance(entry, Rejected)] == []
    return [entry.paper for entry in found if isinstance(entry, Found)]


def rejected(path: Path | str, **how: Any) -> list[Rejected]:
    return [entry for entry in read(path, **how) if isinstance(entry, Rejected)]


def until_damage(path: Path, match: str) -> list[str]:
    """Return the ids that come before the SourceError that must come."""
    found = []
    with pytest.raises(SourceError, match=match):
        for entry in read(path):
            found.append(entry.paper.paper_id if isinstance(entry, Found) else "-")
    return found


def many_lines(count: int) -> bytes:
    # Hexadecimal digits of a random source do not pack well, so that damage hits in the middle of the content.
    lines = (
        json.dumps({"id": f"n{number}", "title": f"Title {number}", "abstract": os.urandom(200).hex()})
        for number in range(count)
    )
    return "\n".join(lines).encode()


# --- JSON Lines ---------------------------------------------------------------------------------------------------


def test_jsonl_full_record(tmp_path: Path) -> None:
    record = {
        "id": "https://arxiv.org/abs/2101.00001v2",
        "title": "A  title",
        "abstract": "An abstract.",
        "authors": ["Ada Lovelace", "Alan Turing"],
        "date": "2021-01-02",
        "categories": ["cs.CL"],
        "venue": "A venue",
        "url": "https://example.org/1",
        "doi": "10.1000/ABC",
        "source": "mine",
        "citations": 7,
        "pages": "1-10",
    }
    path = write(tmp_path / "papers.jsonl", json.dumps(record) + "\n")
    assert entries(path) == [
        Found(
            Paper(
                paper_id="arxiv:2101.00001",
                title="A title",
                abstract="An abstract.",
                authors=("Ada Lovelace", "Alan Turing"),
                published="2021-01-02",
                categories=("cs.CL",),
                venue="A venue",
                url="https://example.org/1",
                doi="10.1000/abc",
                source="mine",
                popularity=7.0,
                extra={"pages": "1-10"},
            ),
            Place("papers.jsonl", 1),
        )
    ]


def test_place_reads_as_editors_write_it() -> None:
    assert str(Place("papers.jsonl", 17)) == "papers.jsonl:17"


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b'{"id": "b", "title": "T"}', r"no abstract, or a blank one \(looked for: abstract, summary, text"),
        (b'{"id": "b", "title": "T", "abstract": " \\n "}', "no abstract, or a blank one"),
        (b'{"id": "b", "title": "T", "abstract": "\\u200b\\ufeff"}', "the abstract is blank"),
        (b'{"id": "b", "title": "T", "abstract": NaN}', "holds NaN, which is not JSON"),
        (b'{"id": "b", "abstract": "A", "x": -Infinity}', "holds -Infinity, which is not JSON"),
        (b'{"id": "b", "abstract": "A", "x": 1e999}', "a number too large to be kept"),
        (b'{"id": "b", "abstract": "A", "x": ' + b"9" * 5000 + b"}", "more digits than can be read"),
        (b'{"id": "b", "abstract": "A", "id": "c"}', "has the field 'id' twice"),
        (b'{"id": "b", "abstract": "A", "x": {"y": 1, "y": 2}}', "has the field 'y' twice"),
        (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
        (b'{"abstract": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}", "nested too deeply"),
        (b'["a", "list"]', "is a list, not an object"),
        (b'"text"', "is text, not an object"),
        (b"17", "is a number, not an object"),
        (b"null", "is null, not an object"),
        (b"true", "is true or false, not an object"),
        (b"{}", "no abstract"),
        (b'{"id": "b", "abstract": "A"', r"not valid JSON: Expecting ',' delimiter at its character 28"),
        (b'{"id": "b", "abstract": "caf\xe9"}', "not valid UTF-8 at its byte 29"),
        (b'{"id": "b", "abstract": "A\\u0000"}', "the field 'abstract': the text holds a NUL"),
        (b'{"id": "b", "abstract": "A", "venue": "\\ud800"}', "the field 'venue': the text holds a lone surrogate"),
        (b'{"id": "b", "abstract": "A", "x": [{"y": "\\ud800"}]}', "the field 'x': the text holds a lone surrogate"),
        (b'{"id": "b", "abstract": "A", "\\u0000": 1}', "holds a NUL"),
        (b'{"id": "b", "title": {"en": "T"}, "abstract": "A"}', "the field 'title' is an object; expected text"),
        (b'{"id": "b", "title": "T", "Summary": ["A"]}', "the field 'Summary' is a list; expected text"),
        (b'{"id": "b", "title": true, "abstract": "A"}', "the field 'title' is true or false; expected text"),
        (b'{"id": ["b"], "title": "T", "abstract": "A"}', "the field 'id' is a list; expected text"),
        (b'{"id": "b c", "title": "T", "abstract": "A"}', "the id may hold printable ASCII"),
        (b'{"id": "../b", "title": "T", "abstract": "A"}', "the id has an empty"),
        (b'{"id": "b", "title": "%s", "abstract": "A"}' % (b"T" * 2001), "the title has 2,001 characters"),
        (b'{"id": "b", "abstract": "%s"}' % (b"A" * 100_001), "the abstract has 100,001 characters"),
        (b"\xff\xfe\x00garbage", "not valid UTF-8"),
        (b"\x00", "not valid JSON"),
    ],
)
def test_a_bad_line_is_rejected_with_its_reason_and_its_neighbours_are_kept(
    tmp_path: Path, bad: bytes, reason: str
) -> None:
    found = entries(write(tmp_path / "papers.jsonl", b"\n".join([GOOD, bad, ALSO_GOOD])))
    assert len(found) == 3
    assert isinstance(found[0], Found) and found[0].paper.paper_id == "a1"
    assert isinstance(found[1], Rejected) and found[1].place == Place("papers.jsonl", 2)
    assert re.search(reason, found[1].reason), found[1].reason
    assert isinstance(found[2], Found) and found[2].place == Place("papers.jsonl", 3)


@pytest.mark.parametrize(
    ("record", "paper_id"),
    [
        ({"id": "arXiv:2101.00001v3", "title": "T"}, "arxiv:2101.00001"),
        ({"doi": "10.1000/ABC", "title": "T"}, "doi:10.1000/abc"),
        ({"doi": "doi:10.1000/ABC", "title": "T"}, "doi:10.1000/abc"),
        ({"id": "b c", "title": "T"}, None),
        ({"id": {"$oid": "1"}, "title": "T"}, None),
        ({"doi": 17}, None),
        ({"title": "T"}, None),
    ],
)
def test_a_rejected_record_names_the_id_that_could_be_read(
    tmp_path: Path, record: dict[str, Any], paper_id: str | None
) -> None:
    assert readable_id(record) == paper_id
    (entry,) = entries(write(tmp_path / "papers.jsonl", json.dumps(record)))
    assert isinstance(entry, Rejected) and entry.paper_id == paper_id


def test_line_ends(tmp_path: Path) -> None:
    blank_lines = b"\xef\xbb\xbf" + GOOD + b"\r\n\r\n  \n\n" + ALSO_GOOD
    found = entries(write(tmp_path / "papers.jsonl", blank_lines))
    assert [(type(entry), entry.place.line) for entry in found] == [(Found, 1), (Found, 5)]


def test_only_a_newline_ends_a_line(tmp_path: Path) -> None:
    record = {"id": "a", "title": "T", "abstract": "one\u2028two\u0085three\x0bfour\x1cfive"}
    path = write(tmp_path / "papers.jsonl", json.dumps(record, ensure_ascii=False).replace("\x0b", "\\u000b"))
    path.write_bytes(path.read_bytes().replace(b"\x1c", b"\\u001c") + b"\n" + GOOD)
    assert [entry.place.line for entry in entries(path)] == [1, 2]


@pytest.mark.parametrize("name", ["empty.jsonl", "empty.json", "empty.csv", "empty.tsv", "empty.txt", "empty"])
@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_an_empty_file_yields_nothing(tmp_path: Path, name: str, content: bytes) -> None:
    assert entries(write(tmp_path / name, content)) == []


def test_an_overlong_line_is_rejected_without_being_held(tmp_path: Path) -> None:
    path = tmp_path / "papers.jsonl"
    with path.open("wb") as file:
        file.write(GOOD + b'\n{"abstract": "')
        for _ in range(40):
            file.write(b"x" * MEBIBYTE)
        file.write(b'"}\n' + ALSO_GOOD)
    tracemalloc.start()
    found = entries(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [type(entry) for entry in found] == [Found, Rejected, Found]
    assert found[1] == Rejected(Place("papers.jsonl", 2), "the record has more than 8 MiB", None)
    assert peak < 20 * MEBIBYTE


@pytest.mark.parametrize(("extra", "kind"), [(0, Found), (1, Rejected)])
def test_the_bound_of_a_record_is_8_mebibytes(tmp_path: Path, extra: int, kind: type) -> None:
    frame = b'{"id": "a", "abstract": "A", "x": ""}'
    filler = b"x" * (8 * MEBIBYTE - len(frame) + extra)
    (entry,) = entries(write(tmp_path / "papers.jsonl", frame.replace(b'""', b'"' + filler + b'"')))
    assert type(entry) is kind


# --- packed and damaged sources -----------------------------------------------------------------------------------


def packed(data: bytes, how: str) -> bytes:
    return gzip.compress(data, mtime=0) if how == "gz" else zstandard.ZstdCompressor(write_checksum=True).compress(data)


@pytest.mark.parametrize("how", ["gz", "zst"])
@pytest.mark.parametrize("name", ["papers.jsonl.{}", "papers.jsonl", "papers"])
def test_packed_content_is_known_by_its_first_bytes(tmp_path: Path, how: str, name: str) -> None:
    path = write(tmp_path / name.format(how), packed(GOOD + b"\n" + ALSO_GOOD, how))
    assert ids(path) == ["a1", "a2"]


@pytest.mark.parametrize("how", ["gz", "zst"])
def test_packed_parts_laid_end_to_end_are_one_content(tmp_path: Path, how: str) -> None:
    path = write(tmp_path / "papers.jsonl.gz", packed(GOOD + b"\n", how) + packed(ALSO_GOOD, how))
    assert ids(path) == ["a1", "a2"]


def test_padding_behind_gzip_and_a_skippable_frame_before_zstandard(tmp_path: Path) -> None:
    assert ids(write(tmp_path / "padded.jsonl.gz", packed(GOOD, "gz") + b"\x00" * 5000)) == ["a1"]
    frame = b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc"
    assert ids(write(tmp_path / "frames.jsonl.zst", frame + packed(GOOD, "zst"))) == ["a1"]


@pytest.mark.parametrize("how", ["gz", "zst"])
def test_a_cut_off_packed_file_yields_what_came_before(tmp_path: Path, how: str) -> None:
    whole = packed(many_lines(3000), how)
    found = until_damage(
        write(tmp_path / f"papers.jsonl.{how}", whole[: len(whole) // 2]), f"papers.jsonl.{how} is cut off"
    )
    assert 1000 < len(found) < 1600
    assert found == [f"n{number}" for number in range(len(found))]
    until_damage(write(tmp_path / f"papers.jsonl.{how}", whole[:-1]), "fetch or pack it again")


@pytest.mark.parametrize("how", ["gz", "zst"])
def test_a_damaged_packed_file_yields_what_came_before(tmp_path: Path, how: str) -> None:
    whole = bytearray(packed(many_lines(3000), how))
    half = len(whole) // 2
    whole[half : half + 4000] = b"\xff" * 4000
    found = until_damage(write(tmp_path / f"papers.jsonl.{how}", bytes(whole)), f"papers.jsonl.{how} is damaged")
    assert len(found) > 1000 and found[:1000] == [f"n{number}" for number in range(1000)]


@pytest.mark.parametrize("tail", [b"garbage", b"\x00garbage"])
def test_garbage_behind_gzip_is_damage(tmp_path: Path, tail: bytes) -> None:
    path = write(tmp_path / "papers.jsonl.gz", packed(GOOD + b"\n", "gz") + tail)
    assert until_damage(path, "is damaged") == ["a1"]


@pytest.mark.parametrize("how", ["gz", "zst"])
def test_a_decompression_bomb_is_refused(tmp_path: Path, how: str) -> None:
    bomb = write(tmp_path / "bomb.jsonl", packed(GOOD + b"\n" + b" " * (80 * MEBIBYTE), how))
    tracemalloc.start()
    assert until_damage(bomb, "bomb.jsonl unpacks to more than 100 times its size") == ["a1"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * MEBIBYTE


def test_a_high_ratio_is_fine_below_64_mebibytes(tmp_path: Path) -> None:
    path = write(
        tmp_path / "papers.jsonl.zst", packed(GOOD + b"\n" + (b" " * MEBIBYTE + b"\n") * 60 + ALSO_GOOD, "zst")
    )
    assert ids(path) == ["a1", "a2"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (GOOD.decode().encode("utf-16"), "UTF-16; convert it to UTF-8"),
        (GOOD.decode().encode("utf-16-le"), "UTF-16; convert it to UTF-8"),
        (GOOD.decode().encode("utf-16-be"), "UTF-16; convert it to UTF-8"),
        (b"PK\x03\x04rest", "a ZIP archive; unpack it first"),
        (b"\xfd7zXZ\x00rest", "packed with xz; unpack it first"),
        (packed(packed(GOOD, "gz"), "gz"), "packed twice"),
        (b"%PDF-1.7", "a PDF"),
    ],
)
@pytest.mark.parametrize("name", ["papers.jsonl", "papers.csv", "papers"])
def test_content_that_is_no_text_in_utf_8(tmp_path: Path, content: bytes, message: str, name: str) -> None:
    with pytest.raises(SourceError, match=f"{name} is .*{message}"):
        entries(write(tmp_path / name, content))


# --- which files --------------------------------------------------------------------------------------------------


def test_a_folder_is_read_in_natural_order(tmp_path: Path) -> None:
    names = [
        "chunk_10.jsonl",
        "chunk_2.jsonl",
        "chunk_02.jsonl",
        "Chunk_3.JSONL.GZ",
        "b/1.csv",
        "a/10/x.jsonl",
        "a/9/x.jsonl",
        ".hidden.jsonl",
        ".git/x.jsonl",
        "notes.md",
    ]
    for name in names:
        content = f"id,abstract\n{name},A" if name.endswith("csv") else json.dumps({"id": name, "abstract": "A"})
        write(tmp_path / "set" / name, content)
    found = entries(tmp_path / "set")
    expected = [
        "a/9/x.jsonl",
        "a/10/x.jsonl",
        "b/1.csv",
        "chunk_02.jsonl",
        "chunk_2.jsonl",
        "Chunk_3.JSONL.GZ",
        "chunk_10.jsonl",
    ]
    assert [entry.place.file for entry in found] == expected
    assert [entry.paper.paper_id for entry in found if isinstance(entry, Found)] == expected


def test_a_glob_is_read_in_natural_order(tmp_path: Path) -> None:
    for name in ("x10.jsonl", "x9.jsonl", "deep/x1.jsonl", "y1.jsonl"):
        write(tmp_path / name, json.dumps({"id": name, "abstract": "A"}))
    assert ids(f"{tmp_path}/x*.jsonl") == ["x9.jsonl", "x10.jsonl"]
    assert ids(f"{tmp_path}/**/x*.jsonl") == ["deep/x1.jsonl", "x9.jsonl", "x10.jsonl"]
    assert ids(f"{tmp_path}/[xy]*.jsonl") == ["x9.jsonl", "x10.jsonl", "y1.jsonl"]


def test_a_file_whose_name_looks_like_a_glob_is_a_file(tmp_path: Path) -> None:
    assert ids(write(tmp_path / "set[1].jsonl", GOOD)) == ["a1"]


def test_a_misfit_among_others_costs_itself_only(tmp_path: Path) -> None:
    write(tmp_path / "1.csv", "name,price\nA,1\n")
    write(tmp_path / "2.txt", "Please read the manual.\n\nThank you.\n")
    write(tmp_path / "3.jsonl", GOOD.decode().encode("utf-16"))
    write(tmp_path / "4.jsonl", GOOD)
    found = entries(tmp_path)
    assert [(entry.place, type(entry)) for entry in found] == [
        (Place("1.csv", 1), Rejected),
        (Place("2.txt", 1), Rejected),
        (Place("3.jsonl", 1), Rejected),
        (Place("4.jsonl", 1), Found),
    ]
    reasons = [entry.reason for entry in found if isinstance(entry, Rejected)]
    assert reasons[0].startswith("the file names no column for the abstract in its first row")
    assert reasons[1].startswith("the file is of no known format")
    assert reasons[2].startswith("the file is encoded in UTF-16")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("missing.jsonl", "there is no file or folder .*missing.jsonl"),
        ("missing/*.jsonl", r"no file matches .*\*.jsonl"),
        (
            "folder",
            "folder.* holds no file of a known format: .jsonl, .ndjson, .json, .xml, .*, .csv, .txt",
        ),
        (
            "notes.md",
            "notes.md is of no known format; if it holds papers, name its format: jsonl, json, xml, .*, page",
        ),
        ("bad\x00name", "there is no file or folder|cannot be read"),
        ("x" * 5000, "there is no file or folder|cannot be"),
        ("dangling.jsonl", "dangling.jsonl cannot be opened: No such file"),
    ],
)
def test_a_source_that_cannot_be_read_names_path_and_way_out(tmp_path: Path, source: str, message: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "dangling.jsonl").symlink_to(tmp_path / "nowhere")
    write(tmp_path / "notes.md", "Some notes\n")
    with pytest.raises(SourceError, match=message):
        entries(f"{tmp_path}/{source}")


def test_an_empty_source_is_not_the_current_folder() -> None:
    with pytest.raises(SourceError, match="there is no file or folder ''"):
        entries("")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_a_file_without_permission(tmp_path: Path) -> None:
    path = write(tmp_path / "papers.jsonl", GOOD)
    path.chmod(0)
    with pytest.raises(SourceError, match=r"papers\.jsonl cannot be opened: Permission denied"):
        entries(path)


def test_an_error_while_reading_is_a_source_error() -> None:
    class Failing(io.RawIOBase):
        def readinto(self, buffer: Any) -> int:
            raise OSError(5, "Input/output error")

        def readable(self) -> bool:
            return True

    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(SourceError, match="standard input cannot be read on: Input/output error"),
    ):
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(Failing())))
        entries("-")


def test_an_unknown_format_names_those_there_are(tmp_path: Path) -> None:
    assert FORMATS == ("jsonl", "json", "xml", "bibtex", "ris", "medline", "tsv", "csv", "page")
    with pytest.raises(SourceError, match=r"there is no format 'yaml'; choose one of jsonl, json, xml, .*, page"):
        entries(write(tmp_path / "papers.jsonl", GOOD), format="yaml")


def test_a_named_format_overrules_the_suffix(tmp_path: Path) -> None:
    assert ids(write(tmp_path / "papers.txt", "id;abstract\na;A\n"), format="csv") == ["a"]


@pytest.mark.parametrize(
    "content",
    [
        GOOD + b"\n" + ALSO_GOOD,
        b'{"broken\n' + GOOD + b"\n" + ALSO_GOOD,
        b"[" + GOOD + b"," + ALSO_GOOD + b"]",
        b'{"papers": [' + GOOD + b",\n" + ALSO_GOOD + b"]}",
        b"id,title,abstract\na1,T,A\na2,T,A\n",
        b"id\ttitle\tabstract\na1\tT\tA\na2\tT\tA\n",
        gzip.compress(b"ID;Title;Summary\na1;T;A\na2;T;A\n"),
    ],
)
def test_standard_input_is_known_by_its_content(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    found = entries("-")
    assert [entry.paper.paper_id for entry in found if isinstance(entry, Found)] == ["a1", "a2"]
    assert {entry.place.file for entry in found} == {"stdin"}


def test_no_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(SourceError, match="there is no standard input"):
        entries("-")


def test_origin_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.set").mkdir()
    assert origin_of("papers/acl-anthology.jsonl.zst") == "acl-anthology"
    assert origin_of("a.b.CSV.gz") == "a.b"
    assert origin_of("notes.md") == "notes.md"
    assert origin_of(".jsonl") == ".jsonl"
    assert origin_of(tmp_path / "my.set") == "my.set"
    assert origin_of(".") == tmp_path.name
    assert origin_of("-") == "stdin"
    assert origin_of("my.set/chunk_*.jsonl") == "my.set"
    assert origin_of(f"{tmp_path}/**/x?.csv") == tmp_path.name
    assert origin_of("chunk_*.jsonl") == "chunk_*.jsonl"


def test_the_default_source_fills_only_gaps(tmp_path: Path) -> None:
    own = b'{"abstract": "A", "source": "own"}'
    found = papers(write(tmp_path / "papers.jsonl", GOOD + b"\n" + own), default_source="given")
    assert [paper.source for paper in found] == ["given", "own"]


def test_an_unprintable_file_name_is_escaped(tmp_path: Path) -> None:
    (entry,) = entries(write(tmp_path / "a\n\x1b[31m.jsonl", GOOD))
    assert entry.place.file == r"a\n\x1b[31m.jsonl"


def test_what_was_read_adds_up_to_the_size(tmp_path: Path) -> None:
    write(tmp_path / "1.jsonl", GOOD)
    write(tmp_path / "2.jsonl.zst", packed(many_lines(2000), "zst"))
    told: list[int] = []
    entries(tmp_path, on_read=told.append)
    assert sum(told) == size_of(tmp_path) == sum(path.stat().st_size for path in tmp_path.iterdir())
    assert size_of("-") is None
    assert size_of(tmp_path / "missing") is None


# --- one JSON text ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "frame",
    [
        b"[%s]",
        b" \n[\n%s\n]\n",
        b"\xef\xbb\xbf[%s]",
        b'{"papers": [%s]}',
        b'{"meta": {"data": [1, [2]], "note": "a ] } [ \\" \\\\"}, "DATA": [%s], "total": 2, "data2": [{}]}',
        b'{"results": [%s]}',
        b'{"a": ["papers"], "records": [%s]}',
    ],
)
def test_a_list_of_papers(tmp_path: Path, frame: bytes) -> None:
    path = write(tmp_path / "papers.json", frame % (GOOD + b" ,\n " + ALSO_GOOD))
    assert ids(path) == ["a1", "a2"]


@pytest.mark.parametrize("separator", [b"\n", b"", b" \n\n"])
def test_objects_that_follow_one_another(tmp_path: Path, separator: bytes) -> None:
    assert ids(write(tmp_path / "papers.json", GOOD + separator + ALSO_GOOD)) == ["a1", "a2"]


def test_one_object_over_several_lines(tmp_path: Path) -> None:
    laid_out = json.dumps({"id": "a", "abstract": "A", "x": {"y": ["]"]}}, indent=2)
    assert ids(write(tmp_path / "papers.json", laid_out)) == ["a"]


def test_an_item_of_a_list_that_is_none_costs_itself_only(tmp_path: Path) -> None:
    items = b',\n17,\n"a, b]",\n\n  {"id": "x", "abstract": NaN},\n{"id" "x"},\n{"abstract": "caf\xe9"},,\n[[1], {}],\n'
    found = entries(write(tmp_path / "papers.json", b"[" + GOOD + items + ALSO_GOOD + b",]"))
    assert [(entry.place.line, entry.reason) for entry in found if isinstance(entry, Rejected)] == [
        (2, "the record is a number, not an object"),
        (3, "the record is text, not an object"),
        (5, "the record holds NaN, which is not JSON"),
        (6, "the record is not valid JSON: Expecting ':' delimiter at its character 7"),
        (7, "the record is not valid UTF-8 at its byte 18"),
        (7, "the list has nothing between two commas"),
        (8, "the record is a list, not an object"),
    ]
    assert [entry.paper.paper_id for entry in found if isinstance(entry, Found)] == ["a1", "a2"]


def test_text_outside_of_a_list_is_told_once(tmp_path: Path) -> None:
    found = entries(write(tmp_path / "papers.json", b"[" + GOOD + b"]\n, oops ] oops } \n" + ALSO_GOOD + b" end"))
    assert [(entry.place.line, type(entry)) for entry in found] == [
        (1, Found),
        (2, Rejected),
        (3, Found),
        (3, Rejected),
    ]
    assert isinstance(found[1], Rejected) and found[1].reason == "there is text outside of the JSON list or object"


@pytest.mark.parametrize("end", [b"", b", ", b', {"id": "x', b', {"abstract": "]}'])
def test_a_cut_off_list_yields_what_came_before(tmp_path: Path, end: bytes) -> None:
    path = write(tmp_path / "papers.json", b"[" + GOOD + b",\n" + ALSO_GOOD + b",\n{}" + end)
    found = until_damage(path, "papers.json is cut off: in line 3 a list or an object has no end")
    assert found[:2] == ["a1", "a2"]


def test_an_overlong_item_is_rejected_without_being_held(tmp_path: Path) -> None:
    overlong = b',\n{"abstract": "' + b"x" * (24 * MEBIBYTE) + b'"},\n'
    path = write(tmp_path / "papers.json", b"[" + GOOD + overlong + ALSO_GOOD + b"]")
    del overlong
    tracemalloc.start()
    found = entries(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found[1] == Rejected(Place("papers.json", 2), "the record has more than 8 MiB", None)
    assert [entry.place.line for entry in found if isinstance(entry, Found)] == [1, 3]
    assert peak < 20 * MEBIBYTE


@given(st.integers(1, 60))
def test_a_list_is_cut_alike_however_its_bytes_arrive(size: int) -> None:
    from semsearch.readers import json_document
    from semsearch.readers.streams import Stream

    tricky = b'{"note": "a\\\\", "papers": [{"a": "\\"]\\\\"},\n {"b": ["\\u005c", {"c": "}"}]},\n\n[],"x"]}{"d": 1}'
    chunks = (tricky[start : start + size] for start in range(0, len(tricky), size))
    records = list(json_document.records(Stream("test", chunks)))
    assert [tuple(record) for record in records] == [
        (1, {"a": '"]\\'}),
        (2, {"b": ["\\", {"c": "}"}]}),
        (4, "the record is a list, not an object"),
        (4, "the record is text, not an object"),
        (4, {"d": 1}),
    ]


def test_deep_nesting_in_a_list_costs_one_item(tmp_path: Path) -> None:
    deep = b"[" * 100_000 + b"]" * 100_000
    found = entries(write(tmp_path / "papers.json", b"[" + GOOD + b"," + deep + b"," + ALSO_GOOD + b"]"))
    assert [type(entry) for entry in found] == [Found, Rejected, Found]


# --- tables -------------------------------------------------------------------------------------------------------


def test_csv_with_quoted_cells_over_several_lines(tmp_path: Path) -> None:
    text = (
        "ID,Title,Abstract,Authors,Publication Date,Keywords,Pages\r\n"
        'a1,"A title, with a comma","First line\r\n\r\nthird ""line"".",Ada Lovelace; Alan Turing,2020-05,a; b,1-2\r\n'
        "\r\n"
        "a2,Plain,Plain abstract.,,,,\r\n"
    )
    found = entries(write(tmp_path / "papers.csv", text))
    assert [str(entry.place) for entry in found] == ["papers.csv:2", "papers.csv:6"]
    first, second = (entry.paper for entry in found if isinstance(entry, Found))
    assert first == Paper(
        paper_id="a1",
        title="A title, with a comma",
        abstract='First line third "line".',
        authors=("Ada Lovelace", "Alan Turing"),
        published="2020-05",
        categories=("a", "b"),
        extra={"Pages": "1-2"},
    )
    assert second == Paper(paper_id="a2", title="Plain", abstract="Plain abstract.")


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_header_of_a_csv_tells_its_delimiter(tmp_path: Path, delimiter: str) -> None:
    rows = [["id", "title", "abstract"], ["a1", "T", "A"]]
    text = "\ufeff" + "\n".join(delimiter.join(row) for row in rows)
    assert ids(write(tmp_path / "papers.csv", text)) == ["a1"]


def test_a_csv_of_one_column(tmp_path: Path) -> None:
    (paper,) = papers(write(tmp_path / "papers.csv", "abstract\nOne.\n"))
    assert paper.paper_id == text_id("", "One.")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b"b1,T,A,2020,v,w", "the row has 6 cells, the header 5"),
        (b"b1,T", "the row has 2 cells, the header 5"),
        (b"b1", "the row has 1 cells, the header 5"),
        (b"b1,T,caf\xe9,2020,v", "the record is not valid UTF-8 in line 3"),
        (b'b1,"T",caf\xe9,2020,v', "the record is not valid UTF-8 in line 3"),
        (b'b1,"T,A,2020,v', "the quotes of the row do not match"),
        (b'b1,"T"x,A,2020,v', "the quotes of the row do not match"),
        (b"b1,T\rT,A,2020,v", "the quotes of the row do not match"),
        (b"b1,T,,2020,v", "no abstract, or a blank one"),
        (b"b1,T,A\x00,2020,v", "the field 'abstract': the text holds a NUL"),
        (b"b 1,T,A,2020,v", "the id may hold"),
    ],
)
def test_a_bad_row_costs_itself_only(tmp_path: Path, row: bytes, reason: str) -> None:
    text = b"id,title,abstract,year,venue\na1,T,A,2020,v\n" + row + b'\na2,T,A,2020,v\n"a3","T","A ""quoted"" text",,\n'
    found = entries(write(tmp_path / "papers.csv", text))
    assert [entry.paper.paper_id if isinstance(entry, Found) else "-" for entry in found] == ["a1", "-", "a2", "a3"]
    bad = found[1]
    assert isinstance(bad, Rejected) and bad.place.line == 3
    assert re.search(reason, bad.reason), bad.reason


NOT_UTF_8 = (
    "the record is not valid UTF-8 in line {}; if it came from Excel, convert the file: iconv -f CP1252 -t UTF-8"
)


def test_invalid_utf_8_inside_a_quoted_cell_names_its_own_line(tmp_path: Path) -> None:
    text = b'id,abstract\na1,"one\ntw\xff\nthree"\na2,A\n'
    found = entries(write(tmp_path / "papers.csv", text))
    assert found[0] == Rejected(Place("papers.csv", 2), NOT_UTF_8.format(3), None)
    assert isinstance(found[1], Found) and found[1].place.line == 5


def test_missing_and_surplus_cells_that_hold_nothing_are_no_fault(tmp_path: Path) -> None:
    path = write(tmp_path / "papers.csv", "id,title,abstract,year,venue\na1,T,A,2020\na2,T,A\na3,T,A,2020,v,, \n")
    assert [(paper.paper_id, paper.year, paper.venue) for paper in papers(path)] == [
        ("a1", 2020, None),
        ("a2", None, None),
        ("a3", 2020, "v"),
    ]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("id,title\n", "papers.csv names no column for the abstract in its first row"),
        ("id,abstract,title,title\n", "papers.csv has 2 columns named 'title'; rename them"),
        ('id,"abstract\n', "papers.csv has no usable header: the quotes of the row do not match"),
    ],
)
def test_a_header_that_cannot_be_used(tmp_path: Path, header: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        entries(write(tmp_path / "papers.csv", header + "a,A\n"))


def test_columns_without_a_name_are_numbered(tmp_path: Path) -> None:
    (paper,) = papers(write(tmp_path / "papers.csv", ",id,abstract,\n0,a1,A,x\n"))
    assert paper.extra == {"column_1": "0", "column_4": "x"}


def test_an_oversize_cell_is_rejected(tmp_path: Path) -> None:
    plain = b"a1," + b"x" * (9 * MEBIBYTE) + b",\n"
    over_lines = b'a2,"' + (b"x" * MEBIBYTE + b"\n") * 9 + b'",\n'
    large = b"a3,A," + b"x" * (2 * MEBIBYTE) + b"\n"
    found = entries(write(tmp_path / "papers.csv", b"id,abstract,note\n" + plain + over_lines + large + b"a4,A,\n"))
    assert found[:2] == [
        Rejected(Place("papers.csv", 2), "the record has more than 8 MiB", None),
        Rejected(Place("papers.csv", 3), "the record has more than 8 MiB", None),
    ]
    assert [entry.paper.paper_id for entry in found if isinstance(entry, Found)] == ["a3", "a4"]


def test_quotes_that_never_close_cost_one_row(tmp_path: Path) -> None:
    rows = b"".join(b"n%d,A\n" % number for number in range(30_000))
    found = entries(write(tmp_path / "papers.csv", b'id,abstract\na1,"A\n' + rows))
    assert found[0] == Rejected(
        Place("papers.csv", 2), "the row has more than 10,000 lines; do its quotes match?", None
    )
    assert len(found) == 30_001 and all(isinstance(entry, Found) for entry in found[1:])


def test_tsv_with_quotes_as_text_and_as_quotes(tmp_path: Path) -> None:
    text = 'id\ttitle\tabstract\na1\t"Why?" they ask\t"A" is a letter\na2\t"A\ttab"\tA\na3\t"open\tA\na4\tT\tA\n'
    assert [(paper.paper_id, paper.title) for paper in papers(write(tmp_path / "papers.tsv", text))] == [
        ("a1", '"Why?" they ask'),
        ("a2", "A tab"),
        ("a3", '"open'),
        ("a4", "T"),
    ]


# --- the text of a results page -----------------------------------------------------------------------------------

ABSTRACT = (
    "We study {} in a setting that nobody has looked at before. Our method is simple and needs no data of its own. "
    "On three tasks it is better than what was there, and on the fourth it is no worse. We say why, and what is left."
)
PAGE = [
    "Find papers fast!",
    "Sort by date",
    "SubscribeSwimming Lessons for Graphs",
    ABSTRACT.format("graphs"),
    "Does Water Flow? A Study of Rivers and of the Many Lakes That They Feed on Their Way",
    ABSTRACT.format("rivers"),
    "Subscription Models for Birds",
    ABSTRACT.format("birds"),
]


def page(tmp_path: Path, lines: list[str]) -> list[tuple[int, str]]:
    """Return line and title, or reason in brackets, of every entry."""
    path = write(tmp_path / "page.txt", "\n".join(lines))
    return [
        (entry.place.line, entry.paper.title if isinstance(entry, Found) else f"[{entry.reason}]")
        for entry in read(path)
    ]


TITLES = [(3, "Swimming Lessons for Graphs"), (5, PAGE[4]), (7, "Subscription Models for Birds")]


def test_a_results_page(tmp_path: Path) -> None:
    assert page(tmp_path, PAGE) == TITLES
    first = papers(tmp_path / "page.txt")[0]
    assert first.abstract == ABSTRACT.format("graphs")
    assert first.paper_id == text_id("Swimming Lessons for Graphs", ABSTRACT.format("graphs"))


def test_a_results_page_is_known_by_its_content(tmp_path: Path) -> None:
    assert len(papers(write(tmp_path / "saved", "\n".join(PAGE)))) == 3
    assert len(papers(write(tmp_path / "folder" / "page.txt", "\n".join(PAGE)).parent)) == 3


def test_blank_lines_between_titles_and_abstracts(tmp_path: Path) -> None:
    spaced = [part for line in PAGE for part in (line, "", " \t")]
    assert [title for _, title in page(tmp_path, spaced)] == [title for _, title in TITLES]


def test_an_odd_title_does_not_shift_the_pairs_below_it(tmp_path: Path) -> None:
    assert page(tmp_path, [*PAGE[:4], "A Title Without Anything", *PAGE[4:], "The Last Title"]) == [
        TITLES[0],
        (5, "[a title without an abstract below it]"),
        (6, TITLES[1][1]),
        (8, TITLES[2][1]),
        (10, "[a title without an abstract below it]"),
    ]


def test_an_odd_title_that_is_a_sentence_does_not_either(tmp_path: Path) -> None:
    odd = "An Odd Title"
    sentence = "The effect of early breakfast on the sleep of late students."
    assert page(tmp_path, [*PAGE[:4], odd, sentence, *PAGE[5:]]) == [
        TITLES[0],
        (5, "[a title without an abstract below it]"),
        (6, sentence),
        (8, TITLES[2][1]),
    ]


def test_an_abstract_without_a_title_does_not_shift_the_pairs_below_it(tmp_path: Path) -> None:
    assert page(tmp_path, [*PAGE[:4], ABSTRACT.format("orphans"), *PAGE[4:]]) == [
        TITLES[0],
        (5, "[an abstract without a title above it]"),
        (6, TITLES[1][1]),
        (8, TITLES[2][1]),
    ]


def test_an_abstract_of_one_short_sentence(tmp_path: Path) -> None:
    short = "We present a tool that counts the fish in a pond."
    assert page(tmp_path, [*PAGE[:4], "Counting Fish", short, *PAGE[4:]]) == [
        TITLES[0],
        (5, "Counting Fish"),
        (7, TITLES[1][1]),
        (9, TITLES[2][1]),
    ]


def test_a_line_of_a_page_that_cannot_be_used_keeps_its_place(tmp_path: Path) -> None:
    lines = [line.encode() for line in PAGE]
    lines[5] = lines[5].replace(b"rivers", b"r\xefvers")
    lines[6:6] = [b"A Very Long Story", b"x" * (9 * MEBIBYTE)]
    found = entries(write(tmp_path / "page.txt", b"\n".join(lines)))
    assert [(entry.place.line, entry.reason if isinstance(entry, Rejected) else "") for entry in found] == [
        (3, ""),
        (5, "the record is not valid UTF-8 in line 6 at its byte 11"),
        (7, "the record has more than 8 MiB"),
        (9, ""),
    ]


def test_a_text_without_abstracts_is_no_page(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"page\.txt holds no line that reads like an abstract below a title"):
        page(tmp_path, ["A list", "of short", "lines."])


def test_the_results_page_we_were_given() -> None:
    path = SHARED / "data/pages/paper-search-results.txt"
    if not path.exists():
        pytest.skip("the shared data is not here")
    found = papers(path)
    assert len(found) == 27
    assert found[0].title.startswith("Dynamic Knowledge Routing Network")
    assert all(len(paper.title) < 130 and len(paper.abstract) > 500 for paper in found)


def test_the_papers_we_were_given() -> None:
    path = SHARED / "data/papers/acl-anthology.jsonl.zst"
    if not path.exists():
        pytest.skip("the shared data is not here")
    found = list(islice(read(path), 3000))
    assert [entry for entry in found if isinstance(entry, Rejected)] == []
    assert isinstance(found[0], Found) and found[0].paper.paper_id == "acl:1963.earlymt-1.1"
    assert (found[0].paper.authors, found[0].paper.year, found[0].paper.extra) == (("Irena Bellert",), 1963, {})


# --- fields -------------------------------------------------------------------------------------------------------


def made(**given: Any) -> Paper:
    return paper_of({"title": "T", "abstract": "A"} | given)


@pytest.mark.parametrize(
    ("given", "paper_id"),
    [
        ({"id": 17}, "17"),
        ({"id": 17.0}, "17"),
        ({"paper_id": "x"}, "x"),
        ({"arxiv_id": "2101.00001v2"}, "arxiv:2101.00001"),
        ({"arxiv_id": "2101.1"}, "arxiv:2101.10000"),
        ({"arxiv_id": 2101.1}, "arxiv:2101.10000"),
        ({"arxiv_id": 704.12}, "arxiv:0704.1200"),
        ({"arxiv_id": "hep-th/9901001"}, "arxiv:hep-th/9901001"),
        ({"acl_id": "P18-1001"}, "acl:P18-1001"),
        ({"pmid": 123}, "pmid:123"),
        ({"PMID": "123"}, "pmid:123"),
        ({"pmid": "pmid:123"}, "pmid:123"),
        ({"openalex_id": "W123"}, "openalex:W123"),
        ({"id": "https://openalex.org/W123"}, "openalex:W123"),
        ({"_id": "4983"}, "4983"),
        ({"key": "conf/x/1"}, "conf/x/1"),
        ({"doi": "https://doi.org/10.1000/ABC"}, "doi:10.1000/abc"),
        ({"id": "  ", "_id": "", "doi": None, "pmid": "5"}, "pmid:5"),
        ({"paperId": "camel"}, "camel"),
        ({"url": "https://arxiv.org/abs/2101.00001v3"}, "arxiv:2101.00001"),
        ({"url": "https://aclanthology.org/P18-1001/"}, "acl:P18-1001"),
        ({"url": "https://doi.org/10.1000/ABC"}, "doi:10.1000/abc"),
        ({"url": "https://aclanthology.org/P18-1001/", "doi": "10.1000/x"}, "doi:10.1000/x"),
        ({"url": "https://example.org/a?b=c"}, text_id("T", "A")),
        ({}, text_id("T", "A")),
    ],
)
def test_ids(given: dict[str, Any], paper_id: str) -> None:
    assert made(**given).paper_id == paper_id


def test_the_first_listed_name_wins_and_the_others_are_kept() -> None:
    paper = paper_of(
        {"_id": "db-1", "text": "the full text", "name": "N", "Abstract": "A", "Title": "T", "pmid": 5, "id": "x"}
    )
    assert (paper.paper_id, paper.title, paper.abstract) == ("x", "T", "A")
    assert paper.extra == {"_id": "db-1", "text": "the full text", "name": "N", "pmid": 5}


@pytest.mark.parametrize(
    "name", ["abstract", "Abstract", " ABSTRACT ", "summary", "text", "description", "Abstract Note"]
)
def test_names_of_the_abstract(name: str) -> None:
    assert paper_of({name: "A"}).abstract == "A"


@pytest.mark.parametrize(
    ("given", "published", "extra"),
    [
        ({"year": 2017}, "2017", {}),
        ({"year": "2017.0"}, "2017", {}),
        ({"year": 2017.0}, "2017", {}),
        ({"publishedAt": "2017-06-12T10:00:00.000Z"}, "2017-06-12", {}),
        ({"year": 2017, "date": "2017-06"}, "2017-06", {}),
        ({"date": "2017", "submitted": "2017-06-12", "year": 2017}, "2017-06-12", {}),
        ({"date": "2018-01-01", "year": 2017}, "2018-01-01", {"year": 2017}),
        ({"date": "2018", "published": "2017"}, "2018", {"published": "2017"}),
        ({"date": "2019 Jun 12"}, "2019-06-12", {}),
        ({"date": "12 June 2019"}, "2019-06-12", {}),
        ({"date": "June 12, 2019"}, "2019-06-12", {}),
        ({"date": "Sept. 2019"}, "2019-09", {}),
        ({"date": "2019 Jun-Jul", "year": 2019}, "2019-06", {}),
        ({"date": "2019 Feb 30"}, None, {"date": "2019 Feb 30"}),
        ({"date": "n.d."}, None, {"date": "n.d."}),
        ({"date": "n.d.", "year": 2017}, "2017", {"date": "n.d."}),
        ({"Publication-Date": "2017-02-30"}, None, {"Publication-Date": "2017-02-30"}),
        ({"date": ["2017"]}, None, {"date": ["2017"]}),
        ({"year": True}, None, {"year": True}),
        ({"year": 0}, None, {"year": 0}),
        ({"date": None, "year": ""}, None, {}),
    ],
)
def test_dates(given: dict[str, Any], published: str | None, extra: dict[str, Any]) -> None:
    paper = made(**given)
    assert (paper.published, paper.extra) == (published, extra)


@pytest.mark.parametrize(
    ("given", "authors", "is_kept"),
    [
        (["A B", "C D"], ("A B", "C D"), False),
        ([{"name": "A B", "_id": "1"}, {"given": "C", "family": "D"}, {"family": "E"}], ("A B", "C D", "E"), False),
        ([{"firstName": "A", "lastName": "B"}, {"lastName": "C"}], ("A B", "C"), False),
        ("A B; C D", ("A B", "C D"), False),
        ("A B and C D", ("A B", "C D"), False),
        ("B, A and D, C", ("B, A", "D, C"), False),
        ("A B, C D, E F", ("A B", "C D", "E F"), False),
        ("A B, C D and E F", ("A B", "C D", "E F"), False),
        ("A B, C D, and E F", ("A B", "C D", "E F"), False),
        ("Last, First", ("Last, First",), False),
        ("Last, F., Other, G.", ("Last, F., Other, G.",), False),
        ("Plato", ("Plato",), False),
        ("['A B', \"C O'D\"]", ("A B", "C O'D"), False),
        (["A B", 5, None], ("A B",), True),
        ({"name": "A B"}, (), True),
        (17, (), True),
        (["A" * 2001], (), True),
    ],
)
def test_authors(given: Any, authors: tuple[str, ...], is_kept: bool) -> None:
    paper = made(authors=given)
    assert paper.authors == authors
    assert paper.extra == ({"authors": given} if is_kept else {})


@pytest.mark.parametrize(
    ("given", "categories"),
    [
        ("cs.CL cs.LG", ("cs.CL", "cs.LG")),
        ("cs.CL, stat.ML hep-th", ("cs.CL", "stat.ML", "hep-th")),
        ("cs.CL", ("cs.CL",)),
        ("Parsing; Tagging", ("Parsing", "Tagging")),
        ("Biochemistry, Genetics and Molecular Biology", ("Biochemistry, Genetics and Molecular Biology",)),
        ("parsing, tagging, trees", ("parsing", "tagging", "trees")),
        ("machine learning", ("machine learning",)),
        (["a", " b ", ""], ("a", "b")),
    ],
)
def test_categories(given: Any, categories: tuple[str, ...]) -> None:
    paper = made(subjects=given)
    assert (paper.categories, paper.extra) == (categories, {})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("url", "javascript:alert(1)"),
        ("url", "https://"),
        ("url", "https://a b"),
        ("url", 17),
        ("doi", "not a doi"),
        ("doi", ["10.1000/abc"]),
        ("venue", {"name": "V"}),
        ("venue", "V" * 2001),
        ("source", 5),
        ("citations", "many"),
        ("citations", "inf"),
        ("citations", True),
        ("citations", 10**400),
        ("citations", [{"id": 1}]),
        ("keywords", {"a": 1}),
    ],
)
def test_metadata_that_is_malformed_is_kept_aside(name: str, value: Any) -> None:
    paper = made(id="x", **{name: value})
    assert paper.extra == {name: value}
    assert (paper.url, paper.doi, paper.venue, paper.source, paper.popularity) == (None,) * 5
    assert json.loads(paper.to_json())["extra"] == {name: value}


def test_metadata_that_is_well_formed() -> None:
    paper = made(PDF_URL="HTTPS://example.org/x.pdf", booktitle="B", n_citations="12", upvotes=0)
    assert (paper.url, paper.venue, paper.popularity) == ("HTTPS://example.org/x.pdf", "B", 0.0)
    assert paper.extra == {"n_citations": "12"}


def test_the_second_best_fills_in_where_the_best_is_malformed() -> None:
    paper = made(url="unknown", pdf_url="https://example.org/x.pdf", popularity="?", upvotes=3)
    assert (paper.url, paper.popularity) == ("https://example.org/x.pdf", 3.0)
    assert paper.extra == {"url": "unknown", "popularity": "?"}


def test_a_number_as_title_is_text() -> None:
    assert (made(title=1984).title, made(title=0).title) == ("1984", "0")


def test_a_paper_nested_in_an_item_is_unwrapped() -> None:
    item = {
        "paper": {"id": "2101.00001", "title": "T", "summary": "A", "authors": [{"name": "A B"}], "upvotes": 4},
        "title": "T",
        "upvotes": 5,
        "publishedAt": "2021-01-02T00:00:00.000Z",
        "numComments": 2,
    }
    assert paper_of(item) == Paper(
        paper_id="arxiv:2101.00001",
        title="T",
        abstract="A",
        authors=("A B",),
        published="2021-01-02",
        popularity=4.0,
        extra={"numComments": 2, "item_upvotes": 5},
    )


def test_extra_that_does_not_fit_is_left_out_by_name_largest_first() -> None:
    paper = made(big="x" * 9_000, middle="y" * 6_000, small="z" * 3_000, flag=True)
    assert paper.extra == {"middle": "y" * 6_000, "small": "z" * 3_000, "flag": True, LEFT_OUT: ["big"]}
    assert made(full="x" * 9_980).extra == {"full": "x" * 9_980}
    many = made(**{f"field_{number}": "x" * 10_000 for number in range(30)}).extra
    assert many[LEFT_OUT][19:] == ["field_19", "and 10 more"] and len(many) == 1


def test_extra_that_is_nested_too_deeply_is_left_out() -> None:
    deep: Any = []
    for _ in range(900):
        deep = [deep]
    paper = made(deep=deep, flat=1)
    assert paper.extra == {"flat": 1, LEFT_OUT: ["deep"]}
    assert Paper.from_json(paper.to_json()) == paper


def test_what_no_paper_has_so_many_of_is_refused() -> None:
    with pytest.raises(RecordError, match="the record has 10,001 fields; at most 10,000 are allowed"):
        made(**{f"field_{number}": 1 for number in range(9_999)})
    paper = made(authors=["A B"] * 10_001, keywords="a;" * 10_001)
    assert (paper.authors, paper.categories, paper.extra) == ((), (), {LEFT_OUT: ["authors", "keywords"]})
    assert len(made(authors=["A B"] * 10_000).authors) == 10_000


def test_an_escaped_backslash_is_not_a_nul() -> None:
    assert made(note="C:\\u0000").extra == {"note": "C:\\u0000"}


def test_a_bad_text_names_its_field() -> None:
    with pytest.raises(RecordError, match="the field 'authors': the text holds a NUL"):
        made(authors=["A\x00B"])


# --- any input ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("any")


PIECES = st.sampled_from([GOOD, PAGE[3].encode(), b"id,abstract\n", b"id\tabstract", b'{"papers": [', b"1e999", b"NaN"])
MARKS = st.sampled_from([bytes([mark]) for mark in b'",\n\r\t[]{}:\\\x00\xff'])
MAGIC = st.sampled_from([b"\xef\xbb\xbf", b"\xff\xfe", b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b""])
GARBAGE = st.binary(max_size=200) | st.tuples(MAGIC, st.lists(PIECES | MARKS, max_size=30).map(b"".join)).map(b"".join)


@settings(max_examples=400, deadline=None)
@given(GARBAGE, st.sampled_from([None, *FORMATS]), st.sampled_from(["plain", "gz", "zst", "cut gz", "cut zst"]))
def test_garbage_raises_nothing_but_source_errors(folder: Path, garbage: bytes, format: str | None, how: str) -> None:
    content = garbage if how == "plain" else packed(garbage, how.removeprefix("cut "))
    path = write(folder / "garbage", content[:-3] if how.startswith("cut") else content)
    try:
        for entry in read(path, format=format):
            assert entry.place.line >= 1
            if isinstance(entry, Found):
                assert Paper.from_json(entry.paper.to_json()) == entry.paper
    except SourceError as error:
        assert "garbage" in str(error)


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
NAMES = st.sampled_from([name for names in fields._FIELD_NAMES.values() for name in names.split()] + ["paper", "other"])
SERVICES = st.sampled_from(
    [
        *("abstract_inverted_index", "authorships", "primary_location", "topics", "display_name", "content", "pdate"),
        *("container-title", "issued", "externalIds", "versions", "update_date", "authors_parsed"),
    ]
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(NAMES | SERVICES, VALUES, max_size=8), st.booleans())
def test_any_fields_make_a_paper_that_can_be_kept_or_a_reason(given: dict[str, Any], is_complete: bool) -> None:
    record = given | ({"abstract": "A", "title": "T", "id": "x"} if is_complete else {})
    try:
        paper = paper_of(record)
        assert Paper.from_json(paper.to_json()) == paper
    except RecordError as error:
        assert str(error).isprintable()
    except ValueError as error:  # a NaN in extra, which no reader lets through
        assert "JSON compliant" in str(error)


LINES = GARBAGE.map(lambda data: data.replace(b"\n", b" "))


def survivors(path: Path, content: bytes) -> set[str]:
    return {entry.paper.paper_id for entry in read(write(path, content)) if isinstance(entry, Found)}


@settings(max_examples=300, deadline=None)
@given(LINES)
def test_the_neighbours_of_a_bad_line_survive(folder: Path, line: bytes) -> None:
    assert {"a1", "a2"} <= survivors(folder / "papers.jsonl", GOOD + b"\n" + line + b"\n" + ALSO_GOOD)


@settings(max_examples=300, deadline=None)
@given(LINES, st.sampled_from(["csv", "tsv"]))
def test_the_neighbours_of_a_bad_row_survive(folder: Path, line: bytes, suffix: str) -> None:
    rows = [b"id,title,abstract", b"a1,T,A", b"@", b"a2,T,A", b'"a3","T",A', b"a4,T,A"]
    delimiter = b"," if suffix == "csv" else b"\t"
    content = b"\n".join(line if row == b"@" else row.replace(b",", delimiter) for row in rows)
    assert {"a1", "a2", "a3", "a4"} <= survivors(folder / f"papers.{suffix}", content)


@settings(max_examples=300, deadline=None)
@given(LINES)
def test_the_neighbours_of_a_bad_line_of_a_page_survive(folder: Path, line: bytes) -> None:
    lines = [text.encode() for text in PAGE]
    expected = {paper.paper_id for paper in papers(write(folder / "page.txt", b"\n".join(lines)))}
    assert expected <= survivors(folder / "page.txt", b"\n".join([*lines[:4], line, *lines[4:]]))


# --- the room itself ----------------------------------------------------------------------------------------------


def test_a_new_format_takes_ten_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guide = Path(__file__).parents[1] / "docs" / "contributing.md"
    (example,) = re.findall(r"```python\n(.*?)```", guide.read_text(encoding="utf-8"), re.DOTALL)
    known: dict[str, Any] = {}
    exec(example, known)
    monkeypatch.setattr(readers, "READERS", (*readers.READERS, known["READER"]))
    path = write(tmp_path / "my.pairs", "One title\tOne abstract\nno tab\n")
    found = entries(path)
    assert isinstance(found[0], Found) and found[0].paper.title == "One title"
    assert isinstance(found[1], Rejected) and found[1].place == Place("my.pairs", 2)
    assert origin_of(path) == "my"
    path.rename(tmp_path / "unnamed")
    assert entries(tmp_path / "unnamed")[0].place == Place("unnamed", 1)


@pytest.mark.parametrize("module", [readers, fields, bibtex, services])
def test_examples(module: Any) -> None:
    assert doctest.testmod(module).failed == 0


def test_importing_the_readers_loads_nothing_heavy() -> None:
    code = "import sys, semsearch.readers; print([m for m in ('zstandard', 'numpy', 'torch') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
