"""Names of the provinces, regions and country that people write after a town: `Verona (VR)`, `Padua, Veneto, Italy`.

Codes and names of the 107 provinces and metropolitan cities are ISTAT's, as they are in `comuni.tsv`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from data.gazetteer.spelling import normalise

COUNTRY = frozenset({"italia", "italy", "italien", "italie", "it"})

PROVINCES = {
    "AG": "Agrigento", "AL": "Alessandria", "AN": "Ancona", "AO": "Valle d'Aosta/Vallée d'Aoste",
    "AP": "Ascoli Piceno", "AQ": "L'Aquila", "AR": "Arezzo", "AT": "Asti", "AV": "Avellino", "BA": "Bari",
    "BG": "Bergamo", "BI": "Biella", "BL": "Belluno", "BN": "Benevento", "BO": "Bologna", "BR": "Brindisi",
    "BS": "Brescia", "BT": "Barletta-Andria-Trani", "BZ": "Bolzano/Bozen", "CA": "Cagliari", "CB": "Campobasso",
    "CE": "Caserta", "CH": "Chieti", "CL": "Caltanissetta", "CN": "Cuneo", "CO": "Como", "CR": "Cremona",
    "CS": "Cosenza", "CT": "Catania", "CZ": "Catanzaro", "EN": "Enna", "FC": "Forlì-Cesena", "FE": "Ferrara",
    "FG": "Foggia", "FI": "Firenze", "FM": "Fermo", "FR": "Frosinone", "GE": "Genova", "GO": "Gorizia",
    "GR": "Grosseto", "IM": "Imperia", "IS": "Isernia", "KR": "Crotone", "LC": "Lecco", "LE": "Lecce",
    "LI": "Livorno", "LO": "Lodi", "LT": "Latina", "LU": "Lucca", "MB": "Monza e della Brianza", "MC": "Macerata",
    "ME": "Messina", "MI": "Milano", "MN": "Mantova", "MO": "Modena", "MS": "Massa-Carrara", "MT": "Matera",
    "NA": "Napoli", "NO": "Novara", "NU": "Nuoro", "OR": "Oristano", "PA": "Palermo", "PC": "Piacenza",
    "PD": "Padova", "PE": "Pescara", "PG": "Perugia", "PI": "Pisa", "PN": "Pordenone", "PO": "Prato", "PR": "Parma",
    "PT": "Pistoia", "PU": "Pesaro e Urbino", "PV": "Pavia", "PZ": "Potenza", "RA": "Ravenna",
    "RC": "Reggio Calabria", "RE": "Reggio nell'Emilia", "RG": "Ragusa", "RI": "Rieti", "RM": "Roma", "RN": "Rimini",
    "RO": "Rovigo", "SA": "Salerno", "SI": "Siena", "SO": "Sondrio", "SP": "La Spezia", "SR": "Siracusa",
    "SS": "Sassari", "SU": "Sud Sardegna", "SV": "Savona", "TA": "Taranto", "TE": "Teramo", "TN": "Trento",
    "TO": "Torino", "TP": "Trapani", "TR": "Terni", "TS": "Trieste", "TV": "Treviso", "UD": "Udine", "VA": "Varese",
    "VB": "Verbano-Cusio-Ossola", "VC": "Vercelli", "VE": "Venezia", "VI": "Vicenza", "VR": "Verona", "VT": "Viterbo",
    "VV": "Vibo Valentia",
}  # fmt: skip

# Codes and names that older papers still carry -> the code of today.
FORMER_PROVINCES = {
    "PS": "PU", "FO": "FC", "OT": "SS", "OG": "NU", "CI": "SU", "VS": "SU", "Olbia-Tempio": "SS", "Ogliastra": "NU",
    "Carbonia-Iglesias": "SU", "Medio Campidano": "SU", "Monza e Brianza": "MB", "Reggio Emilia": "RE",
    "Reggio di Calabria": "RC", "Verbania": "VB", "Verbano Cusio Ossola": "VB",
}  # fmt: skip

# Other names of provinces -> code, and of regions -> official name.
PROVINCES_ABROAD = {
    "Rome": "RM", "Roma Capitale": "RM", "Milan": "MI", "Venice": "VE", "Padua": "PD", "Florence": "FI", "Turin": "TO",
    "Naples": "NA", "Genoa": "GE", "Leghorn": "LI", "Mantua": "MN", "Syracuse": "SR", "South Tyrol": "BZ",
    "Alto Adige": "BZ", "Südtirol": "BZ", "Trentino": "TN", "Trent": "TN", "Monza and Brianza": "MB",
}  # fmt: skip
REGIONS_ABROAD = {
    "Lombardy": "Lombardia", "Piedmont": "Piemonte", "Tuscany": "Toscana", "Sicily": "Sicilia", "Sardinia": "Sardegna",
    "Apulia": "Puglia", "Latium": "Lazio", "The Marches": "Marche", "Le Marche": "Marche", "Basilicate": "Basilicata",
    "Aosta Valley": "Valle d'Aosta/Vallée d'Aoste", "Trentino-South Tyrol": "Trentino-Alto Adige/Südtirol",
    "Friuli": "Friuli-Venezia Giulia", "Romagna": "Emilia-Romagna", "Emilia": "Emilia-Romagna", "Venetien": "Veneto",
}  # fmt: skip


def provinces_by_name(regions_of_provinces: Iterable[tuple[str, str]]) -> dict[str, frozenset[str]]:
    """What can follow a town's name, normalised -> the codes of the provinces it stands for.

    Takes (province code, region) pairs, which may repeat.
    """
    codes: dict[str, set[str]] = defaultdict(set)
    provinces = [(alias, code) for code, name in PROVINCES.items() for alias in (code, name, *name.split("/"))]
    for alias, code in (*provinces, *FORMER_PROVINCES.items(), *PROVINCES_ABROAD.items()):
        for form in ("{}", "provincia di {}", "provincia {}", "prov {}", "province of {}", "citta metropolitana di {}"):
            codes[normalise(form.format(alias))].add(code)
    regions: dict[str, set[str]] = defaultdict(set)
    for code, region in regions_of_provinces:
        regions[region].add(code)
    for alias, name in (*((region, region) for region in regions), *REGIONS_ABROAD.items()):
        for form in (alias, *alias.split("/"), f"Regione {alias}"):
            codes[normalise(form)] |= regions[name]
    return {key: frozenset(found) for key, found in codes.items()}
