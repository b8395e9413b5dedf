"""Gateways that are added: they get nothing before they were asked, while others take it."""

from __future__ import annotations

import pytest

from agent.checks import Down
from agent.probes import GOOD, Answer, Verdict
from protocol.objects import Check, Gateway
from tests.unit.listening import run, until
from tests.unit.scripted import scripted
from tests.unit.test_checks import BAD, UID, gateway, server_of

NONE = Check(type="none")


@pytest.mark.parametrize(("answer", "down"), [(GOOD, False), (BAD, True)])
def test_one_that_is_added_is_avoided_until_its_first_answer(answer: Answer, down: bool) -> None:
    async def test() -> None:
        changes: list[Down] = []
        with scripted(changes.append) as (script, checks):
            old, new = gateway("old"), gateway("new", "127.0.0.2")
            checks.set_targets([server_of([80], old)])
            assert not checks.avoided, "of what is new as a whole nothing is known"
            checks.set_targets([server_of([80], old, new)])
            assert checks.avoided == {(UID, "new")}
            assert checks.down == set()
            checks.set_targets([server_of([80], old, new)])
            assert checks.avoided == {(UID, "new")}
            assert len(changes) == 1
            await script.answer(80, answer, "127.0.0.2")
            await until(lambda: len(changes) == 2)
            assert checks.down == checks.avoided == ({(UID, "new")} if down else set())

    run(test())


@pytest.mark.parametrize(("answer", "down"), [(GOOD, False), (BAD, True)])
def test_one_with_another_address_is_avoided_as_if_added(answer: Answer, down: bool) -> None:
    async def test() -> None:
        with scripted() as (script, checks):
            one, two = gateway("one"), gateway("two", "127.0.0.2")
            checks.set_targets([server_of([80], one, two)])
            await script.answer(80, GOOD)
            await script.answer(80, GOOD, "127.0.0.2")
            checks.set_targets([server_of([80], one, gateway("two", "127.0.0.3"))])
            assert checks.avoided == {(UID, "two")}
            await script.answer(80, answer, "127.0.0.3")
            await until(lambda: checks.avoided == ({(UID, "two")} if down else set()))

    run(test())


def test_one_that_takes_the_address_of_another_is_known_already() -> None:
    async def test() -> None:
        with scripted() as (script, checks):
            one, two, three = gateway("one"), gateway("two", "127.0.0.2"), gateway("3", "127.0.0.3")
            checks.set_targets([server_of([80], one, two, three)])
            await script.answer(80, GOOD, "127.0.0.2")
            checks.set_targets([server_of([80], one, gateway("3", "127.0.0.2"))])
            assert checks.avoided == set()

    run(test())


def test_one_that_was_not_checked_takes_connections_while_it_is_asked_for_the_first_time() -> None:
    async def test() -> None:
        with scripted() as (_, checks):
            both = gateway("one"), gateway("two", "127.0.0.2")
            checks.set_targets([server_of([80], *both, check=NONE)])
            checks.set_targets([server_of([80], *both)])
            assert checks.avoided == set()

    run(test())


def test_one_that_is_added_where_no_other_takes_connections_takes_them_at_once() -> None:
    async def test() -> None:
        with scripted() as (script, checks):
            old, new = gateway("old"), gateway("new", "127.0.0.2")
            checks.set_targets([server_of([80], old)])
            await script.answer(80, BAD)
            await until(lambda: checks.down)
            checks.set_targets([server_of([80], old, new)])
            assert checks.avoided == {(UID, "old")}
            checks.set_targets([server_of([80], gateway("third", "127.0.0.3"))])
            assert checks.avoided == set(), "all were exchanged"
            draining = Gateway(name="other", address="127.0.0.4", state="draining")
            for other in (draining, gateway("other", "::1")):
                checks.set_targets([server_of([80], other)])
                checks.set_targets([server_of([80], other, gateway("5", "127.0.0.5"))])
                assert checks.avoided == set(), "the other takes none in its place"

    run(test())


def test_one_that_is_renamed_or_cannot_be_checked_is_not_avoided() -> None:
    async def test() -> None:
        with scripted() as (script, checks):
            one, two = gateway("one"), gateway("two", "127.0.0.2")
            checks.set_targets([server_of([80], one, two)])
            await script.answer(80, GOOD, "127.0.0.2")
            checks.set_targets([server_of([80], one, gateway("2", "127.0.0.2"))])
            assert checks.avoided == set()
            more = gateway("more", "127.0.0.3")
            checks.set_targets([server_of([80], one, two, more)])
            assert checks.avoided == {(UID, "more")}
            await script.answer(80, Answer(Verdict.UNCLEAR, "no program"), "127.0.0.3")
            await until(lambda: not checks.avoided)
            unchecked = server_of([80], one, two, gateway("4", "127.0.0.4"), check=NONE)
            checks.set_targets([unchecked])
            assert checks.avoided == set()

    run(test())
