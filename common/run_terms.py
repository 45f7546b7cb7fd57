"""What travels as the configuration of a Flower run: which run it is, which version starts it, who belongs.

    run        the run's name
    djms       the coordinator's version of DJMS
    protocol   its `PROTOCOL_VERSION`
    edition    the federation's newest signed edition, so that a site that was added, rotated or revoked is known to all

Everything else about a run stays on the coordinator's disk, or comes with the messages.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from common.errors import RunError
from common.membership import djms_version
from common.messages import PROTOCOL_VERSION

_LONGEST_VERSION = 64


class VersionRefused(RunError):
    """The coordinator's version and this one do not understand each other."""


@dataclass(frozen=True)
class RunTerms:
    """The configuration of one run."""

    run: str
    djms: str
    protocol: int
    edition: str

    @classmethod
    def of(cls, run: str, edition: str) -> RunTerms:
        """For a run that this version starts."""
        return cls(run, djms_version(), PROTOCOL_VERSION, edition)

    def to_config(self) -> dict[str, str | int]:
        """As Flower takes it."""
        return {"run": self.run, "djms": self.djms, "protocol": self.protocol, "edition": self.edition}

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> RunTerms:
        """Read it; what is missing or of another kind reads as empty, and `require_version` refuses it."""

        def text(key: str) -> str:
            value = config.get(key)
            return value if isinstance(value, str) else ""

        protocol = config.get("protocol")
        return cls(text("run"), text("djms"), protocol if type(protocol) is int else 0, text("edition"))

    def require_version(self) -> None:
        """Raise VersionRefused, naming both versions, unless both sides speak alike."""
        if self.protocol != PROTOCOL_VERSION:
            theirs = "".join(one for one in self.djms if one.isprintable())[:_LONGEST_VERSION] or "of another kind"
            raise VersionRefused(
                f"the coordinator has DJMS {theirs} (protocol {self.protocol}), and this site has DJMS "
                f"{djms_version()} (protocol {PROTOCOL_VERSION})",
                where="site",
                remedy="install one version on both",
            )
