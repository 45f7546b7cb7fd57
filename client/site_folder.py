"""A site's folder: its private keys, made here and never sent, and what it knows of the federation.

    site.yaml           name, and the limits under which the site takes part; its operator's own to edit
    identity.pem        private key: signs what the site says in secure aggregation
    node.key            private key: lets the site's SuperNode in at the coordinator's SuperLink
    witness/            private key that cosigns the log, and what this site saw of the log
    ledger/             budget.yaml and ledger.sqlite: what its people may pay, and have paid
    request-<name>.json public keys, for the coordinator

and from `join` on, all taken from one signed edition:

    federation.pem      the federation's key: its fingerprint came by another way
    roster.yaml, ca.pem who belongs, and whose certificate the server must have
    membership.json     the edition itself; written last, so a site has joined when it is there

    next/               new keys and their request, from `rotate` until the edition that knows them

Rules: an edition is taken when the federation's key signed it, its number is not lower, its log is the same or grown
from it, and it lists this site by its key; otherwise nothing changes. A kill leaves what taking it again completes.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from pydantic import ValidationError

from anchoring.cosignature import WitnessPolicy
from anchoring.durable_files import DurableFiles
from anchoring.signers import Signers
from client.budget import BUDGET_FILE, LEDGER_FILE
from client.keys import FEDERATION_FILE, IDENTITY_FILE, ROSTER_FILE, SITE_FILE, SiteFile
from client.ledger import Budget, PrivacyLedger
from client.site_keys import KEY_FILES, NODE_FILE, WITNESS, SitePrivateKeys, request_file
from client.site_texts import budget_text, site_text
from client.witness_folder import STATE_FILE, WitnessFolder
from common.certificates import expiry_warning, read_certificate
from common.errors import InputError
from common.membership import Welcome
from common.private_folder import locked_folder, new_folder, write_private
from common.public_keys import MembershipError, checked_name
from privacy.roster import Identity, Roster

CA_FILE = "ca.pem"
MEMBERSHIP_FILE = "membership.json"
LEDGER, NEXT = "ledger", "next"


@dataclass(frozen=True)
class Joined:
    """What taking an edition did: `changed` nothing, or something; `rotated` when new keys are in use from now on."""

    welcome: Welcome
    changed: bool
    rotated: bool


@dataclass(frozen=True)
class _Checked:
    """An edition, all parts of which were verified, its text, and whether it lists the site by the keys that wait."""

    text: bytes
    welcome: Welcome
    signers: Signers
    policy: WitnessPolicy | None
    rotates: bool


class SiteFolder:
    """A site whose folder is there."""

    def __init__(self, folder: Path) -> None:
        """Open it. Raises InputError when there is none."""
        self.folder = folder.absolute()
        path = self.folder / SITE_FILE
        if not path.is_file():
            raise InputError("there is no site in this folder", where=folder, remedy="make one with `djms client init`")
        try:
            self.name = SiteFile.model_validate(yaml.safe_load(path.read_text(encoding="utf-8"))).name
        except ValidationError as error:
            key = ".".join(str(part) for part in error.errors()[0]["loc"]) or "its content"
            raise InputError(f"{key} is not as it must be", where=path, remedy="correct that key") from None
        except (yaml.YAMLError, UnicodeDecodeError):
            raise InputError("this is not YAML", where=path, remedy="write it as key: value lines") from None

    @classmethod
    def create(cls, folder: Path, name: str, budget: Budget) -> SiteFolder:
        """Make a site with new keys, an empty ledger and its request. Raises InputError, also when one is there."""
        checked_name(name)
        with new_folder(
            folder, "it may be a site's, whose ledger counts for good; name a new one with --folder"
        ) as part:
            SitePrivateKeys.make(part, name)
            write_private(part / LEDGER / BUDGET_FILE, budget_text(budget).encode())
            PrivacyLedger.open(part / LEDGER / LEDGER_FILE, create=True)
            write_private(part / SITE_FILE, site_text(name).encode())
        return cls(folder)

    @property
    def request(self) -> Path:
        """The file to send to the coordinator: that of new keys where some wait."""
        waiting = self.folder / NEXT / request_file(self.name)
        return waiting if waiting.is_file() else self.folder / request_file(self.name)

    @property
    def node_key(self) -> Path:
        """The private key for Flower's `--auth-supernode-private-key`."""
        return self.folder / NODE_FILE

    @property
    def ca(self) -> Path:
        """The certificate for Flower's `--root-certificates`."""
        return self.folder / CA_FILE

    @property
    def ledger(self) -> Path:
        """The folder of budget and ledger."""
        return self.folder / LEDGER

    @property
    def witness(self) -> Path:
        """The folder of the witness."""
        return self.folder / WITNESS

    @property
    def has_joined(self) -> bool:
        """Whether it took an edition already."""
        return (self.folder / MEMBERSHIP_FILE).is_file()

    def roster(self) -> Roster:
        """Who belongs, by the edition this site took last. Raises as `membership`."""
        edition = self.membership()
        return Roster.from_yaml(edition.roster, edition.key)

    def keys(self) -> SitePrivateKeys:
        """The private keys in use. Raises InputError for a missing or damaged one, or one that others can read."""
        return SitePrivateKeys.read(self.folder, self.name)

    def waiting_keys(self) -> SitePrivateKeys | None:
        """New keys that no edition knows yet; None where none wait."""
        folder = self.folder / NEXT
        return SitePrivateKeys.read(folder, self.name) if (folder / request_file(self.name)).is_file() else None

    def membership(self) -> Welcome:
        """The edition this site took last. Raises InputError when it has not joined, or its files are damaged."""
        path = self.folder / MEMBERSHIP_FILE
        if not path.is_file():
            raise InputError(
                "this site has not joined a federation yet",
                where=self.folder,
                remedy=f"send {self.request} to the coordinator, then run `djms client join` with its welcome",
            )
        return Welcome.from_text(path.read_bytes(), key=self._federation_key())

    def rotate(self) -> Path:
        """Make new keys, which wait for an edition that knows them, and return their request.

        Where some wait already, these are kept. Nothing changes for runs before that edition.
        """
        with locked_folder(self.folder):
            if self.waiting_keys() is None:
                with new_folder(self.folder / NEXT, "finish or remove the change of keys that was begun") as part:
                    SitePrivateKeys.make(part, self.name)
        return self.request

    def join(self, text: str | bytes, fingerprint: str | None) -> Joined:
        """Take an edition; for the first one the fingerprint of the federation's key must be given.

        Raises MembershipError, and InputError of the parts, for one that is not to be believed; then nothing changed.
        """
        with locked_folder(self.folder):
            if self.has_joined:
                if fingerprint is not None:
                    Welcome.from_text(text, fingerprint=fingerprint)
                return self._update(text)
            if fingerprint is None:
                raise MembershipError(
                    "how this site knows the federation's key must be said once",
                    where="welcome",
                    remedy="ask the federation for its fingerprint by telephone, and give it with --fingerprint",
                )
            return self._take(self._checked(text, Welcome.from_text(text, fingerprint=fingerprint)), first=True)

    def accept(self, text: str | bytes) -> Joined:
        """Take an edition that came by any way, as `join` does where the site has joined already."""
        with locked_folder(self.folder):
            self.membership()
            return self._update(text)

    def warnings(self, now: datetime) -> list[str]:
        """What the operator has to see to. Raises InputError for damaged files and keys that others can read."""
        self.keys()
        found = []
        if self.has_joined:
            ca = read_certificate(self.ca.read_bytes(), str(self.ca))
            remedy = "ask the coordinator for its newest welcome, and run `djms client join` with it"
            warning = expiry_warning("The certificate of the federation's CA", ca, now, remedy)
            found += [] if warning is None else [warning]
        if self.waiting_keys() is not None:
            found.append(f"New keys wait: send {self.request} to the coordinator, who adds it with --replace")
        return found

    def _update(self, text: str | bytes) -> Joined:
        present = self.membership()
        welcome = Welcome.from_text(text, key=present.key)
        if welcome.edition < present.edition:
            raise MembershipError(
                f"it is edition {welcome.edition}, and this site has edition {present.edition} already",
                where="welcome",
                remedy="use the newest one",
            )
        if welcome.edition == present.edition and welcome.digest != present.digest:
            raise MembershipError(
                f"there are two different editions {welcome.edition}, both signed by the federation's key",
                where="welcome",
                remedy="use neither before the federation has said why; its folder may have been restored from a copy",
            )
        if welcome.edition == present.edition:  # its file is written last, so everything else is there
            return Joined(present, changed=False, rotated=False)
        return self._take(self._checked(text, welcome), first=False)

    def _checked(self, text: str | bytes, welcome: Welcome) -> _Checked:
        """Verify every part of an edition against what this site knows, before anything is written."""
        roster = Roster.from_yaml(welcome.roster, welcome.key)
        if roster.federation != welcome.federation:
            raise MembershipError("its roster is another federation's", where="welcome", remedy="do not use it")
        listed = roster.members.get(self.name)
        waiting = self.waiting_keys()
        rotates = waiting is not None and listed == waiting.identity.public_key
        if not rotates and listed != self._identity():
            raise MembershipError(
                f"it does not list {self.name}" + (" by this site's key" if listed is not None else ""),
                where="welcome",
                remedy="ask the coordinator whether it added this request, or has revoked the site",
            )
        read_certificate(welcome.ca.encode(), "welcome")
        signers = Signers.from_json(welcome.signers)
        policy = None if welcome.witnesses is None else WitnessPolicy.from_json(welcome.witnesses)
        if (self.witness / STATE_FILE).is_file():
            WitnessFolder(self.witness).require_successor(signers)
        return _Checked(text.encode() if isinstance(text, str) else text, welcome, signers, policy, rotates)

    def _take(self, checked: _Checked, *, first: bool) -> Joined:
        welcome = checked.welcome
        if first:
            public = Ed25519PublicKey.from_public_bytes(welcome.key)
            self._write(FEDERATION_FILE, public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        if first and not (self.witness / STATE_FILE).is_file():
            witness = WitnessFolder.create(self.witness, checked.signers, prepared=True)
        else:
            witness = WitnessFolder(self.witness)
            witness.set_signers(checked.signers)
        if checked.policy is not None:
            witness.set_policy(checked.policy)
        self._write(CA_FILE, welcome.ca.encode())
        self._write(ROSTER_FILE, welcome.roster.encode())
        if checked.rotates:
            self._use_waiting_keys()
        self._write(MEMBERSHIP_FILE, checked.text)
        return Joined(welcome, True, checked.rotates)

    def _use_waiting_keys(self) -> None:
        """Put the new keys in the place of the old ones, which are gone then; a kill leaves `next` to do it again."""
        waiting, over = self.folder / NEXT, self.folder / f".{NEXT}.part"
        for name in (Path(request_file(self.name)), *KEY_FILES):
            self._write(name, (waiting / name).read_bytes())
        if over.exists():
            shutil.rmtree(over)
        waiting.replace(over)  # whole, so that keys either wait or do not; `rotate` would remove it too
        shutil.rmtree(over)

    def _identity(self) -> bytes:
        return Identity.from_pem(self.name, (self.folder / IDENTITY_FILE).read_bytes()).public_key

    def _federation_key(self) -> bytes:
        path = self.folder / FEDERATION_FILE
        try:
            key = load_pem_public_key(path.read_bytes()) if path.is_file() else None
        except ValueError:
            key = None
        if not isinstance(key, Ed25519PublicKey):
            what = "this is no Ed25519 public key in PEM"
            raise InputError(what, where=path, remedy="restore it from a copy")
        return key.public_bytes_raw()

    def _write(self, name: Path | str, content: bytes) -> None:
        files = DurableFiles()
        files.write(self.folder / name, content)
        files.settle()
