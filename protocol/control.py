"""What a client must know of the control API before it loads any of its types.

Apart from :mod:`protocol.api`, so that ``halbctl status`` starts without
msgspec, which would cost it more time than the request itself.
"""

from __future__ import annotations

API_VERSION = 1
"""Version of the control API; agent and client refuse each other where it differs."""
MAX_FRAME = 4 * 1024 * 1024
"""Largest request, bytes: anybody may send one who reaches the socket."""
MAX_REPLY = 64 * 1024 * 1024
"""Largest reply, bytes: the metrics of 1000 Virtual Servers with ten gateways have 12."""
DEFAULT_CONTROL = "/run/halb/control.sock"
OPERATORS = 3
"""Operators connect to a device's port and so many more: 7483 by default."""
WATCH_LEASE_S = 15
"""A watch ends when the client did not say for this long that it still watches."""
