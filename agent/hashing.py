"""Which gateway has which slot: weighted rendezvous hashing, and taking turns.

Each gateway draws one number per slot, from its seat alone; the best draw has
the slot. Hence a gateway that leaves loses its own slots and moves no other,
one that comes takes only what it wins, and all devices agree without talking.
Virtual Servers whose gateways have the same seats and weights have the same
slots, so the kernel needs them once (:mod:`agent.distribution`).

With weight ``w`` and a uniform draw ``u`` the cost is ``-ln(u) / w``, an
exponential variable of rate ``w``: the chance to be the smallest is exactly
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

VARIANTS = 16
"""Ways to draw: with one, Virtual Servers with the same gateways would share one bias."""
_DRAWS = struct.Struct(f">{SLOTS}Q")


def assign_slots(weights: Mapping[int, int], seed: int) -> tuple[int, ...]:
    """The seat of each of the 256 slots; empty if no gateway has weight.

    ``weights`` maps a gateway's seat to its weight, 0 or more; its order
    does not matter. ``seed`` is the Virtual Server's, 32 bits, and chooses one of
    :data:`VARIANTS`. Shares are random draws: of 256 slots a share ``p`` has ``256 p``
    with a standard deviation of ``sqrt(256 p (1 - p))``.
    """
    running = tuple(sorted((seat, weight) for seat, weight in weights.items() if weight > 0))
    return _assign(running, seed % VARIANTS) if running else ()


@lru_cache(maxsize=1024)
def _assign(running: tuple[tuple[int, int], ...], variant: int) -> tuple[int, ...]:
    """Kept, because many listeners share it, pass after pass.

    Among gateways of one weight the highest draw costs least, so that logarithms are
    taken only of the best of each weight: a fifth of the time with ten equal gateways.
    """
    rows: dict[int, list[tuple[int, ...]]] = {}
    owner: dict[int, int] = {}
    for seat, weight in reversed(running):
        draws = _draws(seat, variant)
        rows.setdefault(weight, []).append(draws)
        # Of two gateways with the same draw, the first one has it.
        owner.update(zip(draws, repeat(seat)))
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


def rotation(weights: Mapping[int, int]) -> tuple[int, ...]:
    """Seats in turn, each as often as its weight says, as evenly spread as can be.

    One round is as long as the weights need it, at most :data:`MAX_ROTATION`;
    with weights that would need more, shares are rounded, but none to nothing.
    Source: smooth weighted round-robin, as in nginx (2012).
    """
    running = tuple(sorted((seat, weight) for seat, weight in weights.items() if weight > 0))
    return _rotation(running)


@lru_cache(maxsize=1024)
def _rotation(running: tuple[tuple[int, int], ...]) -> tuple[int, ...]:
    share = math.gcd(*(weight for _, weight in running))
    total = sum(weight for _, weight in running) // share
    if total <= MAX_ROTATION:
        turns = {seat: weight // share for seat, weight in running}
    else:
        part = MAX_ROTATION / total / share
        turns = {seat: max(1, round(weight * part)) for seat, weight in running}
    length = sum(turns.values())
    due = dict.fromkeys(turns, 0)
    found = []
    for _ in range(length):
        for seat, count in turns.items():
            due[seat] += count
        seat = max(due, key=lambda each: due[each])
        due[seat] -= length
        found.append(seat)
    return tuple(found)


def _draws(seat: int, variant: int) -> tuple[int, ...]:
    """A seat's draw for each slot, 64 bits, the same on every machine."""
    return _DRAWS.unpack(hashlib.shake_256(f"{variant} {seat}".encode()).digest(_DRAWS.size))


def _cost(draw: int) -> float:
    """The cost of a slot at weight 1."""
    return -math.log((draw + 1) / (1 << 64))
