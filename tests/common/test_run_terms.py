"""The configuration of a run: three facts and the edition, and a version that must fit."""

from __future__ import annotations

import pytest

from common.messages import PROTOCOL_VERSION
from common.run_terms import RunTerms, VersionRefused


def test_terms_are_read_as_they_were_written() -> None:
    terms = RunTerms.of("run-1", "edition")
    assert RunTerms.from_config(terms.to_config()) == terms
    terms.require_version()


@pytest.mark.parametrize("protocol", [PROTOCOL_VERSION - 1, PROTOCOL_VERSION + 1, "5", None, True, 5.0])
def test_another_version_is_refused_and_both_are_named(protocol: object) -> None:
    config: dict[str, object] = {**RunTerms.of("run-1", "").to_config(), "djms": "7.7.7", "protocol": protocol}
    with pytest.raises(VersionRefused, match=rf"DJMS 7\.7\.7 .*this site has DJMS .*protocol {PROTOCOL_VERSION}"):
        RunTerms.from_config(config).require_version()


def test_a_configuration_without_terms_is_refused_in_one_line() -> None:
    with pytest.raises(VersionRefused) as raised:
        RunTerms.from_config({"djms": "1\n2\x1b[31m" * 100}).require_version()
    assert "\n" not in str(raised.value)
    assert "\x1b" not in str(raised.value)
    assert len(str(raised.value)) < 400
