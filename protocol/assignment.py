"""How the assignment in force follows the configuration that is wanted.

Voters change one at a time, so that every majority of the old set meets every
majority of the new one (Ongaro 2014, section 4.1). A VIP goes to another
Virtual Server only after no lease of its former one can live. Both wait for
"settled": majorities of the former and the present voters have the change in
force, and the longest promise has run out since. A primary that is to carry the
Virtual Server no more hands over first, and is removed as voter then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import msgspec

from protocol.config import Config, Edit
from protocol.ids import DeviceId, GroupId
from protocol.objects import MAX_VOTERS, Assignment, Key, Value, VirtualServer
from protocol.timing import INTERVAL_NS


def carriers_of(config: Config, server: VirtualServer) -> tuple[DeviceId, ...]:
    """Devices that may carry the Virtual Server, best rank first."""
    if server.devices:
        wanted: Iterable[DeviceId] = server.devices
    else:
        wanted = (d.id for d in config.devices.values() if not d.witness)
    known = tuple(d for d in wanted if d in config.devices)
    return known[: MAX_VOTERS - len(server.witnesses)]


def wanted_voters(config: Config, server: VirtualServer) -> tuple[DeviceId, ...]:
    """Carriers first, then witnesses."""
    carriers = carriers_of(config, server)
    witnesses = (w for w in server.witnesses if w in config.devices and w not in carriers)
    return (*carriers, *witnesses)


def wanted_site_voters(config: Config) -> tuple[DeviceId, ...]:
    """The oldest devices vote on the coordinator, at most seven."""
    return tuple(config.devices)[:MAX_VOTERS]


def wanted_lone(config: Config, server: VirtualServer | None, voters: tuple[DeviceId, ...]) -> bool:
    """Whether these voters are two devices of which either may serve alone."""
    return (
        server is not None
        and server.decides_for_two
        and len(voters) == 2
        and set(voters) <= set(carriers_of(config, server))
    )


def one_step(
    present: tuple[DeviceId, ...],
    wanted: tuple[DeviceId, ...],
    ready: Callable[[DeviceId], bool],
    stays: Callable[[DeviceId], bool] = lambda _: False,
) -> tuple[DeviceId, ...] | None:
    """``present`` with one voter added, else one removed; None where nothing differs.

    Only a device that is ready is added: one that cannot vote yet would make
    the majority larger and no easier to reach. One that ``stays`` is not removed yet.
    """
    missing = [v for v in wanted if v not in present and ready(v)]
    extra = [v for v in present if v not in wanted and not stays(v)]
    if missing and len(present) < MAX_VOTERS:
        return (*present, missing[0])
    if extra and len(present) > 1:
        return tuple(v for v in present if v != extra[-1])
    return None


def next_edit(
    config: Config,
    settled: Callable[[GroupId], bool],
    ready: Callable[[DeviceId], bool],
    stays: Callable[[GroupId, DeviceId], bool],
    term: Callable[[GroupId], int],
) -> Edit:
    """What the coordinator writes next so that assignments follow the wish.

    ``settled(uid)`` tells whether the last change of that assignment can no
    longer meet a lease from before it, ``ready(device)`` whether a device has
    the present configuration, ``stays(uid, device)`` whether a voter that is to
    go has to hand over first, ``term(uid)`` the newest term that is known of it,
    those of all former voters among them that have the change in force.
    Empty where nothing is to be done.
    """
    held = _held_vips(config)
    put: list[Value] = []
    delete: list[Key] = []
    for uid, assignment in config.assignments.items():
        server = config.virtual_servers.get(uid)
        leaving = _gone_first(config, assignment.voters, partial(stays, uid))
        step = _step(config, assignment, server, settled(uid), ready, leaving, held)
        if step is None:
            continue
        if step.voters != assignment.voters or step.settled != assignment.settled:
            # Those who did not hear of it would count up to it again: new voters, and once the
            # former ones are of no weight, a majority that none of those belongs to who did.
            step = msgspec.structs.replace(step, term=max(step.term, term(uid)))
        if server is None and step.settled and not step.vips:
            delete.append(("assignment", uid))
        else:
            put.append(step)
            held.update(dict.fromkeys(step.vips, uid))
    for uid, server in config.virtual_servers.items():
        if uid not in config.assignments and (voters := wanted_voters(config, server)):
            vips = tuple(v for v in server.leased if v not in held)
            profile = server.profile
            put.append(
                Assignment(
                    uid=uid,
                    number=1,
                    voters=voters,
                    vips=vips,
                    profile=profile,
                    slowest=profile,
                    lone=wanted_lone(config, server, voters),
                )
            )
            held.update(dict.fromkeys(vips, uid))
    site = config.site
    if site:
        leaving = _gone_first(config, site.voters, lambda _: False)
        site_voters = one_step(site.voters, wanted_site_voters(config), ready, leaving)
        if site_voters is not None:
            put.append(msgspec.structs.replace(site, voters=site_voters))
    return Edit(tuple(put), tuple(delete))


def _gone_first(
    config: Config, voters: tuple[DeviceId, ...], stays: Callable[[DeviceId], bool]
) -> Callable[[DeviceId], bool]:
    """Until devices that left the Site are out of a list, no other is taken out of it.

    So those that can confirm the next step are a majority after each one.
    """
    return stays if all(v in config.devices for v in voters) else config.devices.__contains__


def _held_vips(config: Config) -> dict[str, GroupId]:
    """VIPs that a lease may cover, with the group that it belongs to."""
    return {vip: a.uid for a in config.assignments.values() for vip in (*a.vips, *a.releasing)}


def _step(
    config: Config,
    now: Assignment,
    server: VirtualServer | None,
    settled: bool,
    ready: Callable[[DeviceId], bool],
    stays: Callable[[DeviceId], bool],
    held: dict[str, GroupId],
) -> Assignment | None:
    if not now.settled:
        if not settled and server is None and now.vips:
            # Those who have it are silent at once; the VIPs are held until the others know.
            releasing = (*now.releasing, *now.vips)
            return msgspec.structs.replace(now, number=now.number + 1, vips=(), releasing=releasing)
        if not settled:
            return None
        return msgspec.structs.replace(
            now, former=(), releasing=(), slowest=now.profile, formerly_lone=False
        )
    wanted = wanted_voters(config, server) if server else now.voters
    addresses = server.leased if server else ()
    profile = server.profile if server else now.profile
    vips = tuple(v for v in addresses if v in now.vips or v not in held)
    voters = one_step(now.voters, wanted, ready, stays) or now.voters
    lone = wanted_lone(config, server, voters) if server else now.lone
    if now.lone and not lone and voters == now.voters:
        # One of the two may serve alone at this moment, and only another voter lets it go on. A
        # third one makes the majority no larger, so it need not be ready.
        voters = one_step(now.voters, wanted, lambda _: True, stays) or now.voters
    if now.lone and not (voters == now.voters and all(ready(v) for v in voters)):
        # Until the two agree on the profile neither may serve alone, so both are to be there; nor
        # may a stranger measure the silence of a VIP by another T than who serves it alone.
        profile = now.profile
    if (voters, vips, profile, lone) == (now.voters, now.vips, now.profile, now.lone):
        return now if server is None else None
    changes_rules = (voters, profile, lone) != (now.voters, now.profile, now.lone)
    return Assignment(
        uid=now.uid,
        number=now.number + 1,
        voters=voters,
        vips=vips,
        profile=profile,
        slowest=max(profile, now.profile, key=lambda p: INTERVAL_NS[p]),
        former=now.voters if changes_rules else (),
        releasing=tuple(v for v in now.vips if v not in vips),
        lone=lone,
        formerly_lone=changes_rules and now.lone,
        term=now.term,
    )
