"""Is a generation refused that was written wrongly from the start, though all of its digests agree?

What damage cannot do, a bug or somebody with a grudge can: every file is the one that the manifest names, the manifest
is the one that CURRENT names, and what they say is wrong.
"""

import base64
import json
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from children import Crashed, Hung, in_child
from damage import Base, served
from storage import name_as_current, rewrite_manifest
from tallies import Tally
from truth import LIVE

from semsearch.durable import sync_file
from semsearch.generation import IndexFolder, opening

MUST_BE_ZERO = ("accepted", "crash", "hang")
_SEGMENT = f"segments/{LIVE:06d}"
_OTHER_PRINT = "e" * 64

Manifest = dict[str, Any]
Poison = Callable[[Path, Manifest, random.Random], None]


def _array(name: str, change: Callable[[Any, random.Random], Any]) -> Poison:
    """Return what changes an array of numbers in a file of its own."""

    def poison(folder: Path, manifest: Manifest, dice: random.Random) -> None:
        array = change(np.load(folder / name), dice)
        (folder / name).unlink()
        np.save(folder / name, array)

    return poison


def _vectors(change: Callable[[Any, random.Random], None]) -> Poison:
    """Return what changes the vectors of a segment, which stand at the end of their file."""

    def poison(folder: Path, manifest: Manifest, dice: random.Random) -> None:
        segment = dice.choice(manifest["segments"])
        path = folder / "segments" / segment["name"] / "vectors.faiss"
        data = bytearray(path.read_bytes())
        rows, dimension = segment["rows"], manifest["encoder"]["dimension"]
        start = len(data) - 4 * rows * dimension
        matrix = np.frombuffer(data[start:], dtype="<f4").reshape(rows, dimension).copy()
        change(matrix, dice)
        data[start:] = matrix.tobytes()
        path.unlink()
        path.write_bytes(data)

    return poison


def _said(**changes: object) -> Poison:
    """Return what changes entries of the manifest."""
    return lambda folder, manifest, dice: manifest.update(changes)


def _encoder(**changes: object) -> Poison:
    return lambda folder, manifest, dice: manifest["encoder"].update(changes)


def _one_row(value: float) -> Poison:
    def change(matrix: Any, dice: random.Random) -> None:
        matrix[dice.randrange(len(matrix))] = value

    return _vectors(change)


def _rolled(matrix: Any, dice: random.Random) -> None:
    matrix[:] = np.roll(matrix, 1, axis=0)


def _more(name: str, by: int) -> Poison:
    return lambda folder, manifest, dice: manifest.update({name: manifest[name] + by})


def _canary_of_another(folder: Path, manifest: Manifest, dice: random.Random) -> None:
    canary = dice.choice(manifest["canaries"])
    vector = np.frombuffer(base64.b64decode(canary["vector"]), dtype="<f4")
    canary["vector"] = base64.b64encode(np.roll(vector, 1).tobytes()).decode()


def _without_segment(folder: Path, manifest: Manifest, dice: random.Random) -> None:
    del manifest["segments"][dice.randrange(len(manifest["segments"]))]


def _swapped_segments(folder: Path, manifest: Manifest, dice: random.Random) -> None:
    manifest["segments"].reverse()


def _swap_first_two(array: Any, dice: random.Random) -> Any:
    array[[0, 1]] = array[[1, 0]]
    return array


POISONS: dict[str, Poison] = {
    "vector space of another model": _encoder(fingerprint=_OTHER_PRINT),
    "another dimension": _encoder(dimension=16),
    "a vector that is not a number": _one_row(np.nan),
    "an infinite vector": _one_row(np.inf),
    "a vector of nothing": _one_row(0.0),
    "a vector of length 2": _one_row(2 / np.sqrt(8)),
    "vectors one row on": _vectors(_rolled),
    "one paper more": _more("papers", 1),
    "one paper less": _more("papers", -1),
    "one row more": _more("rows", 1),
    "a canary of another vector": _canary_of_another,
    "seqs out of order": _array(f"{_SEGMENT}/seqs.npy", _swap_first_two),
    "seqs of other rows": _array(f"{_SEGMENT}/seqs.npy", lambda array, dice: array + 1),
    "seqs of half the rows": _array(f"{_SEGMENT}/seqs.npy", lambda array, dice: array[: len(array) // 2]),
    "tombstones beyond the rows": _array("tombstones.npy", lambda array, dice: array + 1_000),
    "negative tombstones": _array("tombstones.npy", lambda array, dice: array - 1_000),
    "no tombstones": _array("tombstones.npy", lambda array, dice: array[:0]),
    "the same tombstone twice": _array("tombstones.npy", lambda array, dice: np.repeat(array[:1], len(array))),
    "works beyond the rows": _array("works.npy", lambda array, dice: array + 1_000),
    "works that are no pairs": _array("works.npy", lambda array, dice: array.ravel()),
    "a change of another library": _said(last_change="0" * 16),
    "a change that is still to come": _said(last_seq=10_000),
    "a newer format": _said(format_version=1_000),
    "another generation's number": _said(generation=LIVE + 1),
    "a segment left out": _without_segment,
    "segments in another order": _swapped_segments,
    "canaries that are none": _said(canaries=[{"vector": "", "seqs": [], "scores": []}]),
    "a rule for weak answers that is none": _said(weak_below={"papers": "many"}),
}


def run(room: Path, trials: int, seed: int, control: str) -> Tally:
    """Return what came of each poison, so often that there are so many trials.

    For the null control, the manifest is written anew as it was; with "nothing checked", what opens a generation
    compares nothing.
    """
    base, tally, dice = Base(room), Tally("poison", control, seed, MUST_BE_ZERO), random.Random(seed)
    if control == "nothing checked":
        for name in ("check_canary", "check_segment"):
            setattr(opening, name, lambda *_, **__: None)
    while tally.trials < trials:
        for name in list(POISONS)[: trials - tally.trials]:
            _one_poison(base, tally, name, dice, control == "null")
    return tally


def _one_poison(base: Base, tally: Tally, name: str, dice: random.Random, harmless: bool) -> None:
    path = base.copied(tuple(base.files))
    folder = IndexFolder(path)
    in_child(partial(_poisoned, folder, "" if harmless else name, dice.randrange(1 << 30)))
    try:
        found = in_child(partial(served, path))
    except (Crashed, Hung) as error:
        tally.count("crash" if isinstance(error, Crashed) else "hang", f"{name}: {error}")
        return
    if "refused" in found:
        tally.count("refused", name)
    elif found["generation"] < LIVE and found["answers"] == base.truths[str(found["generation"])]:
        tally.count("older", name)
    else:
        tally.count("whole" if harmless else "accepted", name)


def _poisoned(folder: IndexFolder, name: str, seed: int) -> None:
    """Poison the live generation and let every digest agree."""
    path = folder.generation(LIVE)
    manifest: Manifest = json.loads((path / "manifest.json").read_bytes())["manifest"]
    if name:
        POISONS[name](path, manifest, random.Random(seed))
    for file in manifest["files"]:
        record = sync_file(path / file)
        manifest["files"][file] = {"bytes": record.bytes, "xxh3": record.xxh3, "sha256": record.sha256}
    rewrite_manifest(folder, LIVE, **manifest)
    name_as_current(folder, LIVE)
