"""Requests of operators, from whichever socket they come: decoded, carried out, answered.

A request is one frame of :mod:`protocol.api`, and so is a reply. What is
malformed is counted, and answered where it shows the id of its request; a
client that watches and says nothing more is forgotten.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from agent.sockets import Frames
from agent.worker import REMEDY
from protocol import api
from protocol.errors import HalbError, InvalidInput, MalformedMessage, Refused
from protocol.joining import failure_of
from protocol.wire import decode_request, encode_reply, request_id

AT_WORK = 64
"""Requests and watches that are carried out at the same time."""
NO_FILES_LEFT = frozenset({errno.EMFILE, errno.ENFILE})
NONE_LEFT = frozenset({errno.EAGAIN, errno.ENOMEM})
"""Of processes, or of memory. Both say something about the limits of this host, and are no
defect."""

CarryOut = Callable[[api.Request], Awaitable[api.Result]]
WatchStatus = Callable[[float], AsyncIterator[api.Status]]
_Key = tuple[bytes, str]
"""A client's identity and the id of its request."""


class Requests:
    """What clients of one socket, or of one operator on it, have under way."""

    def __init__(
        self,
        carry_out: CarryOut,
        watch: WatchStatus,
        send: Callable[[Frames], object],
        at_work: int = AT_WORK,
    ) -> None:
        """``carry_out`` and ``watch`` may raise HalbError: the client gets it as a Failure.

        ``watch`` yields at least each so many seconds; a watch ends when its
        client did not say for :data:`protocol.api.WATCH_LEASE_S` that it goes on.
        ``send`` gets a client's identity and a frame for it.
        """
        self._carry_out = carry_out
        self._watch = watch
        self._send = send
        self._at_work = at_work
        self._work: dict[_Key, asyncio.Task[None]] = {}
        self._watched_until: dict[_Key, float] = {}
        self.counts: Counter[str] = Counter()
        """Requests by fate: ``requests``, ``malformed``, ``busy``."""

    @property
    def answering(self) -> bool:
        """Whether anything but watches is under way."""
        return bool(self._work.keys() - self._watched_until.keys())

    def came(self, sender: bytes, parts: Sequence[bytes]) -> None:
        """A client sent a message."""
        if len(parts) != 1:
            self.counts["malformed"] += 1
            return
        try:
            request = decode_request(parts[0])
        except MalformedMessage as error:
            self.counts["malformed"] += 1
            known = request_id(parts[0])
            if known is not None:
                wrong = InvalidInput(f"the request is malformed: {error.message}", _SAME_RELEASE)
                self._fail((sender, known), wrong)
            return
        self.counts["requests"] += 1
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
        if len(self._work) >= self._at_work:
            self.counts["busy"] += 1
            busy = f"{self._at_work} requests are under way"
            self._fail(key, Refused(busy, "Repeat in some seconds."))
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
        if len(frame) > api.MAX_REPLY:
            too_large = Refused(f"the answer has {len(frame)} bytes; {api.MAX_REPLY} may be")
            frame = encode_reply(api.Reply(api.API_VERSION, request, None, failure_of(too_large)))
        self._send((sender, frame))

    def dismiss(self, error: HalbError) -> None:
        """End what is watched, with ``error``; what was asked before is still answered."""
        for key in self._watched_until:
            self._work[key].cancel()
            self._fail(key, error)

    async def close(self) -> None:
        """Answer nothing more."""
        work = list(self._work.values())
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)


_SAME_RELEASE = "Use the halbctl that was installed with the agent."


def _internal(error: Exception) -> HalbError:
    if isinstance(error, OSError) and error.errno in NO_FILES_LEFT:
        return HalbError(
            f"the agent cannot answer: {os.strerror(error.errno)}",
            "Raise the limit of open files: LimitNOFILE= in its systemd unit, --ulimit nofile="
            " with containers, fs.file-max on the host. `ls -l /proc/PID/fd` shows what it has.",
        )
    if isinstance(error, OSError) and error.errno in NONE_LEFT:
        about = f"{error.filename}: " if error.filename else ""
        return HalbError(f"the agent cannot answer: {about}{os.strerror(error.errno)}", REMEDY)
    return HalbError(
        f"the agent failed to answer: {type(error).__name__}: {str(error)[:200]}",
        "This is a defect of HALB: please report it, with the agent's log.",
    )
