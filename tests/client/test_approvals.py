"""What a site's operator approved, and how a bundle differs from it."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.approvals import Approvals, Bundle, BundleRefused, Changes, require_approved
from common.errors import InputError


def bundle(**files: str) -> bytes:
    """A bundle as Flower makes them, with these files."""
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
        archive.writestr(".info/CONTENT", "whatever it says, the files themselves are hashed")
    return memory.getvalue()


def test_nothing_is_approved_before_it_was(tmp_path: Path) -> None:
    with pytest.raises(BundleRefused, match="not approved at this site"):
        require_approved(tmp_path, "0" * 64)


def test_what_was_approved_is_known_by_its_hash_and_by_nothing_else(tmp_path: Path) -> None:
    one = Bundle.of(bundle(a="1"), "0.1.0")
    Approvals(tmp_path).approve(one)
    require_approved(tmp_path, one.sha256)
    for wrong in (one.sha256[:16], one.sha256.upper(), f"{one.sha256}\n", f"../approved/{one.sha256}", ""):
        with pytest.raises(BundleRefused):
            require_approved(tmp_path, wrong)


def test_the_hash_is_that_of_the_bytes() -> None:
    content = bundle(a="1")
    listed = Bundle.of(content, "0.1.0")
    assert listed.sha256 == hashlib.sha256(content).hexdigest()
    assert dict(listed.files) == {"a": hashlib.sha256(b"1").hexdigest()}


names = st.dictionaries(st.sampled_from("abcdef"), st.sampled_from("xyz"), max_size=6)


@given(names, names)
def test_changes_lead_from_one_bundle_to_the_other(before: dict[str, str], after: dict[str, str]) -> None:
    found = Changes.between(Bundle.of(bundle(**before), ""), Bundle.of(bundle(**after), ""))
    rebuilt = {path: text for path, text in before.items() if path not in found.removed}
    rebuilt |= {path: after[path] for path in (*found.added, *found.changed)}
    assert rebuilt == after
    assert not set(found.added) & set(before)
    assert all(before[path] != after[path] for path in found.changed)


def test_a_refused_bundle_is_remembered_until_it_is_approved(tmp_path: Path) -> None:
    approvals = Approvals(tmp_path)
    first, second = Bundle.of(bundle(a="1"), "0.1.0"), Bundle.of(bundle(a="2"), "0.2.0")
    approvals.note_offered(second)
    approvals.approve(first)
    assert approvals.offered() == second
    assert approvals.last() == first
    approvals.approve(second)
    assert approvals.offered() is None
    assert approvals.last() == second
    assert approvals.has(first.sha256)


@pytest.mark.parametrize("content", [b"", b"PK", bundle(a="1")[:-30]])
def test_what_is_no_bundle_is_said_to_be_none(content: bytes) -> None:
    with pytest.raises(InputError, match="no application bundle"):
        Bundle.of(content, "0.1.0")


def test_a_bundle_that_grows_without_end_when_it_is_opened_is_refused() -> None:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb", b"0" * (11 * 2**20))
    with pytest.raises(InputError, match="no application bundle"):
        Bundle.of(memory.getvalue(), "0.1.0")
