import json
import platform

import pytest

from latency_service.calibration.cpu import Cache
from latency_service.calibration.environment import detect
from latency_service.calibration.machine import Machine, run_command
from tests.calibration.machines import EPYC, SMI, machine, smi

# Two sockets of two cores with two threads each.
XEON = "\n".join(
    f"processor\t: {n}\nvendor_id\t: GenuineIntel\n"
    "model name\t: Intel(R) Xeon(R) Platinum 8480+\n"
    f"physical id\t: {n // 2 % 2}\ncore id\t\t: {n % 2}\n"
    "flags\t\t: fma avx2 avx512f avx512_vnni avx512_fp16 avx_vnni amx_bf16 amx_tile amx_int8\n"
    for n in range(8)
)


def cache(index: int, level: int, kind: str, size: str, cpus: str) -> dict[str, str]:
    at = f"sys/devices/system/cpu/cpu0/cache/index{index}"
    return {
        f"{at}/level": f"{level}\n",
        f"{at}/type": f"{kind}\n",
        f"{at}/size": f"{size}\n",
        f"{at}/shared_cpu_list": f"{cpus}\n",
    }


def test_an_epyc_vm_says_its_hardware_and_its_hypervisor(tmp_path):
    files = {
        "proc/cpuinfo": EPYC,
        "proc/meminfo": "MemTotal:       24684092 kB\nMemFree:        18898156 kB\n",
        "proc/loadavg": "3.80 3.21 2.11 3/96 20151\n",
        "proc/pressure/cpu": "some avg10=26.97 avg60=65.14 avg300=54.37 total=888024761\n"
        "full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
        "proc/stat": "cpu  642050 175993 105437 2992130 7126 0 2394 2017 0 0\ncpu0 1 1\n",
        "etc/os-release": 'NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
        **cache(0, 1, "Data", "32K", "0"),
        **cache(1, 1, "Instruction", "32K", "0"),
        **cache(2, 2, "Unified", "1024K", "0"),
        **cache(3, 3, "Unified", "32768K", "0-1"),
    }
    found = detect(machine(tmp_path, files))

    cpu = found.cpu
    assert (cpu.model, cpu.vendor, cpu.architecture, cpu.core) == (
        "AMD EPYC",
        "AMD",
        "x86_64",
        None,
    )
    assert (cpu.sockets, cpu.cores, cpu.usable, cpu.hypervisor) == (1, 2, 2, True)
    assert cpu.instructions == ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16")
    assert cpu.caches == (
        Cache(1, "data", 32 * 1024, shared_by=1),
        Cache(1, "instruction", 32 * 1024, shared_by=1),
        Cache(2, "unified", 1024 * 1024, shared_by=1),
        Cache(3, "unified", 32 * 1024 * 1024, shared_by=2),
    )
    assert (cpu.governor, cpu.clock_hz, cpu.max_clock_hz) == (None, 2596.144e6, None)
    assert (found.memory_bytes, found.memory_limit_bytes) == (24684092 * 1024, None)
    assert found.load_average == (3.80, 3.21, 2.11)
    assert (found.cpu_pressure_percent, found.stolen_ticks) == (26.97, 2017)
    assert (found.cpu_quota, found.board, found.gpus) == (None, None, ())
    assert found.system == "Debian GNU/Linux 12 (bookworm)"
    assert found.kernel == "Linux 6.1.0"
    assert found.libraries["numpy"].count(".") == 2


def test_an_intel_machine_with_a_quota_of_one_and_a_half_cpus(tmp_path):
    frequency = "sys/devices/system/cpu/cpu0/cpufreq"
    files = {
        "proc/cpuinfo": XEON,
        "proc/meminfo": "MemTotal: 263953408 kB\n",
        "proc/self/cgroup": "0::/kubepods/pod7\n",
        "sys/fs/cgroup/kubepods/pod7/cpu.max": "max 100000\n",
        "sys/fs/cgroup/kubepods/cpu.max": "150000 100000\n",
        "sys/fs/cgroup/kubepods/pod7/memory.max": "8589934592\n",
        "sys/fs/cgroup/kubepods/memory.max": "max\n",
        "sys/class/dmi/id/sys_vendor": "Dell Inc.\n",
        "sys/class/dmi/id/product_name": "PowerEdge R760\n",
        f"{frequency}/scaling_governor": "performance\n",
        f"{frequency}/scaling_cur_freq": "2001000\n",
        f"{frequency}/cpuinfo_max_freq": "3800000\n",
    }
    found = detect(machine(tmp_path, files, cpus=7))

    assert found.cpu_quota == 1.5
    assert found.memory_limit_bytes == 8 * 2**30
    assert found.cpu.model == "Intel(R) Xeon(R) Platinum 8480+"
    assert found.cpu.vendor == "Intel"
    assert (found.cpu.sockets, found.cpu.cores, found.cpu.usable) == (2, 4, 7)
    assert {"amx_tile", "amx_int8", "amx_bf16"} < set(found.cpu.instructions)
    assert (found.cpu.governor, found.cpu.hypervisor) == ("performance", False)
    assert (found.cpu.clock_hz, found.cpu.max_clock_hz) == (2.001e9, 3.8e9)
    assert found.board == "Dell Inc. PowerEdge R760"


@pytest.mark.parametrize(
    ("path", "quota_us", "expected"),
    [
        ("sys/fs/cgroup/cpu/docker/a1", "250000", 2.5),
        # In a container the host's path is printed, but not mounted.
        ("sys/fs/cgroup/cpu", "50000", 0.5),
        ("sys/fs/cgroup/cpu", "-1", None),
    ],
)
def test_a_quota_of_control_groups_version_1(tmp_path, path, quota_us, expected):
    files = {
        "proc/self/cgroup": "4:memory:/docker/a1\n3:cpu,cpuacct:/docker/a1\n0::/\n",
        f"{path}/cpu.cfs_quota_us": f"{quota_us}\n",
        f"{path}/cpu.cfs_period_us": "100000\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        "proc/meminfo": "MemTotal: 1024 kB\n",
    }
    found = detect(machine(tmp_path, files))

    assert found.cpu_quota == expected
    assert (found.memory_bytes, found.memory_limit_bytes) == (1024 * 1024, None)


def test_a_machine_that_tells_nothing_is_no_error(tmp_path):
    uname = platform.uname_result("Windows", "host", "11", "10.0.26100", "AMD64")
    found = detect(Machine(tmp_path, lambda command: None, lambda: uname, lambda: 3, {}))

    assert found.cpu.usable == 3
    assert found.cpu.model
    assert (found.cpu.caches, found.gpus) == ((), ())
    assert found.system == "Windows 10.0.26100"
    assert found.stolen_ticks is None


def test_an_environment_is_plain_json(tmp_path):
    document = detect(machine(tmp_path, {"proc/cpuinfo": EPYC}, run=smi(SMI))).to_json()

    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["cpu"]["model"] == "AMD EPYC"
    assert document["gpus"][0]["throttle_reasons"] == ["gpu_idle"]
    assert SMI["uuid"] not in json.dumps(document)


def test_this_machine_is_detected():
    found = detect()

    assert found.cpu.model
    assert found.cpu.usable >= 1
    assert found.to_json()


def test_a_command_that_is_not_there_or_fails_prints_none():
    assert run_command(["/nonexistent/nvidia-smi"]) is None
    assert run_command(["false"]) is None
    assert run_command(["echo", "7"]) == "7\n"
