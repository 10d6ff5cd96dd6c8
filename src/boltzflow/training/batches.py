"""Batches prepared ahead of the training step."""

import collections
import concurrent.futures
from collections.abc import Callable, Generator
from typing import TypeVar

T = TypeVar("T")


def prefetch(make: Callable[[int], T], start: int, stop: int, *, depth: int = 3) -> Generator[T, None, None]:
    """Yields make(start), ..., make(stop - 1), each made by a background thread while the ones before are used.

    An exception in `make` is raised here, at the batch that it belongs to.
    """
    pending: collections.deque[concurrent.futures.Future[T]] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches") as pool:
        try:
            for step in range(start, stop):
                while len(pending) < depth and step + len(pending) < stop:
                    pending.append(pool.submit(make, step + len(pending)))
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
