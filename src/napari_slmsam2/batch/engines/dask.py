"""Jobs on a dask cluster."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from napari_slmsam2.batch.engines.local import threads_per_worker
from napari_slmsam2.batch.jobs import Event, Job, JobResult, Work
from napari_slmsam2.core.errors import ConfigError

if TYPE_CHECKING:
    from distributed import Client, Future

_POLL_S = 0.2
_CONNECT_S = 30.0


class DaskEngine:
    """Runs jobs as tasks of ``dask.distributed``.

    dask itself gives the task of a worker that dies to another one, as often as its setting
    ``distributed.scheduler.allowed-failures`` permits.

    Parameters
    ----------
    workers : int
        Processes of a local cluster, if there is no ``scheduler``.
    scheduler : str, optional
        Address of the scheduler of a running cluster. Its workers need this package, and the
        files at the same paths.

    Raises
    ------
    ConfigError
        The package ``distributed`` is not installed.
    """

    def __init__(self, workers: int, scheduler: str | None = None) -> None:
        try:
            import distributed  # noqa: F401
        except ImportError as error:
            raise ConfigError(
                "--on dask",
                "needs a package that is not installed",
                expected="distributed",
                hint='Install "napari-slmsam2[dask]".',
            ) from error
        self._workers = workers
        self._scheduler = scheduler

    def run(
        self, jobs: Sequence[Job], work: Work, should_stop: Callable[[], bool]
    ) -> Iterator[Event]:
        """See `napari_slmsam2.batch.runner.Engine`."""
        with ExitStack() as stack:
            client = self._connect(stack, len(jobs))
            finished: queue.SimpleQueue[Future] = queue.SimpleQueue()
            left: dict[str, Job] = {}
            futures = []
            for job in jobs:
                key = f"napari-slmsam2-{job.batch}-{job.number}"
                left[key] = job
                futures.append(client.submit(_run, work, job, key=key, pure=False))
                futures[-1].add_done_callback(finished.put)
            while left:
                if should_stop():
                    # Jobs that end in this moment are lost as results, but not as files.
                    client.cancel(futures)
                    client.run(_call, work.stop, on_error="ignore")
                    return
                with contextlib.suppress(queue.Empty):
                    future = finished.get(timeout=_POLL_S)
                    yield _result(left.pop(future.key), future)

    def _connect(self, stack: ExitStack, n_jobs: int) -> Client:
        from distributed import Client, LocalCluster

        if self._scheduler is not None:
            try:
                client = Client(self._scheduler, timeout=_CONNECT_S, set_as_default=False)
            except (OSError, ValueError) as error:
                raise ConfigError(
                    f"--scheduler {self._scheduler}",
                    "no scheduler answers",
                    expected="an address such as tcp://node:8786",
                    found=str(error),
                ) from error
            return stack.enter_context(client)
        workers = min(self._workers, n_jobs)
        threads = str(threads_per_worker(workers))
        cluster = stack.enter_context(
            LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                dashboard_address=None,
                memory_limit=0,
                env={"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
            )
        )
        return stack.enter_context(Client(cluster, set_as_default=False))


def _run(work: Work, job: Job) -> JobResult:
    """The task of a worker."""
    return work.run(job)


def _call(function: Callable[[], None]) -> None:
    function()


def _result(job: Job, future: Future) -> JobResult:
    if future.status == "finished":
        result: JobResult = future.result()
        return result
    error = future.exception() if future.status == "error" else None
    what = f"{type(error).__name__}: {error}" if error else f"the task is {future.status}"
    return JobResult(job.number, "failed", error=what)
