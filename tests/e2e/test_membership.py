"""`djms server` and `djms client` by hand: five offices become a federation, change, and make a secure sum together."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from conftest import Outcome
from joined_federation import SITES
from secure_federation import TOPIC, terms_of

from client.cli import app as client_app
from client.keys import SiteKeys, read_site_keys
from client.site_folder import SiteFolder
from client.witness_folder import WitnessFolder
from common import secure_vector as vector
from common.cli import new_group, run
from common.public_keys import same_fingerprint
from privacy.secure_aggregation.coordinator import SecureSum, SetUp
from privacy.secure_aggregation.errors import KeyNotSigned
from privacy.secure_aggregation.messages import Revealed
from privacy.secure_aggregation.site import SiteSession
from privacy.secure_aggregation.terms import SegmentTerms, Terms
from server.cli import app as server_app
from server.federation_folder import FederationFolder

Call = Callable[..., Outcome]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """The two groups as `djms` has them, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    root = new_group("Test.")
    root.add_typer(server_app, name="server")
    root.add_typer(client_app, name="client")

    def called(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = run(root, [str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return called


@pytest.fixture
def fingerprint(call: Call) -> str:
    """That of a federation, as its operator was told it."""
    made = call("server", "init", "--name", "Veneto", "--address", "fl.example.org:9092", "--json")
    assert made.code == 0
    return str(made.data["fingerprint"])


def asked(call: Call, name: str, *options: str) -> Outcome:
    """A site's `init`."""
    outcome = call("client", "init", *([] if "--rotate" in options else [name]), "--folder", name, *options, "--json")
    assert outcome.code == 0, outcome.err
    return outcome


def added(call: Call, request: Outcome, *options: str) -> Outcome:
    """The operator's `add-site`, who has compared the fingerprint."""
    file, shown = request.data["request"], request.data["fingerprint"]
    outcome = call("server", "add-site", file, "--fingerprint", shown, *options, "--out", "welcome.json", "--json")
    assert outcome.code == 0, outcome.err
    return outcome


def joined(call: Call, name: str, *options: str) -> Outcome:
    """A site's `join` with the welcome that came last."""
    outcome = call("client", "join", "welcome.json", "--folder", name, *options, "--json")
    assert outcome.code == 0, outcome.err
    return outcome


@pytest.fixture
def federation(call: Call, fingerprint: str) -> FederationFolder:
    """Five sites, all of which have the newest edition."""
    for name in SITES:
        added(call, asked(call, name))
    for name in SITES:
        joined(call, name, "--fingerprint", fingerprint)
    return FederationFolder(Path("data/coordinator"))


def suitable_terms() -> Terms:
    """Terms that sites with default limits accept."""
    bounds = vector.bounds(16384, 2.0)
    layout = (
        SegmentTerms(name=vector.SUMS, length=2, bound=bounds[vector.SUMS], bits=64),
        SegmentTerms(name=vector.UPDATE, length=5, bound=bounds[vector.UPDATE], bits=32),
    )
    return terms_of(layouts={"train": layout}, threshold="60%")


def secure_sum(federation: FederationFolder, sites: Mapping[str, SiteKeys]) -> dict[str, list[float]]:
    """A whole set-up and one sum, each site with its own folder's identity, roster and limits."""
    terms, roster = suitable_terms(), federation.roster()
    assert roster is not None
    set_up = SetUp(terms, roster)
    sessions: dict[str, SiteSession] = {}
    for name, keys in sites.items():
        sessions[name], advert = SiteSession.advertise(keys.identity, terms, keys.limits, last_slot=0)
        set_up.add_advert(name, advert)
    set_up.close_adverts()
    for name, keys in sites.items():
        set_up.add_shares(name, sessions[name].share(set_up.adverts_for(name), keys.roster))
    set_up.close_shares()
    total = SecureSum(set_up, 1, "train", TOPIC)
    for number, name in enumerate(sites, start=1):
        sessions[name].begin(set_up.begin_for(name))
        values = {vector.SUMS: np.full(2, float(number)), vector.UPDATE: np.full(5, float(number))}
        rng = np.random.default_rng(number)
        total.add_masked(name, sessions[name].mask(1, "train", TOPIC, terms.shapes, values, rng=rng))
    listed = total.close()
    for name, keys in sites.items():
        total.add_attestation(name, sessions[name].attest(listed, keys.identity))
    for name, keys in sites.items():
        answer = sessions[name].unmask(total.unmask_request_for(name), keys.roster)
        total.add_revealed(name, Revealed.from_bytes(answer).to_bytes())
    (group,) = total.result()
    return {key: [float(one) for one in value] for key, value in group.values.items()}


def keys_of(*names: str) -> dict[str, SiteKeys]:
    return {name: read_site_keys(Path(name)) for name in names}


def test_five_sites_join_and_make_a_secure_sum_together(federation: FederationFolder) -> None:
    summed = secure_sum(federation, keys_of(*SITES))
    assert summed[vector.SUMS] == pytest.approx([15.0] * 2, abs=0.01)
    assert summed[vector.UPDATE] == pytest.approx([15.0] * 5, abs=0.01)


def test_all_sites_know_the_same_and_watch_the_same_log(federation: FederationFolder) -> None:
    roster, log = federation.roster(), federation.log()
    assert roster is not None
    for name in SITES:
        assert read_site_keys(Path(name)).roster.digest == roster.digest
        assert WitnessFolder(Path(name) / "witness").signers == log.signers
    assert log.policy is not None
    assert {WitnessFolder(Path(name) / "witness").key for name in SITES} == set(log.policy.witnesses)


def test_a_site_of_an_older_edition_refuses_a_new_site_until_it_takes_the_new_edition(
    call: Call, federation: FederationFolder, fingerprint: str
) -> None:
    before = {name: read_site_keys(Path(name)) for name in SITES}
    added(call, asked(call, "CPI_Belluno"))
    joined(call, "CPI_Belluno", "--fingerprint", fingerprint)
    with pytest.raises(KeyNotSigned, match="CPI_Belluno"):
        secure_sum(federation, {**before, **keys_of("CPI_Belluno")})
    secure_sum(federation, before)  # without the new site the older edition does
    text = federation.newest_text()
    for name in SITES:
        SiteFolder(Path(name)).accept(text or "")
    assert secure_sum(federation, keys_of(*SITES, "CPI_Belluno"))[vector.SUMS] == pytest.approx([21.0] * 2, abs=0.01)


def test_the_others_go_on_without_a_site_that_is_revoked(call: Call, federation: FederationFolder) -> None:
    gone, *left = SITES
    revoked = call("server", "revoke-site", gone, "--json")
    assert (revoked.code, revoked.data["sites"], revoked.data["edition"]) == (0, 4, 6)
    secure_sum(federation, keys_of(*left))
    with pytest.raises(KeyNotSigned):
        secure_sum(federation, keys_of(*SITES))
    assert call("server", "welcome", gone).code == 1
    refused = call("server", "add-site", f"{gone}/request-{gone}.json", "--yes")
    assert refused.code == 1
    assert "out of use for good" in refused.err


def test_one_site_changes_its_keys(call: Call, federation: FederationFolder) -> None:
    one, *others = SITES
    asked_again = asked(call, one, "--rotate")
    secure_sum(federation, keys_of(*SITES))  # the old keys are in use until the others can know the new
    added(call, asked_again, "--replace")
    assert joined(call, one).data["rotated"]
    for name in others:
        assert not joined(call, name).data["rotated"]
    secure_sum(federation, keys_of(*SITES))


def test_the_fingerprint_of_a_request_is_compared_before_anything_is_written(call: Call, fingerprint: str) -> None:
    request = asked(call, "CPI_Verona")
    forged = asked(call, "forged")
    folder = Path("data/coordinator/sites")
    for options in ([], ["--fingerprint", forged.data["fingerprint"]], ["--fingerprint", ""]):
        refused = call("server", "add-site", request.data["request"], *options)
        assert refused.code == 1
        assert request.data["fingerprint"] in refused.err
        assert refused.out == ""
    assert list(folder.iterdir()) == []
    assert same_fingerprint(
        call("client", "show", "--folder", "CPI_Verona", "--json").data["fingerprint"], request.data["fingerprint"]
    )


def test_what_commands_say_names_warnings_and_no_secret(call: Call, federation: FederationFolder) -> None:
    shown = call("server", "sites")
    assert "move data/coordinator/offline to a stick" in shown.out
    shutil.move("data/coordinator/offline", "stick")
    assert "stick" not in call("server", "sites").out
    refused = call("server", "revoke-site", SITES[0])
    assert refused.code == 1
    assert "--root-key" in refused.err
    assert call("server", "revoke-site", SITES[0], "--root-key", "stick/root.pem").code == 0
    listed = call("server", "sites", "--json").data
    assert [(one["name"], one["state"]) for one in listed["sites"]] == [
        (name, "revoked" if name == SITES[0] else "member") for name in SITES
    ]
    assert call("server", "renew", "--root-key", "stick/root.pem", "--ca", "--json").data["new_edition"]
    assert not call("server", "publish", "--root-key", "stick/root.pem", "--json").data["changed"]
    for outcome in (shown, call("client", "show", "--folder", SITES[1])):
        assert outcome.code == 0
        assert "PRIVATE" not in outcome.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["server", "init", "--name", "V", "--address", "nonsense"], "fl.example.org:9092"),
        (["server", "init", "--name", "", "--address", "h:1"], "--name"),
        (["server", "init", "--name", "V", "--address", "h:1"], "something in the folder"),
        (["server", "sites", "--folder", "nowhere"], "djms server init"),
        (["server", "add-site", "nothing.json"], "does not exist"),
        (["server", "revoke-site", "CPI_Nobody"], "no such site"),
        (["client", "init"], "no name"),
        (["client", "init", "../evil", "--folder", "s"], "name"),
        (["client", "init", "CPI_A", "--folder", "s", "--budget.delta", "2"], "delta"),
        (["client", "show", "--folder", "nowhere"], "djms client init"),
        (["client", "join", "nothing.json"], "does not exist"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(
    call: Call, fingerprint: str, arguments: list[str], words: str
) -> None:
    refused = call(*arguments)
    assert refused.code == 1
    assert words in refused.err
    assert refused.err.count("\n") == 1
    assert sorted(path.name for path in Path().iterdir()) == ["data"]


def test_an_altered_welcome_is_refused_by_the_command(call: Call, fingerprint: str) -> None:
    added(call, asked(call, "CPI_Verona"))
    content = json.loads(Path("welcome.json").read_text(encoding="utf-8"))
    Path("welcome.json").write_text(json.dumps({**content, "address": "evil.example.org:9092"}), encoding="utf-8")
    refused = call("client", "join", "welcome.json", "--folder", "CPI_Verona", "--fingerprint", fingerprint)
    assert refused.code == 1
    assert "altered" in refused.err
    assert call("client", "show", "--folder", "CPI_Verona", "--json").data["joined"] is False
