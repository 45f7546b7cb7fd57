"""What every `djms` command shares: the options `--config`, `--set` and `--json`, the settings' own flags, exit codes.

Rules kept here:

* a command returns a `Report`; `run` prints it, as text or, with `--json`, as one JSON object and nothing else on
  standard output. Progress and errors go to standard error;
* exit codes: 0 done, 1 misconfiguration or bad input, 2 failure while running, 130 interrupted;
* `--dp.epsilon 0.5` is `--set privacy.dp.epsilon=0.5`: a flag that is no option of the command is looked up among the
  settings' keys.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import click
import typer
from rich.console import Console
from typer.core import TyperCommand, TyperGroup

from common.errors import DjmsError, InputError
from common.report import Report
from common.settings import Settings
from common.settings_loading import load_settings, resolve_key, setting_keys

_OVERRIDES = "djms.overrides"
_CONFIG = "djms.config"
_JSON = "djms.json"
INTERRUPTED = 130

Command = TypeVar("Command", bound=typer.Typer)


def new_group(help_text: str) -> typer.Typer:
    """A sub-command group of the `djms` command."""
    return typer.Typer(help=help_text, no_args_is_help=True, cls=DjmsGroup, rich_markup_mode=None)


def settings_of(context: typer.Context, *defaults: str) -> Settings:
    """The settings of this call; `defaults` (`key=value`) stand above the file and below environment and flags."""
    root = context.find_root()
    return load_settings(root.meta.get(_OVERRIDES, []), file=root.meta.get(_CONFIG), command=defaults)


def run(app: typer.Typer, arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code. Prints the command's report, or one sentence about the error."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in arguments
    try:
        result = typer.main.get_command(app).main(args=arguments, prog_name="djms", standalone_mode=False)
        if isinstance(result, Report):
            _print(result, as_json)
    except DjmsError as error:
        return _fail(str(error), error.exit_code, as_json)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else "", err=True)
        return 1
    except click.ClickException as error:
        return _fail(_usage_sentence(error), 1, as_json)
    except (click.Abort, KeyboardInterrupt):
        result = INTERRUPTED
    except (PermissionError, FileExistsError, FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        return _fail(f"{error.filename}: {(error.strerror or 'no access').lower()}; choose another path.", 1, as_json)
    except OSError as error:
        return _fail(f"{error.filename or 'The system'}: {error.strerror}; make room and run again.", 2, as_json)
    except Exception as error:  # noqa: BLE001 - the last resort: say so, show where, and fail
        traceback.print_exc(file=sys.stderr)
        return _fail(f"DJMS stopped on an error it did not expect: {type(error).__name__}; see above.", 2, as_json)
    if result == INTERRUPTED:  # Typer turns an interrupt into its exit code
        return _fail("Interrupted; nothing after the last finished step was kept.", INTERRUPTED, as_json)
    return 0 if not isinstance(result, int) else result


def log_to_stderr() -> None:
    """Let a command that works until it is asked to end say on standard error what happens, with the time."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S")
    logging.getLogger("httpx").setLevel(logging.WARNING)


class DjmsCommand(TyperCommand):
    """A command with the shared options, whose unknown flags may be settings' keys."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.extend(_shared_options())

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Turn settings' flags into `--set key=value`, then parse as usual."""
        known = {name for parameter in self.params for name in (*parameter.opts, *parameter.secondary_opts)}
        return super().parse_args(ctx, list(_settings_flags(args, known)))


class DjmsGroup(TyperGroup):
    """A group whose unknown sub-commands are answered with the nearest known one."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the sub-command, or name the nearest."""
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            near = get_close_matches(name, self.list_commands(ctx), n=1)
            hint = f"did you mean '{near[0]}'" if near else f"`{ctx.command_path} --help` lists them"
            raise InputError("there is no such command", where=f"{ctx.command_path} {name}", remedy=hint)
        return super().resolve_command(ctx, args)


def _print(report: Report, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(report.data, ensure_ascii=False, allow_nan=False))
        return
    console = Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else 120)
    console.print(report.text, soft_wrap=isinstance(report.text, str))  # a path is copied whole or not at all


def _settings_flags(args: list[str], known: set[str]) -> list[str]:
    result: list[str] = []
    rest = iter(args)
    for text in rest:
        name, separator, value = text.partition("=")
        if text == "--":
            return [*result, text, *rest]
        if not name.startswith("--") or name in known or name == "--help":
            result.append(text)
            if name in known and name in {"--set", "--config"} and not separator:
                result.extend([following] if (following := next(rest, None)) is not None else [])
            continue
        key = name.removeprefix("--").replace("-", "_")
        leaves = [full.rpartition(".")[2] for full in setting_keys()]
        if "." not in key and key not in leaves:
            near = get_close_matches(name, [*sorted(known), *(f"--{leaf}" for leaf in leaves)], n=1)
            if near:
                raise InputError("there is no such option", where=name, remedy=f"did you mean '{near[0]}'")
            result.append(text)  # like nothing that is known: the parser says so
            continue
        full = resolve_key(key)
        if not separator:
            following = next(rest, None)
            if following is None or following.startswith("--"):
                raise InputError("there is no value", where=name, remedy=f"write {name} VALUE")
            value = following
        result.extend(["--set", f"{full}={value}"])
    return result


def _shared_options() -> list[click.Parameter]:
    def keep(name: str) -> Any:
        def callback(ctx: click.Context, _: click.Parameter, value: Any) -> None:
            ctx.find_root().meta[name] = list(value) if isinstance(value, tuple) else value

        return callback

    return [
        click.Option(
            ["--config"],
            type=click.Path(path_type=Path),
            expose_value=False,
            callback=keep(_CONFIG),
            help="Settings file [default: config.yaml, where there is one].",
        ),
        click.Option(
            ["--set"],
            multiple=True,
            metavar="KEY=VALUE",
            expose_value=False,
            callback=keep(_OVERRIDES),
            help="Change one setting, e.g. federated.rounds=5; also --federated.rounds 5. Repeatable.",
        ),
        click.Option(
            ["--json"],
            is_flag=True,
            expose_value=False,
            callback=keep(_JSON),
            help="Print one JSON object on standard output and nothing else there.",
        ),
    ]


def _usage_sentence(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "djms"
    message = error.format_message().strip().rstrip(".")
    return f"{path}: {message[0].lower()}{message[1:]}; `{path} --help` shows what it takes."


def _fail(sentence: str, code: int, as_json: bool) -> int:
    click.echo(sentence, err=True)
    if as_json:
        click.echo(json.dumps({"error": sentence, "exit_code": code}, ensure_ascii=False))
    return code
