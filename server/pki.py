"""The federation's certification authority and the server's TLS certificate: keys and times in, certificates out.

    CA                 ECDSA P-256, ten years; its private key is needed for `init` and `renew` only and lies offline
    server's           ECDSA P-256, 397 days, for the host of the address, and for `localhost` and 127.0.0.1

A CA that is renewed keeps its key and name: certificates it issued before verify with the old and the new one, so sites
that have not got the new one yet go on. Nobody but the server has a certificate; sites are known by their keys.
"""

from __future__ import annotations

import ipaddress
import re
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from common.errors import InputError

CA_DAYS = 3650
SERVER_DAYS = 397
_SKEW = timedelta(days=1)  # offices' clocks are wrong by hours, not by days
_HOST = re.compile(
    r"(?=.{1,253}$)([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*"
)


def new_key() -> ec.EllipticCurvePrivateKey:
    """A new P-256 key from the system's randomness."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A private key as PKCS #8 in PEM, not encrypted: for a file that only its owner may read."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def read_key(pem: bytes, where: str) -> ec.EllipticCurvePrivateKey:
    """Read what `key_pem` wrote. Raises InputError, which never quotes the text."""
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise InputError("this is no EC private key in PEM without a password", where=where, remedy="restore the file")
    return key


def certificate_pem(certificate: x509.Certificate) -> bytes:
    """The certificate's text."""
    return certificate.public_bytes(Encoding.PEM)


def ca_certificate(key: ec.EllipticCurvePrivateKey, federation: str, now: datetime) -> x509.Certificate:
    """The CA's own certificate. One key and federation have one name, whenever it is made."""
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, federation[:64]),
            x509.NameAttribute(NameOID.COMMON_NAME, f"DJMS CA {identifier.digest.hex()[:16]}"),
        ]
    )
    return (
        _builder(name, name, key.public_key(), now, now + timedelta(days=CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, SHA256())
    )


def server_certificate(
    ca_key: ec.EllipticCurvePrivateKey, ca: x509.Certificate, key: ec.EllipticCurvePublicKey, host: str, now: datetime
) -> x509.Certificate:
    """A certificate for a server of this host name or IP address, at most as long as the CA's.

    Raises InputError when the CA's key is another one, or the CA's certificate ends too soon to issue anything.
    """
    if public_bytes(ca_key.public_key()) != public_bytes(ca.public_key()):
        raise InputError("this is not the key of the federation's CA", where="CA", remedy="use the right key file")
    ends = min(now + timedelta(days=SERVER_DAYS), ca.not_valid_after_utc)
    if ends <= now + timedelta(days=1):
        raise InputError("the CA's certificate has expired", where="CA", remedy="run `djms server renew --ca`")
    names: list[x509.GeneralName] = [_general_name(host)]
    names += [name for name in (_general_name("localhost"), _general_name("127.0.0.1")) if name not in names]
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host[:64])])
    return (
        _builder(subject, ca.subject, key, now, ends)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, SHA256())
    )


def public_bytes(key: object) -> bytes:
    """The one form of an EC public key by which two are compared; nothing for a key of another kind."""
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return b""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def host_of(address: str) -> str:
    """The host of `host:port` or `[IPv6]:port`. Raises InputError for anything else."""
    host, separator, port = address.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    is_number = port.isdecimal() and port.isascii() and 1 <= int(port) <= 65535
    if separator and is_number and (_is_ip(host, 6) if bracketed else _is_ip(host, 4) or _is_name(host)):
        return host
    raise InputError(
        f"{address[:100]!r} is no address of a server", where="--address", remedy="write it as fl.example.org:9092"
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, ends: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(ends)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    if _is_ip(host, 4) or _is_ip(host, 6):
        return x509.IPAddress(ipaddress.ip_address(host))
    return x509.DNSName(host)


def _is_ip(host: str, version: int) -> bool:
    try:
        return ipaddress.ip_address(host).version == version
    except ValueError:
        return False


def _is_name(host: str) -> bool:
    # A last label of digits would be an IPv4 address that is none.
    return _HOST.fullmatch(host) is not None and not host.rpartition(".")[2].isdecimal()
