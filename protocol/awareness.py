"""How well this device itself is: one that is slow must not call others dead.

Local health of Lifeguard (Dadgar, Phillips, Currey 2017): a score that grows
with signs of own trouble and stretches this device's patience (LHA-Probe).
"""

from __future__ import annotations

MAX_SCORE = 8


class Awareness:
    """The score, 0 (well) to :data:`MAX_SCORE`."""

    __slots__ = ("score",)

    def __init__(self) -> None:
        self.score = 0

    def worse(self, by: int = 1) -> None:
        """An own stall, a refuted suspicion of this device, or helpers that stayed silent."""
        self.score = min(MAX_SCORE, self.score + by)

    def better(self) -> None:
        """A probe that was answered, or a while without any sign of trouble."""
        self.score = max(0, self.score - 1)

    def stretch(self, duration: int) -> int:
        """``duration`` as this device should wait it."""
        return duration * (self.score + 1)
