"""What of a date, a label or a name is compared, of papers and of filters alike?"""

import re
import unicodedata
from calendar import monthrange
from datetime import date
from functools import lru_cache

from semsearch.errors import RecordError
from semsearch.papers import normalise_text

_ACCENTS = re.compile("[\u0300-\u036f]+")
_BETWEEN_WORDS = re.compile("[\\s!-/:-@\\[-`{-~\u00a1-\u00bf\u2010-\u206f\u30fb]+")  # ASCII and general punctuation
_LETTERS_WITHOUT_ACCENT = str.maketrans(
    {"ø": "o", "đ": "d", "ð": "d", "ħ": "h", "ı": "i", "ł": "l", "ŧ": "t", "þ": "th", "æ": "ae", "œ": "oe"}
)


def fold_label(label: str) -> str:
    """Return what of a category, venue or source is compared.

    >>> fold_label(" Neural  Computation")
    'neural computation'

    :raises ValueError: if it is not text.
    """
    return clean_text(unicodedata.normalize("NFC", label.casefold()))


def fold_name(name: str) -> str:
    """Return the words of an author's name that are compared, separated by spaces; "" if there are none.

    >>> fold_name("Søren K. Nørgård-Müller")
    'soren k norgard muller'

    :raises ValueError: if it is not text.
    """
    if not name.isascii():  # decomposed first, so that the casefolding meets plain letters
        name = _ACCENTS.sub("", unicodedata.normalize("NFKD", name).casefold()).translate(_LETTERS_WITHOUT_ACCENT)
    return " ".join(_BETWEEN_WORDS.sub(" ", clean_text(name.casefold())).split())


def fold_title(title: str) -> str:
    """Return the letters and digits of a title, by which the same title is told however it is typed.

    >>> fold_title("Reverse-Engineering the Naïve Reader.")
    'reverseengineeringthenaivereader'

    :raises ValueError: if it is not text.
    """
    return fold_name(title).replace(" ", "")


def clean_text(text: str) -> str:
    """Return the text normalised as papers are.

    :raises ValueError: if it is not text.
    """
    try:
        return normalise_text(text)
    except RecordError as error:
        raise ValueError(str(error)) from None


@lru_cache(maxsize=1 << 14)
def days_of(published: str) -> tuple[date, date]:
    """Return the first and the last day that an ISO date of whatever precision may mean.

    >>> days_of("2016-02")
    (datetime.date(2016, 2, 1), datetime.date(2016, 2, 29))
    """
    year, month, day = (*map(int, published.split("-")), 0, 0)[:3]
    last_month = month or 12
    last_day = day or monthrange(year, last_month)[1]
    return date(year, month or 1, day or 1), date(year, last_month, last_day)
