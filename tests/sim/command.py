"""The command line of the simulator: see ``scripts/sim``."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from itertools import count, islice
from pathlib import Path
from time import monotonic

from protocol.timing import MILLISECOND, SECOND, Profile
from tests.sim import network
from tests.sim.figures import calm, hunt, speed
from tests.sim.plot import plot
from tests.sim.run import Result, run_seed, takeover
from tests.sim.shrink import shrink
from tests.sim.site import Setup


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="how many seeds (default 200)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (default 0)")
    parser.add_argument("--minutes", type=float, help="run seeds for this long instead")
    parser.add_argument("--devices", default="3,5", help="sizes of the Site, in turn (default 3,5)")
    parser.add_argument("--seconds", type=int, default=20, help="simulated seconds of faults")
    parser.add_argument("--replay", type=int, metavar="SEED", help="trace one seed")
    parser.add_argument("--shrink", type=int, metavar="SEED", help="find its fewest faults")
    parser.add_argument("--takeovers", type=int, metavar="N", help="measure N takeovers instead")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="takeover times, as a PNG")
    parser.add_argument("--speed", action="store_true", help="how fast the simulator is")
    parser.add_argument("--hunt", type=int, metavar="N", help="N takeovers under faults instead")
    parser.add_argument("--hunted", action="store_true", help="replay a seed of --hunt")
    parser.add_argument("--calm", type=float, metavar="HOURS", help="hours without a failure")
    return parser.parse_args()


def main() -> int:
    chosen = arguments()
    sizes = tuple(int(part) for part in chosen.devices.split(","))
    safety_ns = chosen.seconds * SECOND
    if chosen.hunt:
        found = hunt(chosen.hunt, sizes, chosen.first, chosen.seconds, chosen.minutes)
        print(found)
        return 1 if found.broken else 0
    if chosen.calm:
        for profile in (Profile.NORMAL, Profile.FAST):
            print(calm(chosen.calm, profile, first=chosen.first), flush=True)
        return 0
    if chosen.speed:
        for size in sizes:
            print(speed(size), flush=True)
        return 0
    if chosen.plot:
        return plot(chosen.plot, chosen.takeovers or 100)
    if chosen.takeovers:
        return measure_takeovers(chosen.takeovers, sizes)
    if chosen.replay is not None:
        size = sizes[chosen.replay % len(sizes)]
        result = run_seed(chosen.replay, size, safety_ns, trace=print, hunt=chosen.hunted)
        return report([result])
    if chosen.shrink is not None:
        size = sizes[chosen.shrink % len(sizes)]
        faults, violation = shrink(chosen.shrink, size, safety_ns)
        for fault in faults:
            print(f"{fault.at / MILLISECOND:12.3f} {fault}")
        print(violation)
        return 1
    return soak(chosen, sizes, safety_ns)


def soak(chosen: argparse.Namespace, sizes: tuple[int, ...], safety_ns: int) -> int:
    """Run many seeds, with progress on stderr."""
    end = monotonic() + chosen.minutes * 60 if chosen.minutes else None
    seeds = count(chosen.first)
    results: list[Result] = []
    for seed in seeds if end else islice(seeds, chosen.seeds):
        size = sizes[seed % len(sizes)]
        result = run_seed(seed, size, safety_ns)
        results.append(result)
        if not result.ok:
            again = f"scripts/sim --replay {seed} --devices {size} --seconds {chosen.seconds}"
            print(f"seed {seed} ({result.style}): {result.violations[0]}\n  {again}")
        if len(results) % 20 == 0:
            bad = sum(not r.ok for r in results)
            print(f"\r{len(results)} seeds, {bad} broken", end="", file=sys.stderr, flush=True)
        if end and monotonic() >= end:
            break
    print(file=sys.stderr)
    return report(results)


def report(results: list[Result]) -> int:
    """Print the summary; 1 where a check failed."""
    wall = sum(r.cpu_s for r in results) or 1e-9
    simulated = sum(r.simulated_ns for r in results) / SECOND
    events = sum(r.events for r in results)
    seen: Counter[str] = Counter()
    rules: Counter[str] = Counter()
    styles: Counter[str] = Counter()
    for result in results:
        seen.update(result.seen)
        styles[result.style] += 1
        rules.update({v.rule for v in result.violations})
    print(f"seeds      {len(results)}: {dict(sorted(styles.items()))}")
    print(f"simulated  {simulated:.0f} s, {events} events, {len(_gaps(results))} takeovers")
    print(f"speed      {events / wall:.0f} events/s, {simulated / wall:.0f} x real time")
    print("seen")
    for name, number in sorted(seen.items()):
        print(f"  {number:9d} {name}")
    print(f"broken     {dict(sorted(rules.items())) if rules else 'none'}")
    return 1 if rules else 0


def _gaps(results: list[Result]) -> list[int]:
    return [gap for result in results for gap in result.gaps]


def measure_takeovers(number: int, sizes: tuple[int, ...]) -> int:
    """Time from the primary's power cut to the next lease, without other faults."""
    qualities = {"LAN": network.LAN, "5 % loss": network.LOSSY}
    for size in sizes:
        for profile in (Profile.NORMAL, Profile.FAST):
            for name, quality in qualities.items():
                setup = Setup(devices=size, profiles=(profile,))
                found = [takeover(seed, setup, quality) for seed in range(number)]
                times = sorted(t for t in found if t is not None)
                print(f"{size} devices, {profile}, {name}: {_statistics(times, number)}")
    return 0


def _statistics(times: list[int], number: int) -> str:
    if not times:
        return f"none of {number}"
    mean = sum(times) / len(times) / MILLISECOND
    middle, late = times[len(times) // 2], times[min(len(times) - 1, len(times) * 99 // 100)]
    return (
        f"{len(times)} of {number}, mean {mean:.0f} ms, median {middle / MILLISECOND:.0f}, "
        f"p99 {late / MILLISECOND:.0f}, max {times[-1] / MILLISECOND:.0f}"
    )


if __name__ == "__main__":
    sys.exit(main())
