"""Writes the tables of docs/performance.md on what a card holds, from the memory model; no weight and no GPU is needed.

`--check` says whether the page is out of date instead.
"""

import bisect
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import transformers

from afp_ray.config import TrainingRuntime, TrialConfig, nest
from afp_ray.planning.memory import MemoryModel, memory_model, usable_bytes

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
BEGIN, END = "<!-- computed by tools/memory_tables.py -->", "<!-- end of what is computed -->"
GB = 10**9
CARDS = (24, 48, 80)
LENGTH, BATCH, MANY = 256, 16, 4096
MODELS: dict[str, Any] = {
    "564M (XGLM)": lambda: transformers.XGLMConfig(
        vocab_size=256_008, d_model=1024, num_layers=24, attention_heads=16, ffn_dim=4096
    ),
    "1.7B (BLOOM)": lambda: transformers.BloomConfig(vocab_size=250_880, hidden_size=2048, n_layer=24, n_head=16),
    "7B (Llama)": lambda: transformers.LlamaConfig(vocab_size=32_000, num_hidden_layers=32),
}
FORMS: dict[str, dict[str, Any]] = {
    "`bf16`": {"training.precision": "bf16"},
    "`bf16_resident`": {"training.precision": "bf16_resident"},
    "`bf16_resident`, `optimizer_in_backward`": {
        "training.precision": "bf16_resident",
        "training.optimizer_in_backward": True,
        "training.max_grad_norm": None,
    },
    "`bf16`, `lora` of rank 16": {"training.precision": "bf16", "training.lora.rank": 16},
}


def tables() -> str:
    """One table of what stands and of the published batch, one of the largest micro-batches."""
    models = dict(_models())
    names = " | ".join(f"{card} GB" for card in CARDS)
    peaks = [
        f"| weights | form of training | standing | a step of {BATCH} and {BATCH} | with `gradient_checkpointing` |",
        "|---|---|---|---|---|",
    ]
    largest = [f"| weights | form of training | {names} |", f"|---|---|{'---|' * len(CARDS)}"]
    for (weights, form), model in models.items():
        again = replace(model, runtime=TrainingRuntime(gradient_checkpointing=True))
        standing = model.standing + model.gradients(model.asked)
        cells = [standing, *(one.peak(one.asked) for one in (model, again))]
        peaks.append(f"| {weights} | {form} | {' | '.join(f'{cell / GB:.1f} GB' for cell in cells)} |")
        fits = [f"{_rows(model, card)} / {_rows(again, card)}" for card in CARDS]
        largest.append(f"| {weights} | {form} | {' | '.join(fits)} |")
    return "\n".join([*peaks, "", LARGEST, "", *largest])


LARGEST = (
    "Instructions of the largest pass (`runtime.micro_batch_size`) that fits a card, without / with\n"
    "`runtime.gradient_checkpointing`; 0 where not one fits:"
)


def _models() -> Iterator[tuple[tuple[str, str], MemoryModel]]:
    counted: dict[tuple[str, str], MemoryModel] = {}  # the form of updates changes nothing that a forward saves
    for weights, shape in MODELS.items():
        for form, fields in FORMS.items():
            rows = {"training.batch_size": BATCH, "training.max_length": LENGTH}
            config = TrialConfig.model_validate(nest({**rows, **fields}))
            key = (weights, f"{config.training.precision} {config.training.lora}")
            if key not in counted:
                counted[key] = memory_model(config, TrainingRuntime(), shape=shape())
            yield (weights, form), replace(counted[key], config=config)


def _rows(model: MemoryModel, card: int) -> int:
    """Instructions of the largest pass of a large batch, or of the largest batch in one pass where that is more."""
    limit = usable_bytes(card * GB)
    largest = _with_batch(model, MANY).largest(limit)
    sizes = range(1, MANY + 1)
    in_one_pass = bisect.bisect_right(sizes, limit, key=lambda size: _peak_of_one_pass(model, size))
    return max(in_one_pass, largest.instructions if largest is not None else 0)


def _peak_of_one_pass(model: MemoryModel, size: int) -> int:
    whole = _with_batch(model, size)
    return whole.peak(whole.whole)


def _with_batch(model: MemoryModel, size: int) -> MemoryModel:
    training = model.config.training.model_copy(update={"batch_size": size, "pair_batch_size": BATCH})
    return replace(model, config=model.config.model_copy(update={"training": training}))


def page_with(text: str) -> str:
    """The page with these tables in their place."""
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    return f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}"


def main() -> int:
    """Write the page, or compare it."""
    page = page_with(tables())
    if "--check" in sys.argv[1:]:
        is_current = page == PAGE.read_text("utf-8")
        sys.stderr.write("" if is_current else f"{PAGE.name} is out of date: python tools/memory_tables.py\n")
        return 0 if is_current else 1
    PAGE.write_text(page, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
