"""The control socket: where ``halbctl`` on this host talks to the agent.

A ZeroMQ ROUTER on ``ipc://``. Whoever may write to the socket's path may do
anything to this device: mode 0660, group ``halb``. A lock file beside it keeps
a second agent from taking the path over unnoticed.
"""

from __future__ import annotations

import asyncio
import fcntl
import grp
import logging
import os
import stat
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path

from agent import sockets
from agent.sockets import Socket
from protocol import api
from protocol.errors import HalbError, InvalidInput, MalformedMessage, Refused
from protocol.joining import failure_of
from protocol.wire import decode_request, encode_reply, request_id

LONGEST_PATH = 107
"""Bytes of a Unix socket's path."""
GROUP = "halb"
MODE = 0o660
QUEUE = 32
"""Frames that may wait for one client; one that does not read loses the rest."""
AT_WORK = 64
"""Requests and watches that are carried out at the same time."""
LINGER_MS = 200

CarryOut = Callable[[api.Request], Awaitable[api.Result]]
WatchStatus = Callable[[float], AsyncIterator[api.Status]]
_Key = tuple[bytes, str]
"""A client's identity and the id of its request."""

_log = logging.getLogger(__name__)


class ControlServer:
    """Takes requests of local clients and answers them."""

    def __init__(self, path: Path, carry_out: CarryOut, watch: WatchStatus) -> None:
        """``carry_out`` and ``watch`` may raise HalbError: the client gets it as a Failure.

        ``watch`` yields at least each so many seconds; a watch ends when its
        client did not say for :data:`protocol.api.WATCH_LEASE_S` that it goes on.
        """
        self.path = path
        self._carry_out = carry_out
        self._watch = watch
        self._context: sockets.Context | None = None
        self._socket: Socket | None = None
        self._lock: int | None = None
        self._bound = False
        self._work: dict[_Key, asyncio.Task[None]] = {}
        self._watched_until: dict[_Key, float] = {}
        self._counts: Counter[str] = Counter()

    async def start(self) -> None:
        """Bind; raises InvalidInput for a path that cannot be, Refused if another agent has it."""
        size = len(os.fsencode(self.path))
        if size > LONGEST_PATH:
            raise InvalidInput(
                f"control socket path {self.path} has {size} bytes; {LONGEST_PATH} may be",
                "Choose a shorter one with --control PATH.",
            )
        self._context = sockets.new_context()
        options = sockets.limits(send=QUEUE, receive=QUEUE, size=api.MAX_FRAME)
        options |= {sockets.LINGER: LINGER_MS}
        self._socket = await Socket.open(self._context, sockets.ROUTER, options, self._came)
        try:
            self._bind(self._socket)
        except OSError as error:
            await self.close()
            raise HalbError(
                f"cannot make control socket {self.path}: {error.strerror or error}",
                "Let the agent's user write to its directory, or choose another --control PATH.",
            ) from error
        except HalbError:
            await self.close()
            raise

    def _bind(self, socket: Socket) -> None:
        self.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        self._lock = _take_lock(self.path)
        _remove_stale(self.path)
        # Nobody may connect before the group is set.
        former = os.umask(0o177)
        try:
            socket.bind(f"ipc://{self.path}")
        finally:
            os.umask(former)
        self._bound = True
        _give_to_group(self.path)

    def counters(self) -> Mapping[str, int]:
        """Requests by fate since the start: ``requests``, ``malformed``, ``busy``."""
        return dict(self._counts)

    def _came(self, frames: list[bytes]) -> None:
        sender, *parts = frames
        if len(parts) != 1:
            self._counts["malformed"] += 1
            return
        try:
            request = decode_request(parts[0])
        except MalformedMessage as error:
            self._counts["malformed"] += 1
            known = request_id(parts[0])
            if known is not None:
                wrong = InvalidInput(f"the request is malformed: {error.message}", _SAME_RELEASE)
                self._fail((sender, known), wrong)
            return
        self._counts["requests"] += 1
        self._begin((sender, request.id), request)

    def _begin(self, key: _Key, request: api.Request) -> None:
        if request.v != api.API_VERSION:
            self._fail(key, InvalidInput(
                f"halbctl speaks version {request.v} of the control API, "
                f"this agent version {api.API_VERSION}", _SAME_RELEASE))  # fmt: skip
            return
        if isinstance(request.op, api.KeepWatching):
            if key in self._watched_until:
                self._extend(key)
            return
        if key in self._work:
            return  # Sent twice: one answer is under way.
        if len(self._work) >= AT_WORK:
            self._counts["busy"] += 1
            self._fail(key, Refused(f"{AT_WORK} requests are under way", "Repeat in some seconds."))
            return
        work = self._stream if isinstance(request.op, api.Watch) else self._answer
        task = asyncio.get_running_loop().create_task(work(key, request))
        self._work[key] = task
        task.add_done_callback(lambda done: self._done(key, done))

    def _done(self, key: _Key, task: asyncio.Task[None]) -> None:
        del self._work[key]
        if not task.cancelled():
            task.result()

    async def _answer(self, key: _Key, request: api.Request) -> None:
        try:
            result = await self._carry_out(request)
        except HalbError as error:
            self._fail(key, error)
        except Exception as error:
            self._fail(key, _internal(error))
            raise
        else:
            self._reply(key, result=result)

    async def _stream(self, key: _Key, request: api.Request) -> None:
        assert isinstance(request.op, api.Watch)
        self._extend(key)
        clock = asyncio.get_running_loop().time
        try:
            async for status in self._watch(request.op.interval):
                if clock() > self._watched_until[key]:
                    return
                self._reply(key, result=status, more=True)
        except HalbError as error:
            self._fail(key, error)
        except Exception as error:
            self._fail(key, _internal(error))
            raise
        finally:
            del self._watched_until[key]

    def _extend(self, key: _Key) -> None:
        self._watched_until[key] = asyncio.get_running_loop().time() + api.WATCH_LEASE_S

    def _fail(self, key: _Key, error: HalbError) -> None:
        self._reply(key, failure=failure_of(error))

    def _reply(
        self, key: _Key, *, result: api.Result | None = None,
        failure: api.Failure | None = None, more: bool = False,
    ) -> None:  # fmt: skip
        sender, request = key
        frame = encode_reply(api.Reply(api.API_VERSION, request, result, failure, more))
        if len(frame) > api.MAX_FRAME:
            too_large = Refused(f"the answer has {len(frame)} bytes; {api.MAX_FRAME} may be")
            frame = encode_reply(api.Reply(api.API_VERSION, request, None, failure_of(too_large)))
        if self._socket is not None:
            self._socket.send((sender, frame))

    async def close(self) -> None:
        """Answer nothing more; what was answered has :data:`LINGER_MS` to leave."""
        work = list(self._work.values())
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        if self._socket is not None:
            socket, self._socket = self._socket, None
            await socket.close()
        if self._context is not None:
            self._context.destroy()
        if self._lock is not None:
            if self._bound:
                self.path.unlink(missing_ok=True)
                _lock_of(self.path).unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = None


_SAME_RELEASE = "Use the halbctl that was installed with the agent."


def _internal(error: Exception) -> HalbError:
    return HalbError(
        f"the agent failed to answer: {type(error).__name__}: {str(error)[:200]}",
        "This is a defect of HALB: please report it, with the agent's log.",
    )


def _lock_of(path: Path) -> Path:
    return path.with_name(path.name + ".lock")


def _take_lock(path: Path) -> int:
    lock = os.open(_lock_of(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise Refused(
            f"control socket {path} is in use by another halb-agent",
            "Stop that one, or start this one with another --control PATH.",
        ) from None
    return lock


def _remove_stale(path: Path) -> None:
    """Remove the socket of an agent that is gone; refuse to remove anything else."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise InvalidInput(
            f"{path} exists and is no socket", "Remove it, or choose another --control PATH."
        )
    path.unlink()


def _give_to_group(path: Path) -> None:
    """Let the group ``halb`` use the socket, if there is one and we may."""
    try:
        os.chown(path, -1, grp.getgrnam(GROUP).gr_gid)
    except KeyError:
        pass  # No such group: root and the agent's own group remain.
    except PermissionError:
        _log.warning("%s: the agent may not give it to group %s", path, GROUP)
    path.chmod(MODE)
