"""From one ruleset to another in transactions that do not hold others up for long. Pure.

The kernel does not let go of a processor within a transaction, and takes no other one
meanwhile, such as that which opens a lease. So a change of many Virtual Servers is made in
stages, each of them a state to be in: chains that nothing leads to yet; then all that leads to
them, at once; then chains that change, those of a Virtual Server together; and what nothing
needs any more goes at the end.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TypeVar

from agent.ruleset import Ruleset
from agent.ways import Ways

AT_ONCE = 128
"""Chains of one transaction, unless one Virtual Server alone has more: some 20 ms."""

Chains = Mapping[str, tuple[str, ...]]


Table = TypeVar("Table", Ruleset, Ways)


def stages(old: Table, new: Table) -> Iterator[Table]:
    """What to be in, one after the other, on the way from ``old`` to ``new``, which is the last."""
    differ = [name for name, rules in new.chains.items() if old.chains.get(name) != rules]
    if len(differ) > AT_ONCE:
        yield from _on_the_way(old, new, differ)
    yield new


def _on_the_way(old: Table, new: Table, differ: list[str]) -> Iterator[Table]:
    now = old
    for now in old.filled(new):
        yield now
    for some in _portions(name for name in differ if name not in old.chains):
        now = _having(now, new, some)
        yield now
    # What is led elsewhere, or nowhere, is so at once: ranges of ports must never overlap.
    now = now.led(new)
    yield now
    for some in _portions(name for name in differ if name in old.chains):
        now = _having(now, new, some)
        yield now


def _having(now: Table, new: Table, some: Iterable[str]) -> Table:
    """With ``some`` chains of ``new``, and the sets and maps that their rules ask."""
    chains = {name: new.chains[name] for name in some}
    asked = (name for rules in chains.values() for rule in rules for name in _ASKED.findall(rule))
    sets = {name: new.sets[name] for name in asked if name in new.sets}
    return replace(now, sets={**now.sets, **sets}, chains={**now.chains, **chains})


_ASKED = re.compile(r"@(\w+)")


def _portions(names: Iterable[str]) -> Iterator[list[str]]:
    """Chains of bounded number, all those of a Virtual Server in one portion.

    What belongs to no Virtual Server comes first, for chains of theirs lead there.
    """
    groups: dict[str, list[str]] = {"": []}
    for name in names:
        kind, _, rest = name.partition("_")
        groups.setdefault(rest.partition("_")[0] if kind in _OWNED else "", []).append(name)
    portion: list[str] = []
    for group in groups.values():
        if portion and len(portion) + len(group) > AT_ONCE:
            yield portion
            portion = []
        portion = portion + group
    if portion:
        yield portion


_OWNED = frozenset({"vs", "count"})
"""How the names of chains begin that belong to one Virtual Server; its uid follows."""
