"""A primary tells its secondaries of its flows: what there is, what begins, what ends.

The kernel is read by a worker; the loop only numbers what was found and passes it on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from functools import partial

from agent.barrier import Barrier
from agent.flowreading import Found, changes, everything
from agent.flowstream import Chunk, Outgoing, chunks
from agent.flowtable import FlowTable
from agent.flowworker import FlowWorker
from agent.mirror import add
from agent.rate import Share
from agent.tellers import Tellers
from protocol.flows import Flow, FlowsKept, FlowsPart, FlowsWanted, Flush
from protocol.ids import DeviceId, GroupId
from protocol.messages import Message

BATCH_S = 0.1
"""Between two looks. A flow is told of with the second one after it was established."""
HASTE_S = 0.005
"""The same while this device hands over, or slots move; a flow is told with the first look then."""
SHARE = 0.1
"""Of a processor, for what the kernel tells of flows; as much for reading all of them anew for one
secondary. Where flows come faster, they are told later, and in the end not at all: traffic goes
first."""
READINGS_SHARE = 0.5
"""The same for reading all flows for all secondaries: those that lack them, after a move or a
start, do not wait for each other for long."""
PAUSE_S = 1.0
"""A stream begins at most this often."""

_log = logging.getLogger("halb.flows")
UNKNOWN = FlowsPart(0, 0, False)
"""There is no such stream: begin anew."""


class Telling:
    """What this device tells, as primary of some groups. Times are seconds."""

    def __init__(
        self,
        epoch: int,
        send: Callable[[DeviceId, Message], None],
        worker: FlowWorker,
        tellers: Tellers,
        barrier: Barrier,
    ) -> None:
        """``epoch`` is below the number of the first stream."""
        self._epoch = epoch
        self._send = send
        self._worker = worker
        self._tellers = tellers
        self._barrier = barrier
        self._loop = asyncio.get_running_loop()
        self._attending = self._looking = self._shared = False
        self._soon: asyncio.TimerHandle | None = None
        self._flushes: asyncio.Handle | None = None
        self._looks = Share(SHARE, self._loop.time)
        self._readings = Share(READINGS_SHARE, self._loop.time)
        self._readings_for: dict[DeviceId, Share] = {}
        """When the next stream to each device may begin."""
        self._hasty_until = 0.0
        self._out: dict[DeviceId, Outgoing] = {}

    # The kernel's notices

    def listen(self) -> None:
        """Hear of changes while there is somebody to tell; what fails is tried again soon."""
        table = self._worker.table
        if table is None:
            return
        if self._shared != self._tellers.accompanied:
            self._shared = not self._shared
            self._worker.do(partial(table.share, self._shared), lambda _: None, self._not_shared)
        attend = bool(self._out)
        if attend != self._attending:
            self._attending = attend
            then = partial(table.listen, attend), lambda _: self._await_notice()
            self._worker.do(*then, self._not_heard)

    def _not_shared(self) -> None:
        self._shared = not self._shared

    def _not_heard(self) -> None:
        self._attending = False
        for out in self._out.values():
            out.given_up = True

    def _await_notice(self) -> None:
        table = self._worker.table
        if not self._attending or table is None or self._looking:
            return
        if table.waiting:
            self._look_soon()
        else:
            self._loop.add_reader(table.fileno(), self._noticed, table)

    def _noticed(self, table: FlowTable) -> None:
        self._loop.remove_reader(table.fileno())
        self._look_soon()

    @property
    def _hasty(self) -> bool:
        return self._loop.time() < self._hasty_until

    def _look_soon(self) -> None:
        if self._soon is None:
            now = self._loop.time()
            at = now + HASTE_S if self._hasty else max(now + BATCH_S, self._looks.free_at)
            self._soon = self._loop.call_at(at, self._look)

    def hasten(self, seconds: float) -> None:
        """For so long other devices may need any flow at any moment: tell them at once."""
        self._hasty_until = max(self._hasty_until, self._loop.time() + seconds)
        self._look()

    def flush(self, effect: Flush) -> None:
        """Say when the device that is to be primary next has every flow of the group."""
        self._barrier.add(effect)
        if self._flushes is None:
            # One look does for all groups of a device that is drained.
            self._flushes = self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushes = None
        self._read()

    def _look(self) -> None:
        """Read what changed, and tell it, unless that is under way."""
        if self._looking:
            self._soon = None
        else:
            self._read()

    def _read(self) -> None:
        table = self._worker.table
        if table is None:
            return
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        self._looking = True
        awaited = self._barrier.unmarked
        shares = {out.vips for out in self._out.values()}
        vips, whole = self._tellers.mine(self._loop.time()), self._hasty or bool(awaited)
        job = partial(changes, table, vips, shares, whole=whole)
        looked = partial(self._looked, awaited)
        self._worker.do(job, looked, partial(looked, None), self._looks)

    def _looked(self, awaited: frozenset[GroupId], found: Found | None) -> None:
        self._looking = False
        for device, out in self._out.items():
            if found is None:
                out.given_up = True
            else:
                out.go_on(found.get(out.vips, ()))
            self._tell(device)
        self._barrier.looked(awaited, self._out)
        self._await_notice()

    # Streams

    def _tell(self, device: DeviceId) -> None:
        out = self._out[device]
        for part in (UNKNOWN,) if out.given_up else out.due():
            self._send(device, part)

    def on_wanted(self, device: DeviceId, message: FlowsWanted) -> None:
        """A secondary says where it is in its stream, or asks for one."""
        now, out = self._loop.time(), self._out.get(device)
        if not message.epoch:
            self._begin(device, message.groups, now)
        elif out is not None and out.epoch == message.epoch and not out.given_up:
            out.acknowledge(message.number, now)
            self._tell(device)
            self._barrier.check(self._out)
            if self._barrier.unmarked:
                self._read()
        elif out is None or out.given_up or (out.ready and now >= self._due(device)):
            # Not while a newer stream is read for it, or has its beginning on the way.
            self._send(device, UNKNOWN)

    def _begin(self, device: DeviceId, wanted: Iterable[GroupId], now: float) -> None:
        """Tell of all flows of ``wanted``, as far as this device does and if that is due."""
        table = self._worker.table
        assert table is not None
        present, groups = self._out.get(device), self._tellers.told_to(device, wanted, now)
        # A question that is repeated while the table is read must not begin that anew.
        reading = present is not None and not present.ready
        if present is not None and reading:
            present.acknowledge(0, now)
        if not groups or reading or now < self._due(device):
            return
        share = self._readings_for[device]
        self._epoch += 1
        out = self._out[device] = Outgoing(self._epoch, groups, self._tellers.vips_of(groups), now)
        self.listen()

        def read(flows: tuple[Chunk, ...]) -> None:
            out.begin(flows)
            share.rest(PAUSE_S)
            if self._out.get(device) is out:
                self._tell(device)

        def failed() -> None:
            """The next question for a stream, a moment later, has one begun."""
            share.rest(PAUSE_S)
            if self._out.get(device) is out:
                del self._out[device]

        job = partial(self._readings.count, partial(everything, table, out.vips))
        self._worker.do(job, read, failed, share)

    def _due(self, device: DeviceId) -> float:
        """When a stream to ``device`` may begin."""
        share = self._readings_for.setdefault(device, Share(SHARE, self._loop.time))
        return max(share.free_at, self._readings.free_at)

    def keep(self, now: float) -> None:
        """Signs of life to whom flows are told; let go of who asks for nothing any more."""
        for device, out in list(self._out.items()):
            if out.silent(now) or not self._tellers.told(now):
                del self._out[device]
                continue
            self._send(device, out.sign())
            if not self._tellers.vips_of(out.groups) <= out.vips:
                self._begin(device, out.groups, now)
        shares = self._readings_for.items()
        self._readings_for = {d: s for d, s in shares if d in self._out or now < s.free_at}
        self.listen()

    # What this device lacked when it became primary

    def on_kept(self, device: DeviceId, message: FlowsKept) -> None:
        """A secondary tells of flows of the primary before: enter those that are missing here."""
        vips = self._tellers.vips_of(self._tellers.fresh(self._loop.time()))
        if vips:
            # What fails is said there, and lost as it was.
            job = partial(add, told=message, vips=vips)
            self._worker.count(job, partial(self._added, device))

    def _added(self, device: DeviceId, flows: list[Flow]) -> None:
        if not flows:
            return
        _log.info("%s told of %d flows of the primary before, unknown here", device, len(flows))
        # Of what this device enters itself the kernel gives no notice.
        for other, out in self._out.items():
            out.go_on(chunks(flows, (), out.vips))
            self._tell(other)
