"""HALB's protocol: pure and deterministic.

Takes messages and the time, returns messages and actions. Never touches a
socket, clock, file, thread, log or global randomness. See docs/protocol.md.
"""
