"""What a group makes of coroutines, callables, iterators and executors, so that they run in it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator
from concurrent.futures import Executor, Future
from types import CoroutineType
from typing import TYPE_CHECKING, Any, final

from memquota.accounting._follow import follow
from memquota.accounting._steps import Kept, MeasuredCoroutine
from memquota.errors import UsageTypeError

if TYPE_CHECKING:
    from memquota.accounting.groups import Group

__all__ = ["BoundExecutor", "run", "wrapped"]


async def run(group: Group, work: Any, arguments: tuple[Any, ...]) -> Any:
    """Await a coroutine, or what a callable returns, in a group."""
    coroutine: Any
    if type(work) is CoroutineType and not arguments:
        coroutine = work
    elif callable(work):
        coroutine = work(*arguments) if inspect.iscoroutinefunction(work) else _called(work, arguments)
    elif arguments:
        raise UsageTypeError(f"only a callable takes arguments, and {work!r} is none")
    elif inspect.isawaitable(work):
        coroutine = work if inspect.iscoroutine(work) else _awaited(work)
    else:
        raise UsageTypeError(f"run takes a coroutine or an async callable, not {work!r}")
    return await MeasuredCoroutine(coroutine, group, follow)


async def _called(work: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    found = work(*arguments)
    if not inspect.isawaitable(found):
        raise UsageTypeError(f"run takes an async callable, and {work!r} returned {found!r}")
    return await found


async def _awaited(awaitable: Any) -> Any:
    return await awaitable


def wrapped(group: Group, work: Any) -> Any:
    """What does the same in a group: of a callable, an iterator or a generator."""
    if inspect.isawaitable(work):
        raise UsageTypeError(f"wrap takes what is called or iterated, not {work!r}: that is for run")
    if callable(work):
        return _callable(group, work)
    made = _iterable(group, work)
    if made is None:
        raise UsageTypeError(f"wrap takes a callable, an async iterator or a generator, not {work!r}")
    return made


def _iterable(group: Group, work: Any) -> Any:
    """A wrapped iterator; None if it is something else."""
    if isinstance(work, AsyncGenerator):
        return _AsyncGenerator(group, work)
    if isinstance(work, AsyncIterator):
        return _AsyncIterator(group, work)
    if isinstance(work, Generator):
        return _generator(group, work)
    return None


def _callable(group: Group, work: Callable[..., Any]) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(work):

        @functools.wraps(work)
        async def coroutine_function(*arguments: Any, **named: Any) -> Any:
            return await MeasuredCoroutine(work(*arguments, **named), group, follow)

        return coroutine_function
    if inspect.isasyncgenfunction(work) or inspect.isgeneratorfunction(work):
        # Nothing runs in the call itself.

        @functools.wraps(work)
        def generator_function(*arguments: Any, **named: Any) -> Any:
            return _iterable(group, work(*arguments, **named))

        return generator_function

    @functools.wraps(work)
    def function(*arguments: Any, **named: Any) -> Any:
        with group:
            found = work(*arguments, **named)
        if inspect.iscoroutine(found):
            return run(group, found, ())
        return found

    return function


class _AsyncIterator(AsyncIterator[Any]):
    """An async iterator whose items are made in a group. Everything else that it has is its own."""

    def __init__(self, group: Group, inner: Any) -> None:
        self._group = group
        self._inner = inner

    async def __anext__(self) -> Any:
        return await run(self._group, self._inner.__anext__(), ())

    def __getattr__(self, name: str) -> Any:
        if name == "_inner":  # asked before there is one
            raise AttributeError(name)
        return getattr(self._inner, name)

    def __repr__(self) -> str:
        return f"<{self._inner!r} in {self._group!r}>"


class _AsyncGenerator(AsyncGenerator[Any, Any]):
    """An async generator that runs in a group."""

    def __init__(self, group: Group, inner: AsyncGenerator[Any, Any]) -> None:
        self._group = group
        self._inner = inner
        self._kept = Kept(group)

    async def __anext__(self) -> Any:
        return await MeasuredCoroutine(self._inner.__anext__(), self._group, follow, self._kept)

    async def asend(self, value: Any) -> Any:
        return await MeasuredCoroutine(self._inner.asend(value), self._group, follow, self._kept)

    async def athrow(self, *error: Any) -> Any:
        return await MeasuredCoroutine(self._inner.athrow(*error), self._group, follow, self._kept)

    async def aclose(self) -> None:
        await MeasuredCoroutine(self._inner.aclose(), self._group, follow, self._kept)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("ag_") or name in ("__name__", "__qualname__"):
            return getattr(self._inner, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __repr__(self) -> str:
        return f"<{self._inner!r} in {self._group!r}>"


def _generator(group: Group, inner: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """A generator that runs in a group, step by step."""
    return (yield from MeasuredCoroutine(inner, group, follow))


@final
class BoundExecutor(Executor):
    """An executor whose work runs in a group, made by `Group.bind`. Shutting it down shuts the other one down."""

    def __init__(self, group: Group, executor: Executor) -> None:
        self._group = group
        self._executor = executor

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """As the executor's own."""
        return self._executor.submit(self._call, fn, args, kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Shut down the executor itself."""
        self._executor.shutdown(wait, cancel_futures=cancel_futures)

    def _call(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with self._group:
            return fn(*args, **kwargs)
