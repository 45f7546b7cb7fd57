"""A site's three private keys as files in its folder, or in the one where new keys wait: made, read, proven.

identity.pem          Ed25519, PKCS #8
node.key              ECDSA P-256, as Flower's `--auth-supernode-private-key` takes it
witness/witness.key   Ed25519, as Go's note package has it
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_ssh_private_key

from anchoring.note import Signer
from anchoring.verification import keys_in
from client.keys import IDENTITY_FILE
from client.witness_folder import KEY_FILE, WitnessFolder
from common.errors import InputError
from common.membership import JoinRequest
from common.private_folder import require_private, write_private
from common.public_keys import PublicKeys, openssh_text
from privacy.roster import Identity

NODE_FILE = "node.key"
WITNESS = "witness"
KEY_FILES = (Path(NODE_FILE), Path(WITNESS) / KEY_FILE, Path(IDENTITY_FILE))
"""The identity last: when it is in its place, so are the others."""


@dataclass(frozen=True)
class SitePrivateKeys:
    """The three key pairs. Their repr shows no secret."""

    identity: Identity
    node: EllipticCurvePrivateKey = field(repr=False)
    witness: Signer

    @classmethod
    def make(cls, folder: Path, name: str) -> SitePrivateKeys:
        """Make new keys in a folder that has none, and write the request beside them."""
        node = generate_private_key(SECP256R1())
        keys = cls(Identity.generate(name), node, WitnessFolder.prepare(folder / WITNESS))
        write_private(folder / IDENTITY_FILE, keys.identity.to_pem())
        write_private(folder / NODE_FILE, node.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
        write_private(folder / request_file(name), keys.request().encode())
        return keys

    @classmethod
    def read(cls, folder: Path, name: str) -> SitePrivateKeys:
        """Read what `make` wrote. Raises InputError for a missing or damaged key, or one that others can read."""
        for key in KEY_FILES:
            require_private(folder / key)
        path = folder / NODE_FILE
        try:
            node = load_ssh_private_key(path.read_bytes(), password=None)
        except (ValueError, TypeError):
            node = None
        if not isinstance(node, EllipticCurvePrivateKey):
            raise InputError("this is no ECDSA private key in OpenSSH's form", where=path, remedy="restore the file")
        witness = keys_in(folder / WITNESS / KEY_FILE, lambda text: Signer.from_text(text.strip()))
        return cls(Identity.from_pem(name, (folder / IDENTITY_FILE).read_bytes()), node, witness)

    @property
    def public(self) -> PublicKeys:
        """Their public halves."""
        return PublicKeys(self.identity.public_key, openssh_text(self.node.public_key()), self.witness.public_key)

    def request(self) -> str:
        """The text of a request to join with these keys."""
        return JoinRequest.make(
            self.identity.name,
            self.public,
            identity=self.identity.sign,
            node=lambda message: self.node.sign(message, ECDSA(SHA256())),
            witness=self.witness.sign,
        )


def request_file(name: str) -> str:
    """What the file with a site's request is called."""
    return f"request-{name}.json"
