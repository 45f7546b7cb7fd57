"""Adding, replacing and revoking sites: no forged request gets in, nothing comes back, no kill leaves a half."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from joined_federation import (
    ADDRESS,
    NAME,
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

from anchoring.cosignature import WitnessPolicy
from client.site_folder import SiteFolder
from client.site_keys import SitePrivateKeys
from common.errors import InputError, RunError
from common.membership import JoinRequest, Welcome
from common.private_folder import locked_folder
from common.public_keys import MembershipError, PublicKeys, same_fingerprint
from privacy.roster import Roster
from server import membership
from server.federation_folder import EDITIONS, OFFLINE_ROOT, ROSTER_FILE, FederationFolder
from server.site_record import Former, SiteRecord


@pytest.fixture
def federation(tmp_path: Path) -> FederationFolder:
    return new_federation(tmp_path / "coordinator")


@pytest.fixture
def verona(tmp_path: Path) -> SiteFolder:
    return new_site(tmp_path / "verona", "CPI_Verona")


def names(federation: FederationFolder) -> list[str]:
    return [one.name for one in federation.members()]


def editions(federation: FederationFolder) -> int:
    return len(list((federation.folder / EDITIONS).iterdir()))


def test_everything_private_is_its_owners_alone(federation: FederationFolder) -> None:
    for path in federation.folder.rglob("*"):
        published = path.is_dir() and "log" in path.relative_to(federation.folder).parts  # nothing private in there
        assert published or path.stat().st_mode & 0o077 == 0, path
    assert federation.folder.stat().st_mode & 0o077 == 0


def test_a_new_federation_has_a_log_and_no_sites(federation: FederationFolder) -> None:
    assert federation.log().log.size == 0
    assert federation.log().policy is None
    assert (federation.newest(), federation.roster(), federation.members()) == (None, None, ())
    assert list((federation.folder / "log").rglob("*.key")) == []


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("mine")
    with pytest.raises(InputError, match="something in the folder"):
        new_federation(tmp_path / "taken")
    assert [path.name for path in tmp_path.rglob("*")] == ["taken", "file"]


def test_the_offline_keys_may_lie_elsewhere_from_the_beginning(tmp_path: Path, verona: SiteFolder) -> None:
    stick = tmp_path / "stick" / "root.pem"
    made = FederationFolder.create(tmp_path / "c", NAME, ADDRESS, now=NOW, root_key=stick)
    assert not (made.folder / "offline").exists()
    assert sorted(path.name for path in stick.parent.iterdir()) == ["ca.key", "root.pem"]
    with pytest.raises(InputError, match="--root-key"):
        made.offline_keys(None)
    membership.add(made, request_of(verona), made.offline_keys(stick).root, NOW)
    assert names(made) == ["CPI_Verona"]
    assert private_texts(stick.parent).isdisjoint(newest(made).split('"'))


def test_another_federations_root_key_signs_nothing(federation: FederationFolder, tmp_path: Path) -> None:
    other = new_federation(tmp_path / "other")
    with pytest.raises(InputError, match="not the private key of this federation"):
        federation.offline_keys(other.folder / OFFLINE_ROOT)
    shutil.copy(federation.folder / OFFLINE_ROOT, other.folder / OFFLINE_ROOT)
    with pytest.raises(InputError, match="not the key of this federation's CA"):
        federation.offline_keys(other.folder / OFFLINE_ROOT)


def test_a_site_that_was_added_is_in_roster_witnesses_and_edition(
    federation: FederationFolder, verona: SiteFolder
) -> None:
    change = added(federation, verona)
    keys = verona.keys()
    assert change.changed
    assert names(federation) == ["CPI_Verona"]
    roster = Roster.from_yaml((federation.folder / ROSTER_FILE).read_text(encoding="utf-8"), federation.key)
    assert dict(roster.members) == {"CPI_Verona": keys.identity.public_key}
    welcome = Welcome.from_text(newest(federation), key=federation.key)
    assert (welcome.federation, welcome.address, welcome.edition) == (NAME, ADDRESS, 1)
    policy = federation.log().policy
    assert policy is not None
    assert welcome.witnesses == policy.to_json()
    assert [key.public_key for key in policy.witnesses] == [keys.witness.public_key]
    assert federation.members()[0].keys.node == keys.public.node
    assert federation.warnings(NOW) == [one for one in federation.warnings(NOW) if "stick" in one]


def test_more_than_half_of_the_witnesses_must_cosign(federation: FederationFolder, tmp_path: Path) -> None:
    quorums = []
    for name in SITES:
        added(federation, new_site(tmp_path / name, name))
        policy = federation.log().policy
        assert policy is not None
        quorums.append((policy.quorum, len(policy.witnesses)))
    assert quorums == [(1, 1), (2, 2), (2, 3), (3, 4), (3, 5)]


def test_a_site_need_not_count_as_a_witness(federation: FederationFolder, tmp_path: Path) -> None:
    for name in SITES[:2]:
        added(federation, new_site(tmp_path / name, name), witness=name == SITES[0])
    policy = federation.log().policy
    assert policy is not None
    assert len(policy.witnesses) == 1
    assert names(federation) == list(SITES[:2])


def test_a_hundredth_witness_is_refused_and_a_hundredth_site_is_not(
    federation: FederationFolder, tmp_path: Path
) -> None:
    node = request_of(new_site(tmp_path / "some", "CPI_Some")).keys.node
    for number in range(99):
        keys = PublicKeys(number.to_bytes(32), node, (1000 + number).to_bytes(32))
        federation.write_record(SiteRecord(f"S{number}", "member", keys, True, "2026-01-01"))
    last = new_site(tmp_path / "last", "CPI_Last")
    with pytest.raises(MembershipError, match="--no-witness"):
        added(federation, last)
    assert federation.record("CPI_Last") is None
    added(federation, last, witness=False)
    assert len(names(federation)) == 100


def test_the_same_request_again_changes_nothing(federation: FederationFolder, verona: SiteFolder) -> None:
    added(federation, verona)
    before = {path: path.read_bytes() for path in federation.folder.rglob("*") if path.is_file()}
    assert not added(federation, verona).changed
    assert {path: path.read_bytes() for path in federation.folder.rglob("*") if path.is_file()} == before


def test_a_second_site_of_one_name_is_refused(federation: FederationFolder, verona: SiteFolder, tmp_path: Path) -> None:
    added(federation, verona)
    for name in ("CPI_Verona", "cpi_verona"):
        with pytest.raises(MembershipError, match=r"there already|capitals"):
            added(federation, new_site(tmp_path / name, name))
    assert editions(federation) == 1


def request_with(own: SitePrivateKeys, **others: SitePrivateKeys) -> JoinRequest:
    """A request of one who really has all its keys, some of which another site has too."""
    keys = {kind: getattr(others.get(kind, own), kind) for kind in ("identity", "node", "witness")}
    return JoinRequest.from_text(SitePrivateKeys(**keys).request())


@pytest.mark.parametrize("kind", ["identity", "node", "witness"])
def test_a_key_that_a_site_has_or_had_is_refused(
    federation: FederationFolder, verona: SiteFolder, tmp_path: Path, kind: str
) -> None:
    added(federation, verona)
    theirs, other = verona.keys(), new_site(tmp_path / "other", "CPI_Other").keys()
    shared = PublicKeys(**{**vars(other.public), kind: getattr(theirs.public, kind)})
    root = federation.offline_keys(None).root
    for _ in range(2):
        with pytest.raises(MembershipError, match="one of these keys"):
            membership.add(federation, JoinRequest("CPI_Other", shared, "", 0), root, NOW)
        if federation.record("CPI_Verona").status == "member":  # type: ignore[union-attr]
            revoked(federation, "CPI_Verona")
    if kind != "identity":
        assert request_with(other, **{kind: theirs}).keys == shared


def test_a_revoked_site_does_not_come_back_with_its_old_keys(
    federation: FederationFolder, verona: SiteFolder, tmp_path: Path
) -> None:
    added(federation, verona)
    added(federation, new_site(tmp_path / "padova", "CPI_Padova"))
    assert revoked(federation, "CPI_Verona").changed
    assert names(federation) == ["CPI_Padova"]
    for replace in (False, True):
        with pytest.raises(MembershipError, match="out of use for good"):
            added(federation, verona, replace=replace)
    new = new_site(tmp_path / "again", "CPI_Verona")
    with pytest.raises(MembershipError, match="was revoked"):
        added(federation, new)
    added(federation, new, replace=True)
    assert names(federation) == ["CPI_Padova", "CPI_Verona"]
    record = federation.record("CPI_Verona")
    assert record is not None
    assert [(one.why, one.keys) for one in record.former] == [("revoked", verona.keys().public)]
    with pytest.raises(MembershipError, match="out of use for good"):
        added(federation, verona, replace=True)


def test_revoking_takes_the_witness_out_and_keeps_the_policy_of_before(
    federation: FederationFolder, tmp_path: Path
) -> None:
    joined_sites(federation, tmp_path, SITES[:3])
    before = federation.log().policy
    gone = federation.record(SITES[0])
    assert gone is not None
    assert before is not None
    revoked(federation, SITES[0])
    after = federation.log().policy
    assert after is not None
    assert gone.witness_key in before.witnesses
    assert gone.witness_key not in after.witnesses
    old = Welcome.from_text(
        (federation.folder / EDITIONS / "000003.json").read_text(encoding="utf-8"), key=federation.key
    )
    assert WitnessPolicy.from_json(old.witnesses or "") == before


def test_revoking_again_changes_nothing_and_an_unknown_site_is_none(
    federation: FederationFolder, verona: SiteFolder, tmp_path: Path
) -> None:
    added(federation, verona)
    added(federation, new_site(tmp_path / "padova", "CPI_Padova"))
    revoked(federation, "CPI_Verona")
    assert not revoked(federation, "CPI_Verona").changed
    assert editions(federation) == 3
    for name in ("CPI_Nobody", "../CPI_Padova", ""):
        with pytest.raises(MembershipError, match="no such site"):
            revoked(federation, name)


def test_the_last_site_can_be_revoked_too(federation: FederationFolder, verona: SiteFolder, tmp_path: Path) -> None:
    added(federation, verona)
    assert revoked(federation, "CPI_Verona").changed
    assert federation.members() == ()
    assert federation.unfinished() == ()
    added(federation, new_site(tmp_path / "padova", "CPI_Padova"))
    assert names(federation) == ["CPI_Padova"]
    assert federation.newest().edition == 2  # type: ignore[union-attr]


def test_new_keys_replace_the_old_ones_of_one_site_and_touch_no_other(
    federation: FederationFolder, tmp_path: Path
) -> None:
    sites = joined_sites(federation, tmp_path, SITES[:3])
    other = (federation.folder / "sites" / f"{SITES[1]}.json").read_bytes()
    old = sites[SITES[0]].keys().public
    sites[SITES[0]].rotate()
    with pytest.raises(MembershipError, match="--replace"):
        added(federation, sites[SITES[0]])
    assert added(federation, sites[SITES[0]], replace=True).changed
    record = federation.record(SITES[0])
    assert record is not None
    assert record.keys == request_of(sites[SITES[0]]).keys != old
    assert record.former == (Former(old, f"{NOW:%Y-%m-%d}", "replaced"),)
    assert (federation.folder / "sites" / f"{SITES[1]}.json").read_bytes() == other
    assert not added(federation, sites[SITES[0]], replace=True).changed


def test_nobody_is_there_to_replace(federation: FederationFolder, verona: SiteFolder) -> None:
    with pytest.raises(MembershipError, match="no site of this name"):
        added(federation, verona, replace=True)


def test_every_altered_part_of_a_request_is_refused(verona: SiteFolder, tmp_path: Path) -> None:
    text = verona.request.read_bytes()
    other = json.loads(new_site(tmp_path / "other", "CPI_Other").request.read_bytes())
    own = json.loads(text)
    assert JoinRequest.from_text(text).keys == verona.keys().public
    changed = [altered(text, **{key: other[key]}) for key in ("name", "identity", "node", "witness", "proofs")]
    changed += [altered(text, djms="9.9"), altered(text, protocol=own["protocol"] + 1), altered(text, more=1)]
    changed += [altered(text, proofs={**own["proofs"], key: other["proofs"][key]}) for key in own["proofs"]]
    changed += [altered(text, proofs={**own["proofs"], key: ""}) for key in own["proofs"]]
    for forged in changed:
        with pytest.raises(MembershipError):
            JoinRequest.from_text(forged)


def test_a_request_that_nobody_signed_is_refused(verona: SiteFolder) -> None:
    content = json.loads(verona.request.read_bytes())
    for without in ("identity", "node", "witness"):
        proofs = {key: value for key, value in content["proofs"].items() if key != without}
        with pytest.raises(MembershipError, match=f"proofs.{without}"):
            JoinRequest.from_text(json.dumps({**content, "proofs": proofs}))
    del content["proofs"]
    with pytest.raises(MembershipError, match="proofs"):
        JoinRequest.from_text(json.dumps(content))


def test_a_proof_for_one_key_proves_no_other(verona: SiteFolder) -> None:
    own = json.loads(verona.request.read_bytes())
    proofs = own["proofs"] | {"witness": own["proofs"]["identity"]}
    with pytest.raises(MembershipError, match="witness"):
        JoinRequest.from_text(json.dumps({**own, "proofs": proofs}))
    keys = verona.keys()
    one_for_two = keys.request().replace(json.loads(keys.request())["witness"], json.loads(keys.request())["identity"])
    with pytest.raises(MembershipError, match="two different keys"):
        JoinRequest.from_text(one_for_two)


def test_a_request_in_anothers_name_has_another_fingerprint(verona: SiteFolder, tmp_path: Path) -> None:
    forger = new_site(tmp_path / "forger", "CPI_Verona")
    assert request_of(forger).name == request_of(verona).name
    assert not same_fingerprint(request_of(forger).fingerprint, request_of(verona).fingerprint)
    shown = request_of(verona).fingerprint
    assert same_fingerprint(f" {shown.upper().replace(' ', '-')} ", shown)
    assert not same_fingerprint(shown[:-1], shown)
    assert not same_fingerprint("", shown)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "a/b", "/etc/passwd", "a\\b", "-rf", ".hidden", "a b", "a\n", "a\0", "à", "a" * 65, "CON:"],
)
def test_a_name_that_could_be_a_path_is_refused(verona: SiteFolder, tmp_path: Path, name: str) -> None:
    with pytest.raises(MembershipError, match="name"):
        JoinRequest.from_text(altered(verona.request.read_bytes(), name=name))
    with pytest.raises(MembershipError, match="name"):
        new_site(tmp_path / "new", name)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "null",
        "no JSON",
        '{"name": "CPI_Verona"}',
        b"\xff\xfe",
        "[" * 100_000,
        '{"type": "\\ud800"}',
        "9" * 9000,
    ],
)
def test_what_is_no_request_and_no_welcome_is_refused_in_one_sentence(text: str | bytes) -> None:
    for read in (JoinRequest.from_text, lambda text: Welcome.from_text(text, key=bytes(32))):
        with pytest.raises(MembershipError) as caught:
            read(text)
        assert "\n" not in str(caught.value)


def test_a_node_key_has_one_spelling(verona: SiteFolder) -> None:
    keys = verona.keys().public
    for node in (f"{keys.node} comment", f" {keys.node}", f"{keys.node}\n", keys.node.replace(" ", "  ")):
        with pytest.raises(MembershipError, match="node"):
            PublicKeys(keys.identity, node, keys.witness)


def test_only_one_command_at_a_time_changes_a_federation(federation: FederationFolder, verona: SiteFolder) -> None:
    with locked_folder(federation.folder), pytest.raises(RunError, match="another command"):
        added(federation, verona)
    added(federation, verona)


def test_a_new_key_of_the_log_is_published_with_a_new_edition(federation: FederationFolder, verona: SiteFolder) -> None:
    added(federation, verona)
    federation.log().rotate()
    assert any("publish" in one for one in federation.warnings(NOW))
    assert membership.publish(federation, federation.offline_keys(None).root)[1]
    assert not any("publish" in one for one in federation.warnings(NOW))


def test_a_kill_while_a_federation_is_made_leaves_none_and_the_same_command_makes_it(tmp_path: Path) -> None:
    for stick in (None, tmp_path / "stick" / "root.pem"):
        folder = tmp_path / "coordinator"

        def make() -> None:
            FederationFolder.create(folder, NAME, ADDRESS, now=NOW, root_key=stick)  # noqa: B023

        total = steps_of(make)
        assert total > 20
        shutil.rmtree(folder)
        for step in range(1, total + 1):
            if stick is not None:
                shutil.rmtree(stick.parent, ignore_errors=True)
            assert steps_of(make, kill_at=step) == 0
            if folder.exists():  # killed after the end of the work
                FederationFolder(folder).offline_keys(stick)
                shutil.rmtree(folder)
            assert steps_of(make) > 0
            assert FederationFolder(folder).offline_keys(stick).root.public_key == FederationFolder(folder).key
            assert not list(tmp_path.glob(".*.part"))
            shutil.rmtree(folder)


@pytest.mark.parametrize("what", ["add", "replace", "revoke"])
def test_a_kill_leaves_the_old_edition_or_the_new_and_the_same_command_completes_it(tmp_path: Path, what: str) -> None:
    base = new_federation(tmp_path / "base")
    sites = joined_sites(base, tmp_path, SITES[:3])
    subject = new_site(tmp_path / "new", "CPI_New") if what == "add" else sites[SITES[0]]
    if what == "replace":
        subject.rotate()

    def work(folder: Path) -> None:
        there = FederationFolder(folder)
        if what == "revoke":
            revoked(there, subject.name)
        else:
            added(there, subject, replace=what == "replace")

    done = tmp_path / "done"
    shutil.copytree(base.folder, done)
    total = steps_of(lambda: work(done))
    before, after = base.newest(), FederationFolder(done).newest()
    assert before is not None
    assert after is not None
    assert total > 5
    for step in range(1, total + 1):
        killed = tmp_path / "killed"
        shutil.copytree(base.folder, killed)
        assert steps_of(lambda: work(killed), kill_at=step) == 0  # noqa: B023
        there = FederationFolder(killed)
        edition = there.newest()
        assert edition in (before, after)
        if edition == before:
            gone = {subject.name} if there.unfinished() and what != "add" else set()
            assert set(names(there)) == set(SITES[:3]) - gone
        work(killed)
        assert there.newest() == after
        assert names(there) == names(FederationFolder(done))
        assert (killed / ROSTER_FILE).read_text(encoding="utf-8") == after.roster
        assert there.log().policy == WitnessPolicy.from_json(after.witnesses or "")
        assert there.unfinished() == ()
        shutil.rmtree(killed)
