"""The audit: it passes the training that is installed here, and none that adds too little noise, or none."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Outcome
from site_tables import table_of

from client import private_training
from client.private_audit import CanaryAudit, attack_membership, audit_with_canaries
from client.private_noise import PrivateOptimiser
from client.site import load_site
from common.errors import RunError
from common.settings import DifferentialPrivacySettings
from common.training_table import write_training_table

SETTINGS = DifferentialPrivacySettings()
RUNS = 4


def stream(seed: int) -> Callable[[int], bytes]:
    """Bytes that look random and are the same every time, so that a test does not fail by chance."""
    blocks = np.random.default_rng(int.from_bytes(hashlib.sha256(str(seed).encode()).digest()[:8], "big"))
    return blocks.bytes


def audited(seed: int = 1, **changes: Any) -> CanaryAudit:
    settings = SETTINGS.model_copy(update=changes)
    return audit_with_canaries(settings, rounds=10, runs=RUNS, confidence=0.99, random_bytes=stream(seed))


class Unchecked:
    """In the place of the check at run time: a build that has lost it too."""

    def __init__(self, **_: float) -> None:
        self.steps_seen = 0

    def __call__(self, _optimiser: object) -> None:
        self.steps_seen += 1

    def finish(self, _steps: int) -> None:
        """Nothing is looked at."""


def scaled(optimiser: PrivateOptimiser) -> None:
    """Noise a thousand times too small, under the noise multiplier that was promised."""
    promised = optimiser.noise_multiplier
    optimiser.noise_multiplier = promised * 0.001
    _HONEST(optimiser)
    optimiser.noise_multiplier = promised


def skipped(optimiser: PrivateOptimiser) -> None:
    """No noise at all."""
    for p in optimiser.params:
        p.grad = p.summed_grad.view_as(p)


_HONEST = PrivateOptimiser.add_noise


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_ours_passes(seed: int) -> None:
    found = audited(seed)
    assert found.passed
    assert 0.99 < found.claimed <= 1.0
    found.require()


@pytest.mark.parametrize("build", [scaled, skipped])
def test_a_build_whose_noise_is_too_small_or_missing_fails(
    build: Callable[[PrivateOptimiser], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PrivateOptimiser, "add_noise", build)
    monkeypatch.setattr(private_training, "NoiseCheck", Unchecked)
    found = audited()
    assert found.claimed <= 1.0, "the build does not even claim to be private"
    assert found.right == found.canaries
    assert found.observed > 3
    with pytest.raises(RunError, match=r"claims ε 0\.99.*means an ε above [34]"):
        found.require()


@pytest.mark.parametrize("build", [scaled, skipped])
def test_such_a_build_does_not_get_as_far_while_its_own_check_stands(
    build: Callable[[PrivateOptimiser], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PrivateOptimiser, "add_noise", build)
    with pytest.raises(RunError, match="noise"):
        audited()


def test_the_attack_sees_more_where_less_is_promised() -> None:
    rights = [audited(epsilon=epsilon).right for epsilon in (0.5, 8.0, 50.0)]
    assert rights == sorted(rights)
    assert rights[-1] > 0.9 * RUNS * 78


def test_the_command_fails_with_one_sentence_for_a_build_without_noise(
    djms: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PrivateOptimiser, "add_noise", skipped)
    monkeypatch.setattr(private_training, "NoiseCheck", Unchecked)
    failed = djms("privacy", "audit", "--runs", "2")
    assert failed.code != 0
    assert len(failed.err.strip().splitlines()) == 1, failed.err
    assert "means an ε above" in failed.err


@pytest.fixture
def site_table(tmp_path: Path) -> Path:
    path = tmp_path / "CPI_Verona.csv"
    write_training_table(table_of(300, 4, office="CPI_Verona", seed=5), path)
    return path


def test_members_of_an_honest_model_are_not_told_from_others(site_table: Path) -> None:
    site = load_site(site_table, seed=42, validation_share=0.15, test_share=0.4)
    found = attack_membership(site, SETTINGS, rounds=10, random_bytes=stream(4))
    assert found.passed
    assert abs(found.roc_auc - 0.5) < 0.1
    assert found.allowed == pytest.approx((np.e - 1) / (np.e + 1), abs=1e-5)


def test_the_command_says_what_was_claimed_and_what_was_seen(djms: Callable[..., Outcome], site_table: Path) -> None:
    done = djms("privacy", "audit", "--runs", "2", "--table", site_table, "--json")
    assert done.code == 0, done.err
    assert done.data["passed"] is True
    assert done.data["canaries"]["observed"] <= done.data["canaries"]["claimed"] <= 1.0
    assert "INVENTED" not in done.out
