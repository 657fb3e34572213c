"""Why is this paper among the hits?

The sentence of its abstract that answers the query best, and the query's words that its title or abstract holds. Both
come from the text that is shown, so they hold for any hit, whichever leg of the search found it.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

_LENGTH_SLOPE = 0.3

Analysis = Callable[[str], Sequence[str]]
"""Returns a text's terms in order, as the lexical index knows them; takes white space as a border between terms."""


@dataclass(frozen=True, slots=True)
class QueryTerms:
    """The telling terms of a query, the most telling first: how it spells each, and what each weighs, above 0."""

    spellings: Mapping[str, str]
    weights: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class TextEvidence:
    """What a paper's text says for it: abstract[start:end] is its best sentence, `terms` are the query's spellings."""

    sentence: tuple[int, int] | None
    terms: tuple[str, ...]


def explain(query: QueryTerms, title: str, abstract: str, analyse: Analysis) -> TextEvidence:
    """Return the best sentence of the abstract, None if none holds a term of the query, and the terms that are held."""
    places = list(sentences(abstract))
    contents = [analyse(abstract[start:end]) for start, end in places]
    best = _best(query.weights, contents)
    held = set(analyse(title)).union(*contents)
    return TextEvidence(
        sentence=None if best is None else places[best],
        terms=tuple(spelling for term, spelling in query.spellings.items() if term in held),
    )


def _best(weights: Mapping[str, float], contents: Sequence[Sequence[str]]) -> int | None:
    """Return which sentence weighs most: the weights of the query's terms in it, each once, over its normalised length.

    The length is pivoted (Singhal, Buckley and Mitra, 1996): 1 - s + s * words / mean words of this abstract's
    sentences, with a slope s of 0.3. So a sentence of average length keeps its weight, one twice as long must hold 1.3
    times as much to win, and a short one does not win by being short. Of equals, the first.
    """
    words = sum(map(len, contents))
    scores = [
        sum(weights[term] for term in set(content) & weights.keys())
        / (1 - _LENGTH_SLOPE + _LENGTH_SLOPE * len(content) * len(contents) / words)
        for content in contents
        if words
    ]
    best = max(range(len(scores)), key=scores.__getitem__, default=None)
    return best if best is not None and scores[best] > 0 else None


# Sentences

_CLOSING = r"""["'”’»)\]$]*"""
_BORDER = re.compile(rf"""(?:(?P<stop>[.!?]+){_CLOSING}\s+(?=[^\sa-z])|[。！？]{_CLOSING}\s*)""")
_LAST_WORD = re.compile(r"[^\s(\[]*$")
_INITIALS = re.compile(r"[A-Z](?:\.[A-Z])*")
_ABBREVIATION = re.compile(
    r"al|approx|ca|cf|dr|e\.g|eqn?s?|figs?|i\.e|incl|mr|mrs|ms|prof|refs?|resp|st|viz|vs|w\.r\.t", re.IGNORECASE
)
_NEVER_LAST = re.compile(r"cf|e\.g|i\.e|vs", re.IGNORECASE)
_BEFORE_NUMBER = re.compile(r"alg|art|ch|cor|def|ex|lem|nos?|pp?|prop|secs?|sect|tab|thm|vol", re.IGNORECASE)
_OPENER = re.compile(
    r"(?:A[ns]?|Additionally|All|Although|And|At|Based|Because|Both|But|By|Compared|Despite|Each|Experiment(?:s|al)"
    r"|Extensive|Finally|First|For|From|Furthermore|Given|Here|Hence|How|However|I[fnt]|Instead|Its|Many|Moreover|Most"
    r"|Note|On|One|Our|Over|Results|Second|Several|Since|So|Some|Specifically|Such|That|The|Their|Then|There|Therefore"
    r"|These|They|This|Thus|To|Two|Under|Unlike|Using|We|What|When|Where|Whereas|Which|While|With|Yet)\b(?!\.)"
)
"""Words that begin a sentence and no name: "et al. We" and "vitamin C. The" are borders, "J. Smith" is none."""


def sentences(text: str) -> Iterator[tuple[int, int]]:
    """Return the places of the sentences, in order: between them lies white space or nothing.

    Made for abstracts. Where it cannot know, as in "in the U.S. Patients were", it does not split: two sentences shown
    as one can be read, half of one cannot.

    >>> text = "We follow Li et al. (2020), i.e. Fig. 3. It gains 1.5 points vs. BERT."
    >>> [text[start:end] for start, end in sentences(text)]
    ['We follow Li et al. (2020), i.e. Fig. 3.', 'It gains 1.5 points vs. BERT.']
    """
    start = len(text) - len(text.lstrip())
    for match in _BORDER.finditer(text):
        if match["stop"] == "." and not _ends(text, start, match.start(), match.end()):
            continue
        yield start, match.start() + len(match[0].rstrip())
        start = match.end()
    if rest := text[start:].rstrip():
        yield start, start + len(rest)


def _ends(text: str, start: int, stop: int, following: int) -> bool:
    """Return whether the full stop at `stop` ends the sentence that began at `start`."""
    word = _LAST_WORD.search(text, max(start, stop - 20), stop)
    last = word[0] if word else ""
    if last.isdigit() and text[start:stop] == last:  # "1. Introduction"
        return False
    if _OPENER.match(text, following) and not _NEVER_LAST.fullmatch(last):
        return True
    if _BEFORE_NUMBER.fullmatch(last):
        return not text[following].isdigit()
    return not (_INITIALS.fullmatch(last) or _ABBREVIATION.fullmatch(last))
