"""May a device go? Only where those that stay can still confirm what follows.

Voters change one at a time, each step on the word of a majority of the list before it.
A device that the Site no longer knows gives no word, so one that goes too soon after
another, or is one of two, would leave a list that can never change again, and perhaps
elects nobody.
"""

from __future__ import annotations

from protocol.assignment import wanted_voters
from protocol.config import Config
from protocol.errors import Refused
from protocol.objects import Assignment, Device, VirtualServer
from protocol.quorum import has_majority


def refuse_lost_majority(config: Config, device: Device) -> None:
    """Raise Refused if ``device`` were missed: by the Site's voters, or a Virtual Server's.

    What is left of a Virtual Server that was deleted serves nobody and holds nobody back.
    """
    left = config.devices.keys() - {device.id}
    why = f"device {device.name!r} cannot go: too few would be left of those that vote on"
    voters = config.site.voters if config.site else ()
    if device.id in voters and not has_majority(voters, left):
        # The removal itself needs their word, and who has gone gives none.
        raise Refused(
            f"{why} changes",
            "Let another device join first, if only as a witness. Or else: `halbctl leave --force` "
            "on it, `halbctl recover` on one that stays, and remove it there.",
        )
    for uid, server in config.virtual_servers.items():
        assignment = config.assignments.get(uid)
        if assignment is None:
            continue
        lists = [v for v in (assignment.voters, assignment.former) if device.id in v]
        if not all(has_majority(voters, left) for voters in lists):
            remedy = _remedy(config, server, assignment)
            raise Refused(f"{why} Virtual Server {server.name!r}", remedy)


def _remedy(config: Config, server: VirtualServer, assignment: Assignment) -> str:
    lost = "If it is lost for good, run `halbctl recover` first."
    if not assignment.settled or set(assignment.voters) != set(wanted_voters(config, server)):
        return f"These change just now: repeat it in a moment. {lost}"
    return (
        f"Name others with `halbctl vs edit {server.name}`, and wait until `halbctl explain "
        f"{server.name}` lists it no more. {lost}"
    )
