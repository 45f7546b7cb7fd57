"""A federation and its sites as folders, for tests to let join, to alter and to kill."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from client.ledger import Budget
from client.site_folder import SiteFolder
from common.membership import JoinRequest
from server import membership
from server.federation_folder import FederationFolder
from server.membership import Change

NOW = datetime.now(UTC)
NAME = "Collocamento mirato – Città"
ADDRESS = "fl.example.org:9092"
SITES = ("CPI_Padova", "CPI_Treviso", "CPI_Venezia", "CPI_Verona", "CPI_Vicenza")


def new_federation(folder: Path) -> FederationFolder:
    """A federation without sites."""
    return FederationFolder.create(folder, NAME, ADDRESS, now=NOW)


def new_site(folder: Path, name: str) -> SiteFolder:
    """A site that has asked for nothing yet."""
    return SiteFolder.create(folder, name, Budget(3.0, 1e-6))


def request_of(site: SiteFolder) -> JoinRequest:
    """What the site sends to the coordinator, verified."""
    return JoinRequest.from_text(site.request.read_bytes())


def added(federation: FederationFolder, site: SiteFolder, **options: bool) -> Change:
    """Let the coordinator add the site."""
    root = federation.offline_keys(None).root
    return membership.add(federation, request_of(site), root, NOW, **options)


def revoked(federation: FederationFolder, name: str) -> Change:
    """Let the coordinator revoke the site."""
    return membership.revoke(federation, name, federation.offline_keys(None).root, NOW)


def newest(federation: FederationFolder) -> str:
    """The text of the newest edition."""
    text = federation.newest_text()
    assert text is not None
    return text


def joined_sites(federation: FederationFolder, root: Path, names: tuple[str, ...] = SITES) -> dict[str, SiteFolder]:
    """These sites, added one after the other, and then all joined with the newest edition."""
    sites = {name: new_site(root / name, name) for name in names}
    for site in sites.values():
        added(federation, site)
    for site in sites.values():
        site.join(newest(federation), federation.fingerprint)
    return sites


def altered(text: str | bytes, **changes: Any) -> str:
    """A JSON text with other values, and everything else as it was."""
    return json.dumps({**json.loads(text), **changes})


PRIVATE_FILES = re.compile(r"identity\.pem|root\.pem|.*\.key")


def private_texts(folder: Path) -> set[str]:
    """Every spelling in which a private key of this folder could stand in a file that travels."""
    found: set[str] = set()
    for path in (path for path in folder.rglob("*") if PRIVATE_FILES.fullmatch(path.name)):
        for raw in _raw_keys(path.read_text(encoding="ascii")):
            within = [base64.b64encode(bytes(before) + raw + bytes(3)).decode()[4:40] for before in range(3)]
            found |= {raw.hex(), raw.hex().upper(), str(int.from_bytes(raw)), *within}
    return found


def _raw_keys(text: str) -> list[bytes]:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_ssh_private_key

    if text.startswith("PRIVATE+KEY+"):
        return [base64.b64decode(text.strip().split("+", 4)[4])[1:]]
    load = load_ssh_private_key if "OPENSSH" in text else load_pem_private_key
    key = load(text.encode(), password=None)
    if isinstance(key, Ed25519PrivateKey):
        return [key.private_bytes_raw()]
    assert isinstance(key, EllipticCurvePrivateKey)
    return [key.private_numbers().private_value.to_bytes(32)]


_STEPS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "shutil.rmtree"}


def steps_of(work: Callable[[], object], *, kill_at: int | None = None) -> int:
    """Do the work in a process of its own, and kill it at a certain step on files; how many steps there were.

    Returns 0 when it was killed. A step is anything that opens for writing, renames, removes or makes a file.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        count = 0

        def step(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal count
            if event in _STEPS and (event != "open" or arguments[2] & (os.O_WRONLY | os.O_RDWR)):
                count += 1
                if count == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.addaudithook(step)
            work()
            os.write(writer, str(count).encode())
        finally:
            os._exit(1)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as result:
        return int(result.read() or 0)
