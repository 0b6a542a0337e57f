"""What reference networks are said to take."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from latency_service.calibration.references import REFERENCES, ReferenceRuns
from latency_service.calibration.timing import Clock, Reading

OWN_S, SHARED_S = 3e-6, 5e-6


class Network:
    """Takes as long as it is told, and its core's probes do."""

    def __init__(self, paces: Sequence[tuple[float, float]]) -> None:
        self.paces = paces
        self.number = 0
        self.readings: list[Reading] = []

    def run(self) -> float:
        wall_s, probe_s = self.paces[self.number]
        self.readings.append(Reading(wall_s, clean=True, probe_s=probe_s))
        return wall_s


class Host:
    """Whose networks all run at one pace in every round."""

    def __init__(self, *paces: tuple[float, float], threads: int = 1) -> None:
        self.threads = threads
        self.paces = paces
        self.clock = Clock(threads)
        # what the quickest probes were
        self.clock._probes = [OWN_S]
        self.networks: list[Network] = []

    def network(self, model: object, feeds: object) -> Network:
        self.networks.append(Network(self.paces))
        return self.networks[-1]


def seconds(host: Host) -> float:
    """Of every network, after a round at each pace."""
    runs = ReferenceRuns(host)
    for number in range(len(host.paces)):
        for network in host.networks:
            network.number = number
        runs.round()
    found = runs.seconds()
    assert found.keys() == {row.name for row in REFERENCES}
    (each,) = set(found.values())
    return each


def test_the_median_of_rounds_that_had_the_core_to_themselves():
    host = Host((7e-3, OWN_S), (11e-3, SHARED_S), (13e-3, SHARED_S), (5e-3, OWN_S), (6e-3, OWN_S))
    assert seconds(host) == pytest.approx(6e-3)


def test_the_median_of_all_rounds_where_none_had():
    host = Host((7e-3, SHARED_S), (11e-3, SHARED_S), (13e-3, SHARED_S))
    assert seconds(host) == pytest.approx(11e-3)


def test_the_lowest_tenth_of_several_threads():
    rounds_s = [1e-3 * number for number in (7, 3, 5, 11, 13, 17, 19, 23, 29, 31, 37)]
    host = Host(*[(wall_s, 0.0) for wall_s in rounds_s], threads=2)
    assert seconds(host) == pytest.approx(5e-3)
