"""Certificates as both sides of a federation look at them: read, and warned about before they expire."""

from __future__ import annotations

from datetime import datetime, timedelta

from cryptography import x509

from common.errors import InputError

WARN_DAYS = 30


def read_certificate(pem: bytes, where: str) -> x509.Certificate:
    """Read a certificate in PEM. Raises InputError."""
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError:
        raise InputError("this is no certificate in PEM", where=where, remedy="restore it, or renew it") from None


def expiry_warning(what: str, certificate: x509.Certificate, now: datetime, remedy: str) -> str | None:
    """A sentence when the certificate has expired, or expires within 30 days; None before."""
    ends = certificate.not_valid_after_utc
    if now >= ends:
        return f"{what} expired on {ends:%Y-%m-%d}: {remedy}"
    if now >= ends - timedelta(days=WARN_DAYS):
        days = (ends - now).days
        return f"{what} expires on {ends:%Y-%m-%d}, in {days} day{'' if days == 1 else 's'}: {remedy}"
    return None
