"""The site's Flower ClientApp: train on one's own people, evaluate what came in, say who one is.

The table a site trains on, the folder of its privacy ledger and that of its witness are its own business: they stand in
the site's node configuration (`training-table`, `privacy-ledger`, `witness`), never in a message. In a simulation,
where there is no node configuration, sites are numbered and theirs are given to `create_app`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from client.keys import SiteKeys, read_site_keys
from client.replies import answered
from client.secure_aggregation import SecureSite, keys_from_node_config
from client.witness import WITNESS_KEY, WitnessSite
from common import messages as names
from common.errors import InputError

TABLE_KEY = "training-table"
LEDGER_KEY = "privacy-ledger"


def create_app(
    tables: Sequence[Path] | None = None,
    keys: Sequence[Path] | None = None,
    ledgers: Sequence[Path] | None = None,
    witnesses: Sequence[Path] | None = None,
) -> ClientApp:
    """The ClientApp.

    `tables[i]` is the training table of simulated site `i`, `keys[i]` the folder of its keys, `ledgers[i]` that of its
    privacy ledger and budget and `witnesses[i]` that of its witness; without them each node knows its own.
    """
    paths = None if tables is None else tuple(str(path) for path in tables)
    folders = None if keys is None else tuple(str(folder) for folder in keys)

    def table_of(context: Context) -> Path:
        if paths is not None:
            return Path(paths[int(context.node_config["partition-id"])])
        if TABLE_KEY not in context.node_config:
            raise InputError(
                f"the node configuration has no '{TABLE_KEY}'",
                where="site",
                remedy=f"start the SuperNode with --node-config '{TABLE_KEY}=\"/path/to/table.csv\"'",
            )
        return Path(str(context.node_config[TABLE_KEY]))

    def keys_of(context: Context) -> SiteKeys | None:
        if folders is None:
            return keys_from_node_config(context)
        return read_site_keys(Path(folders[int(context.node_config["partition-id"])]))

    def folder_of(context: Context, given: Sequence[Path] | None, key: str) -> Path | None:
        if given is not None:
            return given[int(context.node_config["partition-id"])]
        folder = context.node_config.get(key) if tables is None else None
        return None if folder is None else Path(str(folder))

    def name_of(context: Context) -> str:
        keys = keys_of(context)
        return table_of(context).stem if keys is None else keys.identity.name

    def require_allowed(message: Message, context: Context, ledger: Path | None) -> None:
        keys = keys_of(context)
        if keys is None:
            return
        from client.budget import BUDGET_FILE, read_budget
        from client.limits import require_within

        delta = None if ledger is None else read_budget(ledger / BUDGET_FILE).delta
        require_within(keys.file, cast(ConfigRecord, message.content[names.CONFIG]), delta=delta)

    def answer(message: Message, context: Context) -> Message:
        def learned() -> Message:
            ledger = folder_of(context, ledgers, LEDGER_KEY)
            require_allowed(message, context, ledger)
            from client.learning import answer as learn  # seconds of imports that only these messages need

            return learn(message, table_of(context), ledger)

        return answered(message, name_of(context), learned)

    app = ClientApp()
    secure = SecureSite(keys_of, name_of)
    secure.register(app)
    witness = WitnessSite(lambda context: folder_of(context, witnesses, WITNESS_KEY), name_of)
    witness.register(app)
    app.train(mods=[witness.mod, secure.mod])(answer)  # what came is checked before anything is done with it
    app.evaluate(mods=[witness.mod, secure.mod])(answer)

    @app.query("identify")
    def identify(message: Message, context: Context) -> Message:
        record = ConfigRecord({names.NAME_KEY: name_of(context)})
        return Message(RecordDict({names.SITE: record}), reply_to=message)

    return app


app = create_app()
