"""The same work on many things: in this process, in processes of this machine, or on a Dask cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from .errors import UserError

T = TypeVar("T")
R = TypeVar("R")


def spread(
    work: Callable[[T], R], items: Sequence[T], *, jobs: int = 1, dask: str | None = None, ordered: bool = True
) -> Iterator[R]:
    """What ``work`` makes of each item.

    Args:
        jobs: processes; -1 for one a core.
        dask: a scheduler's address; instead of processes.
        ordered: in the order of the items; False: as they are done.

    Raises:
        UserError: the cluster can't be reached.
    """
    if jobs == 1 and dask is None:
        yield from map(work, items)
        return
    import joblib

    with _on(dask):
        parallel = joblib.Parallel(n_jobs=-1 if dask else jobs, return_as="generator" if ordered else "generator_unordered")
        yield from parallel(joblib.delayed(work)(item) for item in items)


@contextmanager
def _on(dask: str | None) -> Iterator[None]:
    """While it lasts, joblib works on a Dask cluster, where one is named."""
    import joblib

    if dask is None:
        yield
        return
    try:
        from distributed import Client
    except ImportError as error:
        raise UserError(
            "needs the package distributed", where="--dask", hint='Install it: pip install "eie[dask]"'
        ) from error
    try:
        client = Client(dask, timeout=10)  # type: ignore[no-untyped-call]
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"can't reach the scheduler: {error}", where=f"--dask {dask}",
                        hint="It is written tcp://host:8786, and `dask scheduler` starts one") from error  # fmt: skip
    with client, joblib.parallel_config(backend="dask", wait_for_workers_timeout=30):
        yield
