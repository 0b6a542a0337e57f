"""Channel groups found in one pass over all id arrays agree with a look at each of them."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from latency_service.core.channels import (
    Run,
    Tracker,
    partition,
    runs,
    shares,
    whole_groups,
)
from latency_service.core.node import IdArray


@st.composite
def arrays_of_ids(draw: st.DrawFn) -> tuple[Tracker, list[IdArray]]:
    """Layers' outputs, some tied, and slices, concatenations and reversals of them."""
    tracker = Tracker()
    made = [tracker.new(draw(st.sampled_from([1, 2, 3, 5, 7])), 2, 1) for _ in range(4)]
    arrays = list(made)
    for _ in range(draw(st.integers(0, 6))):
        kind = draw(st.sampled_from(["tie", "slice", "join", "reverse", "freeze", "repeat"]))
        left, right = draw(st.sampled_from(arrays)), draw(st.sampled_from(arrays))
        if kind == "tie" and left.shape == right.shape:
            tracker.tie(left, right)
        elif kind == "slice" and left.size > 1:
            arrays.append(left[:, 1:])
        elif kind == "join":
            arrays.append(np.concatenate([left, right], axis=1))
        elif kind == "reverse":
            arrays.append(left[:, ::-1])
        elif kind == "freeze":
            tracker.freeze(left)
        elif kind == "repeat":
            arrays.append(np.repeat(left, 2, axis=1))
    return tracker, arrays


@given(arrays_of_ids())
def test_an_array_of_one_group_is_known_at_once(made: tuple[Tracker, list[IdArray]]) -> None:
    tracker, arrays = made
    part = partition(tracker, arrays)

    whole = whole_groups(part, arrays)

    for array in arrays:
        plain = [(r.start, r.stride, r.block) for r in runs(part, array)] == [(0, 1, 1)]
        alone = shares(part, array)
        expected = alone[0][0] if plain and len(alone) == 1 and alone[0][1] == 1 else None
        # a single channel has no order that a run could tell
        if array.size > 1 or expected is None:
            assert whole.get(id(array)) == expected
        if id(array) in whole:
            assert runs(part, array) == (Run(whole[id(array)], 0, 1, 1),)


def test_nothing_to_look_at() -> None:
    tracker = Tracker()
    assert whole_groups(partition(tracker, []), []) == {}
