"""The command line as a caller meets it: flags, one JSON object, exit codes, and errors that help."""

import json
import os
import re

import pytest

import djms
from common.cli import DjmsCommand, new_group, run, settings_of
from common.errors import InputError, RunError
from common.report import Report


@pytest.fixture(autouse=True)
def _nobodys_settings(tmp_path, monkeypatch):
    """A working directory without a settings file, an environment without our variables."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("DJMS_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def call(capsys):
    """Runs `djms` with arguments; gives exit code, standard output, standard error."""

    def run_it(*arguments, app=None):
        capsys.readouterr()
        code = run(djms.build() if app is None else app, list(arguments))
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run_it


@pytest.fixture
def settings_after(call):
    """The settings that a call with these arguments works with."""

    def show(*arguments):
        code, out, err = call("config", "show", *arguments, "--json")
        assert (code, err) == (0, "")
        return json.loads(out)

    return show


def one_sentence(text):
    assert "Traceback" not in text
    assert text.endswith(".\n")
    assert text.count("\n") == 1
    return text


def small_app(act):
    """A command line of ours with one command, `room act`, that does what it is told."""
    group = new_group("A room.")

    @group.command("act", cls=DjmsCommand)
    def _(context: djms.typer.Context) -> Report:
        settings_of(context)
        return act()

    app = new_group("Everything.")
    app.add_typer(group, name="room")
    return app


@pytest.mark.parametrize("flag", ["--dp.epsilon", "--privacy.dp.epsilon", "--epsilon"])
@pytest.mark.parametrize("joined", [False, True])
def test_a_setting_has_a_flag_in_full_or_by_an_unambiguous_ending(settings_after, flag, joined):
    arguments = [f"{flag}=0.5"] if joined else [flag, "0.5"]
    assert settings_after(*arguments)["privacy"]["dp"]["epsilon"] == 0.5


def test_flags_change_what_they_name_and_nothing_else(settings_after):
    before = settings_after()
    after = settings_after(
        "--secure_agg.threshold", "4-of-5", "--federated.rounds=5", "--set", "seed=7", "--training.hidden", "[8, 4]"
    )
    before["privacy"]["secure_agg"]["threshold"] = "4-of-5"
    before["federated"]["rounds"] = 5
    before["seed"] = 7
    before["training"]["hidden"] = [8, 4]
    assert after == before


def test_the_guides_threshold_flag_is_accepted(settings_after):
    assert settings_after("--secure_agg.threshold", "3-of-5")["privacy"]["secure_agg"]["threshold"] == "3-of-5"
    assert settings_after("--secure_agg.threshold=60%")["privacy"]["secure_agg"]["threshold"] == "60%"


def test_a_robust_aggregator_is_accepted_with_privacy_off_and_refused_with_it_on(call, settings_after):
    after = settings_after("--aggregator", "trimmed_mean", "--privacy.enabled", "false")
    assert (after["federated"]["aggregator"], after["privacy"]["enabled"]) == ("trimmed_mean", False)
    code, out, err = call("config", "check", "--aggregator", "trimmed_mean")
    assert (code, out) == (1, "")
    assert "secure aggregation" in one_sentence(err)


def test_of_two_flags_for_one_setting_the_last_counts(settings_after):
    assert settings_after("--seed", "1", "--set", "seed=2", "--seed=3")["seed"] == 3


def test_flags_stand_above_the_environment_and_a_named_file(settings_after, tmp_path, monkeypatch):
    (tmp_path / "other.yaml").write_text("federated: {rounds: 3, min_clients: 4, local_epochs: 2}\n", encoding="utf-8")
    monkeypatch.setenv("DJMS_FEDERATED__ROUNDS", "5")
    monkeypatch.setenv("DJMS_FEDERATED__MIN_CLIENTS", "6")
    found = settings_after("--config", "other.yaml", "--rounds", "7")["federated"]
    assert (found["rounds"], found["min_clients"], found["local_epochs"]) == (7, 6, 2)


@pytest.mark.parametrize("command", ["show", "check"])
def test_a_command_that_succeeds_prints_one_json_object_and_nothing_else(call, command):
    code, out, err = call("config", command, "--json")
    assert (code, err) == (0, "")
    assert isinstance(json.loads(out), dict)
    assert out.count("\n") == 1


REFUSED = {
    "an unknown command": ("config", "chek"),
    "an unknown group": ("confg", "check"),
    "an unknown option": ("config", "check", "--confg", "x"),
    "an unknown setting": ("config", "check", "--federated.ronds", "5"),
    "a mistyped ending of a setting": ("config", "check", "--round", "5"),
    "an option like no other": ("config", "check", "--zzzzzz"),
    "an ambiguous setting": ("config", "check", "--enabled", "false"),
    "a flag without its value": ("config", "check", "--dp.epsilon"),
    "an option without its value": ("config", "check", "--set"),
    "an assignment without a value": ("config", "check", "--set", "seed"),
    "a value out of range": ("config", "check", "--dp.epsilon", "-1"),
    "a value that is not a number": ("config", "check", "--dp.epsilon", "one"),
    "a value that is not finite": ("config", "show", "--ui.distance_max_km", ".inf"),
    "a value that is not YAML": ("config", "check", "--federated.rounds", "["),
    "a settings file that is not there": ("config", "check", "--config", "nowhere.yaml"),
    "a settings file that is a folder": ("config", "check", "--config", "."),
    "an argument too many": ("config", "check", "more"),
    "a number of people that is none": ("data", "generate", "--candidates", "many"),
    "a scenario that does not exist": ("data", "generate", "--scenario", "perfect"),
    "too few people": ("data", "generate", "--candidates", "2", "--out", "made"),
    "a training table that is not there": ("data", "describe"),
    "raw files that are not there": ("data", "import"),
    "a raw folder that is not there": ("data", "import", "--raw", "nowhere"),
    "tables that are not there": ("federate", "--privacy.enabled", "false", "--anchoring.enabled", "false"),
}


@pytest.mark.parametrize("arguments", REFUSED.values(), ids=REFUSED)
def test_bad_input_is_one_sentence_on_standard_error_and_exit_code_one(call, arguments):
    code, out, err = call(*arguments)
    assert (code, out) == (1, "")
    one_sentence(err)


@pytest.mark.parametrize("arguments", REFUSED.values(), ids=REFUSED)
def test_bad_input_with_json_is_one_json_object_on_standard_output(call, arguments):
    code, out, err = call(*arguments, "--json")
    answer = json.loads(out)
    assert code == 1
    assert answer == {"error": err.rstrip("\n"), "exit_code": 1}
    one_sentence(err)


@pytest.mark.parametrize(
    ("arguments", "nearest"),
    [
        (("config", "chek"), "'check'"),
        (("confg", "check"), "'config'"),
        (("data", "imprt"), "'import'"),
        (("demoo",), "'demo'"),
        (("config", "check", "--confg", "x"), "'--config'"),
        (("config", "check", "--jsn"), "'--json'"),
        (("data", "generate", "--candidate", "5"), "'--candidates'"),
        (("data", "generate", "--scenaro", "reference"), "'--scenario'"),
        (("config", "check", "--round", "5"), "'--rounds'"),
        (("config", "check", "--epsilom=0.5"), "'--epsilon'"),
        (("config", "check", "--dp.epsilom", "0.5"), "'privacy.dp.epsilon'"),
        (("config", "check", "--federated.ronds=5"), "'federated.rounds'"),
        (("config", "check", "--set", "secure_agg.treshold=3-of-5"), "'privacy.secure_agg.threshold'"),
    ],
)
def test_a_mistyped_name_is_answered_with_the_nearest(call, arguments, nearest):
    code, _, err = call(*arguments)
    assert code == 1
    assert nearest in err
    one_sentence(err)


@pytest.mark.parametrize("rest", [(), ("--json",), ("--seed", "7"), ("--config", "x.yaml")])
def test_a_flag_whose_value_was_forgotten_does_not_swallow_the_next_flag(call, rest):
    code, _, err = call("config", "check", "--dp.epsilon", *rest)
    assert code == 1
    assert "there is no value" in err
    assert "--dp.epsilon" in err


def test_a_negative_value_is_a_value(call):
    code, _, err = call("config", "check", "--federated.learning_rate", "-0.5")
    assert code == 1
    assert "-0.5" in err


def test_no_command_at_all_shows_the_help_on_standard_error(call):
    for arguments in ((), ("config",)):
        code, out, err = call(*arguments)
        assert (code, out) == (1, "")
        assert "Usage: djms" in err


@pytest.mark.parametrize("group", [(), ("config",), ("data",)])
def test_json_without_a_command_is_refused_as_json(call, group):
    code, out, err = call(*group, "--json")
    assert code == 1
    assert json.loads(out) == {"error": err.rstrip("\n"), "exit_code": 1}


def test_help_is_no_error(call):
    code, out, _ = call("config", "check", "--help")
    assert code == 0
    for option in ("--config", "--set", "--json"):
        assert option in out


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("the file is wrong", where="a.csv", remedy="correct it"), 1),
        (RunError("the run failed", where="round 3", remedy="start it again"), 2),
        (KeyboardInterrupt(), 130),
        (ZeroDivisionError("12345"), 2),
    ],
)
def test_the_exit_code_tells_what_kind_of_failure_it_was(call, error, code):
    def fail():
        raise error

    found, out, err = call("room", "act", "--json", app=small_app(fail))
    assert found == code
    answer = json.loads(out)
    assert answer["exit_code"] == code
    assert answer["error"] == err.splitlines()[-1]
    found, out, err = call("room", "act", app=small_app(fail))
    assert (found, out) == (code, "")
    assert ("Traceback" in err) == isinstance(error, ZeroDivisionError)


def test_a_report_is_printed_as_it_was_written(call):
    """Text from files may look like markup of the library that prints it."""
    text = "Ditta [bold] & Figli [/bold] [/x] :smile: [1] C:\\[nuovo]"
    code, out, _ = call("room", "act", app=small_app(lambda: Report({}, text)))
    assert (code, out) == (0, text + "\n")


def test_a_long_line_of_a_report_is_not_broken_when_nobody_looks_at_it(call):
    path = "/".join(["", *["una-cartella-dal-nome-lungo"] * 12, "model.safetensors"])
    _, out, _ = call("room", "act", app=small_app(lambda: Report({}, f"Model {path}\nNext")))
    assert out == f"Model {path}\nNext\n"


def test_a_report_is_the_same_object_in_json_with_accents_kept(call):
    code, out, err = call("room", "act", "--json", app=small_app(lambda: Report({"città": "San Donà", "n": None}, "x")))
    assert (code, err, out) == (0, "", '{"città": "San Donà", "n": null}\n')


def test_the_settings_that_are_shown_can_be_loaded_again(call, tmp_path):
    code, out, _ = call("config", "show", "--seed", "7", "--paths.results_dir", "'[vecchi] risultati'")
    assert code == 0
    (tmp_path / "again.yaml").write_text(out, encoding="utf-8")
    code, again, _ = call("config", "show", "--config", "again.yaml")
    assert (code, again) == (0, out)
    assert re.search(r"results_dir: .*\[vecchi\] risultati", out)
