"""What scoring of choices and greedy generation give on a GPU, beside the stock model on padded batches."""

import functools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers

from afp_ray.evaluation.generation import Prompt, TextGenerator
from afp_ray.evaluation.scoring import ContinuationScorer
from afp_ray.models.cuda_graphs import Recorder, cuda_graphs
from afp_ray.models.describe import EMBEDDED_FOLDER
from afp_ray.models.precision import Precision, weights_in
from benchmarks import padded, scoring
from benchmarks.figures import Figure
from benchmarks.gpu_setting import Setting, exact_products, free, synchronize


def measure_choices(setting: Setting, *, precision: Precision, floor: float) -> list[Figure]:
    """Choices with five demonstrations, in examples per second."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(EMBEDDED_FOLDER)
    number = 2 if setting.is_tiny else 200
    with tempfile.TemporaryDirectory() as folder:
        questions = scoring._questions("pawsx", 5, scoring._made_up_rows(Path(folder), number), number)
    model = setting.model(vocab_size=max(len(tokenizer), setting.shape["vocab_size"])).eval()
    with weights_in(model, precision), exact_products():
        scorer = ContinuationScorer(model, tokenizer)
        requests = scorer.requests(questions)
        own = functools.partial(scorer.score, questions)
        peers = {size: functools.partial(padded.score, model, requests, size) for size in _sizes(setting, 8, 32, 128)}
        values, own_s = _timed(setting, own)
        size, flat, other_s = _best(setting, peers)
    other = [flat[at : at + 2] for at in range(0, len(flat), 2)]
    same = sum(_likeliest(a) == _likeliest(b) for a, b in zip(values, other, strict=True))
    sys.stdout.write(f"  {same} of {number} predictions are those of the peer, at its best batch size {size}\n")
    is_equal = scorer.obstacle is None and same >= (number if precision == "fp32" else 0.97 * number)
    name = f"gpu.choices_{precision}_examples_per_s"
    return [Figure(name, number / own_s, number / other_s, other_s / own_s, floor, is_equal)]


def measure_texts(setting: Setting) -> list[Figure]:
    """Greedy texts after 64 prompts, 128 tokens each, in bf16; a few short ones are compared in float32."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(EMBEDDED_FOLDER)
    number, length = (4, 6) if setting.is_tiny else (64, 128)
    with tempfile.TemporaryDirectory() as folder:
        rows = scoring._questions("pawsx", 0, scoring._made_up_rows(Path(folder), number), number)
    texts = [choices[0][0] for choices in rows]
    model = setting.model(vocab_size=max(len(tokenizer), setting.shape["vocab_size"])).eval()
    with exact_products():
        few = texts[:4] if setting.is_tiny else texts[:8]
        own = TextGenerator(model, tokenizer, max_new_tokens=16).generate([Prompt((), text) for text in few])
        equal = any(own) and own == padded.generate(model, tokenizer, few, 16, len(few))
    with weights_in(model, "bf16"):
        capture: Recorder[torch.Tensor] | None = cuda_graphs() if setting.device.type == "cuda" else None
        generator = TextGenerator(model, tokenizer, max_new_tokens=length, capture=capture)  # one serves many cells
        _, own_s = _timed(setting, lambda: generator.generate([Prompt((), text) for text in texts]))
        for warning in generator.warnings:
            sys.stdout.write(f"  {warning}\n")
        sizes = _sizes(setting, 16, 32, 64)
        peers = {size: functools.partial(padded.generate, model, tokenizer, texts, length, size) for size in sizes}
        size, _, other_s = _best(setting, peers)
    sys.stdout.write(f"  the peer's best batch size: {size}\n")
    return [Figure("gpu.greedy_texts_per_s", number / own_s, number / other_s, other_s / own_s, 2.0, equal)]


def _sizes(setting: Setting, *sizes: int) -> tuple[int, ...]:
    return sizes[:1] if setting.is_tiny else sizes


def _timed(setting: Setting, work: Callable[[], Any]) -> tuple[Any, float]:
    """What it gives, and median seconds after one call that does not count."""
    result, seconds = work(), []
    for _ in range(setting.rounds):
        synchronize(setting.device)
        started = time.perf_counter()
        result = work()
        synchronize(setting.device)
        seconds.append(time.perf_counter() - started)
    return result, statistics.median(seconds)


def _best(setting: Setting, works: Mapping[int, Callable[[], Any]]) -> tuple[int, Any, float]:
    """Batch size, result and seconds of the fastest; sizes grow until memory runs out or one is clearly slower."""
    best: tuple[int, Any, float] | None = None
    for size, work in works.items():
        try:
            result, seconds = _timed(replace(setting, rounds=1), work)
        except torch.OutOfMemoryError:
            free()
            break
        if best is None or seconds < best[2]:
            best = size, result, seconds
        elif seconds > 1.15 * best[2]:
            break
    assert best is not None, "the smallest batch fits"
    return best


def _likeliest(values: Sequence[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)
