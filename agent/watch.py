"""Being told at once when somebody changes what the data plane rests on.

``nft flush ruleset``, as a reload of the host's firewall does, also removes the
gate: until it is back, a device without a lease answers for its VIPs. The next
pass would find out, but the kernel tells within a millisecond.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from agent import door, gate, netlink, ruleset

_GROUP_LINK, _GROUP_IPV4_ADDRESS, _GROUP_IPV6_ADDRESS = 1, 5, 9
_GROUP_IPV4_SETTINGS, _GROUP_IPV6_SETTINGS = 24, 25
_GROUP_NFTABLES = 7
_NEW_LINK, _DELETE_LINK, _DELETE_ADDRESS, _SETTINGS = 16, 17, 21, 80
_NFTABLES = 10 << 8
_DELETE_TABLE, _DELETE_CHAIN, _DELETE_RULE = (_NFTABLES | n for n in (2, 5, 8))
_TABLE_NAME = 1
_LINK_HEADER = struct.Struct("=BxHiII")
_IFLA_IFNAME = 3
_OF_INTERFACE, _FORWARDS = 1, 2
_EVERY = b"\xff" * 4
_OUR_TABLES = frozenset(name.encode() + b"\0" for name in (gate.TABLE, ruleset.TABLE, door.TABLE))
_BUFFER = 1 << 16


class KernelWatch:
    """Calls ``on_change`` in the loop's thread after a change that may concern us.

    Those are: one of our tables, chains or rules deleted (also by ourselves), the
    service interface changed, renamed or told not to forward, an address of any interface
    deleted. It may be called for nothing, and once for many changes: look at the kernel then.
    """

    def __init__(self, interface: str, on_change: Callable[[], None]) -> None:
        """Must be made while the loop runs."""
        self._name = gate.check_interface(interface).encode() + b"\0"
        self._index = next((n for n, name in socket.if_nameindex() if name == interface), 0)
        """Of what has, or had, that name."""
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        groups = [_GROUP_LINK, _GROUP_IPV4_ADDRESS, _GROUP_IPV6_ADDRESS]
        groups += [_GROUP_IPV4_SETTINGS, _GROUP_IPV6_SETTINGS]
        self._route = netlink.subscribe(netlink.ROUTE, *groups)
        self._tables = netlink.subscribe(netlink.NETFILTER, _GROUP_NFTABLES)
        self._loop.add_reader(self._route, self._read, self._route, self._concerns_interface)
        self._loop.add_reader(self._tables, self._read, self._tables, _concerns_tables)

    @contextmanager
    def deaf(self) -> Iterator[None]:
        """Hear nothing of rules meanwhile: for a change of our own, which may be large.

        While anybody on the host listens the kernel makes a notice of each element that is
        added: with 1000 Virtual Servers 256,000, which takes longer than all the rest of the
        load. What others do meanwhile has to be looked for afterwards.
        """
        netlink.join(self._tables, _GROUP_NFTABLES, member=False)
        try:
            yield
        finally:
            netlink.join(self._tables, _GROUP_NFTABLES, member=True)

    def close(self) -> None:
        for sock in (self._route, self._tables):
            self._loop.remove_reader(sock)
            sock.close()

    def _read(self, sock: socket.socket, concerns: Callable[[int, bytes], bool]) -> None:
        try:
            data = sock.recv(_BUFFER)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            self._on_change()
            return
        if any(concerns(kind, body) for kind, _, body in netlink.messages(data)):
            self._on_change()

    def _concerns_interface(self, kind: int, body: bytes) -> bool:
        if kind in (_NEW_LINK, _DELETE_LINK):
            values = dict(netlink.attributes(body[_LINK_HEADER.size :]))
            index: int = _LINK_HEADER.unpack_from(body)[2]
            if values.get(_IFLA_IFNAME) != self._name:
                return index == self._index  # it has another name now
            self._index = index
            return True
        if kind == _SETTINGS:
            said = dict(netlink.attributes(body[4:]))
            ours = {_EVERY, struct.pack("=i", self._index)}
            return said.get(_FORWARDS) == bytes(4) and said.get(_OF_INTERFACE) in ours
        return kind == _DELETE_ADDRESS


def _concerns_tables(kind: int, body: bytes) -> bool:
    if kind not in (_DELETE_TABLE, _DELETE_CHAIN, _DELETE_RULE):
        return False
    return dict(netlink.attributes(body[4:])).get(_TABLE_NAME) in _OUR_TABLES
