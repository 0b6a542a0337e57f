import pytest

from latency_service.calibration.environment import detect
from latency_service.calibration.gpu import Gpu, torch_cuda
from tests.calibration.machines import SMI, V100, machine, smi


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


def test_torch_without_a_gpu_sees_none():
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert torch_cuda() == ()
