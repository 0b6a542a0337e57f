"""What kernels write close by, in the cache that a core has for itself, costs less."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latency_service.core.costing import cost_model
from latency_service.core.efficiency import Efficiency, Layout, core_cache_bytes, filling
from latency_service.core.family import FamilyModel
from latency_service.core.fit import FamilyFit, fit
from latency_service.core.fit_settings import Settings
from latency_service.core.graph import GraphInput, Layer, Output, Parameter, layer_graph
from latency_service.core.predict import Predictor
from latency_service.core.sample import Sample, Workload
from latency_service.core.sweep import totals_s

CORE = 2.0**20
LEVELS = ((2.0**16, 71e9), (CORE, 101e9), (2.0**22, 37e9), (2.0**29, 17e9))
MOVES = FamilyModel(0.0, None, 1e9, 1, (), (), (), (), 0.0, 0.1, 0.1, 50)


def efficiency(saved: float) -> Efficiency:
    model = replace(MOVES, nearby_s_per_byte=saved)
    return Efficiency({"float32 Transpose/last": model}, 0.0, LEVELS, 8, 0.04)


class TestTheCoresOwnCache:
    def test_it_ends_where_bandwidth_falls(self) -> None:
        assert core_cache_bytes(LEVELS) == CORE

    def test_what_comes_before_the_highest_bandwidth_is_part_of_it(self) -> None:
        # next to nothing is read in next to no time: the clock sees half of the bandwidth
        assert core_cache_bytes(((2.0**12, 31e9), *LEVELS)) == CORE

    def test_where_bandwidth_does_not_fall_all_is_near(self) -> None:
        assert core_cache_bytes(LEVELS[:2]) == CORE
        assert core_cache_bytes(()) == 0.0

    @given(st.floats(0, 3e6))
    def test_what_fills_it_finds_less(self, moved: float) -> None:
        found = float(filling(np.array(moved), CORE))
        assert found == pytest.approx(moved * max(0.0, 1.0 - moved / CORE))

    def test_without_a_cache_nothing_is_found(self) -> None:
        assert filling(np.array([3.0, 1e6]), 0.0).tolist() == [0.0, 0.0]


class TestPlaces:
    def test_half_of_it_is_left_when_twice_the_cache_was_moved_before(self) -> None:
        # the six kernels before each one, around the end of the run before
        moved = np.full(7, 2.0 * CORE / 6)
        assert efficiency(0.0).near_places(moved) == pytest.approx([0.5] * 7)

    def test_only_the_last_six_count(self) -> None:
        moved = np.array([1e12, *[0.0] * 6, 1.0])
        near = efficiency(0.0).near_places(moved)
        assert near[7] == pytest.approx(1.0)
        assert near[1:7] == pytest.approx(0.0, abs=1e-5)

    def test_a_single_kernel_finds_what_it_left_itself(self) -> None:
        assert efficiency(0.0).near_places(np.array([2.0 * CORE])) == pytest.approx([0.5])

    def test_no_kernels_have_no_places(self) -> None:
        assert efficiency(0.0).near_places(np.zeros(0)).size == 0


def transpositions(count: int, rows: int) -> Predictor:
    """A matrix of so many rows that is turned again and again."""
    layers = tuple(
        Layer(f"turn{k}", "Transpose", (f"t{k}",), (Output(f"t{k + 1}"),), {"perm": [1, 0]})
        for k in range(count)
    )
    graph = layer_graph((GraphInput("t0", (rows, 61)),), layers, (f"t{count}",))
    model = efficiency(1e-10)
    return Predictor(cost_model(graph, efficiency=model), model)


class TestFit:
    @staticmethod
    def turned(rows: int, saved: float) -> Sample:
        work = Workload("Transpose", ((rows, 61),), {"perm": [1, 0]}, outputs=((61, rows),))
        moved = 8.0 * rows * 61
        seconds = moved / 1e9
        near = moved * max(0.0, 1.0 - moved / CORE)
        return Sample(work, seconds, cached_s=seconds - saved * near)

    def fitted(self, *samples: Sample, core: float = CORE) -> FamilyFit:
        (found,) = fit(samples, Settings(core_bytes=core))
        return found

    def test_a_byte_saves_what_the_nearer_run_was_faster(self) -> None:
        rows = [self.turned(97 * k, 3e-11) for k in range(1, 17)]
        assert self.fitted(*rows).model.nearby_s_per_byte == pytest.approx(3e-11, rel=1e-3)

    def test_what_fills_the_cache_or_next_to_nothing_of_it_tells_nothing(self) -> None:
        large = [replace(self.turned(2200 + k, 0.0), cached_s=1e-9) for k in range(9)]
        small = [replace(self.turned(2 + k, 0.0), cached_s=1e-9) for k in range(9)]
        rows = [self.turned(97 * k, 3e-11) for k in range(1, 17)]
        assert self.fitted(*rows, *large, *small).model.nearby_s_per_byte == pytest.approx(
            3e-11, rel=1e-3
        )

    def test_large_kernels_say_more_than_small_ones(self) -> None:
        small = [self.turned(97 + k, 9e-11) for k in range(9)]
        large = [self.turned(997 + k, 3e-11) for k in range(7)]
        assert self.fitted(*small, *large).model.nearby_s_per_byte == pytest.approx(3e-11, rel=1e-3)

    def test_few_pairs_say_nothing(self) -> None:
        rows = [replace(self.turned(97 * k, 3e-11), cached_s=None) for k in range(1, 17)]
        few = [self.turned(97 * k, 3e-11) for k in range(1, 5)]
        assert self.fitted(*rows, *few).model.nearby_s_per_byte == 0.0

    def test_it_never_costs_time(self) -> None:
        rows = [self.turned(97 * k, -3e-11) for k in range(1, 17)]
        assert self.fitted(*rows).model.nearby_s_per_byte == 0.0

    def test_without_a_cache_of_its_own_nothing_is_near(self) -> None:
        rows = [self.turned(97 * k, 3e-11) for k in range(1, 17)]
        assert self.fitted(*rows, core=0.0).model.nearby_s_per_byte == 0.0

    def test_recurrent_layers_save_nothing_of_their_weights(self) -> None:
        rows = [
            Sample(
                Workload(
                    "LSTM", ((5, 1, 7 * k), (1, 44, 7 * k), (1, 44, 11)), {"hidden_size": 11},
                    learned=(1, 2), outputs=((5, 1, 1, 11),),
                ),
                1e-5 * k, cached_s=0.5e-5 * k,
            )
            for k in range(1, 13)
        ]  # fmt: skip
        assert self.fitted(*rows).model.cached_s_per_byte == 0.0


class TestPrediction:
    @pytest.mark.parametrize(("count", "rows"), [(1, 97), (9, 97), (9, 1021), (9, 4001)])
    def test_it_costs_less_the_less_was_moved_before(self, count: int, rows: int) -> None:
        model = transpositions(count, rows)
        moved = 8.0 * rows * 61
        near = 2 * CORE / (min(count, 6) * moved + 2 * CORE)
        saved = near * 1e-10 * moved * max(0.0, 1 - moved / CORE)
        expected = max(moved / 1e9 - saved, 0.3 * moved / 1e9)
        found = model.at(model.costs.sizes).seconds
        assert found == pytest.approx([expected] * count)
        assert totals_s(model, model.costs.sizes[None, :]) == pytest.approx([expected * count])

    def test_reorders_count_where_they_run(self) -> None:
        image, turned = (1, 16, 31, 29), [0, 1, 3, 2]
        conv = Layer(
            "conv", "Conv", ("x",), (Output("t0"),), {}, (Parameter("weight", (16, 16, 1, 1)),)
        )
        turns = tuple(
            Layer(f"turn{k}", "Transpose", (f"t{k}",), (Output(f"t{k + 1}"),), {"perm": turned})
            for k in range(7)
        )
        graph = layer_graph((GraphInput("x", image),), (conv, *turns), ("t7",))
        layout = Layout(16, 4, (), ())
        whole = replace(efficiency(1e-10), layout=layout)
        model = Predictor(cost_model(graph, efficiency=whole), whole)
        names = [
            (model.costs.names[layer], family)
            for layer, family in zip(model.kernels.layers, model.kernels.families, strict=True)
        ]
        assert names[-2:] == [("conv", "ReorderInput"), ("conv", "ReorderOutput")]
        moved = 8.0 * 16 * 31 * 29  # by each turn and each reorder
        # five turns and what brought the image back ran before the sixth turn
        near = 2 * CORE / (6 * moved + 2 * CORE)
        found = dict(zip(names, model.nearby_s_per_byte, strict=True))
        assert found["turn5", "Transpose/last"] == pytest.approx(near * 1e-10)
