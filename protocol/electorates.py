"""Who takes part in a group: from the configuration to the election."""

from __future__ import annotations

from protocol.arbiter import Pair
from protocol.assignment import carriers_of
from protocol.config import Config
from protocol.ids import GroupId, Revision
from protocol.objects import Assignment
from protocol.voter import Electorate


def least_revision(config: Config, group: GroupId) -> Revision:
    """What a candidate for a Virtual Server must know of ``config``, or more."""
    return max(config.revision_of((kind, group)) for kind in ("virtual-server", "assignment"))


def electorate_of(config: Config, assignment: Assignment) -> Electorate:
    """The electorate of a Virtual Server under the committed ``config``.

    A candidate must know at least the voter's revision of the Virtual Server
    itself and of its assignment; unrelated changes exclude nobody.
    """
    server = config.virtual_servers.get(assignment.uid)
    ranked = carriers_of(config, server) if server else ()
    formerly = assignment.former if assignment.formerly_lone else ()
    pair, two = None, assignment.voters if assignment.lone else formerly
    if server and two:
        hold = server.on_peer_loss == "hold"
        pair = Pair(two, server.arbiter, hold, server.wait_for_peer)
    return Electorate(
        number=assignment.number,
        voters=assignment.voters,
        carriers=tuple(d for d in ranked if d in assignment.voters),
        revision=least_revision(config, assignment.uid),
        pair=pair,
        lone=pair is not None and assignment.lone and not assignment.former,
    )


def site_electorate(config: Config, durable: Revision) -> Electorate | None:
    """The electorate of the coordinator; None outside a Site.

    As with Raft's log, a candidate must have everything that the voter has on
    disk; its voters are those of the newest configuration, committed or not.
    """
    if config.site is None:
        return None
    return Electorate(
        number=0, voters=config.site.voters, carriers=config.site.voters, revision=durable
    )
