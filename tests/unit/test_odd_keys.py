"""Keys of a document that are no words are refused in few words."""

from __future__ import annotations

import pytest

from halbctl.yaml import parse
from protocol.document import SiteDocument
from protocol.errors import InvalidInput
from protocol.plain import Format, read


@pytest.mark.parametrize("key", ["0b" + "1" * 20_000, "k" * 100_000, "'" + "\\" * 500 + "'"])
def test_an_endless_key_is_refused_in_few_words(key: str) -> None:
    with pytest.raises(InvalidInput, match="is not a known key") as refused:
        read(parse(f"? {key}\n: 1\n", "site.yaml"), SiteDocument, Format())
    assert len(str(refused.value)) < 500
