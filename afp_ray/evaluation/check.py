"""What an evaluation would read, checked and hashed before anything is started; needs no torch."""

import hashlib
from collections.abc import Sequence

from afp_ray.config import EvaluationConfig
from afp_ray.config.trial import canonical_json
from afp_ray.evaluation.questions import load_rows, render_cells
from afp_ray.evaluation.task import SPLITS, Row
from afp_ray.evaluation.tasks import TASKS


def check_evaluation(config: EvaluationConfig, *, languages: Sequence[str], pivot: str) -> None:
    """Render every row of every task, language and split, so that nothing can fail after the GPU is granted.

    Args:
        config: what is scored.
        languages: languages to score.
        pivot: language of the prompts when `prompt_language` is `pivot`.

    Raises: TaskError, DataError or ConfigError naming the row, the language or the word that is missing.
    """
    for name in config.tasks:
        for language in languages:
            for split in SPLITS:
                for _ in render_cells(name, config, language=language, pivot=pivot, split=split):
                    pass


def evaluation_fingerprint(config: EvaluationConfig, *, languages: Sequence[str], pivot: str) -> str:
    """SHA-256 over the task rows that an evaluation reads: both splits, and with shots the demonstrations.

    Rows count by content, not by place: a copied or moved folder keeps its fingerprint.
    The held-out pairs of the representation metrics are not part of it.

    Raises: as `check_evaluation`.
    """
    digest = hashlib.sha256()
    for name in config.tasks:
        extra = (pivot,) if config.prompt_language == "pivot" and any(config.shots) else ()
        for language in sorted({*languages, *extra}):
            rows = load_rows(TASKS[name], config.data_dir, language)
            parts: dict[str, Sequence[Row]] = {split: rows.splits[split] for split in SPLITS}
            if any(config.shots):
                parts["demonstrations"] = rows.demonstrations
            for part, members in parts.items():
                digest.update(f"{name}/{language}/{part}\n".encode())
                for row in members:
                    fields = {key: str(row[key]) for key in ("id", "content_id", *TASKS[name].fields)}
                    digest.update(canonical_json(fields).encode() + b"\n")
    return digest.hexdigest()
