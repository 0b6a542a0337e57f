"""Which entries of the parameters hold which channel, and what structures say about layers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client_tests.networks import residual_concat, two_layers
from latency_client import errors
from latency_client.channels import SourceKey, channel_map, gamma_sources, weight_sources
from latency_client.request import Request
from latency_client.service import HttpService
from latency_client.structure import (
    check_structure,
    make_structure,
    read_alive_counts,
    read_structure,
    rounded,
    without_common_prefix,
    write_structure,
)
from latency_client.wire import Answer


@pytest.fixture(scope="module")
def answer(service: HttpService) -> Answer:
    return service.coefficients(Request(residual_concat(), "v100"))


@pytest.fixture(scope="module")
def plain(service: HttpService) -> Answer:
    return service.coefficients(Request(two_layers(), "v100"))


def writer(answer: Answer, layer: str) -> str:
    (use,) = answer.layers[answer.layer_index[layer]].writes
    return use.group


def test_tied_scales_share_channels_and_the_larger_one_counts(answer: Answer) -> None:
    found = channel_map(answer, gamma_sources(residual_concat()))

    assert found.channel_count == 13 + 17 + 19  # a and b are one group
    assert found.entries.size == 13 + 13 + 17 + 19
    flat = np.zeros(sum(found.lengths))
    offset = dict(zip(found.sources, np.cumsum([0, *found.lengths]).tolist(), strict=False))
    flat[offset[SourceKey("a.bn", "gamma", 0)] + 2] = 0.5
    flat[offset[SourceKey("b.bn", "gamma", 0)] + 2] = 0.7
    flat[offset[SourceKey("b.bn", "gamma", 0)] + 5] = 0.25
    strengths = found.strengths(flat)

    at = answer.group_index[writer(answer, "a")]
    assert strengths[found.group_of == at].tolist() == [0, 0, 0.7, 0, 0, 0.25, *[0] * 7]
    assert found.group_sums(strengths)[at] == 0.7 + 0.25
    probabilities = found.probabilities(flat)[found.group_of == at]
    assert probabilities[2] == pytest.approx(1 - 0.5 * 0.3)


def test_groups_without_sources_are_alive(answer: Answer) -> None:
    found = channel_map(answer, {})
    assert found.channel_count == 0
    assert found.fixed_counts.tolist() == [group.size for group in answer.groups]


def test_kernels_are_sources_along_what_they_write(plain: Answer) -> None:
    sources = weight_sources(two_layers())
    assert sources == {
        SourceKey("a", "weight", 0): 13,
        SourceKey("b", "weight", 0): 17,
        SourceKey("fc", "weight", 0): 5,
    }
    found = channel_map(plain, sources)
    # the classes are outputs, and outputs are frozen
    assert found.sources == (SourceKey("a", "weight", 0), SourceKey("b", "weight", 0))


def test_a_source_that_is_too_short_is_another_networks(plain: Answer) -> None:
    with pytest.raises(errors.StaleAnswerError, match=r"position 12 of the gamma of layer 'a\.bn'"):
        channel_map(plain, {SourceKey("a.bn", "gamma", 0): 11})


def test_a_structure_counts_every_layer_that_may_be_pruned(answer: Answer, tmp_path: Path) -> None:
    graph = residual_concat()
    group = writer(answer, "c")
    mask = np.zeros(17, dtype=np.bool_)
    mask[[3, 11]] = True
    structure = make_structure(graph, answer, {group: mask})

    assert structure.alive_counts() == {"a": 13, "b": 13, "c": 2, "d": 19}
    assert structure.layers["c"].alive == (3, 11)
    path = write_structure(tmp_path, 7, structure)
    assert path == tmp_path / "learned_structure" / "alive_7"
    assert path.read_text() == '{\n  "a": 13,\n  "b": 13,\n  "c": 2,\n  "d": 19\n}'
    assert read_alive_counts(path) == structure.alive_counts()
    again = read_structure(path.with_name("structure_7.json"))
    assert again.alive_counts() == structure.alive_counts()
    assert again.masks[group].tolist() == mask.tolist()
    assert again.device == structure.device
    check_structure(again, graph)


@given(st.data())
def test_rounding_revives_the_strongest(answer: Answer, data: st.DataObject) -> None:
    graph = residual_concat()
    multiple, floor = data.draw(st.integers(1, 9)), data.draw(st.integers(0, 3))
    masks, strengths = {}, {}
    for group in answer.groups:
        if group.prunable:
            values = data.draw(st.lists(st.floats(0, 1), min_size=group.size, max_size=group.size))
            strengths[group.id] = np.array(values)
            masks[group.id] = strengths[group.id] > 0.5
    before = make_structure(graph, answer, masks, strengths)
    after = rounded(before, graph, answer, floor=floor, multiple_of=multiple)
    for group in answer.groups:
        kept, was = after.masks[group.id], before.masks[group.id]
        if not group.prunable:
            assert kept.all()
            continue
        count = int(kept.sum())
        assert (kept | ~was).all()
        assert count >= min(floor, group.size)
        assert count % multiple == 0 or count == group.size
        assert count - max(int(was.sum()), floor) < multiple
        revived = kept & ~was
        if revived.any() and not kept.all():
            assert strengths[group.id][revived].min() >= strengths[group.id][~kept].max()


def test_a_structure_of_another_network_is_refused(answer: Answer, plain: Answer) -> None:
    structure = make_structure(residual_concat(), answer, {})
    with pytest.raises(errors.StructureError, match=r"'b' has 17 output channels"):
        check_structure(structure, two_layers())
    with pytest.raises(errors.StructureError, match="the network has none of that name"):
        check_structure(structure, two_layers(second=13))
    narrow = make_structure(two_layers(), plain, {})
    with pytest.raises(errors.StructureError, match="'a' has 11 output channels"):
        check_structure(narrow, two_layers(first=11))
    with pytest.raises(errors.StructureError, match=r"not prunable|not at all|belongs to another"):
        make_structure(two_layers(), plain, structure.masks)


def test_a_dead_channel_in_a_frozen_group_is_refused(plain: Answer) -> None:
    group = writer(plain, "fc")
    with pytest.raises(errors.StructureError, match="not prunable, but 1 of its channels"):
        make_structure(two_layers(), plain, {group: np.arange(5) > 0})


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"a": -1}', '{"a": "x"}', '{"a": true}'])
def test_a_damaged_file_of_counts_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "alive_1"
    path.write_text(text)
    with pytest.raises(errors.StructureError, match="alive_1"):
        read_alive_counts(path)


def test_counts_are_no_structure(tmp_path: Path) -> None:
    path = tmp_path / "alive_1"
    path.write_text(json.dumps({"a": 3}))
    with pytest.raises(errors.StructureError, match="read_alive_counts"):
        read_structure(path)


def test_the_prefix_that_all_names_share_can_go() -> None:
    assert without_common_prefix({"net/a": 1, "net/b/c": 2}) == {"a": 1, "b/c": 2}
    assert without_common_prefix({"net/a": 1, "b": 2}) == {"net/a": 1, "b": 2}
