"""Choice scoring: ours against the Hugging Face backend of lm-evaluation-harness, on the same prompts and weights.

Both are given the same (context, continuation) strings, made by our templates; the peer runs at the batch size that is
fastest for it, of a list that is tried on a few examples. It shares nothing between examples, so that on the large
model it scores every so many of them, of all lengths, and both are timed per example. Rows are those of the original
files where AFP_DATA_DIR names their folder, otherwise made-up rows of the same lengths. Figures are examples per
CPU-second of one thread.

Usage: PYTHONPATH=. python benchmarks/scoring.py [--tiny] [--rounds N] [--examples N] [--only NAME]
"""

import argparse
import csv
import functools
import json
import logging
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers

from afp_ray.config import EvaluationConfig
from afp_ray.errors import ModelError
from afp_ray.evaluation.questions import render_cells
from afp_ray.evaluation.scoring import ContinuationScorer
from afp_ray.models.describe import EMBEDDED_FOLDER
from afp_ray.models.packaged import packaged_folder
from benchmarks import workload
from benchmarks.figures import Figure, interleave, show

Questions = list[tuple[tuple[str, str], ...]]
Score = Callable[[Questions], list[tuple[float, ...]]]
_CLEARLY_SLOWER = 1.15


@dataclass(frozen=True)
class Case:
    """What is scored.

    Attributes:
        task, shots: of the questions.
        floor: what the full size promises, in multiples of the peer's speed; null for nothing.
        examples: questions that we score; null for as many as the command line says.
        peer_every: the peer scores every so many of them, in the order of their lengths.
        batch_sizes: tried for the peer, on `tried` examples.
    """

    task: str
    shots: int
    floor: float | None = None
    examples: int | None = None
    peer_every: int = 1
    batch_sizes: tuple[int, ...] = (1, 4, 8, 16, 32)
    tried: int = 20


CASES = {
    "pawsx_5shot": Case("pawsx", 5, floor=8.0),
    "pawsx_0shot": Case("pawsx", 0),
    "xnli_5shot": Case("xnli", 5, floor=14.0),
    "xnli_0shot": Case("xnli", 0),
    "smollm2_pawsx_5shot": Case("pawsx", 5, floor=7.0, examples=60, peer_every=5, batch_sizes=(1, 4, 8), tried=6),
    "smollm2_xnli_0shot": Case("xnli", 0, examples=60, peer_every=5, batch_sizes=(1, 4, 8), tried=6),
}
"""Scaled models, and SmolLM2 where it lies converted."""


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; 7 when a floor is missed or a prediction differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="a toy size, to test the benchmark itself")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--examples", type=int, default=100)
    parser.add_argument("--only", choices=CASES, help="one case instead of all")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    _silence()
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        rows = os.environ.get("AFP_DATA_DIR") or _made_up_rows(Path(folder), options.examples)
        for name, case in CASES.items():
            if options.only not in (None, name) or (options.tiny and name.startswith("smollm2")):
                continue
            try:
                model, tokenizer = _smollm2() if name.startswith("smollm2") else _scaled(options.tiny)
            except ModelError as error:
                sys.stderr.write(f"{name} is left out: {error}\n")
                continue
            number = 8 if options.tiny else case.examples or options.examples
            questions = _questions(case.task, case.shots, rows, number)
            figure = _compare(name, case, model, tokenizer, questions=questions, rounds=options.rounds)
            figures.append(replace(figure, floor=None) if options.tiny else figure)
    sys.stderr.write(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
    return show(figures)


def _compare(name: str, case: Case, model: Any, tokenizer: Any, *, questions: Questions, rounds: int) -> Figure:
    by_length = sorted(range(len(questions)), key=lambda index: sum(map(len, questions[index][0])))
    places = by_length[case.peer_every // 2 :: case.peer_every]
    asked = [questions[place] for place in places]
    best, peer = _best_peer(name, model, tokenizer, asked[:: -(-len(asked) // case.tried)], case.batch_sizes)
    scorer = ContinuationScorer(model, tokenizer)
    found: dict[str, list[tuple[float, ...]]] = {}

    def ours() -> None:
        found["ours"] = scorer.score(questions)

    def theirs() -> None:
        found["peer"] = peer(asked)

    our_s, their_s, ratio = interleave(ours, theirs, rounds=rounds)
    pairs = [(found["ours"][place], other) for place, other in zip(places, found["peer"], strict=True)]
    furthest = max(abs(a - b) for own, other in pairs for a, b in zip(own, other, strict=True))
    sys.stderr.write(
        f"{name}: best batch size {best}, {len(pairs)} predictions compared, log-likelihoods within {furthest:.1e} "
        "nats\n"
    )
    equal = scorer.obstacle is None and all(_likeliest(own) == _likeliest(other) for own, other in pairs)
    rates = len(questions) / our_s, len(asked) / their_s
    per_example = ratio * len(questions) / len(asked)
    return Figure(f"scoring.{name}_examples_per_cpu_s", *rates, per_example, case.floor, equal)


def _best_peer(name: str, model: Any, tokenizer: Any, questions: Questions, sizes: Sequence[int]) -> tuple[int, Score]:
    """The peer at the batch size that is fastest on a few questions.

    Sizes grow until one is clearly slower than the best: beyond, the peer's logits take gigabytes and ever more time.
    Its own search is not among them: it tries whole windows of the model, which takes longer than what it saves.
    """
    seconds: dict[int, float] = {}
    peers = {}
    _peer(model, tokenizer, 1)(questions[:1])  # what the first call sets up is not the first size's to pay
    for size in sizes:
        peers[size] = _peer(model, tokenizer, size)
        seconds[size] = _seconds(functools.partial(peers[size], questions))
        if seconds[size] > _CLEARLY_SLOWER * min(seconds.values()):
            break
    tried = ", ".join(f"{size}: {len(questions) / taken:.3g}" for size, taken in seconds.items())
    sys.stderr.write(f"{name}: the peer's examples per CPU-second by batch size: {tried}\n")
    best = min(seconds, key=lambda size: seconds[size])
    return best, peers[best]


def _peer(model: Any, tokenizer: Any, batch_size: int) -> Score:
    """The harness's scores of questions, in the shape of ours."""
    from lm_eval.api.instance import Instance  # type: ignore[import-untyped]
    from lm_eval.models.huggingface import HFLM  # type: ignore[import-untyped]

    backend = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)

    def score(questions: Questions) -> list[tuple[float, ...]]:
        choices = [choice for question in questions for choice in question]
        requests = [Instance("loglikelihood", {}, choice, index) for index, choice in enumerate(choices)]
        values = iter(backend.loglikelihood(requests, disable_tqdm=True))
        return [tuple(next(values)[0] for _ in question) for question in questions]

    return score


def _seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def _likeliest(values: Sequence[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)


def _questions(task: str, shots: int, data_dir: str, number: int) -> Questions:
    config = EvaluationConfig(tasks=(task,), data_dir=data_dir, shots=(shots,), demo_seeds=(0,), limit=number)
    (cell,) = render_cells(task, config, language="en", pivot="en", split="validation")
    return [example.question.choices for example in cell.examples]


def _scaled(is_tiny: bool) -> tuple[Any, Any]:
    """A random model of a tenth of the depth and width that matter, and a tokenizer of as many tokens.

    Those are the first tokens of a real one where it is installed; the embedded one has more tokens a word.
    """
    if is_tiny:
        tokenizer = transformers.AutoTokenizer.from_pretrained(EMBEDDED_FOLDER)
        return workload.build_model({**workload.TINY, "vocab_size": len(tokenizer)}).eval(), tokenizer
    model = workload.build_model(workload.SMALL).eval()
    try:
        folder = packaged_folder("smollm2")
    except ModelError:
        return model, transformers.AutoTokenizer.from_pretrained(EMBEDDED_FOLDER)
    return model, _first_tokens(folder, workload.SMALL["vocab_size"])


def _first_tokens(folder: Path, number: int) -> Any:
    """The byte-level BPE tokenizer in a folder without the merges that give tokens from `number` on."""
    from tokenizers import Tokenizer

    content = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = {token: index for token, index in content["model"]["vocab"].items() if index < number}
    merges = [merge if isinstance(merge, list) else merge.split(" ") for merge in content["model"]["merges"]]
    content["model"]["vocab"] = vocabulary
    content["model"]["merges"] = [merge for merge in merges if "".join(merge) in vocabulary]
    whole = transformers.AutoTokenizer.from_pretrained(folder)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(content)), bos_token=whole.bos_token, eos_token=whole.eos_token
    )


def _smollm2() -> tuple[Any, Any]:
    folder = packaged_folder("smollm2")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), transformers.AutoTokenizer.from_pretrained(folder)


def _made_up_rows(folder: Path, examples: int) -> str:
    """Files of both tasks with random words, as long as the rows of the real ones; returns their folder."""
    random_words = random.Random(0)  # noqa: S311 - no secret
    syllables = [first + second for first in "bdfgklmnprstvz" for second in ("a", "e", "i", "o", "u", "an", "er", "il")]

    def sentence(low: int, high: int) -> str:
        words = ["".join(random_words.choices(syllables, k=random_words.choice((1, 1, 2, 2, 3)))) for _ in range(high)]
        return " ".join(words[: random_words.randint(low, high)]).capitalize() + " ."

    (folder / "pawsx" / "en").mkdir(parents=True)
    (folder / "xnli").mkdir()
    with (folder / "pawsx" / "en" / "dev_2k.tsv").open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t")
        writer.writerow(("id", "sentence1", "sentence2", "label"))
        writer.writerows((row, sentence(12, 24), sentence(12, 24), row % 2) for row in range(2 * examples + 40))
    with (folder / "xnli" / "dev-en.tsv").open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t")
        for _ in range(examples + 20):
            premise = sentence(8, 26)
            for label in ("entailment", "neutral", "contradiction"):
                writer.writerow((premise, sentence(5, 12), label))
    return str(folder)


def _silence() -> None:
    logging.disable(logging.WARNING)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


if __name__ == "__main__":
    sys.exit(main())
