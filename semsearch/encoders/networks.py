"""Where are the converted networks, and is a stored one still what was checked?

A network is a folder: OpenVINO's two files and `record`, which says what they must be, what they were made from
and how near to the reference they came. One that did not come near enough is a record alone, with the reason, so that
nobody tries again at every start.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from platformdirs import user_cache_path

from semsearch.durable import FileRecord, digest_differs, make_folder, sync_folder, sync_tree, write_file
from semsearch.encoders.model import ModelFolder
from semsearch.errors import EncoderError

RECIPE = "openvino-1"
NETWORK = "network.xml"  # its weights stand beside it, in network.bin
_RECORD = "record"  # its own sha256, a line break, JSON


@dataclass(frozen=True, slots=True)
class StoredNetwork:
    """A network that was converted once, or the reason why it could not be.

    `precision` is the arithmetic it was checked in, `worst_cosine` the lowest to the reference over the texts of the
    check.
    """

    folder: Path
    made_from: str
    precision: str
    worst_cosine: float
    files: dict[str, FileRecord]
    unfit: str = ""

    @classmethod
    def open(cls, folder: Path) -> "StoredNetwork":
        """Return the network in this folder, its files checked.

        :raises FileNotFoundError: if there is none.
        :raises EncoderError: if it is damaged.
        """
        digest, _, text = (folder / _RECORD).read_bytes().partition(b"\n")
        if digest.decode("ascii", "replace") != hashlib.sha256(text).hexdigest():
            raise EncoderError(f"{folder / _RECORD} fails its digest")
        record = json.loads(text)
        files = {name: FileRecord(**file) for name, file in record.pop("files").items()}
        network = cls(folder=folder, files=files, **record)
        for name, file in files.items():
            try:
                difference = digest_differs(folder / name, file)
            except FileNotFoundError:
                difference = "is missing"
            if difference:
                raise EncoderError(f"{folder / name} {difference}")
        return network

    @property
    def digests(self) -> list[str]:
        """The sha256 of each file, by name."""
        return [self.files[name].sha256 for name in sorted(self.files)]


def cached_place(model: ModelFolder, precision: str) -> Path:
    """Return where this model's network for this arithmetic is kept on this machine."""
    return user_cache_path("semsearch") / "networks" / f"{model.spec.fingerprint[:16]}-{precision}-{RECIPE}"


def store(folder: Path, made_from: str, precision: str, make: Callable[[Path], tuple[float, str]]) -> StoredNetwork:
    """Store the network that `make` writes into an empty folder, whole or not at all; return it.

    What stood in its place before, a damaged one, is replaced.

    :param make: returns the network's worst cosine to the reference and, where it is unfit, the reason; only that is
        kept then.
    """
    make_folder(folder.parent)
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        worst_cosine, unfit = make(temporary)
        if unfit:
            shutil.rmtree(temporary)
            temporary.mkdir()
        files = {path.name: _resaved(path) for path in sorted(temporary.iterdir())}
        record = asdict(StoredNetwork(folder, made_from, precision, worst_cosine, files, unfit))
        del record["folder"]
        text = json.dumps(record, indent=1).encode()
        write_file(temporary / _RECORD, hashlib.sha256(text).hexdigest().encode() + b"\n" + text)
        sync_tree(temporary)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(folder.parent)
    return StoredNetwork.open(folder)


def _resaved(path: Path) -> FileRecord:
    """Return the record of a file after writing it again with our own checked writes."""
    data = path.read_bytes()
    path.unlink()
    return write_file(path, data)
