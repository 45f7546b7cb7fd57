"""The site's Flower ClientApp: train on one's own people, evaluate what came in, say who one is.

The table a site trains on and the folder of its privacy ledger are its own business: they stand in the site's node
configuration (`training-table`, `privacy-ledger`), never in a message. In a simulation, where there is no node
configuration, sites are numbered and theirs are given to `create_app`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from client.keys import SiteKeys, read_site_keys
from client.replies import answered
from client.secure_aggregation import SecureSite, keys_from_node_config
from common import messages as names
from common.errors import InputError

TABLE_KEY = "training-table"
LEDGER_KEY = "privacy-ledger"


def create_app(
    tables: Sequence[Path] | None = None, keys: Sequence[Path] | None = None, ledgers: Sequence[Path] | None = None
) -> ClientApp:
    """The ClientApp.

    `tables[i]` is the training table of simulated site `i`, `keys[i]` the folder of its keys and `ledgers[i]` that of
    its privacy ledger and budget; without them each node knows its own.
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

    def ledger_of(context: Context) -> Path | None:
        if ledgers is not None:
            return ledgers[int(context.node_config["partition-id"])]
        folder = context.node_config.get(LEDGER_KEY) if tables is None else None
        return None if folder is None else Path(str(folder))

    def name_of(context: Context) -> str:
        return table_of(context).stem

    def answer(message: Message, context: Context) -> Message:
        def learned() -> Message:
            from client.learning import answer as learn  # seconds of imports that only these messages need

            return learn(message, table_of(context), ledger_of(context))

        return answered(message, name_of(context), learned)

    app = ClientApp()
    secure = SecureSite(keys_of, name_of)
    secure.register(app)
    app.train(mods=[secure.mod])(answer)
    app.evaluate(mods=[secure.mod])(answer)

    @app.query("identify")
    def identify(message: Message, context: Context) -> Message:
        record = ConfigRecord({names.NAME_KEY: name_of(context)})
        return Message(RecordDict({names.SITE: record}), reply_to=message)

    return app


app = create_app()
