"""What stands where in the folder of an index?

The only file that knows the names inside it:

    library.db                 the truth
    CURRENT                    "<generation> <sha256 of its manifest> <its encoder's fingerprint> <xxh3 of all>"
    LOCK, REINDEX, MERGE       held by the one publisher, and for the whole of a reindex or of a merge
    merging/                   a segment that is being merged from several
    staged/                    a generation that is not served: one of another model, to be compared and switched to
    staging/                   what is being staged
    generations/000042/        manifest.json  tombstones.npy  works.npy  lexical/  segments/000041/
                               and in a segment: vectors.faiss  seqs.npy  columns.npy  traits.npy, in a large one
                               lists.faiss  codes.npy
    networks/                  int8 networks calibrated on these papers, if int8 was asked for
    quarantine/                damaged generations are moved here, never deleted
"""

import errno
from dataclasses import dataclass
from pathlib import Path

import xxhash

from semsearch.errors import IndexMissingError, SemsearchError

VECTORS, SEQS, COLUMNS, TRAITS = "vectors.faiss", "seqs.npy", "columns.npy", "traits.npy"
LISTS, CODES = "lists.faiss", "codes.npy"  # in large segments only
MERGED = "merged"
TOMBSTONES, WORKS, LEXICAL, MANIFEST = "tombstones.npy", "works.npy", "lexical", "manifest.json"

NOT_DAMAGE = {
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EACCES, errno.EPERM, errno.EINTR),
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS),  # of the folder for temporary files, which opening needs
}
"""What an operating system says of itself when a file cannot be read just now, not of the file."""


@dataclass(frozen=True, slots=True)
class IndexFolder:
    """Where the things of one index stand."""

    path: Path

    @property
    def command(self) -> str:
        """The command that brings this index up to date, for messages that say the way out."""
        return f"semsearch index --index {self.path}"

    @property
    def library(self) -> Path:
        """The SQLite file."""
        return self.path / "library.db"

    @property
    def current(self) -> Path:
        """The file that names the live generation."""
        return self.path / "CURRENT"

    @property
    def publish_lock(self) -> Path:
        """The lock file held during a publish."""
        return self.path / "LOCK"

    @property
    def reindex_lock(self) -> Path:
        """The lock file held during a whole reindex."""
        return self.path / "REINDEX"

    @property
    def merge_lock(self) -> Path:
        """The lock file held during a merge of segments."""
        return self.path / "MERGE"

    @property
    def merging(self) -> Path:
        """The folder of a segment that is being merged."""
        return self.path / "merging"

    @property
    def staged(self) -> Path:
        """The folder of the generation that stands beside the live one, to be switched to."""
        return self.path / "staged"

    @property
    def staging(self) -> Path:
        """The folder in which a generation is being staged."""
        return self.path / "staging"

    @property
    def generations(self) -> Path:
        """The folder of all generations."""
        return self.path / "generations"

    @property
    def quarantine(self) -> Path:
        """The folder of damaged generations."""
        return self.path / "quarantine"

    @property
    def networks(self) -> Path:
        """The folder of the int8 networks that were calibrated on this index's papers."""
        return self.path / "networks"

    def generation(self, number: int) -> Path:
        """The folder of one generation."""
        return self.generations / f"{number:06d}"

    def published(self) -> list[int]:
        """Return the numbers of all generations that stand there whole or damaged, newest first."""
        if not self.generations.exists():
            return []
        names = (path.name for path in self.generations.iterdir())  # glob would take what it may not read for empty
        return sorted((int(name) for name in names if name.isdecimal()), reverse=True)

    def check_exists(self) -> None:
        """Do nothing for a folder that holds an index.

        :raises IndexMissingError: if it holds none, or only the derived half of one.
        """
        if self.library.is_file():
            return
        if self.current.exists() or self.published():
            raise IndexMissingError(f"{self.library} is missing although its index is there; restore it from a backup")
        raise IndexMissingError(f"there is no index in {self.path}; create one with: {self.command} FILE")


def current_generation(folder: IndexFolder) -> tuple[int, str] | None:
    """Return the live generation's number and its manifest's sha256, or None if CURRENT is missing or damaged.

    :raises SemsearchError: if it cannot be read just now.
    """
    said = _current(folder)
    return (said[0], said[1]) if said else None


def current_space(folder: IndexFolder) -> str | None:
    """Return the fingerprint of the vector space that is live, as CURRENT says, or None if it does not.

    :raises SemsearchError: if it cannot be read just now.
    """
    said = _current(folder)
    return said[2] if said else None


def current_line(number: int, manifest_sha256: str, space: str | None) -> bytes:
    """Return what CURRENT says when it names this generation of this vector space."""
    named = " ".join([f"{number:06d}", manifest_sha256, *([space] if space else [])])
    return f"{named} {xxhash.xxh3_64_hexdigest(named.encode())}\n".encode()


def _current(folder: IndexFolder) -> tuple[int, str, str | None] | None:
    try:
        line = folder.current.read_bytes()
        number, manifest_sha256, *space, _ = line.decode("ascii").split()
        said = int(number), manifest_sha256, space[0] if space else None  # which it did not say at first
    except OSError as error:
        if error.errno in NOT_DAMAGE:
            raise SemsearchError(f"{folder.current} cannot be read now: {error}") from error
        return None  # it is not there, or the disk no longer gives it back
    except ValueError:
        return None
    return said if line == current_line(*said) else None
