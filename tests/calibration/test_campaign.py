"""What a campaign does with its budget, with noise, and with what interrupts it."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from latency_service.calibration import bandwidth, bench, campaign, workloads
from latency_service.calibration.backends import Run, open_backend
from latency_service.calibration.bench import ROUNDS, Bench
from latency_service.calibration.campaign import Plan
from latency_service.calibration.journal import Journal
from latency_service.calibration.measurement import Measurement, Rate
from latency_service.core.efficiency import Layout
from latency_service.core.errors import CalibrationError
from latency_service.core.profile import FusionRules
from latency_service.core.sample import Workload

HEADER = {"device": "lab-cpu"}
RELU = Workload("Relu", ((7, 13),), outputs=((7, 13),))
POOL = Workload("MaxPool", ((1, 16, 10, 10),), {"kernel_shape": [1, 1]},
                outputs=((1, 16, 10, 10),))  # fmt: skip


class FakePrepared:
    most_runs = 40
    evicts, at_once = False, 1

    def __init__(self, backend: FakeBackend, work: Workload) -> None:
        self.backend, self.work = backend, work
        self.runs: list[Run] = []

    def run(self) -> float:
        run = self.backend.times(self.work, len(self.runs))
        self.backend.now += run.kernel_s
        self.runs.append(run)
        if self.backend.interrupt_at is not None and self.backend.now > self.backend.interrupt_at:
            raise KeyboardInterrupt
        return run.kernel_s

    def finish(self) -> list[Run]:
        self.backend.open -= 1
        return self.runs


class FakeBackend:
    """Every operator takes what `times` says; time passes only while something runs."""

    runtime, kind, units, resolution_s = "fake-cpu-1-thread", "cpu", 1, 1e-9
    launches_ahead, threads = False, 1

    def __init__(self, times: Callable[[Workload, int], Run] | None = None) -> None:
        self.times = times or (lambda work, number: Run(1e-4, 0.0, 0.0, True))
        self.now = 0.0
        self.open = 0
        self.interrupt_at: float | None = None
        self.refuses: set[str] = set()

    def prepare(self, work: Workload) -> FakePrepared:
        if work.op in self.refuses:
            raise CalibrationError(f"no {work.op}")
        self.now += 0.1
        self.open += 1
        return FakePrepared(self, work)

    def discover(self, dtype: str) -> tuple[FusionRules, Layout | None]:
        return FusionRules(source="fake"), None

    def levels(self, seconds: float) -> tuple[tuple[float, Rate], ...]:
        self.now += seconds
        return ((1e9, Rate(2e10, 1e10, 3e10)),)

    def facts(self) -> Mapping[str, Any]:
        return {"fake": "1.0"}


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> FakeBackend:
    fake = FakeBackend()
    for module in (bench, campaign):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: fake.now))
    return fake


def measure(backend: FakeBackend, path: Path, **plan: Any) -> Measurement:
    journal = Journal(path / "journal.jsonl", HEADER)
    return campaign.run(backend, Plan(**plan), journal, lambda *_: None)


def test_the_budget_is_kept(backend: FakeBackend, tmp_path: Path):
    found = measure(backend, tmp_path, budget_s=60.0)
    # the last batch may end a little late
    assert 50.0 < backend.now < 63.0
    assert found.samples
    assert backend.open == 0


def test_slow_devices_keep_the_budget_too(backend: FakeBackend, tmp_path: Path):
    backend.times = lambda work, number: Run(0.1, 0.0, 0.0, True)
    measure(backend, tmp_path, budget_s=60.0)
    assert backend.now < 80.0


def test_every_dtype_gets_its_share(backend: FakeBackend, tmp_path: Path):
    found = measure(backend, tmp_path, budget_s=60.0, shares={"float32": 0.5, "int8": 0.5})
    counts = Counter(
        "int8" if "Integer" in s.workload.op or "QLinear" in s.workload.op else s.workload.dtype
        for s in found.samples
    )
    assert set(found.rates) == {"float32", "int8"}
    assert min(counts["float32"], counts["int8"]) > 50


def test_what_is_predicted_badly_is_drawn_more_often(
    backend: FakeBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked: list[Any] = []

    def draw(seed: int, dtype: str, favour: Any = None) -> Any:
        asked.append(favour)
        return workloads.draw(seed, dtype, favour)

    monkeypatch.setattr(campaign, "draw", draw)
    noise = itertools.cycle([1.0, 3.0, 0.4, 1.7])
    values: dict[str, float] = {}

    def times(work: Workload, number: int) -> Run:
        if work.op != "Softmax":
            return Run(1e-4, 0.0, 0.0, True)
        return Run(1e-4 * values.setdefault(str(work), next(noise)), 0.0, 0.0, True)

    backend.times = times
    measure(backend, tmp_path, budget_s=60.0)
    assert asked[0] is None
    assert asked[-1]["Softmax"] > 1.5 * asked[-1]["Add"], asked[-1]


def test_a_continued_recording_counts_and_goes_on_with_other_shapes(
    backend: FakeBackend, tmp_path: Path
):
    first = measure(backend, tmp_path, budget_s=30.0)
    backend.now = 0.0
    second = measure(backend, tmp_path, budget_s=30.0)
    held = len(first.samples)
    assert second.samples[:held] == first.samples
    shapes = {str(s.workload) for s in first.samples}
    again = [s for s in second.samples[held:] if str(s.workload) in shapes]
    assert len(again) < 0.2 * (len(second.samples) - held)


def test_an_interrupted_run_keeps_its_samples_and_leaves_nothing_open(
    backend: FakeBackend, tmp_path: Path
):
    backend.interrupt_at = 20.0
    with pytest.raises(KeyboardInterrupt):
        measure(backend, tmp_path, budget_s=60.0)
    assert backend.open == 0
    assert len(Journal(tmp_path / "journal.jsonl", HEADER).samples) > 24


def test_a_runtime_that_runs_nothing_is_an_error(
    backend: FakeBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(campaign, "peak_workloads", lambda dtype, kind: iter([]))
    with pytest.raises(CalibrationError, match="ran none of the workloads in float32"):
        measure(backend, tmp_path, budget_s=5.0)


def test_refused_workloads_are_counted_and_nothing_else(backend: FakeBackend, tmp_path: Path):
    backend.refuses = {"Softmax", "LSTM"}
    found = measure(backend, tmp_path, budget_s=40.0)
    assert found.environment["left_out"] > 3
    assert not backend.refuses & {s.workload.op for s in found.samples}


def test_progress_never_goes_back(backend: FakeBackend, tmp_path: Path):
    shown: list[tuple[str, float]] = []
    journal = Journal(tmp_path / "journal.jsonl", HEADER)
    campaign.run(
        backend, Plan(budget_s=20.0), journal, lambda p, share, _: shown.append((p, share))
    )
    shares = [share for _, share in shown]
    assert shares == sorted(shares)
    assert [phase for phase, _ in shown][:3] == ["bandwidth", "rules", "peak rate"]


def by_round(*per_round: float, repeats: int, clean: bool = True) -> Callable[[int], Run]:
    """Times of a workload by round; the first two runs warm up."""
    return lambda number: Run(
        per_round[min(max(number - 2, 0) // repeats, ROUNDS - 1)], 0.0, 0.0, clean
    )


def relu_takes(times: Callable[[int], Run]) -> Callable[[Workload, int], Run]:
    """That, and everything else, the reference kernel among it, a tenth of a millisecond."""
    return lambda work, number: times(number) if work == RELU else Run(1e-4, 0.0, 0.0, True)


def test_of_short_runs_the_faster_half_of_all_rounds_counts(backend: FakeBackend):
    seconds = (3e-5, 5e-5, 7e-5, 11e-5)
    # 3 ms a round, but 40 runs at most
    backend.times = relu_takes(by_round(*seconds, repeats=40))
    (sample,), refused = Bench(backend).measure([RELU])
    assert sample.rounds_s == pytest.approx(seconds)
    assert sample.latency_s == pytest.approx((3e-5 + 5e-5) / 2)
    assert refused == 0


@pytest.mark.parametrize(("repeats", "settle"), [(40, 5), (9, 4), (1, 0)])
def test_the_first_runs_of_a_round_do_not_count(backend: FakeBackend, repeats: int, settle: int):
    seconds = 2.99e-3 / repeats

    def times(number: int) -> Run:
        first = number >= 2 and (number - 2) % repeats < settle
        return Run(0.1 * seconds if first else seconds, 0.0, 0.0, True)

    backend.times = relu_takes(times)
    (sample,), _ = Bench(backend).measure([RELU])
    assert sample.latency_s == pytest.approx(seconds)
    assert sample.rounds_s == pytest.approx([seconds] * ROUNDS)


def test_of_long_runs_the_best_counts(backend: FakeBackend):
    seconds = (7e-4, 5e-4, 3.1e-4, 11e-4)
    backend.times = relu_takes(by_round(*seconds, repeats=4))
    (sample,), _ = Bench(backend).measure([RELU])
    assert sample.latency_s == pytest.approx(3.1e-4)


def test_runs_that_share_the_core_do_not_count(backend: FakeBackend):
    backend.times = lambda work, number: Run(
        1.5e-4 if number % 3 else 1e-4, 0.0, 0.0, True, shared=number % 3 != 0
    )
    looked = Bench(backend)
    (sample,), _ = looked.measure([RELU])
    assert sample.latency_s == pytest.approx(1e-4)
    assert sample.reference_s == pytest.approx(1e-4)
    assert looked.shared_share == pytest.approx(2 / 3, abs=0.05)
    assert looked.verdict() is None
    assert "another thread ran on the same core" in str(looked.warning())


def test_where_the_core_is_always_shared_all_runs_count(backend: FakeBackend):
    backend.times = lambda work, number: Run(1.5e-4, 0.0, 0.0, True, shared=True)
    (sample,), _ = Bench(backend).measure([RELU])
    assert sample.latency_s == pytest.approx(1.5e-4)


def test_of_several_threads_the_best_round_counts(backend: FakeBackend):
    backend.threads = 2
    seconds = (3e-4, 5e-4, 7e-4, 11e-4)
    backend.times = relu_takes(by_round(*seconds, repeats=10))
    (sample,), _ = Bench(backend).measure([RELU])
    assert sample.latency_s == pytest.approx(3e-4)


def test_what_the_reference_took_stands_beside_a_sample(backend: FakeBackend):
    pace = (1.0, 1.2, 1.5, 1.1)
    backend.times = lambda work, number: (
        by_round(*(1e-5 * p for p in pace), repeats=8)(number)
        if work.op == "MatMul"
        else Run(1e-4, 0.0, 0.0, True)
    )
    (sample,), _ = Bench(backend).measure([RELU])
    assert sample.latency_s == pytest.approx(1e-4)
    # the median over the rounds
    assert sample.reference_s == pytest.approx(1.15e-5)


def test_recurrent_layers_and_large_thin_convolutions_run_twice_in_a_turn(backend: FakeBackend):
    lstm = Workload("LSTM", ((3, 1, 7), (1, 44, 7), (1, 44, 11)), {"hidden_size": 11},
                    learned=(1, 2), outputs=((3, 1, 1, 11),))  # fmt: skip

    def convolution(channels: int) -> Workload:
        image, weights = (1, channels, 700, 700), (5, channels, 3, 3)
        return Workload("Conv", (image, weights), {"pads": [1] * 4}, learned=(1,),
                        outputs=((1, 5, 700, 700),))  # fmt: skip

    order: list[Workload] = []

    def times(work: Workload, number: int) -> Run:
        if number >= 2:  # the first two say how long one takes
            order.append(work)
        return Run(1e-3, 0.0, 0.0, True)

    backend.times = times
    works = [RELU, lstm, convolution(3), convolution(61)]
    Bench(backend).measure(works)
    order = [work for work in order if work.op != "MatMul"]
    assert order[:6] == [works[0], *[works[1]] * 2, *[works[2]] * 2, works[3]]


def test_a_run_nearer_its_data_stands_beside_the_usual_one(
    backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(FakePrepared, "at_once", 4)
    found = ((7e-5, False), (9e-5, None), (3e-5, True), (3e-5, True))

    def times(number: int) -> Run:
        seconds, cached = found[number % 4]
        return Run(seconds, 0.0, 0.0, True, cached=cached)

    backend.times = relu_takes(times)
    (sample,) = Bench(backend).measure([RELU])[0]
    assert (sample.latency_s, sample.cached_s) == pytest.approx((7e-5, 3e-5))


def test_whole_turns_are_tried_and_run(backend: FakeBackend, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(FakePrepared, "at_once", 3)
    monkeypatch.setattr(FakePrepared, "most_runs", 4)
    runs: Counter[str] = Counter()

    def times(work: Workload, number: int) -> Run:
        runs[work.op] += 1
        return Run(1e-4, 0.0, 0.0, True, cached=(False, None, True)[number % 3])

    backend.times = times
    Bench(backend).measure([RELU])
    # one turn to try it; four runs in each of four rounds become two turns
    assert runs["Relu"] == 3 + 4 * 6


def test_reorders_of_large_images_are_told_where_these_stay_in_the_caches(backend: FakeBackend):
    pool = Workload("MaxPool", ((1, 16, 300, 300),), {"kernel_shape": [1, 1]},
                    outputs=((1, 16, 300, 300),))  # fmt: skip
    backend.times = lambda work, number: Run(1e-4, 3e-5, 2e-5, True)
    assert {s.workload.op for s in Bench(backend).measure([pool])[0]} == {"MaxPool"}
    assert len(Bench(backend).measure([POOL])[0]) == 3


def test_disturbed_runs_do_not_count(backend: FakeBackend):
    backend.times = lambda work, number: Run(
        9e-4 if number % 2 else 4e-4, 0.0, 0.0, number % 2 == 0
    )
    looked = Bench(backend)
    (sample,), _ = looked.measure([RELU])
    assert sample.latency_s == pytest.approx(4e-4)
    assert looked.disturbed_share == pytest.approx(0.5)
    assert looked.verdict() is None


def test_a_run_that_is_mostly_interrupted_is_not_to_be_trusted(backend: FakeBackend):
    backend.times = lambda work, number: Run(4e-4, 0.0, 0.0, number % 5 == 0)
    looked = Bench(backend)
    looked.measure([RELU])
    verdict = looked.verdict()
    assert verdict is not None
    assert "% of the runs were interrupted" in verdict
    assert looked.disturbed_share == pytest.approx(0.8, abs=0.05)


@pytest.mark.parametrize(
    ("factor", "warned", "refused"), [(1.02, False, False), (1.2, True, False), (2.5, True, True)]
)
def test_rounds_that_differ_warn_and_then_refuse(
    backend: FakeBackend, factor: float, warned: bool, refused: bool
):
    rounds = (3e-4, 3e-4 * factor, 3e-4, 3e-4 * factor)
    backend.times = relu_takes(by_round(*rounds, repeats=10))
    looked = Bench(backend)
    looked.measure([RELU])
    assert (looked.warning() is not None) == warned
    assert (looked.verdict() is not None) == refused


def test_reorders_are_samples_of_their_own(backend: FakeBackend):
    backend.times = lambda work, number: Run(4e-4, 7e-5, 5e-5, True)
    samples, _ = Bench(backend).measure([POOL])
    assert [s.workload.op for s in samples] == ["MaxPool", "ReorderInput", "ReorderOutput"]
    assert samples[0].blocked
    assert [s.latency_s for s in samples] == pytest.approx([4e-4, 7e-5, 5e-5])


def test_bandwidth_reaches_four_times_the_last_cache(tmp_path: Path):
    for index, size in enumerate(("32K", "1M", "48M")):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(size + "\n")
    assert bandwidth.last_cache_bytes(tmp_path) == 48 << 20
    assert bandwidth.last_cache_bytes(tmp_path / "missing") == 0


@pytest.mark.parametrize(
    ("cache_bytes", "largest"), [(0, 128 << 20), (48 << 20, 256 << 20), (480 << 20, 512 << 20)]
)
def test_working_sets_go_well_beyond_the_last_cache(cache_bytes: int, largest: int):
    sizes = bandwidth.working_sets(cache_bytes)
    assert sizes[0] == 16 << 10
    assert sizes[-1] == largest
    assert all(after == 2 * before for before, after in itertools.pairwise(sizes))


def test_a_small_campaign_on_this_machine(tmp_path: Path):
    found = campaign.run(
        open_backend("onnxruntime"),
        Plan(budget_s=4.0),
        Journal(tmp_path / "journal.jsonl", HEADER),
        lambda *_: None,
    )
    assert found.runtime == "onnxruntime-cpu-1-thread"
    assert found.samples
    assert found.rates["float32"].value > 1e8
    assert found.levels
    assert bench.ROUNDS >= max(len(s.rounds_s) for s in found.samples) >= 1


def test_an_interruption_is_not_hidden_by_what_it_leaves_behind(
    backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
):
    # a run that was cut short has no reading, and its session cannot be evaluated
    def broken(prepared: FakePrepared) -> list[Run]:
        backend.open -= 1
        raise ValueError("a run without a reading")

    monkeypatch.setattr(FakePrepared, "finish", broken)
    backend.interrupt_at = 0.3
    with pytest.raises(KeyboardInterrupt):
        Bench(backend).measure([RELU, POOL])
    assert backend.open == 0
