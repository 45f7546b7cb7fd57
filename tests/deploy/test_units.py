"""systemd units, cron tables, logrotate and Windows tasks: what the systems' own tools say of them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
CRON = sorted((DEPLOY / "cron").iterdir())
TASKS = sorted((DEPLOY / "windows").glob("*.xml"))
PATHS = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/bin"
ANALYZE, CRONTAB = shutil.which("systemd-analyze", path=PATHS), shutil.which("crontab", path=PATHS)
LOGROTATE = shutil.which("logrotate", path=PATHS)

needs_systemd = pytest.mark.skipif(ANALYZE is None, reason="systemd is not installed")
needs_logrotate = pytest.mark.skipif(LOGROTATE is None, reason="logrotate is not installed")


@needs_systemd
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_systemd_accepts_the_unit_without_a_word(unit: Path, tmp_path: Path) -> None:
    here = tmp_path / unit.name
    text = unit.read_text(encoding="utf-8")
    here.write_text(text.replace("/opt/djms/.venv/bin/", f"{sys.prefix}/bin/"), encoding="utf-8")  # it looks for it
    done = subprocess.run([str(ANALYZE), "verify", "--man=no", str(here)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    here.write_text(here.read_text(encoding="utf-8") + "\n[Service]\nNoSuchThing=1\n", encoding="utf-8")
    noticed = subprocess.run([str(ANALYZE), "verify", "--man=no", str(here)], capture_output=True, text=True)
    assert "NoSuchThing" in noticed.stderr


@needs_systemd
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_the_units_exposure_is_what_the_documentation_says(unit: Path) -> None:
    arguments = ["security", "--offline=true", "--no-pager", str(unit)]
    done = subprocess.run([str(ANALYZE), *arguments], capture_output=True, text=True)
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    said = re.search(r"exposure of ([0-9.]+)", (ROOT / "docs/deployment.md").read_text(encoding="utf-8"))
    assert found is not None
    assert said is not None
    assert float(found[1]) <= float(said[1])


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_is_started_again_but_not_for_ever(unit: Path) -> None:
    keys = dict(re.findall(r"^(\w+)=(.*)$", unit.read_text(encoding="utf-8"), re.M))
    assert keys["Restart"] == "always"
    assert int(keys["RestartSec"]) * int(keys["StartLimitBurst"]) < 3600  # or the limit would never be reached
    assert keys["StartLimitIntervalSec"] == "1h"
    assert keys["User"] == "djms"
    assert keys["CapabilityBoundingSet"] == ""


@pytest.mark.skipif(CRONTAB is None, reason="cron is not installed")
@pytest.mark.parametrize("table", CRON, ids=lambda table: table.name)
def test_cron_accepts_the_table(table: Path, tmp_path: Path) -> None:
    lines = table.read_text(encoding="utf-8").splitlines()
    user = re.compile(r"^((?:\S+\s+){5})djms\s+")  # a field that crontab(1) does not know
    without_users = [user.sub(r"\1", line) for line in lines]
    assert len([1 for line, new in zip(lines, without_users, strict=True) if line != new]) == 3
    (tmp_path / "table").write_text("\n".join([*without_users, ""]), encoding="utf-8")
    done = subprocess.run([str(CRONTAB), "-n", str(tmp_path / "table")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (tmp_path / "table").write_text("61 * * * * true\n", encoding="utf-8")
    assert subprocess.run([str(CRONTAB), "-n", str(tmp_path / "table")], capture_output=True).returncode != 0


@pytest.mark.parametrize("table", CRON, ids=lambda table: table.name)
def test_cron_would_read_the_file_and_each_whole_line(table: Path) -> None:
    assert re.fullmatch(r"[a-z0-9-]+", table.name)  # cron.d leaves other names out
    for line in table.read_text(encoding="utf-8").splitlines():
        assert line.startswith("#") or "%" not in line  # cron ends a command at a bare one
    assert table.read_bytes().endswith(b"\n")


def rotated(tmp_path: Path) -> Path:
    """The configuration for this test's user and folders."""
    import grp
    import os
    import pwd

    text = (DEPLOY / "logrotate/djms").read_text(encoding="utf-8")
    us = f"{pwd.getpwuid(os.getuid()).pw_name} {grp.getgrgid(os.getgid()).gr_name}"
    assert text.count(" djms djms") == 3
    text = text.replace(" djms djms", f" {us}").replace("/var/", f"{tmp_path}/var/")
    (tmp_path / "djms").write_text(text, encoding="utf-8")
    (tmp_path / "djms").chmod(0o600)
    return tmp_path / "djms"


@needs_logrotate
def test_logrotate_accepts_the_configuration(tmp_path: Path) -> None:
    arguments = ["-d", "-s", str(tmp_path / "state"), str(rotated(tmp_path))]
    done = subprocess.run([str(LOGROTATE), *arguments], capture_output=True, text=True)
    assert done.returncode == 0
    assert "error" not in done.stderr.lower()
    assert done.stderr.count("rotating pattern") == 2


@needs_logrotate
def test_a_log_is_rotated_under_a_process_that_keeps_it_open(tmp_path: Path) -> None:
    configuration = rotated(tmp_path)
    log = tmp_path / "var/lib/djms/coordinator/superlink/logs/superlink.log"
    log.parent.mkdir(parents=True, mode=0o700)
    with log.open("ab", buffering=0) as writer:  # as the coordinator opens it for Flower
        writer.write(b"before\n")
        command = [str(LOGROTATE), "-f", "-s", str(tmp_path / "state"), str(configuration)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        writer.write(b"after\n")
    assert log.read_bytes() == b"after\n"
    assert log.with_name("superlink.log.1.gz").is_file()


# What the Task Scheduler's schema allows below each of these, in this order where it asks for one.
SCHEMA = {
    "Task": ("RegistrationInfo", "Triggers", "Principals", "Settings", "Actions"),
    "RegistrationInfo": ("Author", "Date", "Description", "URI", "Version"),
    "Triggers": ("BootTrigger", "TimeTrigger", "CalendarTrigger"),
    "BootTrigger": ("Enabled", "StartBoundary", "EndBoundary", "Repetition", "ExecutionTimeLimit", "Delay"),
    "TimeTrigger": ("Enabled", "StartBoundary", "EndBoundary", "Repetition", "ExecutionTimeLimit", "RandomDelay"),
    "CalendarTrigger": ("Enabled", "StartBoundary", "EndBoundary", "Repetition", "ExecutionTimeLimit", "ScheduleByDay"),
    "Repetition": ("Interval", "Duration", "StopAtDurationEnd"),
    "ScheduleByDay": ("DaysInterval",),
    "Principals": ("Principal",),
    "Principal": ("UserId", "LogonType", "GroupId", "DisplayName", "RunLevel"),
    "Settings": (
        *("MultipleInstancesPolicy", "DisallowStartIfOnBatteries", "StopIfGoingOnBatteries", "AllowHardTerminate"),
        *("StartWhenAvailable", "RunOnlyIfNetworkAvailable", "AllowStartOnDemand", "Enabled", "ExecutionTimeLimit"),
    ),
    "Actions": ("Exec",),
    "Exec": ("Command", "Arguments", "WorkingDirectory"),
}
NAMESPACE = "{http://schemas.microsoft.com/windows/2004/02/mit/task}"


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.stem)
def test_a_windows_task_holds_elements_of_the_schema_in_its_order(task: Path) -> None:
    content = task.read_bytes()
    assert content.isascii()  # so that no declaration of an encoding can be wrong
    root = ElementTree.fromstring(content)
    assert (root.tag, root.get("version")) == (f"{NAMESPACE}Task", "1.4")
    for element in root.iter():
        children = [child.tag.removeprefix(NAMESPACE) for child in element]
        allowed = SCHEMA.get(element.tag.removeprefix(NAMESPACE), ())
        assert set(children) <= set(allowed), element.tag
        assert children == sorted(children, key=allowed.index), element.tag
        assert children or (element.text or "").strip(), f"{element.tag} is empty"


def test_a_windows_site_runs_once_without_an_end_and_with_no_rights_of_its_own() -> None:
    root = ElementTree.parse(DEPLOY / "windows/djms-site.xml").getroot()
    found = {element.tag.removeprefix(NAMESPACE): element.text for element in root.iter()}
    assert found["MultipleInstancesPolicy"] == "IgnoreNew"
    assert found["ExecutionTimeLimit"] == "PT0S"
    assert found["UserId"] == "S-1-5-19"  # NT AUTHORITY\LOCAL SERVICE
    assert found["Interval"] == "PT5M"
