"""Operators in the Site's configuration: who is let in, and what they need to know."""

from __future__ import annotations

import msgspec
import pytest

from protocol.changes import Change, PutOperator, PutToken, RemoveOperator, describe
from protocol.config import Config
from protocol.contacts import contacts_of, operators_of
from protocol.errors import HalbError, InvalidInput, Refused
from protocol.objects import MAX_OPERATORS
from protocol.token import digest_of
from protocol.wire import config_from_bytes, config_to_bytes
from tests.unit.paris import NOW, after, device, edit, site

KEY, OTHER = "k" * 40, "o" * 40


def with_alice() -> Config:
    return after(site(), PutOperator("alice", KEY))


def refused(config: Config, change: Change, kind: type[HalbError], *words: str) -> None:
    with pytest.raises(kind) as caught:
        edit(config, change)
    for word in words:
        assert word in str(caught.value)
    assert caught.value.remedy


def test_an_operator_is_a_name_and_a_public_key() -> None:
    stored = with_alice().operators["alice"]
    assert (stored.name, stored.public_key, stored.created_at) == ("alice", KEY, NOW)


def test_operators_are_part_of_what_devices_store_and_newcomers_get() -> None:
    config = with_alice()
    assert config_from_bytes(config_to_bytes(config)).operators == config.operators


def test_a_removed_operator_may_come_back_with_another_key() -> None:
    gone = after(with_alice(), RemoveOperator("alice"))
    assert not gone.operators
    assert after(gone, PutOperator("alice", OTHER)).operators["alice"].public_key == OTHER


def test_what_a_change_does_is_said() -> None:
    put = edit(site(), PutOperator("alice", KEY))
    assert describe(site(), put) == ("+ operator alice",)
    assert describe(with_alice(), edit(with_alice(), RemoveOperator("alice"))) == (
        "- operator alice",
    )


def test_the_tokens_that_a_removed_operator_made_go_with_him() -> None:
    config = with_alice()
    for number, by in enumerate(("alice", "", "alice")):
        put = PutToken(f"{number:016x}", digest_of("s"), NOW + 60, 1, by)
        config = after(config, put)
    gone = edit(config, RemoveOperator("alice"))
    assert describe(config, gone) == (
        "- operator alice", f"- token {0:016x}", f"- token {2:016x}",
    )  # fmt: skip
    assert [t.by for t in after(config, RemoveOperator("alice")).tokens.values()] == [""]


def test_a_removed_operator_leaves_no_way_in_by_what_was_still_under_way() -> None:
    late = (
        PutToken("7" * 16, digest_of("s"), NOW + 60, 1, "alice"),
        PutOperator("bob", OTHER, "alice"),
    )
    for change in late:
        after(with_alice(), change)
        refused(site(), change, Refused, "'alice' was removed")


def test_who_has_a_removed_operators_name_now_lets_nobody_in_for_him() -> None:
    renewed = after(after(with_alice(), RemoveOperator("alice")), PutOperator("alice", OTHER))
    late = (
        PutToken("7" * 16, digest_of("s"), NOW + 60, 1, "alice", KEY),
        PutOperator("bob", "b" * 40, "alice", KEY),
    )
    for change in late:
        after(with_alice(), change)
        refused(renewed, change, Refused, "'alice'", "another key")
        after(renewed, msgspec.structs.replace(change, by_key=OTHER))


def test_who_let_an_operator_in_is_kept() -> None:
    config = after(with_alice(), PutOperator("bob", OTHER, "alice"))
    assert [each.by for each in operators_of(config).operators] == ["", "alice"]


def test_a_name_is_given_once() -> None:
    refused(with_alice(), PutOperator("alice", OTHER), Refused, "'alice'", "operator remove alice")


def test_a_key_belongs_to_one_operator_and_to_no_device() -> None:
    refused(with_alice(), PutOperator("bob", KEY), Refused, "'alice'")
    refused(site(), PutOperator("bob", device("a", 1).public_key), Refused, "'a'")


@pytest.mark.parametrize(("name", "key"), [("", KEY), ("al ice", KEY), ("alice", "short")])
def test_what_cannot_be_an_operator(name: str, key: str) -> None:
    refused(site(), PutOperator(name, key), InvalidInput)


def test_their_number_is_bounded() -> None:
    config = site()
    for n in range(MAX_OPERATORS):
        config = after(config, PutOperator(f"o{n}", f"{n:040d}"[::-1]))
    refused(config, PutOperator("more", KEY), Refused, str(MAX_OPERATORS), "operator remove")


def test_an_unknown_operator_is_answered_with_the_nearest() -> None:
    refused(with_alice(), RemoveOperator("alcie"), InvalidInput, "'alcie'", "alice")


def test_what_a_key_file_is_made_of() -> None:
    config = with_alice()
    contacts = contacts_of(config)
    assert (contacts.site, contacts.site_id) == ("paris", "5" * 16)
    assert [(c.name, c.addresses) for c in contacts.devices[:2]] == [
        ("a", ("10.77.0.11:7480",)), ("b", ("10.77.0.12:7480",)),
    ]  # fmt: skip
    (alice,) = operators_of(config).operators
    assert (alice.name, alice.public_key, alice.created_at) == ("alice", KEY, NOW)
