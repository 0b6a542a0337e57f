"""What the sessions of this process share, as the layers of one network do.

Threads. Sessions with threads of their own disturb each other where they take turns: the threads of
one go on spinning for milliseconds after its run and hold up the next one's; told to stop they
sleep, and wake too late for the kernels of their next run. One pool for all sessions does neither:
its threads come awake from one run to the next, as from one layer to the next.

Memory. A session with memory of its own finds it gone from the caches when its turn comes, and
every kernel that writes between two others pays for that: a reorder of layouts took up to three
times as long as in networks. From common memory it gets what the session before has just given
back.
"""

from __future__ import annotations

from functools import cache

import onnxruntime

from latency_service.core.errors import CalibrationError

# The process has one pool at most, for good: onnxruntime makes it once.
_pool: int | None = None


def share_threads(options: onnxruntime.SessionOptions, threads: int) -> None:
    """Let a session compute with so many threads; several are those of the whole process.

    Raises:
        CalibrationError: if other sessions of this process share another number of threads.
    """
    if threads > 1:
        _make_pool(threads)
    if _pool is None:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        if threads > 1:
            options.add_session_config_entry("session.force_spinning_stop", "1")
        return
    if _pool != threads:
        raise CalibrationError(
            f"this process runs onnxruntime with {_pool} threads already, and cannot run it with "
            f"{threads} too: start another process"
        )
    options.use_per_session_threads = False


def _make_pool(threads: int) -> None:
    global _pool
    # older releases have no such function for Python
    make = getattr(onnxruntime, "set_global_thread_pool_sizes", None)
    if make is not None and _pool is None:
        make(threads, 1)
        _pool = threads


def share_memory(options: onnxruntime.SessionOptions) -> None:
    """Let a session take its memory from where all do."""
    _make_arena()
    options.add_session_config_entry("session.use_env_allocators", "1")


@cache
def _make_arena() -> None:
    onnxruntime.create_and_register_allocator(
        onnxruntime.OrtMemoryInfo(
            "Cpu",
            onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR,
            0,
            onnxruntime.OrtMemType.DEFAULT,
        ),
        None,
    )
