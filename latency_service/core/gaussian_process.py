"""A Gaussian process over the features of kernels: learned, projected, cross-validated.

Length scales maximise the marginal likelihood (Rasmussen and Williams 2006, section 5.4.1); support
points are chosen by pivoted Cholesky decomposition, and all samples are projected on them (their
section 8.3.4).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from latency_service.core.family import kernel
from latency_service.core.features import FloatArray

_FOLDS = 5
_STEPS, _RATE = 70, 0.12
# Significant digits that a profile stores.
_LENGTH_DIGITS, _POINT_DIGITS = 5, 4


def rounded(values: FloatArray, digits: int) -> FloatArray:
    """The values with so many significant digits."""
    short = [float(f"{value:.{digits}g}") for value in values.ravel()]
    return np.array(short, dtype=np.float64).reshape(values.shape)


@dataclass(slots=True)
class Process:
    """A Gaussian process: amplitude, noise and delay are standard deviations.

    The noise is that of the logarithm; the delay adds to the time, in units of `learn`'s exposure.
    """

    lengths: FloatArray
    amplitude: float
    noise: float
    delay: float
    mean: float

    def project(
        self, raw: FloatArray, target: FloatArray, jitter: FloatArray, most: int
    ) -> tuple[FloatArray, FloatArray]:
        """(M, D) support points in units of the lengths, and their (M,) weights.

        Weights are solved for the points as a profile stores them: rounded ones err less that way.
        """
        x = raw / self.lengths
        points = rounded(x[_pivots(x, most)], _POINT_DIGITS)
        cross = kernel(x, points) * self.amplitude**2  # (N, M)
        inner = kernel(points, points) * self.amplitude**2
        precision = 1.0 / (self.noise**2 + jitter)
        system = inner + (cross.T * precision) @ cross
        system[np.diag_indices_from(system)] += 1e-8 * np.trace(system) / len(system) + 1e-9
        solved = np.linalg.solve(system, cross.T @ (precision * (target - self.mean)))
        return points, np.asarray(solved * self.amplitude**2, dtype=np.float64)

    def predict(self, points: FloatArray, weights: FloatArray, raw: FloatArray) -> FloatArray:
        """(N,) expected logarithms, given support points and their weights."""
        value: FloatArray = self.mean + kernel(raw / self.lengths, points) @ weights
        return value


def _pivots(x: FloatArray, most: int) -> list[int]:
    """Rows that span the others best: greedy pivoted Cholesky of their kernel matrix."""
    count = min(most, len(x))
    left = np.ones(len(x))
    basis = np.zeros((count, len(x)))
    chosen: list[int] = []
    for k in range(count):
        pivot = int(np.argmax(left))
        if left[pivot] < 1e-6:
            break
        row = kernel(x[pivot], x) - basis[:k, pivot] @ basis[:k]
        basis[k] = row / np.sqrt(left[pivot])
        left = np.maximum(left - basis[k] ** 2, 0.0)
        left[pivot] = 0.0
        chosen.append(pivot)
    return chosen


def learn_delayed(
    raw: FloatArray,
    target: FloatArray,
    jitter: FloatArray,
    base_s: FloatArray,
    support: int,
    learn_from: int,
    seed: int,
) -> tuple[Process, FloatArray]:
    """The process of kernels that a host starts, and the variance of each sample.

    Short GPU kernels scatter more than long ones, by about as many seconds, and no known shape
    explains it: their noise is a delay. The time that it adds to is predicted twice, by the base
    and then by what was learned with it.
    """
    expected = base_s
    for most in (learn_from // 2, learn_from):
        exposure = expected.min() / expected
        process = learn(raw, target, jitter, exposure, most, seed)
        variance = jitter + (process.delay * exposure) ** 2
        fitted = process.project(raw, target, variance, support)
        expected = base_s * np.exp(process.predict(*fitted, raw))
    return process, variance


def learn(
    raw: FloatArray,
    target: FloatArray,
    jitter: FloatArray,
    exposure: FloatArray,
    learn_from: int,
    seed: int,
) -> Process:
    """Length scales, amplitude and noise that make the samples likeliest.

    Gradient ascent (Adam) on the logarithms, with a weak prior on length scales of three standard
    deviations of the feature: a feature that explains nothing drifts to a long one.

    Args:
        jitter: (N,) known variance of each sample.
        exposure: (N,) share of a sample's time that a delay of fixed length would be; 0 for none.
    """
    rng = np.random.default_rng(seed)
    spread = raw.std(axis=0)
    mean = float(np.median(target))
    size = min(len(raw), learn_from)
    rows = rng.permutation(len(raw))[:size]
    z = raw[rows] / spread
    y = target[rows] - mean
    scale = max(float(y.std()), 0.02)
    extra, exposed = jitter[rows], exposure[rows] ** 2
    features = z.shape[1]
    prior = np.full(features, np.log(3.0))
    theta = np.concatenate([prior, np.log([scale, 0.3 * scale, 0.3 * scale])])
    moment, square = np.zeros_like(theta), np.zeros_like(theta)
    gaps = (z[:, None, :] - z[None, :, :]) ** 2  # (n, n, F)
    for step in range(1, _STEPS + 1):
        gradient = _gradient(theta, gaps, y, extra, exposed, prior)
        moment += 0.1 * (gradient - moment)
        square += 0.01 * (gradient**2 - square)
        rate = _RATE * (1.0 if step < 0.6 * _STEPS else 0.3)
        theta += rate * (moment / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.99**step)) + 1e-9)
        theta[:features] = np.clip(theta[:features], np.log(0.2), np.log(100.0))
        theta[-3] = np.clip(theta[-3], np.log(0.02), np.log(3.0))
        theta[-2] = np.clip(theta[-2], np.log(0.005), np.log(1.0))
        theta[-1] = np.clip(theta[-1], np.log(0.001), np.log(10.0))
    lengths = rounded(np.exp(theta[:features]) * spread, _LENGTH_DIGITS)
    amplitude, noise, delay = map(float, np.exp(theta[-3:]))
    return Process(lengths, amplitude, noise, delay, mean)


def _gradient(
    theta: FloatArray,
    gaps: FloatArray,
    y: FloatArray,
    extra: FloatArray,
    exposed: FloatArray,
    prior: FloatArray,
) -> FloatArray:
    """Of the log marginal likelihood, by theta."""
    features = gaps.shape[2]
    precision = np.exp(-2.0 * theta[:features])
    signal = np.exp(2.0 * theta[-3] - 0.5 * (gaps @ precision))
    noise = np.exp(2.0 * theta[-2])
    delay = np.exp(2.0 * theta[-1]) * exposed
    covariance = signal.copy()
    covariance[np.diag_indices_from(covariance)] += noise + delay + extra + 1e-8
    inverse = np.linalg.inv(covariance)
    alpha = inverse @ y
    outer = np.outer(alpha, alpha) - inverse
    weighted = outer * signal
    by_length = 0.5 * np.tensordot(weighted, gaps, axes=([0, 1], [0, 1])) * precision
    by_length -= (theta[:features] - prior) / 1.0
    by_amplitude = weighted.sum()
    by_noise = np.trace(outer) * noise
    by_delay = np.diagonal(outer) @ delay
    return np.concatenate([by_length, [by_amplitude, by_noise, by_delay]])


def cross_validate(
    process: Process,
    raw: FloatArray,
    target: FloatArray,
    jitter: FloatArray,
    support: int,
    seed: int,
) -> FloatArray:
    """(N,) target minus prediction of every sample by a fit without its fold."""
    fold = np.random.default_rng(seed).permutation(len(raw)) % min(_FOLDS, len(raw))
    residual = np.zeros(len(raw))
    for held in range(int(fold.max()) + 1):
        train, test = fold != held, fold == held
        if not train.any():
            residual[test] = target[test] - process.mean
            continue
        fitted = process.project(raw[train], target[train], jitter[train], support)
        residual[test] = target[test] - process.predict(*fitted, raw[test])
    return residual
