"""Constants that stay in the last cache, and kernels that keep their channels in steps."""

import math
from dataclasses import replace

import numpy as np
import pytest

from latency_service.core.costing import cost_model
from latency_service.core.efficiency import Efficiency
from latency_service.core.family import FamilyModel
from latency_service.core.fit import fit, sample_geometry
from latency_service.core.fit_settings import Settings
from latency_service.core.predict import Predictor
from latency_service.core.sample import Sample, Workload, sample_from_json, sample_to_json
from latency_service.core.savings import PRODUCTS, WINDOWS, kind_of
from latency_service.core.sweep import totals_s
from tests.core.dense import dense, pointwise

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
    @pytest.mark.parametrize(
        ("beyond", "last"),
        [
            ((), 22),  # a core's own cache is the last
            (((24, 9.0), (26, 9.0)), 26),  # twice as fast as memory
            # 6 is the geometric middle of 9 and 4
            (((24, 9.0), (25, 6.1), (26, 5.9)), 25),
        ],
    )
    def test_it_lies_behind_the_last_working_set_that_is_fast(
        self, beyond: tuple[tuple[int, float], ...], last: int
    ) -> None:
        levels = tuple((2.0**size, rate * 1e9) for size, rate in ((20, 64), (22, 64), *beyond))
        found = replace(efficiency(0.0), levels=(*levels, (2.0**28, 4e9)))
        assert found.cache_bytes == pytest.approx(2.0 ** (last + 0.5))

    def test_the_system_names_a_cores_own(self) -> None:
        # both 4 MB and 1 MB are as fast; which one a core shares no bandwidth tells
        found = efficiency(0.0)
        assert found.core_bytes == 2.0**22
        assert replace(found, own_bytes=2.0**20).core_bytes == 2.0**20

    def test_one_level_has_no_cache(self):
        assert replace(efficiency(0.0), levels=LEVELS[:1]).cache_bytes == 0.0

    def test_a_share_falls_to_nothing(self):
        constants = 2.0**22.5 * np.array([0.0, 0.25, 1.0, 4.0, 1e6])
        shares = efficiency(0.0).kept_share(constants, 1e9, 1e9)
        assert shares == pytest.approx([1.0, 32 / 33, 0.5, 1 / 33, 0.0], abs=1e-12)

    def test_others_drive_constants_out_as_time_passes(self):
        seconds = 6.0e-3 * np.array([0.0, 0.25, 1.0, 4.0, 1e6])
        found = replace(efficiency(0.0), kept_s=6.0e-3).kept_share(np.zeros(5), seconds, 0.0)
        assert found == pytest.approx([1.0, 32 / 33, 0.5, 1 / 33, 0.0], abs=1e-12)

    def test_what_is_fetched_takes_time_of_its_own(self):
        # half lost after 6 ms; where s of the constants are there it takes 4 + 4 (1 - s) ms
        share = float(replace(efficiency(0.0), kept_s=6e-3).kept_share(np.zeros(1), 4e-3, 4e-3)[0])
        assert share == pytest.approx(1 / (1 + ((8 - 4 * share) / 6) ** 2.5), abs=0.02)
        assert share < 1 / (1 + (4 / 6) ** 2.5)


class TestPrediction:
    def test_small_constants_save_their_bytes(self):
        model = predictor(3, 131, 97)
        size = 4 * 131 * 97
        kept = 1 / (1 + (size / 2.0**22.5) ** 2.5)
        moved = 4 * (3 * 131 + 3 * 97) + size
        without = 1e-6 + max(2 * 3 * 131 * 97 / 1e9, moved / 1e9)
        found = model.at(model.costs.sizes).seconds.sum()
        assert found == pytest.approx(without - kept * 1e-12 * size)

    @pytest.mark.parametrize("slower", [1.0, 5.0])
    @pytest.mark.parametrize(
        # 1 us launches it; it does 76 242 FLOPs and moves 53 564 bytes, 64 in a nanosecond from
        # the core's own cache, which an operator that computes nothing does not use
        ("rates", "roofline_s", "near_s"),
        [
            ((1e9, 1e9), 7.7242e-5, 7.6242e-5), ((1e12, 1e9), 5.4564e-5, 53_564 / 64e9),
            ((None, 1e9), 5.4564e-5, 5.3564e-5),
        ],
    )  # fmt: skip
    def test_near_its_data_a_kernel_keeps_what_it_computes(
        self, rates: tuple[float | None, float], roofline_s: float, near_s: float, slower: float
    ) -> None:
        flops_per_s, bytes_per_s = rates
        model = replace(
            PLAIN, flops_per_s=flops_per_s, bytes_per_s=bytes_per_s, mean=math.log(slower)
        )
        whole = replace(efficiency(0.0), families={"float32 Gemm": model})
        costs = cost_model(dense(3, 131, 97), efficiency=whole)
        (anywhere,) = Predictor(costs, whole).at(costs.sizes).seconds
        assert anywhere == pytest.approx(slower * roofline_s)

        close = Predictor(costs, replace(whole, near_bytes=1e30, near_fixed=0.25))
        expected = slower * (0.25e-6 + near_s)
        assert close.at(costs.sizes).seconds == pytest.approx([expected])
        assert totals_s(close, costs.sizes[None, :]) == pytest.approx([expected])

    def test_a_kernel_that_takes_nothing_saves_nothing(self) -> None:
        free = replace(PLAIN, fixed_s=0.0)
        found = free.near_part(np.array([0.0, 5.0]), np.zeros(2), 4e9, 0.5)
        assert found == pytest.approx([0.0, 0.25])

    def test_the_larger_a_network_the_less_of_it_is_near(self) -> None:
        constants, most = np.array([0.0, 0.5e6, 1e6, 4e6, 1e12]), np.array([0.5e6, 0.25e6, 0, 0, 0])
        found = replace(efficiency(0.0), near_bytes=1e6).near_share(constants, most)
        assert found == pytest.approx([0.5, 0.5, 0.5, 1 / 33, 0.0], abs=1e-12)
        assert efficiency(0.0).near_share(constants, most) == pytest.approx(np.zeros(5))

    @pytest.mark.parametrize("measured_cached", [False, True])
    def test_what_a_network_takes_is_what_drives_its_constants_out(self, measured_cached: bool):
        size = 4 * 131 * 97
        rows = replace(PLAIN, cached_s_per_byte=1e-10, measured_cached=measured_cached)
        whole = replace(efficiency(0.0), families={"float32 Gemm": rows}, kept_s=0.1e-3)
        model = Predictor(cost_model(dense(3, 131, 97), efficiency=whole), whole)
        moved = 4 * (3 * 131 + 3 * 97) + size
        measured = 1e-6 + max(2 * 3 * 131 * 97 / 1e9, moved / 1e9)
        fetched = 1e-10 * size
        cached = measured if measured_cached else measured - fetched
        (kept,) = whole.kept_share(np.array([float(size)]), cached, fetched)
        assert 0.1 < kept < 0.9
        structure = model.at(model.costs.sizes)
        assert structure.kept == pytest.approx(kept)
        assert structure.seconds.sum() == pytest.approx(cached + (1 - kept) * fetched)

    @pytest.mark.parametrize("measured_cached", [False, True])
    @pytest.mark.parametrize("kept", [0.0, 5e-5])
    def test_totals_agree_with_single_structures(self, kept: float, measured_cached: bool):
        rows = replace(PLAIN, cached_s_per_byte=1e-12, measured_cached=measured_cached)
        whole = replace(efficiency(0.0), families={"float32 Gemm": rows}, kept_s=kept)
        graph = dense(3, 131, 97, 61, 11)
        model = Predictor(cost_model(graph, efficiency=whole), whole)
        shares = np.linspace(0.2, 1.0, 5)[:, None]
        counts = np.round(np.repeat(model.costs.sizes[None, :], 5, axis=0) * shares)
        assert len(np.unique(counts[:, 1])) == 5
        one_by_one = [model.at(row).seconds.sum() for row in counts]
        assert totals_s(model, counts) == pytest.approx(one_by_one, rel=1e-6)

    def test_convolutions_save_among_others_what_is_kept(self) -> None:
        # 11 us each, 3 us less where all of the network's constants are kept
        rows = replace(PLAIN, fixed_s=11e-6, flops_per_s=1e15, bytes_per_s=1e15)
        families = {"float32 Conv/pointwise": rows}
        size = 4.0 * (13 * 17 + 17 * 7)
        graph = pointwise(5, 13, 17, 7)
        alone = Efficiency(families, 0.0, LEVELS, 8, 0.04)
        model = replace(alone, alone_s=3e-6, kept_s=20e-6)
        costs = cost_model(graph, efficiency=model)
        (kept,) = model.kept_share(np.array([size]), 22e-6, 0.0)
        assert 0.2 < kept < 0.8
        expected = [11e-6 - kept * 3e-6] * 2
        assert Predictor(costs, model).at(costs.sizes).seconds == pytest.approx(expected, rel=1e-5)
        (total,) = totals_s(Predictor(costs, model), costs.sizes[None, :])
        assert total == pytest.approx(sum(expected), rel=1e-5)
        assert Predictor(costs, alone).at(costs.sizes).seconds == pytest.approx(
            [11e-6] * 2, rel=1e-5
        )


class TestFetched:
    @pytest.mark.parametrize(
        ("most", "half", "expected"),
        [
            (0.0, 0.0, [7e-8, 7e-8, 2.1e-7]),
            (1500.0, 0.0, [7e-8, 7e-8, 1.05e-7]),
            # one row waits 1 / (1 + 1/3), seven wait 1 / (1 + 7/3)
            (0.0, 3.0, [5.25e-8, 2.1e-8, 1.575e-7]),
            (1500.0, 3.0, [5.25e-8, 2.1e-8, 7.875e-8]),
        ],
    )
    def test_by_hand(self, most: float, half: float, expected: list[float]) -> None:
        model = replace(PLAIN, cached_s_per_byte=7e-11, cached_bytes=most, cached_rows=half)
        found = model.fetched_s(np.array([1000.0, 1000.0, 3000.0]), np.array([1.0, 7.0, 1.0]))
        assert found == pytest.approx(expected)

    def test_one_kernel_and_many_structures_wait_alike(self) -> None:
        rows = replace(PLAIN, cached_s_per_byte=1e-9, cached_bytes=3e4, cached_rows=5.0)
        whole = Efficiency({"float32 Gemm": replace(rows, measured_cached=True)}, 0.0, LEVELS, 8, 0)
        whole = replace(whole, kept_s=1e-9)  # nothing is kept
        model = Predictor(cost_model(dense(3, 131, 97), efficiency=whole), whole)
        moved = 4 * (3 * 131 + 3 * 97 + 131 * 97)
        expected = 1e-6 + max(2 * 3 * 131 * 97, moved) / 1e9 + 1e-9 * 3e4 / (1 + 3 / 5)
        (one,) = model.at(model.costs.sizes).seconds
        assert one == pytest.approx(expected)
        assert totals_s(model, model.costs.sizes[None, :]) == pytest.approx([expected])


class TestFit:
    @staticmethod
    def products(count: int, each_s: float, most: float) -> list[Sample]:
        """Of one row and of 64, which wait for `each_s` a byte, and 20 us for something else."""
        found = []
        for k in range(count):
            rows, depth, cols = (1, 64)[k % 2], 509 + 41 * k, 607 + 61 * k
            work = Workload(
                "Gemm",
                ((rows, depth), (cols, depth)),
                {"transB": 1},
                learned=(1,),
                outputs=((rows, cols),),
            )
            cached_s = 2e-11 * rows * depth * cols + 1e-11 * depth * cols
            waits_s = each_s * min(4.0 * depth * cols, most) / (1 + rows / 64)
            found.append(Sample(work, cached_s + 2e-5 + waits_s, cached_s=cached_s))
        return found

    @pytest.mark.parametrize(("each_s", "most"), [(3.1e-11, 2.0**22), (8.3e-11, 2.0**23)])
    def test_what_the_cache_holds_and_who_waits_are_found(self, each_s: float, most: float) -> None:
        (family,) = fit(self.products(43, each_s, most), Settings())
        found = family.model
        assert (found.cached_bytes, found.cached_rows) == (most, 64.0)
        assert found.cached_s_per_byte == pytest.approx(each_s, rel=0.05)

    def test_where_any_number_of_bytes_is_held_nothing_limits_them(self) -> None:
        (family,) = fit(self.products(43, 5e-11, np.inf), Settings())
        assert family.model.cached_bytes == 0.0
        assert family.model.cached_s_per_byte == pytest.approx(5e-11, rel=0.05)

    @pytest.mark.parametrize(
        ("family", "kind"),
        [
            ("Gemm", PRODUCTS), ("MatMul/learned", PRODUCTS), ("Conv/pointwise", PRODUCTS),
            ("QLinearConv/dense", PRODUCTS), ("Conv/dense", WINDOWS), ("Conv/grouped", WINDOWS),
        ],
    )  # fmt: skip
    def test_windows_read_their_weights_in_an_order_of_their_own(
        self, family: str, kind: str
    ) -> None:
        assert kind_of(family) == kind

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

    def test_large_constants_say_more_than_small_ones(self):
        # a quarter of a megabyte each in 2, one to four megabytes in 11
        small = [replace(row, cached_s=0.01 * row.latency_s) for row in self.samples(7, 0.25)]
        (family,) = fit([*small, *self.samples(23, 0.25)[16:]], Settings())
        assert family.model.cached_s_per_byte == pytest.approx(0.75e-10, rel=1e-3)

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

    def test_products_are_fitted_with_their_constants_in_the_last_cache(self):
        # the last ones were measured once, with small constants, which are there anyway
        quicker = [replace(s, latency_s=s.latency_s / 4) for s in self.samples(16, None)]
        (family,) = fit([*self.samples(13, 0.25), *quicker[13:]], Settings())
        assert family.model.measured_cached
        for sample in (quicker[2], quicker[15]):
            _, dims, _ = sample_geometry(sample)
            found = float(family.model.seconds(np.array([dims]), 4.0)[0])
            assert found == pytest.approx(sample.latency_s, rel=0.05)

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
