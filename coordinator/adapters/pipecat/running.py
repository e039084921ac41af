"""Runs a pipeline, with whichever of Pipecat's runners there is."""

from __future__ import annotations

from typing import Any

__all__ = ["frame_of", "run_pipeline"]


async def run_pipeline(task: Any) -> None:
    """Runs a ``PipelineWorker``, or a ``PipelineTask`` as it was called before 1.3, to its end. Signals stay the program's."""
    try:
        from pipecat.workers.runner import WorkerRunner
    except ImportError:
        from pipecat.pipeline.runner import PipelineRunner

        await PipelineRunner(handle_sigint=False, handle_sigterm=False).run(task)
        return
    runner = WorkerRunner(handle_sigint=False, handle_sigterm=False)
    await runner.add_workers(task)
    await runner.run()


def frame_of(name: str, *values: object) -> Any:
    """A frame of Pipecat's, by the name of its class."""
    from pipecat.frames import frames

    return getattr(frames, name)(*values)
