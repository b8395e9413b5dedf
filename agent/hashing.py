"""Which gateway has which slot: weighted rendezvous hashing, and taking turns.

Each gateway draws one number per slot, from its own name alone; the best draw
has the slot. Hence a gateway that leaves loses its own slots and moves no
other, one that comes takes only what it wins, and all devices agree without
talking. With weight ``w`` and a uniform draw ``u`` the cost is ``-ln(u) / w``,
an exponential variable of rate ``w``: the chance to be the smallest is exactly
``w`` over the sum of the weights.

Sources: Thaler and Ravishankar, "Using Name-Based Mappings to Increase Hit
Rates" (1998); weights by the logarithmic method of Schindelhauer and
Schomaker, "Weighted Distributed Hash Tables" (2005).
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Mapping
from functools import lru_cache
from itertools import repeat

from protocol.objects import SLOTS

_DRAWS = struct.Struct(f">{SLOTS}Q")


def assign_slots(weights: Mapping[str, int], seed: int) -> tuple[str, ...]:
    """The gateway of each of the 256 slots; empty if no gateway has weight.

    ``weights`` maps a gateway's address to its weight, 0 or more; its order
    does not matter. ``seed`` is the Virtual Server's, 32 bits, so that two of
    them with the same gateways do not share one bias. Shares are random draws:
    of 256 slots a share ``p`` has ``256 p`` with a standard deviation of
    ``sqrt(256 p (1 - p))``.
    """
    running = tuple(sorted((name, weight) for name, weight in weights.items() if weight > 0))
    return _assign(running, seed) if running else ()


@lru_cache(maxsize=1024)
def _assign(running: tuple[tuple[str, int], ...], seed: int) -> tuple[str, ...]:
    """Kept, because all listeners of a Virtual Server share it, pass after pass.

    Among gateways of one weight the highest draw costs least, so that logarithms are
    taken only of the best of each weight: a fifth of the time with ten equal gateways.
    """
    rows: dict[int, list[tuple[int, ...]]] = {}
    owner: dict[int, str] = {}
    for name, weight in reversed(running):
        draws = _draws(name, seed)
        rows.setdefault(weight, []).append(draws)
        # Of two gateways with the same draw, the first by name has it.
        owner.update(zip(draws, repeat(name)))
    best = {
        weight: tuple(map(max, *several)) if len(several) > 1 else several[0]
        for weight, several in rows.items()
    }
    if len(best) == 1:
        return tuple(map(owner.__getitem__, *best.values()))
    return tuple(
        min((_cost(draws[slot]) / weight, owner[draws[slot]]) for weight, draws in best.items())[1]
        for slot in range(SLOTS)
    )


MAX_ROTATION = 1024


def rotation(weights: Mapping[str, int]) -> tuple[str, ...]:
    """Gateways in turn, each as often as its weight says, as evenly spread as can be.

    One round is as long as the weights need it, at most :data:`MAX_ROTATION`;
    with weights that would need more, shares are rounded, but none to nothing.
    Source: smooth weighted round-robin, as in nginx (2012).
    """
    running = tuple(sorted((name, weight) for name, weight in weights.items() if weight > 0))
    return _rotation(running)


@lru_cache(maxsize=1024)
def _rotation(running: tuple[tuple[str, int], ...]) -> tuple[str, ...]:
    share = math.gcd(*(weight for _, weight in running))
    total = sum(weight for _, weight in running) // share
    if total <= MAX_ROTATION:
        turns = {name: weight // share for name, weight in running}
    else:
        part = MAX_ROTATION / total / share
        turns = {name: max(1, round(weight * part)) for name, weight in running}
    length = sum(turns.values())
    due = dict.fromkeys(turns, 0)
    found = []
    for _ in range(length):
        for name, count in turns.items():
            due[name] += count
        name = max(due, key=lambda each: due[each])
        due[name] -= length
        found.append(name)
    return tuple(found)


def _draws(name: str, seed: int) -> tuple[int, ...]:
    """The gateway's draw for each slot, 64 bits, the same on every machine."""
    return _DRAWS.unpack(hashlib.shake_256(f"{seed:08x} {name}".encode()).digest(_DRAWS.size))


def _cost(draw: int) -> float:
    """The cost of a slot at weight 1."""
    return -math.log((draw + 1) / (1 << 64))
