"""One row of the tables in docs/scale.md.

    python -m tests.scale.large --devices 1000 --servers 500

A Site of 1000 devices takes about half an hour of one processor.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass

from protocol.timing import SECOND
from tests.scale.memory import cost_of_one
from tests.scale.site import Large, device_id

REST_S = 10
"""Seconds over which messages are counted."""


@dataclass(frozen=True)
class Rates:
    """Per device and second."""

    messages: float
    bytes: float
    most: float
    """Bytes of the device that sends most."""


def rates(site: Large, seconds: float) -> Rates:
    """What the devices send in the next ``seconds``."""
    site.forget_counts()
    site.run(seconds)
    per = len(site.nodes) * seconds
    most = max(site.by_device.values()) / seconds
    return Rates(site.sent.total() / per, site.bytes.total() / per, most)


def say(text: str) -> None:
    """Progress, beside the figures."""
    sys.stderr.write(text + "\n")


def all_agree(site: Large) -> bool:
    """Whether all devices know the same of all, down to the revision that each has in use."""
    nodes = site.nodes.values()
    return len({node.neighbourhood.summary() for node in nodes if node.roster.told}) == 1


def main() -> None:
    """Print the row."""
    options = argparse.ArgumentParser()
    options.add_argument("--devices", type=int, default=100)
    options.add_argument("--servers", type=int, default=50)
    options.add_argument("--loss", type=float, default=0.0)
    options.add_argument(
        "--acquainted", action="store_true", help="start with devices that know each other"
    )
    chosen = options.parse_args()
    site = Large(chosen.devices, chosen.servers, loss=chosen.loss)
    if chosen.acquainted:
        site.run(4)
        site.acquaint()
    begun = site.until(site.all_know_all, 120, 1)
    say(f"all know all after {begun:.0f} s")
    agreed = begun + site.until(lambda: all_agree(site), 300, 1)
    say(f"all agree after {agreed:.0f} s")
    site.run(5)
    rest = rates(site, REST_S)
    say(f"at rest at {site.now / SECOND:.0f} s: {rest}; {dict(site.bytes)}")
    doubted = sum(len(n.neighbourhood.membership.suspects) for n in site.nodes.values())
    degree = max(len(peers) for peers in site.dials.values())
    site.forget_counts()
    site.change(device_id(chosen.devices))
    change = site.until_changed(60)
    say(f"a change after {change:.2f} s")
    agree = change + site.until(lambda: all_agree(site), 300, 1)
    extra = site.bytes.total() / len(site.nodes) - rest.bytes * agree
    say(f"a change after {change:.2f} s, all agree after {agree:.0f} s; {dict(site.bytes)}")
    victim = device_id(chosen.devices // 2)
    site.kill(victim)
    death = site.until_dead(victim, 120)
    say(f"a death after {death:.2f} s")
    cost = cost_of_one(site, device_id(chosen.devices))
    row = (
        chosen.devices,
        chosen.servers,
        f"{chosen.loss:.0%}",
        f"{rest.messages:.0f}",
        f"{rest.bytes:.0f}",
        f"{rest.most:.0f}",
        degree,
        doubted,
        f"{agreed:.0f}",
        f"{change:.2f}",
        f"{agree:.0f}",
        f"{extra / 1000:.0f}",
        f"{death:.2f}",
        f"{cost.config_on_wire / 1e3:.0f}",
        f"{cost.config_decode_ms:.0f}",
        f"{cost.config_in_memory / 1e6:.1f}",
        f"{cost.core / 1e6:.1f}",
    )
    sys.stdout.write(f"| {' | '.join(str(cell) for cell in row)} |\n")


if __name__ == "__main__":
    main()
