"""``python -m tests.soak --minutes 10 --seed 7``: a real Site under everything at once.

Real agents in network namespaces, with connections open all the time; faults and operators
come at random, from the seed, also at the same time. Rounds of half a minute end with all
healed, and then everything must be in order: see :mod:`watch` and :mod:`judge` for the rules.
Ends with 1 if one was broken. Timing is the machine's, so a seed that is run again does the
same things, and need not find the same.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

from halbctl.lab.lifecycle import ending_signals_raise
from tests.soak.faults import Nemesis
from tests.soak.journal import Journal
from tests.soak.judge import Judge, evidence
from tests.soak.operator import Operator
from tests.soak.stage import Stage, staged
from tests.soak.watch import Watch

ROUND_S = (15.0, 40.0)
"""How long faults go on between two looks at everything."""
MAJORITY = 0.15
"""Share of the rounds in which any number of devices may be faulty."""
PAUSE_S = 3.0
"""Longest pause between two faults, or two commands."""


def main() -> None:
    """Run it; see the module."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=int(time.time()) % 100000)
    parser.add_argument("--devices", type=int, choices=(2, 3, 4, 5), default=3)
    parser.add_argument("--witness", action="store_true", help="two devices and a witness")
    parser.add_argument("--folder", type=Path, help="for logs; default: a new one")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix=f"halb-soak-{options.seed}-"))
    folder.mkdir(parents=True, exist_ok=True)
    journal, seconds = Journal(folder, options.seed), options.minutes * 60.0
    with ending_signals_raise():
        run(journal, 2 if options.witness else options.devices, options.witness, seconds)
    journal.close()
    sys.exit(1 if journal.broken else 0)


def run(journal: Journal, devices: int, witness: bool, seconds: float) -> None:
    """Make a lab, break it for so long, and say what was found."""
    random = Random(journal.seed)
    sticky = random.random() < 0.5
    with staged(devices, journal, witness=witness, sticky=sticky) as stage:
        nemesis, operator = (
            Nemesis(stage, Random(random.random())),
            Operator(stage, Random(random.random())),
        )
        judge = Judge(stage, operator, sticky=sticky)
        watch = Watch(stage)
        try:
            judge.quiescent()
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                _round(stage, nemesis, operator, random)
                judge.quiescent()
        except BaseException as error:
            journal.violation("soak", repr(error))
            raise
        finally:
            stage.over.set()
            watch.join()
            evidence(stage)
            _summary(journal, operator, judge, watch)


def _round(stage: Stage, nemesis: Nemesis, operator: Operator, random: Random) -> None:
    """Faults and commands beside each other for a while, then everything healed."""
    number = len(stage.devices)
    # Of two with an arbiter one may fail, of more a minority.
    nemesis.limit = number if random.random() < MAJORITY else max(1, (number - 1) // 2)
    seconds = random.uniform(*ROUND_S)
    stage.journal.note("act", "round", "", f"{seconds:.0f} s, at most {nemesis.limit} faulty")
    end = time.monotonic() + seconds
    pauses = Random(random.random())

    def operate() -> None:
        while time.monotonic() < end:
            operator.step()
            time.sleep(pauses.uniform(0.0, PAUSE_S))

    with ThreadPoolExecutor(1) as beside:
        operating = beside.submit(operate)
        try:
            while time.monotonic() < end:
                nemesis.step()
                due = time.monotonic() + random.uniform(0.0, PAUSE_S)
                while (left := due - time.monotonic()) > 0:
                    time.sleep(min(left, 0.1))
                    nemesis.undo(time.monotonic())
        finally:
            nemesis.heal()
    operating.result()
    operator.undrain()
    stage.journal.note("act", "healed")


def _summary(journal: Journal, operator: Operator, judge: Judge, watch: Watch) -> None:
    did: dict[str, int] = {}
    seconds = time.monotonic() - journal.began
    for entry in journal.entries:
        if entry.kind == "act" and not entry.what.startswith(("end-", "did-")):
            did[entry.what] = did.get(entry.what, 0) + 1
    grown = {name: f"{sizes[0]}..{max(sizes)}" for name, sizes in watch.memory.items()}
    lines = [
        f"seed {journal.seed}: {journal.broken} violations in {seconds:.0f} s",
        f"  did: {did}",
        f"  exit codes: {operator.outcomes}",
        f"  lost connections: {dict(judge.reasons)}",
        f"  agreed after: {[round(each, 1) for each in judge.settled]} s",
        f"  asked for owners: {watch.samples} times, late by up to {watch.late_ms:g} ms",
        f"  memory of agents, MB: {grown}",
        f"  logs: {journal.folder}",
    ]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
