"""What every calibration backend must hold; run by tests/calibration/test_backends.py."""

from __future__ import annotations

import re

import pytest

from latency_service.calibration.backends import Backend
from latency_service.core.errors import CalibrationError
from latency_service.core.sample import Workload

# One of each kind, with distinct primes for dimensions.
WORKLOADS = (
    Workload(
        "Conv",
        ((1, 5, 11, 13), (7, 5, 3, 3), (7,)),
        {"kernel_shape": [3, 3], "pads": [1] * 4, "strides": [1, 1], "group": 1},
        learned=(1, 2),
        outputs=((1, 7, 11, 13),),
    ),
    Workload("MatMul", ((3, 11, 17), (17, 19)), learned=(1,), outputs=((3, 11, 19),)),
    Workload("Add", ((3, 11, 17), (3, 11, 17)), outputs=((3, 11, 17),)),
    Workload("Softmax", ((3, 11, 17),), {"axis": -1}, outputs=((3, 11, 17),)),
    Workload("Split", ((3, 22, 5),), {"axis": 1, "split": [11, 11]}, outputs=((3, 11, 5),) * 2),
    Workload("Relu", ((1,),), outputs=((1,),)),
)


class CalibrationBackendContract:
    @pytest.fixture
    def backend(self) -> Backend:
        raise NotImplementedError

    @pytest.mark.parametrize("work", WORKLOADS, ids=lambda work: work.op)
    def test_every_run_is_accounted_for(self, backend: Backend, work: Workload):
        prepared = backend.prepare(work)
        walls = [prepared.run() for _ in range(4)]
        runs = prepared.finish()
        assert len(runs) == 4
        assert all(wall > 0 for wall in walls)
        assert all(run.kernel_s > 0 for run in runs)
        assert {type(run.clean) for run in runs} == {bool}

    def test_two_workloads_can_be_ready_at_once(self, backend: Backend):
        first, second = (backend.prepare(work) for work in WORKLOADS[:2])
        for _ in range(3):
            first.run()
            second.run()
        assert len(first.finish()) == len(second.finish()) == 3

    def test_what_it_cannot_run_is_an_error_and_not_more(self, backend: Backend):
        impossible = Workload("MatMul", ((3, 11), (13, 7)), learned=(1,), outputs=((3, 7),))
        with pytest.raises(CalibrationError, match=r"MatMul|run the model"):
            backend.prepare(impossible)
        prepared = backend.prepare(WORKLOADS[0])
        prepared.run()
        assert len(prepared.finish()) == 1

    def test_it_says_what_it_is(self, backend: Backend):
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+", backend.runtime)
        assert backend.kind in ("cpu", "gpu")
        assert backend.units >= 1
        assert 0 < backend.resolution_s < 1e-4
        assert backend.facts()

    def test_rules_are_known_to_the_cost_model(self, backend: Backend):
        fusion, layout = backend.discover("float32")
        assert fusion.origin in ("measured", "derived")
        assert fusion.source
        assert layout is None or layout.block % layout.alignment == 0

    def test_bandwidth_ascends_by_working_set(self, backend: Backend):
        levels = backend.levels(0.05)
        sizes = [size for size, _ in levels]
        assert sizes == sorted(set(sizes))
        assert all(rate.low <= rate.value <= rate.high for _, rate in levels)
