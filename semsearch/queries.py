"""What does a typed query ask for?

Words, "quoted phrases", `-word`, `title:word` and `author:name`; whatever is no syntax is words, so no text is wrong.
"""

import re
from dataclasses import dataclass
from typing import Literal

Field = Literal["text", "title", "author"]


@dataclass(frozen=True, slots=True)
class Part:
    """A word or phrase that a paper must hold or must not: in title or abstract ("text"), the title, or its authors."""

    words: str
    field: Field = "text"


@dataclass(frozen=True, slots=True)
class LexicalQuery:
    """What a query asks for: `words` of which any may be found, parts that must be, and parts that must not.

    `text` is what it says about the subject, without the signs: what an encoder should read.
    """

    words: tuple[str, ...] = ()
    required: tuple[Part, ...] = ()
    excluded: tuple[Part, ...] = ()
    text: str = ""

    @classmethod
    def of_text(cls, text: str) -> "LexicalQuery":
        """Return the query for a text that is no query, such as a pasted abstract: words, whatever signs they hold."""
        return cls(words=tuple(text.split()), text=text)


_QUOTES = str.maketrans(dict.fromkeys("“”„‟«»", '"'))
_PART = re.compile(
    r'(?P<minus>-(?=[^\s\d-]))?(?:(?P<field>title|author):(?=\S))?(?:"(?P<phrase>[^"]*)"|(?P<word>\S+))', re.IGNORECASE
)


_LONGEST_TYPED = 10  # words
_MOST_TYPED_CHARACTERS = 200  # where words are not parted by spaces


def parse_query(text: str) -> LexicalQuery:
    """Return what a typed query asks for; whatever is no syntax is words, so no text is an error.

    `"a phrase"`, `title:word`, `title:"a phrase"` and `author:name` are required, a `-` before any of them or before a
    word, not before a number, excludes it, and all other words are optional. In a text of more than ten words or 200
    characters, which is written or pasted rather than typed, quotation marks are only that, and so is a dash before a
    word or a phrase; and where nothing is asked for, nothing can be taken from it, so a text that would only exclude is
    words too.

    >>> query = parse_query('speech -survey "hidden markov" author:rabiner')
    >>> query.words, query.text
    (('speech',), 'speech hidden markov')
    >>> query.required
    (Part(words='hidden markov', field='text'), Part(words='rabiner', field='author'))
    >>> query.excluded
    (Part(words='survey', field='text'),)
    >>> parse_query("-omics").words
    ('-omics',)
    """
    words: list[str] = []
    required: list[Part] = []
    excluded: list[Part] = []
    subject: list[str] = []
    is_prose = len(text.split()) > _LONGEST_TYPED or len(text) > _MOST_TYPED_CHARACTERS
    for match in _PART.finditer(text.translate(_QUOTES)):
        phrase, field = match["phrase"], (match["field"] or "text").lower()
        part = Part((match["word"] if phrase is None else phrase).strip(), field)  # type: ignore[arg-type]
        plain = field == "text" and (is_prose or (phrase is None and not match["minus"]))
        if plain:
            words += part.words.split()
        elif any(map(str.isalnum, part.words)):
            (excluded if match["minus"] else required).append(part)
        if part.words and field != "author" and (plain or not match["minus"]):
            subject.append(part.words)
    if not required and not excluded:
        return LexicalQuery(tuple(words), text=text)  # as it was typed, quotation marks and all
    if not required and not any(any(map(str.isalnum, word)) for word in words):
        return LexicalQuery.of_text(text)
    return LexicalQuery(tuple(words), tuple(required), tuple(excluded), " ".join(subject))
