"""The model outside PyTorch: the same model always has the same bytes, and nothing else is taken for one."""

import dataclasses
import hashlib
import json
import struct
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save

from common.encoding import ENCODING_VERSION, INPUT_SIZE
from common.errors import InputError
from common.model import (
    MatchingModel,
    ModelCard,
    from_array_record,
    load_parameters,
    parameters_of,
    predict,
    read_model,
    sha256_of,
    to_array_record,
    to_bytes,
)

HIDDEN = (5, 3)
CARD = ModelCard(labels="rule", hidden=HIDDEN, synthetic=True)
PARAMETERS = parameters_of(MatchingModel(HIDDEN, seed=42))


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def header_of(content):
    """The JSON header of a safetensors file, by the format's definition."""
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length])


def file_with(path, *, parameters=PARAMETERS, card=CARD, metadata=None):
    """A safetensors file with what it is given, whether or not it makes a model."""
    if metadata is None:
        values = dataclasses.asdict(card) if card is CARD else card
        text = card if isinstance(card, str) else json.dumps(values, separators=(",", ":"), sort_keys=True)
        metadata = {"djms": text}
    path.write_bytes(save({name: np.ascontiguousarray(values) for name, values in parameters.items()}, metadata))
    return path


def refused(path):
    with pytest.raises(InputError) as caught:
        read_model(path)
    return caught.value


def test_a_seed_gives_the_same_parameters_whatever_the_global_generator_did():
    for state in (0, 1, 12345):
        torch.manual_seed(state)
        torch.rand(state % 7)
        assert same(parameters_of(MatchingModel(HIDDEN, seed=42)), PARAMETERS)


def test_a_seed_gives_the_same_parameters_in_threads_at_once():
    def build(seed):
        torch.rand(3)
        return seed, parameters_of(MatchingModel((64, 32), seed=seed))

    alone = {seed: parameters_of(MatchingModel((64, 32), seed=seed)) for seed in (1, 2)}
    with ThreadPoolExecutor(2) as pool:
        for seed, found in pool.map(build, [1, 2] * 20):
            assert same(found, alone[seed])


def test_seeds_give_different_parameters_within_the_usual_bounds():
    model = MatchingModel((200, 100), seed=1)
    other = parameters_of(MatchingModel((200, 100), seed=2))
    width = INPUT_SIZE
    for layer in (part for part in model if isinstance(part, torch.nn.Linear)):
        bound = 1 / np.sqrt(width)
        weight = layer.weight.detach().numpy()
        assert np.abs(weight).max() <= bound
        assert weight.std() == pytest.approx(bound / np.sqrt(3), rel=0.1)
        width = layer.out_features
    assert width == 1
    assert not any(np.array_equal(values, other[name]) for name, values in parameters_of(model).items())


def test_a_model_without_hidden_layers_is_logistic_regression():
    model = MatchingModel((), seed=3)
    inputs = np.random.default_rng(1).random((7, INPUT_SIZE), dtype=np.float32)
    parameters = parameters_of(model)
    logits = inputs.astype(np.float64) @ parameters["0.weight"].T.astype(np.float64) + parameters["0.bias"]
    np.testing.assert_allclose(predict(model, inputs), 1 / (1 + np.exp(-logits[:, 0])), rtol=1e-5)


def test_predictions_are_the_perceptrons_computed_by_hand():
    model = MatchingModel(HIDDEN, seed=4)
    inputs = np.random.default_rng(2).random((9, INPUT_SIZE), dtype=np.float32)
    layers = list(parameters_of(model).values())
    values = inputs.astype(np.float64)
    for number, (weight, bias) in enumerate(zip(layers[::2], layers[1::2], strict=True)):
        values = values @ weight.T.astype(np.float64) + bias
        if number < len(HIDDEN):
            values = np.maximum(values, 0)
    np.testing.assert_allclose(predict(model, inputs), 1 / (1 + np.exp(-values[:, 0])), rtol=1e-5)


@pytest.mark.parametrize("rows_at_once", [1, 2, 7, 49, 50, 51, 10_000])
def test_predicting_in_blocks_equals_predicting_at_once(rows_at_once):
    model = MatchingModel((32, 16), seed=5)
    inputs = np.random.default_rng(3).random((50, INPUT_SIZE), dtype=np.float32)
    found = predict(model, inputs, rows_at_once=rows_at_once)
    assert found.shape == (50,)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, predict(model, inputs), rtol=1e-6, atol=0)


def test_predicting_for_nobody_gives_nothing():
    assert predict(MatchingModel(HIDDEN, seed=1), np.zeros((0, INPUT_SIZE), dtype=np.float32)).shape == (0,)


def test_parameters_are_copies():
    model = MatchingModel(HIDDEN, seed=1)
    taken = parameters_of(model)
    taken["0.weight"][:] = 0
    assert not np.array_equal(parameters_of(model)["0.weight"], taken["0.weight"])
    given_ones = {name: values.copy() for name, values in PARAMETERS.items()}
    load_parameters(model, given_ones)
    given_ones["0.weight"][:] = 7
    assert same(parameters_of(model), PARAMETERS)


def test_the_canonical_bytes_do_not_depend_on_how_the_parameters_lie_in_memory():
    canonical = to_bytes(PARAMETERS, CARD)
    backwards = dict(reversed(PARAMETERS.items()))
    fortran = {name: np.asfortranarray(values) for name, values in PARAMETERS.items()}
    strided = {name: np.repeat(values, 2, axis=0)[::2] for name, values in PARAMETERS.items()}
    wide = {name: values.astype(np.float64) for name, values in PARAMETERS.items()}
    swapped = {name: values.astype(">f4") for name, values in PARAMETERS.items()}
    for form in (PARAMETERS, backwards, fortran, strided, wide, swapped):
        assert to_bytes(form, CARD) == canonical


def test_the_file_is_a_safetensors_file_whose_sha256_is_the_models_identity(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(to_bytes(PARAMETERS, CARD))
    assert same(load_file(path), {name: PARAMETERS[name] for name in load_file(path)})
    assert load_file(path).keys() == PARAMETERS.keys()
    assert hashlib.sha256(path.read_bytes()).hexdigest() == sha256_of(PARAMETERS, CARD)
    model, card = read_model(path)
    assert card == CARD
    assert same(parameters_of(model), PARAMETERS)
    assert sha256_of(parameters_of(model), card) == sha256_of(PARAMETERS, CARD)


def test_the_card_is_the_only_metadata_and_canonical_json():
    header = header_of(to_bytes(PARAMETERS, CARD))
    metadata = header.pop("__metadata__")
    assert metadata == {
        "djms": f'{{"encoding":{ENCODING_VERSION},"hidden":[5,3],"kind":"mlp","labels":"rule","synthetic":true}}'
    }
    assert {entry["dtype"] for entry in header.values()} == {"F32"}


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_flipped_bit_of_a_parameter_changes_the_identity(data):
    name = data.draw(st.sampled_from(sorted(PARAMETERS)))
    position = data.draw(st.integers(0, PARAMETERS[name].size - 1))
    bit = data.draw(st.integers(0, 31))
    flipped = {key: values.copy() for key, values in PARAMETERS.items()}
    flipped[name].reshape(-1).view(np.uint32)[position] ^= np.uint32(1 << bit)
    assert sha256_of(flipped, CARD) != sha256_of(PARAMETERS, CARD)


@pytest.mark.parametrize(
    "change", [{"labels": "outcomes"}, {"hidden": (3, 5)}, {"synthetic": False}, {"encoding": 2}, {"kind": "other"}]
)
def test_any_change_of_the_card_changes_the_identity(change):
    assert sha256_of(PARAMETERS, dataclasses.replace(CARD, **change)) != sha256_of(PARAMETERS, CARD)


def test_the_array_record_brings_back_every_bit_in_order():
    odd = {name: values.copy() for name, values in PARAMETERS.items()}
    odd["0.bias"][:2] = [-0.0, np.float32(1e-45)]
    back = from_array_record(to_array_record(odd))
    assert list(back) == list(odd)
    for name, values in back.items():
        assert values.dtype == np.float32
        assert values.tobytes() == odd[name].tobytes()


def test_parameters_that_arrive_in_another_precision_are_float32_from_there_on():
    record = ArrayRecord({name: Array(values.astype(np.float64)) for name, values in PARAMETERS.items()})
    back = from_array_record(record)
    assert same(back, PARAMETERS)
    assert all(values.dtype == np.float32 for values in back.values())


def damaged_parameters():
    def changed(**others):
        return {**PARAMETERS, **others}

    bias = PARAMETERS["0.bias"]
    yield "another shape", changed(**{"0.bias": bias[:-1]})
    yield "a transposed weight", changed(**{"0.weight": PARAMETERS["0.weight"].T.copy()})
    yield "one more dimension", changed(**{"0.bias": bias[:, None]})
    yield "one parameter missing", {name: values for name, values in PARAMETERS.items() if name != "0.bias"}
    yield "one parameter too many", changed(extra=bias)
    yield "another name", {name.replace("0.", "zero."): values for name, values in PARAMETERS.items()}
    yield "none at all", {}
    for value in (np.nan, np.inf, -np.inf):
        poisoned = bias.copy()
        poisoned[-1] = value
        yield f"a parameter that is {value}", changed(**{"0.bias": poisoned})


DAMAGED = dict(damaged_parameters())


@pytest.mark.parametrize("parameters", DAMAGED.values(), ids=DAMAGED)
def test_parameters_that_do_not_fit_are_refused_and_change_nothing(parameters, tmp_path):
    model = MatchingModel(HIDDEN, seed=9)
    before = parameters_of(model)
    with pytest.raises(InputError):
        load_parameters(model, parameters)
    assert same(parameters_of(model), before)
    refused(file_with(tmp_path / "model.safetensors", parameters=parameters))


def test_a_number_too_large_for_float32_is_not_loaded_as_infinity():
    model = MatchingModel(HIDDEN, seed=9)
    huge = {name: values.astype(np.float64) for name, values in PARAMETERS.items()}
    huge["0.bias"][0] = 1e300
    with np.errstate(over="ignore"), pytest.raises(InputError):
        load_parameters(model, huge)


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 9, 100, -1000, -4, -1])
def test_a_file_that_was_cut_off_is_refused(tmp_path, kept):
    path = tmp_path / "model.safetensors"
    path.write_bytes(to_bytes(PARAMETERS, CARD)[:kept])
    assert "damaged" in refused(path).what


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04zip", b"{}", b"\xff" * 64, b'{"a": 1}' * 50, bytes(4096)])
def test_a_file_of_another_kind_is_refused(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    error = refused(path)
    assert str(path) in error.where


def test_a_model_that_is_not_there_or_is_a_folder_is_refused(tmp_path):
    assert "does not exist" in refused(tmp_path / "nothing").what
    assert "does not exist" in refused(tmp_path).what


def test_a_model_of_another_encoding_is_refused_with_both_versions(tmp_path):
    other = dataclasses.replace(CARD, encoding=ENCODING_VERSION + 1)
    path = tmp_path / "model.safetensors"
    path.write_bytes(to_bytes(PARAMETERS, other))
    error = refused(path)
    assert str(ENCODING_VERSION + 1) in error.what
    assert str(ENCODING_VERSION) in error.what


GOOD_CARD = {"encoding": ENCODING_VERSION, "hidden": [5, 3], "kind": "mlp", "labels": "rule", "synthetic": True}
BAD_CARDS = {
    "not JSON": "{",
    "a list": [],
    "a number": 3,
    "empty": {},
    "one key missing": {name: value for name, value in GOOD_CARD.items() if name != "hidden"},
    "one key too many": {**GOOD_CARD, "extra": 1},
    **{
        f"hidden is {hidden!r}": {**GOOD_CARD, "hidden": hidden}
        for hidden in (
            None,
            5,
            "53",
            ["5", "3"],
            [5.0, 3.0],
            [5.5],
            [-5, 3],
            [0],
            [None],
            [[5], [3]],
            [10**15],
            [2**70],
        )
    },
    "another kind of model": {**GOOD_CARD, "kind": "trees"},
    "encoding is text": {**GOOD_CARD, "encoding": str(ENCODING_VERSION)},
}


@pytest.mark.parametrize("card", BAD_CARDS.values(), ids=BAD_CARDS)
def test_a_card_that_describes_no_model_is_refused(tmp_path, card):
    refused(file_with(tmp_path / "model.safetensors", card=card))


@pytest.mark.parametrize("metadata", [{}, {"other": "x"}, {"djms": ""}, {"djms": "null"}])
def test_a_safetensors_file_without_a_card_is_refused(tmp_path, metadata):
    refused(file_with(tmp_path / "model.safetensors", metadata=metadata))


def test_the_good_card_of_these_tests_is_accepted(tmp_path):
    assert read_model(file_with(tmp_path / "model.safetensors", card=GOOD_CARD))[1] == CARD


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_flipped_bit_of_the_file_gives_another_identity_or_a_refusal_and_never_a_crash(tmp_path_factory, data):
    content = bytearray(to_bytes(PARAMETERS, CARD))
    header = 8 + struct.unpack("<Q", content[:8])[0]
    position = data.draw(st.one_of(st.integers(0, header - 1), st.integers(0, len(content) - 1)))
    content[position] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path_factory.mktemp("flipped") / "model.safetensors"
    path.write_bytes(content)
    try:
        model, card = read_model(path)
    except InputError:
        return
    assert sha256_of(parameters_of(model), card) != sha256_of(PARAMETERS, CARD)
