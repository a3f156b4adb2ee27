"""A job ends with everything that it started, whoever ends it."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_modules.experiments.processes import Job, last_lines
from lightning_modules.training.run_lock import Lock
from tests.study.fakes import eventually, exists

#: Starts a process that ignores being asked to end, tells both ids, and waits.
STUBBORN = """
import os, subprocess, sys, time
code = 'import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(0, flush=True); time.sleep(60)'
child = subprocess.Popen([sys.executable, '-I', '-c', code], stdout=subprocess.PIPE)
child.stdout.readline()
open(sys.argv[1], 'w').write(f'{os.getpid()} {child.pid}\\n')
if len(sys.argv) == 2:
    time.sleep(60)
"""  # noqa: E501


def started(log: Path) -> list[int]:
    """Ids of a job's processes, once both are there."""
    assert eventually(lambda: log.is_file() and log.read_text().endswith("\n"))
    return [int(word) for word in log.read_text().split()]


def python(code: str, *arguments: str) -> list[str]:
    return [sys.executable, "-I", "-c", code, *arguments]


def test_a_job_has_its_exit_status_its_output_and_its_environment(tmp_path: Path) -> None:
    log = tmp_path / "deep" / "log.txt"
    code = "import os, sys; print(os.environ['XXACT_TEST']); print('bad', file=sys.stderr); exit(3)"
    job = Job(python(code), log, {"XXACT_TEST": "hello"})
    assert eventually(lambda: job.poll() is not None)
    assert job.poll() == 3
    assert sorted(log.read_text().split()) == ["bad", "hello"]


def test_killing_a_job_ends_its_whole_group(tmp_path: Path) -> None:
    job = Job(python(STUBBORN, str(tmp_path / "ids")), tmp_path / "log")
    ids = started(tmp_path / "ids")
    assert all(exists(pid) for pid in ids)
    assert {os.getpgid(pid) for pid in ids} == {job.pid}
    assert os.getpgid(0) != job.pid
    job.kill()
    assert eventually(lambda: not any(exists(pid) for pid in [*ids, job.pid]))


def test_what_a_finished_job_left_running_is_ended(tmp_path: Path) -> None:
    job = Job(python(STUBBORN, str(tmp_path / "ids"), "leave"), tmp_path / "log")
    assert eventually(lambda: job.poll() is not None)
    assert job.poll() == 0
    assert eventually(lambda: not any(exists(pid) for pid in started(tmp_path / "ids")))


def test_a_job_ends_and_frees_its_folder_when_its_starter_is_killed(tmp_path: Path) -> None:
    starter = f"""
import time
from pathlib import Path
from lightning_modules.experiments.processes import Job
from lightning_modules.training.run_lock import Lock
lock = Lock.take(Path({str(tmp_path)!r}))
Job({python(STUBBORN, str(tmp_path / "ids"))!r}, Path({str(tmp_path / "log")!r}), lock=lock)
time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", starter])
    ids = started(tmp_path / "ids")
    assert Lock.take(tmp_path) is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    taken: list[Lock] = []

    def free() -> bool:
        lock = Lock.take(tmp_path)
        taken.extend([lock] if lock else [])
        return bool(lock)

    assert eventually(free)
    # Whoever gets the folder is alone in it.
    assert not any(exists(pid) for pid in ids) or eventually(
        lambda: not any(exists(pid) for pid in ids), 0.3
    )


def test_a_folder_has_one_owner_at_a_time(tmp_path: Path) -> None:
    lock = Lock.take(tmp_path / "run")
    assert lock is not None
    assert Lock.take(tmp_path / "run") is None
    lock.release()
    assert Lock.take(tmp_path / "run") is not None


def test_a_folder_without_locks_is_told_and_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(ValueError, match=r"run: cannot be locked \(No locks available\)"):
        Lock.take(tmp_path / "run")


def test_the_last_lines_of_a_log_show_bars_as_they_ended(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"first\n\n 10%|\r 90%|\r100%|\nlast \xff\n")
    assert last_lines(log, 2) == ["100%|", "last \N{REPLACEMENT CHARACTER}"]
    assert last_lines(tmp_path / "none") == []
