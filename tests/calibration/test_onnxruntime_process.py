"""What sessions share; in processes of their own, for a process has one pool at most."""

import os
import subprocess
import sys

import onnxruntime
import pytest

pytestmark = pytest.mark.skipif(
    not hasattr(onnxruntime, "set_global_thread_pool_sizes"),
    reason="this release of onnxruntime gives every session threads of its own",
)

PREPARE = """
import os
from latency_service.calibration.backends import open_backend
from latency_service.core.errors import CalibrationError
from tests.contracts.calibration_backend import WORKLOADS

def threads():
    return len(os.listdir("/proc/self/task"))

def prepare(count):
    backend = open_backend("onnxruntime", threads=count)
    prepared = [backend.prepare(work) for work in WORKLOADS]
    for session in prepared:
        session.run()
    return prepared
"""


def printed(code: str) -> list[str]:
    result = subprocess.run(
        [sys.executable, "-c", PREPARE + code],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"PYTHONPATH": "."},
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="threads are counted on Linux")
def test_they_share_the_threads_of_the_process():
    more, runs = printed("""
before = threads()
prepared = prepare(3)
print(threads() - before)
print(all(session.finish()[0].kernel_s > 0 for session in prepared))
""")

    # the third one is the caller's own
    assert int(more) <= 3
    assert runs == "True"


def test_another_number_of_threads_needs_another_process():
    (message,) = printed("""
prepare(2)
try:
    prepare(3)
except CalibrationError as error:
    print(error)
""")

    assert "2 threads already" in message
    assert "another process" in message


def test_one_thread_needs_no_pool():
    assert printed("""
prepare(1)
prepare(1)
prepare(2)
print("fine")
""") == ["fine"]
