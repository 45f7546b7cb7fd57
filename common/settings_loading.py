"""Loading settings: from the command line, the environment, a YAML file, and the defaults, with errors that help.

The file is `config.yaml` in the working directory unless another is named; a file that is named must exist, the
default one may be absent.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

import yaml
from pydantic import BaseModel, ValidationError

from common.errors import InputError
from common.settings import Settings

DEFAULT_FILE = Path("config.yaml")
ENV_PREFIX = "DJMS_"
_OPEN_KEYS = ("offices",)  # below these, names are the user's own


def setting_keys(model: type[BaseModel] = Settings, prefix: str = "") -> Iterator[str]:
    """Every leaf key in dotted form, in the order of the settings: `federated.rounds`."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from setting_keys(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def resolve_key(key: str) -> str:
    """The full key for a full key or an unambiguous ending of one (`dp.epsilon` is `privacy.dp.epsilon`).

    Raises InputError naming the nearest keys when there is none, or the candidates when there are several.
    """
    known = list(setting_keys())
    if key in known or key.startswith(tuple(f"{open_key}." for open_key in _OPEN_KEYS)):
        return key
    matches = [full for full in known if full.endswith(f".{key}")]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise InputError(f"the settings key is ambiguous: {', '.join(matches)}", where=key, remedy="write it in full")
    _unknown(key, where=f"settings key '{key}'")


def load_settings(
    overrides: Iterable[str] = (),
    *,
    file: Path | None = None,
    environment: Mapping[str, str] | None = None,
    command: Iterable[str] = (),
) -> Settings:
    """Settings from `overrides` (`key=value` texts), the environment, a YAML file, and the defaults, in that order.

    `command` holds what a command itself sets (`key=value`): above the file, below the environment.

    Raises InputError for an unknown key, a value out of range, a file that is missing or not YAML, or protections
    that cannot be combined.
    """
    environment = os.environ if environment is None else environment
    overrides = list(overrides)
    path = file if file is not None else DEFAULT_FILE
    origins: dict[str, str] = {}
    values: dict[str, Any] = {}
    _merge(values, _from_file(path, required=file is not None), origins, lambda key: f"{path}, key '{key}'")
    _merge(values, _from_overrides(command), origins, lambda key: f"settings key '{key}'")
    _merge(values, _from_environment(environment), origins, _env_name)
    given = _from_overrides(overrides)
    for key in _OPEN_KEYS:
        if any(text.startswith(f"{key}.") for text in overrides):  # one office added or changed, the others stay
            current = values.get(key) or Settings().model_dump(mode="json")[key]
            if isinstance(current, dict):
                given[key] = {**current, **given[key]}
    _merge(values, given, origins, lambda key: f"--set {key}")
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        _refuse(error, origins)


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """`{"a.b": 1}` as `{"a": {"b": 1}}`."""
    result: dict[str, Any] = {}
    for key, value in flat.items():
        *sections, leaf = key.split(".")
        target = result
        for section in sections:
            target = target.setdefault(section, {})
            if not isinstance(target, dict):
                raise InputError("the key is given as a whole and in parts", where=key, remedy="give it one way only")
        target[leaf] = value
    return result


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """`{"a": {"b": 1}}` as pairs `("a.b", 1)`; what lies below an open key stays whole."""
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and value and key.rpartition(".")[0] not in _OPEN_KEYS:
            yield from flat(value, f"{key}.")
        else:
            yield key, value


def _from_file(path: Path, *, required: bool) -> dict[str, Any]:
    if not path.exists():
        if required:
            raise InputError(
                "the settings file does not exist", where=path, remedy="check the path given with --config"
            )
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise InputError("the settings file is not UTF-8 text", where=path, remedy="save it as UTF-8") from None
    except OSError as error:
        raise InputError(
            f"the settings file cannot be read ({error.strerror})",
            where=path,
            remedy="check that it is a file of yours",
        ) from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that is none
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or "it is not YAML"
        raise InputError(
            f"the settings file cannot be read: {problem}", where=f"{path}{line}", remedy="correct that line"
        ) from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InputError(
            "the settings file is not a list of keys and values", where=path, remedy="compare it with config.yaml"
        )
    # A section whose keys are all commented out is an empty one.
    return {str(key): {} if value is None else value for key, value in content.items()}


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, text in environment.items():
        if not name.startswith(ENV_PREFIX) or text == "":
            continue
        key = name.removeprefix(ENV_PREFIX).lower().replace("__", ".")
        if key not in set(setting_keys()):
            _unknown(key, where=f"environment variable {name}", shown=_env_name)
        try:
            values[key] = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError):  # ValueError: a date that is none
            raise InputError(
                "the value cannot be read", where=f"environment variable {name}", remedy="quote it"
            ) from None
    return nested(values)


def _from_overrides(overrides: Iterable[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for text in overrides:
        key, separator, value = text.partition("=")
        if not separator:
            raise InputError("there is no '='", where=f"--set {text}", remedy="write --set key=value")
        try:
            values[resolve_key(key.strip())] = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError):  # ValueError: a date that is none
            raise InputError("the value cannot be read", where=f"--set {text}", remedy="quote it") from None
    return nested(values)


def _merge(
    into: dict[str, Any], values: dict[str, Any], origins: dict[str, str], origin: Any, prefix: str = ""
) -> None:
    for name, value in values.items():
        key = f"{prefix}{name}"
        current = into.get(name)
        if isinstance(current, dict) and isinstance(value, dict) and key not in _OPEN_KEYS:
            _merge(current, value, origins, origin, f"{key}.")
            continue
        into[name] = value
        for leaf, _ in flat({name: value}, prefix):
            origins[leaf] = origin(leaf)


def _env_name(key: str) -> str:
    return f"{ENV_PREFIX}{key.upper().replace('.', '__')}"


def _unknown(key: str, *, where: str, shown: Any = str) -> NoReturn:
    known = list(setting_keys())
    leaves = {full.rpartition(".")[2]: full for full in known}
    near = get_close_matches(key, known, n=1, cutoff=0.6)
    if not near:
        near = [leaves[leaf] for leaf in get_close_matches(key.rpartition(".")[2], leaves, n=1, cutoff=0.6)]
    hint = f"did you mean '{shown(near[0])}'" if near else "`djms config show` lists all keys"
    raise InputError("there is no such setting", where=where, remedy=hint)


def _refuse(error: ValidationError, origins: Mapping[str, str]) -> NoReturn:
    """Turn the first of pydantic's findings into our one sentence."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"] if not _is_type_tag(part))
    origin = next((where for leaf, where in origins.items() if leaf == key or key.startswith(f"{leaf}.")), None)
    where = origin or (f"settings key '{key}'" if key else "settings")
    if first["type"] == "extra_forbidden":
        _unknown(key, where=where)
    message = str(first["msg"]).removeprefix("Value error, ")
    if first["type"] == "value_error":
        what, _, remedy = message.rpartition("; ")
        raise InputError(what or message, where=where, remedy=remedy if what else "correct it")
    shown = f" (it is {first['input']!r})" if isinstance(first["input"], (str, int, float, bool)) else ""
    raise InputError(f"the value does not fit{shown}", where=where, remedy=message[0].lower() + message[1:])


def _is_type_tag(part: int | str) -> bool:
    return isinstance(part, str) and ("[" in part or part.startswith("literal") or part in {"int", "constrained-int"})
