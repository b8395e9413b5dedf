"""A day in a Site, played in a lab: ``scripts/demo``.

Everything is real: agents, commands, traffic, and the figures in the table at
the end. Ends with 1 if a promise was broken, and leaves nothing behind.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from halbctl.errors import report
from halbctl.lab.lifecycle import build, down, ending_signals_raise
from halbctl.lab.measure import Measured, Stage, next_device
from halbctl.lab.plan import VIP, VIRTUAL_SERVER, Plan
from halbctl.lab.probes import Probe, Probes
from halbctl.lab.promises import all_broken, broken, result_table
from halbctl.lab.site import Site, wait_serving
from halbctl.output import Paint, as_json
from halbctl.screens import status_screen
from protocol.errors import HalbError

WEIGHTS = (4, 3, 2, 1)
CHECK_INTERVAL = 0.5
"""Seconds; shorter than the default, so that the audience does not wait."""
SPREAD_S = 3.0


@dataclass
class Narrator:
    """Speaks to the audience; with ``--output json`` on stderr, as stdout is for the data."""

    json: bool
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.stream = sys.stderr if self.json else sys.stdout
        self.paint = Paint.for_stream(self.stream)

    def say(self, text: str = "", *styles: str) -> None:
        print(self.paint(text, *styles), file=self.stream, flush=True)

    def chapter(self, text: str) -> None:
        passed = time.monotonic() - self.began
        self.say()
        self.say(f"{self.paint(f'{passed:5.1f} s', 'dim')}  {self.paint(text, 'bold', 'cyan')}")

    def show(self, lines: Sequence[str]) -> None:
        for line in lines:
            print(f"    {line}", file=self.stream, flush=True)


@dataclass
class Demo:
    """The play and its stage."""

    site: Site
    tell: Narrator
    results: list[Measured] = field(default_factory=list)

    def run_halbctl(self, device: str, *args: str) -> str:
        """Run a command for the audience to see; return its standard output."""
        prompt = self.tell.paint(f"{device}$", "green")
        shown = [arg if len(arg) < 60 else f"{arg[:24]}..." for arg in args]
        self.tell.say(f"  {prompt} {self.tell.paint('halbctl ' + ' '.join(shown), 'bold')}")
        outcome = self.site.halbctl(device, *args)
        outcome.check()
        self.tell.show([*outcome.output.splitlines(), *outcome.errors.splitlines()])
        return outcome.output.strip()

    def show_status(self, device: str) -> None:
        self.tell.say(f"  {self.tell.paint(f'{device}$', 'green')} halbctl status", "bold")
        screen = status_screen(self.site.status(device), time.time(), self.tell.paint)  # type: ignore[arg-type]
        self.tell.show(screen)

    def found(self) -> None:
        """Init, tokens, join, apply, status."""
        first, *others = (host.name for host in self.site.plan.device_hosts)
        self.tell.chapter("Three hosts become a Site")
        self.run_halbctl(first, "init", "demo")
        token = self.run_halbctl(first, "token", "create", "--uses", str(len(others)))
        for name in others:
            self.run_halbctl(name, "join", token)
        self.tell.chapter(f"A Virtual Server: {VIP} before four gateways, weights 4 3 2 1")
        path = self.site.folder / "site.yaml"
        path.write_text(self.site.plan.document(CHECK_INTERVAL, WEIGHTS))
        self.run_halbctl(first, "apply", "-f", str(path))
        wait_serving(self.site)
        self.show_status(first)

    def spread(self) -> None:
        """New connections go to the gateways by weight."""
        self.tell.chapter("New connections are spread over the gateways by weight")
        probe = Probe(self.site.network, "client", "newcomers", VIP)
        try:
            probe.begin()
            time.sleep(SPREAD_S)
            found = probe.end()
        finally:
            probe.close()
        total, weights = max(1, found["served"]), dict(zip(self._gateways(), WEIGHTS, strict=True))
        for name, weight in weights.items():
            share = found["gateways"].get(name, 0) / total
            bar = self.tell.paint("#" * round(share * 50), "green")
            wanted = weight / sum(WEIGHTS)
            self.tell.show([f"{name}  weight {weight}  {share:6.1%} (wanted {wanted:4.0%})  {bar}"])

    def _gateways(self) -> list[str]:
        return [host.name for host in self.site.plan.gateway_hosts]

    def event(self, title: str, act: Callable[[], Measured]) -> None:
        """Play one measured event and say what it did."""
        self.tell.chapter(title)
        measured = act()
        self.results.append(measured)
        m = measured
        moved = "stays" if m.before == m.after else f"-> {m.after}"
        lived = f"{m.survivors} of {m.connections} connections live on"
        new = f"new connections: longest time without service {m.outage_ms:.0f} ms"
        owners = f"two owners for {m.two_owners_ms:.0f} ms in {m.samples} samples"
        self.tell.show(
            [
                f"primary {m.before} {moved}; {lived}, longest stall {m.stall_ms:.0f} ms",
                f"{new}, {m.failed} failed; {owners}",
            ]
        )
        for promise in broken(measured):
            self.tell.say(f"    BROKEN: {promise}", "red", "bold")

    def play(self) -> None:
        """The whole day."""
        self.found()
        self.spread()
        self.tell.chapter("200 connections are opened; each sends a message every 100 ms")
        with Probes(self.site.network, self.site.plan.vips) as probes:
            stage = Stage(self.site, probes)
            crashed = self.site.primary()
            self.event(f"{crashed}, the primary, loses power", stage.crash)
            self.show_status(self.site.primary())
            self.event(f"{crashed} comes back: nothing moves", lambda: stage.come_back(crashed))
            successor = next_device(self.site)
            self.event(
                f"halbctl promote {VIRTUAL_SERVER} --to {successor} --wait",
                lambda: stage.promote(successor),
            )
            gateway = self._gateways()[1]
            self.event(f"{gateway}, a gateway, loses power", lambda: stage.lose_gateway(gateway))
            hanging = self.site.primary()
            self.event(f"the agent of {hanging}, the primary, hangs for 10 s", stage.hang)
        self.tell.chapter("The day in one table, all measured just now")
        self.tell.say()
        for line in result_table(self.results, self.tell.paint):
            self.tell.say(line)


def main(argv: Sequence[str] | None = None) -> int:
    """Play the demonstration; 0 if every promise was kept."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument("--output", choices=("table", "json"), default="table")
    parser.add_argument("--name", default=f"demo-{os.getpid() % 100000}", help="name of the lab")
    options = parser.parse_args(argv)
    narrator = Narrator(options.output == "json")
    try:
        with ending_signals_raise():
            return _play(options.name, narrator)
    except HalbError as error:
        report(error)
        return 1
    except KeyboardInterrupt:
        narrator.say("\ninterrupted; the lab is removed", "yellow")
        return 130


def _play(name: str, narrator: Narrator) -> int:
    narrator.say("HALB: highly available load balancing, on one machine in namespaces", "bold")
    plan = Plan(name, devices=3, gateways=4)
    try:
        demo = Demo(build(plan), narrator)
        narrator.say(
            f"three devices, four gateways, a client: {time.monotonic() - narrator.began:.1f} s"
        )
        demo.play()
    finally:
        down(name)
    failures = all_broken(demo.results)
    if narrator.json:
        print(as_json({
            "events": [result.to_json() for result in demo.results],
            "broken": [str(failure) for failure in failures],
        }))  # fmt: skip
    narrator.say()
    for failure in failures:
        narrator.say(f"BROKEN  {failure}", "red", "bold")
    if not failures:
        narrator.say("Every promise was kept. Nothing of the lab is left.", "green", "bold")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
