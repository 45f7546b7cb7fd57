"""Where the comuni of Italy are, without asking anyone: see `comuni.py` for the rules, `README.md` for the sources."""

from data.gazetteer.comuni import AmbiguousPlace, Comune, Gazetteer

__all__ = ["AmbiguousPlace", "Comune", "Gazetteer"]
