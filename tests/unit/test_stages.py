"""Large changes of rules in small transactions: each stage is whole, and the last is the wish."""

from __future__ import annotations

import re
from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.ruleset import Desired, Ruleset, compile_ruleset
from agent.stages import AT_ONCE, stages
from protocol.ids import GroupId
from protocol.objects import Forwarding, Gateway, Listener, VirtualServer

FARM = tuple(Gateway(name=f"gw{n}", address=f"10.0.0.{n}") for n in (1, 2, 3))
PLAIN = Listener(protocol="tcp", port=80, gateway_port=80)
LISTENERS = (PLAIN, replace(PLAIN, port=81, sticky=60), replace(PLAIN, port=82, last_port=90))
LEADS_TO = re.compile(r"(?:goto|jump) (\w+)")
COUNTED = tuple(replace(each, max_connections=9) for each in FARM)

shapes = st.tuples(
    st.sampled_from([FARM[:1], FARM[:2], FARM, COUNTED]),
    st.sampled_from([LISTENERS[:1], LISTENERS]),
    st.sampled_from(["snat", "routed"]),
    st.integers(0, 9),
)
wishes = st.dictionaries(st.integers(0, 120), shapes, max_size=120)

Shape = tuple[tuple[Gateway, ...], tuple[Listener, ...], Forwarding, int]


def ruleset(wish: dict[int, Shape]) -> Ruleset:
    servers, vips = [], {}
    for number, (gateways, listeners, forwarding, place) in wish.items():
        uid, vip = GroupId(f"{number:016x}"), f"10.1.{number}.{place}"
        servers.append(
            VirtualServer(
                uid=uid, name=uid, vips=(f"{vip}/24",), seed=number, gateways=gateways,
                listeners=listeners, forwarding=forwarding,
            )
        )  # fmt: skip
        vips[uid] = (vip,)
    return compile_ruleset(Desired(tuple(servers), vips))


def owner(chain: str) -> str:
    kind, _, rest = chain.partition("_")
    return rest.partition("_")[0] if kind in ("vs", "count") else ""


def leads_to(found: Ruleset) -> Iterator[str]:
    for rules in found.chains.values():
        for rule in rules:
            yield from LEADS_TO.findall(rule)
    yield from found.services.values()
    yield from found.ranges.values()
    for content in found.maps.values():
        yield from (to.removeprefix("goto ") for to in content.values() if to.startswith("goto "))


@settings(deadline=None, max_examples=40)
@given(wishes, wishes)
def test_no_stage_is_half_of_anything(before: dict[int, Shape], after: dict[int, Shape]) -> None:
    old, new = ruleset(before), ruleset(after)
    now = old
    for stage in stages(old, new):
        assert set(leads_to(stage)) <= stage.chains.keys(), "what is led to is there"
        used = {name for rules in stage.chains.values() for rule in rules
                for name in re.findall(r"@(slots_\w+|seats_\w+|vs_\w+)", rule)}  # fmt: skip
        assert used <= stage.sets.keys()
        changed = {name for name in stage.chains if stage.chains[name] != now.chains.get(name)}
        assert len(changed) <= AT_ONCE or len({owner(name) for name in changed}) == 1
        for name in {owner(name) for name in changed} - {""}:
            own = [c for c in stage.chains if owner(c) == name and c in new.chains]
            as_before = [c for c in own if stage.chains[c] == old.chains.get(c)]
            as_wanted = [c for c in own if stage.chains[c] == new.chains[c]]
            assert set(as_before) | set(as_wanted) == set(own)
        now = stage
    assert now == new


def test_new_virtual_servers_come_all_at_once() -> None:
    """Nothing leads to their chains before all of these are there."""
    whole = ruleset(dict.fromkeys(range(100), (FARM, LISTENERS, "snat", 1)))
    made = list(stages(Ruleset(), whole))
    assert len(made) > 4
    assert [bool(stage.services) for stage in made].index(True) == len(made) - 2
    assert made[-2].chains == whole.chains


def test_a_small_change_is_one_transaction() -> None:
    old = ruleset(dict.fromkeys(range(100), (FARM, LISTENERS, "snat", 1)))
    new = ruleset({n: (FARM[:2] if n < 9 else FARM, LISTENERS, "snat", 1) for n in range(100)})
    assert list(stages(old, new)) == [new]


def test_ranges_of_ports_never_overlap_on_the_way() -> None:
    """The kernel would take no such stage."""
    wider = (replace(PLAIN, port=85, last_port=99),)
    old, new = (
        ruleset(dict.fromkeys(range(AT_ONCE + 1), (FARM, listeners, "snat", 0)))
        for listeners in (LISTENERS, wider)
    )
    on_the_way = list(stages(old, new))
    assert len(on_the_way) > 2
    assert all(stage.ranges in (old.ranges, new.ranges) for stage in on_the_way)
