"""When a reading counts, and what rounds say about the machine."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from latency_service.calibration import timing
from latency_service.calibration.timing import (
    Clock,
    Reading,
    bootstrap_interval,
    faster_half,
    probe_s,
    stolen_ticks,
)


class Machine:
    """Clocks and counters that stand still until they are told to move."""

    RUSAGE_THREAD, RUSAGE_SELF = 1, 0

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0
        self.switches = {self.RUSAGE_THREAD: 0, self.RUSAGE_SELF: 0}
        self.stolen = 0

    def getrusage(self, who: int) -> SimpleNamespace:
        return SimpleNamespace(ru_nivcsw=self.switches[who])

    def compute(self, wall: float, cpu: float | None = None) -> None:
        self.wall += wall
        self.cpu += wall if cpu is None else cpu


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    fake = Machine()
    clocks = SimpleNamespace(perf_counter=lambda: fake.wall, thread_time=lambda: fake.cpu)
    monkeypatch.setattr(timing, "time", clocks)
    monkeypatch.setattr(timing, "resource", fake)
    monkeypatch.setattr(timing, "stolen_ticks", lambda: fake.stolen)
    return fake


def test_a_reading_is_the_wall_clocks(machine: Machine):
    clock = Clock()
    with clock.reading() as reading:
        machine.compute(0.011)
    assert reading.wall_s == pytest.approx(0.011)
    assert reading.clean


def test_a_thread_that_was_kept_waiting_is_disturbed(machine: Machine):
    clock = Clock()
    for wall, cpu, clean in ((0.013, 0.0128, True), (0.013, 0.0120, False)):
        with clock.reading() as reading:
            machine.compute(wall, cpu)
        assert reading.clean is clean


def test_microseconds_of_waiting_are_below_what_the_clocks_can_tell(machine: Machine):
    with Clock().reading() as reading:
        machine.compute(30e-6, 15e-6)
    assert reading.clean


def test_an_involuntary_switch_disturbs(machine: Machine):
    with Clock().reading() as reading:
        machine.compute(0.011)
        machine.switches[machine.RUSAGE_THREAD] += 1
    assert not reading.clean


def test_other_threads_do_not_disturb_one_thread(machine: Machine):
    with Clock().reading() as reading:
        machine.compute(0.011)
        machine.switches[machine.RUSAGE_SELF] += 1
        machine.stolen += 1
    assert reading.clean


def test_of_several_threads_cpu_time_says_nothing_and_the_processes_switches_count(
    machine: Machine,
):
    clock = Clock(threads=2)
    with clock.reading() as reading:
        machine.compute(0.011, 0.002)
    assert reading.clean
    with clock.reading() as reading:
        machine.switches[machine.RUSAGE_SELF] += 1
    assert not reading.clean


def test_of_several_threads_stolen_time_disturbs(machine: Machine):
    with Clock(threads=2).reading() as reading:
        machine.stolen += 1
    assert not reading.clean


class Core:
    """A core whose probes take what it is told; a wait makes no progress but in time."""

    def __init__(self, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.machine, self.probes, self.asked = machine, [3e-6], 0
        monkeypatch.setattr(timing, "probe_s", self.probe)

    def probe(self) -> float:
        self.asked += 1
        found = self.probes.pop(0) if len(self.probes) > 1 else self.probes[0]
        self.machine.compute(found)
        return found


@pytest.fixture
def core(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Core:
    return Core(machine, monkeypatch)


def readings(clock: Clock, core: Core, *probes: float) -> list[Reading]:
    """One reading for each pair of probes, before and after."""
    core.probes = [*probes, 3e-6]
    taken = []
    for _ in probes[::2]:
        with clock.reading() as reading:
            core.machine.compute(7e-5)
        taken.append(reading)
    return taken


def test_a_probe_that_takes_longer_before_or_after_tells_of_another_thread(core: Core):
    clock = Clock()
    taken = readings(clock, core, 3e-6, 3.1e-6, 3e-6, 4.4e-6, 5.1e-6, 3e-6, 3.4e-6, 3.3e-6)
    assert [clock.shared(reading) for reading in taken] == [False, True, True, False]
    assert [reading.wall_s for reading in taken] == pytest.approx([7e-5] * 4)


def test_a_reading_waits_until_the_core_is_its_own(core: Core):
    clock = Clock()
    readings(clock, core, *[3e-6] * 10)
    core.probes = [4.5e-6, 4.5e-6, 3e-6]
    core.asked = 0
    with clock.reading(patience_s=1e-3) as reading:
        core.machine.compute(7e-5)
    assert core.asked == 4
    assert not clock.shared(reading)


@pytest.mark.parametrize(("patience_s", "waits_s"), [(2e-4, 2e-4), (7.0, 3e-3)])
def test_a_reading_does_not_wait_forever(core: Core, patience_s: float, waits_s: float):
    clock = Clock()
    readings(clock, core, *[3e-6] * 10)
    core.probes = [4.5e-6]
    begun = core.machine.wall
    with clock.reading(patience_s) as reading:
        assert core.machine.wall - begun == pytest.approx(waits_s, abs=1e-5)
    assert clock.shared(reading)


def test_several_threads_are_not_probed(core: Core):
    clock = Clock(threads=2)
    with clock.reading() as reading:
        pass
    assert core.asked == 0
    assert not clock.shared(reading)


def test_undisturbed_readings_are_clean_and_alone_then_clean_then_all(core: Core):
    clock = Clock()
    alone, shared = readings(clock, core, *[3e-6] * 2, *[5e-6] * 2)
    late = Reading(7e-5, clean=False, probe_s=3e-6)
    assert clock.undisturbed([late, shared, alone]) == [alone]
    assert clock.undisturbed([late, shared]) == [shared]
    assert clock.undisturbed([late]) == [late]


def test_rounds_without_an_undisturbed_reading_are_left_out_unless_all_are(core: Core):
    clock = Clock()
    first, second, shared = readings(clock, core, *[3e-6] * 4, *[5e-6] * 2)
    late = Reading(7e-5, clean=False, probe_s=3e-6)
    rounds = [[first, shared], [shared, late], [second, late]]
    assert clock.undisturbed_rounds(rounds) == [[first], [second]]
    assert clock.undisturbed_rounds([[late, shared], [late]]) == [[shared], [late]]


def test_a_probe_takes_time():
    assert 0.0 < probe_s() < 1.0


def test_the_faster_half():
    assert faster_half([11.0, 3.0, 7.0, 5.0]) == 4.0
    assert faster_half([7.0, 3.0, 5.0]) == 3.0
    assert faster_half([7.0]) == 7.0


@pytest.mark.parametrize(
    ("text", "ticks"),
    [
        ("cpu  11 13 17 19 23 29 31 37 0 0\n", 37),
        ("cpu  11 13 17\n", 0),
        ("nothing of the kind\n", 0),
        ("", 0),
    ],
)
def test_stolen_time_is_the_eighth_number_of_the_first_line(tmp_path: Path, text: str, ticks: int):
    (tmp_path / "stat").write_text(text)
    assert stolen_ticks(tmp_path / "stat") == ticks


def test_where_nobody_counts_stolen_time_there_is_none(tmp_path: Path):
    assert stolen_ticks(tmp_path / "missing") == 0


def test_an_interval_holds_the_median_and_lies_within_the_rounds():
    rounds = [11e-6, 13e-6, 12e-6, 17e-6, 12.5e-6]
    low, high = bootstrap_interval(rounds)
    assert min(rounds) <= low <= 12.5e-6 <= high <= max(rounds)


def test_one_round_has_no_interval():
    assert bootstrap_interval([7e-6]) == (7e-6, 7e-6)


def test_the_interval_is_the_same_each_time():
    rounds = [11e-6, 13e-6, 17e-6]
    assert bootstrap_interval(rounds) == bootstrap_interval(rounds)
