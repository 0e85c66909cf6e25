"""Sweeps: the same bytes whatever runs them, in processes, on a dask cluster, and after a kill in the middle."""

import os
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest

from symprop.core.errors import InputError, MissingExtraError
from symprop.simulate.sweep import Sweep, Task


def draw(seed):
    return [float(np.random.default_rng(seed).standard_normal(1000).mean()), float("inf")]


def tasks(count=6):
    return [Task(("draw", seed), partial(draw, seed)) for seed in range(count)]


def never():
    raise AssertionError("a kept task runs again")


def kept(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.json")}


def test_processes_and_serial_keep_the_same_bytes(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    assert Sweep(folder=one).results(tasks()) == Sweep(workers=2, folder=two).results(tasks()) == [draw(k) for k in range(6)]
    assert kept(one) == kept(two) and len(kept(one)) == 6


def test_kept_tasks_do_not_run_again_unless_damaged_or_changed(tmp_path):
    expected = Sweep(folder=tmp_path, source="a").results(tasks(2))
    idle = [Task(task.identity, never) for task in tasks(2)]
    assert Sweep(folder=tmp_path, source="a").results(idle) == expected
    with pytest.raises(AssertionError):
        Sweep(folder=tmp_path, source="b").results(idle)
    for path in tmp_path.glob("*.json"):
        path.write_bytes(path.read_bytes().replace(b"[", b"[1, ", 1))
    assert Sweep(folder=tmp_path, source="a").results(tasks(2)) == expected


def test_a_task_that_fails_loses_no_finished_one(tmp_path):
    with pytest.raises(AssertionError):
        Sweep(folder=tmp_path).results([*tasks(3), Task(("fails",), never)])
    assert len(kept(tmp_path)) == 3


SLOW = """
import sys, time
from functools import partial
from pathlib import Path
from symprop.simulate.sweep import Sweep, Task

def point(k):
    time.sleep(0.2)
    return k / 7

Sweep(folder=Path(sys.argv[1])).results([Task(("point", k), partial(point, k)) for k in range(8)])
"""


def test_kill_in_the_middle_and_resume_gives_identical_bytes(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    process = subprocess.Popen([sys.executable, "-c", SLOW, str(broken)])
    while len(kept(broken)) < 2:
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = kept(broken)
    assert 2 <= len(before) < 8
    stamps = {name: (broken / name).stat().st_mtime_ns for name in before}
    for folder in (broken, whole):
        subprocess.run([sys.executable, "-c", SLOW, str(folder)], check=True)
    assert kept(broken) == kept(whole) and len(kept(whole)) == 8
    assert stamps == {name: (broken / name).stat().st_mtime_ns for name in before}


def place(seed):
    return [*draw(seed), os.getpid()]


def test_a_local_dask_cluster_of_processes(tmp_path):
    from distributed import LocalCluster

    wanted = [Task(("place", seed), partial(place, seed)) for seed in range(6)]
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        found = Sweep(folder=tmp_path, scheduler=cluster.scheduler_address).results(wanted)
    assert [item[:2] for item in found] == [draw(k) for k in range(6)]
    assert os.getpid() not in {item[2] for item in found}
    # What the cluster has finished is kept, and needs no cluster any more.
    assert Sweep(folder=tmp_path).results([Task(task.identity, never) for task in wanted]) == found


def test_errors_say_what_is_missing(monkeypatch, tmp_path):
    with pytest.raises(InputError, match="workers = 0"):
        Sweep(workers=0)
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(InputError, match="folder"):
        Sweep(folder=blocked).results(tasks(1))
    monkeypatch.setitem(sys.modules, "joblib", None)
    with pytest.raises(MissingExtraError, match=r"symprop\[sweep\]"):
        Sweep(workers=2).results(tasks(1))
