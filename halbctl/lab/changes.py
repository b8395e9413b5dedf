"""What operators change while connections are open, each measured like a failure."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from pathlib import Path
from typing import Any

from halbctl.lab.measure import Measured, Stage
from halbctl.lab.plan import VIRTUAL_SERVER, Plan
from halbctl.lab.probes import python_environment
from halbctl.lab.servers import ECHO
from halbctl.lab.site import START_TIMEOUT, Site, all_ok, change, wait_serving
from protocol.errors import Refused

SERVERS = 100
"""Virtual Servers that a reload changes, the one with the connections among them."""
OTHER_VERSION = "999.0+lab"
"""What the agent calls itself that is installed beside the first."""
LOOK_S = 0.5
"""Between two looks at so many: each takes a device's agent a while."""
_STOP_S = 20.0
LOADED_S = 45.0
"""Seconds within which so many Virtual Servers must be in use, and in order."""


def upgrade(stage: Stage) -> Measured:
    """Stop the agent of the primary cleanly and start another version of it."""
    site, device = stage.site, stage.site.primary()
    environment = install_beside(site.folder / "other")

    def act() -> None:
        site.service(device).terminate(_STOP_S)
        site.service(device).start(site.agent_command(device), environment)
        site.wait_answers(device)
        runs = site.ask(device, "version")["agent"]
        if runs != OTHER_VERSION:
            raise Refused(f"the agent of {device} is version {runs}, not {OTHER_VERSION}")
        stage.wait_fit(device)

    return stage.measure("upgrade", act)


def install_beside(folder: Path) -> dict[str, str]:
    """Install this agent once more, as another version; the environment that it runs in."""
    if not folder.exists():
        for package in ("agent", "protocol"):
            found = importlib.util.find_spec(package)
            assert found is not None
            assert found.origin is not None
            unneeded = shutil.ignore_patterns("__pycache__")
            shutil.copytree(Path(found.origin).parent, folder / package, ignore=unneeded)
        about = folder / f"halb-{OTHER_VERSION}.dist-info"
        about.mkdir()
        text = f"Metadata-Version: 2.1\nName: halb\nVersion: {OTHER_VERSION}\n"
        (about / "METADATA").write_text(text)
    environment = python_environment()
    path = os.pathsep.join((str(folder), environment["PYTHONPATH"]))
    # Without this, `python -m` looks in the working directory first.
    return {**environment, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}


def reload(stage: Stage, servers: int = SERVERS) -> Measured:
    """Apply a document that changes ``servers`` Virtual Servers: new weights, so slots move."""
    site = stage.site

    def load(weight: int) -> None:
        _apply(site, crowded(site.plan, weight, servers))
        first, what = site.plan.device_hosts[0].name, f"{servers} Virtual Servers are in order"
        site.wait(what, lambda: all_ok(site, first, servers), LOADED_S, LOOK_S)
        stage.wait_agreed()

    load(1)
    try:
        return stage.measure("reload", lambda: load(2))
    finally:
        _apply(site, site.plan.document())
        wait_serving(site)


def crowded(plan: Plan, weight: int, servers: int) -> str:
    """The plan's document with so many Virtual Servers; ``weight`` is their first gateway's."""
    document: dict[str, Any] = json.loads(plan.document(weights=(weight,)))
    (first,) = document["virtual_servers"]
    gateways = [gateway for gateway in first["gateways"] if ":" not in gateway["address"]]
    listeners = [{"protocol": "tcp", "port": ECHO}]
    document["virtual_servers"] += [
        {
            "name": f"{VIRTUAL_SERVER}{number}",
            "vips": [f"10.77.0.{100 + number}/24"],
            "gateways": gateways,
            "listeners": listeners,
        }
        for number in range(1, servers)
    ]
    return json.dumps(document)


def _apply(site: Site, document: str) -> None:
    path = site.folder / "reload.yaml"
    path.write_text(document)
    change(site, site.primary(), "--timeout", str(LOADED_S), "apply", "--wait", "-f", str(path))


def add_gateway(stage: Stage) -> Measured:
    """Put the spare gateway behind the Virtual Server."""
    site = stage.site

    def act() -> None:
        for name, address in spare_gateways(site.plan).items():
            command = ("gateway", "add", VIRTUAL_SERVER, f"{name}={address}")
            change(site, site.primary(), *command)
        for name in spare_gateways(site.plan):
            stage.wait_gateway(name, "up")

    return stage.measure("gateway-added", act)


def drain_gateway(stage: Stage) -> Measured:
    """Drain the gateway that was added; its connections end by themselves, then remove it."""
    site = stage.site

    def act() -> None:
        for name in spare_gateways(site.plan):
            change(site, site.primary(), "gateway", "drain", VIRTUAL_SERVER, name)

    measured = stage.measure("gateway-drained", act, renew=True)
    stage.probes.begin(renew=True)
    host = site.plan.gateway_hosts[-1].name
    site.wait(f"{host} is empty", lambda: stage.connections_of(host) == 0, START_TIMEOUT)
    for name in spare_gateways(site.plan):
        change(site, site.primary(), "gateway", "remove", "--force", VIRTUAL_SERVER, name)
    return measured


def spare_gateways(plan: Plan) -> dict[str, str]:
    """Addresses of the gateway that is not in the plan's document, by name: one per IP version."""
    host = plan.gateway_hosts[-1]
    return {host.name: host.ipv4, **({f"{host.name}-6": f"[{host.ipv6}]"} if plan.ipv6 else {})}
