"""The audit of a log: whatever is damaged, left out, changed afterwards or not so is named."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from anchored_log import signer_of

from anchoring.anchor_folder import AnchorFolder
from anchoring.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from anchoring.cosignature import WitnessKey, WitnessPolicy, cosign
from anchoring.errors import (
    AnchoringError,
    CheckpointInvalid,
    ContentDamaged,
    LogCorrupt,
    LogForked,
    LogMissing,
    LogRolledBack,
    ReceiptInvalid,
    UnknownSigner,
)
from anchoring.log_store import LogStore
from anchoring.manifest import PrivacyRecord, RoundManifest, RoundRecord
from anchoring.records import ReleaseEntry
from common.errors import DjmsError, InputError
from common.model import MatchingModel, ModelCard, parameters_of, to_bytes
from common.settings_loading import load_settings
from privacy.accounting import spent
from privacy.events import PrivacyEvent, events_from_json, events_to_json, training_event
from server.anchor_audit import AuditFailed, audit
from server.commitments import Commitments, card_of
from server.job import Job

ORIGIN = "test.example/audited"
SITES = ("CPI_A", "CPI_B", "CPI_C", "CPI_D")
CARD = ModelCard("rule", (4,), synthetic=True)
SETTINGS = load_settings(["training.hidden=[4]"], environment={})
DELTA = SETTINGS.privacy.dp.delta
WITNESSES = tuple(signer_of(f"witness-{number}", f"audited witness {number}") for number in range(3))
POLICY = WitnessPolicy(2, tuple(WitnessKey.of(witness) for witness in WITNESSES))

Entry = RoundManifest | bytes


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    """Nothing here is about durability: spare the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


# An honest coordinator.


def event_of(site: str, run: str, number: int, noise: float = 4.0) -> PrivacyEvent:
    return training_event(
        unit="site", site=site, run=run, round=number, noise_multiplier=noise, sampling_rate=1.0, steps=1
    )


def run_into(anchor: AnchorFolder, run: str, rounds: int, *, private: bool, abandoned: int = 0) -> None:
    """A run's manifests, as the coordinator commits them; the abandoned round is told of with the next one."""
    commitments = Commitments(anchor, Job(SETTINGS, SITES, CARD, Path(), run=run))
    events: list[PrivacyEvent] = []
    records: list[RoundRecord] = []
    for number in range(rounds + 1):
        metrics = None if private else {"auc": 0.5 + number / 16}
        if number == abandoned != 0:
            records.append(commitments.record(number, (), None, None))
            continue
        if number:
            records.append(commitments.record(number, SITES[:3], 120.0, metrics))
            events += [event_of(site, run, number) for site in SITES[:3] if private]
        parameters = parameters_of(MatchingModel((4,), seed=number))
        commitments.commit(parameters, CARD, number=number, rounds=records, events=events)
        records = []
    card = replace(CARD, epsilon=spent(events, DELTA).epsilon, delta=DELTA, unit="site") if private else CARD
    parameters = parameters_of(MatchingModel((4,), seed=99))
    metrics = None if private else {"auc": 0.75}
    commitments.commit(parameters, card, number=rounds, rounds=records, events=events, released=True, metrics=metrics)


def cosigned(text: str) -> str:
    for witness in WITNESSES:
        text = cosign(text, witness, 1_700_000_000)
    return text


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log with full and partial tiles, two keys, cosignatures, a plain and a private run."""
    anchor = AnchorFolder.create(tmp_path_factory.mktemp("large") / "log", ORIGIN)
    anchor.set_policy(POLICY)
    anchor.append([b'{"number":%d,"type":"test.filler/v1"}' % number for number in range(251)])
    anchor.add_cosignatures(cosigned(anchor.checkpoint()))
    run_into(anchor, "plain", 3, private=False, abandoned=2)
    anchor.add_cosignatures(cosigned(anchor.checkpoint()))
    anchor.rotate()
    run_into(anchor, "private", 2, private=True)
    anchor.add_cosignatures(cosigned(anchor.checkpoint()))
    return anchor.folder


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of a plain run at 0 to 3 and a private one at 4 to 7, two rounds each."""
    anchor = AnchorFolder.create(tmp_path_factory.mktemp("small") / "log", ORIGIN)
    run_into(anchor, "plain", 2, private=False)
    run_into(anchor, "private", 2, private=True)
    return anchor.folder


@pytest.fixture
def folder(small: Path, tmp_path: Path) -> Path:
    """The small log, to do with as one likes."""
    return Path(shutil.copytree(small, tmp_path / "log"))


def manifests_of(folder: Path) -> list[RoundManifest]:
    return [RoundManifest.from_bytes(entry) for entry in AnchorFolder.open(folder).log.entries()]


def test_an_honest_log_passes_and_the_audit_says_what_it_saw(large: Path) -> None:
    found = audit(large, signers=AnchorFolder.open(large).signers)
    assert (found.origin, found.size, found.runs, found.models) == (ORIGIN, 259, 2, 8)
    assert found.entries == {"test.filler/v1": 251, "djms.round/v1": 8}
    assert (found.checkpoints, found.published, found.earlier) == (3, 3, 0)


def test_an_audit_changes_nothing(small: Path) -> None:
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in small.rglob("*") if path.is_file()}
    audit(small)
    assert before == {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in small.rglob("*") if p.is_file()}


def test_the_price_of_people_is_recomputed_as_well(tmp_path: Path) -> None:
    anchor = AnchorFolder.create(tmp_path / "log", ORIGIN)
    commitments = Commitments(anchor, Job(SETTINGS, SITES, CARD, Path(), run="people"))
    events = [
        training_event(site=site, run="people", round=1, noise_multiplier=2.0, sampling_rate=0.1, steps=number)
        for number, site in enumerate(SITES, start=1)
    ]
    parameters = parameters_of(MatchingModel((4,), seed=1))
    commitments.commit(parameters, CARD, number=0, rounds=(), events=())
    record = commitments.record(1, SITES, 4.0, None)
    made = commitments.commit(parameters, CARD, number=1, rounds=[record], events=events)
    privacy = made.manifest.privacy
    assert privacy is not None
    assert privacy.epsilon == spent(events[-1:], DELTA).epsilon  # the site that paid most
    assert privacy.event["steps"] == 4
    assert audit(tmp_path / "log").models == 2
    assert not any(site.encode() in path.read_bytes() for site in SITES for path in (tmp_path / "log").rglob("*/??/*"))


def test_an_empty_log_passes_and_none_is_no_log(tmp_path: Path) -> None:
    AnchorFolder.create(tmp_path / "log", ORIGIN)
    assert audit(tmp_path / "log").size == 0
    with pytest.raises(LogMissing):
        audit(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


# Damage.

NOT_AUDITED = {"log/.lock"}
"""An empty file that holds no place in the log; and the private keys, which no auditor has."""

TAKEN_ON_TRUST = {"witnesses.json"}
"""Whose cosignatures count is the keeper's to say; see the test of its own."""


def audited_files(folder: Path) -> list[Path]:
    """Every file of the log that the audit must not miss a byte of."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    names = {path: path.relative_to(folder).as_posix() for path in files}
    covered = [path for path in files if names[path].partition("/")[0] in ("log", "store", "cosigned", "signers.json")]
    left_out = {names[path] for path in files} - {names[path] for path in covered}
    assert {name for name in left_out if not name.startswith("keys/")} == TAKEN_ON_TRUST
    return [path for path in covered if names[path] not in NOT_AUDITED]


def test_any_damaged_file_is_named(large: Path, tmp_path: Path) -> None:
    """In each file: one flipped byte at its ends and between, a byte more, one less, and nothing at all in it."""
    folder = Path(shutil.copytree(large, tmp_path / "log"))
    signers = AnchorFolder.open(folder).signers
    files = audited_files(folder)
    assert {"tile/0/000", "tile/0/001.p/3", "tile/1/000.p/1", "tile/entries/000", "tile/entries/001.p/3"} < {
        path.relative_to(folder / "log").as_posix() for path in files if path.is_relative_to(folder / "log")
    }
    for path in files:
        whole = path.read_bytes()
        places = {0, len(whole) // 4, len(whole) // 2, len(whole) * 3 // 4, len(whole) - 1}
        damaged = [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in sorted(places)]
        # The signers are JSON in any spelling; everything else has one, to the last byte.
        ends = (whole[:-2], b"") if path.name == "signers.json" else (whole[:-1], whole + b"\n", b"")
        for content in (*damaged, *ends):
            path.write_bytes(content)
            with pytest.raises(DjmsError) as caught:
                audit(folder, signers=signers)
            assert str(path) in str(caught.value), (path, content[:80], str(caught.value))
        path.write_bytes(whole)
    assert audit(folder, signers=signers).models == 8


def test_any_missing_file_is_named(large: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(large, tmp_path / "log"))
    removable = [path for path in audited_files(folder) if path.parent.name != "cosigned"]
    for path in removable:
        path.rename(tmp_path / "aside")
        with pytest.raises(DjmsError) as caught:
            audit(folder)
        assert str(path) in str(caught.value), (path, str(caught.value))
        (tmp_path / "aside").rename(path)
    audit(folder)


def test_a_cosigned_checkpoint_that_is_gone_only_counts_no_more(large: Path, tmp_path: Path) -> None:
    """Nothing says how many there were: whoever relies on one keeps a receipt."""
    folder = Path(shutil.copytree(large, tmp_path / "log"))
    (folder / "cosigned" / "251").unlink()
    found = audit(folder)
    assert (found.checkpoints, found.published) == (2, 2)


def test_the_witnesses_are_who_the_keeper_says_and_another_list_fits_no_cosignature(
    large: Path, tmp_path: Path
) -> None:
    """A flip in the quorum gives another quorum; every other one is noticed, and so is a list that is gone."""
    folder = Path(shutil.copytree(large, tmp_path / "log"))
    path = folder / "witnesses.json"
    whole = path.read_bytes()
    quorum = whole.index(b"2")
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        if place == quorum:
            assert audit(folder).published == 3  # all three signed
            continue
        with pytest.raises(DjmsError) as caught:
            AnchorFolder.open(folder)
        assert str(path) in str(caught.value), place
    path.unlink()
    for _ in ("none", "other"):
        with pytest.raises(CheckpointInvalid, match="none of the log's keys and named witnesses") as found:
            audit(folder)
        assert found.value.where == str(folder / "cosigned" / "251")
        path.write_text(WitnessPolicy(1, POLICY.witnesses[:1]).to_json(), encoding="utf-8")


def test_a_model_in_another_models_place_is_named(folder: Path) -> None:
    one, other = (manifests_of(folder)[at].model_sha256 for at in (1, 2))
    store = folder / "store"
    path, other_path = store / one[:2] / one[2:], store / other[:2] / other[2:]
    parameters = parameters_of(MatchingModel((4,), seed=1))
    parameters["0.bias"] = parameters["0.bias"] + np.float32(1e-6)
    for content in (other_path.read_bytes(), to_bytes(parameters, CARD)):
        path.write_bytes(content)
        with pytest.raises(ContentDamaged) as caught:
            audit(folder)
        assert caught.value.where == str(path)


# The signers.


def test_whose_log_it_is_the_auditor_may_know_better_than_the_folder(folder: Path, tmp_path: Path) -> None:
    signers = AnchorFolder.open(folder).signers
    entries = list(AnchorFolder.open(folder).log.entries())
    forged = AnchorFolder.create(tmp_path / "forged", ORIGIN)
    shutil.copytree(folder / "store", tmp_path / "forged" / "store")
    forged.append(entries)
    audit(tmp_path / "forged")  # with a key of its own, it is a log like any other
    with pytest.raises(LogCorrupt, match="none of the keys"):
        audit(tmp_path / "forged", signers=signers)
    shutil.copy(folder / "signers.json", tmp_path / "forged" / "signers.json")
    with pytest.raises(LogCorrupt, match="none of the keys"):
        audit(tmp_path / "forged", signers=signers)


def test_another_window_of_a_key_is_noticed_by_whoever_brings_the_signers(large: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(large, tmp_path / "log"))
    signers = AnchorFolder.open(folder).signers
    path = folder / "signers.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"first_size": 0', '"first_size": 1'), encoding="utf-8")
    with pytest.raises(AuditFailed, match="not the signers that you brought") as caught:
        audit(folder, signers=signers)
    assert caught.value.where == str(path)


def test_a_smaller_quorum_is_noticed_by_whoever_brings_the_witnesses(large: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(large, tmp_path / "log"))
    policy = AnchorFolder.open(folder).policy
    assert policy is not None
    audit(folder, policy=policy)
    AnchorFolder.open(folder).set_policy(replace(policy, quorum=policy.quorum - 1 or policy.quorum + 1))
    with pytest.raises(AuditFailed, match="not the witnesses that you brought"):
        audit(folder, policy=policy)


# An operator who has the key, and writes another log with it.


def rewrite(folder: Path, entries: Sequence[Entry]) -> None:
    """The same log with other entries, signed with its own key and stored as if they had been the first."""
    anchor = AnchorFolder.open(folder)
    signer = anchor.signer()

    def read(text: bytes) -> tuple[int, bytes]:
        checkpoint = open_checkpoint(text, anchor.signers)
        return checkpoint.size, checkpoint.root

    def sign(size: int, root: bytes) -> bytes:
        return sign_checkpoint(Checkpoint(ORIGIN, size, root), signer).encode()

    shutil.rmtree(folder / "log")
    LogStore.create(folder / "log", read, sign)
    again = AnchorFolder.open(folder)
    contents = [one if isinstance(one, bytes) else one.to_bytes() for one in entries]
    for content in contents:
        again.store.put(content)
    again.append(contents)


def linked(manifests: Sequence[RoundManifest]) -> list[RoundManifest]:
    """With `previous` as it must be, run by run."""
    last: dict[str, str] = {}
    made = []
    for manifest in manifests:
        made.append(manifest.model_copy(update={"previous": last.get(manifest.run)}))
        last[manifest.run] = made[-1].sha256
    return made


def changed(manifests: Sequence[RoundManifest], at: int, **changes: Any) -> list[RoundManifest]:
    """With one of them changed, and all those after it linked to it."""
    return linked([one.model_copy(update=changes) if n == at else one for n, one in enumerate(manifests)])


def stored(folder: Path, content: bytes | str) -> str:
    return AnchorFolder.open(folder).store.put(content.encode() if isinstance(content, str) else content)


def require_fails(folder: Path, entries: Sequence[Entry], index: int, what: str) -> None:
    rewrite(folder, entries)
    with pytest.raises(AuditFailed, match=what) as caught:
        audit(folder)
    assert caught.value.where == f"entry {index} of the log"


def test_what_is_rewritten_as_it_was_passes(folder: Path) -> None:
    rewrite(folder, linked(manifests_of(folder)))
    assert audit(folder).models == 8


Change = Callable[[list[RoundManifest]], Sequence[Entry]]


def _renumbered(manifests: list[RoundManifest]) -> list[RoundManifest]:
    """Manifest 2 of round 3, which tells of round 3 alone."""
    record = manifests[2].rounds[0].model_copy(update={"number": 3})
    return changed(changed(manifests, 2, round=3, rounds=(record,)), 3, round=3)


def _again(manifest: RoundManifest, model_sha256: str | None = None) -> RoundManifest:
    """A second manifest for a round, of the same or another model."""
    return manifest.model_copy(update={"rounds": (), "model_sha256": model_sha256 or manifest.model_sha256})


@pytest.mark.parametrize(
    ("change", "index", "what"),
    [
        (lambda m: linked([m[0], *m[2:]]), 1, "does not tell of every round from 1 to 2"),
        (_renumbered, 2, "does not tell of every round from 2 to 3"),
        (lambda m: changed(m, 2, rounds=()), 2, "does not tell of every round"),
        (lambda m: changed(m, 3, rounds=m[2].rounds), 3, "does not tell of every round from 3 to 2"),
        (lambda m: [m[0], m[1], m[2].model_copy(update={"previous": m[0].sha256}), *m[3:]], 2, "does not name"),
        (lambda m: [m[0], m[1], m[2].model_copy(update={"previous": None}), *m[3:]], 2, "does not name"),
        (lambda m: [m[0], m[1].model_copy(update={"metrics": {"auc": 1.0}}), *m[2:]], 2, "does not name"),
        (lambda m: [m[0], m[2], m[1], *m[3:]], 1, "does not name"),
        (lambda m: [m[0], m[1], m[1], *m[2:]], 2, "does not name"),
        (lambda m: m[1:], 0, "does not begin"),
        (lambda m: linked(m[1:]), 0, "does not begin"),
        (lambda m: [m[0].model_copy(update={"previous": "0" * 64})], 0, "does not begin"),
        (lambda m: linked([*m[:4], m[3]]), 4, "released its model already"),
        (lambda m: linked([*m[:4], m[3].model_copy(update={"released": False})]), 4, "released its model already"),
        (lambda m: linked([*m[:2], _again(m[1], m[2].model_sha256), *m[2:]]), 2, "of its model after round 1 already"),
        (lambda m: linked([*m[:3], _again(m[1]), m[3]]), 3, "after round 2 already"),
        (lambda m: linked([*m[:3], m[3].model_copy(update={"round": 1, "rounds": ()})]), 3, "after round 2 already"),
        (lambda m: changed(m, 2, settings_sha256="0" * 64), 2, "settings or code changed"),
        (lambda m: changed(m, 2, bundle_sha256="0" * 64), 2, "settings or code changed"),
        (lambda m: changed(m, 2, quorum=1), 2, "settings or code changed"),
        (lambda m: changed(m, 1, card={**m[1].card, "synthetic": False}), 1, "card of the stored model is another"),
        (lambda m: changed(m, 1, card={}), 1, "card of the stored model is another"),
        (lambda m: [*m, b"no JSON"], 8, "no JSON object"),
        (lambda m: [*m, b'{"kind":"djms.round/v1"}'], 8, "no JSON object"),
        (lambda m: [b"", *m], 0, "no JSON object"),
        (lambda m: [m[0].to_bytes() + b" ", *m[1:]], 0, "canonical form"),
        (lambda m: [m[0].to_bytes().replace(b'"round":0', b'"round":0.0'), *m[1:]], 0, "canonical form|no manifest"),
        (lambda m: [m[0].to_bytes().replace(b'"quorum":3', b'"quorum":0'), *m[1:]], 0, "no manifest"),
        (lambda m: [m[0].to_bytes().replace(b'"quorum":3', b'"Quorum":3'), *m[1:]], 0, "no manifest"),
    ],
)  # fmt: skip
def test_a_chain_of_manifests_that_does_not_fit_is_named(folder: Path, change: Change, index: int, what: str) -> None:
    entries = change(manifests_of(folder))
    require_fails(folder, entries, index, what)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no model",
        bytes(8) + b"{}",
        b"\xff" * 100,
        (2).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (6).to_bytes(8, "little") + b'{"\xff":1',
        (20).to_bytes(8, "little") + b'{"__metadata__":null}'[:20],
        (21).to_bytes(8, "little") + b'{"__metadata__":null}',
        (29).to_bytes(8, "little") + b'{"__metadata__":{"djms":"{"}}',
        (200_000).to_bytes(8, "little") + b"[" * 200_000,
    ],
)
def test_what_is_stored_as_a_model_and_is_none_is_named(folder: Path, content: bytes) -> None:
    manifests = changed(manifests_of(folder), 2, model_sha256=stored(folder, content))
    require_fails(folder, manifests, 2, "is none")


# Privacy that is not so. Manifests 5 and 6 are of rounds 1 and 2 of the private run, 7 is what it released.


def privacy_of(manifest: RoundManifest) -> PrivacyRecord:
    assert manifest.privacy is not None
    return manifest.privacy


def ledger_of(folder: Path, manifest: RoundManifest) -> list[PrivacyEvent]:
    return events_from_json(AnchorFolder.open(folder).store.get(privacy_of(manifest).ledger_sha256).decode())


def with_ledger(
    folder: Path, at: int, events: Sequence[PrivacyEvent] | str | bytes, **more: Any
) -> list[RoundManifest]:
    """The manifests with another ledger for one of them, and with ε as its events give it unless it is given."""
    manifests = manifests_of(folder)
    if not isinstance(events, str | bytes):
        more = {"epsilon": spent(events, DELTA, cross_checked=False).epsilon or 1.0, **more}
        events = events_to_json(events)
    privacy = privacy_of(manifests[at]).model_copy(update={"ledger_sha256": stored(folder, events), **more})
    return changed(manifests, at, privacy=privacy)


@pytest.mark.parametrize("factor", [0.5, 0.999999, 1.000001, 2.0])
@pytest.mark.parametrize("at", [5, 6, 7])
def test_an_epsilon_that_the_events_do_not_give_is_named(folder: Path, at: int, factor: float) -> None:
    manifests = manifests_of(folder)
    privacy = privacy_of(manifests[at])
    lie = privacy.model_copy(update={"epsilon": privacy.epsilon * factor})
    require_fails(folder, changed(manifests, at, privacy=lie), at, f"cost ε {privacy.epsilon:.9g}, and it says")


@pytest.mark.parametrize("change", [{"delta": 1e-3}, {"delta": 1e-9}, {"delta": 1e-200}, {"unit": "candidate"}])
def test_another_delta_or_unit_than_the_events_were_priced_for_is_named(folder: Path, change: dict[str, Any]) -> None:
    manifests = manifests_of(folder)
    lie = privacy_of(manifests[6]).model_copy(update=change)
    require_fails(folder, changed(manifests, 6, privacy=lie), 6, "ε|another run, unit or round")


@pytest.mark.parametrize("change", [{"noise_multiplier": 8.0}, {"steps": 2}, {"site": "somebody"}, {}])
def test_an_event_in_the_manifest_that_is_none_of_the_ledgers_is_named(folder: Path, change: dict[str, Any]) -> None:
    manifests = manifests_of(folder)
    privacy = privacy_of(manifests[6])
    event = {**privacy.event, **change} if change else {}
    lie = privacy.model_copy(update={"event": event})
    require_fails(folder, changed(manifests, 6, privacy=lie), 6, "event in it is none of its ledger's")


def test_an_event_that_later_ledgers_leave_out_is_named(folder: Path) -> None:
    """Without the first round's events the second round alone is cheaper than both."""
    manifests = manifests_of(folder)
    late = [event for event in ledger_of(folder, manifests[6]) if event.round == 2]
    forged = with_ledger(folder, 6, late)
    assert privacy_of(forged[6]).epsilon < privacy_of(manifests[6]).epsilon
    require_fails(folder, forged, 6, "missing from its ledger")


def test_an_event_that_is_made_cheaper_later_is_named(folder: Path) -> None:
    events = ledger_of(folder, manifests_of(folder)[6])
    cheap = [replace(event, noise_multiplier=9.0) if event.round == 1 else event for event in events]
    require_fails(folder, with_ledger(folder, 6, cheap), 6, "missing from its ledger")


def test_a_run_that_falls_silent_about_privacy_is_named(folder: Path) -> None:
    require_fails(folder, changed(manifests_of(folder), 6, privacy=None), 6, "missing from its ledger")


def test_a_site_of_the_cohort_without_an_event_for_the_round_is_named(folder: Path) -> None:
    manifests = manifests_of(folder)
    events = ledger_of(folder, manifests[6])
    site = manifests[6].rounds[-1].cohort[0]
    without = [event for event in events if (event.site, event.round) != (site, 2)]
    require_fails(folder, with_ledger(folder, 6, without), 6, "no privacy event for the round")


def test_a_ledger_of_another_run_or_of_rounds_to_come_is_named(folder: Path) -> None:
    events = ledger_of(folder, manifests_of(folder)[6])
    for one in (replace(events[0], run="another"), replace(events[0], round=3)):
        forged = with_ledger(folder, 6, [*events, one])
        require_fails(folder, forged, 6, "event of another run, unit or round")


def test_a_ledger_without_events_has_no_price(folder: Path) -> None:
    """The first of the private run's manifests with a ledger, so that none before has told of events."""
    require_fails(folder, with_ledger(folder, 5, []), 5, "events cost ε 0, and it says 1")


def test_a_ledger_with_two_kinds_of_neighbours_has_no_price(folder: Path) -> None:
    events = ledger_of(folder, manifests_of(folder)[5])
    mixed = [*events, replace(events[0], neighbouring_relation="replace-one")]
    require_fails(folder, with_ledger(folder, 5, events_to_json(mixed)), 5, "have no ε")


@pytest.mark.parametrize(
    "ledger", [b"", b"{}", b"\xff\xfe", b"[1]", b"[{}]", b'[{"site":"a"}]', b"[NaN]", b"[" * 100_000, b"null"]
)
def test_what_is_stored_as_a_ledger_and_is_none_is_named(folder: Path, ledger: bytes) -> None:
    require_fails(folder, with_ledger(folder, 5, ledger), 5, "stored as its privacy ledger is none")


def test_a_ledger_that_is_not_stored_is_named(folder: Path) -> None:
    rewrite(folder, with_ledger(folder, 6, b"", ledger_sha256="0" * 64))
    with pytest.raises(ContentDamaged, match="missing") as caught:
        audit(folder)
    assert str(caught.value.where).endswith(f"00/{'0' * 62}")


def with_card(folder: Path, at: int, card: ModelCard | dict[str, Any]) -> list[RoundManifest]:
    """The manifests with a model of another card stored for one of them."""
    manifests = manifests_of(folder)
    if isinstance(card, ModelCard):
        model = to_bytes(parameters_of(MatchingModel((4,), seed=99)), card)
    else:
        header = json.dumps({"__metadata__": {"djms": json.dumps(card)}}).encode()
        model = len(header).to_bytes(8, "little") + header
    return changed(manifests, at, model_sha256=stored(folder, model), card=card_of(model))


@pytest.mark.parametrize(
    "lie",
    [{"epsilon": 0.1}, {"epsilon": 1}, {"epsilon": "none"}, {"epsilon": []}, {"delta": 1e-9}, {"unit": "candidate"}],
)
def test_a_card_that_speaks_of_another_privacy_than_the_manifest_is_named(folder: Path, lie: dict[str, Any]) -> None:
    card = {**manifests_of(folder)[7].card, **lie}
    require_fails(folder, with_card(folder, 7, card), 7, "card speaks of another privacy than the manifest")


def test_a_card_that_speaks_of_privacy_where_the_manifest_has_none_is_named(folder: Path) -> None:
    card = replace(CARD, epsilon=0.5, delta=1e-6, unit="candidate")
    require_fails(folder, with_card(folder, 3, card), 3, "card speaks of privacy and the manifest of none")


# What somebody kept of before.


def kept(folder: Path, place: Path) -> list[Path]:
    """A receipt and a checkpoint of the whole log, kept by somebody else."""
    anchor = AnchorFolder.open(folder)
    receipt, checkpoint = place / "kept.tlog-proof", place / "kept.checkpoint"
    receipt.write_text(anchor.receipt(1).to_text(), encoding="utf-8")
    checkpoint.write_text(cosigned(anchor.checkpoint()), encoding="utf-8")
    return [receipt, checkpoint]


def test_what_was_kept_fits_the_log_that_only_grew(folder: Path, tmp_path: Path) -> None:
    earlier = kept(folder, tmp_path)
    run_into(AnchorFolder.open(folder), "another", 1, private=False)
    AnchorFolder.open(folder).rotate()
    found = audit(folder, earlier=earlier)
    assert (found.earlier, found.size, found.runs) == (2, 11, 3)


def test_history_rewritten_with_the_operators_own_key_passes_alone_and_not_before_what_was_kept(
    folder: Path, tmp_path: Path
) -> None:
    earlier = kept(folder, tmp_path)
    rewrite(folder, changed(manifests_of(folder), 1, metrics={"auc": 0.99}))
    assert audit(folder).models == 8  # that is why one keeps receipts, and why sites are witnesses
    for path in earlier:
        with pytest.raises(LogForked, match="first 8 entries") as caught:
            audit(folder, earlier=[path])
        assert caught.value.where == str(path)
    run_into(AnchorFolder.open(folder), "another", 1, private=False)
    with pytest.raises(LogForked):
        audit(folder, earlier=earlier)


def test_a_truncated_log_passes_alone_and_not_before_what_was_kept(folder: Path, tmp_path: Path) -> None:
    earlier = kept(folder, tmp_path)
    rewrite(folder, manifests_of(folder)[:7])
    assert audit(folder).models == 7
    for path in earlier:
        with pytest.raises(LogRolledBack, match="of 8 entries, and the log has 7") as caught:
            audit(folder, earlier=[path])
        assert caught.value.where == str(path)


def test_cosigned_checkpoints_of_the_old_history_are_found_beside_the_new(folder: Path) -> None:
    anchor = AnchorFolder.open(folder)
    anchor.set_policy(POLICY)
    anchor.add_cosignatures(cosigned(anchor.checkpoint()))
    manifests = manifests_of(folder)
    for forged in (changed(manifests, 1, metrics={"auc": 0.99}), manifests[:7]):
        rewrite(folder, forged)
        with pytest.raises(AnchoringError) as caught:
            audit(folder)
        assert caught.value.where == str(folder / "cosigned" / "8")


def test_what_was_kept_and_is_damaged_or_of_another_log_is_named(folder: Path, tmp_path: Path) -> None:
    receipt, checkpoint = kept(folder, tmp_path)
    other = AnchorFolder.create(tmp_path / "other", "test.example/other")
    namesake = AnchorFolder.create(tmp_path / "namesake", ORIGIN)
    whole = receipt.read_bytes()
    expected: list[tuple[bytes, type[AnchoringError]]] = [
        (other.checkpoint().encode(), CheckpointInvalid),
        (namesake.checkpoint().encode(), UnknownSigner),
        (b"", CheckpointInvalid),
        (b"\xff\xfe", CheckpointInvalid),
        (whole.replace(b"index 1", b"index x"), ReceiptInvalid),
        (whole.partition(b"\n\n")[0], ReceiptInvalid),
        (whole + b"\xff", ReceiptInvalid),
    ]
    for content, kind in expected:
        receipt.write_bytes(content)
        with pytest.raises(kind) as caught:
            audit(folder, earlier=[checkpoint, receipt])
        assert caught.value.where == str(receipt)
    with pytest.raises(InputError) as missing:
        audit(folder, earlier=[tmp_path / "nothing"])
    assert str(tmp_path / "nothing") in str(missing.value)


def test_entries_of_other_kinds_are_counted_and_left_to_who_knows_them(folder: Path) -> None:
    anchor = AnchorFolder.open(folder)
    release = ReleaseEntry("0" * 32, 1, bytes(32)).content
    anchor.append([release, b'{"type":"somebody.else/v7"}'])
    assert audit(folder).entries == {"djms.round/v1": 8, "djms.records/v1": 1, "somebody.else/v7": 1}
    anchor.append([b'{"type":"djms.records/v1"}'])
    with pytest.raises(AuditFailed, match="entry 10 of the log: it is no release of records"):
        audit(folder)


def test_no_error_names_an_office(folder: Path) -> None:
    """What an auditor is shown may be shown to anybody."""
    manifests = manifests_of(folder)
    events = ledger_of(folder, manifests[6])
    for forged in (with_ledger(folder, 6, events[1:]), changed(manifests, 6, privacy=None)):
        rewrite(folder, forged)
        with pytest.raises(AuditFailed) as caught:
            audit(folder)
        assert not any(site in str(caught.value) for site in SITES)
