"""The workers of one evaluation: each answers a part of what is asked, and all end with the whole.

All of them walk the same cells in the same order and meet at the same exchanges. One that fails meets the others once
more, at whatever exchange they come to next, and tells them: they end with an error, and none waits for ever.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from afp_ray.errors import AfpError, DataError

T = TypeVar("T")
U = TypeVar("U")


class ElsewhereFailedError(AfpError):
    """Another worker failed, so that what is shared with it cannot be ended.

    Args:
        message: who failed, and why.
        is_final: whether that worker has left for good.
    """

    def __init__(self, message: str, *, is_final: bool = True) -> None:
        self.is_final = is_final
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class _Failure:
    """What a worker tells the others instead of its part."""

    rank: int
    message: str
    is_final: bool


class Workers:
    """The process that asks and those that evaluate the same model with it.

    Args:
        rank: of this process among them, from 0.
        number: how many they are; with 1, the default, every exchange is with itself.
        group: the process group of torch that they are; null takes the default one.
    """

    def __init__(self, rank: int = 0, number: int = 1, *, group: Any = None) -> None:
        self.rank, self.number, self._group = rank, number, group
        self._is_joined = False

    @property
    def is_first(self) -> bool:
        """Whether this one reads and writes for all."""
        return self.rank == 0

    @contextmanager
    def together(self) -> Iterator[None]:
        """The block in which workers exchange; all enter it alike, and leave it whole or with an error.

        Raises: what the block raises, on its worker; ElsewhereFailedError on the others.
        """
        self._is_joined = True
        try:
            yield
            self.exchange(None)  # none leaves while another may still fail
        except BaseException as error:
            if self._is_joined and self.number > 1:
                with suppress(RuntimeError):  # the group may be what failed
                    self._gather(self._failure(error, is_final=True))
            raise
        finally:
            self._is_joined = False

    def attempt(
        self, work: Callable[[], T], *, ends_all: Callable[[Exception], bool]
    ) -> tuple[T, None] | tuple[None, Exception]:
        """Do work that may fail, inside `together`; all workers come out of it alike, and can go on to other work.

        Args:
            work: exchanges as it likes.
            ends_all: whether no other work can be done after an error either.
        Returns: what `work` gave and no error, or nothing and why not: this worker's own error, or
            ElsewhereFailedError.
        Raises: an error that ends all, here or on another worker.
        """
        try:
            result = work()
            self.exchange(None)  # none goes on while another may still fail
            return result, None
        except ElsewhereFailedError as error:
            if error.is_final:
                raise
            self._is_joined = True
            return None, error
        except Exception as error:
            is_final = ends_all(error)
            if self.number > 1 and not self._is_joined:
                raise  # an exchange broke: nobody can be told
            if self.number > 1:
                others = self._gather(self._failure(error, is_final=is_final))
                is_final = is_final or any(isinstance(other, _Failure) and other.is_final for other in others)
                self._is_joined = not is_final  # of the last failure all have heard
            if is_final:
                raise
            return None, error

    def exchange(self, part: T) -> list[T]:
        """What every worker gives here, in the order of their ranks.

        Args:
            part: anything that pickles.
        Raises: ElsewhereFailedError when another worker has failed since the last exchange.
        """
        if self.number == 1:
            return [part]
        assert self._is_joined, "workers exchange in `together` alone, or a failure leaves the others waiting"
        parts = self._gather(part)
        failures = [part for part in parts if isinstance(part, _Failure)]
        if failures:
            self._is_joined = False  # all that are left have heard it
            raise ElsewhereFailedError(
                "; ".join(f"worker {failure.rank} failed: {failure.message}" for failure in failures),
                is_final=any(failure.is_final for failure in failures),
            )
        return parts

    def of_first(self, work: Callable[[], T]) -> T:
        """What `work` gives on the first worker, which alone does it."""
        return cast(T, self.exchange(work() if self.is_first else None)[0])

    def divide(self, units: Sequence[U], owners: Sequence[int], answer: Callable[[list[U]], Sequence[T]]) -> list[T]:
        """One answer per unit, each worker having given those that it owns.

        Args:
            units: the same on every worker, made of numbers alone.
            owners: rank of the worker that answers each unit.
            answer: one answer per unit; not called by a worker that owns none.
        Raises: ElsewhereFailedError as `exchange`; DataError when not all workers were given the same units.
        """
        own = [unit for unit, owner in zip(units, owners, strict=True) if owner == self.rank]
        parts = self.exchange((hash(tuple(units)), list(answer(own)) if own else []))
        _require_one([digest for digest, _ in parts], "the questions that they were given")
        left = [iter(answers) for _, answers in parts]
        return [next(left[owner]) for owner in owners]

    def require_equal(self, value: Any, what: str) -> None:
        """Make sure that all workers have the same.

        Raises: DataError when they differ in `what`.
        """
        _require_one(self.exchange(value), what)

    def _failure(self, error: BaseException, *, is_final: bool) -> _Failure:
        return _Failure(self.rank, one_line(error), is_final)

    def _gather(self, part: Any) -> list[Any]:
        import torch.distributed as dist  # checks of an evaluation must not load torch

        parts: list[Any] = [None] * self.number
        was_joined, self._is_joined = self._is_joined, False  # an exchange that breaks is the last one
        dist.all_gather_object(parts, part, group=self._group)
        self._is_joined = was_joined
        return parts


def one_line(error: BaseException) -> str:
    """Kind and first line of an error."""
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"


def _require_one(values: Sequence[Any], what: str) -> None:
    if len(set(values)) > 1:
        raise DataError(
            f"the {len(values)} workers of a trial differ in {what}",
            fix="give every node the same files: put models, data and the storage folder on a shared path",
        )
