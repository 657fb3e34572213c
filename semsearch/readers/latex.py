r"""What does LaTeX say in plain words?

Formulas stay as they are. An unescaped `%` or `&` is text: as LaTeX has it, `%` would swallow the rest of an abstract.
Most of what exporters write (escaped signs, accents, braces that keep a capital) is replaced piece by piece; only what
is left of LaTeX after that is parsed by pylatexenc, which takes milliseconds for an abstract.
"""

import logging
import re
from functools import cache, lru_cache

from pylatexenc.latex2text import LatexNodes2Text, MacroTextSpec, get_default_latex_context_db

from semsearch.papers import MAX_ABSTRACT_CHARACTERS

logging.getLogger("pylatexenc").setLevel(logging.CRITICAL)  # what is no LaTeX stays as it is, and nobody need be told

_MARKUP = re.compile(r"[\\{}$~]|--|``|''")
_SIGN_OF_FORMULA = re.compile(r"\\[A-Za-z]|[\^_{=<>|]")
_LETTER = r"(?:\{\s*\\?[A-Za-z]{1,2}\s*\}|\\?[A-Za-z])"
_ACCENT = re.compile(rf"\\[`'^\"~=.]\s*{_LETTER}|\\[Hcudbrkvt](?:\s+{_LETTER}|\{{\s*\\?[A-Za-z]\s*\}})")
_WORD = re.compile(
    r"\\(?:text(?:less|greater|bar|backslash|asciitilde|endash|emdash|quoteleft|quoteright|quotedblleft|quotedblright)"
    r"|ss|ae|AE|oe|OE|aa|AA|o|O|l|L|i|j)(?![A-Za-z])\s*(?:\{\})?"
)
_ESCAPED = re.compile(r"\\([%&#_$ ])")
_SIGNS = {"---": "—", "--": "–", "``": "“", "''": "”", "~": " ", "{": "", "}": ""}
_SIGN = re.compile("|".join(re.escape(sign) for sign in _SIGNS))
_LINK_TARGET = re.compile(r"\\href\s*\{[^{}]*\}")  # pylatexenc fails over it
_BARE_SIGN = re.compile(r"(?<!\\)[%&]")


def plain(text: str) -> str:
    r"""Return LaTeX as plain text, formulas as they are; what cannot be read as LaTeX comes back unchanged.

    >>> plain(r"{BERT} f{\"u}r 5\% of $O(n^2)$ -- \emph{not} 100% \cite{x}more")
    'BERT für 5% of $O(n^2)$ – not 100% more'
    """
    if not _MARKUP.search(text) or len(text) > MAX_ABSTRACT_CHARACTERS:
        return text
    pieces = text.split("$")
    written, words = list[str](), [pieces[0]]
    at = 1
    while at < len(pieces):
        inside, behind = pieces[at], pieces[at + 1] if at + 1 < len(pieces) else None
        if behind is not None and not words[-1].endswith("\\") and _is_formula(inside, behind):
            written += [_words("".join(words)), f"${inside}$"]
            words, at = [behind], at + 2
        else:
            words += ["$", inside]
            at += 1
    return "".join([*written, _words("".join(words))])


def _is_formula(text: str, behind: str) -> bool:
    """Whether this, between two dollars, is a formula: in "$5 and $6" is none."""
    stands_close = text == text.strip() and not behind[:1].isdigit()
    return stands_close and (len(text) == 1 or _SIGN_OF_FORMULA.search(text) is not None)


def _words(text: str) -> str:
    simple = _WORD.sub(_replaced, _ACCENT.sub(_replaced, text))
    if "\\" in _ESCAPED.sub("", simple):
        return _parsed(text)
    return _ESCAPED.sub(r"\1", _SIGN.sub(lambda sign: _SIGNS[sign[0]], simple))


def _replaced(match: re.Match[str]) -> str:
    return _letter(match[0])


@lru_cache(maxsize=1_000)
def _letter(latex: str) -> str:
    return _parsed(latex)


def _parsed(text: str) -> str:
    latex = _BARE_SIGN.sub(r"\\\g<0>", _LINK_TARGET.sub("", text)).replace("$", r"\$")
    try:
        return str(_converter().latex_to_text(latex))
    except Exception:  # what is no LaTeX makes it fail in many ways (IndexError, RecursionError), and costs no paper
        return text


@cache
def _converter() -> LatexNodes2Text:
    known = get_default_latex_context_db()
    silent = [MacroTextSpec(name, simplify_repl="") for name in ("cite", "citep", "citet", "footnote", "label", "ref")]
    shown = {"url": "%s", "textsuperscript": "^", "textless": "<", "textgreater": ">", "textbar": "|"}
    spoken = [MacroTextSpec(name, simplify_repl=form) for name, form in shown.items()]
    known.add_context_category("semsearch", prepend=True, macros=silent + spoken)
    return LatexNodes2Text(latex_context=known, math_mode="verbatim", strict_latex_spaces="except-in-equations")
