"""Raw files as some office might export them, written without the project's generator: a second opinion on the format.

Plain loops over Python's own random numbers; other distributions, other texts and other optional columns than the
generator's. Everything is invented and called so.
"""

from __future__ import annotations

import csv
import random
from pathlib import Path

TOWNS = {
    "CPI_Verona": [("Verona", 45.44, 10.99), ("Legnago", 45.19, 11.31), ("San Bonifacio", 45.40, 11.27)],
    "CPI_Vicenza": [("Vicenza", 45.55, 11.55), ("Schio", 45.71, 11.36), ("Bassano del Grappa", 45.77, 11.73)],
    "CPI_Padova": [("Padova", 45.41, 11.88), ("Este", 45.23, 11.66), ("Cittadella", 45.65, 11.78)],
    "CPI_Treviso": [("Treviso", 45.67, 12.24), ("Conegliano", 45.89, 12.30), ("Oderzo", 45.78, 12.49)],
    "CPI_Venezia": [("Venezia", 45.44, 12.33), ("Chioggia", 45.22, 12.28), ("Portogruaro", 45.78, 12.84)],
}
SECTORS = ["Agricoltura", "Logistica e trasporti", "Servizi IT", "Costruzioni", "Educazione", "Ristorazione"]
EXCLUSIONS = ["Lavoro in quota", "Mansioni pesanti", "Ambiente rumoroso", "Uso di macchinari", "Orari notturni"]
TEXTS = [
    "Adatto a limitazioni motorie, sede accessibile",
    "Sono richieste mansioni pesanti in ambiente rumoroso",
    "Ufficio tranquillo, orari flessibili e tutoraggio",
    "Lavoro in quota e uso di macchinari",
    "",
]


def write_office_files(directory: Path, people: int, companies: int, seed: int) -> None:
    """The two CSV files of all five offices in `directory`; no optional column but coordinates and education."""
    random_ = random.Random(seed)
    directory.mkdir(parents=True, exist_ok=True)
    offices = list(TOWNS)
    with (directory / "Dataset_Candidati_Aggiornato.csv").open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["Titolo di Studio", "Esclusioni", "Score Attitudine al Collocamento", "Area di Residenza",
             "Coord_Residenza", "Note interne"]
        )  # fmt: skip
        for number in range(people):
            town, latitude, longitude = random_.choice(TOWNS[offices[number % 5]])
            place = f"({latitude + random_.gauss(0, 0.06):.4f}, {longitude + random_.gauss(0, 0.06):.4f})"
            low = random_.random() < 0.1
            attitude = random_.uniform(0, 0.1) if low else random_.triangular(0.1, 1.0, 0.7)
            writer.writerow(
                [
                    random_.choice(["Diploma", "laurea", " Licenza Media ", ""]),
                    ", ".join(random_.sample(EXCLUSIONS, random_.choice([0, 0, 1, 2]))),
                    f"{attitude:.2f}",
                    town if random_.random() < 0.5 else f"{town}, Veneto, Italy",
                    place if random_.random() < 0.8 else "",
                    "inventato",
                ]
            )
    with (directory / "Dataset_Aziende_con_Stima_Assunzioni.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerow(
            ["Nome Azienda", "Area di Attività", "Tipo di Attività", "Numero Dipendenti",
             "Quota Dipendenti Categoria Protetta", "Assunti Categoria Protetta", "Posizioni Aperte", "Compatibilità"]
        )  # fmt: skip
        for number in range(companies):
            town, _, _ = random_.choice(TOWNS[offices[number % 5]])
            employees = random_.choice([20, 40, 80, 300])
            quota = {20: 1, 40: 2, 80: 5, 300: 21}[employees]
            hired = random_.randint(0, quota)
            writer.writerow(
                [f"Ditta inventata, n. {number}", town, random_.choice(SECTORS), employees, quota,
                 hired, quota - hired, random_.choice(TEXTS)]
            )  # fmt: skip


def write_outcomes(directory: Path, rows: list[tuple[str, str, str, str]]) -> None:
    """`Esiti_Collocamento.csv` with rows of candidate, company, ISO date, step."""
    with (directory / "Esiti_Collocamento.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["ID_Candidato", "Nome Azienda", "Data", "Esito"])
        writer.writerows(rows)
