"""Everything that can go wrong, as specific exceptions.

A message names the thing, the value and the remedy; ``exit_code`` is what
``halbctl`` ends with when the error reaches an operator::

    HalbError
    ├── InvalidInput          2   the request itself is wrong; nothing was changed
    ├── Refused               1   well formed, but the Site's state forbids it
    ├── NotCommitted          3   stored, a majority has not confirmed it yet
    ├── RevisionConflict      4   --if-revision did not match
    ├── NoQuorum              5   no coordinator or no majority can be reached
    ├── Unreachable           6   the agent does not answer
    ├── TimedOut              7   waited for an outcome that did not come in time
    └── MalformedMessage      -   a peer sent bytes that are not our protocol
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of ``halbctl``; a promise to scripts."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOT_COMMITTED = 3
    CONFLICT = 4
    NO_QUORUM = 5
    UNREACHABLE = 6
    TIMED_OUT = 7


class HalbError(Exception):
    """Base of all errors that an operator may see.

    ``message`` says what is wrong, ``remedy`` what to do about it (may be
    empty where the message already says so).
    """

    exit_code: ExitCode = ExitCode.FAILED

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n{self.remedy}" if self.remedy else self.message


class InvalidInput(HalbError):
    """The request is malformed or out of range; nothing was changed."""

    exit_code = ExitCode.USAGE


class Refused(HalbError):
    """A well-formed request that the present state of the Site forbids."""


class NotCommitted(HalbError):
    """A change was stored but a majority has not confirmed it yet."""

    exit_code = ExitCode.NOT_COMMITTED


class RevisionConflict(HalbError):
    """The object changed since the revision that the caller named."""

    exit_code = ExitCode.CONFLICT


class NoQuorum(HalbError):
    """No coordinator, or no majority of its voters, can be reached."""

    exit_code = ExitCode.NO_QUORUM


class Unreachable(HalbError):
    """The agent does not answer on its control socket."""

    exit_code = ExitCode.UNREACHABLE


class TimedOut(HalbError):
    """The awaited outcome did not come within the time allowed."""

    exit_code = ExitCode.TIMED_OUT


class MalformedMessage(HalbError):
    """Bytes from the network that are not a valid message."""


BY_EXIT_CODE: dict[ExitCode, type[HalbError]] = {
    ExitCode.FAILED: Refused,
    ExitCode.USAGE: InvalidInput,
    ExitCode.NOT_COMMITTED: NotCommitted,
    ExitCode.CONFLICT: RevisionConflict,
    ExitCode.NO_QUORUM: NoQuorum,
    ExitCode.UNREACHABLE: Unreachable,
    ExitCode.TIMED_OUT: TimedOut,
}
