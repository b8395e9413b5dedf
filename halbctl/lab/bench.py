"""Figures that can be trusted: medians over rounds, with their range: ``scripts/bench``.

``failover`` measures each event some times; ``rest`` what agents cost that have
nothing to do, and what ``halbctl status`` costs against starting Python; ``telling`` what
they cost while connections come; ``dataplane`` compares throughput, new connections and latency
with other data planes.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from halbctl.errors import note, report
from halbctl.lab.compared import lab
from halbctl.lab.dataplane import Comparison, compare
from halbctl.lab.failover import GROUPS, MODE_WORDS, Course, failover, failover_lines
from halbctl.lab.instep import check_flows
from halbctl.lab.kinds import IDLE, KINDS, USUAL
from halbctl.lab.lifecycle import build, down, ending_signals_raise, up
from halbctl.lab.plan import SNAT, Plan
from halbctl.lab.rest import Rest, measure_rest
from halbctl.lab.telling import Telling, measure_telling
from halbctl.output import Paint, as_json
from protocol.errors import HalbError

SECONDS, TURNS = 0.4, 3
"""Each figure of a data plane is measured for so long, so often in a round."""


def rest(name: str) -> dict[str, Any]:
    """Measure agents at rest and ``halbctl status`` in a lab with ten Virtual Servers."""
    try:
        found = measure_rest(build(Plan(name)))
    finally:
        down(name)
    return found.to_json()


def telling(rounds: int, flows: int, name: str) -> Telling:
    """Measure what agents compute while connections come, in a lab that serves."""
    check_flows(flows)
    try:
        found = measure_telling(up(Plan(name)), rounds, flows=flows)
    finally:
        down(name)
    return found


def dataplane(rounds: int, name: str) -> Comparison:
    """Measure HALB's data plane against others, all in one lab."""
    try:
        found = compare(build(lab(name)), rounds * TURNS, SECONDS, note)
    finally:
        down(name)
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument(
        "what",
        choices=("failover", "rest", "telling", "dataplane", "all"),
        nargs="?",
        default="all",
    )
    parser.add_argument("--rounds", type=int, default=5, help="times that each event is measured")
    parser.add_argument(
        "--kinds",
        default=",".join(USUAL),
        metavar="KIND,...",
        help=f"failover: connections that are held, of {', '.join(KINDS)} (default: all "
        f"but {IDLE}, with which each event takes a minute)",
    )
    parser.add_argument(
        "--events",
        default="",
        metavar="EVENT,...",
        help=f"failover: what happens, of {', '.join(sum(GROUPS, ()))} (default: all)",
    )
    parser.add_argument(
        "--mode",
        default=SNAT,
        metavar="MODE,...",
        help=f"failover: how packets are forwarded, of {', '.join(MODE_WORDS)} "
        f"(default: {SNAT}); each mode is a lab of its own",
    )
    parser.add_argument(
        "--flows",
        type=int,
        default=0,
        help="telling: so many flows are told to a secondary that starts (default: none)",
    )
    parser.add_argument("--output", choices=("table", "json"), default="table")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 1 if a promise was broken in any run."""
    options = _parser().parse_args(argv)
    name = f"bench-{os.getpid() % 100000}"
    paint = Paint.for_stream(sys.stdout)
    found: dict[str, Any] = {}
    lines: list[str] = []
    try:
        course = Course.of(options.rounds, options.kinds, options.events, options.mode)
        with ending_signals_raise():
            if options.what in ("rest", "all"):
                found["rest"] = rest(name)
                lines += Rest(**found["rest"]).lines()
            if options.what in ("telling", "all"):
                told = telling(options.rounds, options.flows, name)
                found["telling"] = told.to_json()
                lines += told.lines()
            if options.what in ("dataplane", "all"):
                comparison = dataplane(options.rounds, name)
                found["dataplane"] = comparison.to_json()
                lines += comparison.lines()
            if options.what in ("failover", "all"):
                found["failover"] = failover(course, name)
                lines += failover_lines(found["failover"], paint)
    except HalbError as error:
        return report(error)
    except KeyboardInterrupt:
        return 130
    print(as_json(found) if options.output == "json" else "\n".join(lines))
    return 1 if any(each.get("broken") for each in found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
