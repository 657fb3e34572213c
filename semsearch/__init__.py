"""Semantic search over scientific-paper abstracts, on your own machine.

    from semsearch import IndexFolder, Reindexer, Searcher

Names are loaded when first used: `import semsearch` loads neither faiss nor torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from semsearch.generation import IndexFolder
    from semsearch.library import Library
    from semsearch.papers import Paper
    from semsearch.reindex import Reindexer
    from semsearch.search import Answer, Hit, Searcher

__version__ = "0.1.0"
__all__ = ["Answer", "Hit", "IndexFolder", "Library", "Paper", "Reindexer", "Searcher", "__version__"]

_HOMES = {
    "Answer": "semsearch.search",
    "Hit": "semsearch.search",
    "IndexFolder": "semsearch.generation",
    "Library": "semsearch.library",
    "Paper": "semsearch.papers",
    "Reindexer": "semsearch.reindex",
    "Searcher": "semsearch.search",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401  # PEP 562: the type depends on the name
    """Return the public name, importing its room on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'semsearch' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
