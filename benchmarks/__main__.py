"""Run all benchmarks, or those named: `python -m benchmarks request http`."""

from __future__ import annotations

import sys

from benchmarks import http, onnx_files, request, scoring, training

ALL = {
    "request": request, "http": http, "onnx_files": onnx_files, "scoring": scoring,
    "training": training,
}  # fmt: skip


def main() -> int:
    """Exit status 2 for a name that is none."""
    names = sys.argv[1:] or list(ALL)
    for name in names:
        if name not in ALL:
            print(f"no benchmark is called {name!r}; there are {', '.join(ALL)}", file=sys.stderr)
            return 2
        ALL[name].main()
    return 0


if __name__ == "__main__":
    sys.exit(main())
