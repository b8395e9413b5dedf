"""The control socket: where ``halbctl`` on this host talks to the agent.

A ZeroMQ ROUTER on ``ipc://``. Whoever may write to the socket's path may do
anything to this device: mode 0660, group ``halb``. A lock file beside it keeps
a second agent from taking the path over unnoticed.
"""

from __future__ import annotations

import fcntl
import grp
import logging
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from agent import monitors, sockets
from agent.monitors import Callers
from agent.requests import CarryOut, Requests, WatchStatus
from agent.sockets import Socket
from protocol import api
from protocol.errors import HalbError, InvalidInput, Refused

LONGEST_PATH = 107
"""Bytes of a Unix socket's path."""
GROUP = "halb"
MODE = 0o660
QUEUE = 32
"""Frames that may wait for one client; one that does not read loses the rest."""
LINGER_MS = 200

_log = logging.getLogger(__name__)


class ControlServer:
    """Takes requests of local clients and answers them."""

    def __init__(self, path: Path, carry_out: CarryOut, watch: WatchStatus) -> None:
        """``carry_out`` and ``watch`` do what :class:`agent.requests.Requests` says."""
        self.path = path
        self._requests = Requests(carry_out, watch, self._send)
        self._context: sockets.Context | None = None
        self._socket: Socket | None = None
        self._callers: Callers | None = None
        self._lock: int | None = None
        self._bound = False

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
        self._callers = Callers(self._socket, self.path, monitors.MOST)
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
        return dict(self._requests.counts)

    def _came(self, frames: list[bytes]) -> None:
        self._requests.came(frames[0], frames[1:])

    def _send(self, frames: sockets.Frames) -> None:
        if self._socket is not None:
            self._socket.send(frames)

    async def close(self) -> None:
        """Answer nothing more; what was answered has :data:`LINGER_MS` to leave."""
        await self._requests.close()
        if self._callers is not None:
            self._callers.close()
            self._callers = None
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
