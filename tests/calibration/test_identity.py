from dataclasses import replace

import pytest

from latency_service.calibration.cpu import Cpu
from latency_service.calibration.environment import Environment
from latency_service.calibration.gpu import Gpu
from latency_service.calibration.identity import Identity, is_cpu, is_gpu, resolve
from latency_service.core.errors import OptionError, ProfileError
from latency_service.core.profile import Device
from latency_service.storage.seeds import read_profiles

GPU, CPU = "gpu", "cpu"
MIB = 2**20


@pytest.fixture(scope="module")
def devices() -> dict[str, Device]:
    return {profile.device.slug: profile.device for profile in read_profiles()}


def machine(
    *gpus: Gpu,
    model: str = "AMD EPYC",
    vendor: str = "AMD",
    core: str | None = None,
    board: str | None = None,
    memory_bytes: int | None = 24 * 2**30,
) -> Environment:
    cpu = Cpu(
        model=model,
        vendor=vendor,
        architecture="aarch64" if core else "x86_64",
        core=core,
        sockets=1,
        cores=11,
        usable=22,
        caches=(),
        instructions=(),
        governor=None,
        clock_hz=2.6e9,
        max_clock_hz=3.7e9,
        hypervisor=True,
    )
    return Environment(
        cpu=cpu,
        board=board,
        cpu_quota=None,
        memory_bytes=memory_bytes,
        memory_limit_bytes=None,
        load_average=(),
        cpu_pressure_percent=None,
        stolen_ticks=None,
        system="Debian",
        kernel="Linux",
        python="CPython",
        libraries={},
        gpus=gpus,
    )


def card(name: str, mebibytes: int | None, **state) -> Gpu:
    return Gpu(name, None if mebibytes is None else mebibytes * MIB, **state)


V100_PCIE_32 = card("Tesla V100-PCIE-32GB", 32510)
V100_SXM2_32 = card("Tesla V100-SXM2-32GB", 32510)
T4 = card("Tesla T4", 15360)


def ask(
    devices: dict[str, Device],
    requested: str,
    environment: Environment,
    kind: str,
    provider: str | None = None,
) -> Identity:
    """Resolve as the command does: the catalogue knows slugs and aliases."""
    name = requested.lower()
    known = next((d for d in devices.values() if name in (d.slug, *d.aliases)), None)
    return resolve(requested, known, environment, kind, tuple(devices.values()), provider)


def refusal(*args) -> str:
    with pytest.raises(OptionError) as caught:
        ask(*args)
    return str(caught.value)


# What nvidia-smi prints as a card's name and memory.total in MiB, and the device that it is.
PRINTED = [
    ("Tesla K80", 11441, "k80-1gpu"),
    ("Tesla P4", 7611, "p4"),
    ("Tesla P40", 22919, "p40"),
    ("Tesla P100-PCIE-16GB", 16280, "p100-pcie-16gb"),
    ("Tesla P100-SXM2-16GB", 16280, "p100-sxm2-16gb"),
    ("Tesla V100-SXM2-16GB", 16160, "v100-sxm2-16gb"),
    ("Tesla V100-SXM2-32GB", 32510, "v100-sxm2-32gb"),
    ("Tesla V100-PCIE-16GB", 16384, "v100-pcie-16gb"),
    ("Tesla V100-PCIE-32GB", 32768, "v100-pcie-32gb"),
    ("Tesla V100S-PCIE-32GB", 32510, "v100s-pcie-32gb"),
    ("Tesla T4", 15109, "t4"),
    ("NVIDIA T4", 15360, "t4"),
    ("A100-SXM4-40GB", 40536, "a100-sxm4-40gb"),
    ("NVIDIA A100-SXM4-40GB", 40960, "a100-sxm4-40gb"),
    ("NVIDIA A100-SXM4-80GB", 81920, "a100-sxm4-80gb"),
    ("NVIDIA A100-PCIE-40GB", 40536, "a100-pcie-40gb"),
    ("NVIDIA A100 80GB PCIe", 81920, "a100-pcie-80gb"),
    ("NVIDIA A10", 23028, "a10"),
    ("NVIDIA A10G", 22731, "a10g"),
    ("NVIDIA A2", 15356, "a2"),
    ("NVIDIA A30", 24576, "a30"),
    ("NVIDIA A40", 46068, "a40"),
    ("NVIDIA H100 80GB HBM3", 81559, "h100-sxm5-80gb"),
    ("NVIDIA H100 PCIe", 81559, "h100-pcie-80gb"),
    ("NVIDIA H100 NVL", 95830, "h100-nvl-94gb"),
    ("NVIDIA H200", 143771, "h200-sxm-141gb"),
    ("NVIDIA GH200 480GB", 97871, "gh200-96gb"),
    ("NVIDIA B200", 183359, "b200-sxm-180gb"),
    ("NVIDIA L4", 23034, "l4"),
    ("NVIDIA L40", 46068, "l40"),
    ("NVIDIA L40S", 46068, "l40s"),
    ("NVIDIA RTX A6000", 49140, "rtx-a6000"),
    ("NVIDIA RTX 6000 Ada Generation", 49140, "rtx-6000-ada"),
    ("GeForce GTX 1080 Ti", 11178, "gtx-1080-ti"),
    ("NVIDIA GeForce RTX 2080 Ti", 11264, "rtx-2080-ti"),
    ("NVIDIA GeForce RTX 3060", 12288, "rtx-3060-12gb"),
    ("NVIDIA GeForce RTX 3070", 8192, "rtx-3070"),
    ("NVIDIA GeForce RTX 3080", 10240, "rtx-3080-10gb"),
    ("NVIDIA GeForce RTX 3090", 24576, "rtx-3090"),
    ("NVIDIA GeForce RTX 4070", 12282, "rtx-4070"),
    ("NVIDIA GeForce RTX 4080", 16376, "rtx-4080"),
    ("NVIDIA GeForce RTX 4090", 24564, "rtx-4090"),
    ("NVIDIA GeForce RTX 5080", 16303, "rtx-5080"),
    ("NVIDIA GeForce RTX 5090", 32607, "rtx-5090"),
    # Without the memory the name alone decides, where it can.
    ("Tesla V100-PCIE-32GB", None, "v100-pcie-32gb"),
    ("NVIDIA A100 80GB PCIe", None, "a100-pcie-80gb"),
    # Near names of cards that no profile has.
    ("GeForce GTX 1080", 8119, None),
    ("NVIDIA GeForce RTX 2080", 8192, None),
    ("NVIDIA GeForce RTX 3060", 8192, None),
    ("NVIDIA GeForce RTX 3060 Ti", 8192, None),
    ("NVIDIA GeForce RTX 3080", 12288, None),
    ("NVIDIA GeForce RTX 3080 Ti", 12288, None),
    ("NVIDIA GeForce RTX 3090 Ti", 24564, None),
    ("NVIDIA GeForce RTX 4070 SUPER", 12282, None),
    ("NVIDIA GeForce RTX 4070 Ti", 12282, None),
    ("NVIDIA GeForce RTX 4070 Ti SUPER", 16376, None),
    ("NVIDIA GeForce RTX 4080 SUPER", 16376, None),
    ("NVIDIA GeForce RTX 4090 D", 24564, None),
    ("NVIDIA GeForce RTX 4090 Laptop GPU", 16376, None),
    ("Quadro RTX 6000", 24576, None),
    ("NVIDIA A100-SXM-64GB", 65536, None),
    ("GRID A100-10C", 10240, None),
    ("NVIDIA A800-SXM4-80GB", 81920, None),
    ("NVIDIA H20", 97871, None),
    ("NVIDIA H200 NVL", 143771, None),
    ("NVIDIA H800", 81559, None),
    ("Tesla P100-PCIE-12GB", 12198, None),
    ("Tesla V100-SXM3-32GB", 32510, None),
    ("Tesla V100-FHHL-16GB", 16160, None),
    ("NVIDIA T4G", 15360, None),
]


@pytest.mark.parametrize(("printed", "mebibytes", "slug"), PRINTED)
def test_a_printed_name_is_one_device_or_none(devices, printed, mebibytes, slug):
    gpu = card(printed, mebibytes)
    found = [d.slug for d in devices.values() if is_gpu(d, gpu, machine(gpu))]

    assert found == ([] if slug is None else [slug])


def test_every_nvidia_card_with_a_profile_has_a_printed_name(devices):
    known = {slug for slug, d in devices.items() if (d.vendor, d.kind) == ("NVIDIA", "gpu")}
    jetsons = {slug for slug in known if slug.startswith("jetson-")}
    board_of_two = {"k80"}

    assert known - jetsons - board_of_two == {slug for *_, slug in PRINTED} - {None}


@pytest.mark.parametrize(
    ("board", "gibibytes", "slug"),
    [
        ("NVIDIA Jetson AGX Orin Developer Kit", 61.4, "jetson-agx-orin-64gb"),
        ("NVIDIA Jetson AGX Orin Developer Kit", 30.0, "jetson-agx-orin-32gb"),
        ("NVIDIA Orin NX Developer Kit", 15.3, "jetson-orin-nx-16gb"),
        ("NVIDIA Orin NX Developer Kit", 7.4, None),
        ("NVIDIA Jetson Orin Nano Developer Kit", 6.7, "jetson-orin-nano-8gb"),
        (
            "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
            7.4,
            "jetson-orin-nano-super-8gb",
        ),
    ],
)
@pytest.mark.parametrize("printed", ["Orin (nvgpu)", "Orin"])
def test_which_jetson_an_orin_is_the_board_and_its_memory_tell(
    devices, printed, board, gibibytes, slug
):
    jetson = machine(card(printed, None), board=board, memory_bytes=int(gibibytes * 2**30))
    found = [d.slug for d in devices.values() if is_gpu(d, jetson.gpus[0], jetson)]

    assert found == ([] if slug is None else [slug])


def test_one_die_of_an_mi250x_is_not_the_card(devices):
    die = card("AMD Instinct MI250X", 65520)
    found = [d.slug for d in devices.values() if is_gpu(d, die, machine(die))]

    assert found == ["mi250x-1gcd"]


@pytest.mark.parametrize(
    ("model", "slug"),
    [
        ("AMD EPYC 7742 64-Core Processor", "epyc-7742"),
        ("AMD EPYC 7763 64-Core Processor", "epyc-7763"),
        ("AMD EPYC 9654 96-Core Processor", "epyc-9654"),
        ("Intel(R) Core(TM) i7-8700K CPU @ 3.70GHz", "core-i7-8700k"),
        ("13th Gen Intel(R) Core(TM) i7-13700K", "core-i7-13700k"),
        ("Intel(R) Xeon(R) Platinum 8180 CPU @ 2.50GHz", "xeon-8180"),
        ("Intel(R) Xeon(R) Platinum 8380 CPU @ 2.30GHz", "xeon-8380"),
        ("Intel(R) Xeon(R) Platinum 8480+", "xeon-8480plus"),
        ("Intel(R) Xeon(R) Platinum 8180M CPU @ 2.50GHz", None),
        ("Intel(R) Xeon(R) Platinum 8480C", None),
        ("Intel(R) Xeon(R) CPU @ 2.20GHz", None),
        ("Intel(R) Core(TM) i7-8700 CPU @ 3.20GHz", None),
        ("AMD EPYC 7742P", None),
        ("AMD EPYC-Rome Processor", None),
        ("AMD EPYC", None),
    ],
)
def test_a_cpu_is_known_by_its_model_name(devices, model, slug):
    found = [d.slug for d in devices.values() if is_cpu(d, machine(model=model))]

    assert found == ([] if slug is None else [slug])


@pytest.mark.parametrize(
    ("core", "board", "slug"),
    [
        ("Neoverse-N1", "Amazon EC2 m6g.large", "graviton2"),
        ("Neoverse-V1", "Amazon EC2 c7g.metal", "graviton3"),
        ("Neoverse-V2", "Amazon EC2 r8g.xlarge", "graviton4"),
        ("Neoverse-N1", "WIWYNN Mt.Jade", None),
        ("Cortex-A72", "Raspberry Pi 4 Model B Rev 1.4", "raspberry-pi-4"),
        ("Cortex-A76", "Raspberry Pi 5 Model B Rev 1.0", "raspberry-pi-5"),
        ("Cortex-A72", "Raspberry Pi 400 Rev 1.0", None),
    ],
)
def test_an_arm_cpu_is_known_by_its_board(devices, core, board, slug):
    model = board if board.startswith("Raspberry") else f"ARM {core}"
    environment = machine(model=model, vendor="ARM", core=core, board=board)
    found = [d.slug for d in devices.values() if is_cpu(d, environment)]

    assert found == ([] if slug is None else [slug])


def test_a_known_gpu_on_its_own_machine_is_itself(devices):
    found = ask(devices, "V100-PCIE-32GB", machine(V100_PCIE_32), GPU)

    assert found == Identity("v100-pcie-32gb", devices["v100-pcie-32gb"])


@pytest.mark.parametrize(
    ("alias", "gpu", "slug"),
    [
        ("v100", V100_PCIE_32, "v100-pcie-32gb"),
        ("tesla-v100", V100_PCIE_32, "v100-pcie-32gb"),
        ("v100-32gb", V100_PCIE_32, "v100-pcie-32gb"),
        ("v100-sxm2", V100_SXM2_32, "v100-sxm2-32gb"),
        ("p100", card("Tesla P100-SXM2-16GB", 16280), "p100-sxm2-16gb"),
        ("a100", card("NVIDIA A100 80GB PCIe", 81920), "a100-pcie-80gb"),
        ("a100-sxm", card("NVIDIA A100-SXM4-80GB", 81920), "a100-sxm4-80gb"),
        ("h100", card("NVIDIA H100 PCIe", 81559), "h100-pcie-80gb"),
        ("tesla-k80", card("Tesla K80", 11441), "k80-1gpu"),
    ],
)
def test_an_alias_of_several_cards_is_the_one_that_is_there(devices, alias, gpu, slug):
    found = ask(devices, alias, machine(gpu), GPU)

    assert (found.slug, found.device) == (slug, devices[slug])
    assert found.notes == (f"{alias} is an alias of several cards; this machine has a {slug}",)


@pytest.mark.parametrize(
    ("requested", "gpu", "slug"),
    [
        ("v100-sxm2", V100_PCIE_32, "v100-pcie-32gb"),
        ("v100-sxm2-16gb", V100_SXM2_32, "v100-sxm2-32gb"),
        ("v100", card("Tesla V100S-PCIE-32GB", 32510), "v100s-pcie-32gb"),
        ("a100", card("NVIDIA A10", 23028), "a10"),
        ("orin", T4, "t4"),
        ("k80", card("Tesla K80", 11441), "k80-1gpu"),
    ],
)
def test_a_name_that_says_more_than_is_there_is_refused(devices, requested, gpu, slug):
    said = refusal(devices, requested, machine(gpu), GPU)

    assert gpu.name in said
    assert f"calibrate --device {slug}" in said


@pytest.mark.parametrize("suffix", [" Ti", " SUPER", " Ti SUPER"])
def test_a_4070_is_no_other_4070(devices, suffix):
    said = refusal(devices, "4070", machine(card(f"NVIDIA GeForce RTX 4070{suffix}", 12282)), GPU)

    assert said == (
        "4070 is the GPU 'NVIDIA GeForce RTX 4070'; this machine has the GPU "
        f"'NVIDIA GeForce RTX 4070{suffix}' with 12.0 GiB. Calibrate it under a name of its own: "
        "calibrate --device my-gpu, or run this on the NVIDIA GeForce RTX 4070"
    )


@pytest.mark.parametrize("kind", [CPU, GPU])
def test_a_gpu_on_a_machine_without_one_is_refused(devices, kind):
    assert refusal(devices, "v100", machine(model="AMD EPYC 9B14"), kind) == (
        "v100 is the GPU 'NVIDIA Tesla V100 SXM2 16 GB'; this machine has no GPU that nvidia-smi "
        "can see, only the CPU 'AMD EPYC 9B14'. Calibrate that CPU under a name of its own: "
        "calibrate --device my-cpu, or run this on the NVIDIA Tesla V100 SXM2 16 GB"
    )


@pytest.mark.parametrize(
    ("provider", "remedy"),
    [
        ("CPUExecutionProvider", "CUDAExecutionProvider"),
        (None, "CUDAExecutionProvider"),
        ("cpu", "cuda"),
    ],
)
def test_a_gpu_that_is_there_is_not_calibrated_on_the_cpu(devices, provider, remedy):
    there = machine(card("Tesla V100-SXM2-16GB", 16160))

    assert refusal(devices, "v100", there, CPU, provider) == (
        "v100 is the GPU 'NVIDIA Tesla V100 SXM2 16 GB', and this machine has it; but the provider "
        f"{provider or 'CPUExecutionProvider'} runs on the CPU; add --provider {remedy}"
    )


def test_another_gpu_is_named_when_the_provider_is_the_cpus(devices):
    said = refusal(devices, "v100", machine(T4), CPU)

    assert "this machine has the GPU 'Tesla T4' and the CPU 'AMD EPYC'." in said


def test_a_cpu_is_not_calibrated_on_a_gpu(devices):
    said = refusal(devices, "rome", machine(T4), GPU, "CUDAExecutionProvider")

    assert "rome is the CPU 'AMD EPYC 7742 (Rome, one socket)'" in said
    assert "the provider CUDAExecutionProvider runs on a GPU. Leave --provider away" in said


def test_a_tpu_is_refused(devices):
    assert "tpuv2 is the TPU 'Google TPU v2" in refusal(devices, "tpuv2", machine(), CPU)
    assert "this machine has the GPU 'Tesla T4'" in refusal(devices, "tpuv2", machine(T4), GPU)


def test_another_cpu_is_refused(devices):
    assert refusal(devices, "genoa", machine(), CPU) == (
        "genoa is the CPU 'AMD EPYC 9654 (Genoa, one socket)'; this machine has the CPU "
        "'AMD EPYC'. Calibrate it under a name of its own: calibrate --device my-cpu, or run this "
        "on the AMD EPYC 9654 (Genoa, one socket)"
    )


def test_a_known_cpu_is_accepted_and_its_missing_cores_are_told(devices):
    found = ask(devices, "milan", machine(model="AMD EPYC 7763 64-Core Processor"), CPU)

    assert (found.slug, found.device) == ("epyc-7763", devices["epyc-7763"])
    assert found.notes == ("the profile of epyc-7763 is of 64 cores; this machine has 11",)


@pytest.mark.parametrize("name", ["cpu", "cpu-generic", "CPU"])
def test_the_generic_cpu_is_any(devices, name):
    found = ask(devices, name, machine(), CPU)

    assert found.device == devices["cpu-generic"]
    assert found.notes == ("cpu-generic is any CPU; this one is 'AMD EPYC'",)


def test_an_unknown_name_becomes_a_cpu_with_the_facts_of_this_machine(devices):
    found = ask(devices, " My-CPU.2 ", machine(), CPU)

    def fact(value: float, **note: str) -> dict:
        return {"value": value, "origin": "measured", "source": "detected on the machine", **note}

    assert found == Identity(
        "my-cpu.2",
        Device(
            slug="my-cpu.2",
            name="AMD EPYC",
            vendor="AMD",
            kind="cpu",
            architecture="x86_64",
            facts={
                "memory_bytes": fact(24 * 2**30),
                "units": fact(11, note="core"),
                "boost_clock_hz": fact(3_700_000_000),
            },
        ),
    )


def test_an_unknown_name_becomes_a_gpu_with_the_facts_of_the_card(devices):
    gpu = card("NVIDIA H20", 97871, units=78, max_sm_clock_hz=1980e6, power_limit_w=500.0)
    found = ask(devices, "h20", machine(gpu), GPU)

    made = found.device
    assert (made.name, made.vendor, made.kind) == ("NVIDIA H20", "NVIDIA", "gpu")
    assert {name: fact["value"] for name, fact in made.facts.items()} == {
        "memory_bytes": 97871 * MIB,
        "units": 78,
        "boost_clock_hz": 1_980_000_000,
        "power_w": 500,
    }
    assert made.facts["units"]["note"] == "SM"
    assert found.notes == ()


def test_an_unknown_name_for_a_known_card_is_told_so(devices):
    found = ask(devices, "our-t4", machine(T4), GPU)

    assert found.slug == "our-t4"
    assert found.notes == ("this machine's 'Tesla T4' is also known as t4",)


@pytest.mark.parametrize("name", ["my cpu", "my_cpu", "", "-cpu", "müller"])
def test_a_name_that_is_no_slug_is_refused_with_the_rule(devices, name):
    with pytest.raises(ProfileError, match="lower-case letters, digits, dots and hyphens"):
        ask(devices, name, machine(), CPU)


def test_a_device_of_an_earlier_calibration_is_accepted_on_its_machine_only(devices):
    here = machine(model="Intel(R) Xeon(R) CPU @ 2.20GHz", vendor="Intel")
    mine = ask(devices, "my-cpu", here, CPU).device
    devices = devices | {mine.slug: mine}

    assert ask(devices, "my-cpu", here, CPU) == Identity("my-cpu", mine)
    # The same words, another processor.
    there = machine(model="Intel(R) Xeon(R) CPU @ 2.80GHz", vendor="Intel")
    assert refusal(devices, "my-cpu", there, CPU) == (
        "my-cpu is the CPU 'Intel(R) Xeon(R) CPU @ 2.20GHz'; this machine has the CPU "
        "'Intel(R) Xeon(R) CPU @ 2.80GHz'. Calibrate it under a name of its own: "
        "calibrate --device my-cpu-2, or run this on the Intel(R) Xeon(R) CPU @ 2.20GHz"
    )


def test_a_gpu_of_an_earlier_calibration_is_accepted_whatever_its_driver_keeps(devices):
    mine = ask(devices, "our-h20", machine(card("NVIDIA H20", 97871)), GPU).device
    devices = devices | {mine.slug: mine}

    assert ask(devices, "our-h20", machine(card("NVIDIA H20", 98304)), GPU).device == mine
    assert "with 143.0 GiB" in refusal(
        devices, "our-h20", machine(card("NVIDIA H20", 143 * 1024)), GPU
    )


def test_an_earlier_calibration_of_a_card_does_not_take_its_alias(devices):
    mine = ask(devices, "a-v100", machine(V100_PCIE_32), GPU).device
    devices = {mine.slug: mine} | devices

    assert ask(devices, "v100", machine(V100_PCIE_32), GPU).slug == "v100-pcie-32gb"


def test_an_instance_of_a_split_card_is_not_the_card(devices):
    split = replace(card("NVIDIA A100-SXM4-40GB", 40960), mig=True)
    said = refusal(devices, "a100", machine(split), GPU)
    mine = ask(devices, "a100-slice", machine(split), GPU)

    assert "this machine has the GPU 'NVIDIA A100-SXM4-40GB MIG instance'" in said
    assert mine.device.name == "NVIDIA A100-SXM4-40GB MIG instance"
    assert "memory_bytes" not in mine.device.facts
    assert mine.notes == ("MIG mode is on: a100-slice is an instance, not the whole card",)
    again = ask(devices | {mine.slug: mine.device}, "a100-slice", machine(split), GPU)
    assert again.device == mine.device


def test_cards_of_several_kinds_have_to_be_told_apart(devices):
    both = machine(T4, V100_PCIE_32)
    assert "several kinds (Tesla T4, Tesla V100-PCIE-32GB)" in refusal(devices, "t4", both, GPU)
    # CUDA said which is its first.
    told = machine(replace(V100_PCIE_32, units=80), T4)
    assert ask(devices, "v100", told, GPU).slug == "v100-pcie-32gb"


def test_a_gpu_that_nothing_identifies_is_calibrated_under_a_name_of_its_own(devices):
    unseen = machine(model="Apple M1")
    mine = ask(devices, "my-mac", unseen, GPU)

    assert mine.device.name == "unidentified GPU beside Apple M1"
    assert (mine.device.vendor, mine.device.facts) == ("unknown", {})
    assert mine.notes == ("nvidia-smi sees no GPU: nothing tells which one my-mac is",)
    assert ask(devices | {"my-mac": mine.device}, "my-mac", unseen, GPU).device == mine.device
