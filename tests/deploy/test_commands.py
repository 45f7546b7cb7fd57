"""Every command line of deploy/ and of its documentation, given to the real command line with `--help`."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
BACKUP = DEPLOY / "backup.py"


def in_dockerfile() -> Iterator[list[str]]:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    for line in re.findall(r"^(?:HEALTHCHECK .*)?CMD (\[.*\])$", text, re.M):
        yield json.loads(line)


def in_units() -> Iterator[list[str]]:
    for unit in sorted((DEPLOY / "systemd").glob("*.service")):
        for line in re.findall(r"^Exec\w+=(.+)$", unit.read_text(encoding="utf-8"), re.M):
            yield shlex.split(line)


def in_cron() -> Iterator[list[str]]:
    for table in sorted((DEPLOY / "cron").iterdir()):
        for line in re.findall(r"^[0-9*].*$", table.read_text(encoding="utf-8"), re.M):
            yield shlex.split(re.split(r" (?:>>?|\|) ", line.split(maxsplit=6)[6])[0])


def in_windows() -> Iterator[list[str]]:
    for task in sorted((DEPLOY / "windows").glob("*.xml")):
        for found in ElementTree.parse(task).iter("{http://schemas.microsoft.com/windows/2004/02/mit/task}Arguments"):
            match = re.fullmatch(r'/d /c "(.+) > \S+ 2>&1"', found.text or "")
            assert match, found.text
            yield match[1].split()


def in_documentation() -> Iterator[list[str]]:
    text = (ROOT / "docs/deployment.md").read_text(encoding="utf-8")
    for line in re.findall(r"^    (.*)$", text.replace("\\\n", " "), re.M):
        if match := re.search(r"\bdjms (?:client|server|health|data) .*", re.sub(r"\s#.*| [<>|] .*", "", line)):
            yield shlex.split(match[0])


ALL = [
    pytest.param(command, id=f"{place.__name__}: {' '.join(command)[-60:]}")
    for place in (in_dockerfile, in_units, in_cron, in_windows, in_documentation)
    for command in place()
]


def arguments_of(command: list[str]) -> list[str] | None:
    """What follows `djms`, wherever it is installed; None for a command that is not ours."""
    name = re.split(r"[/\\]", command[0])[-1].removesuffix(".exe")
    return command[1:] if name == "djms" else None


@pytest.mark.parametrize("command", ALL)
def test_the_command_line_knows_the_command_and_each_of_its_options(
    djms: Callable[..., object], command: list[str]
) -> None:
    from common.cli import run
    from djms import build

    arguments = arguments_of(command)
    if arguments == ["ui"]:
        pytest.skip("the page is not part of this version")
    if arguments is not None:
        assert run(build(), [*arguments, "--help"]) == 0
        return
    assert command[0].endswith(("python", "python.exe")), command
    if command[1] == "-c":
        compile(command[2], "health check", "exec")
        return
    assert re.split(r"[/\\]", command[1])[-2:] == ["deploy", BACKUP.name]
    done = subprocess.run([sys.executable, str(BACKUP), *command[2:], "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_there_are_commands_in_every_place() -> None:
    found = {place.__name__: len(list(place())) for place in (in_dockerfile, in_units, in_cron, in_windows)}
    assert found == {"in_dockerfile": 6, "in_units": 2, "in_cron": 6, "in_windows": 3}
    assert len(list(in_documentation())) > 5


def test_an_option_that_does_not_exist_would_be_noticed(djms: Callable[..., object]) -> None:
    from common.cli import run
    from djms import build

    for arguments in (["client", "start", "--no-such-thing", "1"], ["client", "begin"], ["health", "--folder", "x"]):
        assert run(build(), [*arguments, "--help"]) == 1, arguments


def test_the_health_check_asks_where_the_process_answers() -> None:
    for commands, asked in ((list(in_dockerfile())[:4], 2), ([*in_units(), *in_cron()], 2)):
        told = {command[command.index("--health") + 1] for command in commands if "--health" in command}
        asks = {command[-1] for command in commands if "health" in command}
        assert told == asks
        assert len(told) == asked
