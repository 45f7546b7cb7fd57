"""Training tables of invented people for tests of a site."""

import numpy as np
import pandas as pd

from common.tables import (
    CANDIDATE_ID,
    COMPANY_ID,
    MATCH_PROBABILITY,
    NUMERIC_COLUMNS,
    OFFICE,
    ONE_HOT_COLUMNS,
    OUTCOME,
)


def table_of(people=40, pairs=3, *, office="CPI_Padova", seed=1, probability=True):
    rng = np.random.default_rng(seed)
    rows = people * pairs
    table = pd.DataFrame(
        {
            CANDIDATE_ID: pd.Categorical([f"INVENTED{number % people:03d}" for number in range(rows)]),
            COMPANY_ID: pd.Categorical([f"Ditta {number}" for number in range(rows)]),
            OFFICE: pd.Categorical([office] * rows),
            OUTCOME: rng.integers(0, 2, rows).astype(np.uint8),
            **{name: rng.random(rows, dtype=np.float32) for name in NUMERIC_COLUMNS},
            **{name: rng.integers(0, 2, rows).astype(np.uint8) for name in ONE_HOT_COLUMNS},
        }
    )
    return table.assign(**{MATCH_PROBABILITY: rng.random(rows, dtype=np.float32)}) if probability else table
