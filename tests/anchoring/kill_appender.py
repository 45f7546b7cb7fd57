"""A process that appends to a log until it is killed, and says after each append how far it got.

    kill_appender.py FOLDER SEED

Entry N is `entry_at(N)`, so that whoever killed it knows what must be in the log.
"""

from __future__ import annotations

import hashlib
import random
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def entry_at(index: int) -> bytes:
    """Bytes that depend on the index alone, in number too."""
    return hashlib.sha256(b"entry %d" % index).digest() * (index % 7)


def sign(size: int, root: bytes) -> bytes:
    """A stand-in for a signature: it notices any altered byte."""
    content = size.to_bytes(8, "big") + root
    return content + hashlib.sha256(content).digest()


def read(checkpoint: bytes) -> tuple[int, bytes]:
    from anchoring.errors import CheckpointInvalid

    content = checkpoint[:40]
    if len(checkpoint) != 72 or hashlib.sha256(content).digest() != checkpoint[40:]:
        raise CheckpointInvalid("its digest is another", remedy="do not alter it")
    return int.from_bytes(content[:8], "big"), content[8:]


def main() -> None:
    """Append batches of random sizes for ever."""
    sys.path.insert(0, str(ROOT))
    from anchoring.log_store import LogStore

    dice = random.Random(int(sys.argv[2]))
    store = LogStore.open(Path(sys.argv[1]), read)
    while True:
        count = dice.choice((1, 1, 1, 2, 7, 60, 255, 256, 300, 1500))
        indices = store.append([entry_at(store.size + at) for at in range(count)], sign)
        sys.stdout.write(f"{indices.stop}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
