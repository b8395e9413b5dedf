"""What features need of the kernel: nothing is loaded that was not tried before."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agent import direct
from agent import ways as table
from agent.distribution import Moment
from agent.features import DOOR, REFUSALS, Lack, features, lacks, unmet, why_off
from agent.nft import KernelRefused, NftTooSlow
from agent.ruleset import Compiler, Desired, carried, load
from protocol.ids import GroupId
from protocol.objects import PURE, Gateway, Listener, VirtualServer

UID = GroupId("00000000000000aa")
VIPS = ("10.0.0.100", "fd00::100")
EVERY = features("eth0")
WORDS = (
    "numgen", "jhash", "limit rate", "ct count over", "reject", "notrack", "fwd", "update @",
    "add @", "delete @", "map @", "vmap @", "fib", "masquerade", "snat", "dnat",
    "meta priority set", "addr set", "port set", "timeout", "goto", "jump", "flags constant",
    "flags interval",
)  # fmt: skip
"""Each stands for a part of the kernel, which may be a module of its own."""

listeners = st.builds(
    Listener,
    protocol=st.sampled_from(["tcp", "udp"]),
    port=st.just(80),
    last_port=st.sampled_from([0, 90]),
    gateway_port=st.just(80),
    balance=st.sampled_from(["hash", "source-hash", "round-robin", "random", "least-connections"]),
    sticky=st.sampled_from([0, 9]),
    client_connections=st.sampled_from([0, 9]),
    client_rate=st.sampled_from([0, 9]),
)
gateways = st.lists(
    st.builds(
        Gateway,
        name=st.just("gw"),
        address=st.just("10.0.0.1"),
        state=st.sampled_from(["enabled", "draining", "disabled"]),
        max_connections=st.sampled_from([0, 9, 9999]),
    ),
    max_size=3,
).map(
    lambda some: tuple(
        replace(each, name=f"gw{n}", address=f"10.0.0.{n}") for n, each in enumerate(some, 1)
    )
)
servers = st.builds(
    VirtualServer,
    uid=st.just(UID),
    name=st.just("web"),
    vips=st.just(("10.0.0.100/24", "fd00::100/64")),
    forwarding=st.sampled_from(["snat", "routed", "dsr"]),
    gateways=gateways,
    listeners=listeners.map(lambda each: (each,)),
    seed=st.just(7),
).filter(lambda vs: vs.forwarding != "dsr" or vs.listeners[0].balance in PURE)


def words(*scripts: str) -> set[str]:
    return {word for word in WORDS for script in scripts if word in script}


def scripts_of(server: VirtualServer, *, quiet: bool = False) -> tuple[str, str]:
    full = frozenset((UID, each.name) for each in server.gateways[:1])
    wish = Desired((server,), {UID: VIPS}, moment=Moment(full=full))
    some = carried(wish) if server.forwarding == "dsr" else ()
    ways = table.load(direct.compiled(some, frozenset(), frozenset(), "eth0"), "eth0")
    return load(Compiler(quiet=quiet).compile(wish)), ways


@given(servers)
def test_whatever_a_virtual_server_takes_was_tried_for_a_feature_that_it_needs(
    server: VirtualServer,
) -> None:
    needed = (f for f in EVERY if f.required or f.name == REFUSALS or f.needed_by(server))
    tried = words(*(script for feature in needed for script in feature.trials))
    assert words(*scripts_of(server)) <= tried


@given(servers)
def test_a_kernel_that_cannot_refuse_is_not_asked_to(server: VirtualServer) -> None:
    assert "reject" not in scripts_of(server, quiet=True)[0]


def without(word: str) -> tuple[Lack, ...]:
    def check(script: str) -> None:
        if word in script:
            raise KernelRefused(f"no {word}")

    return lacks(EVERY, check)


def test_each_part_that_is_missing_turns_off_what_needs_it_and_nothing_else() -> None:
    wanted: dict[str, list[str]] = {
        "numgen": ["balance `round-robin` and `random`", "`max_connections`"],
        "limit rate": ["`client_rate`", DOOR],
        "ct count over": ["`max_connections`", "`client_connections`"],
        "reject": [REFUSALS],
        "notrack": ["forwarding `routed`"],
        "fwd ": ["forwarding `dsr`"],
        "dup to": ["moves without a lost packet"],
        "ether saddr set": ["virtual MACs"],
        "ct mark set": ["counters"],
    }
    found = {word: [lack.feature.name for lack in without(word)] for word in wanted}
    assert found == wanted


def test_who_needs_what_is_missing_is_told_which_feature_and_why() -> None:
    limited = Gateway(name="a", address="10.0.0.1", max_connections=9)
    changes: list[tuple[str, dict[str, Any]]] = [
        ("numgen", {"listeners": (Listener(protocol="tcp", port=1, gateway_port=1,
                                           balance="random"),)}),
        ("fwd ", {"forwarding": "dsr"}),
        ("notrack", {"forwarding": "routed"}),
        ("ct count over", {"gateways": (limited,)}),
    ]  # fmt: skip
    plain = VirtualServer(uid=UID, name="web", vips=(), gateways=(), listeners=(), seed=1)
    for word, change in changes:
        lacking = without(word)
        assert not unmet(plain, lacking)
        said = unmet(replace(plain, **change), lacking)
        assert " is off: no " in said
        assert said == str(lacking[0])


def test_what_everyone_can_do_without_is_said_with_what_it_costs() -> None:
    (lack,) = without("dup to")
    assert str(lack) == (
        "moves without a lost packet is off: no dup to;"
        " a planned move may stall flows, or reset those that are being opened"
    )
    assert why_off("moves without a lost packet", [lack]) == "no dup to"
    assert not why_off(REFUSALS, [lack])


def test_a_host_that_is_too_slow_to_tell_lacks_nothing() -> None:
    def check(script: str) -> None:
        raise NftTooSlow("nft did not end within 20 s")

    with pytest.raises(NftTooSlow):
        lacks(EVERY, check)
