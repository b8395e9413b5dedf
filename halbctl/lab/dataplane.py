"""HALB's data plane against rules written by hand and HAProxy: ``scripts/bench dataplane``.

Hosts of one lab balance to the same two gateways, each on an address of its own: HALB on one
device, in each mode of forwarding; HALB on one that tells two secondaries of its flows, rules by
hand, HAProxy, and a device that sends each frame on as it is. One round measures all, one after
the other, so that what disturbs one disturbs all.

Client, gateways, switch and devices share the processors of one machine, so connections per
second tell of all of them together, and of whoever else is busy. What a connection takes of
the processors does not depend on others; what a data plane itself costs is what one through
it takes more than one through the device that does nothing. Figures are compared within a
round, seconds apart: the machine's speed changes from minute to minute.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

from halbctl.lab import brief, ends
from halbctl.lab.compared import (
    ADDRESS,
    ALONE,
    BY_HAND,
    DSR,
    NOTHING,
    PROXY,
    ROUTED,
    SECONDARIES,
    TELLING,
    balance_with_halb,
    prepare,
    serve_load,
    simple_switch,
    telling,
)
from halbctl.lab.confidence import interval
from halbctl.lab.load import command
from halbctl.lab.others import balance_by_hand, balance_with_proxy, send_on
from halbctl.lab.site import Site
from protocol.errors import Refused

TITLES = {
    NOTHING: "frames sent on",
    BY_HAND: "nftables by hand",
    PROXY: "HAProxy, mode tcp",
    ALONE: "HALB, one device",
    ROUTED: "HALB, one device, routed",
    DSR: "HALB, one device, dsr",
    TELLING: "HALB, two secondaries",
}
HALB = (ALONE, ROUTED, DSR, TELLING)
FIGURES = {
    "stream": "Gbit/s, one connection",
    "ask": "µs, median of small questions",
    "connect": "new connections/s, as the clock says",
    "carry": "the same between ends that take next to nothing",
    "per_processor": "new connections/s of one processor's time, all hosts together",
    "cost": "µs of processors per new connection, for the data plane alone",
    "agents": "µs of that for agents",
}
"""What is shown; ``cost`` is without what a connection takes where frames are sent on."""
WANTED = {
    BY_HAND: {"stream": 0.95, "per_processor": 0.95, "ask": 1 / 0.95},
    PROXY: {"stream": 1.5, "carry": 1.5, "cost": 1 / 1.5, "ask": 0.7},
}
"""Least ratio of HALB to the other, and the highest of :data:`LESS_IS_BETTER`. Clients and
gateways are other machines than the data plane, but for this lab: there HAProxy's new
connections say less of it the more its client takes."""
CARRYING = (NOTHING, ALONE, BY_HAND, ROUTED, PROXY)
"""Hosts for which ``carry`` is measured. With ``dsr`` gateways answer past the device, not back to
where a packet came from; and telling others of each flow has its own figure, ``telling``."""
LESS_IS_BETTER = ("ask", "cost")
CONNECTIONS = 4
"""Of each turn through each host, one at a time: which gateway one leads to, and on which processor
that runs, makes more of a difference than most data planes."""
STREAM_TIMES = 4
"""Streams are measured for so many times as long as the rest: from one moment to the next they
differ by a tenth."""


@dataclass(frozen=True)
class Comparison:
    """All turns, by host and figure."""

    runs: dict[str, dict[str, list[float]]]
    generator: str
    """What made new connections, and answered them."""
    left_out: str = ""
    """Why there is no HAProxy in it."""
    not_carried: str = ""
    """Why there is no ``carry`` in it."""

    def _beyond(self, host: str) -> list[float]:
        """What a connection took more than where frames are sent on, in each turn."""
        pairs = zip(self.runs[host]["cost"], self.runs[NOTHING]["cost"], strict=True)
        return [cost - least for cost, least in pairs]

    def medians(self) -> dict[str, dict[str, float]]:
        return {
            host: {
                figure: median(self._beyond(host) if figure == "cost" else values)
                for figure, values in figures.items()
                if values
            }
            for host, figures in self.runs.items()
        }

    def ratios(self, of: str = ALONE) -> dict[str, dict[str, float]]:
        """A host to each that is no HALB: the median of each turn's; of ``cost``, of the medians,
        for the difference of single turns may be nothing."""
        mine, found = self.runs[of], self.medians()
        ratios = {
            host: {
                figure: median(a / b for a, b in zip(mine[figure], values, strict=True))
                for figure, values in figures.items()
                if figure not in ("cost", "agents") and values and mine[figure]
            }
            for host, figures in self.runs.items()
            if host in WANTED
        }
        for host, figures in ratios.items():
            if found[host]["cost"] > 0:
                figures["cost"] = found[of]["cost"] / found[host]["cost"]
        return ratios

    def _missed(self) -> Iterator[tuple[str, bool]]:
        """Ratios of HALB on one device that miss what is wanted, in words, and whether for sure.

        Turns differ by more than what is judged: where some that may well be the median would
        do, more of them have to tell.
        """
        for host, figures in self.ratios().items():
            for figure, wanted in WANTED[host].items():
                if not self.runs[host][figure]:
                    continue  # it could not be measured here, and the report says why
                ratio, less = figures.get(figure, 0.0), figure in LESS_IS_BETTER
                low, high = self._between(host, figure, ratio)
                if ratio > wanted if less else ratio < wanted:
                    words = (
                        f"{FIGURES[figure]}: {ratio:.3f} of {TITLES[host]}"
                        f" ({low:.3f} to {high:.3f} by what turns differ),"
                        f" wanted at {'most' if less else 'least'} {wanted:.2f}"
                    )
                    yield words, low > wanted if less else high < wanted

    def _between(self, host: str, figure: str, ratio: float) -> tuple[float, float]:
        """Where the ratio of HALB on one device to ``host`` lies; ``cost`` has none by turns."""
        if figure == "cost":
            return ratio, ratio
        pairs = zip(self.runs[ALONE][figure], self.runs[host][figure], strict=True)
        return interval([a / b for a, b in pairs])

    def broken(self) -> list[str]:
        """Ratios that miss what is wanted."""
        return [words for words, sure in self._missed() if sure]

    def unsure(self) -> list[str]:
        """Ratios that miss what is wanted by less than turns differ."""
        return [words for words, sure in self._missed() if not sure]

    def to_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "medians": self.medians(),
            "ratios": {of: self.ratios(of) for of in HALB if of in self.runs},
            "broken": self.broken(),
            "unsure": self.unsure(),
        }

    def lines(self) -> list[str]:
        """The comparison for people."""
        medians = self.medians()
        turns = len(self.runs[ALONE]["stream"])
        lines = [
            f"data planes, medians of {turns} turns; new connections by {self.generator}",
            "in brackets the ratio of it to rules by hand and to HAProxy",
        ]
        for figure, title in FIGURES.items():
            lines.append(f"  {title}")
            for host in (host for host in TITLES if figure in medians.get(host, ())):
                if figure == "agents" and host not in HALB:
                    continue
                to = ""
                if host in HALB and figure != "agents":
                    ratios = (each.get(figure) for each in self.ratios(host).values())
                    to = f" ({', '.join(f'{ratio:.2f}' for ratio in ratios if ratio)})"
                lines.append(f"    {TITLES[host]:<26}{medians[host][figure]:>10,.1f}{to}")
        if self.left_out:
            lines.append(f"  without HAProxy: {self.left_out}")
        if self.not_carried:
            lines.append(f"  without {FIGURES['carry']}: {self.not_carried}")
        lines += [f"UNSURE {each}" for each in self.unsure()]
        return [*lines, *(f"BROKEN {each}" for each in self.broken()), ""]


def compare(
    site: Site, rounds: int, seconds: float, tell: Callable[[str], None] = lambda _: None
) -> Comparison:
    """Measure in a lab as :func:`halbctl.lab.compared.lab` says, that is built, not formed."""
    for host in (BY_HAND, PROXY, NOTHING):
        site.service(host).terminate(5.0)
    simple_switch(site)
    gateways = [host.name for host in site.plan.gateway_hosts]
    servers = [serve_load(site, name) for name in gateways]
    others = [brief.serve(site, name) for name in gateways]
    try:
        prepare(site)
        for host in (ALONE, ROUTED, DSR):
            balance_with_halb(site, host, ())
        balance_with_halb(site, TELLING, SECONDARIES)
        balance_by_hand(site, BY_HAND, ADDRESS[BY_HAND])
        send_on(site, NOTHING, ADDRESS[NOTHING])
        left_out = "" if shutil.which("haproxy") else "it is not installed (apt install haproxy)"
        hosts = [NOTHING, ALONE, BY_HAND, TELLING, ROUTED, DSR]
        if not left_out:
            others.append(balance_with_proxy(site, PROXY, ADDRESS[PROXY]))
            hosts.append(PROXY)
        for host in hosts:
            site.wait(f"{TITLES[host]} answers", lambda host=host: _answers(site, host), 10.0)  # type: ignore[misc]
        programs, not_carried = None, ""
        try:
            programs = ends.prepare_ends(site)
        except Refused as refused:
            not_carried = str(refused)
        runs = _rounds(site, hosts, programs, rounds, seconds, tell)
        return Comparison(runs, brief.generator(), left_out, not_carried)
    finally:
        for process in others:
            process.kill()
            process.wait()
        for server in servers:
            server.kill()


def _rounds(
    site: Site,
    hosts: list[str],
    programs: Path | None,
    rounds: int,
    seconds: float,
    tell: Callable[[str], None],
) -> dict[str, dict[str, list[float]]]:
    runs: dict[str, dict[str, list[float]]] = {h: {f: [] for f in FIGURES} for h in hosts}

    def connect(host: str) -> None:
        for name, value in _connect(site, host, seconds).items():
            runs[host][name].append(value)

    for number in range(rounds):
        # Another one begins each time, so that none is always the first.
        turn = number % len(hosts)
        turns = hosts[turn:] + hosts[:turn]
        with telling(site):
            # By short turns, for the machine's speed changes; and all together, for alone both
            # ends of one come to be on one processor, or not, by chance.
            for figure in ("ask", "stream"):
                length = seconds * STREAM_TIMES if figure == "stream" else seconds
                for host, values in _through_each(site, figure, turns, length).items():
                    runs[host][figure].append(fmean(values))
            connect(TELLING)
        for host in (host for host in turns if host != TELLING):
            connect(host)
        if programs:
            for host in (host for host in turns if host in CARRYING):
                rate = ends.carry(site, programs, ADDRESS[host], seconds)
                runs[host]["carry"].append(rate)
        tell(f"round {number + 1} of {rounds}: {_newest(runs)}")
    return runs


def _newest(runs: Mapping[str, Mapping[str, list[float]]]) -> str:
    return "; ".join(
        f"{TITLES[host]} "
        + ", ".join(f"{values[-1]:,.1f}" for values in figures.values() if values)
        for host, figures in runs.items()
    )


def _connect(site: Site, host: str, seconds: float) -> dict[str, float]:
    devices = [TELLING, *SECONDARIES] if host == TELLING else [host]
    agents = [pid for name in devices if (pid := site.service(name).pid) is not None]
    gateways = [each.name for each in site.plan.gateway_hosts]
    turn = brief.measure(site, ADDRESS[host], seconds, [*gateways, *devices], agents)
    return {
        "connect": turn.per_second,
        "per_processor": 1e6 / turn.cost_us,
        "cost": turn.cost_us,
        "agents": turn.agents_us,
    }


def _through_each(
    site: Site, figure: str, hosts: Sequence[str], seconds: float
) -> Mapping[str, list[float]]:
    """``ask`` or ``stream`` through each host, of each of :data:`CONNECTIONS`."""
    found = by_turns(site, figure, [*hosts] * CONNECTIONS, seconds / CONNECTIONS)
    return {host: found[place :: len(hosts)] for place, host in enumerate(hosts)}


def by_turns(site: Site, figure: str, hosts: Sequence[str], seconds: float) -> list[float]:
    """``ask`` or ``stream`` through each host in the list, for ``seconds`` each."""
    addresses = ",".join(ADDRESS[host] for host in hosts)
    found = _load(site, figure, addresses, seconds, len(hosts))
    return [float(value) for value in found]


def _load(site: Site, figure: str, addresses: str, seconds: float, many: int = 1) -> Any:
    argv = command(figure, addresses, str(seconds))
    return json.loads(brief.run_load(site, addresses, argv, seconds * many))


def _answers(site: Site, host: str) -> bool:
    with suppress(Refused, subprocess.TimeoutExpired):
        served = _load(site, "connect", ADDRESS[host], 0.05)
        return bool(served > 0 and by_turns(site, "ask", [host], 0.05)[0] > 0)
    return False
