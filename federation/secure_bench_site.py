"""Sites of the benchmark: secure aggregation as at any site, around training that only makes numbers up.

What a site "learns" are small whole numbers, which the encoding carries without rounding: so the sum under masks must
be the plain sum to the last bit, and `plain_mean` says what it is.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

from client.keys import SiteFile, SiteKeys
from client.secure_aggregation import SecureSite
from common import messages as names
from common import secure_vector as vector
from common.errors import RunError
from common.evaluation_sums import EvaluationSums
from privacy.roster import Identity, Roster
from privacy.secure_aggregation.terms import Limits

ROSTER_FILE = "roster.json"
_LARGEST = 100
"""No made-up number is beyond this; times the most people of a site it stays within the default bounds."""


def site_names(sites: int) -> tuple[str, ...]:
    """The names of so many sites, in order; site i is at partition i."""
    return tuple(f"site-{number:04}" for number in range(sites))


def make_sites(sites: int, folder: Path) -> Roster:
    """Write every site's identity and the roster that lists them into `folder`; returns the roster."""
    identities = [Identity.generate(name) for name in site_names(sites)]
    for identity in identities:
        (folder / f"{identity.name}.pem").write_bytes(identity.to_pem())
    roster = Roster("benchmark", {identity.name: identity.public_key for identity in identities})
    (folder / ROSTER_FILE).write_text(roster.to_json(), encoding="utf-8")
    return roster


def people_of(site: int) -> int:
    """By how many people a site's numbers are weighed."""
    return 1 + site % 50


def numbers_of(site: int, length: int) -> NDArray[np.float32]:
    """What a site learns, shape (length,)."""
    return np.random.default_rng(site).integers(-_LARGEST, _LARGEST + 1, length).astype(np.float32)


def plain_mean(sites: Iterable[int], length: int) -> NDArray[np.float32]:
    """The mean over these sites, each weighed by its people, without any protection; shape (length,)."""
    total, people = np.zeros(length), 0
    for site in sites:
        total += people_of(site) * numbers_of(site, length).astype(np.float64)
        people += people_of(site)
    return (total / people).astype(np.float32)


class SyntheticSites(ClientApp):
    """The ClientApp of all sites whose identities `make_sites` wrote; the first `dropouts` of them fail in training.

    Pickled as what it is made from, since Flower's simulation sends it along with every message.
    """

    def __init__(self, folder: str, limits: Limits, dropouts: int) -> None:
        super().__init__()
        self._made_from = pickle.dumps((folder, limits, dropouts))
        secure = SecureSite(lambda context: _keys(folder, _name_of(context), limits), _name_of)
        secure.register(self)
        self.train(mods=[secure.mod])(_answer(lambda message, site: _trained(message, site, dropouts)))
        self.evaluate(mods=[secure.mod])(_answer(lambda _message, site: _metrics_only(site)))

    def __reduce__(self) -> tuple[Any, ...]:
        """See the class."""
        return _once, (self._made_from,)


@lru_cache(maxsize=1)
def _once(made_from: bytes) -> SyntheticSites:
    return SyntheticSites(*pickle.loads(made_from))


def _site_of(context: Context) -> int:
    return int(context.node_config["partition-id"])


def _name_of(context: Context) -> str:
    return f"site-{_site_of(context):04}"


def _keys(folder: str, name: str, limits: Limits) -> SiteKeys:
    identity = Identity.from_pem(name, (Path(folder) / f"{name}.pem").read_bytes())
    return SiteKeys(identity, _roster(folder), limits, SiteFile(name=identity.name))


@lru_cache(maxsize=1)
def _roster(folder: str) -> Roster:
    """Read once per process, as a site's own process would."""
    return Roster.from_json((Path(folder) / ROSTER_FILE).read_text(encoding="utf-8"))


def _answer(content_of: Callable[[Message, int], RecordDict]) -> Callable[[Message, Context], Message]:
    def handle(message: Message, context: Context) -> Message:
        content = content_of(message, _site_of(context))
        content[names.SITE] = ConfigRecord({names.NAME_KEY: _name_of(context)})
        return Message(content, reply_to=message)

    return handle


def _trained(message: Message, site: int, dropouts: int) -> RecordDict:
    if site < dropouts:
        raise RunError("the site drops out, as the benchmark wants it to", where="site", remedy="nothing is wrong")
    incoming = message.content.array_records[names.ARRAYS]
    learned = numbers_of(site, vector.size_of(incoming))
    arrays: dict[str, Array] = {}
    start = 0
    for name, array in incoming.items():
        values = array.numpy()
        arrays[name] = Array(values + learned[start : start + values.size].reshape(values.shape))
        start += values.size
    sums = {names.PEOPLE_KEY: people_of(site), names.TRAIN_LOSS_KEY: 1.0, **_evaluation(names.VALIDATION)}
    return RecordDict({names.ARRAYS: ArrayRecord(arrays), names.METRICS: MetricRecord(cast(dict[str, Any], sums))})


def _metrics_only(site: int) -> RecordDict:
    sums = {names.PEOPLE_KEY: people_of(site), **_evaluation(names.VALIDATION), **_evaluation(names.TEST)}
    return RecordDict({names.METRICS: MetricRecord(cast(dict[str, Any], sums))})


def _evaluation(prefix: str) -> dict[str, float | list[float]]:
    outcome, score, person = np.array([0, 1]), np.array([0.25, 0.75]), np.array([0, 0])
    return EvaluationSums.from_scores(outcome, score, person).to_record(prefix)
