from latency_service.calibration.environment import detect
from tests.calibration.machines import EPYC, machine

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
