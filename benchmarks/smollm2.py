"""Thirty steps of SmolLM2-135M on real pairs and instructions: tokens per second, by the clock and by CPU time.

Pairs are TICO-19's English and Chinese or Swahili lines; instructions ask XQuAD's questions in English or Chinese about
the paragraph and are answered in the other language. Runs on the training of any version that has these rooms, so two
versions can be compared by running this file with each of them first on PYTHONPATH.

Usage: PYTHONPATH=. python benchmarks/smollm2.py [--steps N] [--threads N] [--batch-size N] [--data FOLDER]
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from afp_ray.config.loss import LossConfig
from afp_ray.config.model import ModelConfig
from afp_ray.config.training import TrainingConfig
from afp_ray.data.batches import Batching, TrainingBatches
from afp_ray.data.rows import Instruction, TranslationPair
from afp_ray.models.load import load_model
from afp_ray.records import Host
from afp_ray.training.loop import TrainingRequest, train
from benchmarks.figures import Figure, show

MAX_LENGTH = 256


class _Progress:
    """Says on stderr how far the steps are, and keeps their metrics."""

    def __init__(self) -> None:
        self.metrics: list[dict[str, float]] = []

    def report(self, stage: str, done: int, total: int, metrics: Mapping[str, float] = {}) -> None:
        """Take in a step."""
        self.metrics.append(dict(metrics))
        sys.stderr.write(f"{stage} {done}/{total} {metrics.get('instruction_loss', float('nan')):.3f}\n")


def main(arguments: list[str] | None = None) -> int:
    """Train and print; 0, or 2 where the data are not there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--model", default="smollm2", help="smollm2, embedded or a folder")
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("AFP_DATA_DIR", beside)))
    options = parser.parse_args(arguments)
    if not (options.data / "tico19").is_dir() or not (options.data / "xquad").is_dir():
        sys.stderr.write(f"{options.data} has no tico19 and xquad; name their folder with --data or AFP_DATA_DIR\n")
        return 2
    torch.set_num_threads(options.threads)
    loaded = load_model(ModelConfig(name=options.model))
    pairs, instructions = _pairs(options.data / "tico19"), _instructions(options.data / "xquad")
    batching = Batching(batch_size=options.batch_size, max_length=MAX_LENGTH, seed=0)
    batches = TrainingBatches(pairs, instructions, loaded.tokenizer, batching)
    training = TrainingConfig(batch_size=options.batch_size, max_steps=options.steps, max_length=MAX_LENGTH)
    progress = _Progress()
    clock, cpu = time.perf_counter(), time.process_time()
    summary = train(loaded.model, batches, TrainingRequest(LossConfig(), training), Host(reporter=progress))
    clock, cpu = time.perf_counter() - clock, time.process_time() - cpu
    losses = [row["instruction_loss"] for row in progress.metrics]
    sys.stdout.write(
        f"{summary.tokens} real tokens in {options.steps} steps, {options.threads} threads, "
        f"load {os.getloadavg()[0]:.1f}; instruction loss {losses[0]:.4f} to {losses[-1]:.4f}\n"
    )
    return show(
        [
            Figure("smollm2.tokens_per_s", summary.tokens / clock, None, None),
            Figure("smollm2.tokens_per_cpu_s", summary.tokens / cpu, None, None),
            Figure("smollm2.peak_memory_bytes", float(summary.peak_memory_bytes or 0), None, None),
        ]
    )


def _pairs(folder: Path) -> list[TranslationPair]:
    lines = {name: (folder / f"tico19-test.{name}").read_text("utf-8").splitlines() for name in ("eng", "zho", "swa")}
    return [
        TranslationPair(english, other, "en", code, f"tico19:{number}")
        for code, name in (("zh", "zho"), ("sw", "swa"))
        for number, (english, other) in enumerate(zip(lines["eng"], lines[name], strict=True))
        if english.strip() and other.strip()
    ]


def _instructions(folder: Path) -> list[Instruction]:
    asked = {code: _questions(folder / f"xquad.{code}.json") for code in ("en", "zh")}
    return [
        Instruction(f"{context} {question}", asked[other][number][2], code, other, number)
        for code, other in (("en", "zh"), ("zh", "en"))
        for number, (context, question, _) in asked[code].items()
        if number in asked[other]
    ]


def _questions(path: Path) -> dict[str, tuple[str, str, str]]:
    """Paragraph, question and first answer by id."""
    articles = json.loads(path.read_text("utf-8"))["data"]
    return {
        item["id"]: (paragraph["context"], item["question"], item["answers"][0]["text"])
        for article in articles
        for paragraph in article["paragraphs"]
        for item in paragraph["qas"]
    }


if __name__ == "__main__":
    sys.exit(main())
