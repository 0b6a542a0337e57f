"""Constants that stay in the last cache, and kernels that keep their channels in steps."""

import math
from dataclasses import replace

import numpy as np
import pytest

from latency_service.core.costing import cost_model
from latency_service.core.efficiency import Efficiency, FamilyModel
from latency_service.core.fit import Settings, fit, sample_geometry
from latency_service.core.predict import Predictor
from latency_service.core.sample import Sample, Workload, sample_from_json, sample_to_json
from latency_service.core.sweep import totals_s
from tests.core.dense import dense

PLAIN = FamilyModel(1e-6, 1e9, 1e9, 1, (), (), (), (), 0.0, 0.1, 0.1, 50)
LEVELS = ((2.0**20, 64e9), (2.0**22, 64e9), (2.0**24, 4e9))


def efficiency(saved: float) -> Efficiency:
    model = replace(PLAIN, cached_s_per_byte=saved)
    return Efficiency({"float32 Gemm": model}, 0.0, LEVELS, 8, 0.04)


def predictor(rows: int, *widths: int) -> Predictor:
    """Of dense layers one behind the other."""
    model = efficiency(1e-12)
    return Predictor(cost_model(dense(rows, *widths), efficiency=model), model)


class TestCacheSize:
    def test_it_is_where_the_bandwidth_has_fallen_halfway(self):
        # 16e9 is the geometric middle of 64e9 and 4e9; so is 2**23 of 2**22 and 2**24
        assert efficiency(0.0).cache_bytes == pytest.approx(2.0**23)

    def test_one_level_has_no_cache(self):
        assert replace(efficiency(0.0), levels=LEVELS[:1]).cache_bytes == 0.0

    def test_a_share_falls_to_nothing(self):
        constants = np.array([0.0, 2.0**22, 2.0**23, 2.0**30])
        shares = efficiency(0.0).kept_share(constants, constants + 1e9)
        assert shares == pytest.approx([1.0, 0.5, 0.0, 0.0])

    def test_where_it_was_measured_all_that_is_moved_drives_constants_out(self):
        moved = np.array([0.0, 3.0e7, 6.0e7, 1.2e8, 6.0e8])
        found = replace(efficiency(0.0), kept_bytes=6.0e7).kept_share(np.zeros(5), moved)
        assert found == pytest.approx([1.0, 8 / 9, 0.5, 1 / 9, 1 / 1001])


class TestPrediction:
    def test_small_constants_save_their_bytes(self):
        model = predictor(3, 131, 97)
        size = 4 * 131 * 97
        kept = 1 - size / 2.0**23
        moved = 4 * (3 * 131 + 3 * 97) + size
        without = 1e-6 + max(2 * 3 * 131 * 97 / 1e9, moved / 1e9)
        found = model.at(model.costs.sizes).seconds.sum()
        assert found == pytest.approx(without - kept * 1e-12 * size)

    @pytest.mark.parametrize("slower", [1.0, 2.0, 5.0])
    @pytest.mark.parametrize(
        # 1 us launches it; 76 us it computes and 54 us it could move its data, or 107 us at half
        # the rate; an operator that computes nothing is busy moving
        ("rates", "roofline_s", "busy_s"),
        [
            ((1e9, 1e9), 7.7242e-5, 7.6242e-5), ((1e9, 0.5e9), 1.08128e-4, 7.6242e-5),
            ((None, 1e9), 5.4564e-5, 5.3564e-5),
        ],
    )  # fmt: skip
    def test_near_its_data_a_kernel_is_as_busy_as_its_quickest_samples(
        self, rates: tuple[float | None, float], roofline_s: float, busy_s: float, slower: float
    ) -> None:
        flops_per_s, bytes_per_s = rates
        model = replace(
            PLAIN, flops_per_s=flops_per_s, bytes_per_s=bytes_per_s, mean=math.log(slower)
        )
        whole = replace(efficiency(0.0), families={"float32 Gemm": model})
        costs = cost_model(dense(3, 131, 97), efficiency=whole)
        (anywhere,) = Predictor(costs, whole).at(costs.sizes).seconds
        assert anywhere == pytest.approx(slower * roofline_s)

        close = Predictor(costs, replace(whole, near_s=1.0, near_bytes=1e30))
        # of what it takes elsewhere it keeps three tenths at least
        expected = max(busy_s, 0.3 * slower * roofline_s)
        assert close.at(costs.sizes).seconds == pytest.approx([expected])
        assert totals_s(close, costs.sizes[None, :]) == pytest.approx([expected])

    def test_activations_lie_between_two_uses_of_a_weight(self):
        size, data = 4 * 131 * 97, 4 * (3 * 131 + 3 * 97)
        whole = replace(efficiency(1e-12), kept_bytes=float(size + data))
        model = Predictor(cost_model(dense(3, 131, 97), efficiency=whole), whole)
        without = 1e-6 + max(2 * 3 * 131 * 97 / 1e9, (size + data) / 1e9)
        found = model.at(model.costs.sizes).seconds.sum()
        assert found == pytest.approx(without - 0.5 * 1e-12 * size)

    @pytest.mark.parametrize("kept", [0.0, 3e5])
    def test_totals_agree_with_single_structures(self, kept: float):
        whole = replace(efficiency(1e-12), kept_bytes=kept)
        graph = dense(3, 131, 97, 61, 11)
        model = Predictor(cost_model(graph, efficiency=whole), whole)
        shares = np.linspace(0.2, 1.0, 5)[:, None]
        counts = np.round(np.repeat(model.costs.sizes[None, :], 5, axis=0) * shares)
        assert len(np.unique(counts[:, 1])) == 5
        one_by_one = [model.at(row).seconds.sum() for row in counts]
        assert totals_s(model, counts) == pytest.approx(one_by_one, rel=1e-6)


class TestFit:
    @staticmethod
    def samples(count: int, cached: float | None) -> list[Sample]:
        found = []
        for k in range(count):
            depth, cols = 256 + 37 * k, 512 + 61 * k
            work = Workload(
                "Gemm",
                ((1, depth), (cols, depth)),
                {"transB": 1},
                learned=(1,),
                outputs=((1, cols),),
            )
            seconds = 4e-10 * depth * cols
            again = None if cached is None else cached * seconds
            found.append(Sample(work, seconds, cached_s=again))
        return found

    def test_a_byte_saves_what_the_second_run_was_faster(self):
        (family,) = fit(self.samples(13, 0.25), Settings())
        # 4e-10 s an element of four bytes, three quarters of it saved
        assert family.model.cached_s_per_byte == pytest.approx(0.75e-10, rel=1e-3)

    def test_a_kernel_never_becomes_free(self):
        (family,) = fit(self.samples(13, 0.01), Settings())
        assert family.model.cached_s_per_byte == pytest.approx(0.9e-10, rel=1e-3)

    def test_a_family_with_few_pairs_saves_what_the_others_do(self):
        products = [
            Sample(
                Workload("MatMul", ((7, 64 + k), (64 + k, 31)), learned=(1,), outputs=((7, 31),)),
                1e-6 * (k + 1),
            )
            for k in range(11)
        ]
        found = {
            row.name: row.model for row in fit([*self.samples(13, 0.25), *products], Settings())
        }
        assert found["float32 MatMul/learned"].cached_s_per_byte == pytest.approx(
            0.75e-10, rel=1e-3
        )

    @pytest.mark.parametrize("keeps", [False, True])
    def test_small_constants_are_fitted_as_if_they_came_from_memory(self, keeps: bool):
        small = [
            replace(sample, latency_s=sample.latency_s / 4, cached_s=None)
            for sample in self.samples(16, None)
        ]
        rows = [*self.samples(13, 0.25), *small[13:]]
        (family,) = fit(rows, Settings(keeps=keeps))
        # a quarter of its time is what a product takes with all constants in the last cache
        _, dims, _ = sample_geometry(small[15])
        found = float(family.model.seconds(np.array([dims]), 4.0)[0])
        cold = 4 * small[15].latency_s
        assert (found == pytest.approx(cold, rel=0.05)) is keeps

    def test_few_pairs_say_nothing(self):
        rows = [*self.samples(3, 0.25), *self.samples(13, None)[3:]]
        (family,) = fit(rows, Settings())
        assert family.model.cached_s_per_byte == 0.0

    def test_a_recording_keeps_the_second_time(self):
        sample = self.samples(1, 0.5)[0]
        again = sample_from_json(sample_to_json(sample))
        assert again.cached_s is not None
        assert math.isclose(again.cached_s, 0.5 * sample.latency_s)

    def test_samples_of_one_shape_give_their_mean(self):
        sample = self.samples(1, None)[0]
        (family,) = fit([sample, replace(sample, latency_s=1.1 * sample.latency_s)], Settings())
        assert not family.model.features
        assert not family.model.weights


def test_a_form_with_next_to_no_samples_is_left_to_the_usual_one() -> None:
    def moved(perm: list[int], shape: tuple[int, ...], seconds: float) -> Sample:
        out = tuple(shape[axis] for axis in perm)
        return Sample(Workload("Transpose", (shape,), {"perm": perm}, outputs=(out,)), seconds)

    usual = [moved([0, 2, 1, 3], (1, n, 5, 7), 1e-6 * n) for n in range(2, 14)]
    # the first axis has one position: nothing moves
    view = [moved([1, 0, 2, 3], (1, 5, 11, 13), 1e-4)]
    assert {found.name for found in fit(usual + view, Settings())} == {"float32 Transpose"}
    assert {found.name for found in fit(view, Settings())} == {"float32 Transpose/view"}
