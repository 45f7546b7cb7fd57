"""Adding, replacing and revoking a site, and renewing certificates: what the operator of a federation does.

Each writes the site's file first, then a new edition signed by the federation's key, then what follows from it: the
roster and the log's witnesses. Until the edition is there nothing has changed for anybody, and after a kill the same
call does what is missing. No other site's file is touched; how the others learn of the new edition is their matter and
the coordinator's (`FederationFolder.newest_text`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from anchoring.cosignature import WitnessPolicy
from anchoring.note import MOST_SIGNATURES
from common.membership import JoinRequest, Welcome, djms_version
from common.messages import PROTOCOL_VERSION
from common.public_keys import MembershipError
from privacy.roster import Identity, Roster
from server import pki
from server.federation_folder import (
    CA_FILE,
    ROSTER_FILE,
    SERVER_CERTIFICATE_FILE,
    SERVER_KEY_FILE,
    FederationFolder,
    OfflineKeys,
)
from server.site_record import SiteRecord

MOST_WITNESSES = MOST_SIGNATURES - 1
"""A checkpoint carries so many cosignatures beside the log's own signature."""


@dataclass(frozen=True)
class Change:
    """What became of a site: its file, the newest edition, and whether anything changed at all."""

    record: SiteRecord
    edition: Welcome | None
    changed: bool


def add(
    federation: FederationFolder,
    request: JoinRequest,
    root: Identity,
    now: datetime,
    *,
    replace: bool = False,
    witness: bool = True,
) -> Change:
    """Let a site join, or with `replace` join again with new keys; the caller compared the fingerprint.

    The very same request again completes what was interrupted, and changes nothing otherwise. Raises MembershipError
    for a name that is taken or was revoked, without `replace`; for a key that any site has or had; and for one witness
    more than a checkpoint can carry.
    """
    with federation.locked():
        records = federation.records()
        known = next((one for one in records if one.name == request.name), None)
        if known is not None and known.status == "member" and known.keys == request.keys:
            record = known
        else:
            record = _joined(request, known, records, replace=replace, witness=witness, day=f"{now:%Y-%m-%d}")
            federation.write_record(record)
        edition, new = publish(federation, root)
    return Change(record, edition, new)


def revoke(federation: FederationFolder, name: str, root: Identity, now: datetime) -> Change:
    """Take a site out for good: its keys never come back, its name only with `add(..., replace=True)`.

    Again, it completes what was interrupted, and changes nothing otherwise. Raises MembershipError for an unknown name.
    """
    with federation.locked():
        record = federation.record(name)
        if record is None:
            raise MembershipError("there is no such site", where=name[:64], remedy="see `djms server sites`")
        was_member = record.status == "member"
        if was_member:
            record = record.revoked(f"{now:%Y-%m-%d}")
            federation.write_record(record)
        edition, new = publish(federation, root)
    return Change(record, edition, new or was_member)


def publish(federation: FederationFolder, root: Identity) -> tuple[Welcome | None, bool]:
    """Sign a new edition where the newest does not say what is so, and write what follows from it; whether it was new.

    Without any member no edition can be made: the last one stays, and nobody is a member by it. Without any witness
    the log keeps the witnesses it has. The caller holds the folder's lock.
    """
    newest = federation.newest()
    members = [one for one in federation.records() if one.status == "member"]
    if not members:
        return newest, False
    log = federation.log()
    policy = policy_of(members)
    wanted = Welcome(
        federation=federation.file.name,
        edition=1 if newest is None else newest.edition + 1,
        address=federation.file.address,
        key=federation.key,
        roster=Roster.sign(federation.file.name, {one.name: one.keys.identity for one in members}, root),
        ca=pki.certificate_pem(federation.ca).decode(),
        signers=log.signers.to_json(),
        witnesses=None if policy is None else policy.to_json(),
        djms=djms_version(),
        protocol=PROTOCOL_VERSION,
    )
    new = newest is None or not wanted.says_the_same_as(newest)
    if new:
        federation.write_edition(wanted.edition, wanted.signed(root.sign))
    federation.write(ROSTER_FILE, wanted.roster.encode())
    if policy is not None and policy != log.policy:
        log.set_policy(policy)
    return (wanted, True) if new else (newest, False)


def policy_of(members: list[SiteRecord]) -> WitnessPolicy | None:
    """More than half of the witnesses must cosign, so that no two histories can each find enough; None without any."""
    keys = tuple(one.witness_key for one in members if one.witness)
    return WitnessPolicy(len(keys) // 2 + 1, keys) if keys else None


def renew(federation: FederationFolder, keys: OfflineKeys, now: datetime, *, ca: bool, new_key: bool) -> bool:
    """Issue the server's certificate anew, with `ca` the CA's too; whether that made a new edition.

    With `new_key` the server gets another private key. Raises InputError, as `pki.server_certificate` does.
    """
    with federation.locked():
        authority = pki.ca_certificate(keys.ca, federation.file.name, now) if ca else federation.ca
        path = federation.folder / SERVER_KEY_FILE
        key = pki.new_key() if new_key else pki.read_key(path.read_bytes(), str(path))
        certificate = pki.server_certificate(keys.ca, authority, key.public_key(), federation.host, now)
        if ca:
            federation.write(CA_FILE, pki.certificate_pem(authority))
        if new_key:
            federation.write(SERVER_KEY_FILE, pki.key_pem(key))
        federation.write(SERVER_CERTIFICATE_FILE, pki.certificate_pem(certificate))
        return publish(federation, keys.root)[1]


def _joined(
    request: JoinRequest,
    known: SiteRecord | None,
    records: tuple[SiteRecord, ...],
    *,
    replace: bool,
    witness: bool,
    day: str,
) -> SiteRecord:
    """The site's file after it has joined. Raises MembershipError where it may not."""
    for other in records:
        if other.name.lower() == request.name.lower() and other.name != request.name:
            what = f"there is a site called {other.name}, and these names differ in capitals only"
            raise MembershipError(what, where=request.name, remedy="have the site choose another name")
        if other.all_keys() & set(request.keys.parts()):
            retired = other.is_retired(request.keys)
            raise MembershipError(
                f"{other.name} {'had' if retired else 'has'} one of these keys"
                + (", which is out of use for good" if retired else ""),
                where=request.name,
                remedy="have the site make new keys with `djms client init --rotate`, or in a new folder",
            )
    if known is not None and not replace:
        state = "was revoked" if known.status == "revoked" else "is there already, with other keys"
        raise MembershipError(
            f"a site of this name {state}",
            where=request.name,
            remedy="if this is the same office with new keys, add --replace; otherwise have it choose another name",
        )
    if known is None and replace:
        raise MembershipError(
            "there is no site of this name to replace", where=request.name, remedy="leave --replace away"
        )
    others = sum(one.status == "member" and one.witness for one in records if one.name != request.name)
    if witness and others >= MOST_WITNESSES:
        raise MembershipError(
            f"there are {others} witnesses, and a checkpoint of the log can carry no more cosignatures",
            where=request.name,
            remedy="add it with --no-witness: it then checks the log and does not count as a witness",
        )
    if known is None:
        return SiteRecord(request.name, "member", request.keys, witness, day)
    return known.replaced_by(request.keys, witness, day)
