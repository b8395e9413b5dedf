"""``scripts/bench failover``: every event some times, with connections of every kind open."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from halbctl.errors import note
from halbctl.lab import changes
from halbctl.lab.kinds import KINDS, chosen
from halbctl.lab.lifecycle import down, up
from halbctl.lab.measure import Held, Measured, Stage, next_device
from halbctl.lab.plan import MODES, SNAT, Plan
from halbctl.lab.probes import Probes
from halbctl.lab.promises import TITLES, all_broken, why_not_all
from halbctl.output import Cell, Paint, table
from protocol.errors import InvalidInput

GROUPS = (
    ("crash", "return"),
    ("promote",),
    ("hang",),
    ("kill", "restart"),
    ("partition",),
    ("shatter",),
    ("upgrade",),
    ("reload",),
    ("gateway-added", "promote-amid", "gateway-drained"),
)
"""The events of a round in their order; those of one group only together."""
MODE_WORDS = (
    *dict.fromkeys(word for mode in MODES for word in (mode.partition("-")[0], mode)),
    "all",
)
"""What ``--mode`` takes: ``routed`` is both with and without memory."""
_GATEWAYS = 5
FIGURES = ("survivors", "stall_ms", "outage_ms", "failed", "two_owners_ms", "late_ms")
HELD = ("survivors", "stall_ms")
"""Of these there is one figure for each kind of connection."""
_Figures = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Course:
    """What is measured."""

    rounds: int
    kinds: tuple[str, ...]
    groups: tuple[tuple[str, ...], ...]
    modes: tuple[str, ...] = (SNAT,)

    @classmethod
    def of(cls, rounds: int, kinds: str, events: str, modes: str = SNAT) -> Course:
        """From words of the command line, separated by commas; raise InvalidInput."""
        wanted = set(_words(events))
        unknown = wanted - set(sum(GROUPS, ()))
        if unknown:
            raise InvalidInput(
                f"no event is named {min(unknown)!r}",
                f"Choose of: {', '.join(sum(GROUPS, ()))}.",
            )
        if rounds < 1 or not _words(kinds):
            raise InvalidInput("nothing to measure", "Give --rounds 1 or more, and --kinds.")
        groups = tuple(group for group in GROUPS if not wanted or wanted & set(group))
        return cls(rounds, chosen(_words(kinds)), groups, _modes(_words(modes)))


def _modes(words: Sequence[str]) -> tuple[str, ...]:
    """The modes that are meant: each by its name, or several by how it begins, or ``all``."""
    for word in words:
        if word not in MODE_WORDS:
            raise InvalidInput(f"no mode is named {word!r}", f"Choose of: {', '.join(MODE_WORDS)}.")
    if not words:
        raise InvalidInput("nothing to measure", "Give --mode a mode.")
    return tuple(mode for mode in MODES if {"all", mode, mode.partition("-")[0]} & set(words))


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def failover(course: Course, name: str) -> dict[str, Any]:
    """Measure in a lab of three devices and four gateways, with a fifth to be added: per mode."""
    results = [result for mode in course.modes for result in _of_mode(course, mode, name)]
    return {
        "kinds": {kind: KINDS[kind].about for kind in course.kinds},
        "events": summary(results),
        "exempt": exempt(results),
        "broken": [str(failure) for failure in all_broken(results)],
        "runs": [result.to_json() for result in results],
    }


def _of_mode(course: Course, mode: str, name: str) -> list[Measured]:
    plan = Plan(name, gateways=_GATEWAYS, ipv6=True, spare=1, mode=mode)
    try:
        site = up(plan, note)
        with Probes(site.network, (*plan.vips, *plan.inner_vips), kinds=course.kinds) as probes:
            return list(_measured(Stage(site, probes), course))
    finally:
        down(name)


def _measured(stage: Stage, course: Course) -> Iterator[Measured]:
    acts = _acts(stage)
    for number in range(1, course.rounds + 1):
        for group in course.groups:
            stage.wait_agreed()
            for event in group:
                measured = acts[event]()
                turn = f"{measured.mode}, round {number} of {course.rounds}"
                note(f"{turn}: {TITLES[event]}: {_short(measured)}")
                yield measured


def _acts(stage: Stage) -> Mapping[str, Callable[[], Measured]]:
    """What makes each event; the second of a group returns what the first took away."""
    lost: list[str] = []

    def losing(act: Callable[[], Measured]) -> Measured:
        lost.append(stage.site.primary())
        return act()

    return {
        "crash": lambda: losing(stage.crash),
        "return": lambda: stage.come_back(lost.pop()),
        "promote": lambda: stage.promote(next_device(stage.site)),
        "promote-amid": lambda: stage.promote(next_device(stage.site), "promote-amid"),
        "hang": stage.hang,
        "kill": lambda: losing(stage.kill),
        "restart": lambda: stage.revive(lost.pop()),
        "partition": stage.partition,
        "shatter": stage.shatter,
        "upgrade": lambda: changes.upgrade(stage),
        "reload": lambda: changes.reload(stage),
        "gateway-added": lambda: changes.add_gateway(stage),
        "gateway-drained": lambda: changes.drain_gateway(stage),
    }


def _short(m: Measured) -> str:
    lost = "".join(
        f", {kind} {held.survivors} of {held.connections} ({held.lost})"
        for kind, held in m.kinds.items()
        if held.survivors < held.connections
    )
    return (
        f"{m.survivors} of {m.connections}{lost}, stall {m.stall_ms:.0f} ms,"
        f" outage {m.outage_ms:.0f} ms, two owners {m.two_owners_ms:.0f} ms,"
        f" instruments late {m.late_ms:.0f} ms"
    )


def summary(results: Sequence[Measured]) -> list[dict[str, Any]]:
    """Per mode and event: median, least and most of each figure, of all and by kind."""
    rows = []
    for mode, event in dict.fromkeys((result.mode, result.event) for result in results):
        same = [result for result in results if (result.mode, result.event) == (mode, event)]
        row: dict[str, Any] = {"mode": mode, "event": event, "runs": len(same)}
        row |= _figures(FIGURES, same)
        row["kinds"] = {
            kind: _figures(HELD, [result.kinds[kind] for result in same]) for kind in same[0].kinds
        }
        rows.append(row)
    return rows


def exempt(results: Sequence[Measured]) -> list[dict[str, str]]:
    """Where not all connections of a kind can live on, and why."""
    held = dict.fromkeys((m.mode, m.event, kind) for m in results for kind in m.kinds)
    return [
        {"mode": mode, "event": event, "kind": kind, "why": why}
        for mode, event, kind in held
        if (why := why_not_all(mode, event, kind))
    ]


def _figures(names: Iterable[str], measured: Sequence[Measured] | Sequence[Held]) -> _Figures:
    found = {}
    for name in names:
        values = [getattr(each, name) for each in measured]
        found[name] = {"median": round(median(values), 1), "min": min(values), "max": max(values)}
    return found


def failover_lines(found: Mapping[str, Any], paint: Paint) -> list[str]:
    """The figures as people read them: who survived of each kind, and the times."""
    kinds = tuple(found["kinds"])
    titles = (
        "MODE", "EVENT", "RUNS", *(kind.upper() for kind in kinds), "STALL ms",
        "WITHOUT SERVICE ms", "FAILED", "TWO OWNERS ms", "LATE ms",
    )  # fmt: skip
    rows = [
        [
            row["mode"],
            TITLES[row["event"]],
            row["runs"],
            *(_survivors(row, kind) for kind in kinds),
            *(_range(row[figure]) for figure in FIGURES[1:]),
        ]
        for row in found["events"]
    ]
    lines = ["survivors of each kind of connection, and figures: min/median/max", ""]
    lines += table(titles, rows, paint)
    reasons = dict.fromkeys((each["kind"], each["why"]) for each in found["exempt"])
    lines += [f"* not all of kind {kind} can live on: {why}" for kind, why in reasons]
    return lines + [f"BROKEN {failure}" for failure in found["broken"]]


def _survivors(row: Mapping[str, Any], kind: str) -> Cell:
    exempt = why_not_all(row["mode"], row["event"], kind)
    return _range(row["kinds"][kind]["survivors"], "*" if exempt else "")


def _range(figure: Mapping[str, float], mark: str = "") -> Cell:
    values = [figure["min"], figure["median"], figure["max"]]
    same = len(set(values)) == 1
    return Cell("/".join(f"{value:.0f}" for value in values[: 1 if same else 3]) + mark, "", True)
