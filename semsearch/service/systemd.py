"""What is the service manager told? See sd_notify(3); nothing where none asked."""

import os
import socket


def notify(state: str) -> None:
    """Send the state, such as READY=1, to the socket that the manager named."""
    name = os.environ.get("NOTIFY_SOCKET", "")
    if not name:
        return
    address = "\0" + name[1:] if name.startswith("@") else name  # an abstract socket's name begins with NUL
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.sendto(state.encode(), address)


def watchdog_seconds() -> float | None:
    """Return how often the manager expects WATCHDOG=1 at least, None if not at all."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    meant_for_us = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    return int(microseconds) / 1e6 if microseconds.isdecimal() and meant_for_us else None
