"""Which office serves a place: the comune before the province, nobody twice, and never the nearest."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InputError
from data.offices import assign_office, assign_offices, check_territories


@dataclass(frozen=True)
class Served:
    provinces: tuple[str, ...] = ()
    comuni: tuple[str, ...] = ()


OFFICES = {
    "Verona": Served(provinces=("VR",)),
    "Legnago": Served(comuni=("Legnago", "San Donà di Piave")),
    "Vicenza": Served(provinces=("VI", "PD")),
}


def test_a_comune_wins_over_its_province() -> None:
    assert assign_office("VR", "Legnago", OFFICES) == "Legnago"
    assert assign_office("VR", "Verona", OFFICES) == "Verona"
    assert assign_office("PD", "Este", OFFICES) == "Vicenza"


@pytest.mark.parametrize("written", ["SAN DONA' DI PIAVE", "S. Donà di Piave", "San Dona di Piave"])
def test_the_spelling_of_a_comune_may_differ_as_in_the_gazetteer(written: str) -> None:
    assert assign_office("VE", "San Donà di Piave", {"Uno": Served(comuni=(written,))}) == "Uno"


def test_a_name_of_several_comuni_can_carry_its_province() -> None:
    offices = {"Bergamo": Served(comuni=("Castro (BG)",)), "Lecce": Served(comuni=("Castro, LE",))}
    check_territories(offices)
    assert assign_office("BG", "Castro", offices) == "Bergamo"
    assert assign_office("LE", "Castro", offices) == "Lecce"


@pytest.mark.parametrize(("province", "comune"), [("MI", "Milano"), (None, None), ("", ""), (None, "Vo'")])
def test_a_place_nobody_serves_has_no_office(province: str | None, comune: str | None) -> None:
    assert assign_office(province, comune, OFFICES) is None


def test_rows_keep_their_index_and_missing_places_have_none() -> None:
    places = pd.DataFrame(
        {"province": ["VR", None, "VR", "MI"], "comune": ["Legnago", float("nan"), "Bovolone", "Milano"]},
        index=[4, 9, 2, 3],
    )
    office = assign_offices(places, OFFICES)
    assert office.tolist() == ["Legnago", None, "Verona", None]
    assert office.index.tolist() == [4, 9, 2, 3]
    assert office.dtype == object
    assert assign_offices(places.iloc[:0], OFFICES).empty


@given(
    st.lists(
        st.tuples(st.sampled_from(["VR", "VI", "MI", None]), st.sampled_from(["Legnago", "Schio", None])), max_size=20
    )
)
def test_a_column_is_assigned_as_each_row_is(rows: list[tuple[str | None, str | None]]) -> None:
    places = pd.DataFrame(rows, columns=["province", "comune"], dtype=object)
    assert assign_offices(places, OFFICES).tolist() == [assign_office(*row, OFFICES) for row in rows]


@pytest.mark.parametrize(
    ("other", "place"),
    [
        (Served(provinces=("VR",)), "province 'VR' is claimed by both Verona and Altro"),
        (Served(comuni=("LEGNAGO",)), "comune 'LEGNAGO' is claimed by both Legnago and Altro"),
    ],
)
def test_a_place_claimed_twice_is_refused_with_both_names(other: Served, place: str) -> None:
    with pytest.raises(InputError, match=place):
        check_territories(OFFICES | {"Altro": other})
    with pytest.raises(InputError, match="setting offices"):
        assign_offices(pd.DataFrame({"province": ["VR"], "comune": ["Verona"]}), OFFICES | {"Altro": other})


def test_a_territory_may_hold_a_comune_of_its_own_province() -> None:
    check_territories({"Verona": Served(provinces=("VR", "VR"), comuni=("Verona",))})
