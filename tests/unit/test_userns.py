"""Tests as an ordinary user get namespaces, or a plain reason why not."""

from __future__ import annotations

from tests.userns import has_capabilities


def test_root_has_the_capabilities() -> None:
    assert has_capabilities("Name:\tpython\nCapEff:\t000001ffffffffff\nSeccomp:\t0\n")


def test_an_ordinary_user_has_none() -> None:
    assert not has_capabilities("CapEff:\t0000000000000000\n")


def test_network_alone_is_not_enough_to_make_namespaces() -> None:
    assert not has_capabilities("CapEff:\t0000000000001000\n")
