"""Connections of our VIPs in the kernel's table: seen as they begin and end, read, entered.

An entry that is put here is what the primary's kernel has: both tuples, the
ports that address translation chose included. Whatever a packet of either
direction needs to find its way is then there before the packet comes.
"""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from agent import flowentry, flowfilter, netlink
from agent.ctnetlink import (
    ADDRESS,
    ASSURED,
    CONFIRMED,
    DELETE,
    ESTABLISHED,
    GET,
    MARK,
    NEW,
    OPEN,
    PROTOINFO,
    SEEN_REPLY,
    STATUS,
    TIMEOUT,
    header,
    nest,
    only,
)
from agent.netlink import attribute as _attribute
from agent.shortflows import ShortFlows
from protocol.flows import KEY_SIZE, RECORD, TCP, UDP, VERSION, Flow, Key, key_of, vip_of

_UPDATED, _DESTROYED = 2, 3
"""Multicast groups."""
_NAT_SOURCE, _NAT_DESTINATION = 6, 13
"""Attributes of an entry that are only written."""
_LIBERAL = 0x08
"""Flag of a direction of TCP: its numbers are not checked."""
BUFFER = 8 << 20
"""Bytes of notices that may wait: some 8000 of them."""
_NOTICE = 4096  # bytes: longer than any
TIMEOUT_S = {TCP: 430_000, UDP: 900}
"""How long an entry lives that no packet ever meets. A flow's own timeout, or the
primary's word that it has ended, comes before; of UDP flows the primary tells again. Of TCP
flows it is not what the kernel gives them, 432,000 s, which so tells of a packet."""


@dataclass(frozen=True)
class Changes:
    """What is to be told of flows; one is in one of the two at most."""

    begun: Mapping[Key, Flow] = field(default_factory=dict)
    ended: frozenset[Key] = frozenset()
    missed: bool = False
    """There was more than the socket could hold: look at everything again."""


class Course(NamedTuple):
    """How a flow goes, as the kernel sees it."""

    key: Key
    open: bool
    """Data may still come."""
    reset: bool
    picked_up: bool
    """The kernel met it in the middle; neither saw it begin nor was told of it. TCP only."""


class FlowTable:
    """One window on the connection table; used by one thread."""

    def __init__(self) -> None:
        self._notices = netlink.subscribe(netlink.NETFILTER)
        netlink.enlarge(self._notices, BUFFER)
        netlink.filter_with(self._notices, flowfilter.NOTHING)
        self._requests = netlink.Pipeline(netlink.NETFILTER)
        self._short = ShortFlows()
        self._listed_once = False
        """Flows that begin now may be known elsewhere already, from what was listed."""

    def fileno(self) -> int:
        """Readable when something happened."""
        return self._notices.fileno()

    @property
    def waiting(self) -> bool:
        """Whether there is something for :meth:`changes` although no notice came."""
        return bool(self._short)

    def changes(self, vips: Container[bytes], *, whole: bool = False) -> Changes:
        """Flows to ``vips`` (packed) that were established, and that ended, since the last call.

        A flow is told with the call after the one that finds it, if it still lives then;
        with ``whole`` all of them are told now.
        """
        notices = self._read_notices()
        if notices is None:
            self._short.forget()
            return Changes(missed=True)
        whole, self._listed_once = whole or self._listed_once, False
        begun, ended = self._short.look(map(flowentry.notice, notices), whole=whole)
        flows = {key_of(flow): flow for flow in flowentry.flows(begun, vips)}
        # A flow that ended and one that began since may have the same key.
        gone = frozenset(flowentry.keys(ended, vips)) - flows.keys()
        return Changes(flows, gone)

    def _read_notices(self) -> list[bytes] | None:
        """All notices that wait; None if there were more than the socket could hold."""
        found: list[bytes] = []
        missed = False
        receive = self._notices.recv
        while True:
            try:
                found.append(receive(_NOTICE))
            except BlockingIOError:
                return None if missed else found
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                missed = True
                found.clear()

    def all(self, vips: Container[bytes], versions: Iterable[int] = (4, 6)) -> Iterator[Flow]:
        """Established flows to ``vips`` (packed), as the kernel has them."""
        self._listed_once = True
        for version in versions:
            for body in self._listed(version):
                read = flowentry.read(body, vips)
                if read is not None and read.open:
                    yield read.flow

    def lately(self, vips: Container[bytes], within_s: float) -> frozenset[bytes]:
        """Those of ``vips`` for which a packet of an established TCP flow came so lately."""
        given = _given()
        return frozenset(
            vip_of(read.flow)
            for version in (4, 6)
            for body in self._listed(version)
            if (read := flowentry.read(body, vips)) is not None and read.flow[0] == TCP
            if any(0 <= whole - read.left_s < within_s for whole in given)
        )

    def courses(self, vips: Container[bytes]) -> Iterator[Course]:
        """Flows to ``vips`` (packed), open or not."""
        for version in (4, 6):
            for body in self._listed(version):
                read = flowentry.read(body, vips)
                if read is not None:
                    tcp = read.flow[0] == TCP
                    reset, picked_up = flowentry.course(read.state) if tcp else (False, False)
                    yield Course(key_of(read.flow), read.open, reset, picked_up)

    def _listed(self, version: int) -> Iterator[bytes]:
        """Entries of an IP version that are assured and translated; the kernel sorts them out."""
        body = header(version) + only(OPEN, of=OPEN)
        return netlink.request(
            netlink.NETFILTER, GET, body, flags=netlink.DUMP, purpose="list connections"
        )

    def share(self, shared: bool) -> None:
        """Whether other devices may be told of flows, or tell of them, at any time.

        The kernel prepares an entry for notices only while somebody is subscribed to them,
        and then makes one whenever its state changes: nothing for a device that is alone.
        """
        for group in (_UPDATED, _DESTROYED):
            netlink.join(self._notices, group, member=shared)

    def listen(self, attend: bool) -> None:
        """Whether to be told of changes from now on."""
        netlink.filter_with(
            self._notices, flowfilter.BEGUN_OR_ENDED if attend else flowfilter.NOTHING
        )
        self._read_notices()
        self._short.forget()

    def put(self, flows: Sequence[Flow], *, replace: bool = True) -> int:
        """Enter flows, in place of others with the same tuples; for how many there was no room.

        With ``replace`` False others that live stay. One that has ended never stays: its client
        has begun anew from the same port.
        """
        refused = self._enter(flows)
        there = [flows[at] for at, code in refused.items() if code == errno.EEXIST]
        gives_way = [flow for flow in there if not self._stays(flow, replace=replace)]
        self._requests.send([m for flow in gives_way for m in _removals(flow)])
        again = self._enter(gives_way)
        return [*refused.values(), *again.values()].count(errno.ENOMEM)

    def add(self, flows: Sequence[Flow]) -> list[Flow]:
        """Enter flows where nothing at all is in their way; those that were entered."""
        refused = self._enter(flows)
        return [flow for at, flow in enumerate(flows) if at not in refused]

    def _enter(self, flows: Sequence[Flow]) -> dict[int, int]:
        """By the places of flows that were refused, why: errno."""
        return self._requests.send([entry(flow, at) for at, flow in enumerate(flows)])

    def _stays(self, flow: Flow, *, replace: bool) -> bool:
        """Whether what is in the way of a flow has to stay."""
        version = VERSION[len(flow)]
        body = header(version) + _tuple(1, version, flow)
        try:
            (found,) = netlink.request(netlink.NETFILTER, GET, body, purpose="find a connection")
        except netlink.NetlinkError as error:
            if error.code != errno.ENOENT:
                raise
            return not replace  # it is another flow, whose answers look the same
        read = flowentry.read(found, (vip_of(flow),))
        return read is not None and read.open and (not replace or read.flow == flow)

    def prolong(self, flows: Sequence[Flow]) -> None:
        """Let entries live for their whole timeout again."""
        self._requests.send([renewal(flow) for flow in flows])

    def remove(self, keys: Sequence[Key]) -> None:
        """Take flows out; those that are not there are no error."""
        self._requests.send([_removal(1, VERSION[len(key)], key) for key in keys])

    def close(self) -> None:
        self._notices.close()
        self._requests.close()


def _tuple(kind: int, version: int, key: Key) -> bytes:
    """A tuple attribute: source, destination, their ports, as a key has them."""
    size = ADDRESS[version]
    first = 1 if version == 4 else 3
    ip = _attribute(first, key[1 : 1 + size]) + _attribute(first + 1, key[1 + size : 1 + 2 * size])
    ports = key[1 + 2 * size :]
    protocol = _attribute(1, key[:1]) + _attribute(2, ports[:2]) + _attribute(3, ports[2:4])
    return nest(kind, nest(1, ip) + nest(2, protocol))


def _translation(kind: int, version: int, address: bytes, port: bytes) -> bytes:
    """One direction of address translation, with exactly this address and port."""
    ports = nest(3, _attribute(1, port) + _attribute(2, port))
    return nest(kind, _attribute(1 if version == 4 else 4, address) + ports)


def entry(flow: Flow, place: int, status: int = SEEN_REPLY | ASSURED | CONFIRMED) -> bytes:
    """The request that enters a flow; a refusal names its ``place``.

    The kernel wants the reply as it would be without translation, and makes
    the real one of it.
    """
    version = VERSION[len(flow)]
    protocol, *fields, mark = RECORD[version].unpack(flow)
    form, order = _form(version, protocol, status)
    values = (*fields, mark.to_bytes(4, "big"), place.to_bytes(4, sys.byteorder))
    request: bytes = form % order(values)
    return request


@cache
def _form(version: int, protocol: int, status: int) -> tuple[bytes, itemgetter[Any]]:
    """The request that enters a flow, with gaps, and the order of the fields that fill them.

    Built with a stand-in for each field of a record, and for the place: of the
    field's size, and found nowhere else. Filling gaps costs a tenth of building anew.
    """
    size = ADDRESS[version]
    sizes = (size, size, 2, 2, size, size, 2, 2, 4, 4)
    stand_ins = [bytes([0xE0 + at]) * size for at, size in enumerate(sizes)]
    client, vip, client_port, port, gateway, peer, gateway_port, peer_port, mark, place = stand_ins
    kind = bytes([protocol])
    body = [
        header(version),
        _tuple(1, version, kind + client + vip + client_port + port),
        _tuple(2, version, kind + vip + client + port + client_port),
        _attribute(STATUS, status.to_bytes(4, "big")),
        _attribute(TIMEOUT, TIMEOUT_S[protocol].to_bytes(4, "big")),
        _translation(_NAT_DESTINATION, version, gateway, gateway_port),
        _translation(_NAT_SOURCE, version, peer, peer_port),
        _attribute(MARK, mark),
        _STREAM if protocol == TCP else b"",
    ]
    number = int.from_bytes(place, sys.byteorder)
    request = netlink.message(NEW, b"".join(body), flags=netlink.CREATE_EXCLUSIVE, number=number)
    pieces = re.split(b"(" + b"|".join(stand_ins) + b")", request)
    order = itemgetter(*(stand_ins.index(each) for each in pieces[1::2]))
    return b"%b".join(piece.replace(b"%", b"%%") for piece in pieces[::2]), order


def renewal(flow: Flow, status: int = 0) -> bytes:
    """The request that gives an entry its whole timeout, and bits of a status if not 0."""
    version = VERSION[len(flow)]
    head = header(version)
    timeout = _attribute(TIMEOUT, TIMEOUT_S[flow[0]].to_bytes(4, "big"))
    bits = _attribute(STATUS, status.to_bytes(4, "big")) if status else b""
    return netlink.message(NEW, head + _tuple(1, version, flow) + bits + timeout)


def _removal(kind: int, version: int, key: Key, place: int = 0) -> bytes:
    """The request that removes the entry with this tuple: 1 original, 2 reply."""
    head = header(version)
    return netlink.message(DELETE, head + _tuple(kind, version, key), number=place)


def _removals(flow: Flow) -> tuple[bytes, bytes]:
    """Requests that remove whatever has one of the flow's tuples."""
    version = VERSION[len(flow)]
    answer = flow[:1] + flow[KEY_SIZE[version] : 2 * KEY_SIZE[version] - 1]
    return _removal(1, version, key_of(flow)), _removal(2, version, answer)


def _given() -> set[int]:
    """Seconds that this kernel gives an established flow of TCP with a packet, by what that is."""
    folder = Path("/proc/sys/net/netfilter")
    names = ("established", "unacknowledged", "max_retrans")
    return {int((folder / f"nf_conntrack_tcp_timeout_{name}").read_text()) for name in names}


_STREAM = nest(
    PROTOINFO,
    nest(
        1,
        _attribute(1, bytes([ESTABLISHED]))
        + _attribute(4, bytes([_LIBERAL, _LIBERAL]))
        + _attribute(5, bytes([_LIBERAL, _LIBERAL])),
    ),
)
"""About TCP: established, and sequence numbers that were never seen are no error."""
