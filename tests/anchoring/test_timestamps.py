"""Time stamps by a real authority: OpenSSL's, with a certificate of its own, behind HTTP on this machine."""

from __future__ import annotations

import base64
import hashlib
import json
import shlex
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rfc3161_client", reason="needs rfc3161-client")
if shutil.which("openssl") is None:
    pytest.skip("needs OpenSSL's command", allow_module_level=True)

from anchored_log import POLICY, WITNESSES

from anchoring.anchor_folder import AnchorFolder
from anchoring.cosignature import cosign
from anchoring.errors import QuorumMissing
from anchoring.publications import PublicationInvalid, Publications, ServiceRefused, ServiceUnreachable, Timestamp
from anchoring.publish_cli import publish
from anchoring.timestamps import (
    CHECKPOINT,
    LONGEST_ANSWER,
    TSR,
    TimestampInvalid,
    check_timestamp,
    publish_timestamp,
    read_certificates,
    request_timestamp,
    verify_timestamp,
)
from common.cli import DjmsCommand, new_group, run
from common.errors import InputError

ORIGIN = "test.example/log"
KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
CONFIG = """
[tsa]
default_tsa = it
[it]
serial = {folder}/serial
crypto_device = builtin
signer_cert = {folder}/tsa.pem
{certs}
signer_key = {folder}/tsa.key
signer_digest = sha256
default_policy = 1.3.6.1.4.1.99999.1
digests = {digests}
accuracy = secs:1
ess_cert_id_alg = sha256
"""


def openssl(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["openssl", *map(str, arguments)], capture_output=True, check=True, **options)


class Authority:
    """A certificate authority of its own and, under it, a time-stamping one that OpenSSL runs."""

    def __init__(self, folder: Path, *, purpose: str = "critical,timeStamping", days: str = "3650") -> None:
        folder.mkdir()
        self.folder = folder
        self.root = folder / "root.pem"
        name = ("-subj", f"/CN={folder.name} root")
        extensions = ("basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign")
        added = [part for extension in extensions for part in ("-addext", extension)]
        openssl("req", "-x509", *KEY, "-keyout", folder / "root.key", "-out", self.root, "-days", "3650", *name, *added)
        asked = folder / "tsa.csr"
        openssl("req", *KEY, "-keyout", folder / "tsa.key", "-out", asked, "-subj", f"/CN={folder.name} clock")
        (folder / "purpose").write_text(f"extendedKeyUsage={purpose}\nkeyUsage=critical,digitalSignature\n")
        issuer = ("-CA", self.root, "-CAkey", folder / "root.key", "-CAcreateserial", "-extfile", folder / "purpose")
        openssl("x509", "-req", "-in", asked, "-out", folder / "tsa.pem", "-days", days, *issuer)
        (folder / "serial").write_text("01\n")
        self.configure()

    def configure(self, *, digests: str = "sha256, sha512", chain: tuple[str, ...] = ()) -> None:
        """Say what it accepts, and which certificates it sends besides its own."""
        (self.folder / "chain.pem").write_text("".join((self.folder / name).read_text() for name in chain))
        certs = f"certs = {self.folder}/chain.pem" if chain else ""
        (self.folder / "tsa.cnf").write_text(CONFIG.format(folder=self.folder, digests=digests, certs=certs))

    def answer(self, request: bytes) -> bytes:
        """Its answer to a request."""
        asked = self.folder / "request.tsq"
        asked.write_bytes(request)
        openssl(
            "ts", "-reply", "-config", self.folder / "tsa.cnf", "-queryfile", asked, "-out", self.folder / "out.tsr"
        )
        return (self.folder / "out.tsr").read_bytes()

    def confirms(self, answer: Path, note: Path, *more: str) -> bool:
        """Whether OpenSSL, which knows nothing of us, verifies the answer over the note."""
        arguments = ["ts", "-verify", "-in", answer, "-data", note, "-CAfile", self.root, *more]
        return subprocess.run(["openssl", *map(str, arguments)], capture_output=True, check=False).returncode == 0


class AuthorityServer(ThreadingHTTPServer):
    """An authority behind HTTP. `respond` gives the body, `status` and `headers` the rest; `asked` is what came."""

    daemon_threads = True

    def __init__(self, respond: Callable[[bytes], bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Http)
        self.respond = respond
        self.status = 200
        self.headers: dict[str, str] = {}
        self.drip = 0.0
        self.asked: list[tuple[dict[str, str], bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/tsa?token=hidden-token"


class _Http(BaseHTTPRequestHandler):
    server: AuthorityServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append((dict(self.headers), body))
        content = self.server.respond(body)
        self.send_response(self.server.status)
        for name, value in {"Content-Type": "application/timestamp-reply", **self.server.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        try:
            for at in range(0, len(content), 50 if self.server.drip else len(content)):
                self.wfile.write(content[at : at + 50] if self.server.drip else content)
                time.sleep(self.server.drip)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # whoever asked gave up

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority") / "good")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority") / "stranger")


@pytest.fixture
def server(authority: Authority) -> Iterator[AuthorityServer]:
    authority.configure()
    with AuthorityServer(authority.answer) as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.01,))
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture
def log(tmp_path: Path) -> AnchorFolder:
    made = AnchorFolder.create(tmp_path / "log", ORIGIN)
    made.append([b"one", b"two", b"three"])
    return made


@pytest.fixture
def publications(log: AnchorFolder) -> Publications:
    return Publications(log)


def published(publications: Publications, server: AuthorityServer, authority: Authority) -> Timestamp:
    record, outcome = publish_timestamp(publications, server.url, authority.root)
    assert outcome == "published"
    return record


def names(publications: Publications) -> set[str]:
    return {path.name for path in publications.folder.iterdir() if not path.name.startswith(".")}


def test_an_authority_attests_the_checkpoint_and_openssl_agrees(
    publications: Publications, server: AuthorityServer, authority: Authority
) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    record = published(publications, server, authority)
    assert before <= datetime.fromisoformat(record.time) <= datetime.now(UTC)
    assert (record.signer, record.policy) == ("CN=good clock", "1.3.6.1.4.1.99999.1")
    assert (record.size, record.root) == (3, publications.anchor.log.root().hex())
    note = publications.path(3, CHECKPOINT)
    assert note.read_text() == publications.anchor.checkpoint()
    assert names(publications) == {"3-rfc3161.json", "3-rfc3161.tsr", "3-rfc3161.checkpoint"}
    assert authority.confirms(publications.path(3, TSR), note)
    assert check_timestamp(publications, 3, read_certificates(authority.root)) == record


def test_the_authority_gets_a_hash_and_a_nonce_and_nothing_else(
    publications: Publications, server: AuthorityServer, authority: Authority, tmp_path: Path
) -> None:
    published(publications, server, authority)
    ((headers, body),) = server.asked
    assert headers["Content-Type"] == "application/timestamp-query"
    assert headers["User-Agent"] == "djms"
    assert set(headers) == {"Accept-Encoding", "Connection", "Content-Length", "Content-Type", "Host", "User-Agent"}
    note = publications.anchor.checkpoint().encode()
    known = bytes.fromhex("020101 3031300d06096086480165030402010500 0420") + hashlib.sha256(note).digest()
    assert body[2:].startswith(known)
    assert body.endswith(bytes.fromhex("0101ff"))
    nonce = body[2 + len(known) : -3]
    assert nonce[0] == 2
    assert len(nonce) == 2 + nonce[1] <= 11
    (tmp_path / "request.tsq").write_bytes(body)
    text = openssl("ts", "-query", "-in", tmp_path / "request.tsq", "-text").stdout.decode()
    assert [line.split(":")[0] for line in text.splitlines() if not line.startswith(" ")] == [
        "Version",
        "Hash Algorithm",
        "Message data",
        "Policy OID",
        "Nonce",
        "Certificate required",
        "Extensions",
    ]


def test_every_request_has_a_nonce_of_its_own(server: AuthorityServer, authority: Authority) -> None:
    certificates = read_certificates(authority.root)
    for _ in range(3):
        request_timestamp(server.url, b"note", certificates)
    assert len({body for _, body in server.asked}) == 3


def test_what_is_attested_already_is_not_asked_for_again(
    publications: Publications, server: AuthorityServer, authority: Authority
) -> None:
    first = published(publications, server, authority)
    assert publish_timestamp(publications, server.url, authority.root) == (first, "already")
    publications.anchor.append([b"four"])
    assert published(publications, server, authority).size == 4
    assert len(server.asked) == 2


def test_only_a_checkpoint_with_its_quorum_is_attested_with_its_cosignatures(
    publications: Publications, server: AuthorityServer, authority: Authority
) -> None:
    log = publications.anchor
    log.set_policy(POLICY)
    text = log.checkpoint()
    for number, witness in enumerate(WITNESSES[:3]):
        with pytest.raises(QuorumMissing):
            publish_timestamp(publications, server.url, authority.root)
        text = cosign(text, witness, 1_700_000_000 + number)
        log.add_cosignatures(text)
    assert not server.asked
    published(publications, server, authority)
    POLICY.require(publications.path(3, CHECKPOINT).read_text())
    log.add_cosignatures(cosign(text, WITNESSES[3], 1_800_000_000))
    assert log.checkpoint() != publications.path(3, CHECKPOINT).read_text()
    assert check_timestamp(publications, 3, read_certificates(authority.root)).size == 3


@pytest.mark.parametrize("chain", [("root.pem",), ("root.pem", "tsa.pem"), ("tsa.pem", "root.pem")])
def test_certificates_may_come_in_any_order(
    publications: Publications, server: AuthorityServer, authority: Authority, chain: tuple[str, ...]
) -> None:
    authority.configure(chain=chain)
    published(publications, server, authority)
    assert check_timestamp(publications, 3, read_certificates(authority.root)).signer == "CN=good clock"
    assert authority.confirms(publications.path(3, TSR), publications.path(3, CHECKPOINT))


def test_a_killed_process_leaves_nothing_that_counts(
    publications: Publications, server: AuthorityServer, authority: Authority
) -> None:
    record = published(publications, server, authority)
    publications.remove(record)
    assert publications.sizes(Timestamp) == []
    again = published(publications, server, authority)
    assert again.serial_number != record.serial_number
    assert check_timestamp(publications, 3, read_certificates(authority.root)) == again


# What an authority may do


def refused(publications: Publications, server: AuthorityServer, authority: Authority, **options: Any) -> str:
    """Publishing is refused with TimestampInvalid, and nothing is kept; gives what the error says."""
    with pytest.raises(TimestampInvalid) as raised:
        publish_timestamp(publications, server.url, authority.root, **options)
    assert names(publications) == set()
    assert "hidden-token" not in str(raised.value)
    return str(raised.value)


def test_an_answer_by_another_authority_is_refused(
    publications: Publications, server: AuthorityServer, authority: Authority, stranger: Authority
) -> None:
    server.respond = stranger.answer
    assert "does not verify: Error while verifying certificates" in refused(publications, server, authority)


def test_an_answer_to_another_request_is_refused(
    publications: Publications, server: AuthorityServer, authority: Authority
) -> None:
    earlier = authority.answer(_request(publications.anchor.checkpoint().encode()))
    server.respond = lambda _: earlier
    assert "Nonce mismatch" in refused(publications, server, authority)


def test_an_answer_over_another_hash_is_refused(
    publications: Publications, server: AuthorityServer, authority: Authority
) -> None:
    hashed = hashlib.sha256(publications.anchor.checkpoint().encode()).digest()
    server.respond = lambda body: authority.answer(body.replace(hashed, hashlib.sha256(b"other").digest()))
    assert "Mismatch between messages" in refused(publications, server, authority)


def test_an_answer_over_another_kind_of_hash_is_refused(authority: Authority, tmp_path: Path) -> None:
    (tmp_path / "note").write_bytes(b"note")
    openssl("ts", "-query", "-data", tmp_path / "note", "-sha512", "-cert", "-out", tmp_path / "request.tsq")
    answer = authority.answer((tmp_path / "request.tsq").read_bytes())
    with pytest.raises(TimestampInvalid, match="another kind of hash"):
        verify_timestamp(answer, b"note", read_certificates(authority.root), where="answer")


def test_an_answer_without_certificates_is_refused(authority: Authority, tmp_path: Path) -> None:
    (tmp_path / "note").write_bytes(b"note")
    openssl("ts", "-query", "-data", tmp_path / "note", "-sha256", "-out", tmp_path / "request.tsq")
    answer = authority.answer((tmp_path / "request.tsq").read_bytes())
    with pytest.raises(TimestampInvalid):
        verify_timestamp(answer, b"note", read_certificates(authority.root), where="answer")


def test_any_altered_byte_of_an_answer_is_refused_or_says_the_same(authority: Authority) -> None:
    """What the signature does not cover can be altered, by OpenSSL's judgement too; it changes nothing that is said."""
    certificates = read_certificates(authority.root)
    answer = authority.answer(_request(b"note"))
    said = verify_timestamp(answer, b"note", certificates, where="answer")
    passed = 0
    for at in range(len(answer)):
        for bit in (1, 0x80):
            altered = answer[:at] + bytes([answer[at] ^ bit]) + answer[at + 1 :]
            try:
                assert verify_timestamp(altered, b"note", certificates, where="answer") == said
                passed += 1
            except (TimestampInvalid, ServiceRefused):
                continue
    assert passed < 20


def test_a_shortened_or_longer_answer_is_refused(authority: Authority) -> None:
    certificates = read_certificates(authority.root)
    answer = authority.answer(_request(b"note"))
    for length in range(len(answer)):
        with pytest.raises((TimestampInvalid, ServiceRefused)):
            verify_timestamp(answer[:length], b"note", certificates, where="answer")
    with pytest.raises(TimestampInvalid):
        verify_timestamp(answer + b"\x00", b"note", certificates, where="answer")


def test_a_refusal_of_the_authority_is_told(
    publications: Publications, server: AuthorityServer, authority: Authority
) -> None:
    authority.configure(digests="sha512")
    with pytest.raises(ServiceRefused, match=r"127\.0\.0\.1:\d+: the authority gives no time stamp: rejected"):
        publish_timestamp(publications, server.url, authority.root)
    assert names(publications) == set()


@pytest.mark.parametrize(
    "nonsense", [b"", b"<html>", b"\x30\x00", b"\x30\x03\x02\x01\x00", b"\x30\x05\x30\x03\x02\x01\x00", bytes(1000)]
)
def test_nonsense_is_no_time_stamp(
    publications: Publications, server: AuthorityServer, authority: Authority, nonsense: bytes
) -> None:
    server.respond = lambda _: nonsense
    assert "what the authority said is no time stamp" in refused(publications, server, authority)


def test_an_answer_without_end_is_refused(
    publications: Publications, server: AuthorityServer, authority: Authority
) -> None:
    server.respond = lambda _: bytes(LONGEST_ANSWER + 100_000)
    with pytest.raises(ServiceRefused, match="more than 1000000 bytes"):
        publish_timestamp(publications, server.url, authority.root)


def test_an_http_error_is_told_without_the_token(
    publications: Publications, server: AuthorityServer, authority: Authority
) -> None:
    for server.status in (400, 401, 404, 500, 503):
        with pytest.raises(ServiceRefused, match=f"HTTP status {server.status}") as raised:
            publish_timestamp(publications, server.url, authority.root)
        assert "hidden-token" not in str(raised.value)
    assert names(publications) == set()


def test_a_redirection_is_not_followed(
    publications: Publications, server: AuthorityServer, authority: Authority
) -> None:
    server.headers = {"Location": server.url}
    for server.status in (301, 302, 303, 307, 308):
        asked = len(server.asked)
        with pytest.raises(ServiceRefused, match=f"HTTP status {server.status}"):
            publish_timestamp(publications, server.url, authority.root)
        assert len(server.asked) == asked + 1


def test_an_authority_that_is_down_is_told(publications: Publications, authority: Authority) -> None:
    url = "http://me:word@127.0.0.1:9/tsa?token=hidden-token"
    with pytest.raises(ServiceUnreachable, match=r"^http://127\.0\.0\.1:9: the authority does not answer: ") as raised:
        publish_timestamp(publications, url, authority.root)
    assert "hidden-token" not in str(raised.value)
    assert "word" not in str(raised.value)


def test_an_authority_that_says_nothing_is_given_up(
    publications: Publications, server: AuthorityServer, authority: Authority
) -> None:
    ended = threading.Event()

    def wait(_: bytes) -> bytes:
        ended.wait(20)
        return b"late"

    server.respond = wait
    started = time.monotonic()
    with pytest.raises(ServiceUnreachable, match=r"does not answer within 0\.3 seconds"):
        publish_timestamp(publications, server.url, authority.root, limit=0.3)
    ended.set()
    assert time.monotonic() - started < 5


def test_an_authority_that_answers_drop_by_drop_is_given_up(
    publications: Publications, server: AuthorityServer, authority: Authority
) -> None:
    server.drip = 0.2  # each part comes within the limit, all of them do not
    with pytest.raises(ServiceUnreachable, match=r"does not answer within 0\.5 seconds"):
        publish_timestamp(publications, server.url, authority.root, limit=0.5)
    assert names(publications) == set()


def test_a_name_and_a_password_in_the_address_are_sent_as_http_wants_them(
    publications: Publications, server: AuthorityServer, authority: Authority
) -> None:
    url = server.url.replace("//", "//office%40verona:p%3Ass@")
    assert publish_timestamp(publications, url, authority.root)[1] == "published"
    ((headers, _),) = server.asked
    assert base64.b64decode(headers["Authorization"].removeprefix("Basic ")) == b"office@verona:p:ss"
    assert headers["Host"] == f"127.0.0.1:{server.server_port}"


@pytest.mark.parametrize("url", ["", "authority", "ftp://127.0.0.1/", "file:///etc/passwd", "http://", "http://[::1"])
def test_what_is_no_address_is_refused(publications: Publications, authority: Authority, url: str) -> None:
    with pytest.raises(InputError, match=r"anchoring\.timestamp\.url"):
        publish_timestamp(publications, url, authority.root)


def test_without_certificates_nothing_is_asked(
    publications: Publications, server: AuthorityServer, authority: Authority, tmp_path: Path
) -> None:
    other = tmp_path / "other.pem"
    cases: list[tuple[Path | None, bytes, str]] = [
        (None, b"", r"anchoring\.timestamp\.certificates"),
        (tmp_path / "nowhere.pem", b"", "does not exist"),
        (other, b"", "no self-signed certificate"),
        (other, b"no PEM", "no self-signed certificate"),
        (other, (authority.folder / "tsa.pem").read_bytes(), "no self-signed certificate"),
    ]
    for path, content, said in cases:
        other.write_bytes(content)
        with pytest.raises(InputError, match=said):
            publish_timestamp(publications, server.url, path)
    assert not server.asked


def test_certificates_of_several_authorities_may_stand_in_one_file(
    publications: Publications, server: AuthorityServer, authority: Authority, stranger: Authority, tmp_path: Path
) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(stranger.root.read_bytes() + authority.root.read_bytes())
    assert publish_timestamp(publications, server.url, both)[1] == "published"
    server.respond = stranger.answer
    publications.anchor.append([b"four"])
    assert publish_timestamp(publications, server.url, both)[1] == "published"
    certificates = read_certificates(both)
    assert [check_timestamp(publications, size, certificates).signer for size in (3, 4)] == [
        "CN=good clock",
        "CN=stranger clock",
    ]


# What is checked later, offline


def test_a_file_that_was_altered_or_is_missing_is_named(
    publications: Publications, server: AuthorityServer, authority: Authority
) -> None:
    published(publications, server, authority)
    certificates = read_certificates(authority.root)
    for ending in (TSR, CHECKPOINT, Timestamp.ENDING):
        path = publications.path(3, ending)
        content = path.read_bytes()
        for at in range(len(content)):
            path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
            with pytest.raises(PublicationInvalid, match=r"3-rfc3161\."):
                check_timestamp(publications, 3, certificates)
        path.unlink()
        with pytest.raises(PublicationInvalid, match=f"3{ending}"):
            check_timestamp(publications, 3, certificates)
        path.write_bytes(content)
    assert check_timestamp(publications, 3, certificates).size == 3


def test_a_recorded_answer_of_another_authority_is_refused(
    publications: Publications, server: AuthorityServer, authority: Authority, stranger: Authority
) -> None:
    published(publications, server, authority)
    with pytest.raises(TimestampInvalid, match=r"3-rfc3161\.tsr: the time stamp does not verify"):
        check_timestamp(publications, 3, read_certificates(stranger.root))


def test_a_record_that_was_forged_with_all_its_hashes_is_refused(
    publications: Publications, server: AuthorityServer, authority: Authority
) -> None:
    record = published(publications, server, authority)
    certificates = read_certificates(authority.root)
    for field, value in (("time", "2020-01-01T00:00:00+00:00"), ("signer", "CN=somebody"), ("serial_number", "7")):
        publications.add(replace(record, **{field: value}))
        with pytest.raises(TimestampInvalid, match="something else than its record"):
            check_timestamp(publications, 3, certificates)
    other = b"another note\n"
    answer, _ = request_timestamp(server.url, other, certificates)
    hashes = {
        "answer_sha256": hashlib.sha256(answer).hexdigest(),
        "checkpoint_sha256": hashlib.sha256(other).hexdigest(),
    }
    publications.write(3, {TSR: answer, CHECKPOINT: other})
    publications.add(replace(record, **hashes))
    with pytest.raises(TimestampInvalid, match=r"3-rfc3161\.checkpoint: the checkpoint is not the log's"):
        check_timestamp(publications, 3, certificates)


def test_an_answer_over_a_smaller_tree_does_not_pass_for_a_larger_one(
    publications: Publications, server: AuthorityServer, authority: Authority
) -> None:
    record = published(publications, server, authority)
    log = publications.anchor
    log.append([b"four"])
    publications.write(4, {ending: publications.content(3, ending) for ending in (TSR, CHECKPOINT)})
    publications.add(replace(record, size=4, root=log.log.root().hex()))
    with pytest.raises(TimestampInvalid, match=r"4-rfc3161\.checkpoint: the checkpoint is of 3 entries"):
        check_timestamp(publications, 4, read_certificates(authority.root))


def test_a_log_that_was_rewritten_after_it_was_attested_is_found_out(
    publications: Publications, server: AuthorityServer, authority: Authority, tmp_path: Path
) -> None:
    published(publications, server, authority)
    rewritten = tmp_path / "rewritten"
    shutil.copytree(publications.anchor.folder, rewritten)
    shutil.rmtree(rewritten / "log")
    fresh = AnchorFolder.create(tmp_path / "fresh", ORIGIN)
    fresh.append([b"one", b"two", b"THREE"])
    shutil.copytree(fresh.folder / "log", rewritten / "log")
    shutil.copy(fresh.folder / "signers.json", rewritten / "signers.json")
    with pytest.raises(PublicationInvalid, match="not the tree that the log had"):
        check_timestamp(Publications(AnchorFolder.open(rewritten)), 3, read_certificates(authority.root))


def test_a_certificate_that_ran_out_later_still_vouches_for_what_it_signed(
    publications: Publications, tmp_path: Path
) -> None:
    short = Authority(tmp_path / "short", days="1")
    note = publications.anchor.checkpoint().encode()
    answer = short.answer(_request(note))
    (tmp_path / "answer.tsr").write_bytes(answer)
    (tmp_path / "note").write_bytes(note)
    assert short.confirms(tmp_path / "answer.tsr", tmp_path / "note")
    later = str(int(time.time()) + 10 * 86_400)
    assert not short.confirms(tmp_path / "answer.tsr", tmp_path / "note", "-attime", later)
    assert verify_timestamp(answer, note, read_certificates(short.root), where="answer").signer == "CN=short clock"


# The command


APP = new_group("What is published.")
APP.callback()(lambda: None)
APP.command("publish", cls=DjmsCommand)(publish)


def arguments(log: AnchorFolder, server: AuthorityServer, authority: Authority, *more: str) -> list[str]:
    settings = {"publish": "rfc3161", "timestamp.url": server.url, "timestamp.certificates": str(authority.root)}
    flags = [flag for key, value in settings.items() for flag in ("--set", f"anchoring.{key}={value}")]
    return ["publish", "--anchor", str(log.folder), *flags, *more]


def test_the_command_publishes_checks_and_says_when_it_was_done_before(
    log: AnchorFolder, server: AuthorityServer, authority: Authority, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(APP, arguments(log, server, authority, "--json")) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["outcome"], data["size"], data["signer"]) == ("published", 3, "CN=good clock")
    assert run(APP, arguments(log, server, authority)) == 0
    text = capsys.readouterr().out
    assert "published already; nothing was sent" in text
    assert "hidden-token" not in text
    assert run(APP, arguments(log, server, authority, "--check")) == 0
    assert "CN=good clock" in capsys.readouterr().out
    assert len(server.asked) == 1
    (command,) = [line.partition("DJMS ")[2] for line in text.splitlines() if "openssl ts -verify" in line]
    assert b"Verification: OK" in subprocess.run(shlex.split(command), capture_output=True, check=True).stdout


def test_the_check_names_the_first_answer_that_does_not_fit(
    log: AnchorFolder, server: AuthorityServer, authority: Authority, capsys: pytest.CaptureFixture[str]
) -> None:
    for entry in (b"four", b"five", b"six"):
        assert run(APP, arguments(log, server, authority)) == 0
        log.append([entry])
    publications = Publications(log)
    for size in (4, 5):
        publications.write(size, {TSR: publications.content(3, TSR)})
    capsys.readouterr()
    assert run(APP, arguments(log, server, authority, "--check")) == 2
    assert capsys.readouterr().err.startswith(str(publications.path(4, TSR)))


def _request(message: bytes) -> bytes:
    from rfc3161_client import HashAlgorithm, TimestampRequestBuilder

    return TimestampRequestBuilder().data(message).hash_algorithm(HashAlgorithm.SHA256).build().as_bytes()
