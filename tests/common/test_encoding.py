"""The encoding against the paper's definition, one value at a time, and what it must not look at."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.encoding import INPUT_NAMES, INPUT_SIZE, KNOTS, encode
from common.tables import (
    CANDIDATE_ID,
    COMPANY_ID,
    FEATURE_COLUMNS,
    MATCH_PROBABILITY,
    NUMERIC_COLUMNS,
    OFFICE,
    ONE_HOT_COLUMNS,
    ONE_HOT_GROUPS,
    OUTCOME,
)

RANGES = {name: (knots[0], knots[-1]) for name, knots in KNOTS.items()}


def value_in(column):
    """A value in and around the column's knots, the knots themselves, or nothing."""
    low, high = RANGES[column]
    return st.one_of(
        st.sampled_from(KNOTS[column]), st.floats(low, high), st.floats(low - 50, high + 2000), st.just(float("nan"))
    )


ROW = st.fixed_dictionaries(
    {**{name: value_in(name) for name in NUMERIC_COLUMNS}, **{group: st.integers(-1, 3) for group in ONE_HOT_GROUPS}}
)


def table_of(rows):
    """A training table's feature columns; a group's value is the position of its 1, -1 for none."""
    columns = {name: np.array([row[name] for row in rows], dtype=np.float32) for name in NUMERIC_COLUMNS}
    for group, names in ONE_HOT_GROUPS.items():
        for position, name in enumerate(names):
            columns[name] = np.array([row[group] == position for row in rows], dtype=np.uint8)
    return pd.DataFrame(columns)


def random_table(seed, rows):
    rng = np.random.default_rng(seed)
    table = table_of([dict.fromkeys([*NUMERIC_COLUMNS, *ONE_HOT_GROUPS], 0)] * rows)
    for name in NUMERIC_COLUMNS:
        low, high = RANGES[name]
        values = rng.uniform(low - 0.1 * high, 1.3 * high, rows).astype(np.float32)
        table[name] = np.where(rng.random(rows) < 0.2, np.float32("nan"), values)
    for name in ONE_HOT_COLUMNS:
        table[name] = (rng.random(rows) < 0.2).astype(np.uint8)
    return table


def piecewise_linear(value, knots):
    """Equation 1 of Gorishniy, Rubachev, Babenko 2022, section 3.2, of a value brought within the outermost knots."""
    value = min(max(value, knots[0]), knots[-1])
    segments = len(knots) - 1
    result = []
    for t in range(1, segments + 1):
        if value < knots[t - 1] and t > 1:
            result.append(0.0)
        elif value >= knots[t] and t < segments:
            result.append(1.0)
        else:
            result.append((value - knots[t - 1]) / (knots[t] - knots[t - 1]))
    return result


def slow_encoding(row):
    """The inputs of one row, from the names that the encoding gives them."""
    inputs = {}
    for column in NUMERIC_COLUMNS:
        knots, value = KNOTS[column], row[column]
        unknown = np.isnan(value)
        segments = [0.0] * (len(knots) - 1) if unknown else piecewise_linear(float(np.float32(value)), knots)
        inputs |= {f"{column}[{number}]": share for number, share in enumerate(segments)}
        inputs[f"{column}[unknown]"] = float(unknown)
    for group, names in ONE_HOT_GROUPS.items():
        inputs |= {name: float(row[group] == position) for position, name in enumerate(names)}
        inputs[f"{group}_[unknown]"] = float(row[group] == -1)
    return [inputs.pop(name) for name in INPUT_NAMES], inputs


@settings(max_examples=30, deadline=None)
@given(st.lists(ROW, min_size=1, max_size=5))
def test_every_input_is_what_the_paper_says_under_the_name_it_carries(rows):
    found = encode(table_of(rows))
    for row, inputs in zip(rows, found, strict=True):
        expected, left_over = slow_encoding(row)
        assert not left_over
        np.testing.assert_allclose(inputs, expected, atol=2e-6, rtol=0)


@settings(max_examples=40, deadline=None)
@given(st.lists(ROW, max_size=5))
def test_inputs_are_finite_float32_within_zero_and_one_whatever_the_values(rows):
    inputs = encode(table_of(rows))
    assert inputs.shape == (len(rows), INPUT_SIZE) == (len(rows), len(INPUT_NAMES))
    assert inputs.dtype == np.float32
    assert np.isfinite(inputs).all()
    assert ((inputs >= 0) & (inputs <= 1)).all()


def test_names_of_inputs_are_distinct():
    assert len(set(INPUT_NAMES)) == INPUT_SIZE


@pytest.mark.parametrize("column", NUMERIC_COLUMNS)
def test_a_value_that_is_not_known_gives_zeros_and_its_own_indicator_only(column):
    known = random_table(1, 20).fillna(0.5)
    unknown = known.assign(**{column: np.float32("nan")})
    before, after = encode(known), encode(unknown)
    own = [number for number, name in enumerate(INPUT_NAMES) if name.startswith(f"{column}[")]
    assert [INPUT_NAMES[number] for number in own][-1] == f"{column}[unknown]"
    assert (before[:, own[-1]] == 0).all()
    assert (after[:, own[-1]] == 1).all()
    assert (after[:, own[:-1]] == 0).all()
    others = np.setdiff1d(np.arange(INPUT_SIZE), own)
    assert (before[:, others] == after[:, others]).all()


@pytest.mark.parametrize("group", ONE_HOT_GROUPS)
def test_a_group_that_is_not_stated_sets_its_own_indicator_only(group):
    table = random_table(2, 20)
    table[list(ONE_HOT_GROUPS[group])] = np.uint8(0)
    table[ONE_HOT_GROUPS[group][-1]] = np.uint8(1)
    silent = table.assign(**{ONE_HOT_GROUPS[group][-1]: np.uint8(0)})
    changed = {INPUT_NAMES[number] for number in np.flatnonzero((encode(table) != encode(silent)).any(axis=0))}
    assert changed == {ONE_HOT_GROUPS[group][-1], f"{group}_[unknown]"}
    assert (encode(silent)[:, INPUT_NAMES.index(f"{group}_[unknown]")] == 1).all()


@pytest.mark.parametrize("column", NUMERIC_COLUMNS)
def test_inputs_of_a_column_rise_with_its_value_and_tell_values_between_the_knots_apart(column):
    low, high = RANGES[column]
    values = np.linspace(low, high, 301, dtype=np.float32)
    table = random_table(3, 1).loc[np.zeros(301, dtype=int)].reset_index(drop=True).assign(**{column: values})
    own = [n for n, name in enumerate(INPUT_NAMES) if name.startswith(f"{column}[") and not name.endswith("[unknown]")]
    inputs = encode(table)[:, own]
    assert (np.diff(inputs, axis=0) >= 0).all()
    assert (np.diff(inputs.astype(np.float64).sum(axis=1)) > 0).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.integers(0, 29), max_size=40))
def test_encoding_some_rows_is_the_same_as_some_rows_of_the_encoding(seed, rows):
    """So nothing is learned from a table: neither its other rows nor their order matter."""
    table = random_table(seed, 30)
    assert np.array_equal(encode(table.iloc[rows]), encode(table)[rows])


def test_a_row_is_encoded_alike_beside_extreme_rows():
    table = random_table(4, 3)
    extreme = table.assign(**{name: np.float32(1e30) for name in NUMERIC_COLUMNS})
    assert np.array_equal(encode(pd.concat([extreme, table, -extreme]))[3:6], encode(table))


def test_keys_and_answers_do_not_influence_the_inputs():
    table = random_table(5, 12)
    plain = encode(table)
    for answer in (0, 1):
        dressed = table.assign(
            **{
                CANDIDATE_ID: [f"{answer}{row}" for row in range(12)],
                COMPANY_ID: f"company {answer}",
                OFFICE: "CPI_Padova",
                OUTCOME: np.uint8(answer),
                MATCH_PROBABILITY: np.float32(answer),
            }
        )
        assert np.array_equal(encode(dressed), plain)
        assert np.array_equal(encode(dressed[dressed.columns[::-1]]), plain)


def test_every_feature_reaches_the_inputs():
    table = random_table(6, 40).fillna(0.25)
    before = encode(table)
    for column in FEATURE_COLUMNS:
        changed = table.copy()
        changed[column] = (1 - changed[column]).clip(0, 1).astype(table[column].dtype)
        assert not np.array_equal(encode(changed), before), column


def test_knots_are_public_constants_that_rise_and_cannot_be_changed():
    assert set(KNOTS) == set(NUMERIC_COLUMNS)
    for knots in KNOTS.values():
        assert isinstance(knots, tuple)
        assert (np.diff(knots) > 0).all()
    with pytest.raises(TypeError):
        KNOTS["distance_km"] = (0.0, 1.0)
