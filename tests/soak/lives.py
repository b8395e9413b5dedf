"""``python -m tests.soak.lives --mode dsr --minutes 2 --seed 7``: does every connection live on?

A real Site of one Virtual Server, in one mode of forwarding, with connections of every kind open
all the time; devices, gateways and operators do one thing after the other, from the seed, waiting
for each other or not. After a few everything is made well, and then each connection must speak, and
of each that was lost a documented reason must be known (:mod:`fates`). Ends with 1 otherwise.

``--acts 'weight gw2 3; pause 1; crash primary; quiet'`` does that instead, to find the cause.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

from halbctl.lab.lifecycle import build, down, ending_signals_raise
from halbctl.lab.plan import (
    CLIENT,
    INNER,
    INNER6,
    MODES,
    VIP,
    VIP6,
    VIRTUAL_SERVER,
    WITNESS,
    Plan,
)
from halbctl.lab.site import apply, form, wait_serving
from tests.soak import edits
from tests.soak.acts import Acts
from tests.soak.clocks import Clocks
from tests.soak.courses import Course
from tests.soak.fates import Fates
from tests.soak.holder import ASK, RENEW, Lost, Tally, Target
from tests.soak.journal import Journal
from tests.soak.judge import evidence, told, unheard
from tests.soak.stage import Stage, holding, start_named

TARGETS = tuple(
    Target(VIRTUAL_SERVER, kind, vip, count)
    for vip, share in ((VIP, 2), (VIP6, 1))
    for kind, count in (("echo", 8 * share), ("push", 6 * share), ("idle", 4 * share), ("udp", 4))
)
GATEWAYS = 5
SPEAKING_S = 30.0
"""Seconds within which TCP, that doubles its timer, has sent everything once more."""
HALF_OPEN_S = 6.0
"""A client that only listens never learns that its gateway is gone: after so long it gives up."""
TOLD_S = 3.0
"""So old connections are before the next thing happens, as a rule."""


def main() -> None:
    """Run it; see the module."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.lives", description=__doc__)
    parser.add_argument("--mode", choices=MODES, default=MODES[0])
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=int(time.time()) % 100000)
    parser.add_argument("--witness", action="store_true", help="two devices and a witness")
    parser.add_argument("--acts", default="", help="what happens, instead of chance")
    parser.add_argument("--balance", default="", help="how it begins, instead of chance")
    parser.add_argument("--folder", type=Path, help="for logs; default: a new one")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix=f"halb-lives-{options.seed}-"))
    folder.mkdir(parents=True, exist_ok=True)
    journal = Journal(folder, options.seed)
    name = f"lives{options.seed % 1000}-{MODES.index(options.mode)}"
    plan = Plan(
        name, 2 if options.witness else 3, GATEWAYS,
        witness=options.witness, ipv6=True, spare=1, mode=options.mode,
    )  # fmt: skip
    carriers = [host.name for host in plan.device_hosts if host != WITNESS]
    course = Course(options.seed, options.mode, carriers)
    balance = options.balance or course.balance
    rounds: Iterable[list[str]] = course.rounds()
    if options.acts:
        lines = [line.strip() for line in options.acts.split(";")]
        ends = [0, *(n + 1 for n, line in enumerate(lines) if line == "quiet"), len(lines)]
        rounds = [lines[a:b] for a, b in pairwise(ends) if a < b]
    with ending_signals_raise(), staged(plan, journal, balance) as stage:
        Lives(stage).run(rounds, options.minutes * 60.0)
    journal.close()
    sys.exit(1 if journal.broken else 0)


@contextmanager
def staged(plan: Plan, journal: Journal, balance: str) -> Iterator[Stage]:
    """A lab that serves, and the client's connections."""
    try:
        site = build(plan)
        for host in plan.gateway_hosts:
            start_named(site, host.name)
            if plan.forwarding == "snat":  # for when it is changed
                for client, inner in ((CLIENT.ipv4, INNER), (CLIENT.ipv6, INNER6)):
                    site.network.run(host.name, "ip", "route", "add", client, "via", inner)
        form(site)
        clocks = Clocks(journal.folder / "clocks", ())
        document = edits.document(plan, balance)
        stage = Stage(site, journal, document, clocks, targets=TARGETS)
        apply(site, edits.text(document))
        wait_serving(site)
        journal.note("act", "begins", plan.mode, balance)
        with holding(stage):
            try:
                yield stage
            finally:
                stage.over.set()
                evidence(stage)
    finally:
        down(plan.name)


class Lives:
    """Does one thing after the other, and looks at the connections."""

    def __init__(self, stage: Stage) -> None:
        self._stage, self._journal = stage, stage.journal
        self._acts = Acts(stage)
        self._fates = Fates(stage.journal, stage.site.plan.mode)
        self._judged = 0
        self._reasons: Counter[str] = Counter()

    def run(self, rounds: Iterable[list[str]], seconds: float) -> None:
        """For so long, and until a round ends."""
        end = time.monotonic() + seconds
        self._all_speak()
        for lines in rounds:
            time.sleep(TOLD_S)
            for line in lines:
                self._acts.run(line)
            self._all_speak()
            self._losses()
            self._stage.tell_client(RENEW)
            if time.monotonic() > end:
                break
        lost = ", ".join(f"{n} {why}" for why, n in self._reasons.items()) or "none"
        text = f"seed {self._journal.seed}: {self._journal.broken} violations; lost: {lost}"
        sys.stdout.write(f"{text}; logs: {self._journal.folder}\n")

    def _all_speak(self) -> None:
        began = asked = time.monotonic()
        self._stage.tell_client(ASK)
        while why := self._speechless(began):
            now = time.monotonic()
            if now - began > SPEAKING_S:
                self._journal.violation("stuck", f"after {SPEAKING_S:g} s: {why}")
                self._stage.give_up_silent()
                return
            if now - asked > HALF_OPEN_S:
                asked = now
                if (tally := self._stage.tally) and all(map(self._why, tally.silent)):
                    self._stage.give_up_silent()
            time.sleep(0.2)
        took = time.monotonic() - began
        if took > HALF_OPEN_S:
            self._journal.note("saw", "all speak", "", f"after {took:.1f} s")

    def _speechless(self, since: float) -> str:
        tally: Tally | None = self._stage.tally
        if tally is None or tally.at < since + 2.0:
            return "the client says nothing"
        return unheard(self._stage, tally)

    def _losses(self) -> None:
        losses = self._stage.losses[self._judged :]
        self._judged += len(losses)
        wrong: dict[str, list[Lost]] = {}
        for lost in losses:
            why = self._why(lost)
            self._reasons[why or "UNEXPLAINED"] += 1
            self._journal.note("why", why, str(lost.port), str(lost))
            if not why:
                about = TARGETS[lost.target]
                wrong.setdefault(f"{about.kind} {about.vip} {lost.reason}", []).append(lost)
        for group, members in wrong.items():
            text = f"{group}: {len(members)}: " + "; ".join(map(self._told, members[:6]))
            self._journal.violation("lost connections", text, members[0].at)

    def _why(self, lost: Lost) -> str:
        return self._fates.why(TARGETS[lost.target].kind, lost)

    def _told(self, lost: Lost) -> str:
        return told(self._stage, lost)


if __name__ == "__main__":
    main()
