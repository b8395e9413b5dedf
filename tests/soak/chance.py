"""What happens next, by weight."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

Kinds = Sequence[tuple[int, Callable[[], None]]]
"""What may happen, each with its weight."""


def drawn(random: Random, kinds: Kinds) -> Callable[[], None]:
    """One of ``kinds``."""
    ((_, act),) = random.choices(kinds, [weight for weight, _ in kinds])
    return act
