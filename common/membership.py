"""What travels when a site joins a federation: its request, and the federation's signed answer. Public things only.

    request-CPI_Verona.json   the site's three public keys, and a proof for each that it has the private one
    welcome-CPI_Verona.json   one *edition* of the federation: who belongs to it, where it is, and whose word counts

A signature covers a label of its purpose, a zero byte and the RFC 8785 form of everything else in the file: it is the
content that is signed, not the spelling. The labels:

    djms/v1/join-request            by the identity key (Ed25519)
    djms/v1/join-request/node       by the key for the network (ECDSA, SHA-256)
    djms/v1/join-request/witness    by the key that cosigns the log (Ed25519)
    djms/v1/welcome                 by the federation's offline key (Ed25519)

An edition is the same for every site, and its number only grows. Whoever has the federation's key can judge one by
itself, so it may come by any way: a stick, mail, or the coordinator's own messages.

Rules: nothing of a text is believed before its signatures are verified; every text that is no such file is a
`MembershipError`. That a request is truly a certain office's no signature can say: people compare its fingerprint.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common.messages import PROTOCOL_VERSION
from common.public_keys import (
    JOIN_REQUEST,
    MembershipError,
    PublicKeys,
    checked_name,
    damaged,
    ecdsa_verifies,
    ed25519_verifies,
    from_base64,
    key_fingerprint,
    labelled,
    same_fingerprint,
    to_base64,
)

LONGEST_TEXT = 8 * 2**20
_WELCOME = b"djms/v1/welcome"

Sign = Callable[[bytes], bytes]
"""Signs a message with a private key that stays where it is."""


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Proofs(_Form):
    identity: str
    node: str
    witness: str


class _RequestForm(_Form):
    type: Literal["djms.join-request/v1"]
    name: str
    identity: str
    node: str
    witness: str
    djms: Annotated[str, Field(max_length=64)]
    protocol: Annotated[int, Field(ge=0, lt=2**31)]
    proofs: _Proofs


class _WelcomeForm(_Form):
    type: Literal["djms.welcome/v1"]
    federation: Annotated[str, Field(min_length=1, max_length=200)]
    edition: Annotated[int, Field(ge=1, lt=2**31)]
    address: Annotated[str, Field(min_length=1, max_length=300)]
    key: str
    roster: str
    ca: str
    signers: str
    witnesses: str | None
    djms: Annotated[str, Field(max_length=64)]
    protocol: Annotated[int, Field(ge=0, lt=2**31)]
    signature: str


Form = TypeVar("Form", bound=_Form)


@dataclass(frozen=True)
class JoinRequest:
    """A site that wants to join. `from_text` is the way to one whose keys are proven."""

    name: str
    keys: PublicKeys
    djms: str
    protocol: int

    @property
    def fingerprint(self) -> str:
        """What the office reads out on the telephone."""
        return self.keys.fingerprint(self.name)

    @classmethod
    def make(cls, name: str, keys: PublicKeys, *, identity: Sign, node: Sign, witness: Sign) -> str:
        """The text of a request of this version, each key's possession proven by its signature."""
        request = cls(checked_name(name), keys, djms_version(), PROTOCOL_VERSION)
        content = request._content()
        proofs = {
            "identity": to_base64(identity(labelled(JOIN_REQUEST, content))),
            "node": to_base64(node(labelled(JOIN_REQUEST + b"/node", content))),
            "witness": to_base64(witness(labelled(JOIN_REQUEST + b"/witness", content))),
        }
        return _RequestForm.model_validate({**content, "proofs": proofs}).model_dump_json(indent=2) + "\n"

    @classmethod
    def from_text(cls, text: str | bytes) -> JoinRequest:
        """Read a request and verify that whoever made it has all three private keys. Raises MembershipError."""
        form = _parsed(text, _RequestForm, "request")
        keys = PublicKeys.from_json({"identity": form.identity, "node": form.node, "witness": form.witness})
        request = cls(checked_name(form.name), keys, form.djms, form.protocol)
        content = request._content()
        proven = (
            ed25519_verifies(keys.identity, form.proofs.identity, labelled(JOIN_REQUEST, content)),
            ecdsa_verifies(keys.node, form.proofs.node, labelled(JOIN_REQUEST + b"/node", content)),
            ed25519_verifies(keys.witness, form.proofs.witness, labelled(JOIN_REQUEST + b"/witness", content)),
        )
        for what, proof in zip(("identity", "node", "witness"), proven, strict=True):
            if not proof:
                raise MembershipError(
                    f"the proof of possession of its {what} key is wrong: it was altered, or made without that key",
                    where="request",
                    remedy="add nobody; have the site make its request anew and send it by another way",
                )
        return request

    def _content(self) -> dict[str, object]:
        return {
            "type": "djms.join-request/v1",
            "name": self.name,
            **self.keys.to_json(),
            "djms": self.djms,
            "protocol": self.protocol,
        }


@dataclass(frozen=True)
class Welcome:
    """One edition of a federation. `from_text` is the way to one that is to be believed.

    `key` is the federation's public key (32 bytes), `ca` a certificate in PEM, `roster`, `signers` and `witnesses` are
    texts as `privacy.roster`, `anchoring.signers` and `anchoring.cosignature` read them.
    """

    federation: str
    edition: int
    address: str
    key: bytes
    roster: str
    ca: str
    signers: str
    witnesses: str | None
    djms: str
    protocol: int

    @property
    def fingerprint(self) -> str:
        """That of the federation's key."""
        return key_fingerprint(self.key)

    @property
    def digest(self) -> bytes:
        """SHA-256 over what is signed: the same for every text of the same edition."""
        return hashlib.sha256(self._signed_bytes()).digest()

    def says_the_same_as(self, other: Welcome) -> bool:
        """Whether the two differ in nothing but their number and the version of DJMS that made them."""

        def said(one: Welcome) -> tuple[object, ...]:
            return one.federation, one.address, one.key, one.roster, one.ca, one.signers, one.witnesses, one.protocol

        return said(self) == said(other)

    def signed(self, root: Sign) -> str:
        """The text of this edition, signed by the federation's key."""
        content = self._content() | {"signature": to_base64(root(self._signed_bytes()))}
        return _WelcomeForm.model_validate(content).model_dump_json(indent=2) + "\n"

    @classmethod
    def from_text(cls, text: str | bytes, *, key: bytes | None = None, fingerprint: str | None = None) -> Welcome:
        """Read an edition that the federation with this public key, or with the key of this fingerprint, signed.

        Raises MembershipError when it is damaged, altered, signed by somebody else, or another federation's.
        """
        form = _parsed(text, _WelcomeForm, "welcome")
        own = from_base64(form.key, 32, "the federation's key", "welcome")
        content = form.model_dump(exclude={"type", "signature", "key"})
        welcome = cls(key=own, **content)
        known = own == key if key is not None else same_fingerprint(fingerprint or "", welcome.fingerprint)
        if not known:
            raise MembershipError(
                f"it is signed by another federation's key, of the fingerprint {welcome.fingerprint}",
                where="welcome",
                remedy="do not use it; ask the federation by telephone for the fingerprint of its key",
            )
        if not ed25519_verifies(own, form.signature, welcome._signed_bytes()):
            raise MembershipError(
                "its signature is not the federation's: it was altered",
                where="welcome",
                remedy="do not use it, and ask the federation to send it again",
            )
        return welcome

    def _content(self) -> dict[str, object]:
        return {
            "type": "djms.welcome/v1",
            "federation": self.federation,
            "edition": self.edition,
            "address": self.address,
            "key": to_base64(self.key),
            "roster": self.roster,
            "ca": self.ca,
            "signers": self.signers,
            "witnesses": self.witnesses,
            "djms": self.djms,
            "protocol": self.protocol,
        }

    def _signed_bytes(self) -> bytes:
        return labelled(_WELCOME, self._content())


def djms_version() -> str:
    """The version of DJMS that runs here."""
    try:
        return version("djms")
    except PackageNotFoundError:
        return "not installed"


def version_note(who: str, djms: str, protocol: int) -> str | None:
    """What to say where the other side has a version that does not fit; None where it does."""
    if protocol == PROTOCOL_VERSION:
        return None
    return (
        f"{who} has DJMS {djms} (protocol {protocol}), here is {djms_version()} (protocol {PROTOCOL_VERSION}): "
        "no round runs before both have one version"
    )


def _parsed(text: str | bytes, form: type[Form], where: str) -> Form:
    if len(text) > LONGEST_TEXT:
        raise damaged(f"it is longer than {LONGEST_TEXT} characters", where)
    try:
        return form.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "its content"
        raise damaged(f"it is no {where} of this version ({key}: {first['msg'].lower()})", where) from None
