"""What secure aggregation costs: the figures of `djms privacy bench`, each beside the limit it must keep.

Every figure is measured when it is asked for, over sums that are checked against plain sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, Final

from common.progress import Steps
from common.settings import Settings
from federation.secure_bench_costs import SITES, THRESHOLD, Costs, measure_costs
from federation.secure_bench_exchanges import count_exchanges
from federation.secure_bench_scale import measure_round

LIMITS: Final = {
    "client_ratio": 0.2,
    "server_ratio": 0.2,
    "peak_memory_ratio": 4.0,
    "bytes_ratio": 1.05,
    "seconds_550": 120.0,
}
SCALE_PARAMETERS: Final = 5_000
_WHOLE_COUNTRY: Final = 550


def run_bench(settings: Settings, sites: Sequence[int], parameters: int, repeats: int, steps: Steps) -> dict[str, Any]:
    """All figures: ratios at `parameters` numbers, medians of `repeats` turns; a round for each number of sites.

    Raises RunError when a sum under masks is not the plain sum.
    """
    settings = _secured(settings)
    slots = settings.privacy.secure_agg.setup_rounds
    with steps.step("Beside Flower's SecAgg+"):
        costs = measure_costs(parameters, slots, repeats)
    with steps.step("Counting exchanges"):
        exchanges = count_exchanges(settings)
    scale = []
    with steps.step("Rounds in the simulation", total=len(sites)) as advance:
        for number in sites:
            scale.append(measure_round(number, SCALE_PARAMETERS, settings))
            advance()
    result: dict[str, Any] = ratios(costs, parameters, slots)
    result["exchanges_per_round"] = exchanges["complete"]
    result["exchanges_per_round_with_a_gap"] = exchanges["with_a_gap"]
    result["scale"] = scale
    result["seconds_550"] = next((row["seconds"] for row in scale if row["n"] == _WHOLE_COUNTRY), None)
    result["limits"] = LIMITS
    result["within_limits"] = {
        name: None if result[name] is None else result[name] <= limit for name, limit in LIMITS.items()
    }
    result["measured"] = _details(costs, repeats)
    return result


def _secured(settings: Settings) -> Settings:
    """The settings with the whole protocol on, whatever a run of theirs would do, and one sum over everybody."""
    secure = settings.privacy.secure_agg.model_copy(
        update={"enabled": True, "malicious_coordinator": True, "dropout_recovery": True, "groups": 0}
    )
    privacy = settings.privacy.model_copy(update={"enabled": True, "secure_agg": secure})
    federated = settings.federated.model_copy(update={"aggregator": "fedavg"})
    return settings.model_copy(update={"privacy": privacy, "federated": federated})


def ratios(costs: Costs, parameters: int, slots: int) -> dict[str, Any]:
    """The figures that compare, at n = 5.

    Peak memory and bytes are relative to the vector as float32, the work to that of Flower's SecAgg+.
    `client_ratio_with_setup` adds the site's share of the set-up, `client_ratio_with_question` what surrounds the
    protocol (the hash of the model it got, the difference training made), which Flower's figure has nothing of.
    """
    vector_bytes = 4 * parameters
    setup = costs.setup_seconds / slots
    reference = costs.reference_client.seconds
    return {
        "n": SITES,
        "threshold": THRESHOLD,
        "parameters": parameters,
        "setup_rounds": slots,
        "client_ratio": round(costs.client_seconds / reference, 4),
        "client_ratio_with_setup": round((costs.client_seconds + setup) / reference, 4),
        "client_ratio_with_question": round((costs.client_seconds + setup + costs.question_seconds) / reference, 4),
        "server_ratio": round(costs.server_seconds / costs.reference_server.seconds, 4),
        "peak_memory_ratio": round(costs.peak_bytes / vector_bytes, 4),
        "bytes_ratio": round((costs.round_bytes + costs.setup_bytes / slots) / vector_bytes, 4),
    }


def _details(costs: Costs, repeats: int) -> dict[str, Any]:
    """What the ratios are made of: medians of processor seconds, and bytes."""
    return {
        "repeats": repeats,
        "client_seconds": round(costs.client_seconds, 5),
        "client_setup_seconds": round(costs.setup_seconds, 5),
        "client_question_seconds": round(costs.question_seconds, 5),
        "server_seconds": round(costs.server_seconds, 5),
        "client_peak_bytes": costs.peak_bytes,
        "client_bytes_round": costs.round_bytes,
        "client_bytes_setup": costs.setup_bytes,
        "reference": {
            "name": "Flower SecAgg+",
            "version": version("flwr"),
            "client_seconds": round(costs.reference_client.seconds, 5),
            "server_seconds": round(costs.reference_server.seconds, 5),
            "client_peak_bytes": costs.reference_client.peak_bytes,
            "client_bytes_round": costs.reference_client.sent_bytes,
        },
    }
