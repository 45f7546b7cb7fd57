"""`djms data`: generate, import, describe, partition."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Literal

import pandas as pd
import typer

from common.cli import DjmsCommand, new_group, settings_of
from common.dataset_info import DatasetInfo
from common.metrics import MINIMUM_PEOPLE
from common.progress import progress_bars
from common.report import Report
from common.tables import CANDIDATE_ID, OFFICE, OUTCOME, RAW_CANDIDATES_FILE, RAW_COMPANIES_FILE
from common.training_table import read_training_table, write_training_table

app = new_group("From raw CSV files to the training table.")


@app.command(cls=DjmsCommand)
def generate(
    context: typer.Context,
    candidates: Annotated[int, typer.Option(min=1, help="How many people, over all offices.")] = 10_000,
    companies: Annotated[int, typer.Option(min=1, help="How many companies, over all offices.")] = 1_000,
    scenario: Annotated[
        Literal["reference", "heterogeneous"],
        typer.Option(help="Alike offices under the reference rule, or offices that differ, in the rule too."),
    ] = "reference",
    out: Annotated[Path | None, typer.Option(help="Folder [default: where paths.raw_candidates lies].")] = None,
) -> Report:
    """Write synthetic raw CSV files, marked as such. Draws follow from the setting `seed` (--seed 7)."""
    from data.generator import generate as draw
    from data.generator import write_raw

    settings = settings_of(context)
    directory = out if out is not None else settings.paths.raw_candidates.parent
    with progress_bars() as bars, bars.step("Drawing synthetic people and companies"):
        write_raw(draw(candidates=candidates, companies=companies, seed=settings.seed, scenario=scenario), directory)
    files = [str(directory / RAW_CANDIDATES_FILE), str(directory / RAW_COMPANIES_FILE)]
    return Report(
        {"synthetic": True, "scenario": scenario, "candidates": candidates, "companies": companies, "files": files},
        f"Synthetic data ({scenario}): {candidates:,} people, {companies:,} companies in {directory}.\n"
        f"Next: djms data import --raw {shlex.quote(str(directory))}",
    )


@app.command("import", cls=DjmsCommand)
def import_(
    context: typer.Context,
    raw: Annotated[
        Path | None, typer.Option(help="Folder with the two CSV files, or with one such folder per office.")
    ] = None,
) -> Report:
    """Validate raw CSV files, find places, build and label the pairs, write the training table."""
    from data.extension import write_extended
    from data.preparation import prepare, raw_files_of

    settings = settings_of(context)
    with progress_bars() as bars:
        with bars.step("Reading and pairing"):
            dataset = prepare(raw_files_of(settings, raw), settings)
        with bars.step("Writing the training table"):
            DatasetInfo.forget(settings.paths.training_csv.parent)
            write_extended(dataset.candidates, dataset.companies, settings.paths.processed_dir)
            write_training_table(dataset.table, settings.paths.training_csv)
            dataset.info.write(settings.paths.training_csv.parent)
    table = dataset.table
    data = {
        "people": len(dataset.candidates),
        "companies": len(dataset.companies),
        "pairs": len(table),
        "match_rate": float(table[OUTCOME].mean()),
        "labels": dataset.info.labels,
        "synthetic": dataset.info.synthetic,
        "training_table": str(settings.paths.training_csv),
    }
    return Report(
        data,
        f"{data['people']:,} people, {data['companies']:,} companies, {data['pairs']:,} pairs; "
        f"labels: {data['labels']}{' (synthetic data)' if dataset.info.synthetic else ''}.\n"
        f"Training table: {settings.paths.training_csv}\n"
        "Next: djms data describe, djms data partition",
    )


@app.command(cls=DjmsCommand)
def describe(
    context: typer.Context,
    out: Annotated[Path | None, typer.Option(help="The plot [default: distributions.png beside the table].")] = None,
) -> Report:
    """Describe the training table and draw its distributions; groups under five people are not shown."""
    from data.describe import describe as describe_table
    from data.describe import plot_distributions

    settings = settings_of(context)
    source = settings.paths.training_csv
    plot = out if out is not None else source.with_name("distributions.png")
    with progress_bars() as bars, bars.step("Describing the training table"):
        info = DatasetInfo.read(source.parent)
        table = read_training_table(source)
        data = describe_table(table)
        note = f"labels: {info.labels}" + (", synthetic data" if info.synthetic else "")
        plot_distributions(table, plot, note)
    data = {**data, "synthetic": info.synthetic, "plot": str(plot)}
    return Report(data, _description(data))


@app.command(cls=DjmsCommand)
def partition(
    context: typer.Context,
    out: Annotated[Path | None, typer.Option(help="Folder [default: paths.federated_dir].")] = None,
) -> Report:
    """Split the training table by office, one file each; a person belongs to one office only."""
    from data.partition import partition as split

    settings = settings_of(context)
    directory = out if out is not None else settings.paths.federated_dir
    with progress_bars() as bars, bars.step("Splitting by office"):
        info = DatasetInfo.read(settings.paths.training_csv.parent)
        table = read_training_table(settings.paths.training_csv)
        paths = split(table, info, settings.offices, directory)
    people = _people(table)
    data = {office: {"people": people[office], "table": str(path)} for office, path in paths.items()}
    shown = {office: "under 5" if count is None else f"{count:,}" for office, count in people.items()}
    lines = [f"  {office:<16}{shown[office]:>8} people  {path}" for office, path in paths.items()]
    return Report(data, "\n".join([f"{len(paths)} offices:", *lines, "Next: djms federate"]))


def _people(table: pd.DataFrame) -> dict[str, int | None]:
    """People of each office; None under `MINIMUM_PEOPLE`."""
    keys = table[[OFFICE, CANDIDATE_ID]].drop_duplicates()
    counts = {str(office): int(count) for office, count in keys[OFFICE].value_counts().items()}
    return {office: count if count >= MINIMUM_PEOPLE else None for office, count in counts.items()}


def _description(data: dict[str, object]) -> str:
    def shown(key: str, form: str) -> str:
        value = data[key]
        return "not shown (under five people)" if value is None else format(value, form)

    return "\n".join(
        [
            f"pairs            {shown('pairs', ',')}",
            f"people           {shown('people', ',')}",
            f"companies        {shown('companies', ',')}",
            f"match rate       {shown('match_rate', '.3f')}",
            f"mean distance    {shown('mean_distance_km', '.2f')} km",
            f"mean attitude    {shown('mean_attitude', '.3f')}",
            f"labels           {data['labels']}{' (synthetic data)' if data['synthetic'] else ''}",
            f"plot             {data['plot']}",
        ]
    )
