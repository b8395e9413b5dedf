"""Load for ``scripts/bench dataplane``, and what answers it. Standard library only.

Run as ``python -m halbctl.lab.load serve|brief``, or ``connect HOST SECONDS``, or ``stream|ask
HOST,... SECONDS``, which print what they measured as JSON. A server ends each brief connection,
so that no port of a client waits for its time to pass.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import struct
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from statistics import median

STREAM, BRIEF, ASK, CARRY = 7011, 7012, 7013, 7014
"""Ports: takes all that comes; answers one request of HTTP per connection; echoes questions; is
answered by the kernel (:mod:`halbctl.lab.ends`)."""
PORTS = (STREAM, BRIEF, ASK, CARRY)
CLIENTS = 4
"""Processes that open connections at the same time, and that answer them."""
_REQUEST = b"GET / HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n"
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\n!"
_CHUNK = 1 << 18
TIMEOUT_S = 5.0
SLICE_S, STREAM_SLICE_S = 0.02, 0.05
"""The turn of one host among several, with questions and with streams."""
_LOOK_S = 0.00005


def command(*arguments: str) -> list[str]:
    """How to run this file in a process of its own."""
    return [sys.executable, "-m", "halbctl.lab.load", *arguments]


def _accept_forever(port: int, handle: Callable[[socket.socket], None]) -> None:
    with socket.create_server(("", port), backlog=4096) as server:
        while True:
            sock, _ = server.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=_guarded, args=(handle, sock), daemon=True).start()


def _guarded(handle: Callable[[socket.socket], None], sock: socket.socket) -> None:
    # A client that has had enough resets its connection.
    with sock, suppress(ConnectionError):
        handle(sock)


def _drain(sock: socket.socket) -> None:
    buffer = bytearray(_CHUNK)
    while sock.recv_into(buffer):
        pass


def _answer(sock: socket.socket) -> None:
    if sock.recv(1024):
        sock.sendall(_ANSWER)


def _echo(sock: socket.socket) -> None:
    while data := sock.recv(1024):
        sock.sendall(data)


def serve() -> None:
    """Serve what :func:`stream` and :func:`ask` need, until killed; print ``ready``."""
    if os.fork() == 0:
        _accept_forever(STREAM, _drain)
    print("ready", flush=True)
    _accept_forever(ASK, _echo)


def brief() -> None:
    """Serve brief connections until killed."""
    with socket.create_server(("", BRIEF), backlog=4096) as server:
        for _ in range(CLIENTS - 1):
            if os.fork() == 0:
                break
        while True:
            sock, _ = server.accept()
            _guarded(_answer, sock)


def stream(hosts: Sequence[str], seconds: float) -> list[float]:
    """Gigabits per second of one connection through each host, alone in its turns.

    A turn ends when everything is acknowledged.
    """
    data = bytes(_CHUNK)
    sent, took = [0] * len(hosts), [0.0] * len(hosts)
    with _connections_to(hosts, STREAM) as socks:
        for _ in range(max(1, round(seconds / STREAM_SLICE_S))):
            for number, sock in enumerate(socks):
                began = time.perf_counter()
                while time.perf_counter() - began < STREAM_SLICE_S:
                    sent[number] += sock.send(data)
                while _unacknowledged(sock):
                    time.sleep(_LOOK_S)
                took[number] += time.perf_counter() - began
    return [count * 8 / each / 1e9 for count, each in zip(sent, took, strict=True)]


def _unacknowledged(sock: socket.socket) -> int:
    """Bytes; SIOCOUTQ, tcp(7)."""
    (count,) = struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))
    return int(count)


@contextmanager
def _connections_to(hosts: Sequence[str], port: int) -> Iterator[list[socket.socket]]:
    with ExitStack() as held:
        yield [
            held.enter_context(socket.create_connection((host, port), TIMEOUT_S)) for host in hosts
        ]


def connect(host: str, seconds: float) -> int:
    """Connections that were opened, answered and closed; several at a time."""
    ends = [_in_child(host, seconds) for _ in range(CLIENTS)]
    counts = []
    for pid, end in ends:
        with os.fdopen(end, "rb") as pipe:
            counts.append(int(pipe.read() or b"0"))
        os.waitpid(pid, 0)
    return sum(counts)


def _in_child(host: str, seconds: float) -> tuple[int, int]:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    os.write(writing, str(_connections(host, seconds)).encode())
    os._exit(0)


def _connections(host: str, seconds: float) -> int:
    """Connections that were served; written for little work beside the kernel's."""
    limit = struct.pack("ll", int(TIMEOUT_S), 0)
    done = 0
    ends = time.perf_counter() + seconds
    while time.perf_counter() < ends:
        sock = socket.socket()
        for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
            sock.setsockopt(socket.SOL_SOCKET, option, limit)
        with suppress(OSError):
            sock.connect((host, BRIEF))
            sock.sendall(_REQUEST)
            done += sock.recv(1024).startswith(b"HTTP/1.1 200")
        sock.close()
    return done


def ask(hosts: Sequence[str], seconds: float) -> list[float]:
    """Median time from a small question to its answer on an open connection, microseconds.

    Hosts have turns of milliseconds, so that what else the machine does meets all alike.
    """
    with _connections_to(hosts, ASK) as socks:
        for sock in socks:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        took: list[list[float]] = [[] for _ in socks]
        for _ in range(max(1, round(seconds / SLICE_S))):
            for sock, times in zip(socks, took, strict=True):
                times.extend(_question(sock, time.perf_counter() + SLICE_S))
    return [median(times) * 1e6 for times in took]


def _question(sock: socket.socket, ends: float) -> Iterator[float]:
    while (began := time.perf_counter()) < ends:
        sock.sendall(b"question")
        sock.recv(1024)
        yield time.perf_counter() - began


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve"]:
            serve()
        case ["brief"]:
            brief()
        case ["stream", to, length]:
            print(json.dumps(stream(to.split(","), float(length))))
        case ["connect", to, length]:
            print(json.dumps(connect(to, float(length))))
        case ["ask", to, length]:
            print(json.dumps(ask(to.split(","), float(length))))
