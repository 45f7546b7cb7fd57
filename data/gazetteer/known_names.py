"""What a maintainer knows and no source says: names and mergers that `build.py` adds to the tables. No coordinates."""

from __future__ import annotations

# Belfiore codes of boundaries that a later merger dissolved -> the comune that holds the territory today.
SUCCESSORS = {
    "H521": "M435", "L487": "M435", "D902": "M436", "I879": "M436", "A121": "M437", "M332": "M437", "B749": "M438",
    "L878": "M438", "A134": "B567", "A645": "M433", "B131": "M433", "E856": "M433", "F709": "M434", "L204": "M434",
}  # fmt: skip

# The settlement where the town hall stands, for comuni whose largest settlement, or first namesake, is another one.
SEATS = {
    "A065": "Africo Nuovo", "M320": "Bazzano", "M374": "Forno di Zoldo", "M375": "Puos d'Alpago",
    "M376": "Cutigliano", "M377": "San Marcello Pistoiese", "M386": "Nibbiano", "M401": "Barbarano Vicentino",
    "M402": "Saletto", "M421": "Mel", "M422": "Crespano del Grappa", "M426": "Mason Vicentino", "M427": "Lusiana",
    "M437": "Quero",
}  # fmt: skip

# Former comuni that no settlement of that name betrays, or several do -> the comune that holds them today.
MERGED_INTO = {
    "Acquacanina": "Fiastra", "Alluvioni Cambiò": "Alluvioni Piovera", "Bigarello": "San Giorgio Bigarello",
    "Canevino": "Colli Verdi", "Casasco d'Intelvi": "Centro Valle Intelvi", "Castel Colonna": "Trecastelli",
    "Castello di Serravalle": "Valsamoggia", "Crosa": "Lessona", "Cursolo-Orasso": "Valle Cannobina",
    "Fiordimonte": "Valfornace", "Germasino": "Gravedona ed Uniti", "Granaglione": "Alto Reno Terme",
    "Mezzani": "Sorbolo Mezzani", "Molvena": "Colceresa", "Monteveglio": "Valsamoggia", "Montoro Inferiore": "Montoro",
    "Quero Vas": "Setteville", "Saletto": "Borgo Veneto", "Valverde": "Colli Verdi",
    "Vergemoli": "Fabbriche di Vergemoli", "Zambana": "Terre d'Adige",
}  # fmt: skip

REPAIRED = {"Savogna d'Isonzo": "Sovodnje ob Soči"}  # the list as published lost the č

# Other names of comuni: foreign ones, those of daily use, of places that grew into one town with their comune, and of a
# merger younger than the list.
OTHER_NAMES = {
    "Aosta": ("Aoste",), "Castegnero": ("Castegnero Nanto",), "Chioggia": ("Sottomarina",),
    "Firenze": ("Florence", "Florenz"), "Genova": ("Genoa", "Genua"), "Gorizia": ("Gorica", "Görz"),
    "L'Aquila": ("Aquila",), "Livorno": ("Leghorn",), "Mantova": ("Mantua",), "Milano": ("Milan", "Mailand"),
    "Napoli": ("Naples", "Neapel"), "Padova": ("Padua", "Padoue"),
    "Reggio di Calabria": ("Reggio Calabria",), "Reggio nell'Emilia": ("Reggio Emilia", "Reggio d'Emilia"),
    "Roma": ("Rome", "Rom"), "Siracusa": ("Syracuse",), "Torino": ("Turin",), "Trento": ("Trent", "Trient"),
    "Treviso": ("Trevise",), "Trieste": ("Triest", "Trst"), "Venezia": ("Venice", "Venedig", "Venise"),
    "Vicenza": ("Vicence",), "Vo'": ("Vo' Euganeo",),
}  # fmt: skip

# Shorter names of daily use: (short, comune, province). They count only where the region or province is known.
EVERYDAY = (
    ("Villafranca", "Villafranca di Verona", "VR"),
    ("Bassano", "Bassano del Grappa", "VI"),
    ("Castelfranco", "Castelfranco Veneto", "TV"),
)

# Districts known by their own name all over the country: (name as people say it, name in GeoNames, comune).
KNOWN = (
    ("Mestre", "Mestre", "Venezia"),
    ("Venezia Mestre", "Mestre", "Venezia"),
    ("Marghera", "Marghera", "Venezia"),
    ("Favaro Veneto", "Favaro Veneto", "Venezia"),
    ("Lido di Venezia", "Lido", "Venezia"),
    ("Murano", "Murano", "Venezia"),
    ("Burano", "Burano", "Venezia"),
    ("Lido di Jesolo", "Lido di Jesolo", "Jesolo"),
    ("Ostia", "Lido di Ostia", "Roma"),
    ("Lido di Ostia", "Lido di Ostia", "Roma"),
)
