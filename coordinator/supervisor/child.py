"""The supervised process: starts it, sends signals, waits for its end, and reaps what it leaves behind."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import anyio

from coordinator.errors import ConfigurationError

__all__ = ["Child", "Exit", "become_subreaper", "die_with_parent", "hide_memory", "reap_strays"]

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended.

    Attributes:
        status: exit status; 128 + the signal's number if a signal killed it, as in shells.
        text: for people.
    """

    status: int
    text: str

    @classmethod
    def of(cls, number: int) -> Exit:
        """Makes it from an exit status, or from the negative number of the signal that killed the process."""
        if number >= 0:
            return cls(number, f"exit status {number}")
        named = -number in signal.Signals.__members__.values()
        return cls(128 - number, f"killed by {signal.Signals(-number).name if named else f'signal {-number}'}")


def become_subreaper() -> None:
    """Makes this process the reaper of what the child leaves behind, also when it is not process 1 (prctl(2))."""
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def hide_memory() -> None:
    """Keeps other processes of this user, above all the child, from reading this one's memory and environment (proc(5))."""
    _libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def die_with_parent() -> None:
    """This process is killed when the one that started it ends (prctl(2))."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


class Child:
    """A running process. It dies with its supervisor, since no program would beat for it. Its calls then go to other workers.

    Args:
        command: program and arguments.
        environment: its whole environment.

    Raises:
        ConfigurationError: the command cannot be started.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        try:
            self._process = subprocess.Popen(list(command), env=dict(environment), preexec_fn=die_with_parent)
        except OSError as error:
            raise ConfigurationError(f"{command[0]!r} cannot be started: {error.strerror}") from None
        self.pid = self._process.pid
        self._file = os.pidfd_open(self.pid)
        self._exit: Exit | None = None

    async def ended(self) -> Exit:
        """Returns how it ended, as soon as it has."""
        try:
            await anyio.wait_readable(self._file)
        finally:
            os.close(self._file)
        self._exit = Exit.of(self._process.wait())
        return self._exit

    def exit_so_far(self) -> Exit | None:
        """How it ended, None while it runs; its exit status is not taken."""
        if self._exit is not None:
            return self._exit
        try:
            found = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:  # a signal was to be sent, and found it ended
            return None if (number := self._process.returncode) is None else Exit.of(number)
        if found is None:
            return None
        return Exit.of(found.si_status if found.si_code == os.CLD_EXITED else -found.si_status)

    def send(self, number: int) -> None:
        """Sends a signal; does nothing when the process has ended."""
        if self._exit is None:
            self._process.send_signal(number)


def reap_strays(child: int) -> int:
    """Takes the exit status of every ended process that is ours, but not of ``child``; returns how many there were."""
    count = 0
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return count
        if found is None or found.si_pid == child:
            return count
        os.waitid(os.P_PID, found.si_pid, os.WEXITED)
        count += 1
