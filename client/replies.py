"""A reply, or a refusal that the coordinator can read and that tells nothing of a person."""

from __future__ import annotations

import logging
from collections.abc import Callable

from flwr.app import ConfigRecord, Message, RecordDict

from common import messages as names
from common.errors import DjmsError

_LOG = logging.getLogger(__name__)


def answered(
    message: Message,
    name: str,
    answer: Callable[[], Message],
    *,
    but: tuple[type[DjmsError], ...] | type[DjmsError] = (),
) -> Message:
    """What `answer` gives; or, where it fails, the reason as a refusal in the name of the site. Raises `but`."""
    try:
        return answer()
    except but:
        raise
    except DjmsError as error:
        return refusal(message, name, error)
    except Exception as error:  # noqa: BLE001 - its text may quote a record, and must stay at the site
        _LOG.exception("the site's application failed")
        reason = f"its application failed with {type(error).__name__}; see the site's own log."
        return _refusal(message, name, type(error).__name__, reason)


def refusal(message: Message, name: str, error: DjmsError) -> Message:
    """The error as a refusal in the name of the site."""
    return _refusal(message, name, type(error).__name__, str(error))


def _refusal(message: Message, name: str, kind: str, reason: str) -> Message:
    record = ConfigRecord({names.NAME_KEY: name, names.REFUSAL_KIND_KEY: kind, names.REFUSAL_KEY: reason})
    return Message(RecordDict({names.SITE: record}), reply_to=message)
