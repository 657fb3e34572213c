"""How well are the papers found that people judged relevant?

A judged set is a folder in the format of BEIR: corpus.jsonl ({"_id", "title", "text"}), queries.jsonl ({"_id", "text"})
and qrels/<split>.tsv (a header, then query, paper, grade). Its corpus is indexed as any other source is: what is no
paper to semsearch, such as a record without a text, is not found, and counts as not found where it is relevant.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from semsearch.encoders import Encoder, ModelFolder, load_encoder
from semsearch.errors import RecordError, SourceError
from semsearch.evaluate.asking import OnAsked, Rank, each_value, unheard
from semsearch.evaluate.measures import MEASURES, Grades, Scores, Subject, score
from semsearch.generation import IndexFolder
from semsearch.library import Library
from semsearch.papers import normalise_id
from semsearch.readers import Found, jsonl, read
from semsearch.readers.records import Unusable
from semsearch.readers.streams import opened
from semsearch.reindex import Progress, ReindexReport, imports_of, update_index
from semsearch.search import clean_query

QRELS_HEADER = ["query-id", "corpus-id", "score"]
_GRADE = re.compile(r"-?\d{1,9}", re.ASCII)
_IDS_PER_READ = 10_000


@dataclass(frozen=True, slots=True)
class Corpus:
    """Which papers a corpus.jsonl holds: ids that can be indexed, ids of records that are no papers, bad records."""

    path: Path
    sha256: str
    paper_ids: frozenset[str]
    unusable_ids: frozenset[str]
    rejected: int


@dataclass(frozen=True, slots=True)
class JudgedSet:
    """One split of a judged set: the text of its queries and the grades of their papers, both by query id.

    `grades` names papers by their normalised ids. A query that is judged but cannot be asked (it has no text, or too
    much of it) is in `grades` only.
    """

    name: str
    split: str
    corpus: Corpus
    queries: Mapping[str, str]
    grades: Mapping[str, Grades]

    @classmethod
    def read(cls, folder: Path, split: str) -> "JudgedSet":
        """Return the judged set in this folder.

        :raises SourceError: if a file is missing, or a line of the queries or judgements is malformed; it names both.
        """
        grades = _read_qrels(_qrels_path(folder, split))
        texts = _read_queries(folder / "queries.jsonl")
        askable = {query: texts[query] for query in sorted(grades) if query in texts and _can_be_asked(texts[query])}
        name = folder.resolve().name
        return cls(name, split, _read_corpus(folder / "corpus.jsonl"), askable, grades)

    @property
    def subject(self) -> Subject:
        """What tells this set from others: its papers, what is asked, and what counts as an answer."""
        asked = [[query, self.queries.get(query), sorted(self.grades[query].items())] for query in sorted(self.grades)]
        questions = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
        return Subject(self.name, self.corpus.sha256, questions, self.split)

    @property
    def relevant(self) -> set[str]:
        """The ids of all papers that are relevant to some query."""
        return {paper_id for grades in self.grades.values() for paper_id, grade in grades.items() if grade > 0}

    def counts(self) -> dict[str, int]:
        """Return what the scores rest on, and what of it is missing."""
        judged = [(paper_id, grade) for grades in self.grades.values() for paper_id, grade in grades.items()]
        known = self.corpus.paper_ids | self.corpus.unusable_ids
        return {
            "papers": len(self.corpus.paper_ids),
            "records_without_paper": self.corpus.rejected,
            "judgements": len(judged),
            "judgements_of_unknown_papers": sum(paper_id not in known for paper_id, _ in judged),
            "unknown_papers": len({paper_id for paper_id, _ in judged} - known),
            "relevant_not_indexed": sum(
                grade > 0 and paper_id not in self.corpus.paper_ids for paper_id, grade in judged
            ),
            "queries_not_asked": len(self.grades) - len(self.queries),
            "queries_without_relevant": sum(max(grades.values()) <= 0 for grades in self.grades.values()),
        }


def index_corpus(
    judged: JudgedSet,
    index: Path,
    *,
    model: str | None = None,
    device: str | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    load: Callable[[ModelFolder, str | None], Encoder] = load_encoder,
) -> ReindexReport:
    """Bring the index up to the corpus and nothing but the corpus; a text that it has met is not encoded again.

    :raises ValueError: if the index holds other papers: they would stand in the way of the judged ones.
    :raises SourceError: if the corpus cannot be read to its end.
    """
    folder = IndexFolder(index)
    if folder.library.is_file():
        _refuse_others(folder, judged)
    corpus = imports_of([judged.corpus.path])
    report = update_index(index, corpus, model=model, device=device, on_progress=on_progress, load=load)
    if report.failures:
        raise SourceError("; ".join(report.failures))  # half a corpus would be measured as if it were the whole
    return report


def _refuse_others(folder: IndexFolder, judged: JudgedSet) -> None:
    with Library.open(folder.library) as library:
        seqs = library.all_live_seqs(library.last_seq())
        for batch in np.array_split(seqs, range(_IDS_PER_READ, len(seqs), _IDS_PER_READ)):
            if others := set(library.ids_at(batch.tolist()).values()) - judged.corpus.paper_ids:
                raise ValueError(
                    f"{folder.path} holds papers that are not in {judged.corpus.path}, such as {min(others)}; "
                    "give the judged set an index of its own"
                )


def ask_judged(judged: JudgedSet, rank: Rank, on_asked: OnAsked = unheard) -> Scores:
    """Return the scores of every judged query, ordered by query id; one that finds nothing or cannot be asked has 0."""

    def values(query: str) -> list[float]:
        found = rank(judged.queries[query]) if query in judged.queries else ()
        return score(found, judged.grades[query])

    queries = sorted(judged.grades)
    rows = each_value(queries, values, on_asked)
    return Scores(tuple(queries), tuple(MEASURES), np.array(rows, dtype=np.float64))


# Reading


def _qrels_path(folder: Path, split: str) -> Path:
    if not folder.is_dir():
        raise SourceError(f"there is no folder {folder}")
    path = folder / "qrels" / f"{split}.tsv"
    if path.is_file():
        return path
    there = ", ".join(sorted(each.stem for each in (folder / "qrels").glob("*.tsv")))
    raise SourceError(
        f"{folder} has no split {split!r}; it has {there}"
        if there
        else f"{folder} is no judged set: it has no qrels/{split}.tsv; to question an index of your own without "
        "judgements, name it with --index"
    )


def _read_qrels(path: Path) -> dict[str, dict[str, int]]:
    """Return the grades by query and paper."""
    grades: dict[str, dict[str, int]] = {}
    for line, text in _lines(path):
        cells = text.split("\t")
        if line == 1:
            if cells != QRELS_HEADER:
                raise SourceError(f"{path}:1: the header is not {' <tab> '.join(QRELS_HEADER)}")
            continue
        if len(cells) != len(QRELS_HEADER) or not _GRADE.fullmatch(cells[2]):
            raise SourceError(f"{path}:{line}: not a query, a paper and a whole number with tabs between")
        query, paper_id, grade = cells[0], _paper_id(cells[1]), int(cells[2])
        if grades.setdefault(query, {}).setdefault(paper_id, grade) != grade:
            raise SourceError(f"{path}:{line}: paper {cells[1]!r} was judged otherwise for query {query!r} above")
    if not grades:
        raise SourceError(f"{path} holds no judgements")
    return grades


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not blank with their numbers, from 1, without line ends."""
    with opened(path) as stream:
        for number, data in stream.lines():
            try:
                text = (data or b"").decode().rstrip("\r\n")
            except UnicodeDecodeError:
                raise SourceError(f"{path}:{number}: the line is not valid UTF-8") from None
            if data is None:
                raise SourceError(f"{path}:{number}: the line is too long to be a judgement")
            if text.strip():
                yield number, text


def _paper_id(name: str) -> str:
    """Return the id under which the corpus's paper of this name is indexed; a name that no paper can have as it is."""
    try:
        return normalise_id(name)
    except RecordError:
        return name


def _read_queries(path: Path) -> dict[str, str]:
    """Return the texts by query id."""
    texts: dict[str, str] = {}
    with opened(path) as stream:
        for record in jsonl.records(stream):
            if isinstance(record, Unusable):
                raise SourceError(f"{path}:{record.line}: {record.reason}")
            query, text = record.fields.get("_id"), record.fields.get("text")
            if not isinstance(query, str) or not isinstance(text, str):
                raise SourceError(f'{path}:{record.line}: a query is {{"_id": text, "text": text}}')
            if texts.setdefault(query, text) != text:
                raise SourceError(f"{path}:{record.line}: the query {query!r} stands above with another text")
    return texts


def _can_be_asked(text: str) -> bool:
    try:
        clean_query(text)
    except ValueError:
        return False
    return True


def _read_corpus(path: Path) -> Corpus:
    found, unusable, rejected = set[str](), set[str](), 0
    for entry in read(path, format="jsonl"):
        if isinstance(entry, Found):
            found.add(entry.paper.paper_id)
        else:
            rejected += 1
            if entry.paper_id is not None:
                unusable.add(entry.paper_id)
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Corpus(path, sha256, frozenset(found), frozenset(unusable), rejected)
