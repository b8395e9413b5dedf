"""Rules that count what no flow is remembered of: every packet of the host meets them."""

from __future__ import annotations

from agent.accounts import Accounts, change, table

ONE = Accounts(gateways=frozenset({"10.0.0.1 . tcp . 80"}))
RANGE6 = Accounts(gateways=ONE.gateways, gateway_ranges=frozenset({"fd00::1 . udp . 80-90"}))
UNTRACKED = "ct state untracked goto passing"


def rules(script: str, chain: str) -> list[str]:
    """Rules that a chain has after a script; none where that takes it away."""
    found: list[str] = []
    for line in script.splitlines():
        verb, kind, *_ = line.split(" ")
        if line.endswith(f" halb_count {chain}") and verb in ("flush", "delete"):
            found = []
        elif kind == "rule" and f" halb_count {chain} " in line:
            found.append(line.partition(f" halb_count {chain} ")[2])
    return found


def asked(script: str, chain: str) -> list[str]:
    """Sets in which most packets find their account, and those that make one, in turn."""
    return [word for rule in rules(script, chain) for word in rule.split(" ") if word[0] == "@"]


def test_where_all_flows_are_remembered_nothing_is_asked_about_others() -> None:
    script = table(Accounts())
    assert script.rstrip().endswith("delete chain inet halb_count leaving")
    assert len(rules(script, "entered")) == 4
    assert not rules(script, "passing")


def test_a_packet_without_a_flow_meets_the_rules_of_what_there_is() -> None:
    script = table(ONE)
    first, *others = rules(script, "entered")
    assert first == UNTRACKED, "before what takes a flow"
    assert others == rules(table(Accounts()), "entered")
    made = ["@gateways", "@passed", "@gateways", "@answered"]
    assert asked(script, "passing") == ["@passed", "@answered", *made]
    assert asked(script, "leaving") == ["@left", "@left", *["@gateways", "@left"] * 2]


def test_rules_come_and_go_with_what_they_are_for() -> None:
    more = change(ONE, RANGE6)
    made = ["@gateways", "@passed", "@gateways", "@answered"]
    counted = ["@passed", "@passed_range6", "@answered", "@answered_range6"]
    assert asked(more, "passing") == [*counted, *made], "a packet makes no range"
    assert rules(change(RANGE6, ONE), "passing") == rules(table(ONE), "passing")
    assert "delete chain inet halb_count leaving" in change(ONE, Accounts())
    other = Accounts(gateways=frozenset({"10.0.0.2 . tcp . 80"}))
    assert "chain" not in change(ONE, other), "where the kinds stay so do the rules"
