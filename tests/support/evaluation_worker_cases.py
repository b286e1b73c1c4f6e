"""What one worker of a test scores and writes, alone where there is no process group."""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from tiny_models import WORDS, build_model, build_tokenizer

from afp_ray.errors import AfpError
from afp_ray.evaluation import sharing
from afp_ray.evaluation.generation import Prompt, TextGenerator
from afp_ray.evaluation.scoring import ContinuationScorer
from afp_ray.evaluation.workers import Workers

SHOTS = " ".join(WORDS[:20] * 2)
QUESTIONS = [
    tuple(
        (
            f"{SHOTS} {WORDS[number % 20]} {' '.join(WORDS[number % 7 : number % 7 + 4])}",
            f" {choice} {WORDS[number % 11]}",
        )
        for choice in (WORDS[1], WORDS[2])
    )
    for number in range(40)
]
QUESTIONS.append(tuple((f"{SHOTS} {SHOTS}", f" {choice}") for choice in WORDS[1:3]))
"""The last one is longer than the model's positions."""
DEMONSTRATIONS = tuple(" ".join(WORDS[start : start + 12]) for start in (0, 5))
PROMPTS = [
    Prompt(DEMONSTRATIONS, " ".join([*WORDS[number % 7 : number % 7 + 2 + number % 5], WORDS[number % 20]]))
    for number in range(30)
]
PROMPTS += [PROMPTS[3], Prompt((" ".join(WORDS * 6), *DEMONSTRATIONS), WORDS[4])]
"""One comes twice, and one is longer than the model's positions."""


def in_group(rank: int) -> dict[str, Any]:
    """Scores and texts of a worker of two, whole and where the second one fails in the ways that there are."""
    workers = Workers(rank, dist.get_world_size())
    found: dict[str, Any] = {"choices": score(workers), "texts": write(workers)}
    is_second = rank == 1
    found["broken choices"] = _error(lambda: score(workers, is_broken=is_second))
    found["broken texts"] = _error(lambda: write(workers, is_broken=is_second))
    found["between"] = _error(lambda: _fail_between(workers, is_second=is_second))
    found["at the end"] = _error(lambda: _fail_at_the_end(workers, is_second=is_second))
    found["attempts"] = _attempts(workers, is_second=is_second)
    found["last attempt"] = _error(lambda: _last_attempt(workers, is_second=is_second))
    found["other questions"] = _error(lambda: score(workers, questions=QUESTIONS[is_second:]))
    found["and again"] = score(workers)
    return found


def score(workers: Workers, *, is_broken: bool = False, questions: Any = QUESTIONS) -> dict[str, Any]:
    """Log-likelihoods, counts and tokens that ran."""
    sharing._MIN_SAVED = 64
    model = build_model("llama")
    if is_broken:
        torch.nn.init.constant_(model.lm_head.weight, float("nan"))
    scorer = ContinuationScorer(model, build_tokenizer())
    sizes: list[int] = []
    model.get_input_embeddings().register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].numel()))
    with workers.together():
        values = scorer.score(questions, workers=workers)
    return {"values": values, "num_truncated": scorer.num_truncated, "num_tokens": sum(sizes)}


def write(workers: Workers, *, is_broken: bool = False) -> dict[str, Any]:
    """Texts, counts and how many prompts this worker ran."""
    model = build_model("llama")
    torch.nn.init.normal_(model.lm_head.weight, std=0.5, generator=torch.Generator().manual_seed(1))
    if is_broken:
        torch.nn.init.constant_(model.lm_head.weight, float("nan"))
    generator = TextGenerator(model, build_tokenizer(), max_new_tokens=6)
    own: list[int] = []
    whole = generator._write_all

    def counted(prompts: Any, **options: Any) -> Any:
        own.append(len(prompts))
        return whole(prompts, **options)

    generator._write_all = counted  # type: ignore[method-assign]
    with workers.together():
        texts = generator.generate(PROMPTS, stop=("\n",), workers=workers)
    counts = [generator.num_without_demonstrations, generator.num_truncated, generator.num_capped]
    return {"texts": texts, "counts": counts, "own": sum(own)}


def _fail_between(workers: Workers, *, is_second: bool) -> None:
    """The second worker fails in work of its own, while the first has gone on to an exchange."""
    with workers.together():
        workers.exchange("first")
        if is_second:
            raise KeyError("no such row")
        workers.exchange("second")
        raise AssertionError("nobody comes here")


def _fail_at_the_end(workers: Workers, *, is_second: bool) -> None:
    """The second worker fails when the first has nothing left to do."""
    with workers.together():
        workers.exchange("first")
        if is_second:
            raise MemoryError("no room")


def _attempts(workers: Workers, *, is_second: bool) -> list[tuple[Any, str]]:
    """What each attempt gave and why not: whole, failed on one worker at each place, on both, and whole again."""

    def work(name: str) -> list[str]:
        if name == "both first" or (name == "second first" and is_second):
            raise KeyError(name)
        parts = workers.exchange(name)
        if (name == "second last" and is_second) or (name == "first last" and not is_second):
            raise KeyError(name)
        return parts

    found = []
    with workers.together():
        for name in ("whole", "second first", "second last", "both first", "first last", "again"):
            value, error = workers.attempt(lambda name=name: work(name), ends_all=lambda _: False)  # type: ignore[misc]
            found.append((value, f"{type(error).__name__}: {error}" if error else ""))
    return found


def _last_attempt(workers: Workers, *, is_second: bool) -> None:
    """Both fail at once, the second one for good; the first must not go on alone."""

    def work() -> None:
        raise MemoryError("no room") if is_second else KeyError("a row")

    with workers.together():
        workers.attempt(work, ends_all=lambda error: isinstance(error, MemoryError))
        workers.exchange("never")


def _error(work: Callable[[], object]) -> tuple[str, str]:
    """Kind and text of what `work` raises."""
    try:
        work()
    except (AfpError, LookupError, MemoryError) as error:
        return type(error).__name__, str(error)
    return "", ""
