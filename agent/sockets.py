"""ZeroMQ sockets in the event loop, with the care that aiozmq needs.

aiozmq loses wake-ups for good after an exception in ``msg_received``, after
``repr(transport)`` and after a look at EVENTS; here no exception gets out of
the handler, no transport is ever shown, and :meth:`Socket.nudge` looks for
what a lost wake-up may have left behind. ZMTP heartbeats stay off: libzmq
4.3.5 aborts the process with them when a receiver falls behind.
``aiozmq.rpc`` unpickles what it receives and is never used.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import aiozmq
import zmq
from zmq.utils import z85

from agent.binding import bind_error
from agent.keys import KeyPair

Context: TypeAlias = zmq.Context[Any]
Frames = Sequence[bytes]
Options = Mapping[int, Any]

ROUTER, DEALER = zmq.ROUTER, zmq.DEALER
LINGER, HANDSHAKE_IVL = zmq.LINGER, zmq.HANDSHAKE_IVL
ROUTING_ID, ROUTER_HANDOVER = zmq.ROUTING_ID, zmq.ROUTER_HANDOVER
ZAP_DOMAIN = b"halb"

_DONTWAIT = int(zmq.DONTWAIT)
_POLLIN = int(zmq.POLLIN)

_log = logging.getLogger(__name__)

BOUNDED = {zmq.LINGER: 0, zmq.IPV6: 1, zmq.TCP_MAXRT: 300, zmq.HANDSHAKE_IVL: 500}
"""Options of every socket on the network; times in milliseconds."""
DIALLING = {zmq.CONNECT_TIMEOUT: 200, zmq.RECONNECT_IVL: 10, zmq.RECONNECT_IVL_MAX: 80}
"""The same of one that connects: soon after a connection was ended, then less and less often."""

REBIND_LAST = 1.0  # seconds
READ_AT_ONCE = 16
"""Frames of one subscription that are handled before the loop sees to others."""
MOST_PARTS = 16
"""Frames of one message that are looked at: ours have up to three, libzmq's questions ten."""
MAX_SOCKETS = 4096
"""Three for each peer, six in the seconds after it fell silent."""


def new_context() -> Context:
    """A context of its own: its allow list and its sockets end with its user."""
    context = zmq.Context()
    context.set(zmq.MAX_SOCKETS, MAX_SOCKETS)
    return context


def new_key_pair() -> KeyPair:
    """A fresh pair from the system's randomness."""
    public, secret = zmq.curve_keypair()
    return KeyPair(public.decode(), secret.decode())


def serving(keys: KeyPair) -> dict[int, Any]:
    """Options of a socket that accepts encrypted connections of whom an allow list lets in."""
    options: dict[int, Any] = {zmq.CURVE_SERVER: 1, zmq.CURVE_SECRETKEY: keys.secret.encode()}
    return options | {zmq.ZAP_DOMAIN: ZAP_DOMAIN, zmq.ZAP_ENFORCE_DOMAIN: 1}


def calling(keys: KeyPair, server_key: str) -> dict[int, Any]:
    """Options of a socket that connects to the owner of ``server_key`` and nobody else."""
    return {
        zmq.CURVE_SERVERKEY: server_key.encode(),
        zmq.CURVE_PUBLICKEY: keys.public.encode(),
        zmq.CURVE_SECRETKEY: keys.secret.encode(),
    }


def limits(*, send: int = 0, receive: int = 0, size: int) -> dict[int, Any]:
    """Options: frames that may wait to be sent and received (0: any), and a frame's bytes."""
    return {zmq.SNDHWM: send, zmq.RCVHWM: receive, zmq.MAXMSGSIZE: size}


class _Bounded(zmq.Socket[bytes]):
    """Gives the first :data:`MOST_PARTS` frames of a message, and drops what follows them.

    How many there are is for the sender to say, and ``recv_multipart`` reads them all at once: a
    stranger's message of 400,000 empty ones held up the loop for 0.9 s.
    """

    _amid = False
    """Whether the next frame belongs to a message whose beginning was given already."""

    def recv_multipart(self, flags: int = 0, copy: bool = True, track: bool = False) -> Any:
        """Raises zmq.Again also after some frames that were dropped."""
        frames = [self.recv(flags, copy=False)]
        while frames[-1].more and len(frames) < MOST_PARTS:
            frames.append(self.recv(flags, copy=False))
        dropped, self._amid = self._amid, bool(frames[-1].more)
        if dropped:
            raise zmq.Again
        return self._parts(frames)

    def _parts(self, frames: Sequence[zmq.Frame]) -> list[bytes]:
        return [frame.bytes for frame in frames]


class _Signed(_Bounded):
    """Puts the public key (Z85) of its sender before each message."""

    def _parts(self, frames: Sequence[zmq.Frame]) -> list[bytes]:
        """Also where nobody asks for it: metadata come with uncopied frames only."""
        return [str(frames[-1].get("User-Id")).encode(), *super()._parts(frames)]


class _Handler(aiozmq.ZmqProtocol):  # type: ignore[misc]  # aiozmq has no types
    def __init__(self, receive: Callable[[list[bytes]], None]) -> None:
        self._receive = receive
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def msg_received(self, msg: list[bytes]) -> None:
        try:
            self._receive(msg)
        except Exception as error:  # noqa: BLE001  # goes to the loop's handler, see above
            asyncio.get_running_loop().call_exception_handler(
                {"message": "a received frame could not be handled", "exception": error}
            )

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)


class Socket:
    """One socket; everything but :meth:`open` and :meth:`close` returns at once."""

    def __init__(self, raw: zmq.Socket[bytes], transport: Any, handler: _Handler) -> None:
        self._raw = raw
        self._transport = transport
        self._handler = handler

    @classmethod
    async def open(
        cls,
        context: Context,
        kind: int,
        options: Options,
        receive: Callable[[list[bytes]], None] = lambda frames: None,
        *,
        signed: bool = False,
    ) -> Socket:
        """A socket of ``context``; ``receive`` gets each message as a list of frames.

        With ``signed`` the first of them is the key that the sender owns, which an
        :class:`AllowList` has let in.
        """
        raw = context.socket(kind, _Signed if signed else _Bounded)
        try:
            for option, value in options.items():
                raw.setsockopt(option, value)
            transport, handler = await aiozmq.create_zmq_connection(
                lambda: _Handler(receive), kind, zmq_sock=raw
            )
        except BaseException:
            raw.close(0)
            raise
        return cls(raw, transport, handler)

    def send(self, frames: Frames) -> bool:
        """Hand over one message; False if the socket takes none now. Queues nothing itself."""
        if self._transport.get_write_buffer_size():
            return False
        self._transport.write(frames)
        return not self._transport.get_write_buffer_size()

    def bind(self, endpoint: str) -> None:
        """Accept connections at ``endpoint``; raise OSError."""
        self._transport.bind(endpoint).result()

    def unbind(self, endpoint: str) -> None:
        """Stop accepting and end the connections accepted at ``endpoint``."""
        self._transport.unbind(endpoint).result()

    def connect(self, endpoint: str) -> None:
        self._transport.connect(endpoint).result()
        self.nudge()

    def nudge(self) -> None:
        """Read on, in case that a wake-up was lost."""
        asyncio.get_running_loop().call_soon(self._transport._read_ready)

    def told_of(self, events: int) -> zmq.Socket[bytes]:
        """Where libzmq tells of such events of this socket, until :meth:`untold`.

        To be called before it binds or connects. Whoever does not read holds up its traffic.
        """
        return self._raw.get_monitor_socket(events)

    def untold(self) -> None:
        """Before it is closed."""
        self._raw.disable_monitor()

    async def close(self) -> None:
        """Drop what is queued and close."""
        self._transport.abort()
        await self._handler.closed


class Subscriber:
    """A SUB socket. Reading is most of what an agent does at rest: without aiozmq it takes half.

    Its descriptor tells that something changed, once: whoever is woken, and whoever does
    anything else with the socket, reads until nothing is left, or is not woken again.
    """

    def __init__(
        self, context: Context, options: Options, topic: bytes, receive: Callable[[bytes], None]
    ) -> None:
        """``receive`` gets each frame, also of several in one; OSError if no socket is left."""
        with _as_os_error():
            self._raw = context.socket(zmq.SUB)
        for option, value in options.items():
            self._raw.setsockopt(option, value)
        self._raw.setsockopt(zmq.SUBSCRIBE, topic)
        self.receive = receive
        self._loop = asyncio.get_running_loop()
        self._fd = int(self._raw.getsockopt(zmq.FD))
        self._loop.add_reader(self._fd, self.read)

    def connect(self, endpoint: str) -> None:
        with _as_os_error():
            self._raw.connect(endpoint)
        self._loop.call_soon(self.read)

    def disconnect(self, endpoint: str) -> None:
        """End the connection and drop what it brought that was not read yet."""
        try:
            self._raw.disconnect(endpoint)
        except zmq.ZMQError as error:
            if error.errno != errno.ENOENT:
                raise
        self._loop.call_soon(self.read)

    def read(self) -> None:
        """Handle what has come already, without waiting."""
        if self._raw.closed:
            return
        some_left = True
        try:
            for _ in range(READ_AT_ONCE):
                self.receive(self._raw.recv(_DONTWAIT))
                # Asking is cheaper than being refused.
                if self._raw.closed or not int(self._raw.getsockopt(zmq.EVENTS)) & _POLLIN:
                    some_left = False
                    break
        except zmq.Again:
            some_left = False
        finally:
            if some_left:
                self._loop.call_soon(self.read)

    def close(self) -> None:
        """Drop what is queued and close."""
        if not self._raw.closed:
            self._loop.remove_reader(self._fd)
            self._raw.close(0)


class Publisher:
    """A PUB socket. It is only ever written to, never blocks, and so needs no event loop."""

    def __init__(self, context: Context, options: Options) -> None:
        self._raw = context.socket(zmq.PUB)
        for option, value in options.items():
            self._raw.setsockopt(option, value)

    def send(self, frame: bytes) -> None:
        """Give ``frame`` to each subscriber of a topic that it begins with, or lose it."""
        self._raw.send(frame, _DONTWAIT)

    def bind(self, endpoint: str) -> None:
        """Accept connections at ``endpoint``; raise OSError."""
        with _as_os_error():
            self._raw.bind(endpoint)

    def unbind(self, endpoint: str) -> None:
        """Stop accepting and end the connections accepted at ``endpoint``."""
        with _as_os_error():
            self._raw.unbind(endpoint)

    def close(self) -> None:
        """Close; what is queued has the time of LINGER to leave."""
        self._raw.close()


@contextmanager
def _as_os_error() -> Iterator[None]:
    try:
        yield
    except zmq.ZMQError as error:
        raise OSError(error.errno, error.strerror) from error


class AllowList:
    """Whose keys may connect to the serving sockets of one context (ZAP, ZeroMQ RFC 27)."""

    def __init__(self) -> None:
        self.keys: Container[bytes] = frozenset()
        """Public keys in Z85."""
        self.closed = False
        """Nobody is answered for now: who asks fails to agree on keys in time, and tries again."""
        self.refused = 0
        self.admitted: Callable[[bytes], None] = lambda key: None
        """Called with the key of each connection that was let in."""
        self._socket: Socket | None = None

    async def start(self, context: Context) -> None:
        """Decide for ``context``. Where nobody decides, nobody gets in: ZAP_ENFORCE_DOMAIN."""
        self._socket = await Socket.open(context, zmq.ROUTER, {}, self._asked)
        self._socket.bind("inproc://zeromq.zap.01")

    def _asked(self, frames: list[bytes]) -> None:
        """A connection has proven to own a key: libzmq asks whether that is enough."""
        if self.closed:
            return
        client, delimiter, version, request, domain, _, _, mechanism, *credentials = frames
        key = z85.encode(credentials[0]) if len(credentials) == 1 else b""
        proven = (version, domain, mechanism) == (b"1.0", ZAP_DOMAIN, b"CURVE") and key
        allowed = bool(proven) and key in self.keys
        self.refused += not allowed
        status = (b"200", b"OK") if allowed else (b"400", b"not known to this Site")
        user = key if allowed else b""
        if self._socket is not None:
            self._socket.send((client, delimiter, version, request, *status, user, b""))
        if allowed:
            self.admitted(key)

    def nudge(self) -> None:
        if self._socket is not None:
            self._socket.nudge()

    async def stop(self) -> None:
        if self._socket is not None:
            socket, self._socket = self._socket, None
            await socket.close()


def bind_all(socket: Socket | Publisher, endpoints: Iterable[tuple[str, int]]) -> None:
    """Bind to each (address, port) over TCP; say what is wrong in an operator's words."""
    for address, port in endpoints:
        try:
            socket.bind(tcp(address, port))
        except OSError as error:
            raise bind_error(address, port, error) from error


async def rebind(
    socket: Socket | Publisher, endpoint: tuple[str, int], wanted: Callable[[], bool]
) -> None:
    """End the connections that were accepted at an (address, port), and accept new ones there.

    The old listener lets go of its port in the background, within milliseconds.
    ``wanted``: whether there still is a socket to bind.
    """
    socket.unbind(tcp(*endpoint))
    delay = 0.002
    while wanted():
        try:
            socket.bind(tcp(*endpoint))
        except OSError as error:
            if delay > REBIND_LAST:
                _log.error("cannot listen on %s port %d again: %s", *endpoint, error.strerror)
            await asyncio.sleep(delay)
            delay = min(2 * delay, 2 * REBIND_LAST)
        else:
            return


def tcp(address: str, port: int) -> str:
    """The name that ZeroMQ gives to an address and port."""
    return f"tcp://[{address}]:{port}" if ":" in address else f"tcp://{address}:{port}"
