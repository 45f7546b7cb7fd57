"""The coordinator's folder: what a federation is made of, and who belongs to it.

    federation.yaml     name, address, since when
    federation.pem      the federation's key, public half
    ca.pem              certificate of its CA
    server.pem, .key    the server's TLS certificate and key
    sites/<name>.json   every site that ever was one
    editions/<n>.json   every edition, signed by the federation's key; the newest says who belongs
    roster.yaml         the roster of the newest edition
    log/                the anchoring log; its witnesses.json follows the newest edition
    log-keys/           the log's private key
    offline/            root.pem and ca.key, the federation's own private keys: to be moved to a stick

Rules: `create` makes a federation and nothing else does; a site is a member when its file and the newest edition both
say so; nothing of `sites` and `editions` is ever deleted, so a receipt of any year can be held against the witnesses of
its time.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated

import yaml
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from anchoring.anchor_folder import AnchorFolder
from anchoring.durable_files import DurableFiles
from common.certificates import expiry_warning, read_certificate
from common.errors import InputError
from common.membership import Welcome, djms_version
from common.private_folder import locked_folder, new_folder, require_private, write_private
from common.public_keys import key_fingerprint
from privacy.roster import Identity, Roster
from server import pki
from server.site_record import SiteRecord

FEDERATION_FILE = "federation.yaml"
KEY_FILE = "federation.pem"
CA_FILE = "ca.pem"
SERVER_CERTIFICATE_FILE = "server.pem"
SERVER_KEY_FILE = "server.key"
ROSTER_FILE = "roster.yaml"
SITES, EDITIONS, LOG, LOG_KEYS = "sites", "editions", "log", "log-keys"
OFFLINE_ROOT = Path("offline/root.pem")
CA_KEY_FILE = "ca.key"
"""Beside the root key, wherever that lies."""
_RENEW = "run `djms server renew"


class FederationFile(BaseModel):
    """The content of `federation.yaml`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(min_length=1, max_length=200)]
    address: str
    since: str
    djms: str

    @field_validator("name")
    @classmethod
    def _printable(cls, value: str) -> str:
        if not value.isprintable():
            raise ValueError("it has characters that cannot be printed")
        return value


@dataclass(frozen=True)
class OfflineKeys:
    """The federation's own private keys, as long as a command needs them."""

    root: Identity
    ca: EllipticCurvePrivateKey


class FederationFolder:
    """A federation that is there."""

    def __init__(self, folder: Path) -> None:
        """Open it. Raises InputError when there is none, or its files are damaged."""
        self.folder = folder
        path = folder / FEDERATION_FILE
        if not path.is_file():
            raise InputError(
                "there is no federation in this folder", where=folder, remedy="make one with `djms server init`"
            )
        try:
            self.file = FederationFile.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
        except (ValidationError, yaml.YAMLError, UnicodeDecodeError):
            raise InputError("this is no federation's file", where=path, remedy="restore it from a copy") from None
        self.key = _public_key(folder / KEY_FILE)

    @classmethod
    def create(
        cls, folder: Path, name: str, address: str, *, now: datetime, root_key: Path | None = None
    ) -> FederationFolder:
        """Make a federation: its keys, its CA, the server's certificate and an empty log.

        `root_key` is where the root key is to lie, the CA's beside it; keys that are there are used, so that they can
        be made elsewhere, and an interrupted command can be given again. Raises InputError, also when something lies
        in the folder already.
        """
        host = pki.host_of(address)
        try:
            file = FederationFile(name=name, address=address, since=f"{now:%Y-%m-%d}", djms=djms_version())
        except ValidationError:
            raise InputError("it is no text of 1 to 200 characters", where="--name", remedy="shorten it") from None
        with new_folder(folder, "it may hold a federation's keys, so name a new one with --folder") as part:
            keys = _offline_keys(part / OFFLINE_ROOT if root_key is None else root_key)
            public = Ed25519PublicKey.from_public_bytes(keys.root.public_key)
            ca, key = pki.ca_certificate(keys.ca, name, now), pki.new_key()
            certificate = pki.server_certificate(keys.ca, ca, key.public_key(), host, now)
            write_private(part / KEY_FILE, public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
            write_private(part / CA_FILE, pki.certificate_pem(ca))
            write_private(part / SERVER_KEY_FILE, pki.key_pem(key))
            write_private(part / SERVER_CERTIFICATE_FILE, pki.certificate_pem(certificate))
            for below in (SITES, EDITIONS):
                (part / below).mkdir(mode=0o700)
            AnchorFolder.create(part / LOG, f"{host}/djms-{secrets.token_hex(8)}", keys=part / LOG_KEYS)
            content = yaml.safe_dump(file.model_dump(), allow_unicode=True, sort_keys=False)
            write_private(part / FEDERATION_FILE, content.encode())
        return cls(folder)

    @property
    def fingerprint(self) -> str:
        """Of the federation's key: what sites are told by another way than by file."""
        return key_fingerprint(self.key)

    @property
    def host(self) -> str:
        """The host that the server's certificate is for."""
        return pki.host_of(self.file.address)

    @property
    def ca(self) -> x509.Certificate:
        """The CA's certificate. Raises InputError when it is missing or damaged."""
        return self._certificate(CA_FILE)

    @property
    def server_certificate(self) -> x509.Certificate:
        """The server's certificate. Raises InputError when it is missing or damaged."""
        return self._certificate(SERVER_CERTIFICATE_FILE)

    def log(self) -> AnchorFolder:
        """The anchoring log, opened. Raises what `AnchorFolder.open` does."""
        return AnchorFolder.open(self.folder / LOG, keys=self.folder / LOG_KEYS)

    def records(self) -> tuple[SiteRecord, ...]:
        """Every site that ever was one, by name. Raises InputError for a damaged file."""
        return tuple(SiteRecord.read(path) for path in sorted((self.folder / SITES).glob("*.json")))

    def record(self, name: str) -> SiteRecord | None:
        """The site of this name, None where there never was one."""
        return next((record for record in self.records() if record.name == name), None)

    def newest(self) -> Welcome | None:
        """The newest edition, None before the first. Raises MembershipError for one that the key did not sign."""
        text = self.newest_text()
        return None if text is None else Welcome.from_text(text, key=self.key)

    def newest_text(self) -> str | None:
        """The text of the newest edition: what sites get."""
        number = max(self._numbers(), default=None)
        return None if number is None else self._edition(number).read_text(encoding="utf-8")

    def roster(self) -> Roster | None:
        """Who belongs, by the newest edition; None before the first."""
        newest = self.newest()
        return None if newest is None else Roster.from_yaml(newest.roster, self.key)

    def members(self) -> tuple[SiteRecord, ...]:
        """The sites that belong: neither revoked, nor added or replaced by a command that was interrupted."""
        roster = self.roster()
        known = {} if roster is None else roster.members
        return tuple(
            one for one in self.records() if one.status == "member" and known.get(one.name) == one.keys.identity
        )

    def unfinished(self) -> tuple[str, ...]:
        """Names of sites whose adding, replacing or revoking was interrupted: the same command completes it."""
        roster = self.roster()
        known = {} if roster is None else roster.members
        records = self.records()
        wanted = {one.name: one.keys.identity for one in records if one.status == "member"}
        if not wanted:  # a roster cannot be empty, so the last one stays and nobody is a member by it
            return ()
        return tuple(one.name for one in records if wanted.get(one.name) != known.get(one.name))

    def write_record(self, record: SiteRecord) -> None:
        """Write a site's file, durably."""
        self.write(Path(SITES) / f"{record.name}.json", record.to_json().encode())

    def write_edition(self, number: int, text: str) -> None:
        """Write a new edition, durably."""
        self.write(self._edition(number).relative_to(self.folder), text.encode())

    def write(self, name: Path | str, content: bytes) -> None:
        """Write one file of the folder whole, durably, readable by its owner only."""
        files = DurableFiles()
        files.write(self.folder / name, content)
        files.settle()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other commands from changing the federation. Raises RunError while one does."""
        with locked_folder(self.folder):
            yield

    def offline_keys(self, root_key: Path | None) -> OfflineKeys:
        """The private keys, from where they are kept. Raises InputError when they are missing or not the right ones."""
        path = self.folder / OFFLINE_ROOT if root_key is None else root_key
        for needed in (path, path.with_name(CA_KEY_FILE)):
            if not needed.is_file():
                raise InputError(
                    "the federation's private key is not here",
                    where=needed,
                    remedy="plug in the stick it is on, and name its root.pem with --root-key",
                )
        keys = _offline_keys(path)
        if keys.root.public_key != self.key:
            raise InputError(
                "this is not the private key of this federation",
                where=path,
                remedy="name the right one with --root-key",
            )
        if pki.public_bytes(keys.ca.public_key()) != pki.public_bytes(self.ca.public_key()):
            what = "this is not the key of this federation's CA"
            raise InputError(what, where=path.with_name(CA_KEY_FILE), remedy="restore the right one")
        return keys

    def warnings(self, now: datetime) -> list[str]:
        """What an operator has to see to: certificates that expire, commands that were interrupted, keys left about."""
        ca = expiry_warning("The CA's certificate", self.ca, now, f"{_RENEW} --ca`")
        server = expiry_warning("The server's certificate", self.server_certificate, now, f"{_RENEW}`")
        found = [sentence for sentence in (ca, server) if sentence is not None]
        require_private(self.folder / SERVER_KEY_FILE)
        key = pki.read_key((self.folder / SERVER_KEY_FILE).read_bytes(), str(self.folder / SERVER_KEY_FILE))
        if pki.public_bytes(key.public_key()) != pki.public_bytes(self.server_certificate.public_key()):
            found.append(f"The server's certificate is not of its key: {_RENEW}`")
        newest = self.newest()
        if newest is not None and (newest.signers, newest.address) != (self.log().signers.to_json(), self.file.address):
            found.append("The newest edition has not the log's present key or the address: run `djms server publish`")
        found += [f"{name}: a command was interrupted; give it again" for name in self.unfinished()]
        if (self.folder / OFFLINE_ROOT).is_file():
            offline = (self.folder / OFFLINE_ROOT).parent
            found.append(
                f"The federation's private keys lie on this machine: move {offline} to a stick, and keep a copy"
            )
        return found

    def _certificate(self, name: str) -> x509.Certificate:
        path = self.folder / name
        if not path.is_file():
            raise InputError("the certificate is missing", where=path, remedy=f"{_RENEW}`")
        return read_certificate(path.read_bytes(), str(path))

    def _numbers(self) -> Iterator[int]:
        for path in (self.folder / EDITIONS).glob("*.json"):
            if path.stem.isdecimal() and path == self._edition(int(path.stem)):
                yield int(path.stem)

    def _edition(self, number: int) -> Path:
        return self.folder / EDITIONS / f"{number:06}.json"


def _offline_keys(root: Path) -> OfflineKeys:
    """Read the two private keys, and make those that are not there."""
    ca = root.with_name(CA_KEY_FILE)
    if not root.exists():
        _write_key(root, Identity.generate("federation").to_pem())
    if not ca.exists():
        _write_key(ca, pki.key_pem(pki.new_key()))
    return OfflineKeys(Identity.from_pem("federation", root.read_bytes()), pki.read_key(ca.read_bytes(), str(ca)))


def _write_key(path: Path, content: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    files = DurableFiles()
    files.write(path, content)
    files.settle()


def _public_key(path: Path) -> bytes:
    try:
        key = load_pem_public_key(path.read_bytes()) if path.is_file() else None
    except ValueError:
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise InputError("this is no Ed25519 public key in PEM", where=path, remedy="restore it from a copy")
    return key.public_bytes_raw()
