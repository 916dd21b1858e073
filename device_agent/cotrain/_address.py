"""Which addresses the boxes of a group may use: private ones, for nothing here is encrypted."""

import fcntl
import ipaddress
import os
import socket
import struct
from contextlib import closing

from edge_stl.errors import ResourceError, UsageError


_SIOCGIFADDR = 0x8915  # linux/sockios.h: the IPv4 address of an interface
_REMEDY = (
    "Messages are neither encrypted nor authenticated: let the boxes meet inside a VPN such as "
    "WireGuard"
)


def refuse_public(address: str, *, where: str) -> None:
    """Refuse an address that the internet can reach.

    Loopback, private, link-local and shared (100.64.0.0/10, as VPNs give them) addresses are
    taken.

    Args:
        address: IPv4 or IPv6, without brackets.
        where: who named it, for the sentence.

    Raises:
        UsageError: it is public, or means every interface.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(ip, "ipv4_mapped", None)
    ip = ip if mapped is None else mapped
    if ip.is_global or ip.is_multicast:
        raise UsageError(f"{where}: {ip} is a public address; expected a private one. {_REMEDY}")
    if ip.is_unspecified:
        raise UsageError(
            f"{where}: {ip} means every interface; expected one private address. {_REMEDY}"
        )


def resolved(host: str, port: int, *, where: str) -> str:
    """Return an address of a host, after every one of them was found to be private.

    Raises:
        UsageError: one is public, or the name is unknown.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise UsageError(
            f"{where}: {host!r} is no address and no name that is known here; expected the "
            "private address of the first box. Correct it"
        ) from None
    addresses = [str(entry[4][0]) for entry in found]
    for address in addresses:
        refuse_public(address, where=where)
    # IPv4 first: what resolvers and gloo agree upon everywhere.
    return min(addresses, key=lambda text: ":" in text)


def own_address(master: str, port: int) -> str:
    """Return the address that gloo shall bind here, which is private.

    The one of the interface that ``GLOO_SOCKET_IFNAME`` names, else the one that packets to the
    meeting point leave from.

    Args:
        master: address of the meeting point.
        port: its port.

    Raises:
        UsageError: it is public, or there is no such interface.
        ResourceError: no way leads to the meeting point.
    """
    names = os.environ.get("GLOO_SOCKET_IFNAME", "").split(",")
    if names[0]:
        address = _of_interface(names[0])
        refuse_public(address, where=f"GLOO_SOCKET_IFNAME={names[0]}")
        return address
    family = socket.AF_INET6 if ":" in master else socket.AF_INET
    try:
        with closing(socket.socket(family, socket.SOCK_DGRAM)) as probe:
            probe.connect((master, port))  # sends nothing: it only chooses the way
            address = str(probe.getsockname()[0])
    except OSError as error:
        raise ResourceError(
            f"{master}: no way leads there ({error.strerror}); expected the network of the group. "
            "Bring the VPN up"
        ) from None
    refuse_public(address, where=f"the address of this box towards {master}")
    return address


def _of_interface(name: str) -> str:
    request = struct.pack("256s", name.encode()[:15])
    try:
        with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probe:
            answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)
    except OSError:
        raise UsageError(
            f"GLOO_SOCKET_IFNAME={name}: no interface with an IPv4 address here; expected the one "
            "of the group's network, like wg0. Correct it"
        ) from None
    return socket.inet_ntoa(answer[20:24])
