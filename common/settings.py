"""The settings of DJMS: every key, its type, its range, its default, and which combinations are refused.

A key is looked up in this order: the command line (`--set key=value`, or the key's own flag such as `--dp.epsilon`),
the environment (`DJMS_FEDERATED__ROUNDS=5`), the settings file (`config.yaml`), the default given here.

Rules kept here:

* an unknown key is an error that names the nearest known one, wherever it came from;
* protections that cannot be combined are refused when settings load, with the reason, never weakened in silence.
"""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from common.errors import InputError
from common.settings_rules import SMALLEST_GROUP, refuse_what_does_not_fit, threshold_trouble, units_to_trim
from common.tables import OUTCOME_LADDER

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]
Minority = Annotated[float, Field(ge=0.0, lt=0.5)]

_THRESHOLD_COUNT = re.compile(r"^(\d+)-of-([1-9]\d*)$")
_THRESHOLD_SHARE = re.compile(r"^(\d+)%$")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())


class PathSettings(_Section):
    """Where files lie, relative to the working directory."""

    raw_candidates: Path = Path("data/raw/Dataset_Candidati_Aggiornato.csv")
    raw_companies: Path = Path("data/raw/Dataset_Aziende_con_Stima_Assunzioni.csv")
    processed_dir: Path = Path("data/processed")
    training_csv: Path = Path("data/processed/Enhanced_Training_Dataset.csv")
    federated_dir: Path = Path("data/federated")
    ledger_dir: Path = Path("data/ledgers")
    anchor_dir: Path = Path("data/anchoring")
    witness_dir: Path = Path("data/witnesses")
    results_dir: Path = Path("results")


class UiSettings(_Section):
    """What operators see."""

    distance_max_km: float = Field(default=30.0, gt=0)


class TrainingSettings(_Section):
    """Models trained on pooled data (comparison), and the shape of the matching model."""

    model_set: tuple[Literal["LightGBM_Optimized", "MLP"], ...] = ("LightGBM_Optimized", "MLP")
    optuna_trials: Positive = 50
    calibration: Literal["sigmoid", "none"] = "sigmoid"
    hidden: tuple[Positive, ...] = (32, 16)


class FederatedSettings(_Section):
    """One federated run."""

    rounds: Positive = 10
    min_clients: Annotated[int, Field(ge=2)] = 3
    aggregator: Literal["fedavg", "trimmed_mean", "coordinate_median"] = "fedavg"
    batch_size: Positive = 256
    local_epochs: Positive = 8
    learning_rate: float = Field(default=0.015, gt=0)
    trim: float = Field(default=0.2, gt=0.0, lt=0.5)
    wait_timeout: float = Field(default=120.0, gt=0)
    round_timeout: float = Field(default=600.0, gt=0)
    max_abandoned: Positive = 3


class DifferentialPrivacySettings(_Section):
    """What a run may cost the people it learns from, and how it trains within that."""

    enabled: bool = True
    unit: Literal["candidate", "site"] = "candidate"
    epsilon: float = Field(default=1.0, gt=0)
    delta: float = Field(default=1e-6, gt=0, lt=1)
    max_grad_norm: float = Field(default=0.1, gt=0)
    update_norm: float = Field(default=1.0, ge=1e-3, le=1e3)
    accountant: Literal["rdp"] = "rdp"
    hidden: tuple[Positive, ...] = ()
    local_steps: Positive = 8
    sampling_rate: float = Field(default=1.0, gt=0, le=1)
    momentum: float = Field(default=0.5, ge=0, lt=1)
    averaged_rounds: Positive = 5


class BudgetSettings(_Section):
    """What a site lets its people pay in all, over runs and models; kept by the site, whatever a run asks."""

    max_epsilon: float = Field(default=3.0, gt=0)
    delta: float = Field(default=1e-6, gt=0, lt=1)
    valid_until: date | None = None


class SecureAggregationSettings(_Section):
    """How sites' updates are summed without anyone seeing one of them."""

    enabled: bool = True
    scheme: Literal["shamir"] = "shamir"
    threshold: str = "3-of-5"
    dropout_recovery: bool = True
    malicious_coordinator: bool = True
    groups: Annotated[int, Field(ge=0)] = 0
    setup_rounds: Annotated[int, Field(ge=1, le=10_000)] = 20
    colluders: Minority = 0.05
    dropouts: Minority = 0.05
    max_people: Annotated[int, Field(ge=1, le=2**24)] = 16384
    value_bound: float = Field(default=2.0, gt=0)
    rounding: Literal["nearest", "stochastic"] = "nearest"

    @property
    def threshold_count(self) -> tuple[int, int] | None:
        """(t, n) of a threshold "t-of-n"; None for a share of the cohort."""
        count = _THRESHOLD_COUNT.match(self.threshold)
        return None if count is None else (int(count[1]), int(count[2]))

    @field_validator("groups")
    @classmethod
    def _one_group_is_none(cls, value: int) -> int:
        if value == 1:
            raise ValueError("one group is the whole cohort; write 0 for no groups, or 2 or more")
        return value

    @field_validator("threshold")
    @classmethod
    def _threshold_is_possible(cls, value: str) -> str:
        if count := _THRESHOLD_COUNT.match(value):
            needed, total = int(count[1]), int(count[2])
            if needed > total:
                raise ValueError(
                    f"{value!r} asks for {needed} of only {total} sites; write at most '{total}-of-{total}'"
                )
            if 2 * needed <= total:
                raise ValueError(
                    f"{value!r} is not above half of the cohort, so two disjoint groups of sites could each reveal a "
                    f"sum; write at least '{total // 2 + 1}-of-{total}'"
                )
            return value
        if share := _THRESHOLD_SHARE.match(value):
            if not 50 < int(share[1]) <= 100:
                raise ValueError(f"{value!r} is not above 50% and at most 100%; write for example '60%'")
            return value
        raise ValueError(f"{value!r} is neither like '3-of-5' nor like '60%'; write one of these two forms")


class PrivacySettings(_Section):
    """Protections of the people behind the records."""

    enabled: bool = True
    dp: DifferentialPrivacySettings = DifferentialPrivacySettings()
    budget: BudgetSettings = BudgetSettings()
    secure_agg: SecureAggregationSettings = SecureAggregationSettings()

    @property
    def differential_privacy(self) -> bool:
        """Whether the run must have it: `enabled` switches both protections off, each section's own key one."""
        return self.enabled and self.dp.enabled

    @property
    def secure_aggregation(self) -> bool:
        """Whether the run must have it: `enabled` switches both protections off, each section's own key one."""
        return self.enabled and self.secure_agg.enabled


class EvmSettings(_Section):
    """An EVM node that a checkpoint's root can be written to, in the data of a transaction."""

    rpc_url: str = "http://127.0.0.1:8545"
    chain_id: Positive | None = None
    key_file: Path | None = None
    confirmations: Positive = 1


class TimestampSettings(_Section):
    """A time-stamping authority (RFC 3161) that can attest when a checkpoint existed."""

    url: str = ""
    certificates: Path | None = None


class AnchoringSettings(_Section):
    """The append-only record of what was trained."""

    enabled: bool = True
    backend: Literal["merkle"] = "merkle"
    anchor_every_n: Positive = 1
    witnesses: Annotated[int, Field(ge=1, le=99)] = 3
    publish: Literal["none", "evm", "rfc3161"] = "none"
    evm: EvmSettings = EvmSettings()
    timestamp: TimestampSettings = TimestampSettings()


class Territory(_Section):
    """The comuni an office serves: whole provinces (two-letter codes), single comuni, or both."""

    provinces: tuple[str, ...] = ()
    comuni: tuple[str, ...] = ()

    @field_validator("provinces")
    @classmethod
    def _two_letters(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        wrong = [code for code in value if not re.fullmatch(r"[A-Z]{2}", code)]
        if wrong:
            raise ValueError(f"{wrong[0]!r} is not a province's code of two capital letters, such as 'VR'")
        return value

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if not self.provinces and not self.comuni:
            raise ValueError("an office needs at least one province or comune")
        return self


def _pairs_or_all(value: Any) -> Any:
    if isinstance(value, str) and value.strip().isdigit():
        return int(value)
    return value


PairsPerCandidate = Annotated[Positive | Literal["all"], BeforeValidator(_pairs_or_all)]


class GeocodingSettings(_Section):
    """Looking a place up on a Nominatim server when the gazetteer does not know it. Off: residence is personal data."""

    enabled: bool = False
    domain: str = "nominatim.openstreetmap.org"
    user_agent: str = ""

    @model_validator(mode="after")
    def _names_itself(self) -> Self:
        if self.enabled and not self.user_agent.strip():
            raise ValueError(
                "geocoding needs user_agent, a name and contact the service can see, for example an address"
            )
        return self


class DataSettings(_Section):
    """From raw files to the training table."""

    pairs_per_candidate: PairsPerCandidate = 50
    unknown_places: Literal["refuse", "keep"] = "refuse"
    success_from: str = "assunto"
    validation_share: Fraction = 0.15
    test_share: Fraction = 0.15
    geocoding: GeocodingSettings = GeocodingSettings()

    @field_validator("success_from")
    @classmethod
    def _is_a_step(cls, value: str) -> str:
        if value not in OUTCOME_LADDER:
            raise ValueError(f"{value!r} is not a step of an outcome; write one of: {', '.join(OUTCOME_LADDER)}")
        return value

    @model_validator(mode="after")
    def _something_left_to_train_on(self) -> Self:
        if self.validation_share + self.test_share >= 1.0:
            raise ValueError("validation_share and test_share leave nobody to train on; their sum must be under 1")
        return self


def _veneto() -> dict[str, Territory]:
    return {
        "CPI_Verona": Territory(provinces=("VR",)),
        "CPI_Vicenza": Territory(provinces=("VI",)),
        "CPI_Padova": Territory(provinces=("PD",)),
        "CPI_Treviso": Territory(provinces=("TV",)),
        "CPI_Venezia": Territory(provinces=("VE",)),
    }


class Settings(_Section):
    """Every setting of one DJMS installation or run. Frozen: a run's settings do not change under it."""

    seed: Annotated[int, Field(ge=0, lt=2**32, strict=True)] = 42
    paths: PathSettings = PathSettings()
    ui: UiSettings = UiSettings()
    training: TrainingSettings = TrainingSettings()
    federated: FederatedSettings = FederatedSettings()
    privacy: PrivacySettings = PrivacySettings()
    anchoring: AnchoringSettings = AnchoringSettings()
    data: DataSettings = DataSettings()
    offices: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")], Territory] = Field(
        default_factory=_veneto, min_length=1
    )

    @model_validator(mode="after")
    def _protections_fit_together(self) -> Self:
        refuse_what_does_not_fit(self)
        return self

    @property
    def hidden(self) -> tuple[int, ...]:
        """Units of the hidden layers of a run's model: private training has a shape of its own."""
        return self.privacy.dp.hidden if self.privacy.differential_privacy else self.training.hidden

    @property
    def quorum(self) -> int:
        """Sites without which a round is not run: `min_clients`, and for a trimmed mean enough to trim somebody.

        Under secure aggregation a robust aggregator works on groups, and each needs its sites.
        """
        federated = self.federated
        if self.privacy.secure_aggregation:
            return max(federated.min_clients, SMALLEST_GROUP * self.privacy.secure_agg.groups)
        if federated.aggregator != "trimmed_mean":
            return federated.min_clients
        return max(federated.min_clients, units_to_trim(federated.trim))

    def require_quorum(self, sites: int) -> None:
        """Raise InputError when a federation of so many sites can never run a round."""
        federated = self.federated
        if sites < self.quorum:
            trimmed = f" and a trimmed mean with trim {federated.trim:g}" if self.quorum > federated.min_clients else ""
            raise InputError(
                f"federated.min_clients {federated.min_clients}{trimmed} needs {self.quorum} sites, and there are "
                f"{sites}",
                where="settings key 'federated'",
                remedy="add offices, or lower the number of sites needed",
            )
        if self.anchoring.enabled and sites < self.anchoring.witnesses:
            raise InputError(
                f"{self.anchoring.witnesses} witnesses are to cosign, and there are {sites} sites, so no model would "
                "ever count as published",
                where="settings key 'anchoring.witnesses'",
                remedy="add offices, or lower it",
            )
        if (trouble := threshold_trouble(self, sites)) is not None:
            raise InputError(
                trouble, where="settings key 'privacy.secure_agg'", remedy="write a share of the cohort, e.g. '60%'"
            )
