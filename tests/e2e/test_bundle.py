"""What is sent to sites is code and nothing else, whatever lies in the project's folder."""

from __future__ import annotations

import io
import shutil
import zipfile
from pathlib import Path, PurePosixPath

from flwr.cli.build import build_fab_from_disk

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("common", "data", "client", "server", "privacy", "anchoring", "federation", "ui")


def copy_of_project(target: Path) -> Path:
    """The project's sources as a clone would have them."""
    for room in ROOMS:
        shutil.copytree(ROOT / room, target / room, ignore=shutil.ignore_patterns("__pycache__", "raw", "processed"))
    for name in ("pyproject.toml", "config.yaml", "README.md", "djms.py", ".gitignore"):
        shutil.copy(ROOT / name, target / name)
    return target


def members(bundle: bytes) -> list[str]:
    with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
        return archive.namelist()


def test_the_bundle_holds_python_code_and_its_own_description_only(tmp_path: Path) -> None:
    names = members(build_fab_from_disk(copy_of_project(tmp_path / "project")))
    extra = [name for name in names if not name.endswith(".py")]
    assert sorted(extra) == [".info/CONTENT", "pyproject.toml"]
    assert {"server/app.py", "client/app.py", "common/model.py"} <= set(names)


def test_records_keys_caches_and_settings_of_a_site_never_enter_the_bundle(tmp_path: Path) -> None:
    project = copy_of_project(tmp_path / "project")
    before = members(build_fab_from_disk(project))
    for name in (
        "data/raw/people.json",
        "data/processed/cache.json",
        "client/people.json",
        "common/keys.yaml",
        "server/history.jsonl",
        "site.yaml",
        "roster.yaml",
        "keys/site.toml",
        "results/run/summary.json",
        "notes.md",
    ):
        path = project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}", encoding="utf-8")
    assert members(build_fab_from_disk(project)) == before


def test_every_room_the_apps_import_is_in_the_bundle() -> None:
    rooms = {PurePosixPath(name).parts[0] for name in members(build_fab_from_disk(ROOT)) if name.endswith(".py")}
    assert rooms == {"djms.py", "common", "client", "server", "privacy", "anchoring"}
