"""Comparing what nft lists with what it listed before."""

from __future__ import annotations

import pytest

from agent.listing import blocks, difference, elements

LISTING = """table inet halb {
\tcomment "was 0:1"
\tset vips {
\t\ttype ipv4_addr
\t\telements = { 10.0.0.1, 10.0.0.2,
\t\t\t     10.0.0.3 }
\t}

\tchain guard {
\t\ttype filter hook input priority filter; policy accept;
\t\tip daddr @vips meta l4proto { tcp, udp } drop
\t}
}
"""
REORDERED = LISTING.replace("10.0.0.1, 10.0.0.2,", "10.0.0.2, 10.0.0.1,")


def test_blocks_are_known_by_their_heading() -> None:
    assert set(blocks(LISTING)) == {"set vips", "chain guard"}


def test_the_order_of_elements_does_not_matter() -> None:
    assert blocks(LISTING) == blocks(REORDERED)


def test_what_packets_put_into_a_set_is_no_difference() -> None:
    empty = "table inet halb {\n\tset s {\n\t\ttype ipv4_addr\n\t\tflags dynamic,timeout\n\t}\n}\n"
    element = "\t\telements = { 10.0.0.9 timeout 5s expires 3s }\n"
    learnt = empty.replace("timeout\n\t}", f"timeout\n{element}\t}}")
    assert learnt != empty
    assert blocks(learnt) == blocks(empty)


@pytest.mark.parametrize("flags", ["dynamic,timeout", "timeout", "dynamic"])
def test_the_number_of_what_packets_put_into_a_set_is_no_difference(flags: str) -> None:
    # Remarked by nft 1.1.7, where there are any; not by 1.0.6 to 1.1.3.
    former = f"table inet halb {{\n\tset s {{\n\t\tsize 9\n\t\tflags {flags}\n\t}}\n}}\n"
    one, two = (former.replace("size 9", f"size 9\t# count {number}") for number in (1, 2))
    assert blocks(one) == blocks(two) == blocks(former)
    assert blocks(former.replace("size 9", "size 10\t# count 1")) != blocks(former)


def test_elements_one_a_line_or_several_are_the_same() -> None:
    # The elements with timeouts that nft 1.0.6 has in one line, 1.1.3 has in two.
    timed = "10.0.0.1 timeout 9s expires 8s480ms", "10.0.0.2 timeout 9s expires 7s"
    table = "table netdev t {\n\tset s {\n\t\tflags timeout\n\t\telements = { %s }\n\t}\n}\n"
    for between in (", ", ",\n\t\t\t     "):
        assert elements(table % between.join(timed)) == set(timed)


def test_what_differs_is_said_in_words() -> None:
    now = LISTING.replace("udp } drop", "udp } accept").replace("set vips", "set others")
    assert difference("table inet halb", blocks(LISTING), blocks(now)) == (
        "table inet halb: set vips was deleted",
        "table inet halb: chain guard was altered",
        "table inet halb: set others was added",
    )


def test_a_table_that_is_gone_is_one_difference() -> None:
    found = difference("table inet halb", blocks(LISTING), blocks(""))
    assert found == ("table inet halb was deleted",)


def test_elements_of_a_set() -> None:
    assert elements(LISTING) == {"10.0.0.1", "10.0.0.2", "10.0.0.3"}
    assert elements("table t {\n\tset s {\n\t\ttype ipv4_addr\n\t}\n}\n") == frozenset()
