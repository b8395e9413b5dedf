"""Figures that can be trusted: medians over rounds, with their range: ``scripts/bench``.

``failover`` measures each event some times; ``rest`` what agents cost that have
nothing to do, and what ``halbctl status`` costs against starting Python; ``dataplane``
compares throughput, new connections and latency with other data planes.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from halbctl.errors import note, report
from halbctl.lab.dataplane import GATEWAYS, Comparison, compare
from halbctl.lab.lifecycle import build, down, ending_signals_raise, up
from halbctl.lab.measure import Measured, Stage, next_device
from halbctl.lab.plan import Plan
from halbctl.lab.probes import Probes
from halbctl.lab.promises import TITLES, all_broken
from halbctl.lab.rest import Rest, measure_rest
from halbctl.output import Cell, Paint, as_json, table
from protocol.errors import HalbError

SECONDS, TURNS = 0.4, 3
"""Each figure of a data plane is measured for so long, so often in a round."""
FIGURES = ("survivors", "stall_ms", "outage_ms", "failed", "two_owners_ms", "late_ms")


def rounds_of(stage: Stage, rounds: int) -> list[Measured]:
    """Every event, ``rounds`` times."""
    results: list[Measured] = []
    for number in range(1, rounds + 1):
        lost: list[str] = []
        for act in _one_round(stage, lost):
            if not lost:
                stage.wait_agreed()
            measured = act()
            results.append(measured)
            note(f"round {number} of {rounds}: {TITLES[measured.event]}: {_short(measured)}")
    return results


def _one_round(stage: Stage, lost: list[str]) -> list[Callable[[], Measured]]:
    """Every event once, in an order that returns what was lost; ``lost`` names it meanwhile."""

    def crash() -> Measured:
        lost.append(stage.site.primary())
        return stage.crash()

    def kill() -> Measured:
        lost.append(stage.site.primary())
        return stage.kill()

    return [
        crash,
        lambda: stage.come_back(lost.pop()),
        lambda: stage.promote(next_device(stage.site)),
        stage.hang,
        kill,
        lambda: stage.revive(lost.pop()),
        stage.partition,
        stage.shatter,
    ]


def _short(m: Measured) -> str:
    return (
        f"{m.survivors} of {m.connections}, stall {m.stall_ms:.0f} ms,"
        f" outage {m.outage_ms:.0f} ms, two owners {m.two_owners_ms:.0f} ms,"
        f" instruments late {m.late_ms:.0f} ms"
    )


def summary(results: Sequence[Measured]) -> list[dict[str, Any]]:
    """Per event: median, least and most of each figure."""
    rows = []
    for event in dict.fromkeys(result.event for result in results):
        same = [result for result in results if result.event == event]
        row: dict[str, Any] = {"event": event, "runs": len(same)}
        for figure in FIGURES:
            values = [getattr(result, figure) for result in same]
            row[figure] = {
                "median": round(median(values), 1),
                "min": min(values),
                "max": max(values),
            }
        rows.append(row)
    return rows


def failover(rounds: int, name: str) -> dict[str, Any]:
    """Measure all events in a lab of three devices and four gateways."""
    try:
        site = up(Plan(name), note)
        with Probes(site.network, site.plan.vips) as probes:
            results = rounds_of(Stage(site, probes), rounds)
    finally:
        down(name)
    return {
        "events": summary(results),
        "broken": [str(failure) for failure in all_broken(results)],
        "runs": [result.to_json() for result in results],
    }


def rest(name: str) -> dict[str, Any]:
    """Measure agents at rest and ``halbctl status`` in a lab with ten Virtual Servers."""
    try:
        found = measure_rest(build(Plan(name)))
    finally:
        down(name)
    return found.to_json()


def dataplane(rounds: int, name: str) -> Comparison:
    """Measure HALB's data plane against others in a lab of three hosts and two gateways."""
    try:
        found = compare(build(Plan(name, gateways=GATEWAYS)), rounds * TURNS, SECONDS, note)
    finally:
        down(name)
    return found


def _failover_lines(found: dict[str, Any], paint: Paint) -> list[str]:
    titles = (
        "EVENT", "RUNS", "SURVIVORS", "STALL ms", "WITHOUT SERVICE ms", "FAILED", "TWO OWNERS ms",
        "LATE ms",
    )  # fmt: skip
    rows = [
        [TITLES[row["event"]], row["runs"], *(_range(row[figure]) for figure in FIGURES)]
        for row in found["events"]
    ]
    lines = ["min/median/max of each figure", "", *table(titles, rows, paint)]
    return lines + [f"BROKEN {failure}" for failure in found["broken"]]


def _range(figure: dict[str, float]) -> Cell:
    values = [figure["min"], figure["median"], figure["max"]]
    same = len(set(values)) == 1
    return Cell("/".join(f"{value:.0f}" for value in values[: 1 if same else 3]), "", True)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 1 if a promise was broken in any run."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument(
        "what", choices=("failover", "rest", "dataplane", "all"), nargs="?", default="all"
    )
    parser.add_argument("--rounds", type=int, default=5, help="times that each event is measured")
    parser.add_argument("--output", choices=("table", "json"), default="table")
    options = parser.parse_args(argv)
    name = f"bench-{os.getpid() % 100000}"
    paint = Paint.for_stream(sys.stdout)
    found: dict[str, Any] = {}
    lines: list[str] = []
    try:
        with ending_signals_raise():
            if options.what in ("rest", "all"):
                found["rest"] = rest(name)
                lines += Rest(**found["rest"]).lines()
            if options.what in ("dataplane", "all"):
                comparison = dataplane(options.rounds, name)
                found["dataplane"] = comparison.to_json()
                lines += comparison.lines()
            if options.what in ("failover", "all"):
                found["failover"] = failover(options.rounds, name)
                lines += _failover_lines(found["failover"], paint)
    except HalbError as error:
        return report(error)
    except KeyboardInterrupt:
        return 130
    print(as_json(found) if options.output == "json" else "\n".join(lines))
    return 1 if any(each.get("broken") for each in found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
