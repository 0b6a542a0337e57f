"""The reference networks of a calibration, and what they say about kernels among others."""

from dataclasses import replace

import pytest

from latency_service.calibration.references import NOTHING, REFERENCES
from latency_service.core.costing import cost_model
from latency_service.core.efficiency import Efficiency
from latency_service.core.family import FamilyModel
from latency_service.core.predict import Predictor
from latency_service.core.profile import FusionRules
from latency_service.ingest import read_network
from latency_service.usecases.whole_networks import in_networks

MODEL = FamilyModel(9e-6, 5e10, 2e10, 1, (), (), (), (), 0.0, 0.1, 0.1, 50)
NAMES = ("Conv/pointwise", "Conv/dense", "Conv/depthwise", "MatMul/learned", "Gemm", "Add", "Mul")
EFFICIENCY = Efficiency(
    {f"float32 {name}": MODEL for name in NAMES}, 0.0, ((1e6, 5e10), (1e8, 1e10)), 8, 0.04
)
# The core's own cache of EFFICIENCY holds a megabyte; nothing fixed is left there.
NEARER = replace(EFFICIENCY, near_bytes=1e6)
RULES = FusionRules(fold=("BatchNormalization",), source="a test")


def latencies(efficiency: Efficiency, fitted: bool) -> dict[str, float]:
    found = {}
    for reference in REFERENCES:
        if reference.fitted is fitted and reference.name != NOTHING:
            graph = read_network(reference.build()[0])
            predictor = Predictor(
                cost_model(graph, fusion=RULES, efficiency=efficiency), efficiency
            )
            found[reference.name] = float(predictor.at(predictor.costs.sizes).seconds.sum())
    return found


@pytest.mark.parametrize("sooner", [0.0, 1.5e-6, 3e-6])
def test_what_convolutions_take_longer_alone_is_found(sooner: float):
    # as they are found in networks that nothing is near in
    measured = latencies(replace(NEARER, alone_s=sooner), fitted=True)
    assert in_networks(EFFICIENCY, RULES, measured).alone_s == pytest.approx(sooner)


@pytest.mark.parametrize("fixed", [0.0, 0.3, 1.0])
def test_what_tiny_networks_save_is_found(fixed: float):
    near = replace(EFFICIENCY, near_fixed=fixed, near_bytes=1e6)
    found = in_networks(EFFICIENCY, RULES, latencies(near, fitted=True))
    assert found.near_bytes == pytest.approx(near.near_bytes)
    assert found.near_fixed == pytest.approx(fixed)


def test_a_call_takes_what_a_network_of_one_number_takes():
    rest = {name: 11e-6 + s for name, s in latencies(NEARER, fitted=True).items()}
    found = in_networks(EFFICIENCY, RULES, {**rest, NOTHING: 11e-6})
    assert found.call_s == 11e-6
    assert found.alone_s == 0.0


def test_without_networks_nothing_changes():
    assert in_networks(EFFICIENCY, RULES, {}) == EFFICIENCY


def test_the_reports_networks_have_no_say():
    # twice as fast as predicted: were they asked, convolutions would be credited all they can be
    others = {name: 0.5 * value for name, value in latencies(NEARER, fitted=False).items()}
    mine = latencies(NEARER, fitted=True)
    found = in_networks(EFFICIENCY, RULES, {**mine, **others})
    assert found == in_networks(EFFICIENCY, RULES, mine)


def test_only_convolutions_start_sooner():
    attention = next(row for row in REFERENCES if row.name.startswith("attention"))
    graph = read_network(attention.build()[0])
    rows = []
    for sooner in (0.0, 3e-6):
        model = replace(EFFICIENCY, alone_s=sooner)
        predictor = Predictor(cost_model(graph, fusion=RULES, efficiency=model), model)
        rows.append(predictor.at(predictor.costs.sizes).seconds)
    assert rows[0] == pytest.approx(rows[1])


@pytest.mark.parametrize("slower", [0.93, 1.05])
def test_all_kernels_are_as_much_slower_as_all_networks(slower: float):
    measured = {name: slower * s for name, s in latencies(NEARER, fitted=True).items()}
    found = in_networks(EFFICIENCY, RULES, measured)
    held_out, before = latencies(found, fitted=False), latencies(NEARER, fitted=False)
    for name in held_out:
        if "tiny" not in name:
            assert held_out[name] / before[name] == pytest.approx(slower, rel=0.02)


def test_networks_that_disagree_change_little():
    measured = latencies(NEARER, fitted=True)
    names = [name for name in measured if "tiny" not in name]
    for place, name in enumerate(names):
        measured[name] *= 1.3 if place % 2 else 0.8
    found = in_networks(replace(EFFICIENCY, alone_s=0.0), RULES, measured)
    shifts = {model.mean for model in found.families.values()}
    assert len(shifts) == 1
    # half of them say 0.8, half 1.3
    assert abs(shifts.pop()) < 0.02


def test_the_last_two_of_each_kind_take_no_part_in_the_fit():
    kinds = {row.name.rsplit(" ", 1)[0] for row in REFERENCES if row.name != NOTHING}
    for kind in kinds:
        same = [row.fitted for row in REFERENCES if row.name.startswith(kind)]
        assert len(same) >= 4
        assert same == [True] * (len(same) - 2) + [False] * 2
