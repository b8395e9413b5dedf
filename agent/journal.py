"""The agent's log: one line per event on standard error.

Under systemd a line begins with its priority, ``<6>halb.vips: text``, and the
journal adds the time; elsewhere it begins with the time. A line is always one
line: whatever a peer or a file put into it cannot forge another. Lines that
repeat are sampled, with a count of what was left out. Writing never blocks:
a line that nobody reads is dropped and counted, since a full pipe must not
hold up a heartbeat. Secrets do not belong into messages; join tokens and keys
that get there all the same are blotted out.
"""

from __future__ import annotations

import logging
import os
import re
import select
import sys
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

MAX_LINE = 2000
"""Longest text, characters."""
MAX_BYTES = 4000
"""Longest line; a pipe takes 4096 bytes whole or not at all."""
BURST = 10
"""Lines of one kind that are written within one window."""
WINDOW_S = 10.0
MAX_KINDS = 256

PRIORITY = {
    logging.DEBUG: 7,
    logging.INFO: 6,
    logging.WARNING: 4,
    logging.ERROR: 3,
    logging.CRITICAL: 2,
}
"""Levels of syslog."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_SECRET = re.compile(
    r"\bhalb\d+[-_.:][^\s'\"]+"
    r"|(?i:\b(secret|secret_key|private_key|password)\b\s*[=:]\s*)\S+"
)


def clean(text: str) -> str:
    """``text`` as one line without control characters and known forms of secrets."""
    text = _CONTROL.sub(lambda m: m.group().encode("unicode_escape").decode(), text)
    text = _SECRET.sub(lambda m: f"{m.group(1)}=[secret]" if m.group(1) else "[token]", text)
    return text if len(text) <= MAX_LINE else text[: MAX_LINE - 3] + "..."


def message_of(record: logging.LogRecord) -> str:
    """The record's text; a message whose arguments do not fit is no reason to fail."""
    try:
        return record.getMessage()
    except (TypeError, ValueError):
        return f"{record.msg} {record.args!r}"


class Line(logging.Formatter):
    """Renders a record; ``systemd`` chooses between priority and time."""

    def __init__(self, *, systemd: bool) -> None:
        super().__init__()
        self.systemd = systemd

    def format(self, record: logging.LogRecord) -> str:
        text = message_of(record)
        if record.exc_info:
            # What is too long loses its end, and the exception itself stands there.
            said = "".join(traceback.format_exception_only(record.exc_info[1])).strip()
            text = f"{text}: {said}: {self.formatException(record.exc_info)}"
        text = clean(text)
        if self.systemd:
            return f"<{PRIORITY.get(record.levelno, 6)}>{record.name}: {text}"
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        return f"{stamp}.{record.msecs:03.0f}Z {record.levelname.lower()} {record.name}: {text}"


@dataclass
class _Kind:
    began: float
    written: int = 0
    left_out: int = 0


class Sampling(logging.Filter):
    """Lets :data:`BURST` lines of one kind through per window, and counts the rest.

    A kind is a logger, a level and a message before its arguments are put in.
    The first line after a window that had too many carries the count.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._kinds: OrderedDict[tuple[str, int, str], _Kind] = OrderedDict()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written; adds the count of those before it that were not."""
        key = (record.name, record.levelno, str(record.msg))
        now = self._clock()
        kind = self._kinds.setdefault(key, _Kind(now))
        self._kinds.move_to_end(key)
        if len(self._kinds) > MAX_KINDS:
            self._kinds.popitem(last=False)
        if now - kind.began >= WINDOW_S:
            left_out = kind.left_out
            self._kinds[key] = kind = _Kind(now)
            if left_out:
                record.msg = f"{message_of(record)} ({left_out} more like this were left out)"
                record.args = None
        kind.written += 1
        if kind.written > BURST:
            kind.left_out += 1
            return False
        return True


class NeverBlocking(logging.Handler):
    """Writes each line with one system call, or drops it where that would block."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = fd
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self.dropped = 0
        """Lines dropped since the newest one that was written."""

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record)
        if self.dropped:
            line += f" ({self.dropped} lines before this were dropped: nobody read them)"
        data = line.encode(errors="backslashreplace")[:MAX_BYTES]
        whole_characters = data.decode(errors="ignore").encode()
        if self._write(whole_characters + b"\n"):
            self.dropped = 0
        else:
            self.dropped += 1

    def _write(self, line: bytes) -> bool:
        try:
            ready = self._poll.poll(0)
            if not ready or not ready[0][1] & select.POLLOUT:
                return False
            return os.write(self._fd, line) > 0
        except OSError:
            # There is nowhere left to say it; the count tells of it.
            return False


def set_up(level: str = "info", fd: int | None = None) -> None:
    """Send all logging to ``fd`` (standard error) from ``level`` on.

    ``level`` is debug, info, warning or error; raises ValueError for others.
    """
    if level not in ("debug", "info", "warning", "error"):
        raise ValueError(f"log level {level!r} is not one of debug, info, warning, error")
    handler = NeverBlocking(sys.stderr.fileno() if fd is None else fd)
    handler.setFormatter(Line(systemd="JOURNAL_STREAM" in os.environ))
    handler.addFilter(Sampling())
    logging.captureWarnings(capture=True)
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    # asyncio tells of each socket at debug level.
    logging.getLogger("asyncio").setLevel(logging.WARNING)
