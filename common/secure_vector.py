"""A reply's contents as the two parts of a vector that secure aggregation sums, and back.

`update` is what training changed in the model's parameters; sites weigh it by their people, and all alike where the
site is the unit of privacy. `sums` holds every metric
of the reply, each of them a sum over people. The order is that of the model's parameters and of the metrics' names, so
both sides know it without being told.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord
from numpy.typing import NDArray

from common import messages as names
from common.errors import RunError
from common.evaluation_sums import EvaluationSums

TRAIN: Final = "train"
TRAIN_PRIVATELY: Final = "train-privately"
TRAIN_SITES_PRIVATELY: Final = "train-sites-privately"
EVALUATE: Final = "evaluate"
UPDATE: Final = "update"
SUMS: Final = "sums"

SUM_BOUND_PER_PERSON: Final = 64.0
"""No metric grows by more than this with one person. A person's mean loss beyond it means that training diverged."""

Metrics = Mapping[str, Any]


def bounds(max_people: int, value_bound: float) -> dict[str, float]:
    """The largest values a site may send: a parameter's change times its people, and a metric's sum over them."""
    return {UPDATE: max_people * value_bound, SUMS: max_people * SUM_BOUND_PER_PERSON}


def kind_of(message_type: str, config: ConfigRecord) -> str:
    """Which vector answers a message of this type with this CONFIG."""
    kind = message_type.partition(".")[0]
    if kind == TRAIN and names.UNIT_KEY in config:
        return TRAIN_SITES_PRIVATELY if config[names.UNIT_KEY] == "site" else TRAIN_PRIVATELY
    return kind


def weight_key(kind: str) -> str:
    """By which metric updates of this kind are weighted."""
    return names.WEIGHT_KEY if kind == TRAIN_SITES_PRIVATELY else names.PEOPLE_KEY


def metrics_template(kind: str) -> dict[str, Any]:
    """The metrics of a reply of this kind, all zero."""
    if kind == TRAIN_PRIVATELY:
        return {names.PEOPLE_KEY: 0}
    if kind == TRAIN_SITES_PRIVATELY:
        return {names.WEIGHT_KEY: 0.0}
    empty = EvaluationSums.empty()
    if kind == TRAIN:
        return {names.PEOPLE_KEY: 0, names.TRAIN_LOSS_KEY: 0.0, **empty.to_record(names.VALIDATION)}
    return {names.PEOPLE_KEY: 0, **empty.to_record(names.VALIDATION), **empty.to_record(names.TEST)}


def flatten_metrics(metrics: Metrics) -> NDArray[np.float64]:
    """All numbers in the order of their names, lists in their own order; shape (total,)."""
    return np.concatenate([np.atleast_1d(np.asarray(metrics[key], dtype=np.float64)) for key in sorted(metrics)])


def unflatten_metrics(flat: NDArray[np.float64], template: Metrics) -> MetricRecord:
    """What `flatten_metrics` flattened; whole numbers in the template stay whole. ValueError: another length."""
    if flat.size != flatten_metrics(template).size:
        raise ValueError(f"{flat.size} numbers are not those of the template")
    result: dict[str, Any] = {}
    start = 0
    for key in sorted(template):
        like = template[key]
        length = len(like) if isinstance(like, list) else 1
        part = flat[start : start + length].tolist()
        result[key] = part if isinstance(like, list) else round(part[0]) if isinstance(like, int) else part[0]
        start += length
    return MetricRecord(result)


def update_of(trained: ArrayRecord, incoming: ArrayRecord) -> NDArray[np.float32]:
    """What training changed, one float32 for each parameter. Raises RunError where the shapes differ."""
    if shapes_digest(trained) != shapes_digest(incoming):
        raise RunError("training changed the model's shape", where="site", remedy="use the same version of DJMS")
    pairs = ((trained[name].numpy(), incoming[name].numpy()) for name in incoming)
    return np.concatenate([np.subtract(new, old, dtype=np.float32).ravel() for new, old in pairs])


def flatten(arrays: ArrayRecord) -> NDArray[np.float64]:
    """All values in their order, float64, shape (parameters,)."""
    return np.concatenate([array.numpy().astype(np.float64).ravel() for array in arrays.values()])


def apply_update(incoming: ArrayRecord, update: NDArray[np.float64]) -> ArrayRecord:
    """The incoming parameters, float32, moved by `update`, shape (parameters,)."""
    result: dict[str, Array] = {}
    start = 0
    for name, array in incoming.items():
        values = array.numpy()
        part = update[start : start + values.size].reshape(values.shape)
        result[name] = Array((values.astype(np.float64) + part).astype(np.float32))
        start += values.size
    return ArrayRecord(result)


def size_of(arrays: ArrayRecord) -> int:
    """How many parameters a model has."""
    return int(sum(array.numpy().size for array in arrays.values()))


def shapes_digest(arrays: ArrayRecord) -> str:
    """SHA-256, hexadecimal, of the parameters' names and shapes in their order."""
    shapes = [[name, list(array.shape)] for name, array in arrays.items()]
    return hashlib.sha256(json.dumps(shapes).encode()).hexdigest()


def topic_of(arrays: ArrayRecord, config: ConfigRecord) -> bytes:
    """SHA-256 of the question a site is asked: the model it gets, to the last bit, and the round's settings."""
    digest = hashlib.sha256(b"djms/v1/topic\x00" + shapes_digest(arrays).encode())
    for array in arrays.values():
        digest.update(np.ascontiguousarray(array.numpy(), dtype="<f4").tobytes())
    digest.update(json.dumps({key: config[key] for key in sorted(config)}, sort_keys=True).encode())
    return digest.digest()
