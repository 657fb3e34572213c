"""What loads what: the order of the rooms, and what stays unloaded until it is needed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "semsearch"

# The rooms in the order in which a paper walks through them: each may import those before it, none behind it.
WALK = [
    "errors",
    "papers",
    "filters",
    "readers",
    "durable",
    "arrays",
    "processes",
    "library",
    "batching",
    "latest",
    "encoders",
    "calibration",
    "encoding",
    "additions",
    "vectors",
    "columns",
    "traits",
    "works",
    "queries",
    "lexical",
    "manifest",
    "generation",
    "stages",
    "ranking",
    "weakness",
    "publishing",
    "merging",
    "reindex",
    "evidence",
    "search",
    "verify",
    "repair",
    "copying",
    "evaluate",
    "envelope",
    "service",
    "cli",
]

# Heavy or peculiar libraries, and the only place that may import each.
HOMES = {
    "faiss": "vectors/",
    "tantivy": "lexical.py",
    "torch": "encoders/",
    "sentence_transformers": "encoders/reference.py",
    "transformers": "encoders/reference.py",
    "openvino": "encoders/",
    "nncf": "encoders/conversion.py",
    "tokenizers": "encoders/tokens.py",
    "sqlite3": "library/",
    "fastapi": "service/",
    "starlette": "service/",
    "uvicorn": "service/",
    "h11": "service/",
    "prometheus_client": "service/metrics.py",
    "zstandard": "readers/",
    "click": "cli/",
    "bibtexparser": "readers/bibtex.py",
    "pylatexenc": "readers/latex.py",
}


def imports(path: Path) -> set[str]:
    """Return the modules that a file imports, wherever in the file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports name the whole path"
            found.add(node.module or "")
    return found


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_room_imports_rooms_before_it_only(path: Path) -> None:
    if path == PACKAGE / "__init__.py":
        return
    own = WALK.index(room(path))
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "semsearch" and len(parts) > 1:
            assert WALK.index(parts[1]) <= own, f"{path.name} imports {name}, which stands behind it"


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_heavy_libraries_are_imported_in_their_one_place(path: Path) -> None:
    relative = path.relative_to(PACKAGE).as_posix()
    for name in imports(path):
        home = HOMES.get(name.split(".")[0])
        assert home is None or relative.startswith(home), f"{relative} imports {name}, whose place is {home}"


def test_no_pickle_and_no_remote_code() -> None:
    for path in modules():
        text = path.read_text(encoding="utf-8")
        assert not {"pickle", "joblib", "dill", "shelve", "marshal"} & imports(path), path
        for word in ("trust_remote_code=True", "allow_pickle=True", "weights_only=False"):
            assert word not in text, path


def test_xml_is_read_in_one_place_and_no_archive_is_unpacked_to_files() -> None:
    for path in modules():
        roots = {name.partition(".")[0] for name in imports(path)}
        assert "xml" not in roots or path.name == "xml_document.py", path
        assert not {"lxml", "defusedxml", "zipfile", "tarfile", "multipart", "yaml"} & roots, path
        assert not {"urllib.request", "http.client", "requests", "httpx", "aiohttp"} & imports(path), path


@pytest.mark.parametrize(
    "folder", sorted(path.parent for path in PACKAGE.glob("*/__init__.py")), ids=lambda path: path.name
)
def test_a_room_of_several_files_says_what_each_is_for(folder: Path) -> None:
    told = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""
    assert [path.name for path in folder.glob("[a-z]*.py") if path.name not in told] == []


def test_the_architecture_names_every_room() -> None:
    told = (PACKAGE.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert [name for name in WALK if f"`{name}.py`" not in told and f"`{name}/`" not in told] == []


HEAVY = ("torch", "faiss", "tantivy", "sentence_transformers", "transformers", "fastapi", "numpy")


def loaded_by(code: str) -> set[str]:
    """Return which heavy libraries a new process has loaded after running this code."""
    probe = f"import sys\n{code}\nprint(*sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def test_import_semsearch_loads_nothing_heavy() -> None:
    assert loaded_by("import semsearch") == set()


def test_help_loads_nothing_heavy() -> None:
    code = "sys.argv = ['semsearch', '--help']\nfrom semsearch.cli import main\ntry: main()\nexcept SystemExit: pass"
    assert loaded_by(code) == set()


def test_reindexing_what_is_known_and_related_papers_load_no_torch(tmp_path: Path) -> None:
    (tmp_path / "none.jsonl").touch()
    code = (
        "from semsearch import imports_of, update_index, Searcher\n"
        f"update_index({str(tmp_path / 'index')!r}, imports_of([{str(tmp_path / 'none.jsonl')!r}]))\n"
        f"Searcher.open({str(tmp_path / 'index')!r}).close()"
    )
    assert loaded_by(code) == {"faiss", "numpy", "tantivy"}


def test_every_public_name_is_there() -> None:
    import semsearch

    for name in semsearch.__all__:
        assert getattr(semsearch, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        semsearch.nothing  # noqa: B018
