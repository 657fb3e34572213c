#!/usr/bin/env python3
"""Draw the results in docs/benchmarks that are better looked at than read.

scripts/plot.py
"""

import json
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import pyplot
from measuring import RESULTS

matplotlib.use("svg")
matplotlib.rcParams |= {
    "svg.hashsalt": "semsearch",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}

_ENGINES = (  # of baselines-*.json: title, then what, where it stands, colour
    (
        "ten nearest vectors, one thread",
        (
            ("numpy", ("by_meaning", "numpy"), "#bbbbbb"),
            ("FAISS, flat", ("by_meaning", "faiss"), "#888888"),
            ("hnswlib", ("by_meaning", "hnswlib"), "#7a4fa3"),
            ("semsearch, vectors alone", ("by_meaning", "semsearch_vectors_alone"), "#1f6f8b"),
        ),
    ),
    (
        "ten best by words, one thread",
        (
            ("SQLite FTS5", ("by_words", "sqlite_fts5"), "#888888"),
            ("bm25s", ("by_words", "bm25s"), "#7a4fa3"),
            ("semsearch, words alone", ("by_words", "semsearch_words_alone"), "#1f6f8b"),
        ),
    ),
    (
        "hybrid answer of a service",
        (
            ("txtai", ("services", "txtai"), "#bbbbbb"),
            ("txtai, one thread", ("services", "txtai_one_thread"), "#888888"),
            ("semsearch", ("services", "semsearch"), "#1f6f8b"),
        ),
    ),
)
_LINES = (  # of vectors.json: what, where its milliseconds stand, colour
    ("all vectors, FAISS flat float32", ("flat", "milliseconds"), "#888888"),
    ("all vectors, numpy", ("numpy", "milliseconds"), "#bbbbbb"),
    ("lists, papers asked", ("lists", "papers", "milliseconds"), "#1f6f8b"),
    ("lists, titles asked", ("lists", "titles", "milliseconds"), "#c05621"),
    ("HNSW graph for a recall of 0.99, titles asked", ("graph", "titles", "milliseconds"), "#7a4fa3"),
)
_WAYS = (  # of scale-*.json: what, where its milliseconds stand, colour
    ("words and meaning", ("titles", "hybrid", "p50"), "#1f6f8b"),
    ("words", ("titles", "lexical", "p50"), "#7a4fa3"),
    ("meaning", ("titles", "dense", "p50"), "#c05621"),
    ("meaning, within 1 %", ("titles", "dense_within_filter", "p50"), "#e0a458"),
    ("meaning, of which the scan", ("titles", "dense", "scan_p50"), "#888888"),
)


def main() -> None:
    """Draw all of them."""
    vectors(json.loads((RESULTS / "vectors.json").read_text())["measured"], RESULTS / "vectors.svg")
    runs = [json.loads(path.read_text())["measured"] for path in RESULTS.glob("baselines-[0-9]*.json")]
    baselines(sorted(runs, key=lambda run: int(run["papers"])), RESULTS / "baselines.svg")
    scales = [json.loads(path.read_text())["measured"] for path in RESULTS.glob("scale-*.json")]
    scale(sorted(scales, key=lambda run: int(run["papers"])), RESULTS / "scale.svg")


def vectors(measured: dict[str, Any], path: Path) -> None:
    """Draw how long it takes to find the ten nearest vectors, by their number."""
    figure, axes = pyplot.subplots(figsize=(6.4, 3.8))
    rows = [size["rows"] for size in measured["sizes"]]
    for label, keys, colour in _LINES:
        sizes = [size for size in measured["sizes"] if keys[0] in size]
        if sizes:
            drawn = [_at(size, keys) for size in sizes]
            axes.plot([size["rows"] for size in sizes], drawn, marker="o", label=label, color=colour)
    axes.axvspan(measured["real_vectors"], max(rows), color="#f4f4f4", zorder=0, label="partly made from real ones")
    axes.set(xscale="log", yscale="log", xlabel="vectors", ylabel="milliseconds a question, one thread")
    axes.set_title("The ten nearest of n vectors (384 numbers each)")
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(0, -0.15), ncols=2)
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})


def baselines(runs: list[dict[str, Any]], path: Path) -> None:
    """Draw what the median question costs each engine, by the number of papers; one that was left out is left out."""
    figure, panels = pyplot.subplots(1, len(_ENGINES), figsize=(10, 3.4))
    sizes = [run["papers"] for run in runs]
    for axes, (title, engines) in zip(panels, _ENGINES, strict=True):
        for label, (group, name), colour in engines:
            there = [run for run in runs if isinstance(run[group].get(name), dict)]
            drawn = [_at(run, (group, name, "milliseconds", "p50")) for run in there]
            axes.plot([run["papers"] for run in there], drawn, marker="o", label=label, color=colour)
        axes.set(xscale="log", yscale="log", xlabel="papers", ylabel="milliseconds, median question")
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.minorticks_off()
        axes.set_title(title)
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(0, -0.2))
    figure.tight_layout()
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})


def scale(runs: list[dict[str, Any]], path: Path) -> None:
    """Draw what the median title half remembered costs, by the number of papers."""
    figure, axes = pyplot.subplots(figsize=(6.4, 3.8))
    for label, keys, colour in _WAYS:
        axes.plot([run["papers"] for run in runs], [_at(run, keys) for run in runs], "o-", label=label, color=colour)
    axes.set(xscale="log", yscale="log", xlabel="papers", ylabel="milliseconds, median question")
    axes.set_xticks(papers := [run["papers"] for run in runs], [f"{count:,}" for count in papers])
    axes.set_yticks(marks := (2, 5, 10, 20, 50, 100, 200), map(str, marks))
    axes.minorticks_off()
    axes.set_title("A question whose vector is known")
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(0, -0.15), ncols=2)
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})


def _at(size: dict[str, Any], keys: tuple[str, ...]) -> float:
    value: Any = size
    for key in keys:
        value = value[key]
    return float(value)


if __name__ == "__main__":
    main()
