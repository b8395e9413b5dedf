"""What a newcomer and a member of the Site say to each other, once each.

The newcomer trusts the member because the connection is pinned to the key in
the token; the member trusts the newcomer because it knows the token's secret.
"""

from __future__ import annotations

import msgspec

from protocol.api import Failure
from protocol.config import Config
from protocol.errors import BY_EXIT_CODE, ExitCode, HalbError, MalformedMessage, Refused
from protocol.ids import NO_REVISION, Revision
from protocol.objects import Device
from protocol.wire import MAX_BULK, config_from_bytes, config_to_bytes, pack, unpack

MAX_REQUEST = 8 * 1024
"""Largest request, bytes: anyone may send one."""
MAX_REPLY = MAX_BULK


class JoinRequest(msgspec.Struct, frozen=True):
    """\"Let me in\"."""

    token_id: str
    secret: str
    device: Device
    """The newcomer as it wants to be known."""
    asks_membership_of: str = ""
    """Id of a Site: it does not want in, but to know whether it still belongs to it."""
    knows: Revision = NO_REVISION
    """Of that Site's configuration: the revision in force for it, which names it."""
    site: str = ""
    """Id of the Site that the token is of; a release that does not say it leaves it empty."""


class JoinReply(msgspec.Struct, frozen=True):
    """The Site's configuration, or why not."""

    config: bytes = b""
    failure: Failure | None = None
    member: bool | None = None
    """Whether the device that asked belongs to the Site; None if it did not ask that."""
    elsewhere: bool = False
    """The device that was asked does not belong to the token's Site: another one decides."""


def membership(config: Config, request: JoinRequest) -> JoinReply:
    """The answer to a device that asks whether it still belongs to the Site.

    Says yes for another Site than this: it is not for us to tell. Nor is it where the device
    knows more than we do, who may have been away when it came: raises Refused.
    """
    ours = config.site is not None and config.site.id == request.asks_membership_of
    if ours and config.revision < request.knows:
        raise Refused(
            f"this device knows revision {config.revision}, older than {request.knows}",
            "Ask another one.",
        )
    return JoinReply(member=not ours or request.device.id in config.devices)


def welcome(config: Config) -> JoinReply:
    """The answer to a device that ``config`` names already."""
    return JoinReply(config=config_to_bytes(config))


def refusal(error: HalbError) -> JoinReply:
    """The answer to a device that is not let in."""
    return JoinReply(failure=failure_of(error))


def elsewhere(device: str) -> JoinReply:
    """The answer of a device that has left the Site that a token is of."""
    error = Refused(
        f"device {device} does not belong to the Site of the token any more",
        "Make a new token with `halbctl token create` on a device of the Site.",
    )
    return JoinReply(failure=failure_of(error), elsewhere=True)


def config_of(reply: JoinReply) -> Config:
    """The configuration in a reply; raises the error that a refusal carries."""
    if reply.failure is not None:
        raise error_of(reply.failure)
    return config_from_bytes(reply.config, MAX_REPLY)


def failure_of(error: HalbError) -> Failure:
    """An error as it travels."""
    return Failure(int(error.exit_code), error.message, error.remedy)


def error_of(failure: Failure) -> HalbError:
    """The error that a failure stands for; Refused where its code is not known."""
    known = failure.exit_code in set(ExitCode)
    kind = BY_EXIT_CODE.get(ExitCode(failure.exit_code), Refused) if known else Refused
    return kind(failure.message, failure.remedy)


def encode_join_request(request: JoinRequest) -> bytes:
    """One frame to a member; it carries a secret."""
    return pack(request)


def decode_join_request(data: bytes) -> JoinRequest:
    """The request in at most :data:`MAX_REQUEST` bytes; raises MalformedMessage."""
    return unpack(data, JoinRequest, MAX_REQUEST)


def encode_join_reply(reply: JoinReply) -> bytes:
    """One frame to the newcomer."""
    return pack(reply)


def decode_join_reply(data: bytes) -> JoinReply:
    """The reply in at most :data:`MAX_REPLY` bytes; raises MalformedMessage."""
    reply = unpack(data, JoinReply, MAX_REPLY)
    if not reply.config and reply.failure is None and reply.member is None:
        raise MalformedMessage("a join reply with neither a configuration nor a reason")
    return reply
