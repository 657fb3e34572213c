"""Semantic search over scientific-paper abstracts, on your own machine.

    from semsearch import IndexFolder, Page, Searcher, imports_of, parse_filter, update_index

Names are loaded when first used: `import semsearch` loads neither faiss nor torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from semsearch.filters import Filter, parse_filter
    from semsearch.generation import IndexFolder
    from semsearch.library import Library
    from semsearch.papers import Paper
    from semsearch.reindex import imports_of, update_index
    from semsearch.search import Answer, Hit, Page, Searcher

__version__ = "0.1.0"
__all__ = [
    "Answer",
    "Filter",
    "Hit",
    "IndexFolder",
    "Library",
    "Page",
    "Paper",
    "Searcher",
    "__version__",
    "imports_of",
    "parse_filter",
    "update_index",
]

_HOMES = {
    "Answer": "semsearch.search",
    "Filter": "semsearch.filters",
    "Hit": "semsearch.search",
    "IndexFolder": "semsearch.generation",
    "Library": "semsearch.library",
    "Page": "semsearch.search",
    "Paper": "semsearch.papers",
    "Searcher": "semsearch.search",
    "imports_of": "semsearch.reindex",
    "parse_filter": "semsearch.filters",
    "update_index": "semsearch.reindex",
}


def __getattr__(name: str) -> Any:  # PEP 562: the type depends on the name
    """Return the public name, importing its room on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'semsearch' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
