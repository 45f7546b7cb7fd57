"""What the benchmark holds up against this project is Flower's SecAgg+ at work, and it comes out right."""

import pytest

from federation.secagg_reference import CLIPPING, LEVELS, average_error, reference_client, reference_server

STEP = 2 * CLIPPING / LEVELS


@pytest.mark.parametrize(("n", "threshold", "dropouts"), [(3, 2, 0), (5, 3, 0), (5, 3, 1), (5, 3, 2), (8, 5, 3)])
def test_it_decodes_the_weighted_average_of_those_that_delivered(n: int, threshold: int, dropouts: int) -> None:
    # each vector is rounded by less than a step, then divided by the mean weight of the survivors (above 1/2)
    assert average_error(n, 1_000, threshold, dropouts) < 2.5 * STEP


def test_it_gives_up_below_the_threshold() -> None:
    with pytest.raises(ValueError, match=r"smaller than threshold|too few shares"):
        average_error(5, 10, 4, 2)


def test_its_client_sends_a_64_bit_word_for_each_number_and_the_rest_does_not_grow_with_them() -> None:
    small, large = reference_client(5, 1_000, 3), reference_client(5, 101_000, 3)
    assert large.sent_bytes - small.sent_bytes == pytest.approx(8 * 100_000, abs=64)
    assert 0 < small.sent_bytes - 8 * 1_000 < 10_000


def test_the_costs_of_both_sides_are_measured() -> None:
    for cost in (reference_client(5, 200_000, 3), reference_server(5, 200_000, 3)):
        assert cost.seconds > 0
        assert cost.peak_bytes > 4 * 200_000


def test_a_client_works_more_the_more_neighbours_it_has() -> None:
    assert reference_client(12, 200_000, 7).seconds > 1.2 * reference_client(3, 200_000, 2).seconds
