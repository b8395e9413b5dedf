"""What nftables calls things of IP version 4 and 6, and what our sets of them are named."""

from __future__ import annotations

KEYWORD = {4: "ip", 6: "ip6"}
"""Begins an expression about a packet's header."""
ADDRESS = {4: "ipv4_addr", 6: "ipv6_addr"}
"""Type of an address in a set or map."""
SUFFIX = {4: "", 6: "6"}
"""Ends the name of one of two sets or maps that differ in the version only."""
