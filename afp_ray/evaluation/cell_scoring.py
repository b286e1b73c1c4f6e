"""What the scoring of choices and that of texts have in common: a model, its settings, and who answers its prompts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from afp_ray.config import EvaluationConfig, Split
from afp_ray.evaluation.score_cache import Answers, ScoreCache
from afp_ray.evaluation.workers import Workers
from afp_ray.reporter import Reporter, SilentReporter


@dataclass(frozen=True, slots=True)
class ScoringHost:
    """How scoring runs and who hears of it; nothing here changes a score.

    Attributes:
        reporter: told after every cell, as stage `evaluate`.
        cache: what this very model answered before; None asks for everything anew.
        workers: those that answer a part each, and end with all answers; the default leaves all to this process.
        captures_decoding: capture the steps that write texts as CUDA graphs.
    """

    reporter: Reporter = field(default_factory=SilentReporter)
    cache: ScoreCache | None = None
    workers: Workers = field(default_factory=Workers)
    captures_decoding: bool = False


@dataclass
class CellScoring:
    """Scores the cells of one evaluation.

    Attributes:
        model, tokenizer: what is scored.
        config: shots, demonstration seeds, prompt language, limit, scoring, decoding.
        pivot: language of the prompts when `prompt_language` is `pivot`, and one side of every direction.
        split: rows to score.
        warnings: cut prompts and unfinished texts are told there.
        host: the cache that is asked first, and the workers that answer the rest.
    """

    model: Any
    tokenizer: Any
    config: EvaluationConfig
    pivot: str
    split: Split
    warnings: list[str]
    host: ScoringHost = field(default_factory=ScoringHost)

    def answers(
        self,
        asked: Mapping[str, Any],
        prompts: Sequence[Any],
        make: Callable[[], tuple[Answers, Mapping[str, int]]],
    ) -> tuple[Answers, Mapping[str, int]]:
        """As `ScoreCache.answers`, from the cache where there is one; all workers call this alike.

        The first worker alone reads and writes the cache: what it found, or not, holds for all.
        """
        cache, workers = self.host.cache, self.host.workers
        if cache is None:
            return make()
        asked = {**asked, "precision": self.config.precision}
        answers = workers.of_first(lambda: cache.find(asked, prompts))
        if answers is None:
            answers = make()
            if workers.is_first:
                cache.keep(asked, prompts, *answers)
        return answers
