"""What ``halbctl doctor`` asks and shows: part of the control API."""

from __future__ import annotations

from typing import Literal

import msgspec


class GetDoctor(msgspec.Struct, frozen=True, tag_field="op", tag="doctor"):
    """Answered by :class:`Diagnosis`, also by an agent without a Site, after some seconds."""


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at."""

    check: str
    """capabilities | kernel | settings | interface | time | firewall | connections | rules |
    peers | gateways | mtu | dsr | agent"""
    state: Literal["ok", "warning", "problem"]
    text: str
    """What was found, with names and values."""
    remedy: str = ""
    """What to do about it; empty where all is well."""


class Diagnosis(msgspec.Struct, frozen=True, tag_field="re", tag="doctor"):
    """All that was looked at on one device, in the order of the checks."""

    device: str
    site: str
    """Empty while it belongs to none: then peers and gateways were not looked at."""
    findings: tuple[Finding, ...]
