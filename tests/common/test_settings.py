"""Settings: the file in the repository, the deployment guide's keys, who wins over whom, and what is refused."""

import itertools
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError

from common.errors import InputError
from common.settings import Settings
from common.settings_loading import flat, load_settings, nested, resolve_key, setting_keys

CONFIG = Path(__file__).parents[2] / "config.yaml"
KEYS = list(setting_keys())

GUIDE = """
seed: 42
paths:
  raw_candidates: data/raw/Dataset_Candidati_Aggiornato.csv
  raw_companies: data/raw/Dataset_Aziende_con_Stima_Assunzioni.csv
  processed_dir: data/processed
  training_csv: data/processed/Enhanced_Training_Dataset.csv
  results_dir: results
ui:
  distance_max_km: 30                    # Default search radius (CORRECTED)
training:
  model_set: ["LightGBM_Optimized", "MLP"]
  optuna_trials: 50
  calibration: "sigmoid"
federated:
  rounds: 10
  min_clients: 3
  aggregator: "fedavg"                   # fedavg | trimmed_mean | coordinate_median
  batch_size: 256
privacy:
  enabled: true
  dp:
    epsilon: 1.0                         # Recommended value for utility/privacy balance
    delta: 1e-6
    max_grad_norm: 1.0
    accountant: "rdp"
  secure_agg:
    scheme: "shamir"
    threshold: "3-of-5"
    dropout_recovery: true
anchoring:
  enabled: true
  backend: "merkle"
  anchor_every_n: 1
"""
GUIDE_KEYS = [key for key, _ in flat(yaml.safe_load(GUIDE))]
OTHERWISE = {"privacy.dp.max_grad_norm": 0.1}
"""Keys of the guide whose default is another, because it was measured to be better (docs/privacy.md)."""


@pytest.fixture(autouse=True)
def _nobodys_settings(tmp_path, monkeypatch):
    """A working directory without a settings file."""
    monkeypatch.chdir(tmp_path)


def load(*overrides, file=None, environment=None):
    return load_settings(overrides, file=file, environment=environment or {})


def write(tmp_path, text):
    path = tmp_path / "some.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refused(*overrides, file=None, environment=None):
    """The error, which must be one sentence that says where and what to do."""
    with pytest.raises(InputError) as caught:
        load(*overrides, file=file, environment=environment)
    error = caught.value
    text = str(error)
    assert error.where
    assert error.remedy
    assert text.startswith(f"{error.where}: ")
    assert text.endswith(".")
    assert not text.endswith("..")
    assert "\n" not in text
    assert not re.search(r"[.!?]\s+[A-Z]", text), text
    return error


def value_of(settings, key):
    for part in key.split("."):
        settings = getattr(settings, part)
    return settings


def leaves(node, prefix=""):
    """Key node and value node of each leaf of a composed YAML mapping, by dotted key."""
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        if isinstance(value, yaml.MappingNode) and name != "offices":
            yield from leaves(value, f"{name}.")
        else:
            yield name, key, value


def test_the_file_in_the_repository_equals_the_defaults():
    assert load(file=CONFIG) == Settings()


def test_the_file_in_the_repository_lists_every_key_in_order_and_no_other():
    node = yaml.compose(CONFIG.read_text(encoding="utf-8"))
    assert [name for name, _, _ in leaves(node)] == KEYS


def test_every_key_of_the_file_in_the_repository_has_a_comment_on_its_line():
    text = CONFIG.read_text(encoding="utf-8")
    lines = text.splitlines()
    found = list(leaves(yaml.compose(text)))
    offices = next(value for name, _, value in found if name == "offices")
    for name, key, value in [*found, *((k.value, k, v) for k, v in offices.value)]:
        end = key.end_mark.column + 1 if value is offices else value.end_mark.column
        assert re.fullmatch(r"\s+# \S.*", lines[key.start_mark.line][end:]), name


@pytest.mark.parametrize("key", GUIDE_KEYS)
def test_a_key_of_the_guide_exists_with_the_guides_default(key):
    assert key in KEYS
    value = dict(flat(yaml.safe_load(GUIDE)))[key]
    stated = value_of(Settings.model_validate(nested({key: value})), key)
    assert value_of(Settings(), key) == OTHERWISE.get(key, stated)


def test_the_guides_whole_file_loads_and_changes_nothing_but_what_was_measured(tmp_path):
    assert len(GUIDE_KEYS) == 25
    found = dict(flat(load(file=write(tmp_path, GUIDE)).model_dump(mode="json")))
    default = dict(flat(Settings().model_dump(mode="json")))
    assert {key: value for key, value in default.items() if value != found[key]} == OTHERWISE


@pytest.mark.parametrize(
    ("key", "default", "in_file", "in_environment", "on_command_line"),
    [("seed", 42, 3, 4, 5), ("federated.rounds", 10, 3, 4, 5), ("privacy.dp.epsilon", 1.0, 3.0, 4.0, 5.0)],
)
def test_command_line_wins_over_environment_over_file_over_default(
    tmp_path, key, default, in_file, in_environment, on_command_line
):
    for has_file, has_environment, has_override in itertools.product([False, True], repeat=3):
        path = write(tmp_path, yaml.safe_dump(nested({key: in_file}))) if has_file else None
        name = f"DJMS_{key.upper().replace('.', '__')}"
        found = load(
            *([f"{key}={on_command_line}"] if has_override else []),
            file=path,
            environment={name: str(in_environment)} if has_environment else {},
        )
        expected = default
        for given_there, value in (
            (has_file, in_file),
            (has_environment, in_environment),
            (has_override, on_command_line),
        ):
            expected = value if given_there else expected
        assert value_of(found, key) == expected


def test_a_higher_origin_leaves_the_other_keys_of_its_section_alone(tmp_path):
    path = write(tmp_path, "federated: {rounds: 3, min_clients: 4}\nprivacy: {dp: {epsilon: 2, delta: 1e-5}}\n")
    found = load("dp.epsilon=0.5", file=path, environment={"DJMS_FEDERATED__ROUNDS": "7"})
    assert (found.federated.rounds, found.federated.min_clients) == (7, 4)
    assert (found.privacy.dp.epsilon, found.privacy.dp.delta) == (0.5, 1e-5)


def test_the_file_in_the_working_directory_is_read_when_none_is_named(tmp_path):
    (tmp_path / "config.yaml").write_text("seed: 7\n", encoding="utf-8")
    assert load().seed == 7
    assert load(file=write(tmp_path, "")).seed == 42


def test_the_environment_is_the_processes_own_unless_one_is_given(monkeypatch):
    monkeypatch.setenv("DJMS_SEED", "9")
    assert load_settings().seed == 9
    assert load_settings(environment={}).seed == 42


def test_an_empty_environment_variable_and_a_foreign_one_change_nothing():
    assert load(environment={"DJMS_SEED": "", "DJMSX_SEED": "1", "SEED": "2"}) == Settings()


@pytest.mark.parametrize("key", KEYS)
def test_a_key_with_a_letter_left_out_is_refused_and_the_nearest_is_named_from_every_origin(tmp_path, key):
    head, _, leaf = key.rpartition(".")
    middle = len(leaf) // 2
    wrong = f"{head}.{leaf[:middle]}{leaf[middle + 1 :]}".lstrip(".")
    assert wrong not in KEYS
    assert f"'{key}'" in refused(f"{wrong}=1").remedy
    path = write(tmp_path, yaml.safe_dump(nested({wrong: 1})))
    in_file = refused(file=path)
    assert f"'{key}'" in in_file.remedy
    assert str(path) in in_file.where
    name = f"DJMS_{wrong.upper().replace('.', '__')}"
    in_environment = refused(environment={name: "1"})
    assert f"'DJMS_{key.upper().replace('.', '__')}'" in in_environment.remedy
    assert name in in_environment.where


def test_an_unknown_section_of_the_file_names_the_nearest(tmp_path):
    assert "federated" in refused(file=write(tmp_path, "federatd:\n  rounds: 3\n")).remedy


def test_a_key_like_no_other_is_refused_with_the_way_to_the_list():
    assert "djms config show" in refused("qqqqqqqq=1").remedy


def test_an_ending_that_is_unambiguous_stands_for_its_key():
    for key in KEYS:
        parts = key.split(".")
        for ending in (".".join(parts[start:]) for start in range(len(parts))):
            if sum(f".{other}".endswith(f".{ending}") for other in KEYS) == 1:
                assert resolve_key(ending) == key


def test_an_ambiguous_ending_is_refused_and_every_key_it_could_be_is_named():
    error = refused("enabled=false")
    assert {key for key in KEYS if key.endswith(".enabled")} <= set(re.findall(r"[a-z_.]+", str(error)))


@hypothesis_settings(max_examples=200, deadline=None)
@given(st.integers(0, 40), st.integers(0, 20))
def test_a_count_is_a_threshold_exactly_above_half_of_the_cohort_and_within_it(needed, total):
    text, of_any_cohort = f"{needed}-of-{total}", "secure_agg.enabled=false"
    if total / 2 < needed <= total:
        assert load(f"secure_agg.threshold={text}", of_any_cohort).privacy.secure_agg.threshold == text
    else:
        error = refused(f"secure_agg.threshold={text}", of_any_cohort)
        advised = re.findall(r"'(\d+-of-\d+|\d+%)'", str(error).replace(f"'{text}'", ""))
        assert advised
        for possible in advised:
            assert load(f"secure_agg.threshold={possible}", of_any_cohort).privacy.secure_agg.threshold == possible


@given(st.integers(0, 200))
def test_a_share_is_a_threshold_exactly_above_half_and_up_to_all(percent):
    text = f"{percent}%"
    if 50 < percent <= 100:
        assert load(f"secure_agg.threshold={text}").privacy.secure_agg.threshold == text
    else:
        assert "'60%'" in refused(f"secure_agg.threshold={text}").remedy


@pytest.mark.parametrize("text", ["abc", "3", "3of5", "3-of-", "-1-of-5", "3-of-5-of-5", "60 %", "60.5%", '"%"', '""'])
def test_a_threshold_of_another_form_is_refused_with_both_forms(text):
    error = refused(f"secure_agg.threshold={text}")
    assert "threshold" in error.where
    assert "form" in error.remedy or "string" in error.remedy


def test_an_aggregator_that_does_not_exist_is_refused_with_those_that_do():
    error = refused("federated.aggregator=krum", "privacy.enabled=false")
    assert "aggregator" in error.where
    for name in ("fedavg", "trimmed_mean", "coordinate_median"):
        assert name in error.remedy


def offices(count):
    """The settings of so many offices."""
    return f"offices={{{', '.join(f'CPI_{number}: {{comuni: [Town{number}]}}' for number in range(count))}}}"


ROBUST = ["trimmed_mean", "coordinate_median"]
OFF = ["privacy.enabled=false", "privacy.secure_agg.enabled=false"]


@pytest.mark.parametrize("aggregator", ROBUST)
def test_an_aggregator_that_must_see_single_updates_is_refused_beside_full_secure_aggregation(aggregator):
    error = refused(f"federated.aggregator={aggregator}")
    assert str(error).endswith(
        f"{aggregator} needs each site's update; full secure aggregation hides them: set privacy.secure_agg.groups."
    )
    for off in OFF:
        assert load(f"federated.aggregator={aggregator}", off).federated.aggregator == aggregator


@pytest.mark.parametrize("aggregator", ROBUST)
def test_an_aggregator_that_must_see_single_updates_may_see_those_of_groups(aggregator):
    ask = (f"federated.aggregator={aggregator}", "secure_agg.groups=5", "secure_agg.threshold=60%")
    assert load(*ask, offices(15)).privacy.secure_agg.groups == 5
    error = refused(*ask, offices(14))
    assert "needs 15 offices, at least 3 in each group, and there are 14" in error.what
    assert load(*ask, offices(14), "privacy.enabled=false")


def test_groups_beside_an_average_of_all_are_refused_because_they_reveal_sums_for_nothing():
    error = refused("secure_agg.groups=2", "secure_agg.threshold=60%", offices(6))
    assert "fedavg needs only the sum of all" in error.what
    assert "to 0" in error.remedy


def test_a_single_group_and_fewer_than_none_are_refused():
    assert "whole cohort" in refused("secure_agg.groups=1", "privacy.enabled=false").what
    assert "groups" in refused("secure_agg.groups=-1").where


@pytest.mark.parametrize(
    ("trim", "groups", "fits"), [(0.2, 5, True), (0.2, 4, False), (0.34, 3, True), (0.33, 3, False), (0.49, 3, True)]
)
def test_a_trimmed_mean_of_groups_has_enough_of_them_to_trim_one(trim, groups, fits):
    ask = (f"federated.trim={trim}", f"secure_agg.groups={groups}", "secure_agg.threshold=60%", offices(15))
    if fits:
        assert load("federated.aggregator=trimmed_mean", *ask)
    else:
        assert f"needs {groups + 1} groups" in refused("federated.aggregator=trimmed_mean", *ask).what
        assert load("federated.aggregator=coordinate_median", *ask)


@hypothesis_settings(max_examples=200, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(3, 12))
def test_a_count_of_another_cohort_is_a_threshold_exactly_above_half_of_the_offices_and_within_them(
    needed, total, count
):
    if not total / 2 < needed <= total:
        return
    text = f"secure_agg.threshold={needed}-of-{total}"
    settings = load(text, offices(count))  # whoever only prepares tables needs no threshold
    if total == count or count / 2 < needed <= count:
        settings.require_quorum(count)
        return
    with pytest.raises(InputError) as caught:
        settings.require_quorum(count)
    assert f"'{needed}-of-{total}'" in caught.value.what
    assert "'60%'" in caught.value.remedy
    assert ("needs" if needed > count else "not above half") in caught.value.what
    load("secure_agg.threshold=60%", offices(count)).require_quorum(count)
    for off in OFF:
        load(text, offices(count), off).require_quorum(count)


def test_a_sum_of_two_is_refused_beside_secure_aggregation_because_each_would_see_the_other():
    error = refused("federated.min_clients=2")
    assert "a sum of two shows each" in error.what
    assert "3" in error.remedy
    for off in OFF:
        assert load("federated.min_clients=2", off).federated.min_clients == 2


def test_sums_that_would_be_too_coarse_are_refused_with_the_three_numbers():
    error = refused("privacy.secure_agg.value_bound=1e5")
    assert "16384 times value_bound 100000 times 5 offices" in str(error)
    assert load("privacy.secure_agg.value_bound=1e5", "privacy.secure_agg.max_people=100")
    assert "10000" in str(refused("privacy.secure_agg.setup_rounds=20000"))


def test_one_key_switches_both_protections_off_and_each_has_one_of_its_own():
    for both, dp, secure in itertools.product([False, True], repeat=3):
        given_so = (f"privacy.enabled={both}", f"dp.enabled={dp}", f"secure_agg.enabled={secure}")
        privacy = load(*given_so).privacy
        assert privacy.differential_privacy is (both and dp)
        assert privacy.secure_aggregation is (both and secure)


def test_the_quorum_is_min_clients_and_for_a_trimmed_mean_of_sites_enough_to_trim_one():
    plain = "privacy.enabled=false"
    assert load().quorum == 3
    assert load(plain, "federated.aggregator=trimmed_mean").quorum == 5
    assert load(plain, "federated.aggregator=trimmed_mean", "federated.trim=0.4").quorum == 3
    assert load(plain, "federated.aggregator=coordinate_median", "federated.min_clients=2").quorum == 2
    grouped = ("secure_agg.groups=5", "secure_agg.threshold=60%", offices(15))
    assert load("federated.aggregator=trimmed_mean", *grouped).quorum == 15, "three in each group"
    load().require_quorum(3)
    with pytest.raises(InputError, match="min_clients 3 needs 3 sites, and there are 2"):
        load().require_quorum(2)
    with pytest.raises(
        InputError, match=r"min_clients 3 and a trimmed mean with trim 0\.2 needs 5 sites, and there are 4"
    ):
        load(plain, "federated.aggregator=trimmed_mean").require_quorum(4)


@pytest.mark.parametrize(
    "key",
    [
        "ui.distance_max_km",
        "federated.learning_rate",
        "federated.wait_timeout",
        "privacy.dp.epsilon",
        "privacy.dp.delta",
        "privacy.dp.max_grad_norm",
        "privacy.secure_agg.colluders",
        "privacy.secure_agg.dropouts",
        "privacy.secure_agg.value_bound",
        "data.validation_share",
    ],
)
@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan", "'inf'"])
def test_a_number_that_is_not_finite_is_refused(key, value):
    assert key in refused(f"{key}={value}").where


@pytest.mark.parametrize(
    "override",
    [
        "seed=-1",
        "seed=4294967296",
        "federated.rounds=0",
        "federated.rounds=2.5",
        "federated.rounds=[1]",
        "federated.rounds=null",
        "federated.rounds={a: 1}",
        "federated.min_clients=1",
        "federated.trim=0.5",
        "privacy.dp.epsilon=0",
        "privacy.dp.delta=1",
        "privacy.dp.accountant=moments",
        "privacy.enabled=perhaps",
        "privacy.secure_agg.scheme=none",
        "privacy.secure_agg.setup_rounds=0",
        "privacy.secure_agg.colluders=0.5",
        "privacy.secure_agg.colluders=-0.1",
        "privacy.secure_agg.dropouts=0.5",
        "privacy.secure_agg.max_people=0",
        "privacy.secure_agg.max_people=16777217",
        "privacy.secure_agg.value_bound=0",
        "privacy.secure_agg.rounding=up",
        "privacy.secure_agg.malicious_coordinator=perhaps",
        "federated.max_abandoned=0",
        "anchoring.backend=chain",
        "training.hidden=[0]",
        "training.hidden=32",
        "training.model_set=[XGBoost]",
        "training.calibration=isotonic",
        "data.pairs_per_candidate=0",
        "data.pairs_per_candidate=some",
        "data.unknown_places=guess",
        "data.success_from=promosso",
        "data.test_share=1.5",
        "data.test_share=0.9",
        "data.geocoding.enabled=true",
        "offices.CPI_Rovigo=1",
        "offices.CPI_Rovigo.provinces=[Rovigo]",
        "offices.CPI_Rovigo.provinces=[]",
        "federated.rounds",
        "=1",
        "",
        "federated.rounds=[",
    ],
)
def test_a_value_that_does_not_fit_is_refused_in_one_sentence_that_says_where(override):
    error = refused(override)
    key = override.partition("=")[0]
    assert any(part in error.where for part in (key, *key.split(".")[:1])) or key == ""


@pytest.mark.parametrize("value", ["[", "{", "'", "a: b: c", "\t- x"])
def test_an_environment_variable_that_is_not_yaml_is_refused_by_its_name(value):
    assert "DJMS_FEDERATED__ROUNDS" in refused(environment={"DJMS_FEDERATED__ROUNDS": value}).where


TEXTS = st.one_of(
    st.text(max_size=20),
    st.text("0123456789-:.xbeo_[]{}&*!|>'\" ,", max_size=12),
    st.sampled_from(["2024-13-45", "0x_", "0b_", "&a [*a]", "{[1]: 2}", "{1: 2}", "!!binary x", "<<: 1", "=", "---"]),
)


@hypothesis_settings(max_examples=300, deadline=None)
@given(st.sampled_from([*KEYS, "offices.CPI_Rovigo", "offices.CPI_Rovigo.provinces"]), TEXTS)
def test_whatever_text_is_given_as_a_value_is_taken_or_refused_in_our_words(tmp_path_factory, key, text):
    path = tmp_path_factory.mktemp("fuzz") / "config.yaml"
    path.write_text(f"{key.partition('.')[0]}:\n  {text}\n", encoding="utf-8", errors="replace")
    in_environment = {"environment": {f"DJMS_{key.upper().replace('.', '__')}": text}} if key in KEYS else {}
    for overrides, options in (((f"{key}={text}",), {}), ((), {"file": path}), ((), in_environment)):
        try:
            found = load(*overrides, **options)
        except InputError as error:
            assert error.where  # noqa: PT017 - a refusal is one of the two right answers
        else:
            assert isinstance(found, Settings)


def test_a_value_out_of_range_is_refused_with_the_origin_it_came_from(tmp_path):
    path = write(tmp_path, "federated: {rounds: 0}\n")
    assert str(path) in refused(file=path).where
    assert "DJMS_FEDERATED__ROUNDS" in refused(environment={"DJMS_FEDERATED__ROUNDS": "0"}).where
    assert "--set federated.rounds" in refused("federated.rounds=0").where
    # the origin that wins is the one to blame
    assert (
        "--set federated.rounds" in refused("federated.rounds=0", file=write(tmp_path, "federated: {rounds: 1}")).where
    )


def test_a_settings_file_that_cannot_be_used_is_refused_by_name(tmp_path):
    missing = tmp_path / "nowhere.yaml"
    assert str(missing) in refused(file=missing).where
    assert str(tmp_path) in refused(file=tmp_path).where
    listed = write(tmp_path, "- seed\n- 3\n")
    assert str(listed) in refused(file=listed).where
    broken = write(tmp_path, "seed: 3\nfederated: {rounds: 3\n")
    assert re.search(r"line \d", refused(file=broken).where)
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("paths: {results_dir: città}\n".encode("latin-1"))
    assert str(latin) in refused(file=latin).where


def test_pairs_per_candidate_is_a_number_or_all():
    assert load("data.pairs_per_candidate=all").data.pairs_per_candidate == "all"
    assert load("data.pairs_per_candidate='20'").data.pairs_per_candidate == 20


def test_settings_do_not_change_once_they_are_loaded():
    found = load()
    for section, name, value in (
        (found, "seed", 1),
        (found.privacy, "enabled", False),
        (found.privacy.dp, "delta", 0.5),
    ):
        with pytest.raises(ValidationError):
            setattr(section, name, value)


def test_offices_of_a_file_stand_for_themselves(tmp_path):
    text = "offices:\n  CPI_Rovigo: {provinces: [RO], comuni: [Cavarzere]}\nprivacy: {enabled: false}\n"
    found = load(file=write(tmp_path, text))
    assert list(found.offices) == ["CPI_Rovigo"]
    assert found.offices["CPI_Rovigo"].comuni == ("Cavarzere",)
