"""Many frames by one system call."""

from __future__ import annotations

import gc
import socket

import pytest

from agent import burst


@pytest.mark.parametrize("number", [1, 2, burst.MOST // 8])
def test_all_frames_are_sent_whole_and_in_order_however_often(number: int) -> None:
    frames = tuple(f"frame {n}".encode() * (1 + n % 3) for n in range(number))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        ours.setblocking(False)
        theirs.settimeout(5)
        for _ in range(3):
            left = frames
            while left:
                sent = burst.send(ours.fileno(), left)
                assert [theirs.recv(64) for _ in range(sent)] == list(left[:sent])
                left = left[sent:]
            gc.collect()


def test_a_socket_that_takes_nothing_more_says_so() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        ours.setblocking(False)
        frames = (b"x",) * burst.MOST
        sent = burst.send(ours.fileno(), frames)
        assert 0 < sent < len(frames)
        with pytest.raises(BlockingIOError):
            burst.send(ours.fileno(), frames)


def test_an_address_that_nobody_listens_at_is_an_error_with_its_number() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ours, pytest.raises(OSError):
        burst.send(ours.fileno(), (b"x", b"y"))
