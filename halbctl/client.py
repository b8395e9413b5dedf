"""One request to an agent, or one watch, over its control socket or the network.

Replies are plain data here (:mod:`halbctl.replies` says of which shape): the
agent is trusted, and msgspec would take longer to import than the rest of
``halbctl status`` to run. Requests that change something are built from
:mod:`protocol.api`, by the commands that make them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any, NamedTuple

import msgpack
import zmq

from halbctl.errors import from_failure
from halbctl.where import Where
from protocol.control import API_VERSION, MAX_FRAME, MAX_REPLY, WATCH_LEASE_S
from protocol.errors import HalbError, InvalidInput, MalformedMessage, Refused, Unreachable

Context = zmq.Context[Any]
GRACE_S = 1.0
"""How long an agent that does not listen may take to start."""
PATIENCE_S = 0.25
"""Silence after which it is worth asking why the agent is silent."""
TICK_S = 0.1
SILENT = "It may be busy or hung: see `systemctl status halb-agent`."

Result = dict[str, Any]


class Line(NamedTuple):
    """A socket that leads to an agent."""

    socket: zmq.Socket[bytes]
    name: str
    """Where it leads to."""
    why_silent: Callable[[float], None]
    """Raises if there is a reason, for which it may look so many seconds."""
    who: str = "the agent"


def ask(
    where: Where,
    op: dict[str, Any],
    timeout: float,
    waiting: Callable[[float], None] | None = None,
    remedy: str = SILENT,
) -> Result:
    """Send ``op`` and return the agent's result, as plain data.

    ``timeout`` is in seconds, for all of it; ``waiting`` is called about ten
    times a second with the seconds passed; ``remedy`` is for silence.
    Raises the agent's refusal as the error that it is, and Unreachable if no
    answer comes.
    """
    deadline = monotonic() + timeout
    with _link(where, timeout) as link:
        link.send(op)
        return link.receive(deadline, timeout, waiting, remedy)


def watch(where: Where, op: dict[str, Any], interval: float, timeout: float) -> Iterator[Result]:
    """Yield each result that ``op``, a watch, is answered with, for ever.

    The agent answers at least each ``interval`` seconds; Unreachable is raised
    when it falls silent for ``timeout`` seconds more.
    """
    with _link(where, timeout) as link:
        link.send(op)
        last_sign = monotonic()

        def keep_watching(_: float) -> None:
            nonlocal last_sign
            silent = monotonic() - last_sign
            if silent > WATCH_LEASE_S:
                # Whoever reads what is yielded stood still: the agent has forgotten this watch.
                link.send(op)
            elif silent > WATCH_LEASE_S / 3:
                link.send({"op": "keep-watching"}, again=True)
            else:
                return
            last_sign = monotonic()

        while True:
            silence = interval + timeout
            yield link.receive(monotonic() + silence, silence, keep_watching)
            keep_watching(0)


@contextmanager
def _link(where: Where, timeout: float) -> Iterator[_Link]:
    context = zmq.Context(io_threads=1)
    try:
        if isinstance(where, str):
            yield _local(context, where, timeout)
        else:
            from halbctl.remote import connect

            yield _Link(connect(context, where, timeout))
    finally:
        context.destroy(linger=0)


def _local(context: Context, control: str, timeout: float) -> _Link:
    _reach(control, min(GRACE_S, timeout))
    socket = context.socket(zmq.DEALER)
    socket.maxmsgsize = MAX_REPLY
    met = socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
    try:
        socket.connect(f"ipc://{control}")
    except zmq.ZMQError as error:
        raise InvalidInput(
            f"{control!r} cannot be a control socket: {error}",
            "Name another with --control PATH.",
        ) from error

    def why_silent(grace: float) -> None:
        try:
            _find_listener(control, grace)
        except _NotListening as error:
            if met.poll(0):
                raise Ended(error.message, error.remedy) from None
            raise

    return _Link(Line(socket, control, why_silent))


class _Link:
    """A line on which one request is under way."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.socket = line.socket
        self.id = os.urandom(8).hex()

    def send(self, op: dict[str, Any], *, again: bool = False) -> None:
        """Send ``op``; ``again`` for more about the request that is under way."""
        if not again:
            self.id = os.urandom(8).hex()
        try:
            frame = msgpack.packb({"v": API_VERSION, "id": self.id, "op": op})
        except (OverflowError, UnicodeEncodeError) as error:
            raise InvalidInput(
                f"the request cannot be sent: {error}",
                "Correct the number that is too large, or the text that is not UTF-8.",
            ) from None
        if len(frame) > MAX_FRAME:
            raise InvalidInput(f"the request has {len(frame)} bytes; at most {MAX_FRAME} may be")
        self.socket.send(frame)

    def receive(
        self,
        deadline: float,
        within: float,
        waiting: Callable[[float], None] | None,
        remedy: str = SILENT,
    ) -> Result:
        """The next result; ``deadline``, after ``within`` seconds, is a time of ``monotonic()``."""
        began = monotonic()
        patience = began + PATIENCE_S
        while (now := monotonic()) < deadline:
            if waiting:
                waiting(now - began)
            if self.socket.poll(int(min(TICK_S, deadline - now) * 1000) + 1):
                result = self._result(self.socket.recv())
                if result is not None:
                    return result
            elif now > patience:
                self.line.why_silent(min(GRACE_S, deadline - now))
                patience = monotonic() + GRACE_S
        raise Unreachable(f"{self.line.who} did not answer within {within:.1f} s", remedy)

    def _result(self, frame: bytes) -> Result | None:
        """The result in a reply, or None if it answers another request."""
        try:
            reply = msgpack.unpackb(frame)
            version, answers = reply["v"], reply["id"]
            failure, result = reply.get("failure"), reply.get("result")
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise MalformedMessage(
                f"what listens at {self.line.name} does not speak like halb-agent",
                "Name the agent's control socket with --control PATH, or its device with --agent.",
            ) from error
        if version != API_VERSION:
            raise Refused(
                f"the agent speaks version {version} of the control API,"
                f" this halbctl version {API_VERSION}",
                "Use the halbctl that was installed with the agent.",
            )
        if answers != self.id:
            return None
        if failure is not None:
            raise from_failure(failure)
        if not isinstance(result, dict):
            raise MalformedMessage(f"the agent's reply to {answers} is empty")
        result.pop("re", None)
        return result


class Ended(Unreachable):
    """The agent listened, may have got the request, and does not listen any more."""


class _NotListening(Unreachable):
    """Nobody listens yet; may pass."""


def _reach(control: str, grace: float) -> None:
    """Return if the socket is there and ours to use; wait for an agent that starts."""
    try:
        _look(control)
    except _NotListening:
        _find_listener(control, grace)


def _look(control: str) -> None:
    """Raise Unreachable with the reason why ``control`` cannot be used."""
    try:
        os.stat(control)
    except FileNotFoundError:
        raise _NotListening(
            f"the agent does not run here: {control} does not exist",
            "Start it with `systemctl start halb-agent`,"
            " or name its control socket with --control PATH.",
        ) from None
    except PermissionError:
        raise _forbidden(control) from None
    except (OSError, ValueError) as error:
        raise InvalidInput(
            f"{control!r} cannot be a control socket: {error}", "Name another with --control PATH."
        ) from error
    if not os.access(control, os.R_OK | os.W_OK):
        raise _forbidden(control)


def _forbidden(control: str) -> HalbError:
    return Unreachable(
        f"you may not use {control}: its users are root and the group halb",
        "Use sudo, or join the group with `sudo usermod -aG halb $USER` and log in again.",
    )


def _find_listener(control: str, grace: float) -> None:
    """Return when somebody accepts connections; raise after ``grace`` seconds without."""
    from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

    Retrying(
        retry=retry_if_exception_type(_NotListening),
        stop=stop_after_delay(grace),
        wait=wait_fixed(TICK_S),
        reraise=True,
    )(_probe, control)


def _probe(control: str) -> None:
    import socket

    _look(control)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(TICK_S)
        try:
            probe.connect(control)
        except TimeoutError:
            return
        except BlockingIOError:
            return  # Its queue is full: it listens, but is busy.
        except OSError as error:
            raise _NotListening(
                f"the agent does not run here: nobody listens at {control} ({error.strerror})",
                "Start it with `systemctl start halb-agent`.",
            ) from None
