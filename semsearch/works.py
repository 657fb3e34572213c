"""Which papers are one work?

A preprint and its published form, a workshop paper and its journal version, one abstract under two ids: versions of one
work, to be shown as one hit. They are told in two steps:

- *Pairs* are two versions of one work, found among the papers that share a key. Whether two papers are a pair depends
  on these two alone, so it is settled for good: a new generation takes over its parent's pairs and adds those of its
  new papers.
- *Works* are what pairs connect. A new paper can connect two old works, so each generation has its own.
"""

import numpy as np
from numpy.typing import NDArray

from semsearch.traits import MIN_WORDS, Hashes, Rows, Traits, TraitTable

RECIPE = "works-1"
"""Names the rules of this room: pairs of another recipe have to be found anew."""

# Pairs

_MAX_SHARED = 250
"""A key that more rows of a segment share belongs to boilerplate; to compare them all would cost the square of them."""
_PAIRS_PER_BLOCK = 1 << 15


def pairs_within(traits: Traits) -> Rows:
    """Return the pairs of rows of one segment that are versions of one work: shape (p, 2), sorted, the lower first."""
    starts = np.flatnonzero(np.diff(traits.keys, prepend=traits.keys[:1] ^ np.uint64(1)))
    counts = np.diff(starts, append=len(traits.keys))
    found = [np.empty((0, 2), dtype=np.int32)]
    for count in np.unique(counts[(counts > 1) & (counts <= _MAX_SHARED)]):
        groups = traits.rows[starts[counts == count, None] + np.arange(count)]
        found.append(groups[:, np.column_stack(np.triu_indices(count, 1))].reshape(-1, 2))
    candidates = np.sort(np.concatenate(found), axis=1)
    return _verified(traits.table, traits.table, candidates[:, 0], candidates[:, 1])


def pairs_between(one: Traits, other: Traits) -> Rows:
    """Return the pairs (row of `one`, row of `other`) that are versions of one work: shape (p, 2), sorted.

    The cost grows with the size of `one`, and with that of `other` only as its logarithm.
    """
    starts, counts = _places(one.keys, other.keys)
    _, own_counts = _places(one.keys, one.keys)
    counts[(counts > _MAX_SHARED) | (own_counts > _MAX_SHARED)] = 0
    left = np.repeat(one.rows, counts)
    steps = np.arange(len(left)) - np.repeat(np.cumsum(counts) - counts, counts)
    return _verified(one.table, other.table, left, other.rows[np.repeat(starts, counts) + steps])


def _places(keys: Hashes, among: Hashes) -> tuple[Rows, Rows]:
    """Return where each key begins among others, ascending, and how often it is there."""
    starts = np.searchsorted(among, keys, side="left")
    return starts, np.searchsorted(among, keys, side="right") - starts


def _verified(one: TraitTable, other: TraitTable, left: NDArray[np.int32], right: NDArray[np.int32]) -> Rows:
    pairs = np.unique(left.astype(np.int64) << 32 | right)
    left, right = (pairs >> 32).astype(np.int32), pairs.astype(np.int32)
    blocks = [slice(start, start + _PAIRS_PER_BLOCK) for start in range(0, len(pairs), _PAIRS_PER_BLOCK)]
    good = [are_one_work(one[left[block]], other[right[block]]) for block in blocks]
    verified: Rows = np.column_stack([left, right])[np.concatenate([np.empty(0, np.bool_), *good])].astype(np.int64)
    return verified


def are_one_work(one: TraitTable, other: TraitTable) -> NDArray[np.bool_]:
    """Return which of these papers are versions of one work: one[i] and other[i], both of shape (n,).

    One title and the same people are one work, however much its journal version was extended; but an overview, tutorial
    or the like with the title of another year's is another. Where nobody is named, the abstracts must also have
    something in common, and where others are named, most. Under another title it takes the same people, and titles and
    abstracts that make up for each other's differences; and never with other numbers, such as part I and part II.

    Precision goes first: who is shown two versions loses little, who is not shown a paper loses it. The thresholds were
    set by reading pairs of real papers.
    """
    same_title = (one["title"] == other["title"]) & (one["title"] != 0)
    texts = (one["abstract"] == other["abstract"]).mean(axis=1)
    texts[np.minimum(one["abstract_words"], other["abstract_words"]) < MIN_WORDS] = 0
    fewest_names = np.minimum(_size(one["names"]), _size(other["names"]))
    same_people = _size(one["names"] & other["names"]) >= np.maximum(0.6 * fewest_names, 1)
    unnamed = fewest_names == 0
    recurring = one["recurring"] | other["recurring"]
    next_edition = recurring & (one["year"] != other["year"]) & (one["numbers"] == 0)  # a number names the edition
    same_name = np.select(
        [same_people, unnamed],
        [~next_edition | (texts >= 0.6), texts >= 0.1],
        texts >= 0.5,
    )
    words = _resemblance(one["title_words"], other["title_words"])
    only_one, only_other = one["numbers"] & ~other["numbers"] != 0, other["numbers"] & ~one["numbers"] != 0
    needed = 1.2 + 0.1 * unnamed + 0.1 * (only_one | only_other)
    renamed = (texts >= 0.5) & (words >= 0.25) & (texts + words >= needed) & (same_people | unnamed)
    renamed &= ~recurring | ((texts >= 0.7) & (words >= 0.8))  # the tasks of one contest are told in the same words
    verdict: NDArray[np.bool_] = np.where(same_title, same_name, renamed & ~(only_one & only_other))
    return verdict


def _resemblance(one: Hashes, other: Hashes) -> NDArray[np.float64]:
    """Return the share of the elements of two sets, bits in the last axis, that both hold; 1 for two empty sets."""
    together = _size(one | other)
    return np.where(together > 0, _size(one & other) / np.maximum(together, 1), 1.0)


def _size(bits: Hashes) -> NDArray[np.float64]:
    sizes: NDArray[np.float64] = np.bitwise_count(bits).sum(axis=-1, dtype=np.float64)
    return sizes


# Works


class Works:
    """Which of the rows of a generation are one work. It holds no more than those of which there are several."""

    def __init__(self, pairs: Rows) -> None:
        """Connect rows by these pairs, shape (p, 2); pairs of which a row is dead must have been left out."""
        self._members, ends = np.unique(pairs, return_inverse=True)
        self._works: Rows = self._members[_components(len(self._members), ends.reshape(-1, 2))]
        self._by_work = np.argsort(self._works, kind="stable")

    def of(self, rows: Rows) -> Rows:
        """Return the number of each row's work, shape (n,): the lowest of its rows."""
        if not self._members.size:
            return rows
        places = np.minimum(np.searchsorted(self._members, rows), len(self._members) - 1)
        works: Rows = np.where(self._members[places] == rows, self._works[places], rows)
        return works

    def versions_of(self, row: int) -> Rows:
        """Return all rows of this row's work, itself included, ascending."""
        work = self.of(np.array([row], dtype=np.int64))[0]
        first = np.searchsorted(self._works, work, "left", self._by_work)
        last = np.searchsorted(self._works, work, "right", self._by_work)
        return self._members[self._by_work[first:last]] if last > first else np.array([row], dtype=np.int64)

    def best_of_each(self, ranked: Rows) -> Rows:
        """Return the places in a ranking, best first, of the best row of each work, ascending.

        The best is shown, and not the published one, because rank, score and evidence are its own, and because it is
        the one that passed the filters and matched the words; what is told of the others says where the work was
        published.
        """
        return np.sort(np.unique(self.of(ranked), return_index=True)[1])

    def count(self, among: NDArray[np.bool_]) -> int:
        """Return how many works the rows in this mask are, of shape (rows,)."""
        held = among[self._members[self._by_work]]
        works = self._works[self._by_work[held]]
        repeated = int(np.count_nonzero(works[1:] == works[:-1]))
        return int(np.count_nonzero(among)) - repeated

    def several(self, among: NDArray[np.bool_]) -> tuple[Rows, Rows]:
        """Return the rows in this mask whose works have several rows, in it or not, ascending, and the work of each."""
        held = among[self._members]
        return self._members[held], self._works[held]


def _components(count: int, edges: Rows) -> Rows:
    """Return for each of `count` nodes the lowest that edges, shape (e, 2), connect it with."""
    lowest = np.arange(count, dtype=np.int64)
    while len(edges):
        roots = lowest[edges]
        np.minimum.at(lowest, roots.max(axis=1), roots.min(axis=1))
        while not np.array_equal(lowest, nearer := lowest[lowest]):
            lowest = nearer
        edges = edges[lowest[edges[:, 0]] != lowest[edges[:, 1]]]
    return lowest
