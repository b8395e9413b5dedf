"""Founding a Site, tokens, and devices that come and go."""

from __future__ import annotations

import msgspec
import pytest

from protocol.changes import (
    AdmitDevice,
    Change,
    DeleteVirtualServer,
    PutToken,
    RemoveDevice,
    ReplaceDevice,
    RevokeToken,
    SetDevice,
    describe,
    found_site,
)
from protocol.config import Config, Edit
from protocol.errors import ExitCode, HalbError, InvalidInput, Refused
from protocol.ids import DeviceId, Revision
from protocol.objects import Assignment, Device
from protocol.timing import Profile
from protocol.token import digest_of
from protocol.validate import MAX_TOKENS
from tests.unit.paris import (
    NOW,
    RDP,
    SECRET,
    TOKEN,
    WEB,
    after,
    device,
    edit,
    followed,
    server,
    site,
    token,
)

D = device("d", 5)


def with_token(config: Config | None = None, **changes: object) -> Config:
    return (config or site()).edited(Edit(put=(token(**changes),)), 1)


def admit(newcomer: Device = D, secret: str = SECRET, token_id: str = TOKEN) -> AdmitDevice:
    return AdmitDevice(token_id, secret, newcomer)


def refuses(
    config: Config, change: Change, error: type[HalbError], *words: str, unix_s: int = NOW
) -> HalbError:
    """``change`` is refused with ``error``, says ``words``, and says what to do."""
    with pytest.raises(error) as caught:
        edit(config, change, unix_s)
    assert type(caught.value) is error
    for word in words:
        assert word in f"{caught.value.message} {caught.value.remedy}"
    assert caught.value.remedy
    return caught.value


# Founding


def test_a_site_begins_with_one_device_at_revision_1_1() -> None:
    config = found_site("paris", "5" * 16, device("a", 1, joined=99, drained=True))
    assert config.revision == Revision(1, 1)
    assert config.descends_from(Revision(1, 1))
    assert config.site is not None
    assert (config.site.name, config.site.id) == ("paris", "5" * 16)
    assert config.site.voters == (device("a", 1).id,)
    assert list(config.devices.values()) == [device("a", 1, joined=1)]


@pytest.mark.parametrize(
    ("name", "site_id", "word"), [("no good", "5" * 16, "no good"), ("paris", "5", "16 hex digits")]
)
def test_a_site_with_a_bad_name_is_not_founded(name: str, site_id: str, word: str) -> None:
    with pytest.raises(InvalidInput, match=word):
        found_site(name, site_id, device("a", 1))


# Tokens


def test_a_token_is_stored_by_its_digest_alone() -> None:
    config = after(site(), PutToken(TOKEN, digest_of(SECRET), NOW + 60, uses=3))
    stored = config.tokens[TOKEN]
    assert (stored.uses_left, stored.expires_at) == (3, NOW + 60)
    assert SECRET not in repr(config)


def test_expired_tokens_go_when_a_new_one_comes() -> None:
    old = with_token(id="8" * 16, expires_at=NOW)
    assert set(after(old, PutToken(TOKEN, digest_of(SECRET), NOW + 1, 1)).tokens) == {TOKEN}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (PutToken("7", digest_of(SECRET), NOW + 1, 1), "16 hex digits"),
        (PutToken(TOKEN, SECRET, NOW + 1, 1), "SHA-256"),
        (PutToken(TOKEN, digest_of(SECRET), NOW, 1), "1 second"),
        (PutToken(TOKEN, digest_of(SECRET), NOW + 1, 0), "1 to 1000"),
        (PutToken(TOKEN, digest_of(SECRET), NOW + 1, 1001), "1 to 1000"),
    ],
)
def test_a_token_out_of_range(change: PutToken, word: str) -> None:
    refuses(site(), change, InvalidInput, word)


def test_the_id_of_a_token_is_never_used_again() -> None:
    config = after(with_token(), RevokeToken(TOKEN))
    refuses(config, PutToken(TOKEN, digest_of(SECRET), NOW + 1, 1), Refused, TOKEN)


def test_there_is_an_end_to_tokens() -> None:
    many = tuple(token(id=f"{i:016x}") for i in range(MAX_TOKENS))
    config = site().edited(Edit(put=many), 1)
    new = PutToken(TOKEN, digest_of(SECRET), NOW + 1, 1)
    refuses(config, new, Refused, str(MAX_TOKENS), "token revoke")


def test_a_revoked_token_lets_nobody_in() -> None:
    config = after(with_token(), RevokeToken(TOKEN))
    refuses(config, admit(), Refused, "revoked", "token create")
    refuses(config, RevokeToken(TOKEN), InvalidInput, TOKEN)


# Joining


def test_a_device_joins_as_the_youngest() -> None:
    before = with_token()
    config = after(before, admit(device("d", 5, joined=0, drained=True)))
    assert config.devices[D.id] == device("d", 5, joined=before.revision.n + 1)
    assert list(config.devices)[-1] == D.id
    assert config.site == before.site


def test_a_token_is_used_up() -> None:
    config = after(with_token(uses_left=2), admit())
    assert config.tokens[TOKEN].uses_left == 1
    config = after(config, admit(device("e", 6)))
    assert config.tokens == {}
    refuses(config, admit(device("f", 7)), Refused, "used up", "token create")


def test_a_wrong_secret() -> None:
    wrong = SECRET[:-1] + "0"
    error = refuses(with_token(), admit(secret=wrong), Refused, "secret", "wrong", "token create")
    assert error.exit_code == ExitCode.FAILED
    assert wrong not in str(error)


def test_an_expired_token() -> None:
    config = with_token(expires_at=NOW + 60)
    assert edit(config, admit(), NOW + 59).put
    refuses(config, admit(), Refused, "expired 3 s ago", "token create", unix_s=NOW + 63)


def test_whether_a_token_expired_is_told_only_to_who_has_it() -> None:
    config = with_token(expires_at=NOW + 60)
    error = refuses(config, admit(secret="x"), Refused, "wrong", unix_s=NOW + 63)
    assert "expired" not in error.message


def test_a_token_of_another_site() -> None:
    refuses(site(), admit(token_id="9" * 16), Refused, "another Site than 'paris'")


def test_a_name_that_is_taken() -> None:
    refuses(with_token(), admit(device("a", 5)), Refused, "'a' already", "--name")


def test_an_id_that_is_taken() -> None:
    impostor = device("d", 5, id=device("a", 1).id)
    refuses(with_token(), admit(impostor), Refused, "'a'", "another key", "state directory")


def test_a_copied_state_directory() -> None:
    twin = device("d", 5, public_key=device("a", 1).public_key)
    refuses(with_token(), admit(twin), Refused, "'a'", "same key", "copied")


@pytest.mark.parametrize("port", [7477, 7480, 7483])
def test_an_address_that_is_taken_with_the_ports_that_follow_it(port: int) -> None:
    newcomer = device("d", 5, addresses=(f"10.77.0.11:{port}",))
    refuses(with_token(), admit(newcomer), Refused, f"10.77.0.11:{port}", "'a'", "--address")


def test_two_devices_on_one_host_with_ports_apart() -> None:
    newcomer = device("d", 5, addresses=("10.77.0.11:7484",))
    assert D.id in after(with_token(), admit(newcomer)).devices


def test_an_address_that_is_a_vip() -> None:
    newcomer = device("d", 5, addresses=("[fd77:0::101]:7480",))
    refuses(with_token(site(WEB)), admit(newcomer), Refused, "fd77::101", "'web'")


@pytest.mark.parametrize(
    ("newcomer", "word"),
    [
        (device("d", 5, id=DeviceId("d")), "16 hex digits"),
        (device("d d", 5), "'d d'"),
        (device("d", 5, public_key="short"), "Z85"),
        (device("d", 5, addresses=()), "0 addresses"),
        (device("d", 5, addresses=tuple(f"10.0.0.{i}:7480" for i in range(1, 4))), "3 addresses"),
        (device("d", 5, addresses=("host:7480",)), "'host:7480'"),
        (device("d", 5, addresses=("10.0.0.1",)), "IP:PORT"),
        (device("d", 5, addresses=("fd77::1:7480",)), "[fd77::11]:7480"),
        (device("d", 5, addresses=("10.0.0.1:0",)), "1 to 65532"),
        (device("d", 5, addresses=("10.0.0.1:65534",)), "1 to 65532"),
        (device("d", 5, addresses=("0.0.0.0:7480",)), "cannot connect"),
        (device("d", 5, addresses=("10.0.0.1:7480", "10.0.0.1:7481")), "overlap"),
    ],
)
def test_a_device_that_presents_itself_badly(newcomer: Device, word: str) -> None:
    refuses(with_token(), admit(newcomer), InvalidInput, word)


def test_addresses_are_stored_in_canonical_form() -> None:
    newcomer = device("d", 5, addresses=("[FD77:0::1F]:07480",))
    assert after(with_token(), admit(newcomer)).devices[D.id].addresses == ("[fd77::1f]:7480",)


def test_a_device_that_comes_back_keeps_its_age() -> None:
    config = with_token(after(site(), SetDevice("b", drained=True)))
    known = config.devices[device("b", 2).id]
    assert after(config, admit(device("b", 2, joined=0))).devices[known.id] == known
    assert known.drained


@pytest.mark.parametrize(
    "other",
    [
        device("b2", 2),
        device("b", 2, addresses=("10.77.0.99:7480",)),
        device("b", 2, witness=True),
    ],
)
def test_a_token_changes_no_other_device(other: Device) -> None:
    words = ("device 'b' at 10.77.0.12:7480", "device remove b")
    refuses(with_token(), admit(other), Refused, *words)


def test_what_a_join_does_is_shown() -> None:
    config = with_token(uses_left=2)
    assert describe(config, edit(config, admit())) == (
        "+ device d",
        f"~ token {TOKEN} uses left 2 -> 1",
    )


# Draining and leaving


def test_a_device_is_drained_and_undrained() -> None:
    config = after(site(), SetDevice("a", drained=True))
    assert config.devices[device("a", 1).id].drained
    assert edit(config, SetDevice("a", drained=True)) == Edit()
    config = after(config, SetDevice("a", drained=False))
    assert not config.devices[device("a", 1).id].drained


def test_a_witness_has_nothing_to_drain() -> None:
    refuses(site(), SetDevice("w", drained=True), Refused, "'w' is a witness")


def test_a_device_that_leaves_is_taken_out_of_all_virtual_servers() -> None:
    config = after(site({**RDP, "witnesses": ["c"]}, WEB), RemoveDevice("b"))
    assert config.device_named("b") is None
    assert server(config).devices == (device("a", 1).id,)
    assert server(after(followed(config), RemoveDevice("c"))).witnesses == ()
    assert server(config, "web").devices == ()


def test_the_only_device_of_a_virtual_server_stays() -> None:
    config = after(site(RDP), RemoveDevice("b"))
    refuses(config, RemoveDevice("a"), Refused, "'a'", "'rdp'", "vs edit")


def test_the_last_device_that_can_carry_anything_stays() -> None:
    config = site(WEB)
    for name in ("a", "b"):
        config = followed(after(config, RemoveDevice(name)))
    refuses(config, RemoveDevice("c"), Refused, "'c'", "'web'")


def test_the_last_device_of_the_site_stays() -> None:
    config = found_site("paris", "5" * 16, device("a", 1))
    refuses(config, RemoveDevice("a"), Refused, "last of the Site", "halbctl leave")


def test_the_voters_of_the_site_stay_a_majority_while_their_list_lags_behind() -> None:
    config = site()
    assert config.site is not None
    voters = tuple(device(name, n).id for n, name in enumerate("abc", 1))
    listed = config.edited(Edit(put=(msgspec.structs.replace(config.site, voters=voters),)), 1)
    once = after(listed, RemoveDevice("c"))
    refuses(once, RemoveDevice("b"), Refused, "'b'", "too few", "leave --force")


def test_the_voters_of_the_site_are_left_to_the_coordinator() -> None:
    config = site()
    for change in (admit(), RemoveDevice("a")):
        assert after(with_token(config), change).site == config.site


def voted_on(*voters: str, former: str = "", **changes: object) -> Config:
    """Site paris with Virtual Server rdp on a and b, whose voters are these."""
    config = site(RDP)
    ids = {device.name: device.id for device in config.devices.values()}
    assignment = Assignment(
        uid=server(config).uid,
        number=2,
        voters=tuple(ids[name] for name in voters),
        vips=("10.77.0.100",),
        former=tuple(ids[name] for name in former),
        profile=Profile.NORMAL,
        slowest=Profile.NORMAL,
    )
    put = (assignment, msgspec.structs.replace(server(config), **changes))
    return config.edited(Edit(put=put), 1)


ALL = tuple(device(name, n).id for n, name in enumerate("abc", 1))


def test_none_of_two_voters_of_a_virtual_server_goes_as_no_other_could_vote_then() -> None:
    config = voted_on("a", "b")
    for change in (RemoveDevice("b"), ReplaceDevice("b", "c")):
        words = ("'b' cannot go", "'rdp'", "vs edit rdp", "halbctl recover")
        refuses(config, change, Refused, *words)


def test_a_device_goes_once_the_voters_have_followed_the_one_before() -> None:
    config = voted_on("a", "b", "c", devices=ALL)
    once = followed(after(config, RemoveDevice("b")))
    for change in (RemoveDevice("c"), ReplaceDevice("c", "a")):
        refuses(once, change, Refused, "'c' cannot go", "'rdp'", "repeat it in a moment")
    assert after(config, RemoveDevice("w")).device_named("w") is None


def test_the_voters_from_before_a_change_are_missed_until_it_is_settled() -> None:
    config = voted_on("b", "c", "w", former="abcw", devices=ALL)
    once = followed(after(config, RemoveDevice("a")))
    refuses(once, RemoveDevice("c"), Refused, "'c' cannot go", "repeat it in a moment")


def test_voters_of_what_was_deleted_hold_nobody_back() -> None:
    config = after(voted_on("b"), DeleteVirtualServer("rdp"))
    assert after(config, RemoveDevice("b")).device_named("b") is None
