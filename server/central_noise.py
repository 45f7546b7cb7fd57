"""Noise at the coordinator, for the unit "site" without secure aggregation: the inner strategy gets one noised mean.

    DifferentiallyPrivate(Quorum(CentralNoise(FixedOrder(FedAvg(...)))))

Each site's update is clipped to `privacy.dp.update_norm`, and one discrete Gaussian is added to their sum (McMahan et
al. 2018, "Learning differentially private recurrent language models", with whole numbers in place of floating point).
The coordinator sees each update before that, so the guarantee holds against everybody but the coordinator.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray

from common import messages as names
from common import secure_vector as vector
from privacy.discrete_gaussian import RandomBytes
from privacy.distributed_noise import NoiseShare
from privacy.events import NOISED_BY_COORDINATOR, PrivacyEvent, training_event
from server.exchange import site_of
from server.wrapper import Wrapper

_RESOLUTION: Final = 2.0**24
"""At least so many steps of the grid to the clipping norm."""


class CentralNoise(Wrapper):
    """Gives the inner strategy the noised mean of clipped updates in place of sites' models. Raises RunError."""

    def __init__(
        self, inner: Strategy, *, norm: float, noise_multiplier: float, run: str, random_bytes: RandomBytes = os.urandom
    ) -> None:
        super().__init__(inner)
        steps = 2.0 ** math.ceil(math.log2(_RESOLUTION / norm))
        self._share = NoiseShare(noise_multiplier, norm, steps, shares=1)
        self._run = run
        self._random_bytes = random_bytes
        self._arrays: ArrayRecord | None = None
        self._questions: list[Message] = []
        self._events: list[PrivacyEvent] = []

    @property
    def events(self) -> tuple[PrivacyEvent, ...]:
        """One of each site in each sum, by the noise that was added."""
        return tuple(self._events)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Remember what sites start from, and hand on."""
        self._arrays = arrays
        self._questions = list(self.inner.configure_train(server_round, arrays, config, grid))
        return self._questions

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Clip, add up, add noise; the inner strategy gets it as the answer of one site."""
        if self._arrays is None:
            raise ValueError("replies are aggregated only after a round was configured")
        models = sorted(replies, key=site_of)
        mean = self._noised_sum(self._arrays, models) / len(models)
        self._events += [self._event(site_of(reply), server_round) for reply in models]
        content = RecordDict(
            {
                names.ARRAYS: vector.apply_update(self._arrays, mean),
                names.METRICS: MetricRecord({names.WEIGHT_KEY: float(len(models))}),
                names.SITE: ConfigRecord({names.NAME_KEY: "sum"}),
            }
        )
        return self.inner.aggregate_train(server_round, [Message(content, reply_to=self._questions[0])])

    def _noised_sum(self, arrays: ArrayRecord, replies: Sequence[Message]) -> NDArray[np.float64]:
        total = np.zeros(vector.size_of(arrays), dtype=np.int64)
        for reply in replies:
            update = vector.update_of(reply.content.array_records[names.ARRAYS], arrays)
            total += self._share.on_grid(update.astype(np.float64))
        return self._share.noised(total, self._random_bytes)

    def _event(self, site: str, server_round: int) -> PrivacyEvent:
        return training_event(
            unit="site",
            site=site,
            run=self._run,
            round=server_round,
            noise_multiplier=self._share.executed_multiplier,
            sampling_rate=1.0,
            steps=1,
            purpose=NOISED_BY_COORDINATOR,
        )
