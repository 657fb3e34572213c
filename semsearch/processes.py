"""How does semsearch start a process of its own?"""

import sys


def python_module(name: str, *arguments: str) -> list[str]:
    """Return the command that runs this module with this Python.

    `-P`: Python would look for modules in the current folder first, which may hold anybody's files.
    """
    return [sys.executable, "-P", "-m", name, *arguments]
