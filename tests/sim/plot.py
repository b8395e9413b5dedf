"""Takeover times as a picture: ``scripts/sim --plot FILE.png``.

matplotlib is wanted for this alone, so it is no requirement of the tests.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from protocol.timing import INTERVAL_NS, MILLISECOND, Profile
from tests.sim import network
from tests.sim.run import takeover
from tests.sim.site import Setup

HOW_TO_INSTALL = (
    "matplotlib is not installed. Install what plots need beside the rest:\n"
    '  "$(scripts/setup)/bin/python" -m pip install "matplotlib>=3.8,<4"'
)
LOSSES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2)
PROFILES = (Profile.FAST, Profile.NORMAL, Profile.CALM)
COLOURS = {Profile.FAST: "tab:orange", Profile.NORMAL: "tab:blue", Profile.CALM: "tab:green"}
BOUND = 3.3
"""Takeover without loss, 99th percentile, in T: what is promised."""


def measured(profile: Profile, loss: float, runs: int) -> list[float]:
    """Sorted milliseconds from a power cut of the primary to the next lease."""
    setup, quality = Setup(profiles=(profile,)), network.Quality(loss=loss)
    print(f"\r{profile}, {loss:.0%} loss   ", end="", file=sys.stderr, flush=True)
    found = [takeover(seed, setup, quality) for seed in range(runs)]
    return sorted(time / MILLISECOND for time in found if time is not None)


def at(times: list[float], share: float) -> float:
    return times[min(len(times) - 1, int(len(times) * share))]


def plot(file: Path, runs: int) -> int:
    """Measure and draw; 1 where matplotlib is missing."""
    try:
        import matplotlib
    except ImportError:
        print(HOW_TO_INSTALL, file=sys.stderr)
        return 1
    matplotlib.use("Agg")
    from matplotlib import pyplot

    times = {(p, loss): measured(p, loss, runs) for p in PROFILES for loss in LOSSES}
    print(file=sys.stderr)
    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(15, 4.6), layout="constrained")
    _distribution(left, times)
    _against_loss(middle, times)
    _against_interval(right, times)
    figure.suptitle(
        "Takeover after a power cut of the primary, three devices, simulated; "
        f"{runs} runs for each point",
    )
    figure.savefig(file, dpi=110)
    print(file)
    return 0


Times = dict[tuple[Profile, float], list[float]]


def _distribution(axes: Any, times: Times) -> None:
    for profile in PROFILES:
        for loss, style in ((0.0, "-"), (0.05, ":")):
            found = times[profile, loss]
            shares = [(i + 1) / len(found) for i in range(len(found))]
            label = f"{profile}, {loss:.0%} loss"
            axes.plot(found, shares, style, color=COLOURS[profile], label=label)
    axes.set(title="Distribution", xlabel="ms without an owner", ylabel="share of takeovers")
    axes.set(xlim=(0, None), ylim=(0, 1.02))
    axes.legend(loc="lower right", fontsize=8)


def _against_loss(axes: Any, times: Times) -> None:
    percent = [loss * 100 for loss in LOSSES]
    for profile in PROFILES:
        unit = INTERVAL_NS[profile] / MILLISECOND
        for share, style, name in ((0.5, "-o", "median"), (0.99, "--^", "99th percentile")):
            found = [at(times[profile, loss], share) / unit for loss in LOSSES]
            axes.plot(percent, found, style, color=COLOURS[profile], label=f"{profile}, {name}")
    axes.axhline(BOUND, color="grey", linewidth=1)
    axes.annotate(f"{BOUND} T", (percent[-1], BOUND), ha="right", va="bottom", color="grey")
    axes.set(title="Against loss", xlabel="messages lost, %", ylabel="takeover, in T")
    axes.set(ylim=(0, None))
    axes.legend(fontsize=8)


def _against_interval(axes: Any, times: Times) -> None:
    units = [INTERVAL_NS[profile] / MILLISECOND for profile in PROFILES]
    for loss, colour in ((0.0, "tab:blue"), (0.05, "tab:red")):
        for share, style, name in ((0.5, "-o", "median"), (0.99, "--^", "99th percentile")):
            found = [at(times[profile, loss], share) for profile in PROFILES]
            axes.plot(units, found, style, color=colour, label=f"{loss:.0%} loss, {name}")
    axes.plot(units, [BOUND * unit for unit in units], color="grey", linewidth=1, label="3.3 T")
    axes.set(title="Against detection", xlabel="T, interval of beats, ms", ylabel="takeover, ms")
    axes.set(ylim=(0, None))
    axes.legend(fontsize=8)
