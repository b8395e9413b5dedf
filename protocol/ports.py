"""Ports of a listener as people write them: ``443``, ``"3000-3010"`` or ``all``."""

from __future__ import annotations

from protocol.errors import InvalidInput
from protocol.shown import shown

HIGHEST = 65535
ALL = "all"

Ports = tuple[int, int]
"""First and last port, both included."""


def check_ports(path: str, value: int | str) -> Ports:
    """The ports that ``value`` means; InvalidInput that names ``path`` otherwise."""
    if value == ALL:
        return 1, HIGHEST
    first, dash, last = str(value).partition("-")
    if not (_is_number(first) and (_is_number(last) or not dash)):
        raise InvalidInput(
            f"`{path}` is {shown(value)}, which is no port",
            'Use a whole number from 1 to 65535, a range such as "3000-3010", or all.',
        )
    found = int(first), int(last or first)
    for port in found:
        if not 1 <= port <= HIGHEST:
            raise InvalidInput(f"`{path}` is {shown(value)}, which is no port", "Use 1 to 65535.")
    if found[0] > found[1]:
        raise InvalidInput(
            f"`{path}` is {shown(value)}, which ends before it begins",
            f'Write "{found[1]}-{found[0]}".',
        )
    return found


def ports_text(ports: Ports) -> str:
    """``443``, ``3000-3010`` or ``all``; the inverse of :func:`check_ports`."""
    first, last = ports
    if ports == (1, HIGHEST):
        return ALL
    return str(first) if first == last else f"{first}-{last}"


def overlap(one: Ports, other: Ports) -> bool:
    """Whether two ranges have a port in common."""
    return one[0] <= other[1] and other[0] <= one[1]


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5
