"""The barrier before a planned move: has the successor entered every flow there is?

The numbers of the streams answer it. What happened until a look at the
kernel is on its way up to some part; once that one is acknowledged, all of it
is in the successor's kernel. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from agent.flowstream import Outgoing
from protocol.flows import Flush, Flushed
from protocol.ids import DeviceId, GroupId


class Barrier:
    """Groups of this device that are to move as soon as their flows are elsewhere."""

    def __init__(self, passed: Callable[[Flushed], None]) -> None:
        """``passed`` is called once for each :class:`Flush` that came through."""
        self._passed = passed
        self._to: dict[GroupId, DeviceId] = {}
        self._marks: dict[GroupId, tuple[Outgoing, int]] = {}
        """The stream and the part that must be acknowledged; without one, a look is due."""

    def add(self, effect: Flush) -> None:
        """A move that begins; it replaces an earlier attempt of the group."""
        self._to[effect.group] = effect.to
        self._marks.pop(effect.group, None)

    def drop(self, group: GroupId) -> None:
        """The group moves, or stays for now, or this device has lost it."""
        self._to.pop(group, None)
        self._marks.pop(group, None)

    @property
    def unmarked(self) -> frozenset[GroupId]:
        """Groups for which the kernel has not been looked at since."""
        return frozenset(self._to.keys() - self._marks.keys())

    def looked(self, groups: Iterable[GroupId], streams: Mapping[DeviceId, Outgoing]) -> None:
        """All that happened before a look that began with these groups unmarked is queued now."""
        for group in groups:
            stream = streams.get(self._to[group]) if group in self._to else None
            if stream is not None and stream.ready and group in stream.groups:
                self._marks[group] = stream, stream.newest
        self.check(streams)

    def check(self, streams: Mapping[DeviceId, Outgoing]) -> None:
        """Something was acknowledged, or a stream has begun."""
        for group, (stream, number) in list(self._marks.items()):
            device = self._to[group]
            if streams.get(device) is not stream or stream.given_up:
                # Its successor tells everything anew.
                del self._marks[group]
            elif stream.acknowledged >= number:
                self.drop(group)
                self._passed(Flushed(group, device))
