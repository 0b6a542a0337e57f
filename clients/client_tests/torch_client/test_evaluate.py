"""The tensor arithmetic against NumPy's, on random networks, and its gradients."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings
from hypothesis import strategies as st

from latency_client.channels import ChannelMap, SourceKey
from latency_client.reference import evaluate
from latency_client.resources import CostArrays
from latency_client.torch.evaluate import ChannelTensors, CostTensors

CPU = torch.device("cpu")


def random_arrays(random: np.random.Generator) -> CostArrays:
    devices, layers, groups = random.integers(1, 4), random.integers(1, 11), random.integers(1, 7)
    shape = (devices, layers, 4)
    return CostArrays(
        tuple(f"layer{n}" for n in range(layers)),
        tuple(f"g{n}" for n in range(groups)),
        tuple(f"device{n}" for n in range(devices)),
        random.integers(1, 13, groups).astype(np.float64),
        random.integers(0, 3, (layers, groups)).astype(np.float64),
        random.integers(0, 3, (layers, groups)).astype(np.float64),
        random.random(shape) * 1e-9,
        random.random(shape) * 1e-9,
        random.random(shape[:2]) * 1e-9,
        "s",
    )


@settings(max_examples=100)
@given(seed=st.integers(0, 2**32 - 1))
def test_costs_penalties_and_gradients_are_numpys(seed: int) -> None:
    random = np.random.default_rng(seed)
    arrays = random_arrays(random)
    counts = np.floor(random.uniform(0, arrays.sizes + 1))
    strengths = random.uniform(0, 5, arrays.sizes.size)
    wanted = evaluate(arrays, counts, strengths)
    tensor = torch.from_numpy(strengths).requires_grad_()
    found = CostTensors.of(arrays, CPU).evaluate(torch.from_numpy(counts), tensor)

    assert found.costs.numpy() == pytest.approx(wanted.costs, rel=1e-12, abs=0)
    assert found.penalties.detach().numpy() == pytest.approx(wanted.penalties, rel=1e-12, abs=0)
    assert not found.costs.requires_grad
    for device in range(len(arrays.devices)):
        (gradient,) = torch.autograd.grad(found.penalties[device].sum(), tensor, retain_graph=True)
        assert gradient.numpy() == pytest.approx(wanted.gradient[device], rel=1e-12, abs=1e-30)


def random_map(random: np.random.Generator) -> tuple[ChannelMap, int]:
    channels = int(random.integers(1, 8))
    owners = np.sort(np.concatenate([np.arange(channels), random.integers(0, channels, 9)]))
    length = owners.size
    found = ChannelMap(
        (SourceKey("layer", "gamma", 0),),
        (length,),
        random.permutation(length),
        owners,
        np.zeros(channels, dtype=np.int64),
        np.array([True]),
        np.array([float(channels)]),
    )
    return found, length


@settings(max_examples=50)
@given(seed=st.integers(0, 2**32 - 1))
def test_channels_join_as_in_numpy(seed: int) -> None:
    random = np.random.default_rng(seed)
    channels, length = random_map(random)
    flat = random.integers(0, 4, length) / 3  # with ties, zeros and ones
    tensors = ChannelTensors.of(channels, CPU)
    values = torch.from_numpy(flat).requires_grad_()

    largest = tensors.largest(values)
    assert largest.detach().numpy() == pytest.approx(channels.strengths(flat))
    largest.sum().backward()
    assert values.grad is not None
    # ties share: every channel hands out one in all
    handed = np.bincount(channels.channels, weights=values.grad.numpy()[channels.entries])
    assert handed == pytest.approx(np.ones(channels.channel_count))
    tied = flat[channels.entries] == channels.strengths(flat)[channels.channels]
    parts = values.grad.numpy()[channels.entries]
    assert (parts[~tied] == 0).all()
    for channel in range(channels.channel_count):
        own = parts[tied & (channels.channels == channel)]
        assert own == pytest.approx(np.full(own.size, 1 / own.size))


@settings(max_examples=50)
@given(seed=st.integers(0, 2**32 - 1))
def test_probabilities_join_as_in_numpy_with_their_gradients(seed: int) -> None:
    random = np.random.default_rng(seed)
    channels, length = random_map(random)
    flat = random.integers(0, 4, length) / 3
    values = torch.from_numpy(flat).requires_grad_()
    joined = ChannelTensors.of(channels, CPU).any_on(values)
    assert joined.detach().numpy() == pytest.approx(channels.probabilities(flat))
    joined.sum().backward()
    # d(1 - prod(1 - p)) / dp_i is the product of the others, gates that are surely on included
    off = 1 - flat[channels.entries]
    wanted = np.zeros(length)
    for place, channel in enumerate(channels.channels):
        others = (channels.channels == channel) & (np.arange(off.size) != place)
        wanted[channels.entries[place]] = off[others].prod()
    assert values.grad is not None
    assert values.grad.numpy() == pytest.approx(wanted, abs=1e-12)
