"""Which papers hold the words of a query?

BM25 over stemmed titles and abstracts, names with signs in them, authors and ids, in one tantivy index per generation:
a folder of files that are never changed. The only file that imports tantivy.
"""

import errno
import json
import math
import os
import re
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tantivy
from numpy.typing import NDArray
from tantivy import FieldType, Filter, Occur, Query, Tokenizer

from semsearch.durable import write_file
from semsearch.errors import GenerationDamageError, RecordError, SemsearchError
from semsearch.papers import Paper, normalise_id
from semsearch.queries import LexicalQuery, Part

RECIPE = "text+title:english,names,authors,ids-2"
"""Names fields and analysis; an index of another recipe cannot be extended, only written anew from the library."""

SCORE_DECIMALS = 4
"""A score is a float32 sum over up to hundreds of terms: of one around a hundred, the fifth decimal is noise."""

_MAX_TERM_BYTES = 250  # 60 letters of any script; what is longer is no word
_WRITER_BYTES = 128_000_000  # about 100,000 papers; then the writer begins another segment
_META, _MANAGED = "meta.json", ".managed.json"
_REPLACED = (_META, _MANAGED)  # the only files that tantivy gives a new content under an old name
_LOCKS = (".tantivy-writer.lock", ".tantivy-meta.lock")
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)
_COMMON_IDF = math.log(2)  # of a word that half of all papers hold
_MAX_TERMS = 32
"""How many of a text's distinct terms are searched: those that weigh most by tf * idf. Whole papers as queries find no
less by 32 terms than by all, on SciFact train and NFCorpus dev, in a third of the time. No query there has more."""
_K1 = 1.2  # tantivy's; it cannot be set
_SPARE_HITS = 32
_MOST_HITS = 1_000_000
"""At once: each is several objects of Python's, 240 bytes in all, until its seq is known."""
_MOST_SINGLE_TERMS = 1_000
"""Up to so many papers are found by a term each, more by a set of terms: 500 of 122,880 take 2 instead of 10 ms, from
2,000 on it is the other way round."""
_TERMS_PER_HIT = 2  # a paper allowed by its seq costs 0.7 µs, a hit fetched to see whether it is allowed 2.7 µs


# Analysis


@dataclass(frozen=True, slots=True)
class Term:
    """One word of a text as it is indexed, and where it stands: text[start:end] is its spelling there."""

    text: str
    start: int
    end: int


def _analyzer(tokenizer: Tokenizer, *more: Filter) -> tantivy.TextAnalyzer:
    builder = tantivy.TextAnalyzerBuilder(tokenizer)
    for step in (Filter.remove_long(_MAX_TERM_BYTES + 1), Filter.lowercase(), Filter.ascii_fold(), *more):
        builder = builder.filter(step)
    return builder.build()


# Chinese and Japanese write words without spaces: each character is a term, and words are phrases.
_IDEOGRAPH = r"[\p{Han}\p{Hiragana}\p{Katakana}]"
_WORD = rf"{_IDEOGRAPH}|[[\p{{Alphabetic}}\p{{N}}]--{_IDEOGRAPH}]+"

# What the split at every sign would take apart: GPT-3.5, k-NN, COVID-19, don't, TCP/IP, C++, C#.
_NAME = r"W+(?:[-.'’/]W+)*[+#]+|W+(?:[-.'’/]W+)+".replace("W", r"[\p{L}\p{N}]")
_STEMMED = _analyzer(Tokenizer.regex(_WORD), Filter.stemmer("english"))
_FOLDED = _analyzer(Tokenizer.regex(_WORD))
_NAMES = _analyzer(Tokenizer.regex(_NAME))
_ANALYZERS = {"stemmed": _STEMMED, "folded": _FOLDED, "names": _NAMES}


def analyse(text: str) -> list[str]:
    """Return the text's words as titles and abstracts are indexed: lower case, without accents, stemmed.

    >>> analyse("Naïve Bayes classifiers, state-of-the-art")
    ['naiv', 'bay', 'classifi', 'state', 'of', 'the', 'art']
    """
    return _STEMMED.analyze(text)


def terms_of(text: str) -> list[Term]:
    """Return what `analyse` does, with the places in the text."""
    return [
        Term(token.text, token.char_offset_from, token.char_offset_to) for token in _STEMMED.pre_tokenize(text).tokens
    ]


def spellings(text: str) -> dict[str, str]:
    """Return the distinct terms of a text, each with its first spelling there.

    >>> spellings("Parsers and parsing")
    {'parser': 'Parsers', 'and': 'and', 'pars': 'parsing'}
    """
    found: dict[str, str] = {}
    for term in terms_of(text):
        found.setdefault(term.text, text[term.start : term.end])
    return found


# Writing


def write_lexical(
    folder: Path, parent: Path | None, added: Iterable[tuple[int, Paper]], dead: Sequence[int]
) -> "LexicalIndex":
    """Write the index that holds the parent's papers without the dead ones and with those added; return it open.

    The parent's files are linked, and never changed. What was written is not yet brought to the disk, which the caller
    does for all files of the folder: no other file than the index's own is left there.

    tantivy keeps a dead paper's words, and counts them in its statistics, until it merges the segment that holds them.
    It merges on its own, before this returns: segments of about one size, once there are eight of them.

    :param folder: is made here; must not exist.
    :param parent: an index of the same recipe.
    :param added: the seq of each paper's version, and the paper.
    :param dead: seqs that the parent holds.
    :raises OSError: if the disk takes no more.
    """
    folder.mkdir()
    if parent is not None:
        _link(parent, folder)
    with _tantivy_errors():
        index = _prepared(tantivy.Index(_SCHEMA, str(folder)) if parent is None else tantivy.Index.open(str(folder)))
        writer = index.writer(_WRITER_BYTES, 1)
        for seq in dead:
            writer.delete_documents_by_term("seq", seq)
    for seq, paper in added:
        document = _document(seq, paper)
        with _tantivy_errors():
            writer.add_document(document)
    with _tantivy_errors():
        writer.commit()
        writer.wait_merging_threads()
        written = LexicalIndex.of(index, _dead(folder))  # its files stay mapped, whatever their folder is renamed to
    _tidy(folder)
    return written


def _schema() -> tantivy.Schema:
    builder = tantivy.SchemaBuilder()
    builder.add_integer_field("seq", indexed=True, fast=True)
    builder.add_text_field("text", tokenizer_name="stemmed")  # the title and the abstract
    builder.add_text_field("title", tokenizer_name="stemmed")
    builder.add_text_field("name", tokenizer_name="names", index_option="freq")
    builder.add_text_field("author", tokenizer_name="folded", index_option="freq")
    builder.add_text_field("id", tokenizer_name="raw", index_option="basic")
    return builder.build()


_SCHEMA = _schema()


def _document(seq: int, paper: Paper) -> tantivy.Document:
    document = tantivy.Document()
    document.add_integer("seq", seq)  # a guessed type would end the writer
    document.add_text("title", paper.title)
    for text in (paper.title, paper.abstract):
        document.add_text("text", text)
        document.add_text("name", text)
    for author in paper.authors:
        document.add_text("author", author)
    for name in _ids_of(paper):
        document.add_text("id", name)
    return document


def _ids_of(paper: Paper) -> set[str]:
    """Return the id, what stands behind its prefix, and the DOI's id."""
    ids = {paper.paper_id, paper.paper_id.partition(":")[2]}
    if paper.doi:
        with suppress(RecordError):
            ids.add(normalise_id(f"doi:{paper.doi}"))
    return {name.lower() for name in ids if name}


def _link(parent: Path, folder: Path) -> None:
    for file in parent.iterdir():
        if file.name in _REPLACED:
            (folder / file.name).write_bytes(file.read_bytes())
        elif file.name not in _LOCKS:
            _link_or_copy(file, folder / file.name)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        shutil.copyfile(source, target)


def _tidy(folder: Path) -> None:
    """Leave only the files of the last commit, with the permissions that a file of ours would have."""
    for file in {*folder.iterdir()} - {folder / name for name in _committed(folder)}:
        file.unlink()
    for name in _REPLACED:
        data = (folder / name).read_bytes()
        (folder / name).unlink()
        write_file(folder / name, data)


def _committed(folder: Path) -> Iterator[str]:
    yield from _REPLACED
    files = [*folder.iterdir()]  # glob takes a folder that it may not read for an empty one
    for segment in json.loads((folder / _META).read_bytes())["segments"]:
        name = segment["segment_id"].replace("-", "")
        deletes = f"{name}.{segment['deletes']['opstamp']}.del" if segment["deletes"] else None
        own = (file for file in files if file.name.partition(".")[0] == name)
        yield from (file.name for file in own if file.suffix != ".del" or file.name == deletes)


def _dead(folder: Path) -> int:
    """Return how many papers of an index are dead but not yet gone from it."""
    segments = json.loads((folder / _META).read_bytes())["segments"]
    return sum(segment["deletes"]["num_deleted_docs"] for segment in segments if segment["deletes"])


def _prepared(index: tantivy.Index) -> tantivy.Index:
    for name, analyzer in _ANALYZERS.items():
        index.register_tokenizer(name, analyzer)
    index.config_reader("manual")  # or a thread of tantivy's would go on to look for changes
    return index


@contextmanager
def _tantivy_errors() -> Iterator[None]:
    """Tell tantivy's errors apart: all are ValueErrors or panics, and a writer that failed hides why."""
    try:
        yield
    except ValueError as error:
        if code := re.search(r"\b(?:code:|os error) (\d+)", str(error)):
            raise OSError(int(code[1]), os.strerror(int(code[1]))) from error
        if "writer was killed" in str(error):
            raise OSError(errno.EIO, "the lexical index could not be written; is the disk full?") from error
        raise GenerationDamageError(f"its lexical index cannot be read: {error}") from error
    except BaseException as error:
        if type(error).__module__ != "pyo3_runtime":
            raise
        raise GenerationDamageError(f"its lexical index cannot be read: {error}") from error


# Searching


@dataclass(frozen=True, slots=True)
class FieldWeights:
    """What a word's BM25 counts for, by where it is found; `title` comes on top of `text`, which holds the title too.

    Chosen on SciFact train: 0.1 to 0.3 more for a title are alike, 1 more is worse than no field for titles. Names are
    a hint where texts are alike: at 0.5 they cost 0.003 of nDCG@10.
    """

    text: float = 1.0
    title: float = 0.2
    name: float = 0.1
    author: float = 1.0
    id: float = 10.0


@contextmanager
def _links_to(folder: Path) -> Iterator[Path]:
    """Show tantivy the index through a folder of links for as long as it takes to open it.

    It writes a lock file where it opens an index. So the index's own folder stays as it is, and may be one that cannot
    be written. The files stay mapped when the links are gone.
    """
    try:
        links = Path(tempfile.mkdtemp(prefix="semsearch-"))
    except FileNotFoundError as error:  # as Python says where none of the usual places can be written
        raise SemsearchError(f"no folder for temporary files can be written: {error}; name one by TMPDIR") from error
    try:
        for file in folder.resolve().iterdir():
            (links / file.name).symlink_to(file)
        yield links
    finally:
        for _ in range(100):
            shutil.rmtree(links, ignore_errors=True)
            if not links.exists():
                break
            time.sleep(0.005)  # a thread of tantivy's looks once more at what it opened, and locks it for that


class LexicalIndex:
    """One open index; immutable, safe to share between threads."""

    def __init__(self, folder: Path, weights: FieldWeights = FieldWeights()) -> None:
        """Map the folder's files, whose digests must have been checked.

        :raises GenerationDamageError: if tantivy cannot read them.
        :raises OSError: if the system has no more files or memory to give.
        """
        with _links_to(folder) as links, _tantivy_errors():
            self._take(_prepared(tantivy.Index.open(str(links))), _dead(folder), weights)

    @classmethod
    def of(cls, index: tantivy.Index, dead: int, weights: FieldWeights = FieldWeights()) -> "LexicalIndex":
        """Return the state that was committed last to an index that is open, however it goes on.

        :param dead: how many papers of it are dead.
        """
        opened = cls.__new__(cls)
        opened._take(index, dead, weights)
        return opened

    def _take(self, index: tantivy.Index, dead: int, weights: FieldWeights) -> None:
        index.reload()
        self.weights = weights
        self._dead = dead
        self._searcher = index.searcher()
        self._schema = index.schema
        self.papers: int = self._searcher.num_docs

    def search(
        self, query: LexicalQuery, k: int, allowed: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return scores and seqs of the k best papers that hold a word of the query and meet its demands, best first.

        Scores are rounded to `SCORE_DECIMALS`. All papers that tie with the k-th are returned, so there may be more
        than k; whoever orders ties, by a name that stays, cuts. Fewer come back only when fewer match. The statistics
        are those of the whole index, whatever is allowed.

        :param allowed: seqs, ascending; None allows all.
        """
        wanted = self._clauses(query)
        if not wanted or k < 1 or (allowed is not None and not allowed.size):
            return np.empty(0, dtype=np.float64), np.empty(0, dtype=np.int64)
        fetch = k + _SPARE_HITS if allowed is None else int(1.2 * k * self.papers / len(allowed)) + _SPARE_HITS
        while True:
            if allowed is not None and len(allowed) <= _TERMS_PER_HIT * fetch:
                wanted.append((Occur.Must, self._one_of(allowed)))
                allowed, fetch = None, k + _SPARE_HITS
            scores, seqs = self._hits(_joined(wanted), fetch)
            complete, lowest = len(seqs) < fetch, scores[-1:]
            if allowed is not None:
                passing = allowed[np.minimum(np.searchsorted(allowed, seqs), len(allowed) - 1)] == seqs
                scores, seqs = scores[passing], seqs[passing]
            if complete or (len(seqs) >= k and lowest < scores[k - 1]):
                tied = scores >= scores[k - 1] if len(seqs) > k else slice(None)
                return scores[tied], seqs[tied]
            fetch *= 2

    def meeting(self, query: LexicalQuery, seqs: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which of these papers hold every required and no excluded part of the query, shape (n,)."""
        demands = self._demands(query)
        if not demands or not seqs.size:
            return np.ones(len(seqs), dtype=np.bool_)
        found = self._hits(_joined([(Occur.Must, self._one_of(seqs)), *demands]), len(seqs))[1]
        return np.isin(seqs, found)

    def in_titles(self, terms: Iterable[str], seqs: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return how many of these distinct analysed terms the titles of these papers hold, shape (n,)."""
        held = [(Occur.Should, Query.const_score_query(self._term("title", term), 1.0)) for term in terms]
        counts = np.zeros(len(seqs), dtype=np.int64)
        if held and seqs.size:
            found, among = self._hits(_joined([(Occur.Must, self._one_of(seqs)), *held]), len(seqs))
            order = np.argsort(seqs)
            counts[order[np.searchsorted(seqs, among, sorter=order)]] = np.rint(found).astype(np.int64)
        return counts

    def holding(self, parts: Sequence[Part], *, every: bool) -> NDArray[np.int64] | None:
        """Return the seqs of all papers that hold every one of these parts, or any; None if they ask for nothing."""
        occur = Occur.Must if every else Occur.Should
        return self._found_by(_joined([(occur, self._part_clause(part)) for part in parts])) if parts else None

    def named(self, paper_id: str) -> NDArray[np.int64]:
        """Return the seqs of all papers that have this id, or have it for another spelling of theirs."""
        return self._hits(self._term("id", paper_id.lower()), self.papers)[1]

    def most(self, query: LexicalQuery) -> float:
        """Return what a paper could score at most for the query's words in its text: (k1 + 1) times their idf.

        A word that no paper holds counts too: it is what the query asks for and no paper answers. Of a long text only
        as many words count as are searched: what a paper could score does not grow with the text.
        """
        weights = [times * self.idf(term) for term, times in Counter(analyse(query.text)).items()]
        return (_K1 + 1) * self.weights.text * sum(sorted(weights, reverse=True)[:_MAX_TERMS])

    def telling(self, terms: Mapping[str, int]) -> dict[str, float]:
        """Return the terms worth looking up, of those of a text, and the tf * idf of each, the heaviest first.

        Words that more than half of all papers hold are left out, unless no paper holds another: half of the time goes
        into them, and no ranking measured is better for them. Of a long text, the terms that weigh most are kept.

        :param terms: how often the text holds each.
        """
        holding = {term: self.document_frequency(term) for term in terms}
        idfs = {term: self._idf_of(papers) for term, papers in holding.items() if papers}
        telling = [term for term, idf in idfs.items() if idf >= _COMMON_IDF]
        if not any(self._is_alive(term, holding[term]) for term in sorted(telling, key=lambda term: -holding[term])):
            telling = list(idfs)  # what only dead papers hold is no reason to leave out the rest
        weights = {term: terms[term] * idfs[term] for term in telling}
        return {term: weights[term] for term in sorted(telling, key=lambda term: (-weights[term], term))[:_MAX_TERMS]}

    def idf(self, term: str) -> float:
        """Return how telling an analysed term is: its inverse document frequency, as in BM25.

        ln(1 + (N - n + 0.5) / (n + 0.5)), the form that is never negative (Lucene's BM25Similarity), for n of N papers.
        """
        return self._idf("text", term)

    def document_frequency(self, term: str) -> int:
        """Return how many papers hold an analysed term in title or abstract, some dead ones included."""
        return self._held_by("text", term)

    def vocabulary(self) -> list[tuple[str, int]]:
        """Return every term of titles and abstracts, and how many papers hold it, some dead ones included.

        Most frequent first, then by name: the order tells nothing of when a paper came.
        """
        with _tantivy_errors():
            terms: list[tuple[str, int]] = self._searcher.terms_with_prefix("text", "")
        return terms

    def having(self, term: str) -> NDArray[np.int64]:
        """Return the seqs of all papers that hold an analysed term in title or abstract, in no order."""
        return self._found_by(self._term("text", term))

    def _is_alive(self, term: str, holding: int) -> bool:
        """Return whether a living paper holds the term; to ask for one takes longer than to know that not all died."""
        return holding > self._dead or self.example_of(term) is not None

    def example_of(self, term: str) -> int | None:
        """Return the seq of a paper that holds an analysed term, None if only dead ones do."""
        _, seqs = self._hits(self._term("text", term), 1)
        return int(seqs[0]) if seqs.size else None

    def _found_by(self, query: Query) -> NDArray[np.int64]:
        """Return the seqs of all papers that a query finds, in no order; where they are many, range after range."""
        query = Query.const_score_query(query, 1.0)
        with _tantivy_errors():
            found: int = self._searcher.search(query, 1, count=True).count  # type: ignore[attr-defined]  # not in its stubs
            if found <= _MOST_HITS:
                return self._hits(query, found)[1]
            (newest, _), *_ = self._searcher.search(query, 1, count=False, order_by_field="seq").hits
        parts = []
        for start in range(0, newest + 1, _MOST_HITS):
            ends = start, start + _MOST_HITS - 1
            among = Query.const_score_query(Query.range_query(self._schema, "seq", FieldType.Integer, *ends), 0.0)
            parts.append(self._hits(_joined([(Occur.Must, query), (Occur.Must, among)]), _MOST_HITS)[1])
        return np.concatenate(parts)

    def _hits(self, query: Query, limit: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        limit = min(limit, self._searcher.num_docs)
        with _tantivy_errors():
            hits = self._searcher.search(query, max(1, limit), count=False).hits
            seqs = self._searcher.fast_field_values("seq", [address for _, address in hits])
        scores = np.array([score for score, _ in hits], dtype=np.float64).round(SCORE_DECIMALS)
        return scores, np.array(seqs, dtype=np.int64)

    def _one_of(self, seqs: NDArray[np.int64]) -> Query:
        """Return what finds these papers, and scores nothing."""
        if len(seqs) > _MOST_SINGLE_TERMS:
            return Query.const_score_query(Query.term_set_query(self._schema, "seq", seqs.tolist()), 0.0)
        terms = (Query.term_query(self._schema, "seq", seq, index_option="basic") for seq in seqs.tolist())
        return Query.const_score_query(Query.boolean_query([(Occur.Should, term) for term in terms]), 0.0)

    def _clauses(self, query: LexicalQuery) -> list[tuple[Occur, Query]]:
        """Return the clauses of a query; none if nothing could be found by it."""
        optional = [(Occur.Should, clause) for clause in self._word_clauses(query.words)]
        demands = self._demands(query, authors_score=not optional)
        if any(occur == Occur.Must for occur, _ in demands):
            return demands + optional
        return [(Occur.Must, _joined(optional)), *demands] if optional else []

    def _demands(self, query: LexicalQuery, *, authors_score: bool = True) -> list[tuple[Occur, Query]]:
        """Return the clauses of what must and what must not be.

        :param authors_score: not where there are words, of whose answers it tells nothing how few have written them.
        """
        sides = ((Occur.Must, query.required), (Occur.MustNot, query.excluded))
        clauses = [(occur, part, self._part_clause(part)) for occur, parts in sides for part in parts]
        return [
            (occur, clause if authors_score or part.field != "author" else Query.const_score_query(clause, 0.0))
            for occur, part, clause in clauses
        ]

    def _part_clause(self, part: Part) -> Query:
        """Return the clause of a part; one that finds nothing where nothing of it is left to search."""
        if part.field == "author":  # "Geoffrey E. Hinton" is also "Hinton, Geoffrey": all words, in any order
            names = [(Occur.Must, self._term("author", name)) for name in _FOLDED.analyze(part.words)]
            return _joined(names) if names else Query.empty_query()
        terms = analyse(part.words)
        if not terms:
            return Query.empty_query()
        # One term is what tantivy calls no phrase. What only signs tell apart (C++, C#) is looked for as a name too.
        phrase = Query.phrase_query(self._schema, part.field, [*terms]) if len(terms) > 1 else None
        words = phrase or self._term(part.field, terms[0])
        names = [(Occur.Must, self._term("name", name)) for name in _NAMES.analyze(part.words) if name[-1] in "+#"]
        return _joined([(Occur.Must, words), *names]) if names else words

    def _word_clauses(self, words: Sequence[str]) -> Iterator[Query]:
        """Return one clause per field and distinct word: flat, because tantivy skips blocks only in a flat union."""
        text, weights = " ".join(words), self.weights
        terms = Counter(analyse(text))
        for term in self.telling(terms):
            yield self._term("text", term, terms[term] * weights.text)
            yield self._term("title", term, terms[term] * weights.title)
        if len(terms) > _MAX_TERMS:  # a whole abstract: what looks like a name in it is hardly that of an author
            return
        for name in dict.fromkeys(_NAMES.analyze(text)):
            yield self._term("name", name, weights.name)
        for name in dict.fromkeys(_FOLDED.analyze(text)):
            yield self._term("author", name, weights.author * self._name_likeness(name))
        for name in dict.fromkeys(_ids_in(words)):
            yield self._term("id", name, weights.id)

    def _name_likeness(self, word: str) -> float:
        """Return 1 for what is only a name, and less the more common the word is in texts.

        Few are called Long or Need; without this, they would have written what is said about long memory.
        """
        as_word = min((self._idf("text", term) for term in analyse(word)), default=0.0)
        return min(1.0, as_word / self._idf("author", word))

    def _idf(self, field: str, term: str) -> float:
        return self._idf_of(self._held_by(field, term))

    def _held_by(self, field: str, term: str) -> int:
        with _tantivy_errors():
            papers: int = self._searcher.doc_freq(field, term)
        return papers

    def _idf_of(self, holding: int) -> float:
        return math.log(1 + (max(self.papers, holding) - holding + 0.5) / (holding + 0.5))

    def _term(self, field: str, term: str, weight: float = 1.0) -> Query:
        return Query.boost_query(Query.term_query(self._schema, field, term), weight)


def _joined(clauses: Sequence[tuple[Occur, Query]]) -> Query:
    return clauses[0][1] if len(clauses) == 1 else Query.boolean_query(clauses)


def _ids_in(words: Sequence[str]) -> Iterator[str]:
    """Return the ids among the words: those of a known kind, and whatever stands alone."""
    for word in words:
        try:
            name = normalise_id(word.strip(".,;()[]<>"))
        except RecordError:
            continue
        if len(words) == 1 or name.startswith(("arxiv:", "doi:", "acl:")):
            yield name.lower()
