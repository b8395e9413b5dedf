"""``halbctl conflicts``: what was given up, who had asked for it, and how to have it again."""

from __future__ import annotations

import json
from typing import get_type_hints

import msgspec
import pytest

from halbctl import replies
from protocol import api, changes
from protocol.document import VirtualServerDocument
from tests.cli import recorded
from tests.cli.conftest import Halbctl
from tests.cli.peer import Peer

LOST = api.ConflictInfo(
    id="3.9-1700000000",
    kind="dropped",
    at="2023-11-14T22:13:20Z",
    lost="3.9",
    won="4.12",
    requests=(api.LostRequest("r1", "a", "2023-11-14T22:13:00Z", "+ virtual server web"),),
    objects=(
        api.LostObject("virtual-server", "web", "put", {"name": "web", "vips": ["10.0.0.2/24"]}),
        api.LostObject("virtual-server", "old", "deleted", None),
    ),
)


@pytest.fixture(autouse=True)
def _answers(peer: Peer) -> None:
    peer.answers[api.GetConflicts] = api.Conflicts((LOST,))
    peer.answers[api.PutChange] = recorded.DONE


def test_each_conflict_says_what_was_lost_and_who_asked_for_it(halbctl: Halbctl) -> None:
    text = halbctl("conflicts").out
    assert "revision 3.9 gave way to 4.12" in text
    assert "asked on a at 2023-11-14T22:13:00Z" in text
    assert "+ virtual server web" in text
    assert "deleted virtual-server old" in text
    assert "halbctl conflicts --apply 3.9-1700000000" in text


def test_a_local_edit_says_what_it_was_made_on(peer: Peer, halbctl: Halbctl) -> None:
    local = msgspec.structs.replace(LOST, kind="local", won=LOST.lost)
    peer.answers[api.GetConflicts] = api.Conflicts((local,))
    assert "\n  made on revision 3.9\n" in halbctl("conflicts").out


def test_what_was_in_force_is_said_to_have_given_way_to_force(peer: Peer, halbctl: Halbctl) -> None:
    replaced = msgspec.structs.replace(LOST, kind="replaced")
    peer.answers[api.GetConflicts] = api.Conflicts((replaced,))
    text = halbctl("conflicts").out
    assert "to `recover` elsewhere" in text
    assert "never committed" not in text


def test_conflicts_as_data(halbctl: Halbctl) -> None:
    assert json.loads(halbctl("conflicts", "--output", "json").out) == [
        json.loads(msgspec.json.encode(LOST))
    ]


def test_a_virtual_server_can_be_put_again(peer: Peer, halbctl: Halbctl) -> None:
    assert halbctl("conflicts", "--apply", LOST.id, "--yes").code == 0
    document = VirtualServerDocument(name="web", vips=("10.0.0.2/24",))
    assert peer.only(api.PutChange).change == changes.PutVirtualServer(document)


def test_several_put_again_are_one_answer(peer: Peer, halbctl: Halbctl) -> None:
    second = api.LostObject(
        "virtual-server", "mail", "put", {"name": "mail", "vips": ["10.0.0.3/24"]}
    )
    both = msgspec.structs.replace(LOST, objects=(*LOST.objects, second))
    peer.answers[api.GetConflicts] = api.Conflicts((both,))
    answers = iter([recorded.DONE, api.Done("nothing to change", "3.18", changed=False)])
    peer.answers[api.PutChange] = lambda _: next(answers)
    ran = halbctl("conflicts", "--apply", LOST.id, "--yes", "-o", "json")
    assert json.loads(ran.out) == {
        "detail": "nothing to change", "revision": "3.18", "changed": True,
    }  # fmt: skip
    assert ran.err == f"{recorded.DONE.detail}\n"


def test_an_unknown_conflict_names_the_nearest(halbctl: Halbctl) -> None:
    ran = halbctl("conflicts", "--apply", "3.8-1700000000")
    assert ran.code == 2
    assert LOST.id in ran.err


@pytest.mark.parametrize(
    ("plain", "struct"),
    [
        (replies.Conflict, api.ConflictInfo),
        (replies.LostObject, api.LostObject),
        (replies.LostRequest, api.LostRequest),
    ],
)
def test_plain_replies_have_the_fields_of_the_structs(
    plain: type, struct: type[msgspec.Struct]
) -> None:
    assert tuple(get_type_hints(plain)) == struct.__struct_fields__
