"""Noise of the coordinator that is the same whenever a run is executed anew from the same answers, and else never.

    Quorum(BoundNoise(CentralNoise(...), source))

A run that is taken up anew from its start must come to the same models. Its noise is therefore expanded from a secret
of the run together with the round and everything that it is added to, as signatures are made without chance in RFC
6979: HMAC-SHA256 gives the key, AES-256 in counter mode the bytes. The same answers give the same noise, so nothing new
is released; one bit of another answer gives noise that has nothing to do with it, so no two models share their noise
and give away their difference.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from common import messages as names
from server.exchange import site_of
from server.wrapper import Wrapper


class NoiseSource:
    """Bytes that nobody without the secret can foresee, once they are bound to what they are for; for one thread."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._stream = self._stream_of(b"")
        self._is_bound = False

    def __repr__(self) -> str:
        """No secret."""
        return "NoiseSource()"

    def bind(self, content: bytes) -> None:
        """From here on the bytes are those of this content, from their beginning."""
        self._stream = self._stream_of(content)
        self._is_bound = True

    def __call__(self, size: int) -> bytes:
        """The next bytes. Raises ValueError before the first content."""
        if not self._is_bound:
            raise ValueError("noise is drawn only for a content")
        return self._stream.update(bytes(size))

    def _stream_of(self, content: bytes) -> CipherContext:
        key = hmac.digest(self._secret, b"djms/v1/noise\x00" + content, "sha256")
        return Cipher(AES(key), CTR(bytes(16))).encryptor()


class BoundNoise(Wrapper):
    """Binds the noise that the inner strategy draws to the round, the model sites got, and what they made of it."""

    def __init__(self, inner: Strategy, source: NoiseSource) -> None:
        super().__init__(inner)
        self._source = source
        self._arrays: ArrayRecord | None = None

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Remember what sites start from, and hand on."""
        self._arrays = arrays
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Bind, then hand on."""
        if self._arrays is None:
            raise ValueError("replies are aggregated only after a round was configured")
        received = list(replies)
        digest = hashlib.sha256(server_round.to_bytes(8))
        digest.update(_digest_of("", self._arrays))
        for reply in sorted(received, key=site_of):
            digest.update(_digest_of(site_of(reply), reply.content.array_records[names.ARRAYS]))
        self._source.bind(digest.digest())
        return super().aggregate_train(server_round, received)


def _digest_of(name: str, arrays: ArrayRecord) -> bytes:
    """Of a name and every parameter, each hashed before, so that none runs into the next."""
    digest = hashlib.sha256(hashlib.sha256(name.encode()).digest())
    for key, array in arrays.items():
        values = array.numpy()
        digest.update(hashlib.sha256(f"{key} {values.dtype.str} {values.shape}".encode()).digest())
        digest.update(hashlib.sha256(values.tobytes()).digest())
    return digest.digest()
