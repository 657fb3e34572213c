"""What does an evaluation look like on a terminal?"""

from collections.abc import Mapping, Sequence
from itertools import zip_longest

from semsearch.evaluate.certainty import Comparison
from semsearch.evaluate.runs import JUDGED, Run, compare_runs, interval_of, mean_of


def table(run: Run, before: Run | None = None, called: str = "before") -> str:
    """Return what was asked, and one line per figure in columns.

    :param before: an earlier run, to show its figures, the differences and their p-values.
    :param called: what it is called in the table.
    """
    compared = compare_runs(run, before) if before else {}
    titles = [_title(run)] + ([f"{called}: {_title(before)}"] if before else [])
    return "\n".join([*titles, "", _aligned(_rows(run, compared, called))])


def _title(run: Run) -> str:
    subject, setting = run.subject, run.setting
    model = f"{setting['model']['name']} ({setting['model']['fingerprint'][:12]})"
    name = f"{subject.corpus}, split {subject.split}" if subject.split else subject.corpus
    return f"{name}: {setting['papers']:,} papers, {setting['mode']} search, {model}"


def _rows(run: Run, compared: Mapping[str, Mapping[str, Comparison]], called: str) -> list[list[str]]:
    header = ["", "questions", "value", "95 % interval"]
    rows = [header + ([called, "difference", "95 % interval", "p"] if compared else [])]
    for test, scores in run.tests.items():
        for measure in scores.measures:
            name = measure if test == JUDGED else f"{test} {measure}"
            mean, interval = mean_of(scores, measure), interval_of(scores, measure)
            row = [name, f"{len(scores.questions):,}", "-" if mean is None else f"{mean:.4f}", _range(interval)]
            each = compared.get(test, {}).get(measure)
            rows.append(row + (_difference(each) if each else []))
    return rows


def _difference(compared: Comparison) -> list[str]:
    interval = f"{compared.low:+.4f} to {compared.high:+.4f}"
    return [f"{compared.against:.4f}", f"{compared.difference:+.4f}", interval, f"{compared.p_value:.4f}"]


def _range(interval: tuple[float, float] | None) -> str:
    return f"{interval[0]:.4f} to {interval[1]:.4f}" if interval else "-"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Return the rows as lines, the first column flush left and the others flush right."""
    widths = [max(map(len, column)) for column in zip_longest(*rows, fillvalue="")]
    lines = []
    for first, *rest in rows:  # a row may lack its last cells
        cells = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=False)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]))
    return "\n".join(lines)


def notes(counts: Mapping[str, int]) -> list[str]:
    """Return a line for everything that a judged set lacks; `counts` are those of `JudgedSet.counts`."""
    lines = {
        "records_without_paper": "records of the corpus are no papers to semsearch (no text, most often)",
        "judgements_of_unknown_papers": f"judgements name {counts['unknown_papers']:,} papers that the corpus lacks",
        "relevant_not_indexed": "relevant papers are not indexed for one of these reasons, and count as not found",
        "queries_not_asked": "judged queries have no text that can be asked, and score 0",
        "queries_without_relevant": "queries have no relevant paper, and score 0",
    }
    return [f"{counts[name]:,} {line}" for name, line in lines.items() if counts[name]]
