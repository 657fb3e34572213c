"""What does text say that was written for a page: with tags of HTML, JATS or MathML, and characters by name?

Only tags of a fixed list are taken out, and only where they are written as tags are: "if a <b and c> d" stays as it is.
"""

import html
import re

_INLINE = "i|b|u|em|strong|bold|italic|sub|sup|sc|tt|span|font|small|a|underline|monospace|ext-link|xref|inline-formula"
_BLOCK = "p|br|div|sec|title|list|list-item|ul|ol|li|disp-formula|label"
_ATTRIBUTES = r"(?:\s+[\w:-]+\s*=\s*(?:\"[^\"<>]*\"|'[^'<>]*'))*\s*/?"
_INLINE_TAG = re.compile(
    rf"</?(?:(?:jats:)?(?:{_INLINE})|mml:[a-z]+|(?:jats:)?(?:alternatives|tex-math))(?:{_ATTRIBUTES})>", re.IGNORECASE
)
_BLOCK_TAG = re.compile(rf"</?(?:jats:)?(?:{_BLOCK})(?:{_ATTRIBUTES})>", re.IGNORECASE)
_HEADING = re.compile(r"<(jats:)?title>\s*Abstract\s*</\1?title>", re.IGNORECASE)
_SECOND_FORMULA = re.compile(r"(?<=\$|>)\s*<mml:math\b[^<>]*>(?:(?!</?mml:math\b).)*</mml:math>", re.DOTALL)
_TEX = re.compile(r"\$|</(?:jats:)?tex-math>")
_CHARACTER = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,30});")


def plain(text: str) -> str:
    """Return the text without tags, named characters as themselves.

    >>> plain("<p>In <i>E. coli</i>, H<sub>2</sub>O &amp; p &lt; 0.05</p><p>if a <b and c> d</p>")
    'In E. coli, H2O & p < 0.05 if a <b and c> d'
    """
    if "<" in text:
        if "<mml:math" in text and _TEX.search(text):  # each formula stands there twice
            text = _SECOND_FORMULA.sub("", text)
        text = _INLINE_TAG.sub("", _BLOCK_TAG.sub(" ", _HEADING.sub(" ", text))).strip()
    if "&" in text:
        text = _CHARACTER.sub(_named, _CHARACTER.sub(_named, text))  # twice: many were escaped on two ways
    return " ".join(text.split()) if "  " in text else text


def _named(match: re.Match[str]) -> str:
    return html.unescape(match[0])
