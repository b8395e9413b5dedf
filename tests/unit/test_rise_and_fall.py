"""A target changes sides after so many answers in a row."""

from __future__ import annotations

import pytest

from agent.probes import GOOD, Answer, Verdict
from agent.rise_and_fall import Course
from protocol.objects import Check

BAD = Answer(Verdict.BAD, "connection refused")


def course(*answers: Answer) -> Course:
    made = Course(Check(rise=2, fall=3))
    for answer in answers:
        made.take(answer)
    return made


def test_is_unknown_before_the_first_answer() -> None:
    assert course().up is None


@pytest.mark.parametrize(("answer", "up"), [(GOOD, True), (BAD, False)])
def test_the_first_answer_decides(answer: Answer, up: bool) -> None:
    assert course(answer).up is up


def test_falls_after_as_many_bad_answers_as_fall_says() -> None:
    assert course(GOOD, BAD, BAD).up is True
    assert course(GOOD, BAD, BAD, BAD).up is False


def test_rises_after_as_many_good_answers_as_rise_says() -> None:
    assert course(BAD, GOOD).up is False
    assert course(BAD, GOOD, GOOD).up is True


def test_only_answers_in_a_row_count() -> None:
    assert course(GOOD, BAD, BAD, GOOD, BAD, BAD).up is True


def test_a_first_silence_is_to_be_confirmed() -> None:
    """While a device boots its first frames get lost, and its checks may be far apart."""
    silent = Answer(Verdict.BAD, "no answer in 1 s", silent=True)
    assert course(silent).up is None
    assert course(silent, silent).up is False
    assert course(silent, BAD).up is False
    assert course(silent, GOOD).up is True
    assert course(GOOD, silent, silent, silent).up is False


def test_a_check_that_could_not_be_made_counts_for_nothing() -> None:
    unclear = Answer(Verdict.UNCLEAR, "too many open files")
    assert course(unclear).up is None
    assert course(GOOD, BAD, BAD, unclear, unclear).up is True
    assert course(GOOD, BAD, BAD, unclear, BAD).up is False
