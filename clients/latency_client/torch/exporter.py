"""Writing what training has found, step by step, in MorphNet's format and in a richer one."""

from __future__ import annotations

import os
from pathlib import Path

from latency_client.cache import write_whole
from latency_client.structure import (
    Structure,
    format_counts,
    read_structure,
    structure_file,
    without_common_prefix,
    write_structure,
)
from latency_client.torch.regularizers import NetworkRegularizer


class StructureExporter:
    """Writes `learned_structure/alive_{step}` and `structure_{step}.json`.

    The first is MorphNet's file: live output channels by layer. The second says which channels
    they are, and is what `prune` and `rebuild` take.
    """

    def __init__(
        self,
        regularizer: NetworkRegularizer,
        *,
        remove_common_prefix: bool = False,
        floor: int = 0,
        multiple_of: int | str = 1,
    ) -> None:
        """Remember how structures are to be written.

        Args:
            remove_common_prefix: take the first part of every layer's name off where all share it.
            floor, multiple_of: see `NetworkRegularizer.structure`.
        """
        self._regularizer = regularizer
        self._remove_common_prefix = remove_common_prefix
        self._floor = floor
        self._multiple_of = multiple_of

    def structure(self) -> Structure:
        """What would be written now."""
        return self._regularizer.structure(floor=self._floor, multiple_of=self._multiple_of)

    def get_alive_counts(self) -> dict[str, int]:
        """Live output channels by layer, under the names that are written."""
        counts = self.structure().alive_counts()
        return without_common_prefix(counts, ".") if self._remove_common_prefix else counts

    def create_file_and_save_alive_counts(
        self, base_dir: str | os.PathLike[str], global_step: int
    ) -> Path:
        """Write both files of a step; returns the path of MorphNet's."""
        structure = self.structure()
        path = write_structure(base_dir, global_step, structure)
        if self._remove_common_prefix:
            counts = without_common_prefix(structure.alive_counts(), ".")
            write_whole(path, format_counts(counts))
        return path

    save = create_file_and_save_alive_counts

    @staticmethod
    def load(base_dir: str | os.PathLike[str], global_step: int) -> Structure:
        """The structure of a step, read back."""
        return read_structure(structure_file(base_dir, global_step))
