"""How well a device's kernels use it: the calibrated part of a profile.

The families of its kernels (core/family.py), what its caches hold between two kernels and between
two runs of a network, and how its runtime stores images. See docs/calibration.md#model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from latency_service.core.family import FamilyModel
from latency_service.core.features import FloatArray
from latency_service.core.geometry import constant_size
from latency_service.core.units import FLOATING

# The core's own cache: where bandwidth has not fallen below this share of the highest.
_OWN = 0.6
# What so many kernels before one moved tells whether the place where it writes is still near.
_BEFORE = 6
# How steeply the last cache forgets, by time and by size: of 80 products with 4 MB of weights and
# more in networks, half lost after 16 ms, 6 % were lost after 6 ms and 85 % after 30.
_STEEP = 2.5
# How often the time of a network is put where it decides what the network finds in the last cache.
_SETTLED = 4


def core_cache_bytes(levels: Sequence[tuple[float, float]]) -> float:
    """Bytes of the cache that a core has for itself: the last level before bandwidth falls.

    Some processors read the next cache as quickly (an EPYC's 16 MB no slower than its core's 1 MB).
    """
    if not levels:
        return 0.0
    rates = [rate for _, rate in levels]
    fastest = rates.index(max(rates))
    fallen = (n for n in range(fastest, len(rates)) if rates[n] < _OWN * rates[fastest])
    return levels[next(fallen, len(rates)) - 1][0]


def filling(moved: FloatArray, cache_bytes: float) -> FloatArray:
    """(...) bytes that a kernel which moves (...) bytes finds in a cache, beside what it brings."""
    found: FloatArray = moved * np.maximum(0.0, 1.0 - moved / max(cache_bytes, 1.0))
    return found


def floating(name: str) -> bool:
    """Whether a family or a sequence, "dtype operator", multiplies floating numbers alone."""
    dtype, op = name.replace("/", " ").split()[:2]
    return dtype in FLOATING and constant_size(op) == 1.0


def forgotten(of_half: FloatArray) -> FloatArray:
    """(...) share that a cache has lost after (...) times what makes it lose half."""
    lost: FloatArray = 1.0 - 1.0 / (1.0 + of_half**_STEEP)
    return lost


@dataclass(frozen=True, slots=True)
class Layout:
    """How a runtime stores images in blocks of channels, and which operators do.

    Attributes:
        block: channels of a block.
        alignment: convolutions over other multiples of input channels stay plain.
        converts: operators that are worth converting a plain input for.
        keeps: operators that run on blocked images where all their inputs are blocked.
        turns: whether a reorder reads and writes images whose channels stand last, too, in place
            of a transposition beside it.
    """

    block: int
    alignment: int
    converts: tuple[str, ...]
    keeps: tuple[str, ...]
    turns: bool = False


@dataclass(frozen=True, slots=True)
class Efficiency:
    """What a calibration found out about a device beside its peak rates.

    Attributes:
        families: by "dtype family" ("float32 Conv/pointwise").
        dispatch_s: what the runtime spends between two kernels.
        levels: (working set in bytes, bytes per second) ascending: the bandwidth of each cache.
        channel_step: channels that the hardware handles at once.
        shared_spread: standard deviation of the error, in logarithms, that all layers of a network
            share; the rest averages out over them.
        merged: seconds per output element that operators cost which a contraction merges, by
            "dtype sequence" ("float32 Conv Add Relu").
        slow_runs: seconds that a run of sixteen numbers takes longer, by what slows it down
            (core/masks.py).
        layout: None where the runtime keeps one layout.
        source: what it was fitted from.
        alone_s: what a convolution takes longer on its own, as families were measured, than in a
            network, where others like it run before it.
        call_s: what a call of the runtime takes besides its kernels.
        near_bytes: footprint of a network half of whose code and data stay in a core's own cache,
            where families were measured between others; 0: nothing does.
        near_fixed: part of a kernel's fixed seconds that is left there.
        own_bytes: of the cache that a core has for itself, as the system names it; 0 where it does
            not, and bandwidths have to tell.
        kept_s: after which the last cache has lost half of what it held to others that share it; 0
            where nobody does, or nobody measured it.
        slower: logarithm by which whole networks of floating numbers said that these families are
            slower than their samples; it is part of the families' means and of `merged`.
        launches_ahead: whether the host launches kernels while others run, so that the fixed time
            of a family, its launch, is waited for only where the device has nothing else to do.
    """

    families: Mapping[str, FamilyModel]
    dispatch_s: float
    levels: tuple[tuple[float, float], ...]
    channel_step: int
    shared_spread: float
    merged: Mapping[str, float] = field(default_factory=dict)
    slow_runs: Mapping[str, float] = field(default_factory=dict)
    layout: Layout | None = None
    source: str = ""
    alone_s: float = 0.0
    call_s: float = 0.0
    near_bytes: float = 0.0
    near_fixed: float = 0.0
    own_bytes: float = 0.0
    kept_s: float = 0.0
    slower: float = 0.0
    launches_ahead: bool = False

    def slowed(self, shift: float) -> Efficiency:
        """All families of floating numbers slower by a logarithm."""
        families = {
            name: replace(model, mean=model.mean + shift) if floating(name) else model
            for name, model in self.families.items()
        }
        factor = math.exp(shift)
        merged = {name: s * factor if floating(name) else s for name, s in self.merged.items()}
        return replace(self, families=families, merged=merged, slower=self.slower + shift)

    def near_share(self, constant_bytes: FloatArray, most_bytes: FloatArray) -> FloatArray:
        """(...) share of a network's code and data that stays in a core's own cache.

        Its footprint is all its constants, and twice what the kernel with most data reads and
        writes: while that one runs, another one's tensors wait.

        Args:
            constant_bytes: (...) what all its layers read of constants.
            most_bytes: (...) activations that the kernel with most of them reads and writes.
        """
        if not self.near_bytes:
            return np.zeros(np.shape(most_bytes))
        footprint = constant_bytes + 2.0 * most_bytes
        return 1.0 - forgotten(footprint / self.near_bytes)

    def near_places(self, moved: FloatArray) -> FloatArray:
        """(P,) how near the place still is where each kernel writes: 1 where it was just used.

        Kernels mostly write where an earlier one's output lay that is no longer needed. What was
        moved since drives it out of the core's own cache: of networks' kernels whose last
        `_BEFORE` ones moved twice that cache half pay what samples pay that find it far away.

        Args:
            moved: (P,) bytes that each kernel moves, in the order in which they run; before the
                first one, the last ones of the run before did.
        """
        twice = 2.0 * self.core_bytes
        before = np.zeros(len(moved))
        for back in range(1, min(_BEFORE, len(moved)) + 1):
            before += np.roll(moved, back)
        share: FloatArray = twice / (before + max(twice, 1.0))
        return share

    @property
    def core_bytes_per_s(self) -> float:
        """Bandwidth of the cache that a core has for itself."""
        return max(rate for _, rate in self.levels)

    @property
    def core_bytes(self) -> float:
        """Of the cache that a core has for itself."""
        return self.own_bytes or core_cache_bytes(self.levels)

    def kept_share(
        self,
        constant_bytes: FloatArray,
        cached_s: FloatArray | float,
        fetched_s: FloatArray | float,
    ) -> FloatArray:
        """(...) share of a network's constants that are still in the last cache when it runs again.

        Those of larger networks than it holds are not, and as time passes others drive them out.
        The network takes the longer, the fewer of them there are.

        Args:
            constant_bytes: (...) what all its layers read of them.
            cached_s: (...) that it takes with all constants in the last cache.
            fetched_s: (...) longer that it takes with all of them in memory.
        """
        cache = self.cache_bytes
        if not cache:
            return np.zeros(np.shape(constant_bytes))
        held = 1.0 - forgotten(constant_bytes / cache)
        share = held
        for _ in range(_SETTLED if self.kept_s else 0):
            seconds = cached_s + (1.0 - share) * fetched_s
            share = held * (1.0 - forgotten(seconds / self.kept_s))
        return share

    @property
    def cache_bytes(self) -> float:
        """Of the last cache, which others may share; 0 with one level.

        Between the largest working set that was faster than halfway, on a logarithmic scale, from
        what lies beyond a core's own cache to memory, and the next one, twice as large.
        """
        memory = self.levels[-1][1]
        beyond = next((rate for size, rate in self.levels if size > self.core_bytes), memory)
        fast = [size for size, rate in self.levels[:-1] if rate >= math.sqrt(beyond * memory)]
        return math.sqrt(2.0) * max(fast, default=0.0)
