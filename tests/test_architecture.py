"""Rooms import only rooms on floors below their own; server and client meet in messages only."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = {
    "common": 0,
    "data": 1,
    "privacy": 1,
    "anchoring": 1,
    "client": 2,
    "server": 2,
    "federation": 3,
    "ui": 3,
}
# What a room must not know of, whatever floor it stands on.
FOREIGN = {
    "privacy": ("flwr", "socket", "requests"),
    "anchoring": ("flwr", "torch"),
    "data": ("flwr", "torch"),
    "ui": ("flwr", "Crypto"),
}


def imports_of(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("room", FLOORS)
def test_a_room_imports_only_rooms_below_it(room: str) -> None:
    files = list((ROOT / room).rglob("*.py"))
    assert files
    for path in files:
        above = {name for name in imports_of(path) & FLOORS.keys() if name != room and FLOORS[name] >= FLOORS[room]}
        assert not above, f"{path.relative_to(ROOT)} imports {sorted(above)}"


@pytest.mark.parametrize("room", FOREIGN)
def test_a_room_knows_nothing_of_what_is_not_its_duty(room: str) -> None:
    for path in (ROOT / room).rglob("*.py"):
        known = imports_of(path) & set(FOREIGN[room])
        assert not known, f"{path.relative_to(ROOT)} imports {sorted(known)}"


def test_the_client_app_needs_no_room_that_is_not_in_its_bundle() -> None:
    seen: set[Path] = set()
    waiting = [ROOT / "client/app.py", ROOT / "server/app.py"]
    while waiting:
        path = waiting.pop()
        seen.add(path)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules: list[str] = []
            if isinstance(node, ast.ImportFrom) and node.module:
                modules = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            for module in modules:
                target = ROOT / (module.replace(".", "/") + ".py")
                if target.is_file() and target not in seen:
                    waiting.append(target)
    assert {path.relative_to(ROOT).parts[0] for path in seen} <= {"client", "server", "common", "privacy", "anchoring"}
