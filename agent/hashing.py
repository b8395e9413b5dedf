"""Which gateway has which slot: weighted rendezvous hashing.

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
    """Kept, because all listeners of a Virtual Server share it, pass after pass."""
    costs = [(_costs(name, seed), weight, name) for name, weight in running]
    return tuple(
        min((of[slot] / weight, name) for of, weight, name in costs)[1] for slot in range(SLOTS)
    )


def _costs(name: str, seed: int) -> tuple[float, ...]:
    """The gateway's cost of each slot at weight 1, the same on every machine."""
    stream = hashlib.shake_256(f"{seed:08x} {name}".encode()).digest(_DRAWS.size)
    return tuple(-math.log((draw + 1) / (1 << 64)) for draw in _DRAWS.unpack(stream))
