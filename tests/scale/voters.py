"""How long it takes until all Virtual Servers of a large Site have other voters, as one edit wants.

    python -m tests.scale.voters --devices 320 --servers 160

Each Virtual Server is to be carried by another device in place of one of its three; for a third
of them that is the primary.
"""

from __future__ import annotations

import argparse
import sys

import msgspec

from protocol.changes import ApplyDocument
from protocol.config import Config
from protocol.document import SiteDocument
from protocol.effects import Propose
from protocol.rendering import document_of
from tests.scale.site import VOTERS, Large, device_id

LIMIT_S = 900


def other_voters(site: Large) -> ApplyDocument:
    """The Site's document, with one device of each Virtual Server replaced by another."""
    config = site.config
    names = [device.name for device in config.devices.values()]
    documents = []
    for number, server in enumerate(config.virtual_servers.values()):
        document = document_of(config, server)
        carriers = list(document.devices)
        left = [name for name in names if name not in carriers]
        carriers[number % VOTERS] = site.random.choice(left)
        documents.append(msgspec.structs.replace(document, devices=tuple(carriers)))
    assert config.site is not None
    return ApplyDocument(SiteDocument(site=config.site.name, virtual_servers=tuple(documents)))


def settled(config: Config) -> int:
    """How many Virtual Servers have the voters that they should have, for good."""
    return sum(
        assignment.settled and set(assignment.voters) == set(config.virtual_servers[uid].devices)
        for uid, assignment in config.assignments.items()
    )


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--devices", type=int, default=160)
    options.add_argument("--servers", type=int, default=80)
    chosen = options.parse_args()
    site = Large(chosen.devices, chosen.servers)
    site.run(4)
    site.acquaint()
    site.run(20)
    asked = site.nodes[device_id(chosen.devices)]
    began = site.now
    site.give(asked.me, Propose("all", other_voters(site), None, 0))
    done = 0
    while done < chosen.servers and site.now - began < LIMIT_S * 10**9:
        site.run(1)
        config = site.nodes[device_id(1)].configuration.in_force
        if (now := settled(config)) != done:
            done = now
            sys.stderr.write(f"{(site.now - began) / 1e9:.0f} s: {done} of {chosen.servers}\n")
    outcome = site.outcomes.get("all")
    sys.stdout.write(f"{chosen.devices} devices: {done} of {chosen.servers} ")
    sys.stdout.write(f"after {(site.now - began) / 1e9:.0f} s; {outcome and outcome.error}\n")


if __name__ == "__main__":
    main()
