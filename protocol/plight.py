"""Why nothing can be changed now, and what helps: said with the names of who is missing."""

from __future__ import annotations

from collections.abc import Callable

from protocol.config import Config
from protocol.errors import NoQuorum
from protocol.ids import DeviceId
from protocol.quorum import majority


def no_coordinator(config: Config, hears: Callable[[DeviceId], bool]) -> NoQuorum:
    """The refusal of a change that no coordinator took. ``hears(device)``: this one included."""
    voters = config.site.voters if config.site else ()
    silent = [config.devices[d].name for d in voters if d in config.devices and not hears(d)]
    if not silent or len(voters) - len(silent) >= majority(voters):
        return NoQuorum(
            "a majority of the Site's voting devices is heard, but has no coordinator",
            "Try again in a few seconds; `halbctl status` shows what each device lacks.",
        )
    names = f"{', '.join(silent[:-1])} and {silent[-1]}" if len(silent) > 1 else silent[0]
    two = "; of two devices both must agree" if len(voters) == 2 else ""
    return NoQuorum(
        f"no majority of the Site's voting devices can be reached: {names} cannot be heard{two}",
        f"Bring {names} back. If lost for good: `halbctl recover`. Until then `halbctl --local` "
        "changes gateways and listeners on one device.",
    )
