"""Numbers of accounts: the same for everybody, and nobody has another one's."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import accounts, numbers
from agent.closing import closed
from agent.counters import Ledger, Tally, element_of
from agent.numbers import BUSY, Numbers, mark_of, text_of
from tests.unit.test_closing import GW, GW6, OTHER, VIP, VIP6, accounts_of, key

ACCOUNTS = st.binary(min_size=16, max_size=16) | st.binary(min_size=40, max_size=40)
OPENED = key("opened", VIP, "tcp", 443, GW)
FORTH = key("carried", VIP, "tcp", 443, GW, "original")
BY_FORTH = accounts.CARRIED_BY[0]


@given(ACCOUNTS)
def test_no_account_has_the_mark_of_flows_without_a_number(account: bytes) -> None:
    mark = mark_of(account)
    assert any(mark)
    assert int(text_of(mark), 16) == int.from_bytes(mark, sys.byteorder)


@given(st.lists(ACCOUNTS, unique=True))
def test_another_agent_finds_out_whose_the_numbers_are(some: list[bytes]) -> None:
    one, other = Numbers(), Numbers()
    given_out = [one.give(account) for account in some]
    other.learn([mark for mark in given_out if mark], some)
    assert [other.mark_of(account) for account in some] == given_out


def test_of_two_accounts_with_the_same_number_the_second_has_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(numbers, "mark_of", lambda account: account[:4])
    known = Numbers()
    assert known.give(b"same one") == b"same"
    assert known.give(b"same other") is None
    assert known.give(b"same one") == b"same"
    assert known.mark_of(b"same other") is None


def busy_ledger() -> Ledger:
    """One that was read twice; much was counted for one account between."""
    ledger = Ledger()
    ledger.add(accounts_of(VIP, 443, GW) | accounts_of(VIP, 443, OTHER))
    more = Tally(30 + BUSY, 3000 + 100 * BUSY)
    ledger.add(accounts_of(VIP, 443, GW) | accounts_of(VIP, 443, OTHER) | {FORTH: more})
    return ledger


def test_only_what_is_busy_gets_a_number_and_only_once() -> None:
    ledger = busy_ledger()
    mark = mark_of(OPENED[1])
    assert ledger.unnumbered() == [mark]
    ledger.add({(name, mark): Tally() for name in accounts.MARKED})
    assert not ledger.unnumbered()


def test_nothing_is_busy_by_what_was_counted_before_the_agent_began() -> None:
    ledger = Ledger()
    ledger.add({FORTH: Tally(10**6, 10**9)})
    assert not ledger.unnumbered()


def test_what_is_counted_by_number_belongs_to_the_account() -> None:
    ledger = busy_ledger()
    (mark,) = ledger.unnumbered()
    before = ledger.totals()
    ledger.add({(accounts.OPENED_BY, mark): Tally(2, 120), (BY_FORTH, mark): Tally(7, 700)})
    after = ledger.totals()
    account = (VIP, "tcp", 443, GW)
    assert after.opened[account] == before.opened[account] + 2
    assert after.forth[account] == Tally(
        before.forth[account].packets + 7, before.forth[account].bytes + 700
    )
    assert after.back == before.back
    assert after.entered == before.entered


@pytest.mark.parametrize(("vip", "gateway"), [(VIP, GW), (VIP6, GW6)])
def test_what_was_counted_by_number_alone_belongs_to_the_account(vip: str, gateway: str) -> None:
    """As after a takeover: the flows that made the account busy were opened elsewhere, and in
    one of them only the client spoke."""
    forth = key("carried", vip, "tcp", 443, gateway, "original")
    ledger = Ledger()
    ledger.add({forth: Tally(1, 100)})
    ledger.add({forth: Tally(1 + BUSY, 100 + 100 * BUSY)})
    (mark,) = ledger.unnumbered()
    counted = {(name, mark): Tally(at, 60 * at) for at, name in enumerate(accounts.MARKED, start=2)}
    ledger.add({(name, mark): Tally() for name in accounts.MARKED})
    assert ledger.keys() == {forth}
    ledger.add(counted)
    after = ledger.totals()
    account = (vip, "tcp", 443, gateway)
    assert after.opened == {account: 2}
    assert after.forth == {account: Tally(1 + BUSY + 3, 100 + 100 * BUSY + 180)}
    assert after.back == {account: Tally(4, 240)}
    another = Ledger()
    another.add({forth: Tally(1 + BUSY, 100 + 100 * BUSY)} | counted)
    assert another.totals() == after


def test_an_account_that_has_counted_by_number_alone_is_closed_with_all_that_it_has() -> None:
    ledger = Ledger()
    ledger.add({FORTH: Tally(1, 100)})
    ledger.add({FORTH: Tally(1 + BUSY, 100)})
    (mark,) = ledger.unnumbered()
    ledger.add({(accounts.OPENED_BY, mark): Tally(2, 120)})
    rest = key("opened", VIP, "tcp", 443, "0.0.0.0")
    script = closed([OPENED], {OPENED: rest}, ledger)
    assert script.splitlines() == [
        f"delete element inet halb_count marked_opened {{ {text_of(mark)} }}",
        f"add element inet halb_count opened {{ {element_of(rest)} counter packets 2 bytes 120 }}",
    ]
    ledger.close(OPENED, rest)
    assert ledger.keys() == {FORTH, rest}
    assert ledger.total(rest) == Tally(2, 120)


def test_totals_do_not_fall_where_a_number_was_taken_out_of_the_kernel() -> None:
    ledger = busy_ledger()
    (mark,) = ledger.unnumbered()
    ledger.add({(BY_FORTH, mark): Tally(7, 700)})
    before = ledger.total(FORTH)
    ledger.start_again()
    assert ledger.total(FORTH) == before
    ledger.add({(BY_FORTH, mark): Tally(1, 100)})
    assert ledger.total(FORTH) == Tally(before.packets + 1, before.bytes + 100)
