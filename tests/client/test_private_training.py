"""DP-SGD per person: what a person can change, what noise enters, and that missing noise is noticed."""

import copy
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus import GradSampleModule
from scipy import stats

from client import private_noise, private_training
from client.private_noise import PoissonSampler, PrivateOptimiser, standard_normal, uniform
from client.private_training import CENTRE, _People, train_privately
from common.encoding import INPUT_NAMES, INPUT_SIZE
from common.errors import InputError, RunError
from common.model import MatchingModel, parameters_of, predict
from common.pair_data import PairData
from privacy.chi_square import chi_square_bounds

COUNTS = [1, 4, 2, 7, 3, 1, 5, 2]
SHAPES = [(), (6,), (5, 4)]
NOBODY = 1e-12  # a sampling rate at which nobody is ever drawn


@pytest.fixture(autouse=True)
def _one_thread():
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


def seeded(seed):
    """A foreseeable source of bytes, which only a test may use."""
    return np.random.default_rng(seed).bytes


def run(data, *, hidden=(), model=None, **changes):
    """Parameters before, after, and what was executed."""
    model = MatchingModel(hidden, seed=1) if model is None else model
    before = parameters_of(model)
    arguments = {
        "steps": 3,
        "sampling_rate": 1.0,
        "learning_rate": 0.1,
        "max_grad_norm": 1.0,
        "noise_multiplier": 1.0,
        "random_bytes": seeded(5),
    }
    executed = train_privately(model, data, **(arguments | changes))
    return before, parameters_of(model), executed


def flat(parameters):
    return np.concatenate([np.asarray(values, dtype=np.float64).ravel() for values in parameters.values()])


def own_gradients(model, data):
    """The oracle: each person's gradient of the mean loss over their pairs, one plain backward pass per person.

    `model` takes inputs less CENTRE, as the model in training does.
    """
    data = PairData(data.inputs - CENTRE.astype(np.float32), data.outcome, data.person, None)
    rows = []
    for person in range(data.people):
        mine = data.person == person
        logits = model(torch.from_numpy(data.inputs[mine])).squeeze(1)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(data.outcome[mine]))
        rows.append(torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(model.parameters()))]))
    return torch.stack(rows).double().numpy()


def clipped(gradients, norm):
    length = np.linalg.norm(gradients, axis=1, keepdims=True)
    return gradients * np.minimum(1.0, norm / length)


def clipped_sum(model, data, people, norm):
    """The sum that noise is added to, from the code under test."""
    wrapped = GradSampleModule(copy.deepcopy(model).train(), loss_reduction="sum")
    sgd = torch.optim.SGD(wrapped.parameters(), lr=1.0)
    optimiser = PrivateOptimiser(
        sgd, noise_multiplier=1.0, max_grad_norm=norm, expected_batch_size=1.0, random_bytes=seeded(1)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _People(wrapped, data).backward(np.asarray(people, dtype=np.int64))
    optimiser.clip_and_accumulate()
    return np.concatenate([p.summed_grad.flatten().double().numpy() for p in optimiser.params])


# --- one sample is one person ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", SHAPES)
def test_a_sample_is_the_gradient_of_one_persons_mean_loss(hidden):
    data = data_of(COUNTS)
    model = MatchingModel(hidden, seed=1)
    wrapped = GradSampleModule(copy.deepcopy(model), loss_reduction="sum")
    order = np.array([3, 0, 7, 5, 1])
    loss = _People(wrapped, data).backward(order)
    samples = torch.cat([p.grad_sample.flatten(1) for p in wrapped.parameters()], dim=1).numpy()
    np.testing.assert_allclose(samples, own_gradients(model, data)[order], atol=1e-6)
    losses = []
    for person in order:
        mine = data.person == person
        logits = model(torch.from_numpy(data.inputs[mine] - CENTRE.astype(np.float32))).squeeze(1).detach()
        truth = torch.from_numpy(data.outcome[mine])
        losses.append(float(torch.nn.functional.binary_cross_entropy_with_logits(logits, truth)))
    assert loss == pytest.approx(sum(losses), rel=1e-5)


@pytest.mark.parametrize("hidden", SHAPES)
@pytest.mark.parametrize("norm", [1e-3, 0.5, 1e3])
def test_the_sum_is_of_gradients_clipped_person_by_person(hidden, norm):
    data = data_of(COUNTS)
    model = MatchingModel(hidden, seed=1)
    expected = clipped(own_gradients(model, data), norm).sum(axis=0)
    np.testing.assert_allclose(clipped_sum(model, data, range(len(COUNTS)), norm), expected, atol=1e-5 * min(norm, 1))


def test_a_step_is_the_noised_sum_over_the_expected_number_of_people():
    data, rate, norm = data_of(COUNTS * 5), 0.3, 0.4
    before, after, _ = run(data, steps=1, sampling_rate=rate, learning_rate=0.7, max_grad_norm=norm)
    source = seeded(5)
    drawn = np.flatnonzero(uniform(data.people, source) < rate)
    assert 0 < len(drawn) != rate * data.people
    noise = np.concatenate([standard_normal(INPUT_SIZE, source), standard_normal(1, source)]) * norm
    centred = MatchingModel((), seed=1)
    with torch.no_grad():
        centred[0].bias += float(before["0.weight"][0] @ CENTRE)
    total = clipped(own_gradients(centred, data), norm)[drawn].sum(axis=0) + noise
    moved = -0.7 * total / (rate * data.people)
    moved[-1] -= moved[:-1] @ CENTRE  # the bias takes back what was taken off the inputs
    np.testing.assert_allclose(flat(after) - flat(before), moved, atol=1e-6)


@pytest.mark.parametrize("hidden", SHAPES)
def test_taking_a_centre_off_the_inputs_leaves_the_model_the_same_function(hidden):
    data = data_of(COUNTS)
    model = MatchingModel(hidden, seed=1)
    shifted = copy.deepcopy(model)
    private_training._shift(shifted, CENTRE)
    off = PairData(data.inputs - CENTRE.astype(np.float32), data.outcome, data.person, None)
    np.testing.assert_allclose(predict(shifted, off.inputs), predict(model, data.inputs), atol=1e-6)
    private_training._shift(shifted, -CENTRE)
    np.testing.assert_allclose(flat(parameters_of(shifted)), flat(parameters_of(model)), atol=1e-6)


def test_the_centre_holds_nobodys_statistics():
    assert len(CENTRE) == INPUT_SIZE
    assert set(CENTRE.tolist()) == {0.0, 0.5}


def test_a_person_with_fifty_pairs_weighs_as_much_as_one_with_a_single_pair():
    """Fifty records of the same pair count as that one pair; the other people are padded and do not notice."""
    data = data_of([1, 3, 1])
    often = PairData(
        np.concatenate([np.repeat(data.inputs[:1], 50, axis=0), data.inputs[1:]]),
        np.concatenate([np.repeat(data.outcome[:1], 50), data.outcome[1:]]),
        np.concatenate([np.zeros(50, dtype=np.int64), data.person[1:]]),
        None,
    )
    model = MatchingModel((6,), seed=1)
    for norm in (0.01, 100.0):
        once = clipped_sum(model, data, [0, 1, 2], norm)
        np.testing.assert_allclose(clipped_sum(model, often, [0, 1, 2], norm), once, atol=1e-6)
    alone = np.linalg.norm(clipped_sum(model, data_of([50]), [0], 0.01))
    assert alone == pytest.approx(np.linalg.norm(clipped_sum(model, data_of([1]), [0], 0.01)), rel=1e-3)


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 60), min_size=1, max_size=9),
    norm=st.floats(1e-3, 100),
    scale=st.floats(0.1, 1e30),
    hidden=st.sampled_from(SHAPES),
    seed=st.integers(0, 99),
)
def test_adding_a_person_moves_the_sum_by_no_more_than_the_clipping_norm(counts, norm, scale, hidden, seed):
    """Whatever the parameters are, also those nobody would send in good faith."""
    data = data_of(counts, seed=seed)
    model = MatchingModel(hidden, seed=seed)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(scale)
    people = np.arange(data.people)
    without = clipped_sum(model, data, people[:-1], norm)
    with_them = clipped_sum(model, data, people, norm)
    rounding = 1e-6 * norm * data.people
    assert np.linalg.norm(with_them - without) <= norm + rounding
    assert np.isfinite(with_them).all()


def test_a_person_whose_gradient_overflows_counts_as_zero_and_spoils_nobody_elses():
    """Parameters made so that one person's activations overflow: not even that may show in the sum."""
    data = data_of([2, 2, 2])
    unknown = [number for number, name in enumerate(INPUT_NAMES) if "[unknown]" in name][:2]
    data.inputs[:, unknown] = 0
    data.inputs[2:4, unknown] = 1  # person 1, and nobody else, has these two
    model = MatchingModel((6,), seed=1)
    with torch.no_grad():
        model[0].weight[:, unknown] = 3e38
        model[2].weight[0, ::2] = 0.0
    assert not np.isfinite(own_gradients(model, data)[1]).all()
    found = clipped_sum(model, data, [0, 1, 2], 0.5)
    np.testing.assert_allclose(found, clipped_sum(model, data, [0, 2], 0.5), atol=1e-6)
    _, after, executed = run(data, model=model, max_grad_norm=0.5)
    assert np.isfinite(flat(after)).all()
    assert executed.steps_taken == 3


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 100), st.integers(1, 7), st.data())
def test_portions_are_all_people_once_and_fit_into_memory(counts, rows, most, draw):
    drawn = np.array(sorted(draw.draw(st.sets(st.sampled_from(range(len(counts)))))), dtype=np.int64)
    people = _People.__new__(_People)
    people._counts = np.array(counts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(private_training, "_ROWS_AT_ONCE", rows)
        patch.setattr(private_training, "_PEOPLE_AT_ONCE", most)
        portions = people.portions(drawn)
    assert sorted(np.concatenate(portions).tolist()) == drawn.tolist()
    for portion in portions:
        padded = len(portion) * max((counts[person] for person in portion), default=0)
        assert len(portion) <= most
        assert padded <= rows or len(portion) == 1


def test_the_size_of_portions_changes_nothing(monkeypatch):
    data = data_of(COUNTS * 4)
    _, whole, one = run(data, hidden=(6,), momentum=0.9, sampling_rate=0.5)
    monkeypatch.setattr(private_training, "_ROWS_AT_ONCE", 8)
    _, cut, two = run(data, hidden=(6,), momentum=0.9, sampling_rate=0.5)
    np.testing.assert_allclose(flat(cut), flat(whole), atol=1e-6)
    assert two.loss == pytest.approx(one.loss, rel=1e-5)


# --- who is drawn ---------------------------------------------------------------------------------------------------


def test_sampling_is_poisson_over_people():
    """Each person's own coin: right frequency, right spread of batch sizes, and no two people go together."""
    people, rate, draws = 40, 0.3, 6000
    sampler = PoissonSampler(people, rate, seeded(3))
    drawn = np.zeros((draws, people))
    for row in drawn:
        row[sampler.draw()] = 1
    assert sampler.drawn == drawn.sum()
    deviation = math.sqrt(rate * (1 - rate) / draws)
    assert np.abs(drawn.mean(axis=0) - rate).max() < 5 * deviation
    expected = people * rate * (1 - rate)  # a batch of fixed size would have none
    assert drawn.sum(axis=1).var() == pytest.approx(expected, rel=0.1)
    together = np.corrcoef(drawn.T)[np.triu_indices(people, 1)]
    assert np.abs(together).max() < 6 / math.sqrt(draws)
    following = [np.corrcoef(drawn[:-1, person], drawn[1:, person])[0, 1] for person in range(people)]
    assert np.abs(following).max() < 6 / math.sqrt(draws)


def test_at_a_rate_of_one_everybody_is_drawn():
    assert np.array_equal(PoissonSampler(50, 1.0, seeded(1)).draw(), np.arange(50))


def test_a_person_is_drawn_with_all_their_pairs_whatever_their_number():
    data = data_of([1, 50] * 30)
    sampler = PoissonSampler(data.people, 0.5, seeded(2))
    drawn = np.concatenate([sampler.draw() for _ in range(400)])
    few, many = np.sum(drawn % 2 == 0), np.sum(drawn % 2 == 1)
    assert abs(int(few) - int(many)) < 5 * math.sqrt(len(drawn))


# --- the noise ------------------------------------------------------------------------------------------------------


def test_the_noise_has_the_promised_size_also_when_nobody_is_drawn():
    """Nobody drawn: what moves the model is noise alone, noise_multiplier * max_grad_norm over the expected batch."""
    data, steps, multiplier, norm = data_of([2] * 10), 40, 3.0, 0.2
    before, after, executed = run(
        data, hidden=(6,), steps=steps, sampling_rate=NOBODY, learning_rate=1.0 * NOBODY,
        max_grad_norm=norm, noise_multiplier=multiplier,
    )  # fmt: skip
    with_centre = {name: after[name].astype(np.float64) - before[name] for name in after}
    with_centre["0.bias"] += with_centre["0.weight"] @ CENTRE
    moved = flat(with_centre) * data.people
    energy = np.sum((moved / (multiplier * norm)) ** 2) / steps
    low, high = stats.chi2.interval(1 - 1e-6, moved.size)
    assert low < energy < high
    assert executed.loss is None
    assert executed.steps_taken == steps


def test_noise_is_normal_out_to_its_tails():
    drawn = standard_normal(200_000, seeded(4))
    assert stats.kstest(drawn, "norm").pvalue > 1e-4
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 0.015
    assert standard_normal(1, lambda size: b"\0" * size)[0] == pytest.approx(stats.norm.ppf(2.0**-53))
    assert standard_normal(1, lambda size: b"\xff" * size)[0] == pytest.approx(stats.norm.isf(2.0**-53))


def test_uniform_numbers_lie_strictly_between_0_and_1():
    assert uniform(3, lambda size: b"\0" * size).min() > 0
    assert uniform(3, lambda size: b"\xff" * size).max() < 1


def test_cryptographic_randomness_is_not_reproducible_and_a_tests_is():
    data = data_of(COUNTS)
    one, two = (run(data, random_bytes=seeded(8))[1] for _ in range(2))
    assert np.array_equal(flat(one), flat(two))
    torch.manual_seed(1)
    np.random.seed(1)
    state = torch.get_rng_state()
    model, again = MatchingModel((), seed=1), MatchingModel((), seed=1)
    arguments = {"steps": 1, "sampling_rate": 0.5, "learning_rate": 0.1, "max_grad_norm": 1.0, "noise_multiplier": 1.0}
    train_privately(model, data, **arguments)
    torch.manual_seed(1)
    np.random.seed(1)
    train_privately(again, data, **arguments)
    assert not np.array_equal(flat(parameters_of(model)), flat(parameters_of(again)))
    assert torch.equal(torch.get_rng_state(), state)


def test_why_noise_does_not_come_from_a_torch_generator():
    """It forgets all but 32 bits of its seed. Should this fail one day, the reason in the module has gone."""
    one, two = (torch.Generator().manual_seed(seed) for seed in (5, 5 + 2**32))
    assert torch.equal(torch.rand(100, generator=one), torch.rand(100, generator=two))


# --- what was executed ----------------------------------------------------------------------------------------------


def test_what_was_executed_is_returned():
    _, _, executed = run(
        data_of(COUNTS), steps=7, sampling_rate=0.4, noise_multiplier=2.5, max_grad_norm=0.3, momentum=0.5
    )
    assert (executed.steps_taken, executed.sampling_rate) == (7, 0.4)
    assert (executed.noise_multiplier, executed.max_grad_norm) == (2.5, 0.3)
    assert executed.loss > 0


def add_nothing(self):
    """A build whose noise call is skipped."""


def only_the_sum(self):
    for p in self.params:
        p.grad = p.summed_grad.view_as(p).clone()


def scaled(factor):
    def add(self):
        for p in self.params:
            noise = standard_normal(p.numel(), seeded(np.random.default_rng().integers(2**32)))
            noise *= self.noise_multiplier * self.max_grad_norm * factor
            p.grad = (p.summed_grad.double() + torch.from_numpy(noise).view_as(p)).to(p.dtype)

    return add


def the_same_every_time(self):
    source = seeded(1)
    for p in self.params:
        noise = standard_normal(p.numel(), source) * self.noise_multiplier * self.max_grad_norm
        p.grad = (p.summed_grad.double() + torch.from_numpy(noise).view_as(p)).to(p.dtype)


def in_the_first_tensor_only(self):
    for number, p in enumerate(self.params):
        p.grad = p.summed_grad.view_as(p).clone()
        if number == 0:
            noise = standard_normal(p.numel(), seeded(np.random.default_rng().integers(2**32)))
            p.grad += torch.from_numpy(noise).view_as(p) * self.noise_multiplier * self.max_grad_norm


def in_every_step_but_the_fifth(self):
    self.calls = getattr(self, "calls", 0) + 1
    (only_the_sum if self.calls == 5 else scaled(1.0))(self)


@pytest.mark.parametrize(
    ("add", "steps"),
    [
        (add_nothing, 1),
        (only_the_sum, 1),
        (scaled(0.001), 1),
        (scaled(0.1), 1),
        (scaled(3.0), 1),
        (scaled(0.8), 40),
        (the_same_every_time, 12),
        (in_the_first_tensor_only, 20),
        (in_every_step_but_the_fifth, 20),
    ],
)
@pytest.mark.parametrize("hidden", [(), (6,)])
def test_noise_that_is_not_as_promised_ends_the_training_and_leaves_the_model(monkeypatch, add, steps, hidden):
    monkeypatch.setattr(PrivateOptimiser, "add_noise", add)
    model = MatchingModel(hidden, seed=1)
    before = flat(parameters_of(model))
    with pytest.raises(RunError, match="promised") as raised:
        run(data_of(COUNTS), model=model, steps=steps, noise_multiplier=5.0)
    assert "not released" in str(raised.value)
    assert np.array_equal(flat(parameters_of(model)), before)
    assert not any(hasattr(p, "grad_sample") for p in model.parameters())


@pytest.mark.parametrize("name", ["noise_multiplier", "max_grad_norm", "expected_batch_size"])
def test_an_optimiser_that_was_set_otherwise_than_asked_is_noticed(monkeypatch, name):
    made = PrivateOptimiser.__init__

    def make(self, *arguments, **named):
        made(self, *arguments, **named)
        setattr(self, name, getattr(self, name) * 1.5)

    monkeypatch.setattr(PrivateOptimiser, "__init__", make)
    with pytest.raises(RunError, match="asked for"):
        run(data_of(COUNTS))


def test_a_skipped_step_is_noticed(monkeypatch):
    monkeypatch.setattr(PrivateOptimiser, "pre_step", lambda self, closure=None: True)
    with pytest.raises(RunError, match="3 steps were asked for and 0"):
        run(data_of(COUNTS))


@pytest.mark.parametrize("factor", [0.5, 1.5])
def test_people_drawn_at_another_rate_are_noticed(monkeypatch, factor):
    def draw(self):
        chosen = np.flatnonzero(uniform(self.people, seeded(np.random.default_rng().integers(2**32))) < 0.5 * factor)
        self.drawn += len(chosen)
        return chosen

    monkeypatch.setattr(PoissonSampler, "draw", draw)
    with pytest.raises(RunError, match="sampling rate"):
        run(data_of([1] * 100), steps=20, sampling_rate=0.5)


@pytest.mark.parametrize("freedom", [1, 2, 79, 1265, 100_000])
def test_chi_square_bounds_are_scipys(freedom):
    low, high = chi_square_bounds(freedom, 1e-14)
    assert low == pytest.approx(stats.chi2.ppf(5e-15, freedom), rel=1e-6)
    assert high == pytest.approx(stats.chi2.isf(5e-15, freedom), rel=1e-6)


def test_honest_noise_is_refused_no_more_often_than_stated(monkeypatch):
    """With a false-alarm probability of a fifth instead of 1e-12, some of 200 honest trainings are refused: the check
    can fail, and at most as often as it says (an upper bound: Bonferroni's)."""
    monkeypatch.setattr(private_noise, "FALSE_ALARM", 0.2)
    data = data_of([1] * 20)
    refused = 0
    for seed in range(200):
        try:
            run(data, steps=4, sampling_rate=0.5, random_bytes=seeded(seed))
        except RunError:
            refused += 1
    assert 0 < refused <= stats.binom.isf(1e-6, 200, 0.2)


# --- the way through ------------------------------------------------------------------------------------------------


def test_training_teaches_what_there_is_to_learn_and_leaves_the_data():
    data = data_of([3] * 400)
    outcome = (data.inputs[:, 0] > 0.5).astype(np.float32)
    data = PairData(data.inputs, outcome, data.person, None)
    kept = data.inputs.copy()
    model = MatchingModel((), seed=1)
    arguments = {"learning_rate": 1.0, "noise_multiplier": 2.0, "momentum": 0.9}
    first = run(data, model=model, steps=1, **arguments)[2]
    last = run(data, model=model, steps=60, **arguments)[2]
    assert last.loss < first.loss - 0.1
    assert np.array_equal(data.inputs, kept)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0),
        ("sampling_rate", 0.0),
        ("sampling_rate", 1.1),
        ("sampling_rate", math.nan),
        ("learning_rate", 0.0),
        ("max_grad_norm", 0.0),
        ("max_grad_norm", math.inf),
        ("noise_multiplier", 0.0),
        ("noise_multiplier", -1.0),
        ("noise_multiplier", math.nan),
        ("momentum", 1.0),
    ],
)
def test_what_gives_no_privacy_or_no_training_is_refused(name, value):
    with pytest.raises(InputError):
        run(data_of(COUNTS), **{name: value})


def test_nobody_to_train_on_is_refused():
    nobody = PairData(np.zeros((0, INPUT_SIZE), np.float32), np.zeros(0, np.float32), np.zeros(0, dtype=np.int64), None)
    with pytest.raises(InputError, match="nobody"):
        run(nobody)
