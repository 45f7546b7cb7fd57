"""A real nginx with the configuration as it is deployed, over TLS, in front of a real Streamlit, both on loopback."""

from __future__ import annotations

import ipaddress
import json
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
import streamlit
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.sync.client import connect

ROOT = Path(__file__).resolve().parents[2]
CONFIGURATION = ROOT / "deploy/nginx/djms.conf"
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/bin")
TEXT = "Abbinamenti di prova"
STATIC = Path(streamlit.__file__).parent / "static"

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")


@dataclass(frozen=True)
class Site:
    """The page behind nginx: its two ports, the certificate to trust, nginx's log."""

    https: int
    http: int
    certificate: Path
    log: Path

    @property
    def url(self) -> str:
        return f"https://localhost:{self.https}"

    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.certificate))

    def client(self, address: str) -> httpx.Client:
        """A client on an address of its own below 127.0.0.0/8, so that tests do not use up each other's limits."""
        transport = httpx.HTTPTransport(verify=self.trust(), local_address=address, limits=httpx.Limits())
        return httpx.Client(base_url=self.url, transport=transport, timeout=60)

    def statuses(self, address: str) -> Counter[tuple[str, int]]:
        """What nginx answered to this address, by path and status."""
        lines = [line.split() for line in self.log.read_text(encoding="utf-8").splitlines()]
        return Counter((path, int(status)) for remote, status, path in lines if remote == address)


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        held = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(one.getsockname()[1]) for one in held]


@contextmanager
def running(arguments: list[str], log: Path, ready: Callable[[], bool]) -> Iterator[None]:
    """A process that is ready, until the block ends."""
    with log.open("wb") as output:
        process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
    try:
        limit = time.monotonic() + 60
        while not ready():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < limit, log.read_text()
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(20)


def answers(url: str, verify: ssl.SSLContext | bool = True) -> bool:
    try:
        return httpx.get(url, verify=verify, timeout=5).is_success
    except httpx.TransportError:
        return False


def self_signed(folder: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    (folder / "ui.key").write_bytes(pem)
    (folder / "ui.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return folder / "ui.pem"


def prepared(folder: Path, streamlit_port: int, http: int, https: int) -> Path:
    """The deployed configuration with this test's ports and certificate, below a main file like the distribution's."""
    text = CONFIGURATION.read_text(encoding="utf-8")
    for old, new in {
        "listen 80 default_server;": f"listen 127.0.0.1:{http} default_server;",
        "listen 443 ssl default_server;": f"listen 127.0.0.1:{https} ssl default_server;",
        "server 127.0.0.1:8501;": f"server 127.0.0.1:{streamlit_port};",
        "/run/secrets/ui_certificate;": f"{folder}/ui.pem;",
        "/run/secrets/ui_key;": f"{folder}/ui.key;",
    }.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    (folder / "djms.conf").write_text(text, encoding="utf-8")
    kept = "".join(
        f"    {what}_temp_path {folder}/{what};\n" for what in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    main = folder / "nginx.conf"
    main.write_text(
        f"daemon off;\npid {folder}/nginx.pid;\nerror_log {folder}/error.log;\nevents {{}}\n"
        "http {\n    log_format test '$remote_addr $status $uri';\n"
        f"    access_log {folder}/access.log test;\n{kept}    include {folder}/djms.conf;\n}}\n",
        encoding="utf-8",
    )
    return main


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("nginx")
    folder.chmod(0o755)
    page = folder / "page.py"
    page.write_text(f"import streamlit as st\n\nst.title({TEXT!r})\nst.dataframe({{'a': [1, 2]}})\n", encoding="utf-8")
    port, http, https = free_ports(3)
    certificate = self_signed(folder)
    main = prepared(folder, port, http, https)
    options = ["--server.headless", "true", "--browser.gatherUsageStats", "false", "--server.address", "127.0.0.1"]
    ui = [sys.executable, "-m", "streamlit", "run", str(page), "--server.port", str(port), *options]
    made = Site(https, http, certificate, folder / "access.log")
    with ExitStack() as stack:
        health = "/_stcore/health"
        stack.enter_context(running(ui, folder / "ui.log", lambda: answers(f"http://127.0.0.1:{port}{health}")))
        nginx = [str(NGINX), "-c", str(main), "-p", str(folder)]
        ready = lambda: answers(made.url + health, made.trust())  # noqa: E731
        stack.enter_context(running(nginx, folder / "nginx.log", ready))
        yield made


def first_texts(site: Site, address: str) -> str:
    """What the page sends over its WebSocket when it is opened: everything up to the end of its script."""
    with connect(
        f"wss://localhost:{site.https}/_stcore/stream",
        sock=socket.create_connection(("127.0.0.1", site.https), source_address=(address, 0)),
        ssl=site.trust(),
        origin=site.url,
        subprotocols=["streamlit"],
        max_size=None,
        proxy=None,
    ) as page:
        question = BackMsg()
        question.rerun_script.SetInParent()
        page.send(question.SerializeToString())
        texts = ""
        while True:
            message = ForwardMsg.FromString(page.recv(timeout=30))
            texts += str(message)
            if message.WhichOneof("type") == "script_finished":
                return texts


def test_nginx_accepts_the_configuration_without_a_warning(tmp_path: Path) -> None:
    self_signed(tmp_path)
    main = prepared(tmp_path, *free_ports(3))
    done = subprocess.run([str(NGINX), "-t", "-c", str(main), "-p", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "warn" not in done.stderr


def test_a_page_loads_with_every_asset_there_is_and_its_websocket_speaks(site: Site) -> None:
    address = "127.0.1.1"
    assets = [f"/static/{path.relative_to(STATIC / 'static')}" for path in (STATIC / "static").rglob("*.*")]
    assert len(assets) > 100  # all at once; a browser asks for a part of them
    with site.client(address) as client, ThreadPoolExecutor(16) as pool:
        paths = ["/", "/_stcore/health", "/_stcore/host-config", "/favicon.png", *assets]
        got = Counter(answer.status_code for answer in pool.map(client.get, paths))
    assert got == {200: len(paths)}
    assert TEXT in first_texts(site, address)


def test_ten_people_of_one_office_load_the_page_in_the_same_second(site: Site) -> None:
    address = "127.0.1.2"

    def load(_: int) -> str:
        with site.client(address) as client:
            for path in ("/", "/_stcore/health", "/_stcore/host-config", "/favicon.png"):
                assert client.get(path).status_code == 200
        return first_texts(site, address)

    with ThreadPoolExecutor(10) as pool:
        assert all(TEXT in texts for texts in pool.map(load, range(10)))
    assert not [what for what in site.statuses(address) if what[1] >= 400]


def test_a_burst_beyond_the_limit_gets_429_and_assets_and_other_addresses_do_not_feel_it(site: Site) -> None:
    address, burst, rate = "127.0.1.3", 60, 10
    with site.client(address) as client, site.client("127.0.1.4") as other, ThreadPoolExecutor(16) as pool:
        start = time.monotonic()
        codes = list(pool.map(lambda _: client.get("/").status_code, range(400)))
        seconds = time.monotonic() - start
        passed = codes.count(200)
        assert set(codes) == {200, 429}
        assert burst <= passed <= burst + 1 + rate * (seconds + 0.5)
        asset = next(path.name for path in (STATIC / "static/js").glob("index.*.js"))
        assert client.get(f"/static/js/{asset}").status_code == 200
        assert other.get("/").status_code == 200
        time.sleep(1)
        assert client.get("/").status_code == 200  # nobody is locked out


def test_plain_http_is_sent_to_https_and_nowhere_else(site: Site) -> None:
    answer = httpx.get(f"http://127.0.0.1:{site.http}/a?b=c", headers={"Host": "djms.example.org"})
    assert (answer.status_code, answer.headers["location"]) == (301, "https://djms.example.org/a?b=c")


@pytest.mark.parametrize("path", ["/", "/static/", "/_stcore/agent/mcp", "/nothing/there"])
def test_every_answer_tells_the_browser_to_be_careful(site: Site, path: str) -> None:
    with site.client("127.0.1.5") as client:
        headers = client.get(path).headers
    assert headers["strict-transport-security"] == "max-age=31536000"
    assert headers["content-security-policy"] == "frame-ancestors 'none'"
    assert headers["x-frame-options"] == "DENY"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["server"] == "nginx"  # without a version


@pytest.mark.parametrize("path", ["/_stcore/agent/mcp", "/_stcore/agent/openapi.json", "/page/_stcore/agent/interact"])
def test_the_interface_for_programs_is_closed(site: Site, path: str) -> None:
    with site.client("127.0.1.6") as client:
        assert client.get(path).status_code == client.post(path, json={}).status_code == 404


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize(
    ("version", "accepted"),
    [(ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1_2, True), (ssl.TLSVersion.TLSv1_3, True)],
)
def test_tls_begins_at_1_2(site: Site, version: ssl.TLSVersion, accepted: bool) -> None:
    context = site.trust()
    context.set_ciphers("ALL:@SECLEVEL=0")  # so that it is nginx that refuses
    context.minimum_version = context.maximum_version = version
    with socket.create_connection(("127.0.0.1", site.https)) as plain:
        if accepted:
            with context.wrap_socket(plain, server_hostname="localhost") as secure:
                assert secure.version() == version.name.replace("_", ".")
        else:
            with pytest.raises(ssl.SSLError, match="protocol version"):
                context.wrap_socket(plain, server_hostname="localhost")


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def shown_by(devtools: Path) -> str:
    """The text of Chromium's page, asked through its debugging port; nothing while there is none."""
    lines = devtools.read_text(encoding="ascii").splitlines() if devtools.is_file() else []
    if len(lines) < 2:  # not yet, or not yet all of it
        return ""
    port = int(lines[0])
    pages = [one for one in httpx.get(f"http://127.0.0.1:{port}/json/list", timeout=30).json() if one["type"] == "page"]
    if not pages:
        return ""
    with connect(pages[0]["webSocketDebuggerUrl"], max_size=None, proxy=None) as page:
        expression = {"expression": "document.body ? document.body.innerText : ''"}
        page.send(json.dumps({"id": 1, "method": "Runtime.evaluate", "params": expression}))
        return str(json.loads(page.recv(timeout=30))["result"]["result"]["value"])


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_a_real_browser_shows_the_page_and_is_refused_nothing(site: Site, tmp_path: Path) -> None:
    headless = ["--headless=new", "--no-sandbox", "--disable-gpu", "--ignore-certificate-errors", "--no-first-run"]
    quiet = ["--disable-background-networking", "--no-proxy-server", f"--user-data-dir={tmp_path}/browser"]
    command = [str(CHROMIUM), *headless, *quiet, "--remote-debugging-port=0", site.url]
    devtools = tmp_path / "browser/DevToolsActivePort"
    with running(command, tmp_path / "browser.log", lambda: TEXT in shown_by(devtools)):
        pass
    limit = time.monotonic() + 30
    while not (answered := site.statuses("127.0.0.1"))[("/_stcore/stream", 101)]:  # logged when it is closed
        assert time.monotonic() < limit
        time.sleep(0.1)
    assert sum(count for (path, _), count in answered.items() if path.startswith("/static/")) > 20
    left = 499  # what the browser itself no longer waits for when it is ended
    assert not [what for what in answered if what[1] >= 400 and what[1] != left]
