"""What a device's last candidacy rested on: kept for people, decides nothing."""

from __future__ import annotations

from protocol.ids import DeviceId
from protocol.messages import Answer, Reason, Voted


class Evidence:
    """Who was asked and answered what. Times are nanoseconds of the device's own clock."""

    __slots__ = ("answers", "began", "cause", "predecessor", "term", "votes")

    def __init__(self) -> None:
        self.cause = ""
        """Why it stood; empty before the first candidacy."""
        self.term = 0
        self.began = 0
        self.predecessor: DeviceId | None = None
        """The primary before, as far as known."""
        self.answers: dict[DeviceId, Reason] = {}
        """PreVote: why a voter would not vote; NONE if it would."""
        self.votes: dict[DeviceId, Reason] = {}
        """Why a voter did not vote; NONE if it did."""

    def asks(self) -> None:
        """A new search for evidence begins."""
        self.answers = {}

    def answered(self, sender: DeviceId, answer: Answer) -> None:
        self.answers[sender] = Reason.NONE if answer.would_vote else answer.reason

    def stands(self, cause: str, term: int, predecessor: DeviceId | None, now: int) -> None:
        """A candidacy begins, for this reason."""
        self.cause, self.term, self.began = cause, term, now
        self.predecessor = predecessor
        self.votes = {}

    def voted(self, sender: DeviceId, voted: Voted) -> None:
        self.votes[sender] = Reason.NONE if voted.granted else voted.reason
