"""halb-agent: the shell around :mod:`protocol` on one device.

Sockets, disk, kernel, clocks and the control API; see docs/agent.md.
"""
