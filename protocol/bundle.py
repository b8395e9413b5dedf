"""Election messages of many groups to one device, in one frame.

A device that dies may have been primary of a thousand Virtual Servers: each candidate then
asks each voter about each of them, again and again. One frame for each question would cost
more than all else in the election, and fill every queue on the way.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from protocol.messages import Answer, Ask, HandOver, Message, Resign, Vote, Voted

MAX_BUNDLE = 256
"""Messages in one bundle; all of the longest kind stay below the largest urgent frame."""
OfGroup = Ask | Answer | Vote | Voted | HandOver | Resign
"""Messages about one group's election: what may be in one."""


class Bundle(msgspec.Struct, frozen=True, tag_field="t", tag="bundle"):
    """Messages of one sender to one receiver, in the order in which they were said."""

    messages: Annotated[tuple[OfGroup, ...], msgspec.Meta(max_length=MAX_BUNDLE)]


Frame = Message | Bundle
"""What the body of one frame says."""
