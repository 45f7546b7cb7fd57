"""Labels: the reference rule by hand, labels drawn as often as they should be, and the ladder of outcomes."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from common.tables import (
    CANDIDATE_ID,
    COMPANY_ID,
    OFFICE,
    ONE_HOT_COLUMNS,
    OUTCOME,
    OUTCOME_ENDINGS,
    OUTCOME_LADDER,
    RawOutcome,
)
from data.labels import REFERENCE_RULE, LabelRule, draw_labels, outcome_labels

NUMBERS = ("attitude_score", "compatibility_score", "distance_km", "retention_rate", "remote_work", "certification")
NAN = float("nan")


def pairs_of(*rows, **one_hot):
    """Pairs whose numbers are `rows` in the order of `NUMBERS`."""
    table = pd.DataFrame(rows, columns=list(NUMBERS), dtype=np.float32)
    for name in ONE_HOT_COLUMNS:
        table[name] = np.uint8(one_hot.get(name, 0))
    return table.assign(**{OFFICE: "CPI_Padova"})


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ((1, 1, 0, 1, 1, 1), 0.955),  # 0.3 + 0.4 + 0.2 + 0.05 + 0.0025 + 0.0025
        ((0, 0, 40, 0, 0, 0), 0.0),
        ((0, 0, 400, 0, 0, 0), 0.0),
        ((0.3, 0.5, 0, 0, 0, 0), 0.9),
        ((0.15, 0.5, 0, 0, 0, 0), 0.75),
        ((0.3, 0.25, 0, 0, 0, 0), 0.7),
        ((0.3, 0.5, 10, 0, 0, 0), 0.85),
        ((0.6, 0.75, 20, 0.5, 0, 1), 0.8275),  # 0.3 + 0.4 + 0.1 + 0.025 + 0.0025
        ((0.06, 0.1, 30, 0.2, 1, 0), 0.2025),  # 0.06 + 0.08 + 0.05 + 0.01 + 0.0025
        ((0, 0, 40, 3, 0, 0), 0.05),  # a retention above one counts as one
    ],
)
def test_the_reference_rule_gives_the_values_reckoned_by_hand(numbers, expected):
    assert REFERENCE_RULE.probability(pairs_of(numbers))[0] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("position", "weight"), [(0, 0.3), (1, 0.4), (2, 0.2), (3, 0.05), (4, 0.0025), (5, 0.0025)], ids=NUMBERS
)
def test_what_is_not_known_counts_half_of_its_term(position, weight):
    numbers = [0.0, 0.0, 40.0, 0.0, 0.0, 0.0]
    numbers[position] = NAN
    assert REFERENCE_RULE.probability(pairs_of(numbers))[0] == pytest.approx(weight / 2)


def test_where_nothing_is_known_everything_counts_half():
    assert REFERENCE_RULE.probability(pairs_of([NAN] * 6))[0] == pytest.approx(0.955 / 2)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(*[st.floats(0, 1)] * 2, st.floats(0, 300), st.floats(0, 5), st.integers(0, 1), st.integers(0, 1)),
        min_size=1,
        max_size=8,
    )
)
def test_the_rule_is_its_formula_row_by_row(rows):
    expected = [
        0.3 * min(1, a / 0.3) + 0.4 * min(1, c / 0.5) + 0.2 * max(0, 1 - d / 40) + 0.05 * min(1, r) + 0.0025 * (m + k)
        for a, c, d, r, m, k in np.asarray(rows, dtype=np.float32).astype(np.float64)
    ]
    np.testing.assert_allclose(REFERENCE_RULE.probability(pairs_of(*rows)), expected, atol=1e-12)


def test_at_the_threshold_itself_nobody_succeeds():
    pairs = pairs_of((1, 1, 0, 0, 0, 0), (1, 1, 20, 0, 0, 0), (1, 1, 36, 0, 0, 0))
    p = REFERENCE_RULE.probability(pairs)
    for row in range(3):
        at = LabelRule(threshold=p[row])
        below = LabelRule(threshold=np.nextafter(p[row], 0))
        assert at.success_probability(pairs)[row] == 0.0
        assert below.success_probability(pairs)[row] == p[row]
    assert LabelRule().threshold == 0.6


def test_labels_are_drawn_as_often_as_their_probability_says():
    distances = np.repeat([0.0, 8.0, 16.0, 24.0, 32.0, 40.0], 4_000)
    pairs = pairs_of(*[(0.2, 0.4, distance, 0.5, 0, 1) for distance in distances])
    outcome, probability = draw_labels(pairs, {}, rng=np.random.default_rng(1))
    assert outcome.dtype == np.uint8
    assert set(outcome.tolist()) == {0, 1}
    for distance in np.unique(distances):
        rows = distances == distance
        p = probability[rows][0]
        assert (probability[rows] == p).all()
        assert outcome[rows].mean() == pytest.approx(p, abs=4 * np.sqrt(p * (1 - p) / rows.sum()))
    assert (outcome[probability == 0] == 0).all()
    assert (probability == 0).any()
    assert ((probability == 0) | (probability > 0.6)).all()


def test_certain_pairs_always_succeed_and_hopeless_ones_never():
    rule = LabelRule(sector={"it": 1.0})
    pairs = pd.concat([pairs_of((1, 1, 0, 1, 1, 1), sector_it=1), pairs_of((0, 0, 40, 0, 0, 0))] * 200)
    outcome, probability = draw_labels(pairs, {"CPI_Padova": rule}, rng=np.random.default_rng(2))
    assert probability.tolist() == [1.0, 0.0] * 200
    assert outcome.tolist() == [1, 0] * 200


def test_the_same_generator_draws_the_same_labels_and_another_draws_others():
    pairs = pairs_of(*[(1, 1, 0, 0, 0, 0)] * 500)
    one, same, other = (draw_labels(pairs, {}, rng=np.random.default_rng(seed))[0] for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_each_office_follows_its_own_rule_and_others_the_reference():
    pairs = pd.concat(
        [pairs_of((0.3, 0.5, 20, 0, 0, 0)).assign(office=name) for name in ("CPI_Verona", "CPI_Padova", "CPI_Verona")]
    )
    _, probability = draw_labels(pairs, {"CPI_Verona": LabelRule(distance=0.1)}, rng=np.random.default_rng(1))
    np.testing.assert_allclose(probability, [0.75, 0.8, 0.75])


def test_effects_of_a_sector_on_a_disability_need_both():
    rule = LabelRule(sector={"commercio": 0.02}, sector_disability={"it/motoria": 0.1, "it/psichica": -0.05})
    base = (0.15, 0.25, 20, 0, 0, 0)
    for one_hot, extra in (
        ({}, 0.0),
        ({"sector_it": 1}, 0.0),
        ({"dis_motoria": 1}, 0.0),
        ({"sector_it": 1, "dis_motoria": 1}, 0.1),
        ({"sector_it": 1, "dis_psichica": 1}, -0.05),
        ({"sector_commercio": 1, "dis_motoria": 1}, 0.02),
    ):
        assert rule.probability(pairs_of(base, **one_hot))[0] == pytest.approx(0.45 + extra)


@given(st.floats(-3, 3), st.floats(-3, 3))
@settings(max_examples=30, deadline=None)
def test_a_probability_stays_one_whatever_the_rule_adds(first, second):
    rule = LabelRule(sector={"it": first}, sector_disability={"it/dsa": second})
    p = rule.probability(pairs_of((0.5, 0.5, 10, 1, 1, 1), (0, 0, 40, 0, 0, 0), sector_it=1, dis_dsa=1))
    assert ((p >= 0) & (p <= 1)).all()


def test_a_rule_with_an_unknown_part_is_refused():
    with pytest.raises(ValidationError):
        LabelRule.model_validate({"attitud": 0.3})


def events(*rows):
    columns = [RawOutcome.CANDIDATE, RawOutcome.COMPANY, RawOutcome.STEP]
    return pd.DataFrame(rows, columns=columns).assign(**{RawOutcome.DATE: pd.Timestamp("2024-03-31")})


def labels(frame, success_from="assunto"):
    found = outcome_labels(frame, success_from=success_from)
    assert list(found.columns) == [CANDIDATE_ID, COMPANY_ID, OUTCOME]
    assert found[OUTCOME].dtype == np.uint8
    return {(row.candidate_id, row.company_id): row.outcome for row in found.itertuples()}


@pytest.mark.parametrize("success_from", OUTCOME_LADDER)
@pytest.mark.parametrize("step", [*OUTCOME_LADDER, *OUTCOME_ENDINGS])
def test_a_pair_succeeds_exactly_from_the_step_of_the_setting_on(step, success_from):
    reached = step in OUTCOME_LADDER and OUTCOME_LADDER.index(step) >= OUTCOME_LADDER.index(success_from)
    assert labels(events(("a", "x", step)), success_from) == {("a", "x"): int(reached)}


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b"]),
            st.sampled_from(["x", "y"]),
            st.sampled_from([*OUTCOME_LADDER, *OUTCOME_ENDINGS]),
        ),
        min_size=1,
        max_size=12,
    ),
    st.sampled_from(OUTCOME_LADDER),
)
def test_the_furthest_step_decides_whatever_the_order_of_events(rows, success_from):
    needed = OUTCOME_LADDER.index(success_from)
    expected = {}
    for person, company, step in rows:
        rank = OUTCOME_LADDER.index(step) if step in OUTCOME_LADDER else -1
        expected[person, company] = max(expected.get((person, company), 0), int(rank >= needed))
    assert labels(events(*rows), success_from) == expected
    assert labels(events(*reversed(rows)), success_from) == expected
    assert list(labels(events(*rows), success_from)) == list(expected)  # in order of first appearance


def test_endings_take_nothing_away_and_add_nothing():
    assert labels(events(("a", "x", "assunto"), ("a", "x", "cessato"))) == {("a", "x"): 1}
    assert labels(events(("a", "x", "colloquio"), ("a", "x", "rifiutato"))) == {("a", "x"): 0}
    assert labels(events(("a", "x", "rifiutato")), "proposto") == {("a", "x"): 0}


def test_a_pair_that_was_never_proposed_has_no_row():
    found = labels(events(("a", "x", "assunto"), ("b", "y", "proposto")))
    assert found.keys() == {("a", "x"), ("b", "y")}
