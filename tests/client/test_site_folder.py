"""A site's folder: what is made here stays here, and only the federation's own word changes what the site knows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from joined_federation import (
    NOW,
    SITES,
    added,
    altered,
    joined_sites,
    new_federation,
    new_site,
    newest,
    private_texts,
    request_of,
    revoked,
    steps_of,
)

from client.budget import read_budget
from client.keys import FEDERATION_FILE, IDENTITY_FILE, SITE_FILE, SiteFile, read_site_keys
from client.ledger import Budget, PrivacyLedger
from client.site_folder import MEMBERSHIP_FILE, SiteFolder
from client.site_keys import KEY_FILES, NODE_FILE
from client.witness_folder import KEY_FILE, STATE_FILE, WitnessFolder
from common.errors import DjmsError, InputError, RunError
from common.membership import Welcome
from common.private_folder import locked_folder
from common.public_keys import MembershipError
from server import membership, pki
from server.federation_folder import FederationFolder

VERONA = "CPI_Verona"


@pytest.fixture
def federation(tmp_path: Path) -> FederationFolder:
    return new_federation(tmp_path / "coordinator")


@pytest.fixture
def verona(tmp_path: Path) -> SiteFolder:
    return new_site(tmp_path / "verona", VERONA)


@pytest.fixture
def joined(federation: FederationFolder, tmp_path: Path) -> SiteFolder:
    """A site that has joined a federation of three."""
    return joined_sites(federation, tmp_path, ("CPI_Padova", "CPI_Treviso", VERONA))[VERONA]


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a folder but locks, by its name."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_everything_private_is_its_owners_alone(joined: SiteFolder) -> None:
    for path in (joined.folder, *joined.folder.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path


def test_nothing_private_is_in_anything_that_travels(federation: FederationFolder, joined: SiteFolder) -> None:
    joined.rotate()
    secrets = private_texts(joined.folder) | private_texts(federation.folder)
    assert len(secrets) > 50
    travelling = [path for path in federation.folder.rglob("*.json") if path.parent.name in ("sites", "editions")]
    travelling += [*joined.folder.rglob("request-*.json"), federation.folder / "roster.yaml"]
    assert len(travelling) == 3 + 3 + 2 + 1
    for path in travelling:
        text = path.read_text(encoding="utf-8")
        assert "PRIVATE" not in text
        assert not [secret for secret in secrets if secret in text], path


def test_a_request_has_the_three_public_keys_and_versions_and_nothing_else(verona: SiteFolder) -> None:
    sent = json.loads(verona.request.read_bytes())
    assert set(sent) == {"type", "name", "identity", "node", "witness", "djms", "protocol", "proofs"}
    assert request_of(verona).keys == verona.keys().public


def test_a_new_site_has_a_budget_an_empty_ledger_and_limits_of_its_own(tmp_path: Path) -> None:
    site = SiteFolder.create(tmp_path / "site", VERONA, Budget(2.5, 1e-7))
    assert read_budget(site.ledger / "budget.yaml") == Budget(2.5, 1e-7)
    assert PrivacyLedger.open(site.ledger / "ledger.sqlite", create=False).entries() == ()
    written = yaml.safe_load((site.folder / SITE_FILE).read_text(encoding="utf-8"))
    assert written == SiteFile(name=VERONA).model_dump(mode="json")


def test_a_second_site_in_one_folder_is_refused(verona: SiteFolder) -> None:
    before = content(verona.folder)
    with pytest.raises(InputError, match="something in the folder"):
        new_site(verona.folder, "CPI_Other")
    assert content(verona.folder) == before


@pytest.mark.parametrize("name", [str(path) for path in KEY_FILES])
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_private_key_that_others_can_read_is_refused(verona: SiteFolder, name: str, mode: int) -> None:
    (verona.folder / name).chmod(mode)
    with pytest.raises(InputError, match="others than its owner"):
        verona.keys()


@pytest.mark.parametrize("name", [str(path) for path in KEY_FILES])
def test_a_damaged_private_key_is_named_and_not_shown(verona: SiteFolder, name: str) -> None:
    path = verona.folder / name
    text = path.read_text(encoding="ascii")
    path.write_text(text.replace(text.strip().splitlines()[-1], "damaged"), encoding="ascii")
    with pytest.raises(InputError) as caught:
        verona.keys()
    assert text.splitlines()[0][:20] not in str(caught.value)


def test_a_site_that_joined_can_take_part(federation: FederationFolder, joined: SiteFolder) -> None:
    keys = read_site_keys(joined.folder)
    assert tuple(keys.roster.members) == ("CPI_Padova", "CPI_Treviso", VERONA)
    assert joined.ca.read_bytes() == (federation.folder / "ca.pem").read_bytes()
    witness = WitnessFolder(joined.witness)
    assert witness.signers == federation.log().signers
    assert witness.key == federation.record(VERONA).witness_key  # type: ignore[union-attr]
    assert (joined.witness / "witnesses.json").read_text(encoding="utf-8") == federation.log().policy.to_json()  # type: ignore[union-attr]
    assert joined.warnings(NOW) == []


def test_the_fingerprint_must_be_given_and_must_be_right(
    federation: FederationFolder, verona: SiteFolder, tmp_path: Path
) -> None:
    added(federation, verona)
    before = content(verona.folder)
    other = new_federation(tmp_path / "other").fingerprint
    for wrong in (None, "", "0000", other, federation.fingerprint[:-5], verona.keys().public.fingerprint(VERONA)):
        with pytest.raises(MembershipError, match="fingerprint"):
            verona.join(newest(federation), wrong)
    assert content(verona.folder) == before
    assert not verona.has_joined
    assert verona.join(newest(federation), federation.fingerprint.upper().replace(" ", "")).changed


def test_a_false_federation_needs_the_right_fingerprint_too(
    federation: FederationFolder, verona: SiteFolder, tmp_path: Path
) -> None:
    false = new_federation(tmp_path / "false")
    added(false, verona)
    with pytest.raises(MembershipError, match="another federation's key"):
        verona.join(newest(false), federation.fingerprint)
    stolen_name = altered(newest(false), key=json.loads(_edition_of(federation, tmp_path))["key"])
    with pytest.raises(MembershipError, match="altered"):
        verona.join(stolen_name, federation.fingerprint)


def _edition_of(federation: FederationFolder, tmp_path: Path) -> str:
    added(federation, new_site(tmp_path / "someone", "CPI_Someone"))
    return newest(federation)


def test_every_altered_field_of_a_welcome_is_refused(
    federation: FederationFolder, verona: SiteFolder, tmp_path: Path
) -> None:
    added(federation, verona)
    other = new_federation(tmp_path / "other")
    added(other, new_site(tmp_path / "padova", "CPI_Padova"))
    own, theirs = json.loads(newest(federation)), json.loads(newest(other))
    changes: dict[str, object] = {
        key: theirs[key] for key in ("key", "roster", "ca", "signers", "witnesses", "signature")
    }
    changes |= {"federation": "F", "edition": 2, "address": "evil.example.org:9092", "djms": "9", "protocol": 0}
    changes |= {"type": "djms.welcome/v2", "more": 1}
    assert set(changes) == {*own, "more"}
    before = content(verona.folder)
    for key, value in changes.items():
        with pytest.raises(MembershipError):
            verona.join(altered(newest(federation), **{key: value}), federation.fingerprint)
    for key in own:
        with pytest.raises(MembershipError):
            verona.join(json.dumps({name: own[name] for name in own if name != key}), federation.fingerprint)
    with pytest.raises(MembershipError):
        verona.join(altered(newest(federation), witnesses=None), federation.fingerprint)
    assert content(verona.folder) == before


def test_a_welcome_for_another_site_is_refused(
    federation: FederationFolder, verona: SiteFolder, tmp_path: Path
) -> None:
    added(federation, new_site(tmp_path / "padova", "CPI_Padova"))
    with pytest.raises(MembershipError, match=f"does not list {VERONA};"):
        verona.join(newest(federation), federation.fingerprint)
    added(federation, new_site(tmp_path / "impostor", VERONA))
    with pytest.raises(MembershipError, match="by this site's key"):
        verona.join(newest(federation), federation.fingerprint)


def _signed(by: FederationFolder, **changes: object) -> str:
    """An edition that the federation really signed, with these contents."""
    present = by.newest()
    assert present is not None
    return Welcome(**{**vars(present), **changes}).signed(by.offline_keys(None).root.sign)


def test_an_older_welcome_is_refused_and_the_same_changes_nothing(
    federation: FederationFolder, joined: SiteFolder, tmp_path: Path
) -> None:
    old = newest(federation)
    added(federation, new_site(tmp_path / "new", "CPI_New"))
    assert joined.join(newest(federation), None).changed
    before = content(joined.folder)
    assert not joined.accept(newest(federation)).changed
    with pytest.raises(MembershipError, match="edition 4 already"):
        joined.join(old, federation.fingerprint)
    with pytest.raises(MembershipError, match="edition 4 already"):
        joined.accept(old)
    assert content(joined.folder) == before


def test_two_editions_of_one_number_are_noticed(federation: FederationFolder, joined: SiteFolder) -> None:
    with pytest.raises(MembershipError, match="two different editions 3"):
        joined.accept(_signed(federation, address="other.example.org:9092"))


def test_another_federation_is_not_taken_by_a_site_that_has_one(joined: SiteFolder, tmp_path: Path) -> None:
    other = new_federation(tmp_path / "other")
    for number in range(5):
        added(other, new_site(tmp_path / f"other-{number}", f"CPI_{number}"))
    added(other, joined)
    for take in (joined.accept, lambda text: joined.join(text, other.fingerprint)):
        with pytest.raises(MembershipError, match="another federation's key"):
            take(newest(other))


@pytest.mark.parametrize("what", ["log", "forgotten key", "roster", "ca", "signers", "witnesses", "federation"])
def test_even_the_federations_key_cannot_make_a_site_take_what_does_not_fit(
    federation: FederationFolder, joined: SiteFolder, tmp_path: Path, what: str
) -> None:
    other = new_federation(tmp_path / "other")
    added(other, new_site(tmp_path / "same-name", VERONA))
    theirs = other.newest()
    assert theirs is not None
    federation.log().rotate()
    grown = json.loads(federation.log().signers.to_json())
    changes: dict[str, object] = {
        "log": {"signers": theirs.signers},
        "forgotten key": {"signers": json.dumps({**grown, "keys": grown["keys"][1:]})},
        "roster": {"roster": theirs.roster},
        "ca": {"ca": "no certificate"},
        "signers": {"signers": "{}"},
        "witnesses": {"witnesses": '{"quorum": 9, "witnesses": []}'},
        "federation": {"federation": "Another"},
    }
    before = content(joined.folder)
    with pytest.raises(DjmsError):
        joined.accept(_signed(federation, edition=9, **changes[what]))  # type: ignore[arg-type]
    assert content(joined.folder) == before
    assert joined.accept(_signed(federation, edition=9, signers=json.dumps(grown))).changed
    assert WitnessFolder(joined.witness).signers == federation.log().signers


def test_a_revoked_site_keeps_what_it_has_and_is_told(federation: FederationFolder, joined: SiteFolder) -> None:
    revoked(federation, VERONA)
    before = content(joined.folder)
    with pytest.raises(MembershipError, match="revoked"):
        joined.accept(newest(federation))
    assert content(joined.folder) == before


def test_new_keys_wait_until_an_edition_knows_them(
    federation: FederationFolder, joined: SiteFolder, tmp_path: Path
) -> None:
    old, state = joined.keys().public, (joined.witness / STATE_FILE).read_bytes()
    request = joined.rotate()
    assert joined.rotate() == request
    new = request_of(joined).keys
    assert joined.keys().public == old
    assert set(new.parts()).isdisjoint(old.parts())
    added(federation, new_site(tmp_path / "new", "CPI_New"))
    assert not joined.accept(newest(federation)).rotated
    assert joined.keys().public == old
    added(federation, joined, replace=True)
    assert joined.accept(newest(federation)).rotated
    assert joined.keys().public == new == request_of(joined).keys
    assert read_site_keys(joined.folder).identity.public_key == new.identity
    assert not (joined.folder / "next").exists()
    assert (joined.witness / STATE_FILE).read_bytes() == state
    assert joined.rotate() != joined.folder / "request-CPI_Verona.json"


def test_a_site_that_was_not_told_of_its_new_keys_goes_on_with_the_old(
    federation: FederationFolder, joined: SiteFolder
) -> None:
    joined.rotate()
    assert read_site_keys(joined.folder).identity.public_key == joined.keys().public.identity
    assert [one.partition(":")[0] for one in joined.warnings(NOW)] == ["New keys wait"]


def test_a_witness_that_lost_its_state_is_not_made_anew_by_joining(
    federation: FederationFolder, joined: SiteFolder, tmp_path: Path
) -> None:
    (joined.witness / STATE_FILE).unlink()
    added(federation, new_site(tmp_path / "new", "CPI_New"))
    with pytest.raises(InputError, match=STATE_FILE):
        joined.accept(newest(federation))
    assert not (joined.witness / STATE_FILE).exists()


def test_one_command_at_a_time(federation: FederationFolder, joined: SiteFolder) -> None:
    with locked_folder(joined.folder):
        for work in (joined.rotate, lambda: joined.accept(newest(federation))):
            with pytest.raises(RunError, match="another command"):
                work()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / SITE_FILE).write_text("a: [", encoding="utf-8"), "not YAML"),
        (lambda folder: (folder / SITE_FILE).write_text("name: a/b", encoding="utf-8"), "name is not"),
        (lambda folder: (folder / SITE_FILE).unlink(), "no site in this folder"),
        (lambda folder: (folder / FEDERATION_FILE).write_text("no key"), "no Ed25519"),
        (lambda folder: (folder / FEDERATION_FILE).unlink(), "no Ed25519"),
        (lambda folder: (folder / MEMBERSHIP_FILE).write_bytes(b"{"), "no welcome"),
    ],
)
def test_a_damaged_folder_is_said_in_one_sentence(
    joined: SiteFolder, damage: Callable[[Path], object], words: str
) -> None:
    damage(joined.folder)
    with pytest.raises(InputError, match=words) as caught:
        SiteFolder(joined.folder).membership()
    assert "\n" not in str(caught.value)


def test_a_kill_while_a_site_is_made_leaves_none_and_the_same_command_makes_it(tmp_path: Path) -> None:
    folder = tmp_path / "site"
    total = steps_of(lambda: new_site(folder, VERONA))
    assert total > 15
    shutil.rmtree(folder)
    for step in range(1, total + 1):
        assert steps_of(lambda: new_site(folder, VERONA), kill_at=step) == 0
        if not folder.exists():
            new_site(folder, VERONA)
        site = SiteFolder(folder)
        assert request_of(site).keys == site.keys().public
        assert PrivacyLedger.open(site.ledger / "ledger.sqlite", create=False).entries() == ()
        assert list(tmp_path.iterdir()) == [folder]
        shutil.rmtree(folder)


@pytest.mark.parametrize("what", ["first", "newer", "rotated"])
def test_a_kill_while_joining_is_completed_by_joining_again(
    federation: FederationFolder, tmp_path: Path, what: str
) -> None:
    if what == "first":
        site = new_site(tmp_path / "base", VERONA)
        added(federation, site)
    else:
        site = joined_sites(federation, tmp_path, ("CPI_Padova", "CPI_Treviso", VERONA))[VERONA]
        federation.log().rotate()
        membership.renew(federation, federation.offline_keys(None), NOW, ca=True, new_key=False)
        if what == "rotated":
            site.rotate()
            added(federation, site, replace=True)
    expected = request_of(site).keys
    text = newest(federation)
    killed = tmp_path / "killed"

    def join() -> None:
        SiteFolder(killed).join(text, federation.fingerprint)

    shutil.copytree(site.folder, killed)
    total = steps_of(join)
    done = content(killed)
    assert total > 5
    for step in range(1, total + 1):
        shutil.rmtree(killed)
        shutil.copytree(site.folder, killed)
        assert steps_of(join, kill_at=step) == 0
        join()
        assert SiteFolder(killed).keys().public == expected
        assert SiteFolder(killed).rotate().is_file()  # nothing is in the way of the next change of keys
        left = {name: text for name, text in content(killed).items() if not name.startswith("next/")}
        assert {name: text for name, text in left.items() if ".part" not in name} == done
        assert not any(KEY_FILE in name or NODE_FILE in name or IDENTITY_FILE in name for name in set(left) - set(done))


def test_a_witness_can_be_prepared_once_and_made_of_it_once(federation: FederationFolder, tmp_path: Path) -> None:
    folder, signers = tmp_path / "witness", federation.log().signers
    key = WitnessFolder.prepare(folder)
    for again in (lambda: WitnessFolder.prepare(folder), lambda: WitnessFolder.create(folder, signers)):
        with pytest.raises(InputError, match="there is a witness"):
            again()
    with pytest.raises(InputError, match="missing"):
        WitnessFolder(folder)
    made = WitnessFolder.create(folder, signers, prepared=True)
    assert made.key.public_key == key.public_key
    with pytest.raises(InputError, match="there is a witness"):
        WitnessFolder.create(folder, signers, prepared=True)
    with pytest.raises(InputError, match="key is missing"):
        WitnessFolder.create(tmp_path / "other", signers, prepared=True)


def test_sites_are_called_by_names_that_rosters_take() -> None:
    for name in SITES:
        assert SiteFile(name=name).name == name
    assert pki.host_of("fl.example.org:9092") == "fl.example.org"
