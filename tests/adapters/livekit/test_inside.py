"""What the adapter uses of livekit-agents that its authors may change: this says when they did."""

from __future__ import annotations

import inspect
from importlib import import_module

import pytest

agents = pytest.importorskip("livekit.agents", reason="livekit-agents is in no environment but its own: make adapters")

proc_pool = import_module("livekit.agents.ipc.proc_pool")
job = import_module("livekit.agents.job")
room_io = import_module("livekit.agents.voice.room_io.room_io")
adapter = import_module("coordinator.adapters.livekit")
inside = import_module("coordinator.adapters.livekit.inside")


@pytest.mark.parametrize(
    "name", ["_handle_termination", "_is_available", "_update_worker_status", "drain", "aclose", "run"]
)
def test_the_agent_server_has_what_is_used(name: str) -> None:
    """Each method that is called or replaced is there."""
    assert callable(getattr(agents.AgentServer, name))


@pytest.mark.parametrize("name", ["_proc_pool", "_draining", "_agent_name", "_ws_url", "_api_secret"])
def test_the_agent_server_sets_what_is_read(name: str) -> None:
    """Each attribute is set by the class itself."""
    assert f"self.{name}" in inspect.getsource(agents.AgentServer)


@pytest.mark.parametrize(
    "name",
    [
        "_warmed_proc_queue",
        "_jobs_waiting_for_process",
        "_default_num_idle_processes",
        "target_idle_processes",
        "launch_job",
    ],
)
def test_the_process_pool_has_what_is_used(name: str) -> None:
    """Each attribute and method of the pool is there."""
    assert name in inspect.getsource(proc_pool.ProcPool)


def test_the_pools_events_are_told() -> None:
    """The pool says when a job process has begun and ended."""
    assert 'emit("process_job_launched"' in inspect.getsource(proc_pool.ProcPool)
    assert 'emit("process_closed"' in inspect.getsource(proc_pool.ProcPool)


def test_a_running_job_is_made_as_the_server_makes_it() -> None:
    """A job that is to run again has all fields that have no default."""
    required = {
        name
        for name, one in inspect.signature(job.RunningJobInfo).parameters.items()
        if one.default is inspect.Parameter.empty
    }
    assert required == {"accept_arguments", "job", "url", "token", "worker_id", "fake_job"}


def test_the_rooms_output_has_what_is_silenced() -> None:
    """An agent can be silenced at once, and its room is kept."""
    assert "_audio_output" in inspect.getsource(room_io.RoomIO)
    assert "self._options" in inspect.getsource(room_io.RoomIO)
    output = inspect.getsource(import_module("livekit.agents.voice.room_io._output"))
    assert "_playback_enabled" in output
    assert "_audio_source" in output


def test_a_server_takes_what_the_base_class_takes() -> None:
    """It is an agent server, with one argument more."""
    server = adapter.RecoveringServer(recovery={"name": "a"}, num_idle_processes=1)
    assert isinstance(server, agents.AgentServer)
    assert inside.RECOVERS
