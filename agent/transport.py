"""Messages between the devices of a Site, over encrypted ZeroMQ connections.

Each device binds, for every ``IP:PORT`` of its own, PUB sockets at PORT (urgent
messages) and PORT+1 (bulk); :mod:`agent.joining` has PORT+2, :mod:`agent.remote`
PORT+3. Peers subscribe to the topic that is their own device id. A frame is a
header and a msgpack body, see :mod:`protocol.wire`. Who may connect is decided by
the peers' public keys; who a frame is from, by the key that its connection is
pinned to.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any

from agent import sockets
from agent.arrivals import BUNDLED, Verdict
from agent.clock import next_round
from agent.keys import KeyPair
from agent.lasting import lasting
from agent.links import Link, Peer, PeerLinks
from agent.sockets import AllowList, Publisher
from protocol.addresses import check_endpoint, split_endpoint
from protocol.bundle import Bundle, Frame
from protocol.errors import MalformedMessage
from protocol.ids import DeviceId
from protocol.messages import PROTOCOL_MAX, PROTOCOL_MIN, URGENT, Beat, Info, Message
from protocol.versions import speakable
from protocol.wire import (
    HEADER_SIZE,
    MAX_BULK,
    MAX_URGENT,
    UnknownKind,
    decode,
    encode,
    pack_header,
    site_bytes,
    unpack_header,
)

__all__ = ["Peer", "Transport"]

TICK, IDLE_TICK, TICKS_TO_NUDGE = 0.05, 0.5, 4
"""Seconds between two looks at silent connections: at the least, on the occasion of a
message, and at the most. A wake-up of its own costs more than what it looks at."""
TOPIC_SIZE = 16
"""A frame begins with the receiver's id."""
URGENT_QUEUE, BULK_QUEUE = 2048, 64
"""Frames that may wait for one peer. With less, a burst loses frames before they
leave the host; what is stale is bounded by TCP_MAXRT, not by this."""
FAREWELL_MS = 100
"""How long :meth:`Transport.close` waits for the last frames to leave."""
_URGENT = frozenset({*URGENT, Bundle})

_log = logging.getLogger(__name__)


class Transport:
    """Sends and receives the messages of one device."""

    def __init__(
        self, *, device: DeviceId, keys: KeyPair, incarnation: int, listen: tuple[str, ...],
        receive: Callable[[DeviceId, Message], None],
        dialled: Callable[[DeviceId], None] = lambda device: None,
    ) -> None:  # fmt: skip
        """``listen``: the device's own ``IP:PORT``; ``receive`` is called in the event loop.

        ``dialled`` is told who connected to this device while it is not
        connected to them; they hear it, and it does not hear them.
        """
        self._device = device
        self._keys = keys
        self._incarnation = incarnation
        self._listen = tuple(split_endpoint(check_endpoint("address", each)) for each in listen)
        self._deliver = receive
        self._time = asyncio.get_running_loop().time
        self._site = b""
        self.version = PROTOCOL_MIN
        """The Site's gate: what is sent is encoded for it."""
        self._sequences: Counter[tuple[DeviceId, bool]] = Counter()
        """Newest number sent, per receiver and channel: a gap is a loss."""
        self._encoded: tuple[Frame | None, bytes] = (None, b"")
        self._next_tick = 0.0
        self._peers: dict[DeviceId, PeerLinks] = {}
        self._gone: Counter[str] = Counter()
        self._counts = Counter(sent=0, withheld=0, oversized=0, unknown_receiver=0)
        self._context: sockets.Context | None = None
        self._allowed = AllowList()
        self._allowed.admitted = self._admitted
        self._dialled = dialled
        self._by_key: dict[bytes, DeviceId] = {}
        """All devices that may connect."""
        self._known: frozenset[DeviceId] = frozenset()
        self._channels: dict[bool, Publisher] = {}
        self._ticks: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._ending = asyncio.Lock()

    async def start(self) -> None:
        """Bind. Raises InvalidInput for an address not of this host or a port in use."""
        self._context = sockets.new_context()
        await self._allowed.start(self._context)
        try:
            for urgent in (True, False):
                self._bind(self._context, urgent)
        except BaseException:
            await self.close()
            raise
        self._ticks = asyncio.get_running_loop().create_task(lasting(self._tick_forever))

    def _bind(self, context: sockets.Context, urgent: bool) -> None:
        queue = URGENT_QUEUE if urgent else BULK_QUEUE
        # A subscriber has nothing to say but its topic.
        options = sockets.limits(send=queue, size=1024) | sockets.BOUNDED
        options |= sockets.serving(self._keys)
        options |= {sockets.LINGER: FAREWELL_MS}
        self._channels[urgent] = Publisher(context, options)
        sockets.bind_all(self._channels[urgent], self._endpoints(urgent))

    def _endpoints(self, urgent: bool) -> list[tuple[str, int]]:
        return [(str(ip), port if urgent else port + 1) for ip, port in self._listen]

    def enter_site(self, site: str, gate: int = PROTOCOL_MIN) -> None:
        """Speak and listen to devices of the Site with this id only; empty: to nobody.

        Frames are encoded for ``gate``, as far as this release speaks it.
        """
        self._site = site_bytes(site)
        self.version = min(max(gate, PROTOCOL_MIN), PROTOCOL_MAX)

    def set_peers(self, peers: Iterable[Peer], dial: Iterable[DeviceId] | None = None) -> None:
        """Let these devices connect, and connect to those in ``dial``; the whole sets.

        ``dial`` None: to all. A device that is no longer among ``peers`` is cut
        off at once: what it had connected is ended, and the others' connections
        come back within 0.1 s.
        """
        known = {peer.id: peer for peer in peers if peer.id != self._device and peer.addresses}
        wanted = known if dial is None else {d: known[d] for d in dial if d in known}
        assert self._context is not None, "start first"
        now = asyncio.get_running_loop().time()
        by_key = {peer.public_key.encode(): peer.id for peer in known.values()}
        expelled = bool(self._by_key.keys() - by_key.keys())
        self._allowed.keys = self._by_key = by_key
        self._known = frozenset(known)
        for device, links in list(self._peers.items()):
            if wanted.get(device) != links.peer:
                self._drop(device)
        for device, peer in wanted.items():
            if device not in self._peers:
                links = PeerLinks(peer, now)
                links.start(self._context, self._keys, self._device, self._frame_came)
                self._peers[device] = links
        if expelled and self._channels:
            self._in_background(self._end_accepted_connections())

    def _admitted(self, key: bytes) -> None:
        device = self._by_key.get(key)
        if device is not None and device not in self._peers:
            self._dialled(device)

    def _drop(self, device: DeviceId) -> None:
        links = self._peers.pop(device)
        self._gone.update(links.counters)
        links.close()

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _end_accepted_connections(self) -> None:
        async with self._ending:
            for urgent, channel in list(self._channels.items()):
                for endpoint in self._endpoints(urgent) if self._channels else ():
                    await sockets.rebind(channel, endpoint, lambda: bool(self._channels))

    def send(self, to: DeviceId, message: Frame) -> None:
        """Hand a message to the network, which may lose it. Never blocks, never raises for that."""
        if to not in self._known or not self._site or not self._channels:
            self._counts["unknown_receiver"] += 1
            return
        links = self._peers.get(to)
        if links is not None and type(message) is Beat:
            links.our_interval = message.interval
        now = self._time()
        if now >= self._next_tick:
            self._tick(now)
        if not speakable(str(message.__struct_config__.tag), self.version):
            self._counts["withheld"] += 1
            return
        urgent = type(message) in _URGENT
        body = self._body(message)
        if len(body) > (MAX_URGENT if urgent else MAX_BULK):
            self._counts["oversized"] += 1
            _log.error("a %s of %d bytes is too large to send", type(message).__name__, len(body))
            return
        self._sequences[to, urgent] += 1
        sequence = self._sequences[to, urgent]
        header = pack_header(self._site, self._incarnation, sequence, self.version)
        self._channels[urgent].send(to.encode() + header + body)
        self._counts["sent"] += 1

    def _body(self, message: Frame) -> bytes:
        """Encoded once for all peers that are sent the same."""
        if message != self._encoded[0]:
            self._encoded = message, encode(message)
        return self._encoded[1]

    def _frame_came(self, links: PeerLinks, link: Link, frame: bytes) -> None:
        link.heard = now = self._time()
        if now >= self._next_tick:
            self._tick(now)
        if not links.arrivals.rate.admit(now):
            links.count("throttled")
            links.hang_up(now)
            return
        try:
            message = self._judge(links, link, frame, now)
        except UnknownKind:
            links.count("unknown_kind")
            return
        except MalformedMessage as error:
            links.count("malformed")
            if links.counters["malformed"] == 1:
                _log.warning("device %s sent what is no message: %s", links.peer.id, error)
            return
        if isinstance(message, Bundle):
            links.arrivals.rate.charge(len(message.messages) * BUNDLED)
            for each in message.messages:
                self._deliver(links.peer.id, each)
            return
        if isinstance(message, Beat):
            links.their_interval = message.interval
        if message is not None:
            self._deliver(links.peer.id, message)

    def _judge(self, links: PeerLinks, link: Link, frame: bytes, now: float) -> Frame | None:
        """The message in ``frame``, or None where the header tells to drop it."""
        urgent = link.urgent
        if urgent and frame == links.newest[0]:
            header, verdict = links.newest[1], Verdict.DUPLICATE
        else:
            header = unpack_header(frame, TOPIC_SIZE)
            verdict = links.arrivals.judge(header, self._site, urgent)
        if urgent and (verdict is Verdict.FRESH or verdict is Verdict.DUPLICATE):
            links.quality.note(link.number, header.incarnation, header.sequence, now)
        if verdict is not Verdict.FRESH:
            links.count(verdict.value)
            return None
        if urgent:
            links.newest = frame, header
        body = frame[TOPIC_SIZE + HEADER_SIZE :]
        same = body == links.told[0]
        message = links.told[1] if same else decode(body, MAX_URGENT if urgent else MAX_BULK)
        if isinstance(message, Info):
            links.told = body, message
        if (type(message) in _URGENT) is not urgent:
            raise MalformedMessage(f"a {type(message).__name__} on the wrong channel")
        links.count(verdict.value)
        return message

    async def _tick_forever(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            for _ in range(TICKS_TO_NUDGE):
                await next_round(IDLE_TICK)
                self._tick(loop.time())
            self._allowed.nudge()

    def _tick(self, now: float) -> None:
        self._next_tick = now + TICK
        for links in self._peers.values():
            links.tick(now)

    def counters(self) -> Mapping[str, int]:
        """Frames by fate since the start, of all peers together."""
        total = Counter(self._counts)
        total.update(self._gone)
        for links in self._peers.values():
            total.update(links.counters)
        return {**dict.fromkeys(Verdict, 0), **total, "refused": self._allowed.refused}

    def loss(self) -> dict[DeviceId, tuple[int | None, ...]]:
        """Per peer and connection: beats of 1000 that did not come in time; None: unknown."""
        return {device: links.quality.loss() for device, links in self._peers.items()}

    def lossy(self) -> tuple[DeviceId, ...]:
        """Peers of whose beats many do not come in time on some connection."""
        return tuple(sorted(d for d, links in self._peers.items() if links.quality.lossy))

    def peer_counters(self) -> Mapping[DeviceId, Mapping[str, int]]:
        """Frames by fate of each present peer."""
        return {device: dict(links.counters) for device, links in self._peers.items()}

    async def close(self) -> None:
        """End all connections; what was sent last gets :data:`FAREWELL_MS` to leave."""
        if self._ticks is not None:
            self._ticks.cancel()
        channels, self._channels = self._channels, {}
        for device in list(self._peers):
            self._drop(device)
        await asyncio.gather(*self._tasks)
        for channel in channels.values():
            channel.close()
        await self._allowed.stop()
        if self._context is not None:
            self._context.destroy()
