"""Which system calls of a process reach the disk, one by one, and what if one of them failed, or were its last?

A process and all of its threads are stopped at each call that concerns a folder: SQLite's and tantivy's calls are seen
like our own. The calls of all threads are counted together (strace's injection counts each thread's by itself). Stores
into mapped memory are not seen: of what an index writes, only SQLite's -shm file is written so, and it is made anew
from the log by whoever opens the library next.
"""

import ctypes
import os
import platform
import signal
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from children import forked

_TRACEME, _POKE_USER, _CONTINUE, _TO_NEXT_CALL, _SET_OPTIONS, _CALL_INFO = 0, 6, 7, 24, 0x4200, 0x420E
_OPTIONS = 0x1 | 0x2 | 0x4 | 0x8 | 0x100000  # mark calls, follow forks and threads, end with the tracer
_ALL_THREADS = 0x40000000
_CALL_STOP = signal.SIGTRAP | 0x80
_INFO = struct.Struct("<B3xIQQ7Q")
_ENTRY, _EXIT = 1, 2
_NUMBER, _RESULT, _LENGTH = 15 * 8, 10 * 8, 12 * 8  # registers of a stopped thread: orig_rax, rax, rdx
_CALLS: dict[int, tuple[str, str]] = {  # how arguments name files: f a descriptor, p a path, d a path's folder
    0: ("read", "f"),
    1: ("write", "f"),
    2: ("open", "p"),
    17: ("pread64", "f"),
    18: ("pwrite64", "f"),
    20: ("writev", "f"),
    73: ("flock", "f"),
    74: ("fsync", "f"),
    75: ("fdatasync", "f"),
    77: ("ftruncate", "f"),
    82: ("rename", "pp"),
    83: ("mkdir", "p"),
    84: ("rmdir", "p"),
    85: ("creat", "p"),
    86: ("link", "pp"),
    87: ("unlink", "p"),
    257: ("openat", "dp"),
    258: ("mkdirat", "dp"),
    263: ("unlinkat", "dp"),
    264: ("renameat", "dpdp"),
    265: ("linkat", "dpdp"),
    285: ("fallocate", "f"),
    316: ("renameat2", "dpdp"),
}
_MAX_PATH = 4_096

Action = Literal["go on", "kill", "shorten"] | int
"""What to do at a call: an error number lets it fail with that; "shorten" lets a write take half of its bytes."""


def why_not() -> str | None:
    """Return why no process can be traced here, None if it can."""
    if not (sys.platform == "linux" and platform.machine() == "x86_64"):
        return "the registers of this machine are not known"
    try:
        traced(lambda: os.stat("/"), lambda call: "go on", lambda call: None)
    except OSError as error:
        return f"the system lets nobody trace: {error}"
    return None


@dataclass(slots=True)
class Call:
    """One call of a traced process, stopped before it is done; `paths` are the files that its arguments name."""

    process: int
    name: str
    arguments: tuple[int, ...]
    paths: tuple[Path, ...]
    position: int | None = None
    """Where in the file a write goes."""
    data: bytes = b""
    """What it writes."""
    existed: bool = True
    """Whether the last path was there before."""
    result: int = 0
    """What it returned, negative for an error; once it is done."""

    @property
    def flags(self) -> int:
        """With what an open was asked."""
        return self.arguments[{"open": 1, "openat": 2}[self.name]]

    @property
    def descriptor(self) -> int:
        """The first argument, where that is a descriptor."""
        return self.arguments[0]


def traced(work: Callable[[], object], before: Callable[[Call], Action], after: Callable[[Call], None]) -> int:
    """Do this in a process of its own, and give each of its calls to `before` and, when it is done, to `after`.

    :returns: the exit status, negative if a signal ended it.
    """
    child = forked(lambda: _begun(work))
    os.waitpid(child, 0)
    _ptrace(_SET_OPTIONS, child, 0, _OPTIONS)
    memory = os.open(f"/proc/{child}/mem", os.O_RDONLY)
    underway: dict[int, tuple[Call | None, int]] = {}  # by thread: its call, and the error it shall fail with
    _ptrace(_TO_NEXT_CALL, child, 0, 0)
    try:
        while True:
            thread, status = os.waitpid(-1, _ALL_THREADS)
            if not os.WIFSTOPPED(status):
                if thread == child:
                    return os.waitstatus_to_exitcode(status)
                continue
            signal_to_pass = 0
            if os.WSTOPSIG(status) == _CALL_STOP:
                with suppress(ProcessLookupError):  # it was killed meanwhile
                    _at_call(child, thread, memory, underway, before, after)
            elif os.WSTOPSIG(status) not in (signal.SIGTRAP, signal.SIGSTOP):
                signal_to_pass = os.WSTOPSIG(status)
            with suppress(ProcessLookupError):
                _ptrace(_TO_NEXT_CALL, thread, 0, signal_to_pass)
    finally:
        os.close(memory)
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, _ALL_THREADS)


def _begun(work: Callable[[], object]) -> None:
    _ptrace(_TRACEME, 0, 0, 0)
    os.kill(os.getpid(), signal.SIGSTOP)
    work()


def _at_call(
    child: int,
    thread: int,
    memory: int,
    underway: dict[int, tuple[Call | None, int]],
    before: Callable[[Call], Action],
    after: Callable[[Call], None],
) -> None:
    buffer = ctypes.create_string_buffer(_INFO.size)
    _ptrace(_CALL_INFO, thread, _INFO.size, ctypes.addressof(buffer))
    kind, _, _, _, first, *rest = _INFO.unpack(buffer.raw)
    if kind == _ENTRY:
        call = _call_of(child, memory, first, tuple(rest))
        error = 0
        if call:
            action = before(call)
            if action == "kill":
                os.kill(child, signal.SIGKILL)
            elif action == "shorten":
                _ptrace(_POKE_USER, thread, _LENGTH, max(1, call.arguments[2] // 2))
            elif isinstance(action, int):
                error = action
                _ptrace(_POKE_USER, thread, _NUMBER, (1 << 64) - 1)  # of no call
        underway[thread] = call, error
    elif kind == _EXIT:
        call, error = underway.pop(thread, (None, 0))
        if error:
            _ptrace(_POKE_USER, thread, _RESULT, (1 << 64) - error)
        if call:
            call.result = -error if error else first - (1 << 64) if first >> 63 else first
            after(call)


def _call_of(child: int, memory: int, number: int, arguments: tuple[int, ...]) -> Call | None:
    if number not in _CALLS:
        return None
    name, form = _CALLS[number]
    try:
        call = Call(child, name, arguments, tuple(_paths(child, memory, form, arguments)))
    except OSError:
        return None  # a descriptor or an address that is none: the call itself will say so
    if name in ("write", "pwrite64"):
        call.data = os.pread(memory, arguments[2], arguments[1])
        call.position = arguments[3] if name == "pwrite64" else _position(child, arguments[0])
    call.existed = os.path.lexists(call.paths[-1])
    return call


def _paths(child: int, memory: int, form: str, arguments: tuple[int, ...]) -> Iterator[Path]:
    folder: Path | None = None
    for kind, argument in zip(form, arguments, strict=False):
        if kind == "p":
            here = folder or Path(os.readlink(f"/proc/{child}/cwd"))
            yield Path(os.path.normpath(here / _text_at(memory, argument)))
            folder = None
        else:
            descriptor = ctypes.c_int(argument & 0xFFFFFFFF).value
            name = "cwd" if descriptor < 0 else f"fd/{descriptor}"
            path = Path(os.readlink(f"/proc/{child}/{name}"))
            if kind == "d":
                folder = path
            else:
                yield path


def _text_at(memory: int, address: int) -> str:
    text = b""
    while b"\0" not in text and len(text) < _MAX_PATH:
        here = address + len(text)
        text += os.pread(memory, 256 - here % 256, here)  # never beyond a page, the next may not be there
    return os.fsdecode(text.partition(b"\0")[0])


def _position(child: int, descriptor: int) -> int:
    with open(f"/proc/{child}/fdinfo/{descriptor}") as file:
        return int(file.readline().split()[1])


def _ptrace(request: int, thread: int, address: int, data: int) -> None:
    if _libc.ptrace(request, thread, ctypes.c_void_p(address), ctypes.c_void_p(data)) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
