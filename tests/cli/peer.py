"""An agent's control socket without an agent: plays replies over real ZeroMQ."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Self

import zmq

from protocol import api
from protocol.control import OPERATORS
from protocol.wire import decode_request, encode_reply

Answer = api.Result | api.Failure | Callable[[Any], api.Result | api.Failure] | list[api.Result]


class Peer:
    """A ROUTER on ``path``. ``answers`` has what each kind of request is answered with.

    A list is a stream: all of it is sent at once, with ``more``. A request
    without an answer stays unanswered, as by an agent that hangs.
    """

    def __init__(self, path: Path, version: int = api.API_VERSION) -> None:
        self.path = path
        self.answers: dict[type[api.Op], Answer] = {}
        self.requests: list[api.Request] = []
        self.garbage: bytes | None = None
        self.ends = False
        """It gets one request, and listens no more."""
        self._version = version
        self._stop = threading.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(5)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(5)
        assert not self._thread.is_alive()

    def wait_for(self, kind: type[api.Op], count: int = 1, within: float = 10.0) -> list[Any]:
        """The first ``count`` requests of this kind, once they are here."""
        deadline = monotonic() + within
        while monotonic() < deadline:
            found = [r.op for r in self.requests if isinstance(r.op, kind)]
            if len(found) >= count:
                return found
            sleep(0.01)
        raise AssertionError(f"no {count} requests of {kind.__name__} within {within} s")

    def only(self, kind: type[Any]) -> Any:
        """The one request of this kind."""
        (found,) = [r.op for r in self.requests if isinstance(r.op, kind)]
        return found

    def _serve(self) -> None:
        context = zmq.Context()
        with context, context.socket(zmq.ROUTER) as router:
            router.linger = 500
            self._bind(router)
            self._ready.set()
            while not self._stop.is_set():
                if router.poll(10):
                    identity, frame = router.recv_multipart()
                    for reply in self._replies(decode_request(frame)):
                        router.send_multipart([identity, reply])

    def _bind(self, router: zmq.Socket[bytes]) -> None:
        router.bind(f"ipc://{self.path}")

    def _replies(self, request: api.Request) -> list[bytes]:
        self.requests.append(request)
        if self.ends:
            self._stop.set()
            return []
        if self.garbage is not None:
            return [self.garbage]
        answer = self.answers.get(type(request.op))
        if answer is None:
            return []
        if isinstance(answer, list):
            return [self._frame(request, result, more=True) for result in answer]
        if callable(answer):
            answer = answer(request.op)
        return [self._frame(request, answer)]

    def _frame(
        self, request: api.Request, answer: api.Result | api.Failure, more: bool = False
    ) -> bytes:
        result, failure = (None, answer) if isinstance(answer, api.Failure) else (answer, None)
        return encode_reply(api.Reply(self._version, request.id, result, failure, more))


class RemotePeer(Peer):
    """The same on the network, encrypted, at a port of the kernel's choice; lets anyone in."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        public, self._secret = zmq.curve_keypair()
        self.public_key = public.decode()
        self.port = 0

    @property
    def address(self) -> str:
        """As devices know it: operators connect to a later port."""
        return f"127.0.0.1:{self.port - OPERATORS}"

    def _bind(self, router: zmq.Socket[bytes]) -> None:
        router.curve_server = True
        router.curve_secretkey = self._secret
        self.port = router.bind_to_random_port("tcp://127.0.0.1", min_port=20000, max_port=60000)
