"""Ranking companies for one person with a trained model.

Order: by probability of success, highest first, then by company name; so the same question always has the same answer.
A company farther than the limit is left out; one whose distance is not known stays, with its distance unknown.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from common.encoding import encode
from common.model import MatchingModel, predict
from common.tables import OFFICE
from data.pairs import PairIndex, build_pairs


def rank_companies(
    model: MatchingModel, candidates: pd.DataFrame, companies: pd.DataFrame, person: int, *, distance_max_km: float
) -> pd.DataFrame:
    """Companies of the labour market of the person in row `person`, best first.

    Columns: `rank` from 1, `company_id`, `probability`, `distance_km` (NaN: not known), `compatibility_score`,
    `sector`, `openings`.
    """
    office = candidates[OFFICE].iloc[person]
    market = np.flatnonzero((companies[OFFICE].astype(object) == office).to_numpy())
    index = PairIndex(np.full(len(market), person, dtype=np.int64), market)
    pairs = build_pairs(candidates, companies, index)
    # Rounding depends on a row's place in a batch: each distinct input is predicted once, so that equals stay equal.
    inputs = encode(pairs)
    as_bytes = inputs.view(f"V{inputs.itemsize * inputs.shape[1]}").ravel()
    _, first, row = np.unique(as_bytes, return_index=True, return_inverse=True)
    chosen = companies.iloc[market]
    ranking = pd.DataFrame(
        {
            "company_id": chosen["company_id"].to_numpy(),
            "probability": predict(model, inputs[first])[row],
            "distance_km": pairs["distance_km"].to_numpy(np.float64),
            "compatibility_score": pairs["compatibility_score"].to_numpy(np.float64),
            "sector": chosen["sector"].to_numpy(),
            "openings": chosen["openings"].to_numpy(),
        }
    )
    near = ranking[~(ranking["distance_km"] > distance_max_km)]
    ordered = near.sort_values(["probability", "company_id"], ascending=[False, True], kind="stable")
    ordered.insert(0, "rank", np.arange(1, len(ordered) + 1))
    return ordered.reset_index(drop=True)
