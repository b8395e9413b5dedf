"""``halbctl failover``: break glass for two devices."""

from __future__ import annotations

from typing import Annotated

import typer

from halbctl.app import area
from halbctl.arguments import VirtualServer
from halbctl.session import confirm, finish, order
from halbctl.settings import settings_of
from protocol.errors import InvalidInput

app = area()

FAILOVER_S = 10.0


@app.command()
def failover(
    ctx: typer.Context,
    vs: VirtualServer,
    force: Annotated[
        bool, typer.Option("--force", help="You know that the other device does not serve.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Let this device serve without the other one of two. [timeout: 10]

    For `on_peer_loss: hold`, and for a device that started and waits for the
    other. Refused while the other device is heard or somebody answers for a VIP.
    """
    from protocol.api import Failover

    if not force:
        raise InvalidInput(
            "failover takes the Virtual Server without the other device's word",
            "Say --force if that device is off; if it is heard, use `halbctl promote`.",
        )
    confirm(f"Is the other device of {vs} off? Two devices with one VIP break it.", yes=yes)
    limit = settings_of(ctx).timeout_or(FAILOVER_S)
    finish(ctx, order(ctx, Failover(vs, limit), limit))
