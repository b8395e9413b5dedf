"""Which notices of the connection table are worth reading: a packet filter in the kernel. Pure.

The kernel tells of every change of state, six times for a short connection of TCP, and of
the half-open flows of an attack. Two of these matter: the flow was established, and nothing
more will come. What the filter drops costs this process nothing.
"""

from __future__ import annotations

import sys

from agent.ctnetlink import CLOSE, ESTABLISHED, OPEN, PROTOINFO, STATUS, TCP_STATE_AT, TIME_WAIT
from agent.netlink import Program

_ATTRIBUTE_AT = 0xFFFFF000 + 12
"""Finds the attribute X behind offset A (linux/filter.h)."""
_BODY_AT = 20
"""Behind the headers of netlink and of netfilter."""
_STATE_AT = 4 + TCP_STATE_AT
"""Where the TCP state stands, behind the header of what is nested as well."""
DELETE = 2
"""The last byte of the type of a message: this, or 0 for an update."""
KIND_AT = 4 if sys.byteorder == "little" else 5

_LDX, _LD, _LD_WORD, _LD_BYTE = 0x01, 0x00, 0x20, 0x30
_LD_WORD_AT_X, _LD_BYTE_AT_X, _TAX, _AND, _IF, _RETURN = 0x40, 0x50, 0x07, 0x54, 0x15, 0x06
"""Instructions of the classic packet filter (linux/bpf_common.h)."""

NOTHING: Program = ((_RETURN, 0, 0, 0),)

BEGUN_OR_ENDED: Program = (
    (_LDX, 0, 0, STATUS),
    (_LD, 0, 0, _BODY_AT),
    (_LD_WORD, 0, 0, _ATTRIBUTE_AT),
    (_IF, 18, 0, 0),
    (_TAX, 0, 0, 0),
    (_LD_WORD_AT_X, 0, 0, 4),
    (_AND, 0, 0, OPEN),
    (_IF, 0, 14, OPEN),
    (_LDX, 0, 0, PROTOINFO),
    (_LD, 0, 0, _BODY_AT),
    (_LD_WORD, 0, 0, _ATTRIBUTE_AT),
    # No state of TCP: UDP, or something else than the state has changed.
    (_IF, 9, 0, 0),
    (_TAX, 0, 0, 0),
    (_LD_BYTE_AT_X, 0, 0, _STATE_AT),
    (_IF, 6, 0, ESTABLISHED),
    (_IF, 3, 0, TIME_WAIT),
    (_IF, 2, 0, CLOSE),
    # In between: only its sudden end matters.
    (_LD_BYTE, 0, 0, KIND_AT),
    (_IF, 2, 3, DELETE),
    # Over: that was told when it came to be so, and its end is old news.
    (_LD_BYTE, 0, 0, KIND_AT),
    (_IF, 1, 0, DELETE),
    (_RETURN, 0, 0, 0xFFFFFFFF),
    (_RETURN, 0, 0, 0),
)
