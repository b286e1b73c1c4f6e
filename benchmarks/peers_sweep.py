"""The trials of a sweep as a user of other tools writes them: Hugging Face's Trainer under Ray Tune or under Optuna.

Rows and questions come from the folder that `benchmarks/sweep.py` prepares and are tokenised once for all trials. A
trial loads the model, trains with padded rows, and scores every choice in batches of 32 sorted by length. Nothing is
saved and nothing is logged to a tracking server. Ray Tune keeps its default of a new worker process for each trial.

Usage: PYTHONPATH=. python benchmarks/peers_sweep.py {ray,optuna} FOLDER
"""

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

BATCH_SIZE = 32
"""Rows of a scoring batch: one of the fastest for a model of this size on a CPU."""
IGNORED = -100


def read_work(folder: Path) -> dict[str, Any]:
    """What `benchmarks/sweep.py` has prepared: model, steps, learning rates, rows and questions."""
    found: dict[str, Any] = json.loads((folder / "work.json").read_text())
    return found


def tokenize(work: dict[str, Any]) -> dict[str, Any]:
    """`work` with the token ids of its rows and choices; prompts are not supervised."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(work["model"])
    rows = []
    for row in work["rows"]:
        prompt = tokenizer(row["prompt"])["input_ids"]
        ids = tokenizer(row["prompt"] + row["joint"] + row["response"])["input_ids"]
        ids = (ids if ids[-1] == tokenizer.eos_token_id else [*ids, tokenizer.eos_token_id])[: work["max_length"]]
        shared = 0
        while shared < min(len(prompt), len(ids)) and prompt[shared] == ids[shared]:
            shared += 1
        rows.append({"input_ids": ids, "labels": [IGNORED] * shared + ids[shared:]})
    questions = [
        [_choice(tokenizer, context, continuation) for context, continuation in question["choices"]]
        for question in work["questions"]
    ]
    return {**work, "rows": rows, "questions": questions, "golds": [question["gold"] for question in work["questions"]]}


def _choice(tokenizer: Any, context: str, continuation: str) -> tuple[list[int], int]:
    """Ids of a context and its continuation, and how many of them are the context's."""
    spaces = len(context) - len(context.rstrip())
    if spaces:  # as lm-evaluation-harness does: trailing white space belongs to the continuation
        context, continuation = context[:-spaces], context[-spaces:] + continuation
    whole = tokenizer(context + continuation)["input_ids"]
    return whole, len(tokenizer(context)["input_ids"])


def run_trial(work: dict[str, Any], learning_rate: float) -> dict[str, float]:
    """Train and score one learning rate.

    Returns: the mean training loss over the last tenth of the steps, in nats, and the accuracy over all questions.
    """
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    started = time.time()
    model = transformers.AutoModelForCausalLM.from_pretrained(work["model"], dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(work["model"])
    trainer = _trainer(work, learning_rate, model, tokenizer)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    accuracy = _accuracy(model.eval(), work["questions"], work["golds"], padding=tokenizer.pad_token_id)
    return {
        "learning_rate": learning_rate,
        "loss": losses[-1],
        "accuracy": accuracy,
        "started": started,
        "ended": time.time(),
    }


def _trainer(work: dict[str, Any], learning_rate: float, model: Any, tokenizer: Any) -> Any:
    from torch.utils.data import SequentialSampler
    from transformers import DataCollatorForSeq2Seq, PrinterCallback, Trainer, TrainingArguments

    class InOrder(Trainer):  # type: ignore[misc]
        """Takes the rows as they come: they were shuffled when they were prepared."""

        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            return SequentialSampler(train_dataset if train_dataset is not None else self.train_dataset)

    steps = work["steps"]
    arguments = TrainingArguments(
        output_dir=os.path.join(work["folder"], f"trainer-{learning_rate:g}"),
        per_device_train_batch_size=work["batch_size"],
        max_steps=steps,
        learning_rate=learning_rate,
        lr_scheduler_type="constant",
        optim="adamw_torch_fused",
        weight_decay=0.0,
        max_grad_norm=1.0,
        logging_steps=max(1, steps // 10),
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        seed=0,
    )
    collator = DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=IGNORED)
    trainer = InOrder(model=model, args=arguments, train_dataset=work["rows"], data_collator=collator)
    trainer.remove_callback(PrinterCallback)
    return trainer


def _accuracy(
    model: Any, questions: Sequence[Sequence[tuple[list[int], int]]], golds: Sequence[int], *, padding: int
) -> float:
    """Share of the questions whose right choice is the likeliest."""
    import torch
    import torch.nn.functional as F

    rows = [(number, *choice) for number, question in enumerate(questions) for choice in question]
    order = sorted(range(len(rows)), key=lambda row: -len(rows[row][1]))
    values = [0.0] * len(rows)
    with torch.inference_mode():
        for first in range(0, len(order), BATCH_SIZE):
            part = order[first : first + BATCH_SIZE]
            longest = max(len(rows[row][1]) for row in part)
            ids = torch.tensor([rows[row][1] + [padding] * (longest - len(rows[row][1])) for row in part])
            mask = torch.tensor([[1] * len(rows[row][1]) + [0] * (longest - len(rows[row][1])) for row in part])
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float()
            for place, row in enumerate(part):
                _, tokens, start = rows[row]
                found = F.log_softmax(logits[place, start - 1 : len(tokens) - 1], dim=-1)
                values[row] = float(found.gather(1, torch.tensor(tokens[start:])[:, None]).sum())
    by_question: dict[int, list[float]] = {}
    for (number, _, _), value in zip(rows, values, strict=True):
        by_question.setdefault(number, []).append(value)
    right = [max(range(len(own)), key=own.__getitem__) == golds[number] for number, own in by_question.items()]
    return sum(right) / len(right)


def with_optuna(work: dict[str, Any]) -> Iterator[dict[str, float]]:
    """All trials in this process, drawn from a grid by Optuna."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    found: list[dict[str, float]] = []

    def objective(trial: optuna.Trial) -> float:
        found.append(run_trial(work, trial.suggest_categorical("learning_rate", work["learning_rates"])))
        return found[-1]["accuracy"]

    grid = optuna.samplers.GridSampler({"learning_rate": work["learning_rates"]}, seed=0)
    optuna.create_study(direction="maximize", sampler=grid).optimize(objective, n_trials=len(work["learning_rates"]))
    yield from found


def with_ray_tune(work: dict[str, Any], *, at_once: int) -> Iterator[dict[str, float]]:
    """All trials as functions of Ray Tune, each with one CPU; rows reach them through the object store."""
    import ray
    from ray import tune

    def trial(config: dict[str, Any], work: dict[str, Any]) -> None:
        tune.report(run_trial(work, config["learning_rate"]))

    ray.init(num_cpus=at_once, include_dashboard=False, log_to_driver=False)
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(trial, work=work), {"cpu": 1}),
        param_space={"learning_rate": tune.grid_search(work["learning_rates"])},
        tune_config=tune.TuneConfig(metric="accuracy", mode="max", max_concurrent_trials=at_once),
        run_config=tune.RunConfig(name="peer", storage_path=os.path.join(work["folder"], "tune"), verbose=0),
    )
    for result in tuner.fit():
        yield {name: result.metrics[name] for name in ("learning_rate", "loss", "accuracy", "started", "ended")}
    ray.shutdown()


def main(arguments: list[str]) -> int:
    """Run one of the two and leave `NAME.json` in the folder."""
    name, folder = arguments[0], Path(arguments[1])
    work = tokenize(read_work(folder))
    found = list(with_ray_tune(work, at_once=work["at_once"]) if name == "ray" else with_optuna(work))
    (folder / f"{name}.json").write_text(json.dumps(found))
    return 0


if __name__ == "__main__":
    from benchmarks import peers_sweep  # so that Ray's workers import the trial instead of unpickling its text

    sys.exit(peers_sweep.main(sys.argv[1:]))
