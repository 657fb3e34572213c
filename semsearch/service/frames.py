"""How do the service and its worker processes speak with each other?

In frames, over a pair of sockets that they alone hold: two lengths, a JSON object, and the bytes that go with it.
"""

import asyncio
import json
import struct
from collections.abc import Mapping
from typing import Any

_LENGTHS = struct.Struct(">II")


def frame(head: Mapping[str, Any], body: bytes = b"") -> bytes:
    """Return what `read_frame` reads back."""
    text = json.dumps(head).encode()
    return _LENGTHS.pack(len(text), len(body)) + text + body


async def read_frame(reader: asyncio.StreamReader) -> tuple[dict[str, Any], bytes] | None:
    """Return the next frame, None if the other side is gone."""
    try:
        head_bytes, body_bytes = _LENGTHS.unpack(await reader.readexactly(_LENGTHS.size))
        head: dict[str, Any] = json.loads(await reader.readexactly(head_bytes))
        return head, await reader.readexactly(body_bytes)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
