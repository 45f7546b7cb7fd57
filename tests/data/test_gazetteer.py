"""The gazetteer finds what people write, and says so when it cannot know."""

from __future__ import annotations

import contextlib
import math
import pickle
import random
import socket
import statistics
import time
import unicodedata
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InputError
from data.distance import haversine_km
from data.gazetteer import AmbiguousPlace, Comune, Gazetteer, areas, comuni
from data.gazetteer.spelling import normalise

VENETO = ("VR", "VI", "PD", "TV", "VE", "BL", "RO")

# Coordinates from general knowledge of the map, to about a kilometre; not from the table.
OFFICE_TOWNS = [
    ("VR", "Verona", "Verona", 45.44, 10.99),
    ("VR", "Villafranca", "Villafranca di Verona", 45.35, 10.85),
    ("VR", "Legnago", "Legnago", 45.19, 11.31),
    ("VR", "San Bonifacio", "San Bonifacio", 45.40, 11.27),
    ("VR", "Isola della Scala", "Isola della Scala", 45.27, 11.01),
    ("VI", "Vicenza", "Vicenza", 45.55, 11.55),
    ("VI", "Bassano", "Bassano del Grappa", 45.77, 11.73),
    ("VI", "Thiene", "Thiene", 45.71, 11.48),
    ("VI", "Arzignano", "Arzignano", 45.52, 11.34),
    ("VI", "Schio", "Schio", 45.71, 11.36),
    ("PD", "Padova", "Padova", 45.41, 11.88),
    ("PD", "Cittadella", "Cittadella", 45.65, 11.78),
    ("PD", "Piove di Sacco", "Piove di Sacco", 45.30, 12.04),
    ("PD", "Camposampiero", "Camposampiero", 45.57, 11.93),
    ("PD", "Este", "Este", 45.23, 11.66),
    ("TV", "Treviso", "Treviso", 45.67, 12.24),
    ("TV", "Castelfranco", "Castelfranco Veneto", 45.67, 11.93),
    ("TV", "Conegliano", "Conegliano", 45.89, 12.30),
    ("TV", "Montebelluna", "Montebelluna", 45.78, 12.05),
    ("TV", "Oderzo", "Oderzo", 45.78, 12.49),
    ("VE", "Venezia", "Venezia", 45.44, 12.33),
    ("VE", "Mestre", "Venezia", 45.49, 12.24),
    ("VE", "Portogruaro", "Portogruaro", 45.78, 12.84),
    ("VE", "San Donà di Piave", "San Donà di Piave", 45.63, 12.57),
    ("VE", "Chioggia", "Chioggia", 45.22, 12.28),
]

# The same, for places whose coordinates are easily taken from a namesake or lost in a merger.
TRICKY_TOWNS = [
    ("Roma", 41.90, 12.50),
    ("Reggio di Calabria", 38.11, 15.65),
    ("Reggio nell'Emilia", 44.70, 10.63),
    ("Lampedusa e Linosa", 35.50, 12.61),
    ("Africo", 38.05, 16.13),
    ("Castro (BG)", 45.81, 10.07),
    ("Castro (LE)", 40.01, 18.43),
    ("San Teodoro (SS)", 40.77, 9.67),
    ("San Teodoro (ME)", 37.85, 14.70),
    ("Livo (TN)", 46.40, 11.02),
    ("Samone (TO)", 45.45, 7.84),
    ("Alpago", 46.14, 12.36),
    ("Corigliano-Rossano", 39.60, 16.62),
    ("Sappada", 46.57, 12.69),
    ("Peschiera Borromeo", 45.44, 9.31),
    ("Curtatone", 45.13, 10.72),
    ("Teolo", 45.35, 11.67),
    ("Setteville", 45.92, 11.93),
    ("Negrar di Valpolicella", 45.53, 10.94),
]


@pytest.fixture(scope="module")
def gazetteer() -> Gazetteer:
    return Gazetteer.load()


def km(a: Comune, latitude: float, longitude: float) -> float:
    """Spherical law of cosines: another formula than the code's."""
    p, q = math.radians(a.latitude), math.radians(latitude)
    angle = math.sin(p) * math.sin(q) + math.cos(p) * math.cos(q) * math.cos(math.radians(a.longitude - longitude))
    return 6371.0088 * math.acos(min(1.0, angle))


def found(gazetteer: Gazetteer, text: str, provinces: tuple[str, ...] = ()) -> Comune:
    comune = gazetteer.find(text, provinces=provinces)
    assert comune is not None, text
    return comune


# --- the tables


def test_the_table_holds_every_comune_once(gazetteer: Gazetteer) -> None:
    assert len(gazetteer) == 7896 == len({(c.name, c.province) for c in gazetteer})
    assert {c.province for c in gazetteer} == areas.PROVINCES.keys()
    assert len({c.region for c in gazetteer}) == 20
    assert sum(c.region == "Veneto" for c in gazetteer) == 560
    assert {c.province for c in gazetteer if c.region == "Veneto"} == set(VENETO)


def test_the_tables_are_well_formed_and_sorted() -> None:
    folder = Path(comuni.__file__).parent
    for name, columns in (("comuni.tsv", 8), ("localities.tsv", 6)):
        text = (folder / name).read_text(encoding="utf-8")
        rows = [line.split("\t") for line in text.removesuffix("\n").split("\n")]
        assert {len(row) for row in rows} == {columns}
        assert all(cell == cell.strip() and cell == unicodedata.normalize("NFC", cell) for row in rows for cell in row)
        assert [normalise(row[0]) for row in rows[1:]] == sorted(normalise(row[0]) for row in rows[1:])
        assert "\ufffd" not in text
        assert "?" not in text


def test_no_two_comuni_stand_on_the_same_spot(gazetteer: Gazetteer) -> None:
    assert len({(c.latitude, c.longitude) for c in gazetteer}) == len(gazetteer)


def test_every_comune_stands_near_its_province_or_is_an_island(gazetteer: Gazetteer) -> None:
    by_province: dict[str, list[Comune]] = defaultdict(list)
    for comune in gazetteer:
        by_province[comune.province].append(comune)
    far = set()
    for members in by_province.values():
        north = statistics.median(c.latitude for c in members)
        east = statistics.median(c.longitude for c in members)
        far |= {c.name for c in members if km(c, north, east) > 85}
    assert far == {"Lampedusa e Linosa", "Pantelleria", "Ustica"}


def test_every_comune_has_a_neighbour_of_its_province_within_reach(gazetteer: Gazetteer) -> None:
    # a coordinate taken from a namesake elsewhere leaves its comune alone among strangers
    by_province: dict[str, list[Comune]] = defaultdict(list)
    for comune in gazetteer:
        by_province[comune.province].append(comune)
    islands = {"Lampedusa e Linosa", "Pantelleria", "Ustica", "Isole Tremiti", "Capraia Isola", "Ponza", "Ventotene"}
    for comune in gazetteer:
        others = [c for c in by_province[comune.province] if c is not comune]
        if others and comune.name not in islands:
            assert min(km(comune, c.latitude, c.longitude) for c in others) < 25, comune


@pytest.mark.parametrize(("province", "said", "name", "latitude", "longitude"), OFFICE_TOWNS)
def test_every_office_town_resolves_with_its_office_with_all_offices_and_with_its_region(
    gazetteer: Gazetteer, province: str, said: str, name: str, latitude: float, longitude: float
) -> None:
    for comune in (
        found(gazetteer, said, (province,)),
        found(gazetteer, said, VENETO),
        found(gazetteer, said, ("VR", "VI", "PD", "TV", "VE")),
        found(gazetteer, f"{said}, Veneto, Italy"),
        found(gazetteer, f"{said} ({province})"),
    ):
        assert (comune.name, comune.province, comune.region) == (name, province, "Veneto")
        assert km(comune, latitude, longitude) < 2.5


@pytest.mark.parametrize(("text", "latitude", "longitude"), TRICKY_TOWNS)
def test_coordinates_are_not_those_of_a_namesake(
    gazetteer: Gazetteer, text: str, latitude: float, longitude: float
) -> None:
    assert km(found(gazetteer, text), latitude, longitude) < 6


# --- spelling


def test_every_comune_finds_itself(gazetteer: Gazetteer) -> None:
    for comune in gazetteer:
        assert gazetteer.find(f"{comune.name} ({comune.province})") == comune
        assert gazetteer.find(comune.name, provinces=(comune.province,)) == comune
        assert gazetteer.find(f"{comune.name}, {comune.region}, Italia", provinces=(comune.province,)) == comune


def test_every_comune_finds_itself_however_it_is_typed(gazetteer: Gazetteer) -> None:
    for comune in gazetteer:
        bare = "".join(c for c in unicodedata.normalize("NFD", comune.name) if not unicodedata.combining(c))
        for text in (
            comune.name.upper(),
            comune.name.lower(),
            bare,
            unicodedata.normalize("NFD", comune.name),
            comune.name.replace("'", "’"),
            comune.name.replace("'", " "),
            comune.name.replace("-", " "),
            comune.name.replace(" ", "  "),
        ):
            assert gazetteer.find(f" {text} ({comune.province.lower()}) ") == comune, text


@given(st.data())
def test_letters_decide_and_nothing_else(data: st.DataObject) -> None:
    gazetteer = Gazetteer.load()
    comune = data.draw(st.sampled_from(list(gazetteer)))
    text = "".join(data.draw(st.sampled_from((c.lower(), c.upper()))) for c in comune.name)
    assert gazetteer.find(text, provinces=[comune.province]) == comune
    changed = data.draw(st.integers(0, len(comune.name) - 1))
    wrong = comune.name[:changed] + "qxq" + comune.name[changed + 1 :]
    assert gazetteer.find(wrong, provinces=[comune.province]) is None


@given(st.text(max_size=30), st.sampled_from([(), ("VR",), VENETO]))
def test_any_text_is_found_unknown_or_ambiguous_but_never_breaks(text: str, provinces: tuple[str, ...]) -> None:
    gazetteer = Gazetteer.load()
    with contextlib.suppress(AmbiguousPlace):
        comune = gazetteer.find(text, provinces=provinces)
        assert comune is None or isinstance(comune, Comune)
    gazetteer.suggest(text)


@pytest.mark.parametrize(
    ("text", "name", "province"),
    [
        ("Verona", "Verona", "VR"),
        ("Verona, Veneto, Italy", "Verona", "VR"),
        ("Verona,Veneto,Italia", "Verona", "VR"),
        ("Verona (VR)", "Verona", "VR"),
        ("VERONA VR", "Verona", "VR"),
        ("Verona - VR", "Verona", "VR"),
        ("Verona, provincia di Verona", "Verona", "VR"),
        ("Legnago, Province of Verona, Veneto", "Legnago", "VR"),
        ("Chioggia, Città Metropolitana di Venezia", "Chioggia", "VE"),
        ("37121 Verona", "Verona", "VR"),
        ("Verona, 37121, Veneto", "Verona", "VR"),
        ("San Dona di Piave", "San Donà di Piave", "VE"),
        ("San Dona' di Piave", "San Donà di Piave", "VE"),
        ("S. Donà di Piave", "San Donà di Piave", "VE"),
        ("S.Donà di Piave", "San Donà di Piave", "VE"),
        ("S. Bonifacio", "San Bonifacio", "VR"),
        ("S. Ambrogio di Valpolicella", "Sant'Ambrogio di Valpolicella", "VR"),
        ("Sant Ambrogio di Valpolicella", "Sant'Ambrogio di Valpolicella", "VR"),
        ("S. Maria di Sala", "Santa Maria di Sala", "VE"),
        ("Reggio nell'Emilia", "Reggio nell'Emilia", "RE"),
        ("Reggio Emilia", "Reggio nell'Emilia", "RE"),
        ("Reggio Calabria", "Reggio di Calabria", "RC"),
        ("Bolzano", "Bolzano", "BZ"),
        ("Bozen", "Bolzano", "BZ"),
        ("Bolzano/Bozen", "Bolzano", "BZ"),
        ("Bolzano - Bozen", "Bolzano", "BZ"),
        ("Meran", "Merano", "BZ"),
        ("St. Ulrich", "Ortisei", "BZ"),
        ("Mondovi' CN", "Mondovì", "CN"),
        ("L'Aquila", "L'Aquila", "AQ"),
        ("Padua", "Padova", "PD"),
        ("Padua, Veneto, Italy", "Padova", "PD"),
        ("Venice", "Venezia", "VE"),
        ("Florence, Tuscany", "Firenze", "FI"),
        ("Milan, Lombardy, Italy", "Milano", "MI"),
        ("Rome", "Roma", "RM"),
        ("Turin, Piedmont", "Torino", "TO"),
        ("Naples", "Napoli", "NA"),
        ("Genoa", "Genova", "GE"),
        ("Leghorn", "Livorno", "LI"),
        ("Mantua", "Mantova", "MN"),
        ("Syracuse, Sicily", "Siracusa", "SR"),
        ("Aoste", "Aosta", "AO"),
        ("Negrar", "Negrar di Valpolicella", "VR"),
        ("Costermano", "Costermano sul Garda", "VR"),
        ("Vò", "Vo'", "PD"),
        ("Ne", "Ne", "GE"),
        ("Urbino, PS", "Urbino", "PU"),
        ("Castegnero Nanto", "Castegnero", "VI"),
    ],
)
def test_what_people_write_is_found(gazetteer: Gazetteer, text: str, name: str, province: str) -> None:
    comune = found(gazetteer, text)
    assert (comune.name, comune.province) == (name, province)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        ",",
        "()",
        "37121",
        "Xyzzy",
        "Veron",
        "Verrona",
        "Verona (MI)",
        "Verona, Toscana",
        "Verona (VR), Lombardia",
        "Verona, Wisconsin, USA",
        "Venice, California",
        "Via Roma 3, Verona",
        "San",
        "Santa",
        "di",
        "VR",
        "Badoere",
        "Madrid",
        "Вероника",
    ],
)
def test_what_is_not_known_is_none(gazetteer: Gazetteer, text: str) -> None:
    assert gazetteer.find(text) is None
    assert gazetteer.find(text, provinces=("VR",)) is None


# --- several comuni of one name


@pytest.mark.parametrize(
    ("text", "choices"),
    [
        ("Castro", {"Castro (BG)", "Castro (LE)"}),
        ("San Teodoro", {"San Teodoro (ME)", "San Teodoro (SS)"}),
        ("Livo", {"Livo (CO)", "Livo (TN)"}),
        ("Peglio", {"Peglio (CO)", "Peglio (PU)"}),
        ("Samone", {"Samone (TN)", "Samone (TO)"}),
        ("Paterno", {"Paternò (CT)", "Paterno (PZ)"}),
        ("Calliano", {"Calliano (TN)", "Calliano Monferrato (AT)"}),
        ("Valverde", {"Valverde (CT)", "Colli Verdi (PV)"}),
        ("Reggio", {"Reggio nell'Emilia (RE)", "Reggio di Calabria (RC)"}),
    ],
)
def test_a_name_of_several_comuni_raises_and_names_them(gazetteer: Gazetteer, text: str, choices: set[str]) -> None:
    with pytest.raises(AmbiguousPlace) as raised:
        gazetteer.find(text)
    assert set(raised.value.choices) == choices
    assert all(choice in str(raised.value) for choice in choices)
    for choice in choices:
        assert f"({found(gazetteer, choice).province})" in choice


def test_region_or_preferred_province_decides_between_namesakes(gazetteer: Gazetteer) -> None:
    assert found(gazetteer, "Livo, Lombardia").province == "CO"
    assert found(gazetteer, "Livo, Trentino-Alto Adige").province == "TN"
    assert found(gazetteer, "Livo", ("TN", "BZ")).province == "TN"
    assert found(gazetteer, "Calliano, Piemonte").name == "Calliano Monferrato"
    with pytest.raises(AmbiguousPlace):
        gazetteer.find("Livo", provinces=("VR",))
    with pytest.raises(AmbiguousPlace):
        gazetteer.find("Livo", provinces=("CO", "TN"))


def test_what_the_text_says_outweighs_the_preferred_provinces(gazetteer: Gazetteer) -> None:
    assert found(gazetteer, "Livo (CO)", ("TN",)).province == "CO"
    assert found(gazetteer, "Roma", ("VR",)).province == "RM"
    assert gazetteer.find("Roma, Veneto", provinces=("RM",)) is None


@pytest.mark.parametrize("text", ["Villafranca", "Bassano", "Castelfranco", "Cortina"])
def test_a_short_name_without_context_raises(gazetteer: Gazetteer, text: str) -> None:
    for provinces in ((), ("CA",)):
        with pytest.raises(AmbiguousPlace):
            gazetteer.find(text, provinces=provinces)


def test_a_short_name_follows_its_context(gazetteer: Gazetteer) -> None:
    assert found(gazetteer, "Villafranca", ("PD",)).name == "Villafranca Padovana"
    assert found(gazetteer, "Villafranca, Veneto", ("PD",)).name == "Villafranca Padovana"
    assert found(gazetteer, "Villafranca, Piemonte", ("TO",)).name == "Villafranca Piemonte"
    assert found(gazetteer, "Castelfranco, Emilia-Romagna").name == "Castelfranco Emilia"
    assert found(gazetteer, "Cortina", VENETO).name == "Cortina d'Ampezzo"
    assert found(gazetteer, "S. Donà", ("VE",)).name == "San Donà di Piave"
    assert found(gazetteer, "Piove", ("PD",)).name == "Piove di Sacco"
    with pytest.raises(AmbiguousPlace):
        gazetteer.find("Isola", provinces=("VR",))


def test_a_short_name_does_not_silently_win_over_a_comune_that_is_called_so(gazetteer: Gazetteer) -> None:
    with pytest.raises(AmbiguousPlace) as raised:
        gazetteer.find("Montecchio", provinces=("VI",))
    assert set(raised.value.choices) == {"Montecchio (TR)", "Montecchio Maggiore (VI)", "Montecchio Precalcino (VI)"}
    with pytest.raises(AmbiguousPlace):
        gazetteer.find("Parona", provinces=("VR",))  # a comune near Pavia, a district of Verona


def test_capitals_are_never_a_short_name(gazetteer: Gazetteer) -> None:
    for name in ("Bolzano", "Roma", "Milano", "Treviso", "Como", "Pavia"):
        for province in sorted(areas.PROVINCES):
            assert found(gazetteer, name, (province,)).name == name


def test_ambiguity_survives_pickling_and_lists_only_some_of_many(gazetteer: Gazetteer) -> None:
    with pytest.raises(AmbiguousPlace) as raised:
        gazetteer.find("Castel")
    again = pickle.loads(pickle.dumps(raised.value))
    assert (type(again), str(again), again.choices) == (AmbiguousPlace, str(raised.value), raised.value.choices)
    assert len(again.choices) > 20
    assert len(str(again)) < 500
    assert again.exit_code == 1


@pytest.mark.parametrize("provinces", [("XX",), ("Verona",), "VR", ("",)])
def test_a_province_that_does_not_exist_is_refused(gazetteer: Gazetteer, provinces: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="two-letter codes"):
        gazetteer.find("Verona", provinces=provinces)


def test_codes_may_be_lower_case_and_any_collection(gazetteer: Gazetteer) -> None:
    for provinces in (["tn"], {"TN"}, frozenset({"tn", "BZ"})):
        assert gazetteer.find("Livo", provinces=provinces) == gazetteer.find("Livo (TN)")


# --- places inside comuni


@pytest.mark.parametrize(
    ("text", "comune", "latitude", "longitude"),
    [
        ("Mestre", "Venezia", 45.49, 12.24),
        ("Mestre, Venezia", "Venezia", 45.49, 12.24),
        ("Venezia Mestre", "Venezia", 45.49, 12.24),
        ("Venezia-Mestre (VE)", "Venezia", 45.49, 12.24),
        ("Marghera", "Venezia", 45.47, 12.22),
        ("Lido di Venezia", "Venezia", 45.41, 12.37),
        ("Puos d'Alpago", "Alpago", 46.14, 12.36),
        ("Farra d'Alpago", "Alpago", 46.12, 12.36),
        ("Forno di Zoldo", "Val di Zoldo", 46.35, 12.18),
        ("Lentiai", "Borgo Valbelluna", 46.05, 12.02),
        ("Quero", "Setteville", 45.92, 11.93),
        ("Saletto", "Borgo Veneto", 45.23, 11.53),
        ("Crespano del Grappa", "Pieve del Grappa", 45.83, 11.83),
        ("Valstagna", "Valbrenta", 45.86, 11.66),
        ("Bazzano", "Valsamoggia", 44.50, 11.08),
        ("Rossano (CS)", "Corigliano-Rossano", 39.57, 16.64),
        ("Figline Valdarno", "Figline e Incisa Valdarno", 43.62, 11.47),
    ],
)
def test_districts_and_former_comuni_keep_their_own_coordinates(
    gazetteer: Gazetteer, text: str, comune: str, latitude: float, longitude: float
) -> None:
    place = found(gazetteer, text)
    assert place.name == comune
    assert km(place, latitude, longitude) < 3
    assert place.region == next(c.region for c in gazetteer if c.name == comune)


def test_a_former_comune_without_coordinates_stands_where_its_comune_does(gazetteer: Gazetteer) -> None:
    assert gazetteer.find("Molvena") == gazetteer.find("Colceresa")
    assert gazetteer.find("Castello di Serravalle") == gazetteer.find("Valsamoggia")


def test_a_hamlet_is_found_where_its_province_is_known(gazetteer: Gazetteer) -> None:
    assert gazetteer.find("Badoere") is None
    assert found(gazetteer, "Badoere (TV)").name == "Morgano"
    assert found(gazetteer, "Badoere", ("TV",)).name == "Morgano"
    assert gazetteer.find("Badoere", provinces=("PD",)) is None


def test_every_locality_is_near_its_comune(gazetteer: Gazetteer) -> None:
    whole = {(c.name, c.province): c for c in gazetteer}
    text = (Path(comuni.__file__).parent / "localities.tsv").read_text(encoding="utf-8")
    for line in text.splitlines()[1:]:
        name, comune, province, latitude, longitude, kind = line.split("\t")
        assert (latitude == "") == (kind in {"name", "everyday"})
        if latitude and name != "Stromboli":  # an island of Lipari's
            assert km(whole[comune, province], float(latitude), float(longitude)) < 28, (name, comune)


# --- suggestions and the nearest comune


def test_suggestions_are_near_names(gazetteer: Gazetteer) -> None:
    assert gazetteer.suggest("Veron")[0] == "Verona"
    assert gazetteer.suggest("verrona, Veneto, Italy")[0] == "Verona"
    assert "San Donà di Piave" in gazetteer.suggest("San Dona de Piave")
    assert len(gazetteer.suggest("Castelfranko Veneto", n=1)) == 1
    assert gazetteer.suggest("qqqqqqqqqq") == gazetteer.suggest("") == gazetteer.suggest(", Veneto") == []


def test_nearest_to_each_comune_is_itself(gazetteer: Gazetteer) -> None:
    for comune in random.Random(20240617).sample(list(gazetteer), 200):
        assert gazetteer.nearest(comune.latitude, comune.longitude) == comune


@given(st.floats(35, 48), st.floats(6, 19))
def test_nothing_is_nearer_than_the_nearest(latitude: float, longitude: float) -> None:
    gazetteer = Gazetteer.load()
    nearest = km(gazetteer.nearest(latitude, longitude), latitude, longitude)
    assert nearest <= min(km(c, latitude, longitude) for c in random.Random(0).sample(list(gazetteer), 500)) + 1e-3


@pytest.mark.parametrize(
    ("latitude", "longitude"),
    [(10.99, 45.44), (51.5, 0.1), (0, 0), (34.9, 12), (45, 19.1), (math.nan, 11), (45, math.nan), (math.inf, 11)],
)
def test_coordinates_outside_italy_are_refused(gazetteer: Gazetteer, latitude: float, longitude: float) -> None:
    with pytest.raises(InputError, match="latitude first"):
        gazetteer.nearest(latitude, longitude)


# --- loading


def test_loading_is_quick_shared_and_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the gazetteer opened a socket")

    monkeypatch.setattr(socket, "socket", refuse)
    fresh = comuni._load.__wrapped__
    best = math.inf
    for _ in range(3):
        start = time.perf_counter()
        fresh()
        best = min(best, time.perf_counter() - start)
    assert best < 1.5  # about 0.15 s on an idle machine
    assert Gazetteer.load() is Gazetteer.load()


def test_distances_agree_with_the_projects_own(gazetteer: Gazetteer) -> None:
    import numpy as np

    verona, padova = found(gazetteer, "Verona"), found(gazetteer, "Padova")
    ours = haversine_km(
        np.array([verona.latitude]),
        np.array([verona.longitude]),
        np.array([padova.latitude]),
        np.array([padova.longitude]),
    )
    assert ours[0] == pytest.approx(km(verona, padova.latitude, padova.longitude), rel=1e-6)
