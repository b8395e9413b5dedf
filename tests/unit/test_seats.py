"""Seats: a gateway keeps its own while others come and go."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from protocol.objects import Gateway
from protocol.seats import seated, seats

farms = st.lists(st.integers(1, 30), unique=True, max_size=12).map(
    lambda numbers: tuple(Gateway(name=f"gw{n}", address=f"10.0.0.{n}") for n in numbers)
)


def of(gateways: tuple[Gateway, ...]) -> dict[str, int | None]:
    return {each.name: each.seat for each in gateways}


@given(farms, st.lists(farms, max_size=6))
def test_who_stays_keeps_its_seat_and_no_two_share_one(
    first: tuple[Gateway, ...], changes: list[tuple[Gateway, ...]]
) -> None:
    now = seated(first)
    for wanted in changes:
        before, now = now, seated(wanted, now)
        assert [each.name for each in now] == [each.name for each in wanted]
        assert len(set(of(now).values())) == len(now)
        kept = of(before).keys() & of(now).keys()
        assert {name: of(now)[name] for name in kept} == {name: of(before)[name] for name in kept}


@given(farms)
def test_those_without_a_seat_have_the_same_one_everywhere(gateways: tuple[Gateway, ...]) -> None:
    """As in a configuration that was written before there were seats."""
    assert seats(gateways) == seats(seated(gateways))


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (("gw1", "gw2", "gw3"), {"gw1": 0, "gw2": 1, "gw3": 2}),
        (("gw3", "gw1"), {"gw3": 2, "gw1": 0}),
        (("gw1", "gw4", "gw3"), {"gw1": 0, "gw4": 1, "gw3": 2}),
        (("gw4", "gw5"), {"gw4": 0, "gw5": 1}),
    ],
)
def test_who_comes_takes_the_first_free_seat(
    wanted: tuple[str, ...], expected: dict[str, int]
) -> None:
    def farm(*names: str) -> tuple[Gateway, ...]:
        return tuple(Gateway(name=name, address=f"10.0.0.{name[-1]}") for name in names)

    assert of(seated(farm(*wanted), seated(farm("gw1", "gw2", "gw3")))) == expected


def test_another_address_is_another_gateway() -> None:
    """What it had of the old one's connections it does not know."""
    (old,) = seated((Gateway(name="gw1", address="10.0.0.1"),))
    other = Gateway(name="gw2", address="10.0.0.2")
    moved = replace(old, address="10.0.0.9", seat=None)
    assert of(seated((old, other), (old,))) == {"gw1": 0, "gw2": 1}
    assert of(seated((other, moved), seated((old, other)))) == {"gw2": 1, "gw1": 0}
