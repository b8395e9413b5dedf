"""Labs come and go: made, found again by later commands, removed without a trace."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from halbctl.lab.modes import prepare
from halbctl.lab.namespaces import Network, check_lab_name
from halbctl.lab.plan import Plan
from halbctl.lab.processes import Service, kill, start_time
from halbctl.lab.realm import Realm, open_realm, state_root
from halbctl.lab.site import START_TIMEOUT, Site, apply, form, start_server, wait_serving
from protocol.errors import Refused

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def up(plan: Plan, tell: Callable[[str], None] = lambda text: None) -> Site:
    """Make a lab that serves; remove what was made if that fails or is interrupted."""
    site = build(plan)
    with removed_on_error(site):
        tell("founding the Site and joining the devices")
        form(site)
        tell("applying the Virtual Server")
        apply(site, plan.document())
        wait_serving(site)
    return site


@contextmanager
def removed_on_error(site: Site) -> Iterator[None]:
    """Remove a lab if the block fails or is interrupted."""
    try:
        yield
    except BaseException:
        down(site.plan.name)
        raise


def build(plan: Plan) -> Site:
    """Make a lab's network, servers and agents, none of them in a Site yet."""
    try:
        folder = _new_folder(plan.name)
    except FileExistsError:
        raise Refused(
            f"lab {plan.name!r} exists", f"`halbctl lab down --name {plan.name}` removes it."
        ) from None
    try:
        with _undisturbed():  # a holder that no file tells of would stay for ever
            site = Site(plan, Network(plan.name, open_realm()), folder)
            _save(site)
        site.network.remove()  # left-overs of a lab whose folder was lost
        site.network.build(plan.hosts)
        prepare(site)
        _start_processes(site)
    except BaseException:
        down(plan.name)
        raise
    return site


def _new_folder(name: str) -> Path:
    try:
        folder = state_root() / name
        folder.mkdir(mode=0o700)
    except FileNotFoundError:  # another lab went down just now, and was the last one
        folder = state_root() / name
        folder.mkdir(mode=0o700)
    return folder


def _start_processes(site: Site) -> None:
    for host in site.plan.hosts:
        (site.folder / host.name).mkdir(mode=0o700)
    for host in site.plan.gateway_hosts:
        start_server(site, host.name)
    for host in site.plan.device_hosts:
        site.start_agent(host.name)
    for host in site.plan.gateway_hosts:
        site.service(host.name).wait_for_line("ready", START_TIMEOUT)
    for host in site.plan.device_hosts:
        site.wait_answers(host.name)


def find(name: str) -> Site:
    """The lab called ``name``; raise Refused naming the labs that exist."""
    check_lab_name(name)
    folder = state_root() / name
    try:
        saved = json.loads((folder / "lab.json").read_text())
    except FileNotFoundError:
        known = ", ".join(labs()) or "none"
        raise Refused(
            f"there is no lab {name!r} (labs: {known})", "`halbctl lab up` makes one."
        ) from None
    realm = Realm(saved["holder"])
    if realm.holder is not None and start_time(realm.holder) != saved["holder_started"]:
        raise Refused(f"lab {name!r} is gone", f"`halbctl lab down --name {name}` clears it away.")
    return Site(Plan(**saved["plan"]), Network(name, realm), folder)


def labs() -> list[str]:
    """Names of the labs of this user."""
    return sorted(entry.name for entry in state_root().iterdir() if entry.is_dir())


def down(name: str) -> bool:
    """Remove a lab completely, also a half-made one; False if there was nothing of it."""
    check_lab_name(name)
    with _undisturbed():
        folder = state_root() / name
        for record in folder.glob("*/*.pid"):
            Service(record.stem, record.parent).kill()
        realm = Realm() if os.geteuid() == 0 else None
        with suppress(Refused, ValueError):  # no folder, no holder, or a file half written
            realm = find(name).network.realm
        found = folder.exists()
        if realm is not None:
            network = Network(name, realm)
            found = found or bool(network.existing())
            for pid in network.processes():
                kill(pid)
            network.remove()
            realm.close()
        shutil.rmtree(folder, ignore_errors=not folder.exists())
        with suppress(OSError):  # other labs are in it
            folder.parent.rmdir()
        return found


@contextmanager
def ending_signals_raise() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into SystemExit, so that what the block made is removed."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, leave) for number in _ENDING[1:]}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Hold back Ctrl-C and the like: half-removed is worse than a second's delay."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _save(site: Site) -> None:
    holder = site.network.realm.holder
    started = None if holder is None else start_time(holder)
    saved = {"plan": site.plan.to_json(), "holder": holder, "holder_started": started}
    (site.folder / "lab.json").write_text(json.dumps(saved))
