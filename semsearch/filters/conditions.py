"""What is a filter? A tree of conditions joined by `&`, `|` and `~`."""

from dataclasses import dataclass
from datetime import date
from typing import Literal, get_args

from semsearch.errors import RecordError
from semsearch.filters.folding import fold_label, fold_name
from semsearch.papers import MAX_TITLE_CHARACTERS, normalise_id

MAX_ALTERNATIVES = 100
MAX_IDS = 1_000

LabelField = Literal["category", "venue", "source"]


class Filter:
    """A condition on papers, or several joined by `&` (both), `|` (either) and `~` (not)."""

    __slots__ = ()

    def __and__(self, other: "Filter") -> "Filter":
        """Return the filter that both meet."""
        return AllOf((*(self.parts if isinstance(self, AllOf) else (self,)), other))

    def __or__(self, other: "Filter") -> "Filter":
        """Return the filter that either meets."""
        return AnyOf((*(self.parts if isinstance(self, AnyOf) else (self,)), other))

    def __invert__(self) -> "Filter":
        """Return the filter that all other papers meet."""
        return Not(self)


@dataclass(frozen=True, slots=True)
class AllOf(Filter):
    """The papers that meet every part; without parts, all papers."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class AnyOf(Filter):
    """The papers that meet at least one part; without parts, none."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Not(Filter):
    """The papers that do not meet the part."""

    part: Filter


EVERY_PAPER = AllOf(())


@dataclass(frozen=True, slots=True)
class Published(Filter):
    """Papers that may have been published from `first` to `last`, both included; None leaves that end open.

    With both ends open: papers with a date.

    :raises ValueError: if the last day is before the first.
    """

    first: date | None = None
    last: date | None = None

    def __post_init__(self) -> None:
        """Check the order of the days."""
        if self.first and self.last and self.first > self.last:
            raise ValueError(f"{self.last} is before {self.first}; swap the two")


@dataclass(frozen=True, slots=True)
class Labelled(Filter):
    """Papers that carry one of these labels in this field, or one that begins with one of these prefixes.

    Both are kept folded, so that equal filters are equal.

    :raises ValueError: if there is no label and no prefix, more than 100 of them, or a label is blank or too long.
    """

    field: LabelField
    exact: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check and fold the labels."""
        if self.field not in get_args(LabelField):
            raise ValueError(f"{self.field!r} is no field with labels; there are {', '.join(get_args(LabelField))}")
        check_count(len(self.exact) + len(self.prefixes), MAX_ALTERNATIVES)
        object.__setattr__(self, "exact", tuple(_filled(fold_label(_bounded(label)), label) for label in self.exact))
        object.__setattr__(self, "prefixes", tuple(fold_label(_bounded(prefix)) for prefix in self.prefixes))


@dataclass(frozen=True, slots=True)
class Author(Filter):
    """Papers with an author of one of these names; each is kept as its folded words, separated by spaces.

    :raises ValueError: if there is no name, more than 100 of them, or one holds no letter or is too long.
    """

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check and fold the names."""
        check_count(len(self.names), MAX_ALTERNATIVES)
        object.__setattr__(self, "names", tuple(_filled(fold_name(_bounded(name)), name) for name in self.names))


@dataclass(frozen=True, slots=True)
class HasDoi(Filter):
    """Papers with a DOI."""


@dataclass(frozen=True, slots=True)
class Ids(Filter):
    """Papers with one of these ids, kept in the one spelling of `normalise_id`.

    :raises ValueError: if there is no id, more than 1,000 of them, or one cannot be an id.
    """

    ids: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check and normalise the ids."""
        check_count(len(self.ids), MAX_IDS)
        object.__setattr__(self, "ids", tuple(dict.fromkeys(_id(paper_id) for paper_id in self.ids)))


def check_count(count: int, limit: int) -> None:
    """Refuse too many alternatives, or none."""
    if not 1 <= count <= limit:
        raise ValueError(f"it names {count:,} alternatives; name 1 to {limit:,}")


def _bounded(text: str) -> str:
    if len(text) > MAX_TITLE_CHARACTERS:
        raise ValueError(f"an alternative has {len(text):,} characters; at most {MAX_TITLE_CHARACTERS:,} are allowed")
    return text


def _filled(folded: str, text: str) -> str:
    if not folded:
        raise ValueError(f"the alternative {text[:40]!r} holds nothing to compare")
    return folded


def _id(text: str) -> str:
    try:
        return normalise_id(text)
    except RecordError as error:
        raise ValueError(str(error)) from None
