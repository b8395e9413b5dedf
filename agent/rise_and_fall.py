"""Rise and fall: a gateway changes sides after so many answers in a row, not with each. Pure."""

from __future__ import annotations

from agent.probes import Answer, Verdict
from protocol.objects import Check


class Course:
    """Turns the single answers of one target into up and down."""

    __slots__ = ("doubtful", "fall", "reason", "rise", "streak", "up")

    def __init__(self, check: Check) -> None:
        self.rise = check.rise
        self.fall = check.fall
        self.up: bool | None = None
        """None until the first answer."""
        self.doubtful = False
        """The first answer was silence, and is yet to be confirmed."""
        self.streak = 0
        """Answers in a row that contradict ``up``."""
        self.reason = ""
        """Of the newest bad answer."""

    def take(self, answer: Answer) -> bool:
        """Count one answer; True if ``up`` changed."""
        was_doubtful, self.doubtful = self.doubtful, False
        if answer.verdict is Verdict.UNCLEAR:
            return False
        good = answer.verdict is Verdict.GOOD
        if not good:
            self.reason = answer.reason
        if self.up is None:
            self.doubtful = answer.silent and not was_doubtful
            if self.doubtful:
                return False
            self.up = good
            return not good
        if good is self.up:
            self.streak = 0
            return False
        self.streak += 1
        if self.streak < (self.rise if good else self.fall):
            return False
        self.up, self.streak = good, 0
        return True

    def suspect(self, why: str) -> bool:
        """One more bad answer shall do; False if it is down anyway."""
        if not self.up:
            return False
        self.streak, self.reason = max(self.streak, self.fall - 1), why
        return True
