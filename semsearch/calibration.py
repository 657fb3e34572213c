"""On which papers is an int8 network calibrated, and where does it stay?

With the index: its vector space exists nowhere else, and the index could not be searched without it.
"""

import logging
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np

from semsearch.encoders import INT8_SUFFIX, ModelFolder, int8_model, int8_place
from semsearch.errors import EncoderError
from semsearch.library import Library
from semsearch.papers import Paper

logger = logging.getLogger(__name__)

_Item = TypeVar("_Item")

_WATCHED = 300  # abstracts; NNCF's own default, and more of them changed nothing
_FEWEST = 30
_LOOKED_THROUGH = 6_000  # new papers, of which the watched ones are chosen evenly


def calibrated(name: str, networks: Path, library: Library, arriving: Iterable[Paper]) -> ModelFolder:
    """Return the model's int8 network of this index, made now if there is none yet.

    It is calibrated on papers of the library, or on arriving ones where the library holds too few.

    :raises EncoderError: if there are too few papers, or the model cannot be had in int8.
    """
    base = ModelFolder.find(name.removesuffix(INT8_SUFFIX))
    place = int8_place(base, networks)
    if not place.exists():
        from semsearch.encoders.conversion import calibrate  # torch and NNCF

        texts = _texts_of(library) or _evenly([paper.text for paper in islice(arriving, _LOOKED_THROUGH)])
        if len(texts) < _FEWEST:
            raise EncoderError(
                f"int8 is calibrated on at least {_FEWEST} papers, and here are {len(texts)}; leave --precision out"
            )
        logger.warning("calibrating %s on %d abstracts; this takes some minutes, once", base.spec.name, len(texts))
        calibrate(base, place, texts)
    return int8_model(base, networks)


def _texts_of(library: Library) -> list[str]:
    seqs = library.all_live_seqs(library.last_seq()).tolist()
    if len(seqs) < _WATCHED:
        return []
    return [version.paper.text for version in library.versions_at(_evenly(seqs)).values()]


def _evenly(items: list[_Item]) -> list[_Item]:
    places = np.linspace(0, len(items) - 1, min(_WATCHED, len(items))).round().astype(int)
    return [items[place] for place in places]
