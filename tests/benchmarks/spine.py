"""What the main job costs: pairs, a round, the whole demo. Prints one JSON object; run on an otherwise idle machine.

    python tests/benchmarks/spine.py            all of it, about two minutes
    python tests/benchmarks/spine.py pairs      the pairs alone

Each figure stands beside the one it must not pass. The pairs also stand beside the plain way of the reference's own
definition (one TF-IDF model fitted per pair), measured in the same run on a sample and scaled up: absolute times mean
little on a noisy machine, the ratio means something.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

SAMPLE = 300


def pairs() -> dict[str, Any]:
    """1,000 people x 500 companies, every combination, with labels by the reference rule."""
    from common.settings_loading import load_settings
    from data.generator import generate, write_raw
    from data.labels import draw_labels
    from data.pairs import build_pairs, choose_pairs
    from data.preparation import prepare, raw_files_of

    settings = load_settings(["data.pairs_per_candidate=1"], environment={})
    with tempfile.TemporaryDirectory() as folder:
        write_raw(generate(candidates=1_000, companies=500, seed=42), Path(folder))
        dataset = prepare(raw_files_of(settings, Path(folder)), settings)
    before = _peak_megabytes()
    started = time.perf_counter()
    index = choose_pairs(dataset.candidates, dataset.companies, "all", rng=np.random.default_rng(0))
    table = build_pairs(dataset.candidates, dataset.companies, index)
    labels, _ = draw_labels(table, {}, rng=np.random.default_rng(1))
    seconds = time.perf_counter() - started
    plain = _plain_compatibility_seconds(dataset.candidates, dataset.companies) * len(table)
    return {
        "pairs": len(table),
        "match_rate": round(float(labels.mean()), 4),
        "seconds": round(seconds, 2),
        "seconds_at_most": 5,
        "peak_megabytes": round(_peak_megabytes()),
        "peak_megabytes_before": round(before),
        "peak_megabytes_at_most": 2_000,
        "plain_way_seconds": round(plain),
        "ratio_to_plain_way": round(seconds / plain, 5),
    }


def demo() -> dict[str, Any]:
    """`djms demo` as installed, and its rounds; the first round also waits for the workers to start."""
    command = Path(sys.executable).with_name("djms")
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        done = subprocess.run(
            [command, "demo", "--json", "--out", f"{folder}/run"],
            capture_output=True,
            text=True,
            check=False,
            cwd=folder,
        )
        seconds = time.perf_counter() - started
        if done.returncode:
            raise SystemExit(done.stderr)
        rounds = pd.read_csv(f"{folder}/run/rounds.csv")["seconds"]
    metrics = json.loads(done.stdout)["metrics"]
    return {
        "demo_seconds": round(seconds, 1),
        "demo_seconds_at_most": 120,
        "round_seconds_median": round(statistics.median(rounds[1:]), 2),
        "round_seconds_first": round(float(rounds[0]), 2),
        "round_seconds_at_most": 3,
        "roc_auc": {name: values["roc_auc"] for name, values in metrics.items()},
    }


def _plain_compatibility_seconds(candidates: pd.DataFrame, companies: pd.DataFrame) -> float:
    """Seconds a pair takes when its TF-IDF model is fitted for it, averaged over a sample with exclusions."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.metrics.pairwise import cosine_similarity

    from data.compatibility import italian_stop_words

    stop_words = italian_stop_words()
    rng = np.random.default_rng(0)
    people = rng.integers(len(candidates), size=SAMPLE)
    firms = rng.integers(len(companies), size=SAMPLE)
    started = time.perf_counter()
    for person, firm in zip(people, firms, strict=True):
        exclusions = candidates["exclusions"].iloc[person]
        if exclusions:
            text = companies["compatibility_text"].iloc[firm]
            vectors = TfidfVectorizer(stop_words=stop_words).fit_transform([*exclusions, text])
            cosine_similarity(vectors[:-1], vectors[-1])
    return (time.perf_counter() - started) / SAMPLE


def _peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    result = {"pairs": pairs()}
    if "pairs" not in sys.argv[1:]:
        result["demo"] = demo()
    print(json.dumps(result, indent=2))
