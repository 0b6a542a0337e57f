import json
import platform
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from latency_service.calibration.environment import (
    Cache,
    Gpu,
    Machine,
    detect,
    run_command,
    torch_cuda,
)

# /proc/cpuinfo of a virtual machine on AMD EPYC, shortened.
EPYC = """\
processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 17
model name\t: AMD EPYC
cpu MHz\t\t: 2596.144
physical id\t: 0
siblings\t: 2
core id\t\t: 0
cpu cores\t: 2
flags\t\t: fpu sse2 fma avx hypervisor avx2 avx512f avx512dq avx512_bf16 avx512_vnni
bogomips\t: 5192.28

processor\t: 1
vendor_id\t: AuthenticAMD
model name\t: AMD EPYC
physical id\t: 0
core id\t\t: 1
flags\t\t: fpu sse2 fma avx hypervisor avx2 avx512f avx512dq avx512_bf16 avx512_vnni
"""
# Two sockets of two cores with two threads each.
XEON = "\n".join(
    f"processor\t: {n}\nvendor_id\t: GenuineIntel\n"
    "model name\t: Intel(R) Xeon(R) Platinum 8480+\n"
    f"physical id\t: {n // 2 % 2}\ncore id\t\t: {n % 2}\n"
    "flags\t\t: fma avx2 avx512f avx512_vnni avx512_fp16 avx_vnni amx_bf16 amx_tile amx_int8\n"
    for n in range(8)
)
GRAVITON3 = "\n".join(
    f"processor\t: {n}\nBogoMIPS\t: 2100.00\n"
    "Features\t: fp asimd crc32 asimddp sve i8mm bf16\n"
    "CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x1\n"
    "CPU part\t: 0xd40\nCPU revision\t: 1\n"
    for n in range(4)
)
RASPBERRY = """\
processor\t: 0
Features\t: fp asimd evtstrm crc32
CPU implementer\t: 0x41
CPU part\t: 0xd08

Hardware\t: BCM2835
Model\t\t: Raspberry Pi 4 Model B Rev 1.4
"""

ABSENT = "[N/A]"
SMI = {
    "name": "NVIDIA H200",
    "uuid": "GPU-d1000000-0000-0000-0000-000000000007",
    "driver_version": "580.159.03",
    "memory.total": "143771",
    "clocks.sm": "345",
    "clocks.max.sm": "1980",
    "clocks.mem": "3201",
    "clocks.max.mem": "3201",
    "power.limit": "700.00",
    "temperature.gpu": "29",
    "ecc.mode.current": "Enabled",
    "mig.mode.current": "Disabled",
    "persistence_mode": "Enabled",
    "clocks_event_reasons.active": "0x0000000000000001",
    "clocks_throttle_reasons.active": "0x0000000000000001",
}
V100 = SMI | {
    "name": "Tesla V100-PCIE-32GB",
    "uuid": "GPU-a2000000-0000-0000-0000-000000000003",
    "driver_version": "470.141.03",
    "memory.total": "32510",
    "clocks.sm": "135",
    "clocks.max.sm": "1380",
    "clocks.mem": "877",
    "clocks.max.mem": "877",
    "power.limit": "250.00",
    "temperature.gpu": "41",
    "mig.mode.current": ABSENT,
    "persistence_mode": "Disabled",
    # sw_power_cap (4) and sw_thermal_slowdown (0x20)
    "clocks_throttle_reasons.active": "0x0000000000000024",
}


def smi(
    *cards: dict[str, str], unknown: Sequence[str] = ()
) -> Callable[[Sequence[str]], str | None]:
    """An nvidia-smi that sees these cards and fails at fields that it does not know."""

    def run(command: Sequence[str]) -> str | None:
        program, query, form = command
        assert program == "nvidia-smi"
        assert form == "--format=csv,noheader,nounits"
        fields = query.removeprefix("--query-gpu=").split(",")
        if set(fields) & set(unknown):
            return None
        return "".join(", ".join(card[field] for field in fields) + "\n" for card in cards)

    return run


def machine(
    root: Path,
    files: dict[str, str] | None = None,
    architecture: str = "x86_64",
    run: Callable[[Sequence[str]], str | None] = lambda command: None,
    cpus: int = 2,
    **variables: str,
) -> Machine:
    for path, text in (files or {}).items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    uname = platform.uname_result("Linux", "host", "6.1.0", "#1 SMP", architecture)
    return Machine(root, run, lambda: uname, lambda: cpus, variables)


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


def test_a_cpu_in_sysfs_counts_cores_by_their_threads(tmp_path):
    folder = "sys/devices/system/cpu/cpu{}/topology"
    files = {"proc/cpuinfo": EPYC}
    for n in range(6):  # three cores of two threads, in one package
        files[folder.format(n) + "/physical_package_id"] = "0\n"
        files[folder.format(n) + "/thread_siblings_list"] = f"{n % 3},{n % 3 + 3}\n"
    cpu = detect(machine(tmp_path, files)).cpu

    assert (cpu.sockets, cpu.cores) == (1, 3)


def test_an_arm_server_is_named_by_its_core(tmp_path):
    files = {
        "proc/cpuinfo": GRAVITON3,
        "sys/class/dmi/id/sys_vendor": "Amazon EC2\n",
        "sys/class/dmi/id/product_name": "c7g.xlarge\n",
    }
    found = detect(machine(tmp_path, files, "aarch64"))

    assert (found.cpu.model, found.cpu.core) == ("ARM Neoverse-V1", "Neoverse-V1")
    assert (found.cpu.vendor, found.cpu.architecture) == ("ARM", "aarch64")
    assert found.cpu.instructions == ("neon", "asimddp", "i8mm", "bf16", "sve")
    assert (found.cpu.hypervisor, found.board) == (True, "Amazon EC2 c7g.xlarge")


def test_an_arm_board_is_named_by_its_device_tree(tmp_path):
    files = {
        "proc/cpuinfo": RASPBERRY,
        "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0",
    }
    cpu = detect(machine(tmp_path, files, "aarch64")).cpu

    assert (cpu.model, cpu.core) == ("Raspberry Pi 4 Model B Rev 1.4", "Cortex-A72")
    assert (cpu.instructions, cpu.hypervisor) == (("neon",), False)


def test_big_and_little_cores_are_both_named(tmp_path):
    parts = [("0x41", "0xd0b"), ("0x41", "0xd05"), ("0x41", "0xd05"), ("0x77", "0x001")]
    text = "\n".join(f"CPU implementer\t: {maker}\nCPU part\t: {part}\n" for maker, part in parts)
    cpu = detect(machine(tmp_path, {"proc/cpuinfo": text}, "aarch64")).cpu

    assert cpu.model == "ARM Cortex-A76 + Cortex-A55 + core 0x001"


def test_a_v100_says_its_state(tmp_path):
    (gpu,) = detect(machine(tmp_path, run=smi(V100, unknown=["clocks_event_reasons.active"]))).gpus

    assert gpu == Gpu(
        name="Tesla V100-PCIE-32GB",
        memory_bytes=32510 * 2**20,
        driver="470.141.03",
        sm_clock_hz=135e6,
        max_sm_clock_hz=1380e6,
        memory_clock_hz=877e6,
        max_memory_clock_hz=877e6,
        power_limit_w=250.0,
        temperature_c=41.0,
        ecc=True,
        mig=None,
        persistence=False,
        throttle_reasons=("sw_power_cap", "sw_thermal_slowdown"),
        units=None,
    )


def test_an_h200_on_a_driver_that_calls_throttling_events(tmp_path):
    run = smi(SMI, unknown=["clocks_throttle_reasons.active"])
    (gpu,) = detect(machine(tmp_path, run=run)).gpus

    assert (gpu.name, gpu.memory_bytes) == ("NVIDIA H200", 143771 * 2**20)
    assert (gpu.mig, gpu.ecc, gpu.persistence) == (False, True, True)
    assert gpu.throttle_reasons == ("gpu_idle",)


def test_a_driver_that_lacks_fields_still_tells_the_others(tmp_path):
    run = smi(V100, unknown=["mig.mode.current", "clocks_event_reasons.active", "clocks.max.mem"])
    (gpu,) = detect(machine(tmp_path, run=run)).gpus

    assert (gpu.max_sm_clock_hz, gpu.max_memory_clock_hz, gpu.mig) == (1380e6, None, None)
    assert gpu.throttle_reasons == ("sw_power_cap", "sw_thermal_slowdown")


@pytest.mark.parametrize("nothing", ["[N/A]", "[Not Supported]", "N/A", "[Unknown Error]", ""])
def test_a_gpu_that_does_not_tell_a_field_has_none(tmp_path, nothing):
    orin = dict.fromkeys(SMI, nothing) | {"name": "Orin (nvgpu)"}
    found = detect(machine(tmp_path, run=smi(orin)))

    assert found.gpus == (Gpu("Orin (nvgpu)"),)


@pytest.mark.parametrize(
    "printed",
    [
        None,
        "",
        "No devices were found\n",
        "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n",
    ],
)
def test_an_nvidia_smi_that_fails_sees_no_gpu(tmp_path, printed):
    assert detect(machine(tmp_path, run=lambda command: printed)).gpus == ()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, ["NVIDIA H200", "Tesla V100-PCIE-32GB"]),
        ({"CUDA_VISIBLE_DEVICES": "GPU-a2"}, ["Tesla V100-PCIE-32GB"]),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, []),
        ({"CUDA_VISIBLE_DEVICES": ""}, []),
        # CUDA's own order, the fastest first, is not known here.
        ({"CUDA_VISIBLE_DEVICES": "1"}, ["NVIDIA H200", "Tesla V100-PCIE-32GB"]),
        (
            {"CUDA_VISIBLE_DEVICES": "1,0", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"},
            ["Tesla V100-PCIE-32GB", "NVIDIA H200"],
        ),
    ],
)
def test_a_gpu_that_cuda_may_not_use_is_left_out(tmp_path, variables, expected):
    found = detect(machine(tmp_path, run=smi(SMI, V100), **variables))

    assert [gpu.name for gpu in found.gpus] == expected


def test_cuda_counts_multiprocessors_and_says_which_card_is_its_first(tmp_path):
    def cuda():
        return (Gpu("NVIDIA H200", units=132), Gpu("Tesla V100-PCIE-32GB", units=80))

    found = detect(machine(tmp_path, run=smi(V100, SMI)), cuda)

    assert [(gpu.name, gpu.units) for gpu in found.gpus] == [
        ("NVIDIA H200", 132),
        ("Tesla V100-PCIE-32GB", 80),
    ]
    assert found.gpus[0].max_sm_clock_hz == 1980e6


def test_cuda_names_the_instance_of_a_split_card(tmp_path):
    card = SMI | {"mig.mode.current": "Enabled"}
    own = Gpu("NVIDIA H200 MIG 1g.18gb", memory_bytes=17 * 2**30, units=16)
    (gpu,) = detect(machine(tmp_path, run=smi(card)), lambda: (own,)).gpus

    assert (gpu.name, gpu.memory_bytes, gpu.units) == (own.name, 17 * 2**30, 16)


def test_a_gpu_that_only_cuda_sees_is_there(tmp_path):
    own = Gpu("AMD Instinct MI210", memory_bytes=64 * 2**30, units=104)

    assert detect(machine(tmp_path), lambda: (own,)).gpus == (own,)


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


def test_torch_without_a_gpu_sees_none():
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert torch_cuda() == ()
