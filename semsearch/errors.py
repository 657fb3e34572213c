"""The errors that a caller of semsearch may want to catch.

SemsearchError
├── RecordError            one record of a source cannot become a paper; its neighbours can
├── SourceError            a whole source cannot be read on (missing, damaged, a decompression bomb)
├── PaperNotFoundError     no live paper has this id
├── EncoderError           the encoder is missing, not the expected one, or gave unusable vectors
├── IndexMissingError      there is no index in this folder
├── IndexBusyError         another process is writing this index
├── DiskFullError          there is no space to store what should be stored
├── AdditionsFullError     more papers wait to be added than can be taken
├── KeyUsedError           a key names another request than the one it was first sent with
├── OldFormatError         a generation was written by an older semsearch; the library can make it anew
├── NoGenerationError      no verified generation can serve
├── NotEncodedError        a paper has no vector yet in the vector space asked for
└── DamageError            a stored thing is not what was written
    ├── LibraryDamageError     a row or a vector of the library
    └── GenerationDamageError  a file of a generation

Bad arguments raise ValueError, as everywhere in Python.
"""


class SemsearchError(Exception):
    """Base of all errors that semsearch raises on purpose; its text is fit for a user."""


class RecordError(SemsearchError):
    """One record cannot become a paper."""


class SourceError(SemsearchError):
    """A source cannot be read to its end."""


class PaperNotFoundError(SemsearchError):
    """No live paper has this id."""


class EncoderError(SemsearchError):
    """The encoder is missing, is not the expected one, or gave unusable vectors."""


class IndexMissingError(SemsearchError):
    """There is no index in the folder named."""


class IndexBusyError(SemsearchError):
    """Another process holds the lock that this operation needs."""


class DiskFullError(SemsearchError):
    """What should be stored has no space on the disk."""


class AdditionsFullError(SemsearchError):
    """More papers wait to be added than can be taken."""


class KeyUsedError(SemsearchError):
    """A key that names one request was used for another."""


class NoGenerationError(SemsearchError):
    """No generation of the index could be opened and verified."""


class OldFormatError(SemsearchError):
    """A generation has a format that this semsearch no longer reads; nothing is lost, the library can make it anew."""


class NotEncodedError(SemsearchError):
    """A paper has no vector yet in the vector space asked for."""


class DamageError(SemsearchError):
    """Something stored is not what was written."""


class LibraryDamageError(DamageError):
    """A row or a vector of the library fails its digest."""


class GenerationDamageError(DamageError):
    """A file of a generation is missing, foreign or fails its digest."""
