"""What a scenario is played on: a simulated Site, and what its operators see of it.

One line per event, in the operators' words. The kernels are looked at every
millisecond, so "falls silent" and "answers" are what clients would notice.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from protocol.effects import Event, KeepConflict, Outcome
from protocol.errors import HalbError
from protocol.ids import DeviceId, GroupId
from protocol.timing import MILLISECOND, SECOND, Profile, Timing
from protocol.view import Role
from tests.sim import pairs
from tests.sim.run import make_node
from tests.sim.shell import Process
from tests.sim.site import Setup, device_name
from tests.sim.world import World

SETTLE_NS = 4 * SECOND
PATIENCE_NS = 20 * SECOND
"""A command of an operator ends within this."""
QUIET = frozenset({"leader", "member", "primary", "released", "stopped"})
"""Events that say what the kernels show anyway, or what each device does by itself."""


@dataclass
class Story:
    """A world, and the lines that it gave since the last command."""

    world: World
    profile: Profile
    lines: list[str]
    owners: dict[str, tuple[str, ...]]
    silent_since: dict[str, int]

    @classmethod
    def begin(cls, setup: Setup, seed: int) -> Story:
        world = World(seed, setup, make_node)
        if setup.arbiter or setup.on_peer_loss:
            world.checker.ignored = pairs.QUORUM_ONLY
        story = cls(world, setup.profiles[0], [], {}, {})
        world.news = story.hear
        world.start_all()
        world.run_until(SETTLE_NS)
        story.lines.clear()
        story.look()
        return story

    # What happens

    def run(self, duration: int) -> None:
        end = self.world.now + duration
        while self.world.now < end and not self.world.checker.failed:
            self.world.run_for(MILLISECOND)
            self.look()

    def look(self) -> None:
        """Note who answers for each VIP, where that changed."""
        world = self.world
        config = world.checker.configs.newest
        vips = {vip for a in config.assignments.values() for vip in a.vips} | set(self.owners)
        for vip in sorted(vips):
            owners = tuple(device_name(i) for i in world.announcers(vip))
            before = self.owners.get(vip, ())
            if owners == before:
                continue
            self.owners[vip] = owners
            if not owners:
                self.silent_since[vip] = world.now
            else:
                who = " and ".join(owners)
                verb = "answers" if len(owners) == 1 else "both answer"
                alone = " alone again" if len(before) > 1 else ""
                self.lines.append(f"{who} {verb} for {vip}{alone}{self._gap(vip, before)}")

    def _gap(self, vip: str, before: tuple[str, ...]) -> str:
        """How long nobody answered, in steps that a reader can keep apart."""
        if len(before) == 1 and len(self.owners[vip]) == 1:
            return ", without a gap"
        if before or vip not in self.silent_since:
            return ""
        gap, unit = self.world.now - self.silent_since[vip], Timing.of(self.profile).interval
        if gap <= 20 * MILLISECOND:
            return ", without a gap"
        for limit in (1.0, 2.0, 3.3, 5.0, 10.0):
            if gap <= limit * unit:
                return f", after a silence of at most {limit:g} T"
        return f", after a silence of {round(gap / SECOND)} s"

    def hear(self, process: Process, news: Event | Outcome | KeepConflict) -> None:
        if isinstance(news, KeepConflict):
            self.lines.append(f"{process.name} keeps a conflict: {news.conflict.kind} changes")
        elif isinstance(news, Event) and news.kind not in QUIET:
            group = f"{self._group(news.group)}: " if news.group else ""
            to = ""
            if news.kind == "lame" or (news.kind == "move" and news.device != process.machine.id):
                to = f", to {self.name(news.device)}"
            self.lines.append(f"{process.name}: {group}{news.text}{to}")

    def end(self) -> list[str]:
        """The lines since the last command; a broken rule is one of them."""
        silent = [vip for vip, owners in self.owners.items() if not owners]
        lines, self.lines = self.lines, []
        for vip in sorted(silent):
            lines.append(f"nobody answers for {vip}")
        lines += [f"BROKEN {violation}" for violation in self.world.checker.violations]
        return lines or ["nothing happens"]

    # Operators

    def wait_for(self, request: str) -> None:
        """Let the world run until a command ended; how is one line."""
        asked = self.world.checker.configs.requests[request]
        began = self.world.now
        while asked.outcome is None and self.world.now - began < PATIENCE_NS:
            self.run(MILLISECOND)
            if self.world.checker.failed:
                break
        self.lines.append(f"operator: {said(asked.outcome)}")

    # Names

    def index(self, name: str) -> int:
        return ord(name) - ord("a")

    def name(self, device: DeviceId | None) -> str:
        if device is None:
            return "nobody"
        return device_name(self.world.index_of[device])

    def _group(self, group: GroupId) -> str:
        server = self.world.checker.configs.newest.virtual_servers.get(group)
        return server.name if server else "the Site"

    def standing(self) -> list[str]:
        """Each device that runs, in its own words."""
        lines = []
        for index in range(len(self.world.machines)):
            process = self.world.running(index)
            if process is None:
                lines.append(f"{device_name(index)}  does not run")
                continue
            view = process.core.view()
            roles = [
                f"{group.role} of {self._group(group.group)}" + _why(group.unfit, group.waits)
                for group in view.groups
                if process.machine.id in group.voters and group.role is not Role.WAITING
            ]
            text = ", ".join(roles) or "takes no part"
            lines.append(f"{device_name(index)}  {text}")
        return lines


def said(outcome: Outcome | None) -> str:
    """The end of a command, as ``halbctl`` prints it."""
    if outcome is None:
        return "no answer"
    if outcome.error is None:
        return (outcome.detail or "done").splitlines()[0]
    assert isinstance(outcome.error, HalbError)
    message = re.sub(r"(\d+)\d{3} ms", r"\1 s", outcome.error.message)
    return f"{type(outcome.error).__name__}: {message}"


def _why(unfit: str, waits: str) -> str:
    reason = unfit or waits
    return f" ({reason})" if reason else ""
