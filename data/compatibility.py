"""How well a company's own words suit a person's exclusions: TF-IDF cosine similarity, for every pair at once.

The reference definition fits one TF-IDF model per pair, on the person's exclusions and the company's text. Its weights
have a closed form, so nothing is fitted here: for a term in `df` of the pair's `n` documents the weight is
`ln((1 + n) / (1 + df)) + 1` times its count, rows scaled to length one (scikit-learn's smooth, L2-normalised TF-IDF;
Manning, Raghavan, Schütze, Introduction to Information Retrieval, 6.2-6.4). Words of one letter and Italian stop words
do not count.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import CountVectorizer
from stop_words import get_stop_words

MAX_WEIGHT = 0.7
MEAN_WEIGHT = 0.3


def italian_stop_words() -> list[str]:
    """Italian stop words as the vectoriser sees words (`l'ogn` is `ogn`), sorted."""
    see = CountVectorizer().build_tokenizer()
    return sorted({part for word in get_stop_words("it") for part in see(word)})


def compatibility_matrix(exclusion_sets: Sequence[tuple[str, ...]], texts: Sequence[str | None]) -> NDArray[np.float64]:
    """Compatibility in [0, 1] of each set of exclusions with each company's text, shape (sets, texts).

    `1 - (0.7 max s + 0.3 mean s)` over the cosine similarities `s` of the exclusions with the text; 1 where there are
    no exclusions; NaN where there are exclusions and the company says nothing (None), for that is not known.
    """
    result = np.ones((len(exclusion_sets), len(texts)))
    if not exclusion_sets or not texts:
        return result
    said = np.array([text is not None for text in texts])
    vectoriser = CountVectorizer(stop_words=italian_stop_words(), dtype=np.float64)
    every = [exclusion for group in exclusion_sets for exclusion in group]
    try:
        vectoriser.fit([*every, *(text or "" for text in texts)])
    except ValueError:  # no word is left once stop words are out: nothing is similar to anything
        for row, group in enumerate(exclusion_sets):
            if group:
                result[row, ~said] = np.nan
        return result
    text_counts = vectoriser.transform([text or "" for text in texts]).toarray()
    text_squares = (text_counts**2).sum(axis=1)
    for row, group in enumerate(exclusion_sets):
        if group:
            counts = vectoriser.transform(group).toarray()
            result[row] = _compatibility(counts, text_counts, text_squares)
            result[row, ~said] = np.nan
    return result


def _compatibility(
    counts: NDArray[np.float64], text_counts: NDArray[np.float64], text_squares: NDArray[np.float64]
) -> NDArray[np.float64]:
    """One person's exclusions (`counts`: exclusions x terms) against all texts (texts x terms)."""
    documents = len(counts) + 1
    used = np.flatnonzero(counts.any(axis=0))
    own, text = counts[:, used], text_counts[:, used]
    document_frequency = (own > 0).sum(axis=0) + (text > 0)
    squared_idf = (np.log((1 + documents) / (1 + document_frequency)) + 1) ** 2
    # A term of the text alone stands in one document of the pair, so its weight does not depend on the exclusions.
    elsewhere = (np.log((1 + documents) / 2) + 1) ** 2 * (text_squares - (text**2).sum(axis=1))
    text_length = np.sqrt(elsewhere + (text**2 * squared_idf).sum(axis=1))
    own_length = np.sqrt(squared_idf @ (own**2).T)
    dot = (text * squared_idf) @ own.T
    length = own_length * text_length[:, None]
    similarity = np.divide(dot, length, out=np.zeros_like(dot), where=length > 0)
    return np.clip(1 - (MAX_WEIGHT * similarity.max(axis=1) + MEAN_WEIGHT * similarity.mean(axis=1)), 0.0, 1.0)
