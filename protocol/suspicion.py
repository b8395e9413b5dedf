"""How long a suspect has to refute before it is called dead.

LHA-Suspicion of Lifeguard (Dadgar, Phillips, Currey 2017): one accuser alone
waits long; with each further device that accuses independently the time
shrinks, logarithmically, to the least. The least grows with the logarithm of
the Site's size, as the time does that a refutation needs to get around.
"""

from __future__ import annotations

from math import log, log10

from protocol.timing import SECOND

LEAST_NS = 3 * SECOND
"""Time to refute where enough devices agree, up to ten devices."""
MOST = 4
"""A lone accuser waits this many times longer."""
CONFIRMATIONS = 3
"""Further accusers after which the time is least."""


def least(devices: int) -> int:
    """Time to refute, nanoseconds, in a Site of ``devices`` where enough of them agree."""
    return int(LEAST_NS * max(1.0, log10(max(devices, 1))))


def patience(devices: int, accusers: int) -> int:
    """Nanoseconds from the accusation to the verdict.

    Who could accuse are all but the suspect: with two devices nobody can
    confirm, so a lone accuser does not wait for it.
    """
    expected = min(CONFIRMATIONS, devices - 2)
    shortest = least(devices)
    confirmed = max(0, accusers - 1)
    if expected < 1 or confirmed >= expected:
        return shortest
    longest = MOST * shortest
    return longest - int((longest - shortest) * log(confirmed + 1) / log(expected + 1))
