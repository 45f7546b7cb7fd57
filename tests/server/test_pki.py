"""The CA and the server's certificate: OpenSSL and a real handshake believe them where they should, nowhere else."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from joined_federation import ADDRESS, NOW, joined_sites, new_federation, new_site

from common.certificates import expiry_warning
from common.errors import InputError
from server import membership, pki
from server.federation_folder import CA_FILE, SERVER_CERTIFICATE_FILE, SERVER_KEY_FILE, FederationFolder


@pytest.fixture
def federation(tmp_path: Path) -> FederationFolder:
    return new_federation(tmp_path / "coordinator")


def openssl_verifies(ca: Path, certificate: Path, *options: str) -> bool:
    command = ["openssl", "verify", "-x509_strict", "-no-CApath", "-CAfile", str(ca), "-purpose", "sslserver", *options]
    done = subprocess.run([*command, str(certificate)], capture_output=True, text=True, timeout=30, check=False)
    return done.returncode == 0


def verifies(federation: FederationFolder, *options: str) -> bool:
    return openssl_verifies(federation.folder / CA_FILE, federation.folder / SERVER_CERTIFICATE_FILE, *options)


def handshake(federation: FederationFolder, ca: Path, host: str) -> None:
    """A TLS connection on loopback to a server with this federation's certificate. Raises ssl.SSLError."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(federation.folder / SERVER_CERTIFICATE_FILE, federation.folder / SERVER_KEY_FILE)
    client = ssl.create_default_context(cafile=str(ca))
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)

        def serve() -> None:
            connection, _ = listener.accept()
            connection.settimeout(10)
            try:
                with server.wrap_socket(connection, server_side=True) as secured:
                    secured.sendall(b"served")
            except (ssl.SSLError, OSError):
                connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            with (
                socket.create_connection(listener.getsockname(), timeout=10) as plain,
                client.wrap_socket(plain, server_hostname=host) as secured,
            ):
                assert secured.recv(6) == b"served"
        finally:
            thread.join(20)


@pytest.mark.parametrize("host", ["fl.example.org", "localhost"])
def test_openssl_believes_the_certificate_for_the_hosts_it_is_for(federation: FederationFolder, host: str) -> None:
    assert verifies(federation, "-verify_hostname", host)


def test_openssl_believes_it_for_no_other_host_and_under_no_other_ca(
    federation: FederationFolder, tmp_path: Path
) -> None:
    other = new_federation(tmp_path / "other")
    assert verifies(federation, "-verify_ip", "127.0.0.1")
    for host in ("example.org", "x.fl.example.org", "fl.example.com", "example.org.localhost"):
        assert not verifies(federation, "-verify_hostname", host)
    assert not verifies(federation, "-verify_ip", "127.0.0.2")
    assert not openssl_verifies(other.folder / CA_FILE, federation.folder / SERVER_CERTIFICATE_FILE)


@pytest.mark.parametrize("host", ["fl.example.org", "localhost", "127.0.0.1"])
def test_a_connection_to_the_right_host_is_made(federation: FederationFolder, host: str) -> None:
    handshake(federation, federation.folder / CA_FILE, host)


@pytest.mark.parametrize("host", ["other.example.org", "127.0.0.2"])
def test_a_connection_to_a_wrong_host_is_refused(federation: FederationFolder, host: str) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="match"):
        handshake(federation, federation.folder / CA_FILE, host)


def test_a_server_of_another_federation_is_refused(federation: FederationFolder, tmp_path: Path) -> None:
    other = new_federation(tmp_path / "other")
    with pytest.raises(ssl.SSLCertVerificationError, match="verify failed"):
        handshake(other, federation.folder / CA_FILE, "fl.example.org")


@pytest.mark.parametrize("address", ["10.1.2.3:9092", "[2001:db8::1]:9092"])
def test_an_ip_address_is_believed_as_one(tmp_path: Path, address: str) -> None:
    made = FederationFolder.create(tmp_path / "federation", "IP", address, now=NOW)
    assert verifies(made, "-verify_ip", pki.host_of(address))
    assert not verifies(made, "-verify_ip", "10.1.2.4")


def test_the_server_cannot_issue_certificates(federation: FederationFolder, tmp_path: Path) -> None:
    key = pki.read_key((federation.folder / SERVER_KEY_FILE).read_bytes(), "key")
    forged = pki.server_certificate(key, federation.server_certificate, key.public_key(), "fl.example.org", NOW)
    chain, path = tmp_path / "chain.pem", tmp_path / "forged.pem"
    path.write_bytes(pki.certificate_pem(forged))
    chain.write_bytes((federation.folder / SERVER_CERTIFICATE_FILE).read_bytes())
    assert not openssl_verifies(federation.folder / CA_FILE, path, "-untrusted", str(chain))


@pytest.mark.parametrize(
    "address",
    [
        "",
        "fl.example.org",
        "fl.example.org:",
        "fl.example.org:0",
        "fl.example.org:65536",
        "fl.example.org:٣",
        ":9092",
        "https://fl.example.org:9092",
        "fl_example:9092",
        "-fl.example.org:9092",
        "fl..org:9092",
        "10.1.2.256:9092",
        "2001:db8::1:9092",
        "[fl.example.org]:9092",
        "fl.example.org:9092\n",
        "città.example.org:9092",
        f"{'a' * 64}.org:9092",
    ],
)
def test_what_is_no_address_is_refused_before_anything_is_made(tmp_path: Path, address: str) -> None:
    with pytest.raises(InputError, match="no address"):
        FederationFolder.create(tmp_path / "federation", "F", address, now=NOW)
    assert list(tmp_path.iterdir()) == []


def test_certificates_warn_thirty_days_ahead_and_not_before(federation: FederationFolder) -> None:
    assert federation.host == pki.host_of(ADDRESS)
    ends, ca_ends = federation.server_certificate.not_valid_after_utc, federation.ca.not_valid_after_utc

    def expiring(days: float, end: object = ends) -> list[str]:
        return [one for one in federation.warnings(end - timedelta(days=days)) if "expire" in one]  # type: ignore[operator]

    assert expiring(30.1) == []
    assert [one.partition(":")[0] for one in expiring(30)] == [
        f"The server's certificate expires on {ends:%Y-%m-%d}, in 30 days"
    ]
    assert "in 1 day:" in expiring(1.5)[0]
    assert "expired on" in expiring(0)[0]
    assert "--ca" in next(one for one in expiring(29, ca_ends) if one.startswith("The CA"))
    assert len(expiring(29, ca_ends)) == 2


def test_a_site_is_warned_of_the_cas_expiry(federation: FederationFolder, tmp_path: Path) -> None:
    site = joined_sites(federation, tmp_path, ("CPI_Verona",))["CPI_Verona"]
    ends = federation.ca.not_valid_after_utc
    assert site.warnings(ends - timedelta(days=31)) == []
    assert "CA expires" in site.warnings(ends - timedelta(days=30))[0]


def test_a_renewed_certificate_is_of_the_same_key_and_silences_the_warning(federation: FederationFolder) -> None:
    before, later = federation.server_certificate, NOW + timedelta(days=380)
    key = (federation.folder / SERVER_KEY_FILE).read_bytes()
    assert any("expires" in one for one in federation.warnings(later))
    membership.renew(federation, federation.offline_keys(None), later, ca=False, new_key=False)
    after = federation.server_certificate
    assert after.not_valid_after_utc > before.not_valid_after_utc
    assert (federation.folder / SERVER_KEY_FILE).read_bytes() == key
    assert not any("expire" in one for one in federation.warnings(later))
    assert verifies(federation, "-attime", str(int(later.timestamp())), "-verify_hostname", "fl.example.org")


def test_a_new_server_key_comes_with_its_certificate(federation: FederationFolder) -> None:
    key = (federation.folder / SERVER_KEY_FILE).read_bytes()
    membership.renew(federation, federation.offline_keys(None), NOW, ca=False, new_key=True)
    assert (federation.folder / SERVER_KEY_FILE).read_bytes() != key
    handshake(federation, federation.folder / CA_FILE, "fl.example.org")


def test_a_certificate_that_is_not_of_the_key_is_noticed(federation: FederationFolder) -> None:
    (federation.folder / SERVER_KEY_FILE).write_bytes(pki.key_pem(pki.new_key()))
    assert any("not of its key" in one for one in federation.warnings(NOW))


def test_a_renewed_ca_and_the_old_one_believe_each_others_servers(federation: FederationFolder, tmp_path: Path) -> None:
    site = joined_sites(federation, tmp_path, ("CPI_Verona",))["CPI_Verona"]
    old_server = tmp_path / "old-server.pem"
    old_server.write_bytes((federation.folder / SERVER_CERTIFICATE_FILE).read_bytes())
    assert membership.renew(federation, federation.offline_keys(None), NOW + timedelta(days=1), ca=True, new_key=False)
    assert site.ca.read_bytes() != (federation.folder / CA_FILE).read_bytes()
    assert openssl_verifies(site.ca, federation.folder / SERVER_CERTIFICATE_FILE)
    assert openssl_verifies(federation.folder / CA_FILE, old_server)
    site.accept(federation.newest_text() or "")
    assert site.ca.read_bytes() == (federation.folder / CA_FILE).read_bytes()


def test_the_server_certificate_does_not_outlive_the_ca(federation: FederationFolder) -> None:
    key, ca = federation.offline_keys(None).ca, federation.ca
    late = ca.not_valid_after_utc - timedelta(days=100)
    issued = pki.server_certificate(key, ca, key.public_key(), "localhost", late)
    assert issued.not_valid_after_utc == ca.not_valid_after_utc
    with pytest.raises(InputError, match="renew --ca"):
        pki.server_certificate(key, ca, key.public_key(), "localhost", ca.not_valid_after_utc)


def test_another_key_cannot_issue_in_the_cas_name(federation: FederationFolder) -> None:
    other = pki.new_key()
    with pytest.raises(InputError, match="not the key of the federation's CA"):
        pki.server_certificate(other, federation.ca, other.public_key(), "localhost", NOW)


def test_the_names_are_those_asked_for_and_no_others(federation: FederationFolder) -> None:
    names = federation.server_certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["fl.example.org", "localhost"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    assert expiry_warning("It", federation.ca, NOW, "wait") is None


def test_openssl_reads_a_sites_network_key(tmp_path: Path) -> None:
    site = new_site(tmp_path / "site", "CPI_Verona")
    done = subprocess.run(
        ["ssh-keygen", "-y", "-f", str(site.node_key)], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.strip() == site.keys().public.node
