"""Why a party of the protocol refuses. Each refusal has a class of its own, and its name travels to the coordinator.

A refusal reveals nothing: it is raised before anything secret is computed or sent.
"""

from __future__ import annotations

from common.errors import RunError


class ProtocolError(RunError):
    """A step that the protocol does not allow."""

    def __init__(self, what: str, *, where: str = "secure aggregation", remedy: str) -> None:
        super().__init__(what, where=where, remedy=remedy)


class MalformedMessage(ProtocolError):
    """Bytes that are no message of this protocol, or one with impossible content."""


class MalformedCiphertext(ProtocolError):
    """Sealed shares that cannot be opened: cut, altered, or meant for another site or set-up."""


class KeyNotSigned(ProtocolError):
    """An advertised key without a valid signature of the identity that the roster knows."""


class OwnKeyAltered(ProtocolError):
    """The coordinator hands on other keys in this site's name."""


class DuplicateKey(ProtocolError):
    """Two sites with one key: one institution would count twice."""


class DuplicateSite(ProtocolError):
    """One site twice in a list."""


class SurvivorAndDropped(ProtocolError):
    """The same peer as survivor and as dropped: both shares together would uncover its vector."""


class WrongSurvivors(ProtocolError):
    """Lists of survivors and dropped sites that do not make up the cohort, or not with this site in its right place."""


class WrongTopic(ProtocolError):
    """A vector that answers another question than the others, such as another global model."""


class CohortChanged(ProtocolError):
    """Another cohort or other shares than those this set-up began with."""


class SecondUnmasking(ProtocolError):
    """A second request to sign or unmask in one slot."""


class PastRound(ProtocolError):
    """A slot that is over, was answered already, or lies outside the set-up."""


class CohortTooSmall(ProtocolError):
    """Fewer sites than the threshold or than the smallest cohort this site takes part in."""


class ThresholdTooLow(ProtocolError):
    """A threshold that is not above half of those who hold shares."""


class ShapeChanged(ProtocolError):
    """Values that do not have the shape the set-up was made for."""


class ValueOutOfRange(ProtocolError):
    """A value beyond the bound under which sums cannot overflow."""


class ResolutionTooLow(ProtocolError):
    """A cohort and bounds for which words have too few bits left to represent values."""


class TooFewSignatures(ProtocolError):
    """Too few survivors signed the very list that is to be unmasked."""


class UnknownSetUp(ProtocolError):
    """A message of a set-up that this site does not have (any more)."""


class TermsRefused(ProtocolError):
    """Terms that this site's own limits do not allow."""


class GroupTooSmall(ProtocolError):
    """A group with fewer sites than a sum needs to hide one of them."""


class RecoveryFailed(ProtocolError):
    """Shares that do not give the secret their owner committed to."""
