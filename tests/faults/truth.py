"""What should an index answer, and does it?

An index of three generations, each of which answers differently, and all that can be asked of it: by meaning, by words
and by both, with filters and facets, by id. Whatever is done to a copy of it, what it answers must be what one of these
generations answered.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from storage import SPEC, Shelf, files_below, rich_paper, vector_of

from semsearch.encoders import Tokenised
from semsearch.errors import PaperNotFoundError
from semsearch.filters import parse_filter
from semsearch.generation import Generation, IndexFolder
from semsearch.library import Library
from semsearch.publishing import check_made_from
from semsearch.ranking import Mode
from semsearch.search import Page, Searcher

LIVE = 3
PAPERS = 44
UNPUBLISHED = 3
_EVERY_PAPER = Page(limit=50, collapse="none", facet_values=50)
_QUESTIONS: tuple[tuple[str, Mode, Page], ...] = (
    ("weighted grammars", "dense", _EVERY_PAPER),
    ("folding proteins of kind2", "lexical", _EVERY_PAPER),
    ("folding proteins of kind2", "hybrid", Page(limit=5, where=parse_filter([("year", "!2000")]), facet_values=5)),
    ('"retinal images" -contacts author:byron', "hybrid", Page(limit=5, collapse="none")),
)


class StubEncoder:
    """Gives each text a vector of its own, drawn by its digest: costs nothing, and is the same in every process."""

    spec = SPEC
    batch_tokens = 4_096

    def tokenise(self, passages: Sequence[str]) -> list[Tokenised]:
        """Return as many tokens as there are words."""
        return [Tokenised(text, [1] * min(n, 256), n) for text in passages for n in [len(text.split())]]

    def encode_passages(self, passages: Sequence[Tokenised]) -> NDArray[np.float32]:
        """Return the passages' vectors."""
        return self.encode_queries([passage.text for passage in passages])

    def encode_queries(self, queries: Sequence[str]) -> NDArray[np.float32]:
        """Return the queries' vectors."""
        return np.stack([vector_of(text) for text in queries])


def make_index(path: Path, first: int = 0) -> None:
    """Make the index: 44 papers in three generations, each of which shares files with the one before.

    The library is closed as a killed process leaves it: the last generation's papers, and `UNPUBLISHED` that no
    generation has yet, stand in the write-ahead log alone.
    """
    shelf = Shelf(path)
    for papers, gone in ((range(20), []), (range(10, 40), [3]), (range(40, PAPERS), [1, 12])):
        shelf.library._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        older_library(path).write_bytes(shelf.folder.library.read_bytes())
        shelf.add([rich_paper(first + number, len(papers)) for number in papers])
        shelf.delete([f"p{first + number}" for number in gone])
        shelf.publish()
    for number in range(PAPERS, PAPERS + UNPUBLISHED):
        shelf.add([rich_paper(first + number, 0)])
    logged = {path.name: path.read_bytes() for path in path.glob("library.db*") if not path.name.endswith("-shm")}
    shelf.library.close()
    for name, data in logged.items():
        (path / name).write_bytes(data)


def older_library(path: Path) -> Path:
    """Return where a copy of this index's library stands, as it was before the last generation's papers came."""
    return path.with_suffix(".older")


def searcher_of(folder: IndexFolder, generation: Generation) -> Searcher:
    """Return a searcher over this generation, as `Searcher.open` joins it."""
    library = Library.open(folder.library)
    check_made_from(library, generation)
    return Searcher(library, generation, StubEncoder())


def answers(searcher: Searcher) -> dict[str, Any]:
    """Return what is answered to everything that is asked, exactly."""
    found: dict[str, Any] = {}
    for query, mode, page in _QUESTIONS:
        answer = asdict(searcher.search(query, page, mode))
        del answer["took_ms"], answer["generation"]
        found[f"{mode} {query}"] = answer
    found["related"] = [hit.paper.paper_id for hit in searcher.related(["p5", "p15"], Page(3)).hits]
    found["papers"] = {f"p{number}": _paper(searcher, f"p{number}") for number in range(PAPERS + UNPUBLISHED)}
    return json.loads(json.dumps(found))  # type: ignore[no-any-return]  # as it comes out of a file: no tuples


def _paper(searcher: Searcher, paper_id: str) -> str | None:
    try:
        return searcher.paper(paper_id).to_json()
    except PaperNotFoundError:
        return None


def essence(searcher: Searcher) -> dict[str, Any]:
    """Return what must be the same however the generation came about: BM25 counts dead papers until they are merged."""
    whole = answers(searcher)
    for name, answer in whole.items():
        if name.startswith("lexical"):
            whole[name] = sorted(hit["paper"]["paper_id"] for hit in answer["hits"])
    return {name: answer for name, answer in whole.items() if not name.startswith(("hybrid", "related"))}


def files_digest(path: Path) -> str:
    """Return the digest of all files of all generations below, to see that none is ever changed in place."""
    digest = hashlib.sha256()
    for name, data in files_below(path).items():
        digest.update(f"{name}\0{len(data)}\0".encode() + data)
    return digest.hexdigest()


def linked_copy(source: Path, target: Path, own: Sequence[str] = ()) -> Path:
    """Copy an index in a moment: generations by hard links, all else byte by byte.

    Of the files of generations in `own`, the copy has its own; where several generations share one of these, so do they
    in the copy.
    """
    inodes = {os.stat(source / name).st_ino for name in own}
    copied: dict[int, Path] = {}
    for folder, _, names in os.walk(source):
        here = target / Path(folder).relative_to(source)
        here.mkdir()
        for name in names:
            one, other = Path(folder, name), here / name
            inode = one.stat().st_ino
            if inode in copied:
                os.link(copied[inode], other)
            elif "generations" in one.relative_to(source).parts and inode not in inodes:
                os.link(one, other)
            else:
                other.write_bytes(one.read_bytes())
                copied[inode] = other
    return target
