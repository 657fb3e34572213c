"""What the tests of the storage rooms share: small vectors, an index made by hand, copies of it, faults."""

import hashlib
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray

from semsearch import durable, generation, manifest, publishing
from semsearch.encoders import EncoderSpec
from semsearch.generation import Generation, IndexFolder, files
from semsearch.generation.folder import current_line
from semsearch.lexical import spellings
from semsearch.library import Embedding, Library, text_digest
from semsearch.papers import Paper
from semsearch.publishing import publish_pending
from semsearch.queries import parse_query
from semsearch.vectors import Flat, write_codes, write_lists, write_vectors

SPEC = EncoderSpec("test-model", "f" * 64, 8, 256)


def written_with_lists(folder: Path, matrix: NDArray[np.float32]) -> tuple[Path, Path, Path]:
    """Write vectors as a large segment has them; return the files of the vectors, their lists and their codes."""
    flat, lists, codes = (folder / name for name in ("vectors.faiss", "lists.faiss", "codes.npy"))
    with flat.open("wb") as file:
        write_vectors([matrix], len(matrix), matrix.shape[1], file.write)
    with lists.open("wb") as file:
        write_lists(Flat(flat), file.write)
    with codes.open("wb") as file:
        write_codes(Flat(flat), file.write)
    return flat, lists, codes


def unit_rows(rng: np.random.Generator, count: int, dimension: int = SPEC.dimension) -> NDArray[np.float32]:
    rows = rng.normal(size=(count, dimension))
    unit: NDArray[np.float32] = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit


def vector_of(text: str) -> NDArray[np.float32]:
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
    vector: NDArray[np.float32] = unit_rows(np.random.default_rng(seed), 1)[0]
    return vector


def embedding_of(paper: Paper) -> Embedding:
    return Embedding(text_digest(paper.text), vector_of(paper.text), len(paper.text.split()))


def add(library: Library, papers: Sequence[Paper], origin: str = "one") -> None:
    """Append versions with their vectors, as a reindex does."""
    number = library.encoder_number(SPEC.fingerprint, SPEC.name)
    library.add_versions(origin, papers, [embedding_of(paper) for paper in papers], number)


@dataclass
class Oracle:
    """The library's promise in plain Python: every change in a list, what is live worked out from the whole of it."""

    changes: list[tuple[str, str, Paper | None]] = field(default_factory=list)

    def add(self, papers: Iterable[Paper], origin: str) -> None:
        self.changes += [(paper.paper_id, origin, paper) for paper in papers]

    def delete(self, paper_ids: Iterable[str], origin: str | None = None) -> list[str]:
        deleted = []
        for paper_id in paper_ids:
            held = [by for (about, by), seq in self._heads().items() if about == paper_id and self.changes[seq - 1][2]]
            gone = sorted(by for by in held if origin in (None, by))
            self.changes += [(paper_id, by, None) for by in gone]
            deleted += [paper_id] if gone else []
        return deleted

    def _heads(self, up_to: int | None = None) -> dict[tuple[str, str], int]:
        return {(about, by): seq for seq, (about, by, _) in enumerate(self.changes[:up_to], 1)}

    def live(self, up_to: int | None = None) -> dict[str, int]:
        live: dict[str, int] = {}
        for (about, _), seq in self._heads(up_to).items():
            if self.changes[seq - 1][2]:
                live[about] = max(seq, live.get(about, 0))
        return live

    def last_of(self, origin: str, paper_id: str) -> Paper | None:
        seq = self._heads().get((paper_id, origin))
        return self.changes[seq - 1][2] if seq else None

    def paper(self, seq: int) -> Paper:
        paper = self.changes[seq - 1][2]
        assert paper is not None
        return paper

    def vectors(self, up_to: int | None = None) -> dict[int, NDArray[np.float32]]:
        """Return the vector of each live version by its seq."""
        return {seq: vector_of(self.paper(seq).text) for seq in sorted(self.live(up_to).values())}

    def papers(self) -> dict[int, Paper]:
        """Return each live version by its seq."""
        return {seq: self.paper(seq) for seq in sorted(self.live().values())}


_TOPICS = ("parsing sentences with weighted grammars", "segmenting retinal images", "folding proteins from contacts")
_PEOPLE = (("Ada Byron",), ("Blaise Pascal",), ("Ada Byron", "Blaise Pascal"))


def rich_paper(number: int, edition: int) -> Paper:
    """Return a paper with something in every field; its work is decided by its topic and people, which editions change.

    Papers of one topic are one work if they share a person, so those of two people hold together those of one.
    """
    return Paper.build(
        paper_id=f"p{number}",
        title=f"A paper on {_TOPICS[(number + edition // 2) % len(_TOPICS)]}",
        abstract=f"Finding{number} in edition{edition}, of kind{number % 4}.",
        authors=_PEOPLE[(number // 3 + edition) % len(_PEOPLE)],
        published=str(2000 + (number + edition) % 5),
        categories=("cs.CL", "stat.ML")[: 1 + (number + edition) % 2],
        venue=f"Venue {edition}",
    )


def assert_answers(opened: Generation, vectors: dict[int, NDArray[np.float32]], depth: int = 12) -> None:
    """Compare what is found, and every score of it, with a numpy matrix product over the vectors that should be."""
    assert opened.live_seqs().tolist() == sorted(vectors)
    assert opened.papers == len(vectors)
    queries = np.stack([vector_of(f"query {number}") for number in range(3)])
    scores, rows = opened.nearest(queries, depth)
    assert scores.shape == rows.shape == (3, min(depth, len(vectors)))
    if not vectors:
        return
    seqs = np.array(list(vectors))
    truth = queries @ np.stack(list(vectors.values())).T
    np.testing.assert_allclose(scores, -np.sort(-truth, axis=1)[:, :depth], atol=1e-6)
    for query in range(3):
        found = opened.seqs_at(rows[query])
        assert len(set(found.tolist())) == len(found)
        np.testing.assert_allclose(scores[query], truth[query][np.searchsorted(seqs, found)], atol=1e-6)
        np.testing.assert_array_equal(
            opened.vectors_at(rows[query]), np.stack([vectors[seq] for seq in found.tolist()])
        )
        np.testing.assert_array_equal(opened.rows_of(found), rows[query])


def assert_words_and_columns(opened: Generation, papers: dict[int, Paper]) -> None:
    """Compare the lexical index and the columns with these papers, by their seqs; all titles hold the word "paper"."""
    words: dict[str, list[int]] = {}
    for seq, paper in papers.items():
        for spelling in spellings(f"{paper.title} {paper.abstract}".lower()).values():
            words.setdefault(spelling, []).append(seq)
    assert words.get("paper", []) == list(papers)
    for spelling, seqs in words.items():
        assert seqs_with(opened, spelling) == seqs, spelling
    assert opened.lexical.papers == len(papers)
    found = opened.facets(opened.live, 1_000)
    for name, values in (
        ("year", [paper.year for paper in papers.values()]),
        ("venue", [paper.venue for paper in papers.values()]),
        ("category", [category for paper in papers.values() for category in paper.categories]),
    ):
        expected = Counter(str(value) for value in values if value is not None)
        assert {each.value: each.count for each in found[name].values} == expected


def seqs_with(opened: Generation, typed: str) -> list[int]:
    """Return the seqs of all papers found by their words, ascending."""
    seqs: list[int] = sorted(opened.lexical.search(parse_query(typed), 10_000)[1].tolist())
    return seqs


def works_of(opened: Generation) -> set[frozenset[int]]:
    """Return the works, each as the seqs of its live versions."""
    rows = np.flatnonzero(opened.live)
    works = opened.works.of(rows)
    return {frozenset(opened.seqs_at(rows[works == work]).tolist()) for work in np.unique(works)}


def built_at_once(library: Library, path: Path) -> Generation:
    """Return the generation that a rebuild from the whole library makes, published in an empty folder at `path`."""
    path.mkdir()
    number = library.encoder_number(SPEC.fingerprint, SPEC.name)
    draft = publishing._full_draft(library, number, library.last_seq(), SPEC)
    return generation.publish(IndexFolder(path), draft)


def assert_alike(grown: Generation, anew: Generation) -> None:
    """Compare a generation grown step by step with one built at once from the same library."""
    assert grown.live_seqs().tolist() == anew.live_seqs().tolist()
    for typed in ("paper", "byron", "author:pascal", "title:parsing", '"weighted grammars"', "p3", "kind1", "edition0"):
        assert seqs_with(grown, typed) == seqs_with(anew, typed), typed
    assert grown.facets(grown.live, 1_000) == anew.facets(anew.live, 1_000)
    assert works_of(grown) == works_of(anew)


class Shelf:
    """An index under way: its folder, its library and the oracle of what both should hold."""

    def __init__(self, path: Path) -> None:
        self.folder = IndexFolder(path)
        self.library = Library.create(self.folder.library)
        self.library._connection.execute("PRAGMA synchronous = OFF")  # no test here cuts the power
        self.oracle = Oracle()

    def add(self, papers: Sequence[Paper], origin: str = "one") -> None:
        add(self.library, papers, origin)
        self.oracle.add(papers, origin)

    def delete(self, paper_ids: Sequence[str], origin: str | None = None) -> None:
        assert sorted(self.library.delete(paper_ids, origin)) == sorted(self.oracle.delete(sorted(paper_ids), origin))

    def publish(self) -> Generation:
        return publish_pending(self.folder, self.library, SPEC)


def hurry(patch: pytest.MonkeyPatch) -> None:
    """Spare what is not tested where hundreds of indexes are made: waiting for the disk, and for idle FAISS threads."""
    patch.setattr(os, "fsync", lambda descriptor: None)
    faiss.omp_set_num_threads(1)


@contextmanager
def memory_folder() -> Iterator[Path]:
    """Yield a folder to make hundreds of indexes in, in memory where there is such a place: tantivy waits for disks."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as path:
        yield Path(path)


def rewrite_manifest(folder: IndexFolder, number: int, **changes: object) -> None:
    """Change a generation's manifest and give it a digest that agrees; CURRENT is left as it is."""
    path = folder.generation(number) / "manifest.json"
    body: dict[str, Any] = json.loads(path.read_bytes())["manifest"] | changes
    path.write_text(json.dumps({"sha256": manifest._body_digest(body), "manifest": body}))


def name_as_current(folder: IndexFolder, number: int) -> None:
    """Make CURRENT name this generation as it is now."""
    digest = hashlib.sha256((folder.generation(number) / "manifest.json").read_bytes()).hexdigest()
    folder.current.write_bytes(current_line(number, digest, None))


def files_below(path: Path) -> dict[str, bytes]:
    """Return the content of every file by its relative path."""
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def clone(source: Path, target: Path) -> Path:
    """Copy an index; files that were one file by hard links are one file in the copy, and generations are young."""
    copies: dict[int, Path] = {}

    def copy(one: str, other: str) -> None:
        inode = os.stat(one).st_ino
        if inode in copies:
            os.link(copies[inode], other)
        else:
            shutil.copy2(one, other)
            copies[inode] = Path(other)

    shutil.copytree(source, target, copy_function=copy)
    for published in target.glob("generations/*"):  # an old one may be removed, however slow the test is
        published.touch()
    return target


class Fault:
    """Lets the n-th of all calls that reach the disk raise an error; `tripped` tells whether there were so many."""

    PLACES: tuple[tuple[Any, str], ...] = (
        (os, "link"),
        (os, "fsync"),
        (os, "open"),
        (os, "mkdir"),
        (Path, "rename"),
        (Path, "read_bytes"),
        (durable.CheckedWriter, "write"),
        (durable, "open"),
        (np, "load"),
        (np, "save"),
        (faiss, "write_index"),
        (faiss, "read_index"),
        (shutil, "rmtree"),
        (shutil, "disk_usage"),
        (tempfile, "mkdtemp"),
        (files, "write_lexical"),
    )

    def __init__(self, patch: pytest.MonkeyPatch, at: int, error: Callable[[], BaseException]) -> None:
        self._left = at
        self._error = error
        self.tripped = ""
        for owner, name in self.PLACES:
            original = getattr(owner, name, open)
            patch.setattr(owner, name, self._wrapped(original, f"{getattr(owner, '__name__', owner)}.{name}"), False)

    def _wrapped(self, original: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self._left -= 1
            if self._left == 0:
                self.tripped = name
                raise self._error()
            return original(*args, **kwargs)

        return call


def resident_of(path: Path) -> int:
    """Return how many bytes of this file are resident in this process."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    mapped = [next(line for line in lines if line.startswith("Rss:")) for line in lines if line.endswith(str(path))]
    return sum(1_024 * int(line.split()[1]) for line in mapped)
