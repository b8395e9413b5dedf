"""Operators who type commands at random devices, with real changes."""

from __future__ import annotations

from hashlib import sha256
from random import Random

from msgspec import structs

from protocol.changes import (
    AddGateway,
    AdmitDevice,
    CancelMove,
    Change,
    DeleteVirtualServer,
    FreezeVirtualServer,
    PlanMove,
    PutToken,
    PutVirtualServer,
    RemoveDevice,
    RemoveGateway,
    ReplaceDevice,
    SetDevice,
    SetGateway,
)
from protocol.document import VirtualServerDocument
from protocol.effects import Force, Promote, Propose, Recover
from protocol.gateway_document import GatewayDocument
from protocol.ids import Revision
from protocol.listener_document import ListenerDocument
from protocol.rendering import document_of
from protocol.timing import MILLISECOND, SECOND, Profile
from tests.sim.machine import UNIX_S
from tests.sim.site import device, device_name, group_id
from tests.sim.world import World

EXPIRES_AT = 4_000_000_000
"""Unix time far ahead: no token of a simulation expires."""
GATEWAYS = 3
PROFILES = (Profile.FAST, Profile.NORMAL, Profile.CALM)
LEAST_LEFT = 3
"""So many devices are never removed."""
EXTRA_SERVERS = 2
"""Virtual Servers that operators create and delete."""


def gateway_name(index: int) -> str:
    return f"gw{index}"


def promote(world: World, index: int, server: int, to: int | None) -> None:
    """``halbctl promote`` typed at a device."""
    request = f"m{len(world.checker.configs.requests)}"
    name = None if to is None else device_name(to)
    _ask(world, index, Promote(request, f"vs{server}", name))


def unix_s(world: World) -> int:
    return UNIX_S + world.now // SECOND


def propose(
    world: World,
    index: int,
    change: Change,
    if_revision: Revision | None = None,
    *,
    local: bool = False,
) -> str | None:
    """A change typed at a device; returns its request id, None where no agent runs."""
    request = f"c{len(world.checker.configs.requests)}"
    item = Propose(request, change, if_revision, unix_s(world), local=local)
    return request if _ask(world, index, item) else None


def force(world: World, index: int, server: str) -> None:
    """``halbctl failover --force`` typed at a device."""
    _ask(world, index, Force(f"f{len(world.checker.configs.requests)}", server))


def recover(world: World, index: int) -> str | None:
    """``halbctl recover`` typed at a device, which counts on all that it hears."""
    request = f"r{len(world.checker.configs.requests)}"
    return request if _ask(world, index, Recover(request, (), unix_s(world))) else None


def _ask(world: World, index: int, item: Propose | Promote | Force | Recover) -> bool:
    process = world.running(index)
    if process is None or process.stopping:
        return False
    world.checker.configs.asked(process, item)
    return world.hand_in(index, item)


def random_command(world: World, random: Random) -> None:
    """One command, as an operator on a bad day would type it."""
    index = random.randrange(len(world.machines))
    process = world.running(index)
    if process is None:
        return
    if random.random() < 0.05:
        change_locally(world, index, random)
        return
    change = random_change(world, random)
    if_revision = None
    if random.random() < 0.3:
        if_revision = process.core.view().committed
        if random.random() < 0.5:  # somebody else has the same idea
            other = random.randrange(len(world.machines))
            propose(world, other, random_token(random), if_revision)
    propose(world, index, change, if_revision)


def change_locally(world: World, index: int, random: Random) -> None:
    """``--local``: refused where a coordinator is heard."""
    propose(world, index, random_gateway_change(world, random), local=True)


def random_token(random: Random) -> PutToken:
    """A change whose effect can be told from every other one's."""
    return PutToken(
        id=f"{random.getrandbits(64):016x}",
        digest=f"{random.getrandbits(256):064x}",
        expires_at=EXPIRES_AT,
        uses=1,
    )


def random_change(world: World, random: Random) -> Change:
    roll = random.random()
    if roll < 0.3:
        return random_token(random)
    servers = len(world.setup.profiles)
    server = f"vs{random.randrange(servers)}"
    if roll < 0.5:
        return random_gateway_change(world, random)
    if roll < 0.6:
        device = device_name(random.randrange(len(world.machines)))
        return SetDevice(device, random.random() < 0.4)
    if roll < 0.66:
        return FreezeVirtualServer(server, random.random() < 0.4)
    if roll < 0.72:
        return random_plan(world, server, random)
    return random_server_change(world, random)


def random_gateway_change(world: World, random: Random) -> Change:
    server = f"vs{random.randrange(len(world.setup.profiles))}"
    gateway = gateway_name(random.randrange(GATEWAYS))
    roll = random.random()
    if roll < 0.6:
        address = f"10.77.0.{31 + random.randrange(GATEWAYS)}"
        return AddGateway(server, GatewayDocument(name=gateway, address=address))
    if roll < 0.8:
        return RemoveGateway(server, gateway)
    return SetGateway(server, gateway, weight=random.randrange(10))


def random_plan(world: World, server: str, random: Random) -> Change:
    """``promote --at``, a few seconds ahead, or ``promote --cancel``."""
    if random.random() < 0.3:
        return CancelMove(server)
    to = device_name(random.randrange(len(world.machines))) if random.random() < 0.7 else None
    at = unix_s(world) + random.randint(1, 6)
    return PlanMove(server, to, at, f"{random.getrandbits(64):016x}")


def see_gateways(world: World, index: int, random: Random) -> None:
    """The checks of a device have new results."""
    down = tuple(
        (group_id(server), gateway_name(gateway))
        for server in range(len(world.setup.profiles))
        for gateway in range(GATEWAYS)
        if random.random() < 0.4
    )
    world.set_gateways_down(index, down)


def remove_or_replace(world: World, index: int, target: int, random: Random) -> None:
    """``device remove`` or ``device replace``, while enough would be left for the test's end."""
    devices = world.checker.configs.newest.devices
    if len(devices) <= LEAST_LEFT:
        return
    world.checker.seen["device to be removed"] += 1
    others = [device.name for device in devices.values() if device.name != device_name(target)]
    change: Change = RemoveDevice(device_name(target))
    if random.random() < 0.3:
        change = ReplaceDevice(device_name(target), random.choice(others))
    propose(world, index, change)


def name_others(world: World, index: int, random: Random) -> None:
    """``vs edit --device ...``: another list of devices carries a Virtual Server."""
    config = world.checker.configs.newest
    server = config.virtual_servers[group_id(random.randrange(len(world.setup.profiles)))]
    names = [device.name for device in config.devices.values() if not device.witness]
    if len(names) < LEAST_LEFT:
        return  # two alone would be refused: how they serve is for the simulator of pairs
    chosen = random.sample(names, random.randint(LEAST_LEFT, len(names)))
    document = structs.replace(document_of(config, server), devices=tuple(chosen))
    propose(world, index, PutVirtualServer(document, must="exist"))


def random_server_change(world: World, random: Random) -> Change:
    """Create, replace or delete one of a few Virtual Servers that compete for two VIPs."""
    name = f"extra{random.randrange(EXTRA_SERVERS)}"
    if random.random() < 0.3:
        return DeleteVirtualServer(name)
    names = [device_name(i) for i in range(len(world.machines))]
    # Two alone would be refused: how they serve is for the simulator of pairs.
    sizes = [size for size in range(1, len(names) + 1) if size != 2]
    carriers = random.sample(names, random.choice(sizes))
    document = VirtualServerDocument(
        name=name,
        vips=(f"10.77.0.{200 + random.randrange(EXTRA_SERVERS)}/24",),
        devices=tuple(carriers),
        profile=random.choice(PROFILES),
        preempt=random.choice((None, None, "1s")),
        listeners=(ListenerDocument(port=443),),
    )
    return PutVirtualServer(document, must="either")


def drain(world: World, index: int, target: int) -> str:
    """``halbctl device drain`` typed at a device that runs."""
    request = propose(world, index, SetDevice(device_name(target), drained=True))
    assert request is not None
    return request


def succeeded(world: World, request: str) -> bool:
    outcome = world.checker.configs.requests[request].outcome
    return outcome is not None and outcome.error is None


SECRET = "s" * 32
"""What every joining device of a simulation shows."""


def join(world: World, through: int, index: int) -> bool:
    """``token create`` and ``join``: True once the device is in the Site, as the agents do it."""
    token = PutToken(
        id=f"{0xA000 + index:016x}",
        digest=sha256(SECRET.encode()).hexdigest(),
        expires_at=EXPIRES_AT,
        uses=2,  # one stays over: a token that vanished would look like a lost change
    )
    admit = AdmitDevice(token_id=token.id, secret=SECRET, device=device(index))
    for change in (token, admit):
        request = propose(world, through, change)
        if request is None or not wait_for(world, request):
            return False
    process = world.running(through)
    if process is None or process.in_force is None:
        return False
    world.adopt(index, process.in_force)
    return True


def wait_for(world: World, request: str) -> bool:
    """Let the world run until a command ended; whether it was carried out."""
    for _ in range(700):
        if world.checker.configs.requests[request].outcome is not None or world.checker.failed:
            break
        world.run_for(10 * MILLISECOND)
    return succeeded(world, request)
