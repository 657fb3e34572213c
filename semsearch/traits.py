"""By what can a paper be recognised in its other versions?

A paper's traits are some bytes to compare it by, and a few 64-bit keys, one of which it shares with nearly every
version of itself. They are made once, when a segment is written, from title, authors, abstract, venue and year. Vectors
have no part in it, so that another encoder changes nothing: to them two yearly overviews of one shared task are nearer
than many a preprint and its published form. Nor have DOIs, which are mistaken too often.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from semsearch.arrays import array_header
from semsearch.papers import Paper

RECIPE = "traits-1"
"""Names the rules of this room: traits of another recipe cannot be compared with these."""

MIN_WORDS = 20
"""An abstract of fewer words is a note, such as "withdrawn by the author", and tells nothing."""

_MINIMA = 64

TRAITS = np.dtype(
    [
        ("title", "<u8"),  # hash of all its letters and digits; 0 for a title too short to say what a paper is about
        ("title_words", "<u8", (2,)),  # 128 bits, one of them set by each word that says something
        ("numbers", "<u8"),  # 64 bits, one of them set by each number in the title
        ("names", "<u8", (4,)),  # 256 bits, one of them set by each word of the authors' names
        ("abstract", "u1", (_MINIMA,)),  # min-hashes of the abstract's pairs of words, the low byte of each
        ("abstract_words", "<u2"),
        ("year", "<i2"),  # 0 for none
        ("recurring", "?"),  # such as an overview of a shared task, of which there is another one next year
    ]
)

Rows = NDArray[np.int64]
Hashes = NDArray[np.uint64]
TraitTable = NDArray[np.void]

# Words

_MARKS = re.compile("[\u0300-\u036f]")
_NO_WORD = re.compile(r"[^\w+]+")
_IDEOGRAPH = re.compile("([\u2e80-\u9fff])")
_ASCII_WORDS = bytes(code if chr(code).isalnum() or code >= 0x80 or code == ord("+") else 0x20 for code in range(256))
_LATEX = re.compile(
    r"\\[^a-z0-9\s]"  # \'e, \"{o}
    r"|\\[cvuhkrdbt](?=\{)"  # \c{c}
    r"|\\(?:text|math)[a-z]*|\\(?:emph|it|bf|rm|em|sc|tt)\b"
    r"|\\var(?=[a-z])"  # \varepsilon
    r"|[\\${}]"
)
_GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma sigma tau upsilon "
    "phi chi psi omega"
)
_SPELT = str.maketrans(
    {"ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "ı": "i"}
    | {chr(code): name for code, name in enumerate(_GREEK.split(), ord("α"))}
)


def words_of(text: str) -> list[bytes]:
    r"""Return the words, in UTF-8, without case, accents and LaTeX; each Chinese or Japanese character is one.

    >>> words_of(r"The $\epsilon$-Greedy M{\o}ller Ansätze: K²-trees++")
    [b'the', b'epsilon', b'greedy', b'moller', b'ansatze', b'k2', b'trees++']
    """
    text = text.casefold()
    if "\\" in text or "$" in text or "{" in text:
        text = _LATEX.sub("", text)
    if not text.isascii():
        text = _NO_WORD.sub(" ", _MARKS.sub("", unicodedata.normalize("NFKD", text)))
    if not text.isascii():  # still, without accents and dashes
        text = _IDEOGRAPH.sub(r" \1 ", text.translate(_SPELT))
    return text.encode().translate(_ASCII_WORDS).split()


_SAYS_LITTLE = frozenset(
    b"a an and are as at be by can do does for from how in into is it its not of on or that the their this to toward"
    b" towards under using via we what when which with without extended abstract".split()
)
_DIGITS = re.compile(rb"\d+|\+\+")
_ORDINALS = b"first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth".split()
_ROMAN = b"i ii iii iv v vi vii viii ix x xi xii".split()
_NUMBER_WORDS = {word: b"%d" % number for words in (_ORDINALS, _ROMAN) for number, word in enumerate(words, 1)}
_COUNTED = frozenset((b"part", b"volume", b"vol", b"chapter", b"number", b"no"))
_RECURRING = re.compile(
    rb"\b(?:overview of|findings of|shared task|report on|challenge (?:on|and|results)|special issue"
    rb"|introduction to the|editorial|preface|foreword|proceedings|book review|errat\w+|corrigend\w+|in memoriam"
    rb"|message from)\b"
)


def _numbers_of(words: Sequence[bytes]) -> Iterator[bytes]:
    for before, word in zip((b"", *words), words, strict=False):
        if word in _NUMBER_WORDS and (len(word) > 1 or before in _COUNTED):  # a lone i, v or x is seldom a number
            yield _NUMBER_WORDS[word]
        else:
            yield from _DIGITS.findall(word)


# Traits

_COUNT = re.compile(rb"'shape': \((\d{1,18}),\)")
_MAX_HEADER_BYTES = 1_024
_PAPERS_PER_BLOCK = 128
_PAPERS_PER_PART = 8_192
_MAX_AUTHORS = 16  # of hundreds, all bits would be set

# Keys of an abstract: all min-hashes of a band, and for the wider net of the shorter bands also one of the names.
_NAMED_BANDS, _NAMED_BAND_SIZE = 4, 2
_BARE_BANDS, _BARE_BAND_SIZE = 3, 4

_MIX = np.uint64(0x9E3779B97F4A7C15)  # odd numbers near 2**64 times the golden ratio and the square root of 2
_MIX_MORE = np.uint64(0xB504F333F9DE6485)
_MULTIPLIERS = np.cumprod(np.full(_MINIMA, 0x5851F42D4C957F2D, dtype=np.uint64))  # powers of an odd number
_hash_of = xxhash.xxh3_64_intdigest


@dataclass(frozen=True, slots=True, eq=False)
class Traits:
    """What the papers of one segment are compared by.

    `table` has dtype TRAITS and shape (n,), in row order. `keys` (uint64, ascending) and `rows` (int32), both of shape
    (m,), tell which row has which key; a row has at most eight.
    """

    table: TraitTable
    keys: Hashes
    rows: NDArray[np.int32]

    @classmethod
    def joined(cls, parts: "Sequence[Traits]") -> "Traits":
        """Return the traits of segments laid end to end."""
        starts = np.cumsum([0, *(len(part.table) for part in parts)])
        table = np.concatenate([np.empty(0, dtype=TRAITS), *(part.table for part in parts)])
        keys = np.concatenate([np.empty(0, dtype=np.uint64), *(part.keys for part in parts)])
        rows = [part.rows + start for part, start in zip(parts, starts.astype(np.int32), strict=False)]
        return _in_key_order(table, keys, np.concatenate([np.empty(0, dtype=np.int32), *rows]))


def traits_of(papers: Sequence[Paper]) -> Traits:
    """Return the traits of these papers, a row for each, in their order."""
    table = np.zeros(len(papers), dtype=TRAITS)
    keys = [np.empty((0, 1 + _NAMED_BANDS + _BARE_BANDS), dtype=np.uint64)]
    for start in range(0, len(papers), _PAPERS_PER_BLOCK):
        block = slice(start, start + _PAPERS_PER_BLOCK)
        keys.append(_describe(papers[block], table[block]))
    all_keys = np.concatenate(keys)
    rows = np.repeat(np.arange(len(papers), dtype=np.int32), all_keys.shape[1])
    return _in_key_order(table, all_keys.ravel(), rows)


def write_traits(papers: Iterable[Paper], write: Callable[[bytes], int]) -> None:
    """Give the file of these papers' traits to `write`, piece by piece: three arrays in numpy's own format."""
    parts = []
    remaining = iter(papers)
    while block := list(islice(remaining, _PAPERS_PER_PART)):
        parts.append(traits_of(block))
    traits = Traits.joined(parts)
    for array in (traits.table, traits.keys, traits.rows):
        write(array_header(array.dtype, len(array)))
        for start in range(0, len(array), _PAPERS_PER_PART):  # all at once would be another copy in memory
            write(array[start : start + _PAPERS_PER_PART].tobytes())


def read_traits(path: Path) -> Traits:
    """Map the traits that `write_traits` wrote, from a file whose digest must have been checked."""
    mapped = np.asarray(np.memmap(path, np.uint8, "r"))  # of many papers' traits few are ever looked at
    arrays: list[NDArray[Any]] = []
    end = 0
    for dtype in (TRAITS, np.dtype("<u8"), np.dtype("<i4")):
        header = mapped[end : end + _MAX_HEADER_BYTES].tobytes()
        start = end + 10 + int.from_bytes(header[8:10], "little")  # version 1.0 of numpy's format
        count = _COUNT.search(header)
        if not count:
            raise ValueError(f"no array begins at byte {end:,}")
        end = start + int(count[1]) * dtype.itemsize
        arrays.append(mapped[start:end].view(dtype))
    if end != len(mapped):
        raise ValueError(f"its arrays end at byte {end:,} of {len(mapped):,}")
    return Traits(*arrays)


def _describe(papers: Sequence[Paper], table: TraitTable) -> Hashes:
    """Fill these rows of the table and return their keys, shape (n, keys), 0 for none."""
    titles = [words_of(paper.title) for paper in papers]
    names = [_name_hashes(paper) for paper in papers]
    abstracts = [words_of(paper.abstract) for paper in papers]
    lengths = np.array([len(words) for words in abstracts])
    minima = np.where(lengths[:, None] > 0, _minima(abstracts), np.uint64(0))
    table["title"] = [_title_hash(words) for words in titles]
    table["title_words"] = [_bits(map(_hash_of, set(words) - _SAYS_LITTLE), 2) for words in titles]
    table["numbers"] = [_bits(map(_hash_of, _numbers_of(words)), 1)[0] for words in titles]
    table["names"] = [_bits(hashes, 4) for hashes in names]
    table["abstract"] = minima.astype(np.uint8)
    table["abstract_words"] = np.minimum(lengths, 2**16 - 1)
    table["year"] = [paper.year or 0 for paper in papers]
    table["recurring"] = [
        bool(_RECURRING.search(b" ".join(words))) or "tutorial" in (paper.venue or "").casefold()
        for paper, words in zip(papers, titles, strict=True)
    ]
    bands = np.where(lengths[:, None] < MIN_WORDS, np.uint64(0), _bands(minima, names))
    return np.column_stack([table["title"], bands])


def _title_hash(words: Sequence[bytes]) -> int:
    says_enough = len(set(words) - _SAYS_LITTLE) >= 3  # unlike "From the editor"
    return _hash_of(b"".join(words)) if says_enough else 0


def _name_hashes(paper: Paper) -> list[int]:
    """Return the hashes of the words of the names, without initials: which word is the surname differs by source."""
    names = [words_of(name) for name in paper.authors[:_MAX_AUTHORS]]
    return [_hash_of(word) for name in names if name != [b"anonymous"] for word in name if len(word) > 1]


def _bits(hashes: Iterable[int], size: int) -> list[int]:
    """Return a set of hashes as bits of `size` 64-bit numbers."""
    bits = 0
    for number in hashes:
        bits |= 1 << number % (64 * size)
    return [bits >> 64 * place & (2**64 - 1) for place in range(size)]


def _minima(texts: Sequence[Sequence[bytes]]) -> Hashes:
    """Return the min-hashes of each text's pairs of neighbouring words, shape (n, 64).

    The share of min-hashes in which two texts agree estimates how many of the pairs in either are in both (A. Broder,
    On the resemblance and containment of documents, 1997).
    """
    words = np.array([number for text in texts for number in (*map(_hash_of, text), 0)], dtype=np.uint64)
    ends = np.cumsum([len(text) + 1 for text in texts]) - 1
    pairs = words * _MIX + np.roll(words, -1)
    pairs[ends] = pairs[np.maximum(ends - 1, 0)]  # the last word is paired with the 0 behind it, that 0 with nothing
    pairs = (pairs ^ pairs >> np.uint64(32)) * _MIX_MORE
    pairs ^= pairs >> np.uint64(29)
    starts = np.append(0, ends[:-1] + 1)
    minima: Hashes = np.minimum.reduceat(pairs[:, None] * _MULTIPLIERS, starts, axis=0)
    return minima >> np.uint64(8)


def _bands(minima: Hashes, names: Sequence[Sequence[int]]) -> Hashes:
    """Return the keys of the abstracts, shape (n, bands); 0 where a key needs names and there are none."""
    named = minima[:, : _NAMED_BANDS * _NAMED_BAND_SIZE].reshape(len(minima), _NAMED_BANDS, _NAMED_BAND_SIZE)
    bare = minima[:, -_BARE_BANDS * _BARE_BAND_SIZE :].reshape(len(minima), _BARE_BANDS, _BARE_BAND_SIZE)
    name = np.array([min(hashes, default=0) for hashes in names], dtype=np.uint64)[:, None]
    named_keys = np.where(name == 0, np.uint64(0), _combined([name, *np.moveaxis(named, 2, 0)]))
    return np.column_stack([named_keys, _combined(list(np.moveaxis(bare, 2, 0)))])


def _combined(parts: Sequence[Hashes]) -> Hashes:
    """Return one hash for the parts, which broadcast to (n, bands), and the band's place."""
    mixed = np.arange(parts[-1].shape[1], dtype=np.uint64) * _MIX_MORE
    for part in parts:
        mixed = (mixed ^ part) * _MIX
        mixed ^= mixed >> np.uint64(31)
    return mixed


def _in_key_order(table: TraitTable, keys: Hashes, rows: NDArray[np.int32]) -> Traits:
    order = np.argsort(keys, kind="stable")[np.count_nonzero(keys == 0) :]
    return Traits(table, keys[order], rows[order])
