"""Compatibility against scikit-learn fitted anew for every pair, as the definition says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer

from common.tables import EXCLUSIONS
from data.compatibility import compatibility_matrix, italian_stop_words
from data.generator import COMPATIBILITY_PHRASES

WORDS = [
    "turni", "orari", "notturni", "lavoro", "quota", "mansioni", "pesanti", "sollevamento", "carichi", "uso",
    "macchinari", "ambiente", "rumoroso", "remoto", "città", "Città", "CITTÀ", "perché", "part-time", "l'uso",
    "dell'ambiente", "compatibilità", "2024", "di", "e", "il", "con", "della", "non", "per", "a", "x", "è",
]  # fmt: skip
PHRASE = st.lists(st.sampled_from(WORDS), min_size=1, max_size=5).map(" ".join)
GROUP = st.one_of(
    st.lists(st.sampled_from(EXCLUSIONS), max_size=4),
    st.lists(PHRASE, max_size=4),
    st.lists(PHRASE, max_size=2).map(lambda g: g * 2),
).map(tuple)
TEXT = st.one_of(
    st.none(),
    st.just(""),
    st.lists(PHRASE, min_size=1, max_size=4).map(". ".join),
    st.lists(st.sampled_from(COMPATIBILITY_PHRASES), min_size=1, max_size=4).map(
        lambda phrases: ". ".join(phrases) + "."
    ),
)


def reference(exclusions, text):
    """One TF-IDF model per pair, from the definition in words."""
    if not exclusions:
        return 1.0
    if text is None:
        return float("nan")
    try:
        vectors = TfidfVectorizer(stop_words=italian_stop_words()).fit_transform([*exclusions, text]).toarray()
    except ValueError:  # scikit-learn has no word to count
        return 1.0
    similarity = vectors[:-1] @ vectors[-1]
    return float(np.clip(1 - (0.7 * similarity.max() + 0.3 * similarity.mean()), 0.0, 1.0))


@settings(max_examples=120, deadline=None)
@given(st.lists(GROUP, min_size=1, max_size=4), st.lists(TEXT, min_size=1, max_size=4))
def test_every_pair_is_what_scikit_learn_says_of_that_pair_alone(groups, texts):
    found = compatibility_matrix(groups, texts)
    expected = np.array([[reference(group, text) for text in texts] for group in groups])
    assert found.shape == (len(groups), len(texts))
    np.testing.assert_allclose(found, expected, atol=1e-12, rtol=0)


def test_the_words_of_the_vocabulary_agree_with_scikit_learn_too():
    groups = [(one,) for one in EXCLUSIONS] + [(one, other) for one in EXCLUSIONS[:4] for other in EXCLUSIONS[4:7]]
    texts = [*COMPATIBILITY_PHRASES, ". ".join(COMPATIBILITY_PHRASES[-3:])]
    found = compatibility_matrix(groups, texts)
    expected = np.array([[reference(group, text) for text in texts] for group in groups])
    np.testing.assert_allclose(found, expected, atol=1e-12, rtol=0)
    assert 0 < np.mean(found < 1) < 1


@settings(max_examples=25, deadline=None)
@given(st.lists(GROUP, min_size=2, max_size=4), st.lists(TEXT, min_size=2, max_size=4))
def test_a_pair_does_not_depend_on_the_other_people_and_companies(groups, texts):
    together = compatibility_matrix(groups, texts)
    for row, group in enumerate(groups):
        for column, text in enumerate(texts):
            alone = compatibility_matrix([group], [text])[0, 0]
            assert alone == pytest.approx(together[row, column], abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("text", [None, "", "Lavoro in quota", "di e il"])
def test_without_exclusions_everything_is_compatible(text):
    assert compatibility_matrix([()], [text]).tolist() == [[1.0]]


@pytest.mark.parametrize("group", [("Lavoro in quota",), ("di", "e il"), ("x",)])
def test_a_company_that_says_nothing_is_not_known_to_suit(group):
    assert np.isnan(compatibility_matrix([group], [None, None])).all()
    beside = compatibility_matrix([group, ()], [None, "Lavoro in quota"])
    assert np.isnan(beside[0, 0])
    assert not np.isnan(beside[0, 1])
    assert (beside[1] == 1).all()


@pytest.mark.parametrize("text", ["di e il con", "a x", "", "... !"])
@pytest.mark.parametrize("group", [("Lavoro in quota",), ("di e il",), ("a",)])
def test_words_that_do_not_count_make_nothing_similar(group, text):
    assert compatibility_matrix([group], [text]).tolist() == [[1.0]]


def test_the_same_words_are_as_incompatible_as_can_be():
    assert compatibility_matrix([("Lavoro in quota",)], ["lavoro, QUOTA"])[0, 0] == pytest.approx(0.0, abs=1e-12)


def test_one_exclusion_of_two_that_is_named_counts_seven_tenths_and_half_of_three():
    found = compatibility_matrix([("Ambiente rumoroso", "Uso di macchinari")], ["Ambiente rumoroso"])[0, 0]
    assert found == pytest.approx(1 - (0.7 + 0.3 / 2))


def test_nobody_and_no_company_give_an_empty_matrix():
    assert compatibility_matrix([], ["a"]).shape == (0, 1)
    assert compatibility_matrix([("a",)], []).shape == (1, 0)


def test_stop_words_are_sorted_distinct_and_as_the_vectoriser_sees_words():
    words = italian_stop_words()
    assert words == sorted(set(words))
    assert {"di", "il", "della", "non"} & set(words) == {"il", "della", "non", "di"}
    see = TfidfVectorizer().build_tokenizer()
    assert all(see(word) == [word] for word in words)
    assert not {"quota", "notturni", "macchinari", "pesanti", "rumoroso"} & set(words)
