"""Many independent simulations: over processes or a cluster, each result kept as soon as it is there."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from symprop.core.errors import InputError, MissingExtraError


@dataclass(frozen=True)
class Task:
    """One simulation: ``identity`` holds plain values that say all it depends on, ``run()`` returns what JSON can hold.

    Other processes need ``run`` too: a function of a module, with its arguments bound by ``functools.partial``.
    """

    identity: tuple[object, ...]
    run: Callable[[], Any]


@dataclass(frozen=True)
class Sweep:
    """How tasks are run: in this process, in ``workers`` processes, or by the dask cluster at ``scheduler``.

    ``folder`` keeps every finished task in a file named by the hash of its identity, of ``source`` (the code that it runs)
    and of the version of numpy; a task with a file is not run again. A file appears whole or not at all, and one that is
    damaged counts as missing. Results do not depend on where and in which order tasks run.

    >>> Sweep().results([Task(("square", k), lambda k=k: k**2) for k in range(4)])
    [0, 1, 4, 9]

    Raises :class:`InputError` for no worker, a folder that cannot be written or a cluster that does not answer, and
    :class:`MissingExtraError` where joblib or dask is needed and absent.
    """

    workers: int = 1
    folder: Path | None = None
    scheduler: str | None = None
    source: str = ""

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise InputError("workers", self.workers, "an integer from 1")

    def results(self, tasks: Sequence[Task], report: Callable[[int], None] | None = None) -> list[Any]:
        """What the tasks return, in their order; ``report`` is called with the number of finished ones."""
        found = {index: kept[0] for index, task in enumerate(tasks) if (kept := self._kept(task)) is not None}
        missing = [index for index in range(len(tasks)) if index not in found]
        if report is not None:
            report(len(found))
        for index, text in self._run([(index, tasks[index]) for index in missing]):
            self._keep(tasks[index], text)
            found[index] = json.loads(text)
            if report is not None:
                report(len(found))
        return [found[index] for index in range(len(tasks))]

    def _run(self, tasks: Sequence[tuple[int, Task]]) -> Iterator[tuple[int, str]]:
        if self.scheduler is None and self.workers == 1:
            yield from (_finished(index, task) for index, task in tasks)
            return
        try:
            from joblib import Parallel, delayed, parallel_config
        except ImportError as missing:
            raise MissingExtraError("sweeps over processes", "sweep") from missing
        with ExitStack() as stack:
            if self.scheduler is not None:
                stack.enter_context(_cluster(self.scheduler))
                stack.enter_context(parallel_config(backend="dask"))
            # One task at a time: a result that waits in a batch would be lost with an interruption.
            parallel = Parallel(n_jobs=-1 if self.scheduler is not None else self.workers, batch_size=1,
                                return_as="generator_unordered")
            yield from parallel(delayed(_finished)(index, task) for index, task in tasks)

    def _file(self, task: Task) -> Path | None:
        if self.folder is None:
            return None
        question = repr((self.source, np.__version__, task.identity))
        return self.folder / f"{hashlib.sha256(question.encode()).hexdigest()[:32]}.json"

    def _kept(self, task: Task) -> tuple[Any] | None:
        path = self._file(task)
        try:
            stored = None if path is None else json.loads(path.read_text(encoding="utf-8"))
            if stored is not None and hashlib.sha256(stored["result"].encode()).hexdigest() == stored["sha256"]:
                return (json.loads(stored["result"]),)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass
        return None

    def _keep(self, task: Task, text: str) -> None:
        path = self._file(task)
        if path is None:
            return
        content = json.dumps({"task": repr(task.identity), "result": text, "sha256": hashlib.sha256(text.encode()).hexdigest()})
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".part", delete=False, encoding="utf-8") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(file.name).replace(path)
        except OSError as error:
            raise InputError("folder", self.folder, f"a folder that can be written ({error.strerror})") from error


def _finished(index: int, task: Task) -> tuple[int, str]:
    """The result as text: what is computed, kept and read back has the same bytes."""
    return index, json.dumps(task.run())


def _cluster(scheduler: str) -> Any:
    try:
        from distributed import Client
    except ImportError as missing:
        raise MissingExtraError("sweeps over a cluster", "dask") from missing
    try:
        return Client(scheduler, timeout="10s", set_as_default=True)
    except (OSError, ValueError) as error:
        raise InputError("scheduler", scheduler, "the address of a running dask scheduler, such as tcp://host:8786") from error
