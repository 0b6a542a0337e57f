"""Which code runs a convolution: by hand, one by one and many at once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latency_service.core.blocks import Way, runs_on_blocks, ways


@pytest.mark.parametrize(
    ("groups", "inputs", "filters", "way"),
    [
        (1, 3, 61, Way.IMAGE),
        (1, 13, 61, Way.IMAGE),  # fewer than a block, aligned or not
        (1, 16, 61, Way.BLOCKS),  # a last block of filters is filled up
        (1, 20, 1, Way.BLOCKS),
        (1, 61, 64, Way.PLAIN),
        (61, 1, 61, Way.PLAIN),
        (68, 1, 68, Way.BLOCKS),  # one filter a channel
        (7, 1, 14, Way.PLAIN),  # two of them
        (5, 16, 80, Way.BLOCKS),
        (5, 16, 60, Way.PLAIN),
        (5, 12, 80, Way.PLAIN),
        (1, 1, 1, Way.IMAGE),
    ],
)
def test_the_way_of_a_convolution(groups: int, inputs: int, filters: int, way: Way) -> None:
    assert ways(groups, inputs, filters, 16, 4) == way


def test_many_at_once_and_counts_that_are_no_integers_to_the_last_digit() -> None:
    inputs = np.array([[64.0 - 1e-9, 61.0], [15.0, 64.5]])
    assert ways(1.0, inputs, 32.0, 16, 4).tolist() == [
        [Way.BLOCKS, Way.PLAIN],
        [Way.IMAGE, Way.PLAIN],
    ]


@given(
    group=st.integers(1, 40), each_in=st.integers(1, 70), each_out=st.integers(1, 70),
    block=st.sampled_from([8, 16]), alignment=st.sampled_from([1, 4]),
)  # fmt: skip
def test_one_runs_on_blocks_as_it_does_among_many(
    group: int, each_in: int, each_out: int, block: int, alignment: int
) -> None:
    filters = group * each_out
    three = np.ones(3)
    many = ways(group * three, each_in * three, filters * three, block, alignment)
    one = runs_on_blocks(group, each_in, filters, block, alignment)
    assert many.tolist() == [many[0]] * 3
    assert one == (many[0] != Way.PLAIN)
