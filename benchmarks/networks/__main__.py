"""Write the networks as ONNX files: `python -m benchmarks.networks FOLDER [--only NAME]`."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from benchmarks.networks import cases, check, export


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.networks", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", metavar="NAME", default="", help="cases that begin with NAME")
    parser.add_argument("--check", action="store_true", help="run each file once with onnxruntime")
    options = parser.parse_args()
    chosen = [case for case in cases() if case.name.startswith(options.only)]
    if not chosen:
        parser.error(f"no case begins with {options.only!r}")
    for number, case in enumerate(chosen, 1):
        start = time.perf_counter()
        path = export(case, options.folder)
        if options.check:
            check(case, path)
        seconds, megabytes = time.perf_counter() - start, path.stat().st_size / 1e6
        print(
            f"{number}/{len(chosen)} {case.name}: {megabytes:.1f} MB, {seconds:.1f} s", flush=True
        )


if __name__ == "__main__":
    main()
