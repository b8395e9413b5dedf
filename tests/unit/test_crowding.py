"""A connection table that has no room for what this host itself begins."""

from __future__ import annotations

from agent.conntrack_limit import FRESH_S, NEARLY_FULL, RECENT_S, Crowding, Room

LIMIT = 1000
NEARLY = int(NEARLY_FULL * LIMIT)


class Table:
    """A connection table that a test fills."""

    def __init__(self, entries: int, dropped: int = 0) -> None:
        self.room: Room | None = Room(entries, LIMIT, dropped)
        self.looks = 0

    def look(self) -> Room | None:
        self.looks += 1
        return self.room


def test_a_table_without_room_is_named_with_the_remedy() -> None:
    said = Crowding(Table(LIMIT).look)(100.0)
    assert f"full ({LIMIT} of {LIMIT})" in said
    assert "nf_conntrack_max" in said


def test_a_nearly_full_table_is_full_while_it_drops() -> None:
    """Entries come and go, so that a look seldom finds the very limit."""
    table = Table(NEARLY, dropped=7)
    crowded = Crowding(table.look)
    assert not crowded(100.0), "nobody knows since when"
    table.room = Room(NEARLY, LIMIT, 8)
    assert crowded(101.0)
    assert not crowded(102.0), "it was over"


def test_what_was_dropped_long_ago_says_nothing() -> None:
    table = Table(NEARLY, dropped=7)
    crowded = Crowding(table.look)
    assert not crowded(100.0)
    table.room = Room(NEARLY, LIMIT, 8)
    assert not crowded(100.0 + RECENT_S)


def test_drops_while_there_is_room_have_other_reasons() -> None:
    table = Table(NEARLY - 1, dropped=7)
    crowded = Crowding(table.look)
    assert not crowded(100.0)
    table.room = Room(NEARLY - 1, LIMIT, 8)
    assert not crowded(101.0)


def test_a_kernel_without_a_table_is_never_full() -> None:
    table = Table(0)
    table.room = None
    assert not Crowding(table.look)(100.0)


def test_many_that_ask_at_once_cost_one_look() -> None:
    table = Table(LIMIT)
    crowded = Crowding(table.look)
    assert all(crowded(100.0 + FRESH_S / 2) for _ in range(1000))
    assert table.looks == 1
