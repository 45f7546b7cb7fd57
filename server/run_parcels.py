"""The parcels of one run by file, at the coordinator: questions are sealed for sites, answers believed and opened.

    key.pem    in the run's folder: private key that answers are sealed for; removed when the run has its result

Rules kept here: a question is sealed for a member by the key it proved to have; an answer is opened when its sender
belongs to the federation by the newest edition and signed it, and all in it is in the sender's own name.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from flwr.app import ConfigRecord, Message

from common import messages as names
from common import parcel as parcels
from common.errors import InputError
from common.parcel import Header, Parcel
from common.parcel_content import packed, unpacked
from common.run_terms import RunTerms
from server import pki
from server.federation_folder import SERVER_CERTIFICATE_FILE, SERVER_KEY_FILE, FederationFolder
from server.file_grid import Step
from server.job import Job

KEY_FILE = "key.pem"


def kind_of(message_type: str) -> Literal["contribute", "unmask"]:
    """The kind of a question's parcel: that of taking the masks off is its own."""
    return parcels.UNMASK if message_type == names.UNMASK else parcels.CONTRIBUTE


class RunParcels:
    """Seals and opens for the run of `job`, whose folder is `folder`."""

    def __init__(self, federation: FederationFolder, job: Job, folder: Path) -> None:
        self._federation, self._job, self._folder = federation, job, folder

    def seal(self, number: int, site: str, messages: Sequence[Message]) -> tuple[bytes, str]:
        """One site's question as a parcel."""
        record = self._federation.record(site)
        edition = self._federation.newest_text()
        if record is None or edition is None:
            raise InputError("it is no site of this federation", where=site, remedy="see `djms server status`")
        receiver = load_ssh_public_key(record.keys.node.encode())
        assert isinstance(receiver, EllipticCurvePublicKey)  # `PublicKeys` takes no others
        folder = self._federation.folder
        key = pki.read_key((folder / SERVER_KEY_FILE).read_bytes(), str(folder / SERVER_KEY_FILE))
        header = Header(
            kind=kind_of(messages[0].metadata.message_type),
            federation=self._federation.fingerprint,
            run=self._job.run,
            step=number,
            sender=parcels.COORDINATOR,
            receiver=site,
            bundle=self._job.bundle_sha256 or "",
            certificate=(folder / SERVER_CERTIFICATE_FILE).read_text(encoding="ascii"),
            reply_key=parcels.key_text(self._key().public_key()),
        )
        content = packed(RunTerms.of(self._job.run, edition).to_config(), messages)
        made = Parcel.seal(header, content, receiver, lambda text: key.sign(text, ECDSA(SHA256())))
        return made.content, made.sha256

    def opened(self, step: Step, site: str) -> list[Message]:
        """The messages in an answer that was taken in."""
        return self.read(step, site, Parcel.from_bytes(step.answer_of(site).read_bytes()))

    def read(self, step: Step, site: str, parcel: Parcel) -> list[Message]:
        """The messages in an answer, one to each that was asked, all in the site's own name. Raises ParcelDamaged."""
        _, answers = unpacked(parcel.open(self._key()))
        named = [one.content.get(names.SITE) if one.has_content() else None for one in answers]
        others = [one for one in named if not isinstance(one, ConfigRecord) or one.get(names.NAME_KEY) != site]
        if len(answers) != len(step.messages_for(site)) or others:
            raise parcels.ParcelDamaged(
                f"{site} answered in another's name, or not everything",
                where="parcel",
                remedy="use the same version of DJMS there",
            )
        return answers

    def lost(self, site: str) -> str | None:
        """Why a site cannot be asked; None where it can."""
        members = {one.name for one in self._federation.members()}
        return None if site in members else f"{site} does not belong to the federation any more"

    def require_sender(self, parcel: Parcel) -> None:
        """Check that a site of the run sent it. Raises ParcelOfStranger and ParcelDamaged."""
        sender, roster = parcel.header.sender, self._federation.roster()
        identity = None if roster is None else roster.members.get(sender)
        if identity is None or sender not in self._job.sites:
            raise parcels.ParcelOfStranger(
                f"{sender} is no site of this run, or was revoked", where="parcel", remedy="do not take it in"
            )
        parcel.require_site(identity)

    def _key(self) -> EllipticCurvePrivateKey:
        path = self._folder / KEY_FILE
        if not path.is_file():
            raise parcels.ParcelOfOtherRun("the run is over", where=self._job.run, remedy="carry nothing more for it")
        return pki.read_key(path.read_bytes(), str(path))
