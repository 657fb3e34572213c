"""What fields do the records of an XML file hold: articles of PubMed, entries of Atom (arXiv's API), papers of ACL?

A record is an element of one of a few names, wherever it stands; only one is held at a time. XML cannot be read on
behind a place where it is not well-formed: what came before it is kept, and an error says where it is. A file that
declares entities is refused, whatever they stand for; nothing outside of the file is fetched.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from semsearch.errors import RecordError, SourceError
from semsearch.papers import normalise_id
from semsearch.readers.records import Reader, Record, Unusable, WrongKindError
from semsearch.readers.streams import MAX_RECORD_BYTES, MAX_RECORD_REASON, Stream

_Fields = dict[str, Any]


def _text(element: Element | None) -> str:
    """Return all text below an element, as one line."""
    return " ".join("".join(element.itertext()).split()) if element is not None else ""


def _texts(element: Element, path: str) -> list[str]:
    return [text for found in element.iterfind(path) if (text := _text(found))]


def _joined(element: Element, *names: str) -> str:
    return " ".join(text for name in names for text in _texts(element, name))


_NO_LABEL = "UNLABELLED"  # PubMed's own word


def _pubmed(article: Element, _: _Fields) -> _Fields:
    parts = [
        f"{label.capitalize()}: {_text(part)}" if (label := part.get("Label", _NO_LABEL)) != _NO_LABEL else _text(part)
        for part in article.iterfind(".//Abstract/AbstractText")
    ]
    dates = [article.find(path) for path in (".//ArticleDate", ".//JournalIssue/PubDate", ".//Book/PubDate")]
    return {
        "pmid": _text(article.find(".//PMID")),
        "title": _text(article.find(".//ArticleTitle")),
        "abstract": " ".join(parts),
        "authors": [
            name
            for author in article.iterfind(".//AuthorList/Author")
            if (name := _joined(author, "ForeName", "LastName", "Suffix", "CollectiveName"))
        ],
        "date": next((date for element in dates if (date := _pubmed_date(element))), ""),
        "venue": _text(article.find(".//Article/Journal/Title")),
        "keywords": _texts(article, ".//KeywordList/Keyword") + _texts(article, ".//MeshHeading/DescriptorName"),
        "doi": _text(article.find(".//PubmedData/ArticleIdList/ArticleId[@IdType='doi']"))
        or _text(article.find(".//Article/ELocationID[@EIdType='doi']")),
        "publication_types": _texts(article, ".//PublicationTypeList/PublicationType"),
    }


def _pubmed_date(date: Element | None) -> str:
    if date is None:
        return ""
    return " ".join(_texts(date, "Year") + _texts(date, "Month") + _texts(date, "Day")) or _text(
        date.find("MedlineDate")
    )


def _atom(entry: Element, _: _Fields) -> _Fields:
    links = {link.get("rel", "alternate"): link.get("href", "") for link in reversed(entry.findall("link"))}
    return {
        "id": _usable(_text(entry.find("id"))),
        "title": _text(entry.find("title")),
        "abstract": _text(entry.find("summary")) or _text(entry.find("content")),
        "authors": _texts(entry, "author/name"),
        "date": _text(entry.find("published")) or _text(entry.find("updated")),
        "categories": [category.get("term", "") for category in entry.iterfind("category")],
        "url": links.get("alternate", ""),
        "doi": _text(entry.find("doi")),
        "journal_ref": _text(entry.find("journal_ref")),
        "comment": _text(entry.find("comment")),
    }


def _usable(identity: str) -> str:
    """Return an id that a paper can have, or nothing: a feed may name its entries as it likes."""
    try:
        return normalise_id(identity)
    except RecordError:
        return ""


def _acl(paper: Element, volume: _Fields) -> _Fields:
    address = _text(paper.find("url"))  # of a paper in the Anthology it is the id
    return volume | {
        "id": "" if "://" in address else address,
        "url": address if "://" in address else "",
        "title": _text(paper.find("title")),
        "abstract": _text(paper.find("abstract")),
        "authors": [_joined(author, "first", "last") for author in paper.iterfind("author")],
        "doi": _text(paper.find("doi")),
    }


def _acl_volume(meta: Element, _: _Fields) -> _Fields:
    month = _text(meta.find("month"))
    year = _text(meta.find("year"))
    return {"venue": _text(meta.find("booktitle")), "year": year, "date": f"{year} {month}" if month else year}


_RECORDS: dict[str, Callable[[Element, _Fields], _Fields]] = {
    "PubmedArticle": _pubmed,
    "PubmedBookArticle": _pubmed,
    "entry": _atom,
    "paper": _acl,
}
_CONTEXTS: dict[str, Callable[[Element, _Fields], _Fields]] = {"meta": _acl_volume}
"""What says something of the records behind it."""


class _RefusedError(Exception):
    """XML that expat would take and we do not."""


def _refuse_entity(name: str, *_: object) -> None:
    raise _RefusedError(f"it declares the entity {name[:40]!r}")


_ELEMENT_BYTES = 64  # of each element and attribute, so that a record of empty ones is bounded too


class _Cutter:
    """Cuts one record after the other out of a document as its pieces come."""

    def __init__(self) -> None:
        self.found: list[Record | Unusable] = []
        self._parser = expat.ParserCreate(namespace_separator=" ")
        self._parser.buffer_text = True
        self._parser.StartElementHandler = self._begin
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._characters
        self._parser.EntityDeclHandler = _refuse_entity
        self._builder = TreeBuilder()
        self._name = ""  # of the element being held, if one is
        self._depth = self._line = self._size = self._fed = 0
        self._context: _Fields = {}

    def feed(self, piece: bytes, is_last: bool) -> None:
        """Take the next piece.

        :raises expat.ExpatError: where it is not well-formed.
        :raises _RefusedError: where it declares an entity, or a tag or comment has no end for 8 MiB.
        """
        self._parser.Parse(piece, is_last)
        self._fed += len(piece)
        if self._fed - self._parser.CurrentByteIndex > MAX_RECORD_BYTES:  # looked through anew at every piece
            raise _RefusedError(f"a tag or comment of more than 8 MiB: line {self._parser.CurrentLineNumber}")

    def _begin(self, name: str, attributes: dict[str, str]) -> None:
        name = name.rpartition(" ")[2]
        if not self._name and (name in _RECORDS or name in _CONTEXTS):
            self._name, self._line, self._size, self._depth = name, self._parser.CurrentLineNumber, 0, 0
            self._builder = TreeBuilder()
        if self._name:
            self._depth += 1
            self._size += _ELEMENT_BYTES + len(name)
            self._size += sum(_ELEMENT_BYTES + len(key) + len(value) for key, value in attributes.items())
            if self._size <= MAX_RECORD_BYTES:
                self._builder.start(name, attributes)

    def _characters(self, text: str) -> None:
        if self._name:
            self._size += len(text)
            if self._size <= MAX_RECORD_BYTES:
                self._builder.data(text)

    def _end(self, name: str) -> None:
        if not self._name:
            return
        self._depth -= 1
        if self._size <= MAX_RECORD_BYTES:
            self._builder.end(name.rpartition(" ")[2])
        if not self._depth:
            self._finish()

    def _finish(self) -> None:
        if self._size > MAX_RECORD_BYTES:
            self._builder = TreeBuilder()
            self.found.append(Unusable(self._line, MAX_RECORD_REASON))
        elif self._name in _CONTEXTS:
            self._context = _CONTEXTS[self._name](self._builder.close(), self._context)
        else:
            fields = _RECORDS[self._name](self._builder.close(), self._context)
            self.found.append(Record(self._line, {name: value for name, value in fields.items() if value}))
        self._name = ""


def records(stream: Stream) -> Iterator[Record | Unusable]:
    """Return the fields of each article, entry or paper.

    :raises WrongKindError: if there is none.
    :raises SourceError: where the document is not well-formed or is refused, after what came before it.
    """
    if not stream.head.strip():
        return
    cutter = _Cutter()
    seen = False
    for piece in _pieces(stream):
        failure = _fed(cutter, piece)
        seen = seen or bool(cutter.found)
        yield from cutter.found
        cutter.found.clear()
        if failure:
            raise SourceError(f"{stream.name} cannot be read on as XML: {failure}; what came before it was read")
    if not seen:
        raise WrongKindError(f"holds none of the elements that are papers: {', '.join(_RECORDS)}")


def _pieces(stream: Stream) -> Iterator[bytes]:
    yield from stream.chunks()
    yield b""


def _fed(cutter: _Cutter, piece: bytes) -> str:
    """Return why the document cannot be read on, if so."""
    try:
        cutter.feed(piece, not piece)
    except (expat.ExpatError, _RefusedError, LookupError, ValueError) as error:  # the last two of unknown encodings
        return str(error)
    return ""


_RECORD_NAME = re.compile(rb"<(?:\w+:)?(?:Pubmed(?:Article|ArticleSet|BookArticle)|entry|feed|collection|paper)[\s>]")


def looks_like(head: bytes) -> bool:
    """Whether it begins as XML does and names an element that is a paper, or holds some."""
    return head.lstrip().startswith(b"<") and _RECORD_NAME.search(head) is not None


READER = Reader("xml", (".xml", ".atom"), looks_like, records, sure_by_suffix=False)
