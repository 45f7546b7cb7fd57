"""Training: a person weighs one whatever the number of pairs, and the same draw gives the same model."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from client.training import _rows_of, learning_rate_of_round, train_epochs
from common.encoding import INPUT_SIZE
from common.model import MatchingModel, parameters_of, predict
from common.pair_data import PairData

COUNTS = [1, 4, 2, 7, 3, 1, 5, 2]


@pytest.fixture(autouse=True)
def _one_thread():
    """As at a site: sums in one order, and no threads waiting for each other over small matrices."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def data_of(counts, *, seed=1):
    """Random pairs, `counts[p]` of person p."""
    rng = np.random.default_rng(seed)
    size = sum(counts)
    return PairData(
        inputs=rng.random((size, INPUT_SIZE), dtype=np.float32),
        outcome=rng.integers(0, 2, size).astype(np.float32),
        person=np.repeat(np.arange(len(counts)), counts),
        probability=None,
    )


def repeated(data, person, times):
    """The same data with every pair of `person` recorded `times` times."""
    rows = np.repeat(np.arange(len(data.person)), np.where(data.person == person, times, 1))
    return PairData(data.inputs[rows], data.outcome[rows], data.person[rows], None)


def trained(data, *, seed=5, epochs=4, batch_size=3, learning_rate=0.01, hidden=(6,)):
    model = MatchingModel(hidden, seed=1)
    loss = train_epochs(
        model,
        data,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        rng=np.random.default_rng(seed),
    )
    return parameters_of(model), loss


def distance(one, other):
    return max(float(np.abs(one[name] - other[name]).max()) for name in one)


@pytest.mark.parametrize("person", [0, 3, 5])
def test_recording_a_persons_pairs_more_often_changes_nothing(person):
    data = data_of(COUNTS)
    plain, loss = trained(data)
    for times in (2, 5):
        again, loss_again = trained(repeated(data, person, times))
        assert distance(plain, again) < 1e-4
        assert loss_again == pytest.approx(loss, rel=1e-4)


def test_a_further_pair_that_differs_does_change_the_model():
    """So the test above could fail: training is not blind to that person."""
    data = data_of(COUNTS)
    longer = data_of([*COUNTS[:-1], COUNTS[-1] + 1])
    longer.inputs[: len(data.inputs)] = data.inputs
    longer.outcome[: len(data.outcome)] = data.outcome
    assert distance(trained(data)[0], trained(longer)[0]) > 1e-3


def test_the_order_of_a_persons_pairs_does_not_matter():
    data = data_of(COUNTS)
    rows = np.concatenate([np.flatnonzero(data.person == person)[::-1] for person in range(data.people)])
    turned = PairData(data.inputs[rows], data.outcome[rows], data.person, None)
    assert distance(trained(data)[0], trained(turned)[0]) < 1e-4


def test_one_step_is_adams_step_on_the_mean_over_people_of_the_mean_over_their_pairs():
    data = data_of(COUNTS)
    model = MatchingModel((), seed=1)
    start = parameters_of(model)
    logits = torch.from_numpy(data.inputs) @ torch.from_numpy(start["0.weight"]).T + torch.from_numpy(start["0.bias"])
    p = torch.sigmoid(logits.squeeze(1)).double().numpy()
    weight = 1 / np.array(COUNTS)[data.person] / len(COUNTS)
    gradient = (weight * (p - data.outcome)) @ data.inputs.astype(np.float64)
    expected_loss = -(weight * np.where(data.outcome == 1, np.log(p), np.log(1 - p))).sum()
    found, loss = trained(data, epochs=1, batch_size=100, learning_rate=0.01, hidden=())
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    step = gradient / (np.abs(gradient) + 1e-8)  # Adam's first step
    np.testing.assert_allclose(found["0.weight"][0], start["0.weight"][0] - 0.01 * step, atol=1e-5)


def test_the_loss_is_the_mean_over_people_however_they_fall_into_batches():
    data = data_of(COUNTS)
    losses = [trained(data, epochs=1, batch_size=size, learning_rate=1e-12)[1] for size in (1, 3, 5, 8, 1_000)]
    assert losses == pytest.approx([losses[0]] * len(losses), rel=1e-5)


def test_the_same_draw_gives_the_same_model_whatever_the_global_generators_did():
    data = data_of(COUNTS)
    np.random.seed(3)
    torch.manual_seed(3)
    one = trained(data)
    np.random.seed(4)
    torch.manual_seed(4)
    same = trained(data)
    assert distance(one[0], same[0]) == 0
    assert one[1] == same[1]
    assert distance(one[0], trained(data, seed=6)[0]) > 0


def test_training_teaches_what_there_is_to_learn():
    data = data_of([3] * 60)
    outcome = (data.inputs[:, 0] > 0.5).astype(np.float32)
    data = PairData(data.inputs, outcome, data.person, None)
    model = MatchingModel((8,), seed=1)
    rng = np.random.default_rng(1)
    first = train_epochs(model, data, epochs=1, batch_size=16, learning_rate=0.02, rng=rng)
    last = train_epochs(model, data, epochs=40, batch_size=16, learning_rate=0.02, rng=rng)
    assert last < first / 3
    assert np.mean((predict(model, data.inputs) > 0.5) == (outcome == 1)) > 0.95


def test_training_leaves_the_data_as_it_was():
    data = data_of(COUNTS)
    before = (data.inputs.copy(), data.outcome.copy(), data.person.copy())
    trained(data)
    for kept, now in zip(before, (data.inputs, data.outcome, data.person), strict=True):
        assert np.array_equal(kept, now)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=12), st.data())
def test_the_rows_of_some_people_are_all_their_rows_person_by_person(counts, data):
    people = np.array(data.draw(st.permutations(range(len(counts))))[: data.draw(st.integers(1, len(counts)))])
    person = np.repeat(np.arange(len(counts)), counts)
    starts = np.cumsum(counts) - counts
    expected = np.concatenate([np.flatnonzero(person == one) for one in people])
    assert np.array_equal(_rows_of(people, starts, np.array(counts)), expected)


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 200), st.floats(1e-6, 10))
def test_the_learning_rate_falls_from_the_first_to_a_fiftieth_in_the_last_round(rounds, first):
    rates = [learning_rate_of_round(first, number, rounds) for number in range(1, rounds + 1)]
    assert rates[0] == pytest.approx(first)
    assert rates[-1] == pytest.approx(first / 50)
    assert all(later < earlier for earlier, later in itertools.pairwise(rates))
    middle = learning_rate_of_round(first, 1 + (rounds - 1) // 2, rounds)
    progress = ((rounds - 1) // 2) / (rounds - 1)
    assert middle == pytest.approx(first * (0.02 + 0.49 * (1 + math.cos(math.pi * progress))))


def test_a_single_round_is_trained_at_the_full_rate():
    assert learning_rate_of_round(0.015, 1, 1) == 0.015
