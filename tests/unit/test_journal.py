"""The agent's log: one line per event, bounded, and never in the way."""

from __future__ import annotations

import io
import logging
import os
import select
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from agent.journal import BURST, MAX_LINE, WINDOW_S, Line, NeverBlocking, Sampling, clean, set_up


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    with ExitStack() as ends:
        ends.callback(os.close, reader)
        ends.callback(os.close, writer)
        yield reader, writer


@pytest.fixture
def logging_restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)


def record(
    msg: str = "lease of %s lapsed", *args: object, level: int = logging.WARNING
) -> logging.LogRecord:
    made = logging.LogRecord("halb.vips", level, __file__, 1, msg, args, None)
    made.created, made.msecs = 1_700_000_000.25, 250.0
    return made


class TestLine:
    def test_begins_with_the_time(self) -> None:
        line = Line(systemd=False).format(record("lease of %s lapsed", "rdp"))
        assert line == "2023-11-14T22:13:20.250Z warning halb.vips: lease of rdp lapsed"

    def test_begins_with_the_priority_under_systemd(self) -> None:
        line = Line(systemd=True).format(record("lease of %s lapsed", "rdp"))
        assert line == "<4>halb.vips: lease of rdp lapsed"

    def test_is_one_line_whatever_a_peer_put_into_it(self) -> None:
        line = Line(systemd=True).format(record("peer says %s", "x\n<0>kernel: panic\x1b[2J"))
        assert line == r"<4>halb.vips: peer says x\n<0>kernel: panic\x1b[2J"

    def test_is_bounded(self) -> None:
        assert len(clean("x" * 100_000)) == MAX_LINE

    def test_carries_the_traceback_of_an_exception(self) -> None:
        made = record("step failed")
        try:
            raise KeyError("no such group")
        except KeyError as error:
            made.exc_info = (KeyError, error, error.__traceback__)
        line = Line(systemd=True).format(made)
        assert "KeyError: 'no such group'" in line
        assert "\n" not in line

    def test_names_the_exception_however_long_the_traceback_is(self) -> None:
        made = record("step failed")
        try:
            try:
                raise ValueError("x" * MAX_LINE)
            except ValueError as error:
                raise KeyError("no such group") from error
        except KeyError as error:
            made.exc_info = (KeyError, error, error.__traceback__)
        assert "KeyError: 'no such group'" in Line(systemd=True).format(made)

    def test_with_arguments_that_do_not_fit_is_written_all_the_same(self) -> None:
        line = Line(systemd=True).format(record("%d devices", "many"))
        assert line == "<4>halb.vips: %d devices ('many',)"

    @pytest.mark.parametrize(
        "text",
        [
            "secret=hunter2hunter2",
            "Secret: hunter2hunter2",
            "private_key = hunter2hunter2",
            "joined with 'halb1-hunter2hunter2'",
        ],
    )
    def test_does_not_show_secrets(self, text: str) -> None:
        assert "hunter2" not in clean(text)

    @pytest.mark.parametrize(
        "text", ["a secret was set", "halb-agent 0.1.0 started", "halb.vips: lease of rdp"]
    )
    def test_shows_what_only_looks_like_one(self, text: str) -> None:
        assert clean(text) == text


class TestSampling:
    def test_writes_a_burst_and_then_the_count_of_the_rest(self) -> None:
        now = 0.0
        sampling = Sampling(lambda: now)
        passed = [sampling.filter(record("bad bytes from %s", n)) for n in range(BURST + 5)]
        assert passed.count(True) == BURST
        now = WINDOW_S
        following = record("bad bytes from %s", "x")
        assert sampling.filter(following)
        assert following.getMessage() == "bad bytes from x (5 more like this were left out)"

    def test_counts_each_kind_by_itself(self) -> None:
        sampling = Sampling(lambda: 0.0)
        for _ in range(BURST + 1):
            sampling.filter(record("one"))
        assert sampling.filter(record("another"))

    def test_says_nothing_where_nothing_was_left_out(self) -> None:
        now = 0.0
        sampling = Sampling(lambda: now)
        sampling.filter(record("one"))
        now = WINDOW_S
        following = record("one")
        assert sampling.filter(following)
        assert following.getMessage() == "one"

    def test_is_bounded_however_many_kinds_there_are(self) -> None:
        sampling = Sampling(lambda: 0.0)
        for n in range(5000):
            sampling.filter(record(f"kind {n}"))
        assert len(sampling._kinds) <= 256


class TestNeverBlocking:
    def test_drops_lines_that_nobody_reads_and_says_how_many(self, pipe: tuple[int, int]) -> None:
        reader, writer = pipe
        handler = NeverBlocking(writer)
        handler.setFormatter(Line(systemd=True))
        for _ in range(1000):
            handler.emit(record("x" * 500))
        dropped = handler.dropped
        assert dropped > 0
        while len(os.read(reader, 1 << 16)) == 1 << 16:
            pass
        handler.emit(record("here again"))
        last = os.read(reader, 1 << 16).decode().splitlines()[-1]
        assert last.endswith(
            f"here again ({dropped} lines before this were dropped: nobody read them)"
        )
        assert handler.dropped == 0

    def test_a_reader_that_went_away_is_no_error(self) -> None:
        reader, writer = os.pipe()
        os.close(reader)
        handler = NeverBlocking(writer)
        handler.emit(record("hello"))
        assert handler.dropped == 1
        os.close(writer)


@pytest.mark.usefixtures("logging_restored")
class TestSetUp:
    def test_writes_from_the_level_on(
        self, pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("JOURNAL_STREAM", "8:1")
        reader, writer = pipe
        set_up("warning", writer)
        log = logging.getLogger("halb.test")
        log.info("not this")
        log.error("disk %s", "full")
        assert os.read(reader, 4096) == b"<3>halb.test: disk full\n"

    def test_refuses_a_level_that_it_does_not_know(self) -> None:
        with pytest.raises(ValueError, match="log level 'loud' is not one of debug"):
            set_up("loud")

    def test_a_line_fits_into_one_write_and_breaks_no_character(
        self, pipe: tuple[int, int]
    ) -> None:
        reader, writer = pipe
        set_up("info", writer)
        logging.getLogger("halb.test").info("ü" * 5000)
        (line,) = io.StringIO(os.read(reader, 1 << 16).decode()).readlines()
        assert len(line.encode()) <= select.PIPE_BUF
        assert line.endswith("ü\n")
