"""Progress (to be replaced)."""

from contextlib import contextmanager


class _No:
    def step(self, n: int) -> None: ...


@contextmanager
def bar(name, total):
    yield _No()
