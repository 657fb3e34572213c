"""What did one evaluation give, what was it made with, and is it better than another?

A run is kept as one JSON file: the setting, the figures, and what each question scored, so that a later run over the
same questions can be compared with it question by question.
"""

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from semsearch import __version__
from semsearch.evaluate.certainty import Comparison, bootstrap_interval, compare, share_interval
from semsearch.evaluate.known_item import FIRST, TITLE
from semsearch.evaluate.measures import MRR, NDCG, Scores, Subject
from semsearch.generation import Generation

FORMAT = 1
JUDGED = "judged"
"""The name of the only test that a run over a judged set has."""

_KEPT_SETTING = ("semsearch", "date", "model", "mode", "papers")
_DECIMALS = 6


@dataclass(frozen=True, slots=True)
class Run:
    """The scores of each test, and what they were made with: JSON values, for people to read."""

    subject: Subject
    setting: Mapping[str, Any]
    tests: Mapping[str, Scores]

    @property
    def headline(self) -> tuple[str, float | None]:
        """The figure that stands for all, with its name: nDCG@10 of a judged set, else MRR of the title test."""
        test, measure, name = (JUDGED, NDCG, NDCG) if JUDGED in self.tests else (TITLE, MRR, f"{TITLE} {MRR}")
        values = self.tests[test].of(measure)
        return name, float(values.mean()) if len(values) else None


def setting_of(generation: Generation, mode: str, seconds: float) -> dict[str, Any]:
    """Return what a run over this generation was made with, and how long it took."""
    manifest = generation.manifest
    return {
        "semsearch": __version__,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        "model": asdict(manifest.encoder),
        "mode": mode,
        "papers": generation.papers,
        "text_recipe": manifest.text_recipe,
        "index_recipe": manifest.index_recipe,
        "machine": {"cpu": _cpu(), "cores": os.cpu_count(), "system": platform.platform(terse=True)},
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


# Comparing


def check_comparable(before: Run, subject: Subject) -> None:
    """Do nothing if the earlier run asked the same questions of the same papers.

    :raises ValueError: if not, saying which of the two differs.
    """
    asked = before.subject
    if asked.corpus_sha256 != subject.corpus_sha256:
        raise ValueError(
            f"the earlier run was over other papers: {asked.corpus} ({asked.corpus_sha256[:12]}), "
            f"this one is over {subject.corpus} ({subject.corpus_sha256[:12]})"
        )
    if asked.questions_sha256 != subject.questions_sha256:
        raise ValueError(
            f"the earlier run asked other questions ({_split(asked)}{asked.questions_sha256[:12]}), "
            f"this one asks {_split(subject)}{subject.questions_sha256[:12]}; "
            "give both the same judged set and split, or the same --sample and --seed"
        )


def _split(subject: Subject) -> str:
    return f"split {subject.split}, " if subject.split else ""


def compare_runs(run: Run, before: Run) -> dict[str, dict[str, Comparison]]:
    """Return how each measure of each test differs from the earlier run's; a test of fewer than two questions does not.

    :raises ValueError: if the two cannot be compared.
    """
    check_comparable(before, run.subject)
    compared: dict[str, dict[str, Comparison]] = {}
    for test, scores in run.tests.items():
        earlier = before.tests.get(test)
        if earlier is None or (earlier.questions, earlier.measures) != (scores.questions, scores.measures):
            raise ValueError(f"the earlier run does not have the same questions and measures in its test {test!r}")
        if len(scores.questions) >= 2:
            compared[test] = {name: compare(scores.of(name), earlier.of(name)) for name in scores.measures}
    return compared


def side_by_side(rankings: Mapping[str, Scores]) -> dict[str, dict[str, Any]]:
    """Return the figures of several rankings of the same questions, as JSON values, and how the first differs.

    That stands with each of the others, by measure, under "<first>_minus_this"; not for fewer than two questions.
    """
    (first, leading), *others = rankings.items()
    documents = {first: _figures(leading, {})}
    for name, scores in others:
        assert scores.questions == leading.questions, "they are compared question by question"
        documents[name] = _figures(scores, {})
        if len(scores.questions) >= 2:
            documents[name][f"{first}_minus_this"] = {
                measure: _difference(compare(leading.of(measure), scores.of(measure))) for measure in scores.measures
            }
    return documents


def _difference(compared: Comparison) -> dict[str, Any]:
    return {
        "difference": round(compared.difference, _DECIMALS),
        "interval_95": [round(compared.low, _DECIMALS), round(compared.high, _DECIMALS)],
        "p": round(compared.p_value, _DECIMALS),
    }


# As JSON


def envelope(run: Run, before: Run | None = None) -> dict[str, Any]:
    """Return the run as `--json` prints it: the figures of a judged set on top, others by test, then the setting.

    :param before: an earlier run to compare with.
    """
    compared = compare_runs(run, before) if before else {}
    figures = {test: _figures(scores, compared.get(test, {})) for test, scores in run.tests.items()}
    document = {**figures.get(JUDGED, {"tests": figures}), **asdict(run.subject), **run.setting}
    return document | ({"against": dict(before.setting)} if before else {})


def _figures(scores: Scores, compared: Mapping[str, Comparison]) -> dict[str, Any]:
    figures: dict[str, Any] = {name: mean_of(scores, name) for name in scores.measures}
    figures["intervals_95"] = {name: interval_of(scores, name) for name in scores.measures}
    figures["queries"] = len(scores.questions)
    if compared:
        figures["compared"] = {
            name: {key: round(value, _DECIMALS) for key, value in asdict(each).items()}
            for name, each in compared.items()
        }
    return figures


def mean_of(scores: Scores, measure: str) -> float | None:
    """Return the mean over all questions, None if there are none."""
    values = scores.of(measure)
    return round(float(values.mean()), _DECIMALS) if len(values) else None


def interval_of(scores: Scores, measure: str) -> tuple[float, float] | None:
    """Return the 95 % interval of the mean, None for too few questions."""
    values = scores.of(measure)
    found = share_interval(values) if measure == FIRST else bootstrap_interval(values)
    return (round(found[0], _DECIMALS), round(found[1], _DECIMALS)) if found else None


def save_run(run: Run, path: Path) -> None:
    """Write the run, with what each question scored, as one JSON file."""
    per_query = {
        test: {
            question: dict(zip(scores.measures, row, strict=True))
            for question, row in zip(scores.questions, scores.values.tolist(), strict=True)
        }
        for test, scores in run.tests.items()
    }
    document = {"format": FORMAT, **envelope(run), "measures": _measures(run), "per_query": per_query}
    path.write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _measures(run: Run) -> dict[str, list[str]]:
    return {test: list(scores.measures) for test, scores in run.tests.items()}


def load_run(path: Path) -> Run:
    """Return the run that `save_run` wrote.

    :raises ValueError: if the file is none, or of another format.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["format"] != FORMAT:
            raise ValueError(f"it has format {document['format']}, this semsearch reads {FORMAT}")
        subject = Subject(**{name: document[name] for name in Subject.__dataclass_fields__})
        setting = {name: document[name] for name in _KEPT_SETTING}
        tests = {
            test: _scores(tuple(document["measures"][test]), questions)
            for test, questions in document["per_query"].items()
        }
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{path} is no run that semsearch eval --save wrote: {reason}") from None
    return Run(subject, setting, tests)


def _scores(measures: tuple[str, ...], questions: Mapping[str, Mapping[str, float]]) -> Scores:
    rows = [[float(row[measure]) for measure in measures] for row in questions.values()]
    return Scores(tuple(questions), measures, np.array(rows, dtype=np.float64).reshape(len(rows), len(measures)))
