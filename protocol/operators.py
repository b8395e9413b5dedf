"""Who may command the Site over the network: operators, and the keys that they are known by.

Each function is pure: it returns the edit, or raises with reason and remedy.
"""

from __future__ import annotations

from protocol.config import Config, Edit
from protocol.errors import InvalidInput, Refused
from protocol.ids import check_name
from protocol.nearest import nearest
from protocol.objects import MAX_OPERATORS, Device, Operator
from protocol.shown import shown
from protocol.validate import check_public_key


def require_known(config: Config, by: str, key: str) -> None:
    """Raise where ``by`` asked for a way in as an operator and is none any more.

    The name may be given to another key by then, as where the one he had was stolen. A device of
    a release that does not say it leaves ``key`` empty.
    """
    known = config.operators.get(by)
    if by and (known is None or key not in ("", known.public_key)):
        raise Refused(
            f"operator {shown(by)} was removed from the Site, or has another key now",
            "Nothing was changed.",
        )


def put(config: Config, name: str, public_key: str, unix_s: int, by: str = "") -> Edit:
    """A new operator; a name or a key that is known already is refused."""
    check_name("operator", name)
    check_public_key(f"operator {name!r}", public_key)
    if name in config.operators:
        raise Refused(
            f"the Site has an operator named {name!r} already",
            f"Choose another name, or take it back first: `halbctl operator remove {name}`.",
        )
    if len(config.operators) >= MAX_OPERATORS:
        raise Refused(
            f"the Site has {MAX_OPERATORS} operators already",
            "Remove some with `halbctl operator remove NAME`.",
        )
    known: list[Operator | Device] = [*config.operators.values(), *config.devices.values()]
    for each in known:
        if each.public_key == public_key:
            raise Refused(f"that key is the one of {each.name!r}", "Make a new pair of keys.")
    return Edit(put=(Operator(name=name, public_key=public_key, created_at=unix_s, by=by),))


def remove(config: Config, name: str) -> Edit:
    """Let the owner of this operator's key in no more, nor a device with a token that he made."""
    if name not in config.operators:
        raise InvalidInput(
            f"no operator is named {shown(name)}", nearest(name, list(config.operators))
        )
    made = tuple(("token", token.id) for token in config.tokens.values() if token.by == name)
    return Edit(delete=(("operator", name), *made))
