"""Who is asking?

Told by the connection alone: X-Forwarded-For and its like are whatever a client writes into them.
"""

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

_CUSTOMER_BITS = 64  # of an IPv6 address: one customer has all that follows


def client_of(host: str) -> str:
    """Return what counts as one client: an IPv4 address, a /64 of IPv6, or the word itself if it is no address."""
    address = _address(host)
    if isinstance(address, IPv6Address):
        return str(IPv6Network((int(address), _CUSTOMER_BITS), strict=False))
    return str(address or host)


def is_loopback(host: str) -> bool:
    """Return whether this is an address of this machine for itself, or the name of one."""
    address = _address(host)
    return address.is_loopback if address else host == "localhost"


def is_address(host: str) -> bool:
    """Return whether this is an IP address rather than a name."""
    return _address(host) is not None


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(host)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
