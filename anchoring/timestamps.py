"""When a checkpoint existed, attested by a time-stamping authority (RFC 3161), which learns a hash and nothing more.

    request     SHA-256 of the checkpoint's note as it is published, cosignatures included, and a random nonce
    answer      the authority's signature over that hash, that nonce and its time

Rules: an answer counts when it is over this hash, carries this nonce, and is signed for time stamping by a certificate
that the given ones vouch for at the time it states; it is verified before it is kept. Later it is verified offline,
with the file of the checkpoint and the certificates alone, by us or by another tool:

    openssl ts -verify -in 8-rfc3161.tsr -data 8-rfc3161.checkpoint -CAfile certificates.pem

Asking again costs nothing: of a process that is killed before the record is written, nothing is left that counts.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from cryptography import x509

from anchoring.errors import AnchoringError
from anchoring.note import Note
from anchoring.publications import (
    Outcome,
    PublicationInvalid,
    Publications,
    ServiceRefused,
    ServiceUnreachable,
    Timestamp,
    one_line,
    service_name,
)
from common.errors import InputError

if TYPE_CHECKING:
    from rfc3161_client import TimeStampResponse

TIME_LIMIT = 30.0
"""Seconds that an authority has to answer."""

LONGEST_ANSWER = 1_000_000
"""Bytes of an answer; more is refused."""

TSR, CHECKPOINT = "-rfc3161.tsr", "-rfc3161.checkpoint"
_CERTIFICATES = 0xA0
_SHA256 = "2.16.840.1.101.3.4.2.1"
_AUTHORITY = "ask the authority, or another one"
_AGAIN = "restore it from a copy; to publish again, remove the record first"
_STATES = ("granted", "granted with changes", "rejected", "waiting", "revocation warning", "revoked")


class TimestampInvalid(PublicationInvalid):
    """An answer that does not prove that the checkpoint existed at its time."""


@dataclass(frozen=True)
class Attested:
    """What a verified answer says. `time` is ISO 8601 in UTC, `signer` the name in the certificate that signed."""

    time: str
    signer: str
    serial_number: str
    policy: str


def publish_timestamp(
    publications: Publications, url: str, certificates: Path | None, *, limit: float = TIME_LIMIT
) -> tuple[Timestamp, Outcome]:
    """Let the authority attest the newest published checkpoint. What is recorded already is not asked for again.

    Raises:
        InputError: there is nothing to publish, no address, or no certificates to verify the answer with.
        QuorumMissing: too few witnesses cosigned any checkpoint.
        ServiceUnreachable, ServiceRefused: there is no answer within the limit, in seconds, or none that says a time.
        TimestampInvalid: the answer does not verify.
    """
    with publications.working():
        text, checkpoint = publications.newest()
        if checkpoint.size in publications.sizes(Timestamp):
            return publications.read(Timestamp, checkpoint.size), "already"
        note = text.encode()
        answer, attested = request_timestamp(url, note, read_certificates(certificates), limit=limit)
        record = Timestamp(
            checkpoint.origin,
            checkpoint.size,
            checkpoint.root.hex(),
            time=attested.time,
            signer=attested.signer,
            serial_number=attested.serial_number,
            policy=attested.policy,
            answer_sha256=hashlib.sha256(answer).hexdigest(),
            checkpoint_sha256=hashlib.sha256(note).hexdigest(),
        )
        publications.write(checkpoint.size, {TSR: answer, CHECKPOINT: note})
        publications.add(record)
        return record, "published"


def check_timestamp(publications: Publications, size: int, certificates: Sequence[x509.Certificate]) -> Timestamp:
    """Verify a recorded answer offline, against the log and the certificates, and return its record.

    Raises:
        PublicationInvalid: the record does not fit the log, or a file is missing.
        TimestampInvalid: the answer, or the checkpoint it is over, is not the one recorded, or does not verify.
    """
    record = publications.read(Timestamp, size)
    answer, note = publications.content(size, TSR), publications.content(size, CHECKPOINT)
    for ending, content, sha256 in ((TSR, answer, record.answer_sha256), (CHECKPOINT, note, record.checkpoint_sha256)):
        if hashlib.sha256(content).hexdigest() != sha256:
            path = publications.path(size, ending)
            raise TimestampInvalid("the file is not the one that was recorded", where=path, remedy=_AGAIN)
    path = publications.path(size, CHECKPOINT)
    try:
        found, _ = publications.anchor.verified_cosignatures(Note.parse(note))
    except AnchoringError as error:
        raise TimestampInvalid(f"the checkpoint is not the log's: {error.what}", where=path, remedy=_AGAIN) from error
    if found != size:
        raise TimestampInvalid(f"the checkpoint is of {found} entries", where=path, remedy=_AGAIN)
    path = publications.path(size, TSR)
    attested = verify_timestamp(answer, note, certificates, where=path)
    if attested != Attested(record.time, record.signer, record.serial_number, record.policy):
        raise TimestampInvalid("the answer says something else than its record", where=path, remedy=_AGAIN)
    return record


def request_timestamp(
    url: str, message: bytes, certificates: Sequence[x509.Certificate], *, limit: float = TIME_LIMIT
) -> tuple[bytes, Attested]:
    """An authority's answer over a message, as it came, and what it says. Raises as `publish_timestamp`."""
    from rfc3161_client import HashAlgorithm, TimestampRequestBuilder

    name = service_name(url, "anchoring.timestamp.url")
    request = TimestampRequestBuilder().data(message).hash_algorithm(HashAlgorithm.SHA256).build()
    answer = _post(url, name, request.as_bytes(), limit)
    return answer, verify_timestamp(answer, message, certificates, where=name, nonce=request.nonce)


def verify_timestamp(
    answer: bytes,
    message: bytes,
    certificates: Sequence[x509.Certificate],
    *,
    where: str | Path,
    nonce: int | None = None,
) -> Attested:
    """What an answer says of a message, verified with the authorities' certificates, and the nonce if there is one.

    Raises ServiceRefused for an answer that says no time, TimestampInvalid for one that does not verify.
    """
    from rfc3161_client import VerificationError, VerifierBuilder, decode_timestamp_response

    try:
        response = decode_timestamp_response(_in_order(answer))
        if response.status != 0:
            _refuse(response, where)
        verifier = VerifierBuilder(
            roots=[one for one in certificates if one.issuer == one.subject],
            intermediates=[one for one in certificates if one.issuer != one.subject],
            nonce=nonce,
        ).build()
        if response.tst_info.message_imprint.hash_algorithm.dotted_string != _SHA256:
            raise VerificationError("it is over another kind of hash than SHA-256")
        verifier.verify(response, hashlib.sha256(message).digest())
        return _attested(response)
    except VerificationError as error:
        what = f"the time stamp does not verify: {str(error).rstrip('.')}"
        raise TimestampInvalid(what, where=where, remedy=_AUTHORITY) from error
    except (ValueError, LookupError) as error:
        raise TimestampInvalid("what the authority said is no time stamp", where=where, remedy=_AUTHORITY) from error


def read_certificates(path: Path | None) -> list[x509.Certificate]:
    """The certificates of authorities in a PEM file, a self-signed one among them. Raises InputError."""
    key = "settings key 'anchoring.timestamp.certificates'"
    if path is None:
        what, remedy = (
            "nothing is known to verify time stamps with",
            "name a PEM file with the authority's certificates",
        )
        raise InputError(what, where=key, remedy=remedy)
    if not path.is_file():
        raise InputError("the file of certificates does not exist", where=path, remedy=f"correct the {key}")
    try:
        certificates = x509.load_pem_x509_certificates(path.read_bytes())
    except ValueError:
        certificates = []
    if not any(one.issuer == one.subject for one in certificates):
        what, remedy = "there is no self-signed certificate in PEM form in it", "put the authority's root into it"
        raise InputError(what, where=path, remedy=remedy)
    return certificates


def _refuse(response: TimeStampResponse, where: str | Path) -> None:
    state = _STATES[response.status] if response.status < len(_STATES) else "unknown"
    said = one_line(" ".join(response.status_string))
    what = f"the authority gives no time stamp: {state}" + (f" ({said})" if said else "")
    raise ServiceRefused(what, where=where, remedy=_AUTHORITY)


def _attested(response: TimeStampResponse) -> Attested:
    info, (signer,) = response.tst_info, response.signed_data.signer_infos
    embedded = [x509.load_der_x509_certificate(one) for one in response.signed_data.certificates]
    by = next(one for one in embedded if (one.issuer, one.serial_number) == (signer.issuer, signer.serial_number))
    return Attested(
        info.gen_time.isoformat(), by.subject.rfc4514_string(), str(info.serial_number), info.policy.dotted_string
    )


def _post(url: str, name: str, body: bytes, limit: float) -> bytes:
    """What the authority answers. The address may carry a name and a password: they are sent as HTTP wants them."""
    parts = urlsplit(url)
    headers = {"Content-Type": "application/timestamp-query", "User-Agent": "djms"}
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        headers["Authorization"] = f"Basic {base64.b64encode(login).decode()}"
    address = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    request = urllib.request.Request(address, body, headers)
    ends = time.monotonic() + limit
    try:
        with urllib.request.build_opener(_Straight).open(request, timeout=limit) as reply:
            answer = b""
            while (part := reply.read1(65_536)) and len(answer) <= LONGEST_ANSWER:
                answer += part
                if time.monotonic() > ends:
                    raise TimeoutError
    except urllib.error.HTTPError as error:
        what = f"the authority answers with the HTTP status {error.code}"
        raise ServiceRefused(what, where=name, remedy="check anchoring.timestamp.url") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        late = isinstance(reason, TimeoutError)
        what = f"the authority does not answer{f' within {limit:g} seconds' if late else f': {one_line(str(reason))}'}"
        raise ServiceUnreachable(what, where=name, remedy="check anchoring.timestamp.url, or try later") from error
    if len(answer) > LONGEST_ANSWER:
        what = f"the authority answers with more than {LONGEST_ANSWER} bytes"
        raise ServiceRefused(what, where=name, remedy=_AUTHORITY)
    return answer


def _in_order(answer: bytes) -> bytes:
    """The answer with the certificates in it sorted, as DER has it for a set.

    OpenSSL's authority leaves them as it was configured, which a strict reader refuses. No signature covers them.
    Raises ValueError for what is no DER.
    """
    place = (0, 0, len(answer))
    for number in (0, 1, 1, 0):  # the answer, in it the token, in it the content, which is the signed data
        members = _members(answer, place)
        if len(members) <= number:
            return answer
        place = members[number]
    for start, content, end in _members(answer, place):
        if answer[start] == _CERTIFICATES:
            certificates = sorted(answer[one:last] for one, _, last in _members(answer, (start, content, end)))
            return answer[:content] + b"".join(certificates) + answer[end:]
    return answer


def _members(der: bytes, place: tuple[int, int, int]) -> list[tuple[int, int, int]]:
    """Where the members of a DER element begin, where their contents begin, and where they end.

    Raises ValueError for one that would end behind the element that it is in.
    """
    members = []
    _, at, end = place
    while at < end:
        length, content = int.from_bytes(der[at + 1 : at + 2]), at + 2
        if length > 0x80:
            content += length - 0x80
            length = int.from_bytes(der[at + 2 : content])
        members.append((at, content, content + length))
        at = content + length
    if at > end:
        raise ValueError("longer than what it is in")
    return members


class _Straight(urllib.request.HTTPRedirectHandler):
    """Follows no redirection: a name and a password are for the address that was given."""

    def redirect_request(self, *_: object) -> None:
        """Leave it an error."""
