"""What does a generation say of itself?

The manifest: what it is made of, what made it, what each of its files must be, and questions whose answers are known.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from semsearch.durable import FileRecord
from semsearch.encoders.model import EncoderSpec
from semsearch.errors import GenerationDamageError, OldFormatError, SemsearchError
from semsearch.lexical import RECIPE as LEXICAL_RECIPE
from semsearch.papers import TEXT_RECIPE
from semsearch.traits import RECIPE as TRAITS_RECIPE
from semsearch.vectors import RECIPE as VECTORS_RECIPE
from semsearch.vectors import Probing
from semsearch.works import RECIPE as WORKS_RECIPE

FORMAT_VERSION = 7


@dataclass(frozen=True, slots=True)
class SegmentRecord:
    """One segment as its manifest tells it; `probing` is None where it has no lists, and every answer is exact."""

    name: str
    rows: int
    probing: Probing | None = None


@dataclass(frozen=True, slots=True)
class Canary:
    """A question whose answer is known: a vector (float32, base64) and the seqs and scores of its nearest rows."""

    vector: str
    seqs: tuple[int, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class WeakBelow:
    """Which best scores are no better than chance, by mode; measured when so many papers could be found.

    A mode that is not there is one in which nothing can be said, for want of words to ask.
    """

    papers: int
    scores: dict[str, float]


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a generation is made of and what made it: the library's changes up to `last_seq`, named by `last_change`.

    `weak_below` is None as long as it has not been measured: in small indexes, and where no encoder was at hand.
    """

    generation: int
    parent: int | None
    created_at: str
    papers: int
    rows: int
    last_seq: int
    last_change: str
    encoder: EncoderSpec
    segments: tuple[SegmentRecord, ...]
    files: dict[str, FileRecord]
    canaries: tuple[Canary, ...]
    text_recipe: str = TEXT_RECIPE
    index_recipe: str = VECTORS_RECIPE
    lexical_recipe: str = LEXICAL_RECIPE
    traits_recipe: str = TRAITS_RECIPE
    works_recipe: str = WORKS_RECIPE
    weak_below: WeakBelow | None = None
    format_version: int = FORMAT_VERSION

    @property
    def approximate(self) -> bool:
        """Whether some of its segments are searched by way of lists."""
        return any(segment.probing for segment in self.segments)

    @property
    def recall_at_10(self) -> float:
        """Which part of the ten nearest rows is found: the mean over the rows of what was measured of each segment."""
        found = sum(
            segment.rows * (segment.probing.recall_at_10 if segment.probing else 1) for segment in self.segments
        )
        return round(found / self.rows, 4) if self.rows else 1.0

    @property
    def is_extendable(self) -> bool:
        """Whether more papers can be added to what it describes: only to what was made by the same rules."""
        rules = (self.text_recipe, self.index_recipe, self.lexical_recipe, self.traits_recipe, self.works_recipe)
        return rules == (TEXT_RECIPE, VECTORS_RECIPE, LEXICAL_RECIPE, TRAITS_RECIPE, WORKS_RECIPE)

    def to_bytes(self) -> bytes:
        """Return the manifest file's content, which carries a digest of its own for when CURRENT is lost."""
        body = asdict(self)
        return json.dumps({"sha256": _body_digest(body), "manifest": body}, indent=1, sort_keys=True).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Manifest":
        """Return the manifest that `to_bytes` wrote.

        :raises GenerationDamageError: if it is not what was written.
        :raises OldFormatError: if an older semsearch wrote it.
        :raises SemsearchError: if a newer one did.
        """
        try:
            outer = json.loads(data)
            body = outer["manifest"]
            if outer["sha256"] != _body_digest(body):
                raise GenerationDamageError("its manifest fails its digest")
            if body["format_version"] < FORMAT_VERSION:
                raise OldFormatError(f"it has format {body['format_version']}, this semsearch reads {FORMAT_VERSION}")
            if body["format_version"] > FORMAT_VERSION:
                raise SemsearchError(
                    f"the index has format {body['format_version']}, this semsearch reads {FORMAT_VERSION}; "
                    "use the semsearch that wrote it"
                )
            return _manifest_from(body)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise GenerationDamageError(f"its manifest cannot be read ({type(error).__name__})") from error


def _body_digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _manifest_from(body: dict[str, Any]) -> Manifest:
    return Manifest(
        **body
        | {
            "encoder": EncoderSpec(**body["encoder"]),
            "segments": tuple(_segment_from(segment) for segment in body["segments"]),
            "weak_below": WeakBelow(**body["weak_below"]) if body.get("weak_below") else None,
            "files": {name: FileRecord(**record) for name, record in body["files"].items()},
            "canaries": tuple(
                Canary(canary["vector"], tuple(canary["seqs"]), tuple(canary["scores"])) for canary in body["canaries"]
            ),
        }
    )


def _segment_from(body: dict[str, Any]) -> SegmentRecord:
    probing = body.get("probing")
    return SegmentRecord(body["name"], body["rows"], Probing(**probing) if probing else None)
