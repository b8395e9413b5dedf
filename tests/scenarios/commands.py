"""The commands of scenarios: ``word argument ... key=value``."""

from __future__ import annotations

from collections.abc import Callable

from protocol.changes import (
    CancelMove,
    Change,
    FreezeVirtualServer,
    PlanMove,
    PutVirtualServer,
    SetDevice,
    SetGateway,
)
from protocol.document import VirtualServerDocument
from protocol.effects import Force, Recover
from protocol.listener_document import ListenerDocument
from protocol.timing import SECOND, Profile
from tests.scenarios.stage import Story
from tests.sim import network, operators
from tests.sim.machine import TICKS
from tests.sim.site import Setup, group_id

FOREVER_NS = 10**6 * SECOND

Command = Callable[[Story, list[str], dict[str, str]], None]


def begin(words: list[str], options: dict[str, str]) -> Story:
    """``site devices=3``: a Site in quiet operation."""
    assert words == ["site"], "a scenario begins with `site`"
    setup = Setup(
        devices=int(options.pop("devices", "3")),
        profiles=(Profile(options.pop("profile", "normal")),),
        witness=options.pop("witness", "no") == "yes",
        arbiter=options.pop("arbiter", "no") == "yes",
        on_peer_loss=_peer_loss(options.pop("on_peer_loss", "")),
        preempt=int(options.pop("preempt", "0s").removesuffix("s")),
    )
    story = Story.begin(setup, int(options.pop("seed", "1")))
    assert not options, f"`site` knows no {sorted(options)}"
    return story


def _peer_loss(word: str):  # type: ignore[no-untyped-def]
    assert word in ("", "serve", "hold")
    return word or None


def seconds(word: str) -> int:
    """``2s`` or ``500ms``, in nanoseconds."""
    if word.endswith("ms"):
        return int(word[:-2]) * SECOND // 1000
    return int(float(word.removesuffix("s")) * SECOND)


# What happens to devices


def _run(story: Story, words: list[str], options: dict[str, str]) -> None:
    story.run(seconds(words[0]))


def _crash(story: Story, words: list[str], options: dict[str, str]) -> None:
    for name in words:
        story.world.crash(story.index(name))


def _kill(story: Story, words: list[str], options: dict[str, str]) -> None:
    for name in words:
        story.world.kill(story.index(name))


def _start(story: Story, words: list[str], options: dict[str, str]) -> None:
    for name in words:
        story.world.start(story.index(name))


def _stop(story: Story, words: list[str], options: dict[str, str]) -> None:
    for name in words:
        story.world.stop(story.index(name))


def _hang(story: Story, words: list[str], options: dict[str, str]) -> None:
    story.world.stall(story.index(words[0]), FOREVER_NS)


def _resume(story: Story, words: list[str], options: dict[str, str]) -> None:
    process = story.world.running(story.index(words[0]))
    assert process is not None
    process.unstall()


def _pause(story: Story, words: list[str], options: dict[str, str]) -> None:
    index = story.index(words[0])
    story.world.machines[index].pause_watch = TICKS if options.get("noticed") == "yes" else None
    story.world.pause(index, seconds(words[1]))


def _unfit(story: Story, words: list[str], options: dict[str, str]) -> None:
    story.world.set_unfit(story.index(words[0]), (group_id(0),))


def _fit(story: Story, words: list[str], options: dict[str, str]) -> None:
    story.world.set_unfit(story.index(words[0]), ())


def _gateways_down(story: Story, words: list[str], options: dict[str, str]) -> None:
    down = tuple((group_id(0), name) for name in words[1:])
    story.world.set_gateways_down(story.index(words[0]), down)


# What happens to the network


def _cut(story: Story, words: list[str], options: dict[str, str]) -> None:
    """``cut a b``: in both directions; ``cut a to b``: in one."""
    first, second = story.index(words[0]), story.index(words[-1])
    story.world.network.cut(first, second)
    if "to" not in words:
        story.world.network.cut(second, first)


def _isolate(story: Story, words: list[str], options: dict[str, str]) -> None:
    story.world.network.partition(story.world.now, [story.index(name) for name in words])


def _lose(story: Story, words: list[str], options: dict[str, str]) -> None:
    story.world.network.quality = network.Quality(loss=int(words[0].rstrip("%")) / 100)


def _heal(story: Story, words: list[str], options: dict[str, str]) -> None:
    world = story.world
    world.network.quality = network.LAN
    world.network.heal_all(world.now, range(len(world.machines)))
    world.segment.whole = world.segment.arbiter = True
    world.segment.reached = [True] * len(world.machines)


def _segment(story: Story, words: list[str], options: dict[str, str]) -> None:
    """``segment cut a``: the service network does not reach a device."""
    story.world.segment.reached[story.index(words[1])] = words[0] != "cut"


def _arbiter(story: Story, words: list[str], options: dict[str, str]) -> None:
    story.world.segment.arbiter = words[0] != "dies"


# Operators


def _via(story: Story, options: dict[str, str]) -> int:
    """Where the command is typed: a device that was named, or the first that runs."""
    if "via" in options:
        return story.index(options["via"])
    running = [i for i in range(len(story.world.machines)) if story.world.running(i)]
    return running[0]


def _propose(story: Story, change: Change, options: dict[str, str]) -> None:
    local = options.get("local") == "yes"
    request = operators.propose(story.world, _via(story, options), change, local=local)
    assert request is not None, "no agent runs there"
    story.wait_for(request)


def _promote(story: Story, words: list[str], options: dict[str, str]) -> None:
    """``promote b``; ``promote b at=5s`` plans it; ``promote cancel`` takes the plan back."""
    if words == ["cancel"]:
        _propose(story, CancelMove("vs0"), options)
        return
    if "at" in options:
        at = operators.unix_s(story.world) + seconds(options["at"]) // SECOND
        _propose(story, PlanMove("vs0", words[0], at, "0123456789abcdef"), options)
        return
    request = f"m{len(story.world.checker.configs.requests)}"
    to = story.index(words[0]) if words else None
    operators.promote(story.world, _via(story, options), 0, to)
    story.wait_for(request)


def _drain(story: Story, words: list[str], options: dict[str, str]) -> None:
    _propose(story, SetDevice(words[0], drained=True), options)


def _undrain(story: Story, words: list[str], options: dict[str, str]) -> None:
    _propose(story, SetDevice(words[0], drained=False), options)


def _freeze(story: Story, words: list[str], options: dict[str, str]) -> None:
    _propose(story, FreezeVirtualServer("vs0", True), options)


def _unfreeze(story: Story, words: list[str], options: dict[str, str]) -> None:
    _propose(story, FreezeVirtualServer("vs0", False), options)


def _weight(story: Story, words: list[str], options: dict[str, str]) -> None:
    _propose(story, SetGateway("vs0", words[0], weight=int(words[1])), options)


def _devices(story: Story, words: list[str], options: dict[str, str]) -> None:
    """``devices a b d``: who carries and votes on the Virtual Server from now on."""
    server = VirtualServerDocument(
        name="vs0",
        vips=(f"{story.world.first_vip}/24",),
        devices=tuple(words),
        listeners=(ListenerDocument(port=443),),
    )
    _propose(story, PutVirtualServer(server), options)


def _recover(story: Story, words: list[str], options: dict[str, str]) -> None:
    # By force: the new majority shares no voter with the old one, and may know less.
    story.world.checker.ignored |= {"S11", "S13"}
    _ask(story, Recover(_name(story), tuple(words), operators.unix_s(story.world)), options)


def _failover(story: Story, words: list[str], options: dict[str, str]) -> None:
    _ask(story, Force(_name(story), "vs0"), options)


def _name(story: Story) -> str:
    return f"o{len(story.world.checker.configs.requests)}"


def _ask(story: Story, item: Recover | Force, options: dict[str, str]) -> None:
    process = story.world.running(_via(story, options))
    assert process is not None
    story.world.checker.configs.asked(process, item)
    process.hand_in(item)
    story.wait_for(item.request)


def _status(story: Story, words: list[str], options: dict[str, str]) -> None:
    story.lines += story.standing()


COMMANDS: dict[str, Command] = {
    "run": _run,
    "crash": _crash,
    "kill": _kill,
    "start": _start,
    "stop": _stop,
    "hang": _hang,
    "resume": _resume,
    "pause": _pause,
    "unfit": _unfit,
    "fit": _fit,
    "gateways-down": _gateways_down,
    "cut": _cut,
    "isolate": _isolate,
    "lose": _lose,
    "heal": _heal,
    "segment": _segment,
    "arbiter": _arbiter,
    "promote": _promote,
    "drain": _drain,
    "undrain": _undrain,
    "freeze": _freeze,
    "unfreeze": _unfreeze,
    "weight": _weight,
    "devices": _devices,
    "recover": _recover,
    "failover": _failover,
    "status": _status,
}
