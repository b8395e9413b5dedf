"""Changes of virtual servers: what they write, and why they are refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.changes import (
    AddGateway,
    ApplyDocument,
    Change,
    DeleteVirtualServer,
    PutVirtualServer,
    RemoveDevice,
    RemoveGateway,
    SetDevice,
    SetGateway,
    describe,
)
from protocol.config import Config, Edit
from protocol.document import VirtualServerDocument, parse_site, parse_virtual_server
from protocol.errors import ExitCode, HalbError, InvalidInput, Refused, RevisionConflict
from protocol.gateway_document import GatewayDocument
from protocol.ids import SITE_GROUP
from protocol.objects import Handled, key_of
from protocol.rendering import document_of, render_site
from protocol.timing import Profile
from tests.unit.paris import RDP, WEB, after, device, edit, gateways, server, site


def document(data: dict[str, object], **changes: object) -> VirtualServerDocument:
    return parse_virtual_server({**data, **changes})


def create(data: dict[str, object], **changes: object) -> PutVirtualServer:
    return PutVirtualServer(document(data, **changes), must="create")


def gateway(name: str, address: str, **changes: Any) -> GatewayDocument:
    return GatewayDocument(name=name, address=address, **changes)


def apply(*servers: dict[str, object], name: str | None = None) -> ApplyDocument:
    data: dict[str, object] = {"virtual_servers": list(servers)}
    return ApplyDocument(parse_site({**data, "site": name} if name else data))


def refuses(config: Config, change: Change, error: type[HalbError], *words: str) -> HalbError:
    """``change`` is refused with ``error``, says ``words``, and says what to do."""
    with pytest.raises(error) as caught:
        edit(config, change)
    assert type(caught.value) is error
    said = f"{caught.value.message} {caught.value.remedy}"
    for word in words:
        assert word in said
    assert caught.value.remedy
    return caught.value


# Virtual Servers


def test_a_new_virtual_server_gets_a_uid_a_seed_and_ids_of_its_devices() -> None:
    made = server(after(site(), create(RDP)))
    assert made.uid == "0000000000000002"
    assert made.seed == 1
    assert made.devices == (device("a", 1).id, device("b", 2).id)
    assert made.vips == ("10.77.0.100/24",)
    assert made.listeners[0].gateway_port == 443


def test_addresses_are_stored_in_canonical_form() -> None:
    made = server(after(site(), create(WEB, vips=["10.77.0.101", "FD77:0:0::0101/64"])), "web")
    assert made.vips == ("10.77.0.101/32", "fd77::101/64")


def test_a_replaced_virtual_server_keeps_its_uid_and_seed() -> None:
    before = site(RDP)
    change = PutVirtualServer(document(RDP, profile="fast"), must="exist")
    now = server(after(before, change))
    assert (now.uid, now.seed) == (server(before).uid, server(before).seed)
    assert now.profile == "fast"


def test_what_is_so_already_changes_nothing() -> None:
    assert edit(site(RDP), PutVirtualServer(document(RDP))) == Edit()


def test_the_same_name_twice() -> None:
    error = refuses(site(RDP), create(RDP, vips=["10.77.0.9"]), Refused, "'rdp' exists", "vs edit")
    assert error.exit_code == ExitCode.FAILED


def test_unknown_names_are_answered_with_the_nearest_known_one() -> None:
    config = site(RDP)
    for change in (
        DeleteVirtualServer("rpd"),
        PutVirtualServer(document(WEB, name="rpd"), must="exist"),
        AddGateway("rpd", gateway("g", "10.1.1.1")),
        RemoveGateway("rpd", "gw1"),
        SetGateway("rpd", "gw1", weight=1),
    ):
        error = refuses(config, change, InvalidInput, "'rpd'", "Did you mean 'rdp'?")
        assert error.exit_code == ExitCode.USAGE
    refuses(config, RemoveGateway("rdp", "gw"), InvalidInput, "'gw'", "gw1")
    refuses(config, SetGateway("rdp", "gw3", weight=1), InvalidInput, "'gw3'", "gw1, gw2")
    refuses(config, create(WEB, devices=["a", "zz"]), InvalidInput, "'zz'", "a, b, c, w")
    refuses(config, create(WEB, witnesses=["v"]), InvalidInput, "'v'")
    refuses(config, SetDevice("zz", drained=True), InvalidInput, "'zz'")
    refuses(config, RemoveDevice("zz"), InvalidInput, "'zz'")


def test_a_change_is_checked_as_strictly_as_a_document() -> None:
    listener = msgspec.structs.replace(document(RDP).listeners[0], port=70000)
    bad = msgspec.structs.replace(document(RDP), listeners=(listener,))
    refuses(site(), PutVirtualServer(bad), InvalidInput, "listeners[0].port", "70000")


def test_a_vip_of_another_virtual_server() -> None:
    other = create(WEB, vips=["10.77.0.100"], listeners=[{"port": 443}])
    error = refuses(site(RDP), other, Refused, "'rdp'", "'web'", "10.77.0.100", "tcp/443")
    assert error.exit_code == ExitCode.FAILED
    refuses(site(RDP), create(WEB, vips=["10.77.0.100/16"]), Refused, "one Virtual Server")


def test_a_gateway_and_a_vip_are_never_the_same_address() -> None:
    config = site(RDP, WEB)
    refuses(config, AddGateway("rdp", gateway("x", "10.77.0.100")), InvalidInput, "rdp/x", "VIP")
    refuses(config, AddGateway("rdp", gateway("x", "10.77.0.101")), Refused, "rdp/x", "'web'")
    taken = PutVirtualServer(document(WEB, vips=["10.77.0.31"]))
    refuses(config, taken, Refused, "rdp/gw1", "10.77.0.31", "'web'")


def test_a_vip_that_is_the_address_of_a_device() -> None:
    for change in (create(WEB, vips=["10.77.0.11/24"]), apply({**WEB, "vips": ["10.77.0.11"]})):
        refuses(site(), change, InvalidInput, "10.77.0.11", "device 'a'")


def test_a_device_that_may_carry_it_is_no_gateway_of_it() -> None:
    config = site(RDP)
    itself = AddGateway("rdp", gateway("x", "10.77.0.12"))
    refuses(config, itself, InvalidInput, "gateway x", "10.77.0.12", "device 'b'")
    other = after(config, AddGateway("rdp", gateway("x", "10.77.0.13")))
    assert gateways(other)["x"].address == "10.77.0.13", "c does not carry it"
    known = {"name": "x", "address": "10.77.0.13"}
    wider = {**RDP, "devices": ["a", "b", "c"], "gateways": [known]}
    assert gateways(after(other, apply(wider)))["x"].weight == 1, "what was so before stays"


def test_each_ip_version_of_the_vips_needs_a_gateway_or_none_does() -> None:
    config = site(WEB)
    only_v4 = document(WEB, gateways=[{"name": "g", "address": "10.77.0.31"}])
    refuses(site(), PutVirtualServer(only_v4), InvalidInput, "fd77::101", "no gateway of IPv6")
    one = after(config, AddGateway("web", gateway("g4", "10.77.0.31")))
    both = after(one, AddGateway("web", gateway("g6", "fd77::31")))
    assert list(gateways(both, "web")) == ["g4", "g6"]
    refuses(both, RemoveGateway("web", "g6"), InvalidInput, "fd77::101", "IPv6")


def test_what_lacks_a_gateway_halfway_can_still_be_edited_and_exported() -> None:
    one = after(site(WEB), AddGateway("web", gateway("g4", "10.77.0.31")))
    assert edit(one, ApplyDocument(parse_site(render_site(one)))) == Edit()
    assert after(one, SetGateway("web", "g4", weight=3)) != one


def test_a_witness_votes_and_carries_nothing() -> None:
    config = site()
    made = server(after(config, create(RDP, witnesses=["w"])))
    assert made.witnesses == (device("w", 4).id,)
    refuses(config, create(RDP, devices=["a", "w"]), InvalidInput, "'w' is a witness", "witnesses")
    refuses(config, create(WEB, witnesses=["c"]), InvalidInput, "'c'", "`devices`")
    only_witness = Config().edited(
        Edit(put=(config.site, device("w", 4, witness=True))),  # type: ignore[arg-type]
        1,
    )
    refuses(only_witness, create(WEB), Refused, "all are witnesses")


def test_an_edit_that_rests_on_an_older_revision() -> None:
    config = site(RDP)
    held = str(config.revision_of(("virtual-server", server(config).uid)))
    change = PutVirtualServer(document(RDP, profile="fast"), if_revision=held)
    request = Handled(id="r", detail="what people are told")
    changed = config.edited(Edit((*edit(config, change).put, request)), 1)
    late = PutVirtualServer(document(RDP, profile="calm"), if_revision=held)
    error = refuses(changed, late, RevisionConflict, "'rdp'", held, "halbctl vs show rdp")
    assert error.exit_code == ExitCode.CONFLICT
    gone = after(config, DeleteVirtualServer("rdp"))
    refuses(gone, late, RevisionConflict, "does not exist")
    refuses(config, PutVirtualServer(document(RDP), if_revision="7"), InvalidInput, "TERM.N")


def test_a_change_of_something_else_is_no_conflict() -> None:
    config = site(RDP)
    held = str(config.revision_of(("virtual-server", server(config).uid)))
    other = after(config, create(WEB))
    for read_at in (held, str(config.revision), str(other.revision)):
        change = PutVirtualServer(document(RDP, profile="fast"), if_revision=read_at)
        assert edit(other, change).put


def test_a_deleted_virtual_server_leaves_a_tombstone() -> None:
    config = site(RDP)
    key = ("virtual-server", str(server(config).uid))
    gone = after(config, DeleteVirtualServer("rdp"))
    assert gone.virtual_servers == {}
    assert gone.records[key].value is None


def test_a_device_without_a_site_takes_no_change() -> None:
    refuses(Config(), create(WEB), Refused, "no Site", "halbctl init")


# Gateways


def test_gateways_are_added_set_and_removed_one_by_one() -> None:
    config = after(site(RDP), AddGateway("rdp", gateway("gw3", "10.77.0.33", weight=0)))
    assert gateways(config)["gw3"].weight == 0
    config = after(config, SetGateway("rdp", "gw3", state="draining"))
    assert (gateways(config)["gw3"].state, gateways(config)["gw3"].weight) == ("draining", 0)
    config = after(config, SetGateway("rdp", "gw3", state="enabled", weight=256))
    assert (gateways(config)["gw3"].state, gateways(config)["gw3"].weight) == ("enabled", 256)
    config = after(config, RemoveGateway("rdp", "gw3"))
    assert list(gateways(config)) == ["gw1", "gw2"]


def test_the_last_gateway_may_go() -> None:
    config = site(RDP)
    for name in ("gw1", "gw2"):
        config = after(config, RemoveGateway("rdp", name))
    assert gateways(config) == {}


def test_a_gateway_is_named_once_and_has_an_address_of_its_own() -> None:
    config = site(RDP)
    refuses(config, AddGateway("rdp", gateway("gw1", "10.77.0.99")), Refused, "'gw1' already")
    twin = AddGateway("rdp", gateway("gw9", "10.77.0.31"))
    refuses(config, twin, InvalidInput, "'gw1' and 'gw9'", "10.77.0.31")
    refuses(config, AddGateway("rdp", gateway("x", "gw.example")), InvalidInput, "'gw.example'")
    refuses(config, AddGateway("rdp", gateway("x", "10.0.0.1", weight=300)), InvalidInput, "300")
    refuses(config, SetGateway("rdp", "gw1", weight=300), InvalidInput, "`weight` is 300")
    refuses(config, SetGateway("rdp", "gw1"), InvalidInput, "rdp/gw1", "weight or a state")


def test_setting_what_is_set_changes_nothing() -> None:
    assert edit(site(RDP), SetGateway("rdp", "gw2", state="enabled", weight=2)) == Edit()


# Whole documents


def test_a_document_is_applied_once() -> None:
    config = after(site(), apply(RDP, WEB))
    assert [s.name for s in config.virtual_servers.values()] == ["rdp", "web"]
    assert edit(config, apply(RDP, WEB, name="paris")) == Edit()
    assert edit(config, apply(WEB, RDP)) == Edit()


def test_a_document_writes_only_what_differs_and_deletes_what_it_does_not_name() -> None:
    config = site(RDP, WEB)
    made = edit(config, apply({**RDP, "profile": "fast"}))
    assert [key_of(v) for v in made.put] == [("virtual-server", server(config).uid)]
    assert made.delete == (("virtual-server", server(config, "web").uid),)
    kept = server(config.edited(made, 1))
    assert (kept.uid, kept.seed) == (server(config).uid, server(config).seed)


def test_a_document_of_another_site() -> None:
    refuses(site(RDP), apply(name="london"), Refused, "'london'", "'paris'")


def test_two_virtual_servers_may_swap_their_vips() -> None:
    config = site(RDP, WEB)
    swapped = after(
        config, apply({**RDP, "vips": ["10.77.0.101/24"]}, {**WEB, "vips": ["10.77.0.100/24"]})
    )
    assert server(swapped, "rdp").addresses == ("10.77.0.101",)
    assert server(swapped, "web").addresses == ("10.77.0.100",)


def test_a_document_is_applied_whole_or_not_at_all() -> None:
    refuses(site(RDP), apply(RDP, {**WEB, "devices": ["zz"]}), InvalidInput, "'zz'")


# All of it together

NAMES = st.sampled_from(["rdp", "web", "x"])
GATEWAY_NAMES = st.sampled_from(["gw1", "gw2", "g"])
DOCUMENTS = st.builds(
    lambda name, vips, devices, profile, addresses: VirtualServerDocument(
        name=name,
        vips=tuple(vips),
        devices=tuple(devices),
        profile=profile,
        gateways=tuple(gateway(f"gw{i}", a) for i, a in enumerate(addresses)),
    ),
    NAMES,
    st.lists(st.sampled_from(["10.77.0.100/24", "10.77.0.7", "fd77::7/64"]), max_size=2),
    st.lists(st.sampled_from(["a", "b", "c", "w", "zz"]), max_size=3),
    st.sampled_from([Profile.FAST, Profile.NORMAL]),
    st.lists(st.sampled_from(["10.77.0.31", "10.77.0.100", "fd77::31"]), max_size=3),
)
CHANGES: st.SearchStrategy[Change] = st.one_of(
    st.builds(PutVirtualServer, DOCUMENTS, st.sampled_from(["create", "exist", "either"])),
    st.builds(DeleteVirtualServer, NAMES),
    st.builds(
        AddGateway,
        NAMES,
        st.builds(gateway, GATEWAY_NAMES, st.sampled_from(["10.77.0.100", "10.77.0.8", "fd77::8"])),
    ),
    st.builds(RemoveGateway, NAMES, GATEWAY_NAMES),
    st.builds(
        SetGateway,
        NAMES,
        GATEWAY_NAMES,
        st.none() | st.sampled_from(["enabled", "draining"]),
        st.none() | st.integers(-1, 300),
    ),
    st.builds(SetDevice, st.sampled_from("abcw"), st.booleans()),
    st.builds(RemoveDevice, st.sampled_from("abcw")),
)


@settings(deadline=None, max_examples=150)
@given(st.lists(CHANGES, max_size=12))
def test_whatever_is_done_the_site_stays_one_that_can_be_described(changes: list[Change]) -> None:
    config = site(RDP, WEB)
    for change in changes:
        try:
            made = edit(config, change)
        except (InvalidInput, Refused) as error:
            assert error.remedy, error  # noqa: PT017
            continue
        assert bool(describe(config, made)) == (made != Edit())
        if made != Edit():
            config = config.edited(made, 1)
            assert edit(config, ApplyDocument(parse_site(render_site(config)))) == Edit()
        vips = [vip for s in config.virtual_servers.values() for vip in s.addresses]
        assert len(vips) == len(set(vips))
        for found in config.virtual_servers.values():
            assert found.uid != SITE_GROUP
            assert all(d in config.devices for d in (*found.devices, *found.witnesses))
            assert document_of(config, found).name == found.name
