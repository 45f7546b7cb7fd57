"""The matching model, and its two forms outside PyTorch: a Flower `ArrayRecord`, and bytes with one true hash.

The canonical bytes are a safetensors file: float32 tensors under their names, and one metadata entry, the model's card
(what the inputs mean, the shape, where the labels came from) as canonical JSON (RFC 8785). The same parameters and card
always give the same bytes, so `sha256sum model.safetensors` is the model's identity.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import rfc8785
import torch
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, save
from torch import nn

from common.encoding import ENCODING_VERSION, INPUT_SIZE
from common.errors import InputError

_CARD_KEY = "djms"
Parameters = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class ModelCard:
    """What one must know to use the model's numbers.

    `epsilon`, at `delta`, is what training cost one `unit` ("candidate" or "site"), computed from what was executed;
    None where the model was trained without differential privacy, or its training is not over.
    """

    labels: str
    hidden: tuple[int, ...]
    synthetic: bool
    encoding: int = ENCODING_VERSION
    kind: str = "mlp"
    epsilon: float | None = None
    delta: float | None = None
    unit: str | None = None


class MatchingModel(nn.Sequential):
    """Multilayer perceptron with ReLU: inputs of shape (rows, INPUT_SIZE) to one logit per row, shape (rows, 1)."""

    def __init__(self, hidden: Sequence[int], *, seed: int, from_zero: bool = False) -> None:
        """Initialise from `seed` alone: PyTorch's global generator plays no part.

        With `from_zero`, the last layer is zero, so every input gets the logit 0.
        """
        random = torch.Generator().manual_seed(seed)
        layers: list[nn.Module] = []
        width = INPUT_SIZE
        for units in hidden:
            layers += [_linear(width, units, random), nn.ReLU()]
            width = units
        last = _linear(width, 1, random)
        if from_zero:
            for parameter in last.parameters():
                nn.init.zeros_(parameter)
        super().__init__(*layers, last)


def _linear(inputs: int, outputs: int, random: torch.Generator) -> nn.Linear:
    """A layer with PyTorch's usual initialisation: weights and biases uniform within 1 / sqrt(inputs)."""
    layer = nn.Linear(inputs, outputs)
    bound = 1 / math.sqrt(inputs)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -bound, bound, generator=random)
    return layer


def predict(model: nn.Module, inputs: NDArray[np.float32], *, rows_at_once: int = 65_536) -> NDArray[np.float64]:
    """Probabilities of success, shape (rows,)."""
    model.eval()
    parts = []
    with torch.inference_mode():
        for start in range(0, len(inputs), rows_at_once):
            logits = model(torch.from_numpy(inputs[start : start + rows_at_once])).squeeze(1)
            parts.append(torch.sigmoid(logits.double()).numpy())
    return np.concatenate(parts) if parts else np.zeros(0)


def parameters_of(model: nn.Module) -> dict[str, NDArray[np.float32]]:
    """The model's parameters by name, copied."""
    return {name: tensor.detach().numpy().copy() for name, tensor in model.state_dict().items()}


def load_parameters(model: nn.Module, parameters: Parameters) -> None:
    """Put parameters into the model. Raises InputError when names, shapes or finiteness do not fit."""
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    given = {name: tuple(values.shape) for name, values in parameters.items()}
    if expected != given:
        raise InputError(
            f"the parameters' shapes {sorted(given.items())} are not the model's {sorted(expected.items())}",
            where="model",
            remedy="use the same training.hidden and the same version of DJMS at every site",
        )
    tensors = {name: torch.from_numpy(np.array(parameters[name], dtype=np.float32)) for name in expected}
    if not all(bool(values.isfinite().all()) for values in tensors.values()):
        raise InputError(
            "a parameter is not a finite number", where="model", remedy="lower federated.learning_rate and train anew"
        )
    model.load_state_dict(OrderedDict(tensors), strict=True)


def to_array_record(parameters: Parameters) -> ArrayRecord:
    """Parameters as Flower's record, in their order."""
    return ArrayRecord({name: Array(np.asarray(values, dtype=np.float32)) for name, values in parameters.items()})


def from_array_record(record: ArrayRecord) -> dict[str, NDArray[np.float32]]:
    """Parameters from Flower's record; whatever precision they came in, they are float32 from here on."""
    return {name: array.numpy().astype(np.float32) for name, array in record.items()}


def to_bytes(parameters: Parameters, card: ModelCard) -> bytes:
    """The canonical bytes."""
    metadata = {_CARD_KEY: rfc8785.dumps(_jsonable(card)).decode()}
    ordered = {name: np.ascontiguousarray(parameters[name], dtype=np.float32) for name in sorted(parameters)}
    return save(ordered, metadata=metadata)


def sha256_of(parameters: Parameters, card: ModelCard) -> str:
    """The model's identity: SHA-256 of its canonical bytes, in hexadecimal."""
    return hashlib.sha256(to_bytes(parameters, card)).hexdigest()


def read_model(path: Path) -> tuple[MatchingModel, ModelCard]:
    """The model and its card from a file of canonical bytes.

    Raises InputError when the file is missing, damaged, or was made for another encoding.
    """
    if not path.is_file():
        raise InputError("the model file does not exist", where=path, remedy="train one with `djms demo`")
    try:
        with safe_open(path, framework="numpy") as file:
            card = json.loads((file.metadata() or {})[_CARD_KEY])
        parameters = load(path.read_bytes())
        parsed = ModelCard(**{**card, "hidden": tuple(card["hidden"])})
        if parsed.kind != ModelCard.kind or not all(type(units) is int and units > 0 for units in parsed.hidden):
            raise ValueError
    except (SafetensorError, KeyError, TypeError, ValueError):
        raise InputError("this is not a model of DJMS, or it is damaged", where=path, remedy="fetch it anew") from None
    if parsed.encoding != ENCODING_VERSION:
        raise InputError(
            f"the model was trained with encoding {parsed.encoding}, this version of DJMS has {ENCODING_VERSION}",
            where=path,
            remedy="use the version of DJMS that trained it, or train anew",
        )
    widths = (INPUT_SIZE, *parsed.hidden, 1)
    if sum(values.size for values in parameters.values()) != sum((a + 1) * b for a, b in pairwise(widths)):
        raise InputError("the file's parameters are not those its card speaks of", where=path, remedy="fetch it anew")
    if to_bytes(parameters, parsed) != path.read_bytes():
        raise InputError(
            "the file is not in the canonical form, so its hash is not the model's",
            where=path,
            remedy="fetch it anew",
        )
    model = MatchingModel(parsed.hidden, seed=0)
    load_parameters(model, parameters)
    return model, parsed


def _jsonable(card: ModelCard) -> dict[str, Any]:
    known = {name: value for name, value in asdict(card).items() if value is not None}
    return {**known, "hidden": list(card.hidden)}
