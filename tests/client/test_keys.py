"""A site's folder: what is wrong in it is said in one sentence, and nothing secret is shown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from client.keys import FEDERATION_FILE, IDENTITY_FILE, ROSTER_FILE, SITE_FILE, read_site_keys
from common import secure_vector as vector
from common.errors import InputError
from common.settings import Settings
from federation.identities import make_identities
from privacy.roster import Identity

SITES = ("CPI_A", "CPI_B", "CPI_C")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_identities(SITES, Settings(), tmp_path / "keys", federation="test").folders["CPI_A"]


def test_a_folder_gives_identity_roster_and_limits(folder: Path) -> None:
    keys = read_site_keys(folder)
    assert keys.identity.name == "CPI_A"
    assert tuple(keys.roster.members) == SITES
    assert keys.roster.members["CPI_A"] == keys.identity.public_key
    assert (keys.limits.minimum_cohort, keys.limits.malicious_coordinator) == (3, True)
    assert dict(keys.limits.least_bounds) == {vector.UPDATE: 16384 * 2.0, vector.SUMS: 16384 * 64.0}


def test_private_keys_are_their_owners_alone(folder: Path) -> None:
    assert (folder / IDENTITY_FILE).stat().st_mode & 0o077 == 0
    assert folder.stat().st_mode & 0o077 == 0


def _other_roster(folder: Path) -> None:
    other = make_identities(SITES, Settings(), folder.parent.parent / "other", federation="test").folders["CPI_A"]
    (folder / ROSTER_FILE).write_bytes((other / ROSTER_FILE).read_bytes())


def _other_identity(folder: Path) -> None:
    (folder / IDENTITY_FILE).write_bytes(Identity.generate("CPI_A").to_pem())


def _private_half(folder: Path) -> None:
    (folder / FEDERATION_FILE).write_bytes((folder / IDENTITY_FILE).read_bytes())


def _site(folder: Path, **changes: object) -> None:
    content = yaml.safe_load((folder / SITE_FILE).read_text(encoding="utf-8"))
    (folder / SITE_FILE).write_text(yaml.safe_dump({**content, **changes}), encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / ROSTER_FILE).unlink(), "missing"),
        (lambda folder: (folder / IDENTITY_FILE).write_text("no key"), "identity"),
        (_other_roster, "signature"),
        (_other_identity, "does not know CPI_A"),
        (_private_half, "not an Ed25519 public key"),
        (lambda folder: (folder / SITE_FILE).write_text("a: [", encoding="utf-8"), "not YAML"),
        (lambda folder: (folder / SITE_FILE).write_text("[]", encoding="utf-8"), "site.yaml"),
        (lambda folder: _site(folder, minimum_cohort=2), "minimum_cohort"),
        (lambda folder: _site(folder, minimum_cohrot=3), "minimum_cohrot"),
        (lambda folder: _site(folder, name="CPI_B"), "does not know CPI_B"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(folder: Path, damage: Callable[[Path], object], words: str) -> None:
    read_site_keys(folder)
    damage(folder)
    with pytest.raises(InputError) as caught:
        read_site_keys(folder)
    sentence = str(caught.value)
    assert words in sentence
    assert "\n" not in sentence
    assert "PRIVATE" not in sentence


def test_keys_show_no_secret(folder: Path) -> None:
    shown = repr(read_site_keys(folder))
    secret = (folder / IDENTITY_FILE).read_text(encoding="utf-8").splitlines()[1]
    assert secret not in shown
