r"""What fields does each entry of a BibTeX or BibLaTeX file hold?

An entry begins where a line begins with `@word{`, as bibtexparser has it too: so an entry whose braces do not match
costs itself only, and no more than one is held. LaTeX becomes plain text.

A citation key ("smith2019") is one writer's word for a paper, so it is no id: it is kept as `citation_key`.
"""

import io
import logging
import re
from collections.abc import Iterator
from typing import Any

from bibtexparser.entrypoint import parse_string
from bibtexparser.library import Library
from bibtexparser.middlewares.enclosing import RemoveEnclosingMiddleware
from bibtexparser.middlewares.names import split_multiple_persons_names
from bibtexparser.model import Block, DuplicateFieldKeyBlock, Entry, Field, ParsingFailedBlock, String

from semsearch.readers import latex
from semsearch.readers.fields import given_first
from semsearch.readers.records import Reader, Record, Unusable
from semsearch.readers.streams import MAX_RECORD_BYTES, MAX_RECORD_REASON, Stream

logging.getLogger("bibtexparser").setLevel(logging.CRITICAL)  # what it says of an entry is said by its rejection

_STARTS_BLOCK = re.compile(rb"[ \t]*@\w+[ \t]*[{(]")
_MOST_MACRO_CHARACTERS = 1024 * 1024  # of all of them together, and so of twice as many in the worst case
_MACRO_BYTES = 64  # so that empty ones are bounded too
_VERBATIM = frozenset({"url", "doi", "eprint", "file", "link", "pdf"})
_ESCAPED = re.compile(r"\\([_%&#$~{}])")
_BETWEEN_KEYWORDS = re.compile(r"[,;]")
_WHOLLY_IN_BRACES = re.compile(r"\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}")  # an organisation's name, with commas of its own
_AND_OTHERS = "others"
_BARE = "no-enclosing"  # bibtexparser's word for a value without braces or quotes that is no number


def records(stream: Stream) -> Iterator[Record | Unusable]:
    """Return the entries' fields; comments, preambles and macros (`@string`) are no records."""
    macros: dict[str, str] = {}
    macro_characters = 0
    for line, block in _blocks(stream):
        if block is None:
            yield Unusable(line, MAX_RECORD_REASON)
            continue
        try:
            text = block.decode()
        except UnicodeDecodeError as error:
            yield Unusable(line + block.count(b"\n", 0, error.start), "the record is not valid UTF-8 in this line")
            continue
        for parsed in parse_string(text).blocks:
            if isinstance(parsed, String) and macro_characters < _MOST_MACRO_CHARACTERS:
                key, value = parsed.key.lower(), _joined(parsed, macros)[:_MOST_MACRO_CHARACTERS]
                macros[key] = value
                macro_characters += len(key) + len(value) + _MACRO_BYTES
            yield from _record(line, parsed, macros)


def _blocks(stream: Stream) -> Iterator[tuple[int, bytes | None]]:
    """Return what stands from one `@word{` at the begin of a line to the next, and its line; None if over 8 MiB."""
    start, held = 0, bytearray()
    for number, data in stream.lines():
        if data is not None and _STARTS_BLOCK.match(data):
            if start:
                yield start, _bounded(held)
            start, held = number, bytearray()
        if start and len(held) <= MAX_RECORD_BYTES:
            held += bytes(MAX_RECORD_BYTES) if data is None else data
            held += b"\n"
    if start:
        yield start, _bounded(held)


def _bounded(block: bytearray) -> bytes | None:
    return bytes(block) if len(block) <= MAX_RECORD_BYTES else None


def _record(line: int, block: Block, macros: dict[str, str]) -> Iterator[Record | Unusable]:
    if isinstance(block, DuplicateFieldKeyBlock) and isinstance(block.ignore_error_block, Entry):
        # Of a field that is there twice, the first counts.
        block = RemoveEnclosingMiddleware().transform_entry(block.ignore_error_block, Library())
    if isinstance(block, Entry):
        yield Record(line, _fields(block, macros))
    elif isinstance(block, ParsingFailedBlock):
        yield Unusable(line, "the braces or quotes of the entry do not match, or a field has no value")


def _fields(entry: Entry, macros: dict[str, str]) -> dict[str, Any]:
    fields: dict[str, Any] = {"citation_key": entry.key, "entry_type": entry.entry_type}
    for field in entry.fields:
        name = field.key.lower()
        value = _joined(field, macros)
        if name in ("author", "editor"):
            people = split_multiple_persons_names(value)
            fields.setdefault(name, [_person(person) for person in people if person != _AND_OTHERS])
        elif name == "keywords":
            fields.setdefault(name, [word.strip() for word in _BETWEEN_KEYWORDS.split(latex.plain(value))])
        else:
            fields.setdefault(name, _ESCAPED.sub(r"\1", value) if name in _VERBATIM else latex.plain(value))
    if "year" in fields and "month" in fields:
        fields.setdefault("date", f"{fields['year']} {fields['month']}")
    if "arxiv" in (str(fields.get(name)).lower() for name in ("archiveprefix", "eprinttype")) and "eprint" in fields:
        fields["arxiv_id"] = fields.pop("eprint")
    return fields


def _joined(field: Field | String, macros: dict[str, str]) -> str:
    """Return a field's value, macros put in and `#` carried out, as far as a record may be long."""
    if field.enclosing != _BARE:
        return str(field.value)
    joined = io.StringIO()
    for part in str(field.value).split("#"):
        joined.write(macros.get(part.strip().lower(), part.strip().strip('"{}')))
        if joined.tell() > MAX_RECORD_BYTES:
            break
    return joined.getvalue()


def _person(name: str) -> str:
    return latex.plain(name) if _WHOLLY_IN_BRACES.fullmatch(name) else given_first(latex.plain(name))


def looks_like(head: bytes) -> bool:
    """Whether a line begins an entry."""
    return any(_STARTS_BLOCK.match(line) for line in head.split(b"\n"))


READER = Reader("bibtex", (".bib", ".bibtex"), looks_like, records)
