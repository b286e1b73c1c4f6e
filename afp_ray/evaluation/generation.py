"""Texts that a causal language model writes after prompts: in batches, greedy or drawn.

Each text is the one that `generate` of transformers writes after its prompt alone. Where that is not so of prompts of
different lengths side by side, tried on a few tokens or known of the model, `generate` writes it.

Shapes: B rows of a batch, T tokens of the longest prompt, V vocabulary.
"""

import hashlib
import math
import random
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from afp_ray.errors import ModelError, TaskError
from afp_ray.evaluation.beginnings import beginnings
from afp_ray.evaluation.continuous_batching import ON_DEVICE, ContinuousBatch, Pace, Row
from afp_ray.evaluation.questions import SEPARATOR
from afp_ray.evaluation.scoring import max_positions
from afp_ray.evaluation.workers import Workers
from afp_ray.models.decoding import Decoder, fork, left_padded
from afp_ray.models.decoding_limits import DecodingLimits, find_limits
from afp_ray.models.plain_generation import (
    refused_where_impossible,
    row_processors,
    stated_changes,
    write_by_library,
)
from afp_ray.models.slots import Slots, Step

_Prefill = Callable[[Sequence[Row]], tuple[Tensor, Any, Tensor]]
_MAX_CACHE, _MAX_CACHE_ELSEWHERE = 1 << 28, 1 << 33
"""Bytes of keys and values of a batch, on a CPU and elsewhere."""
_WINDOW = 8
"""Last tokens of a row that are looked at for a stop; a stop is shorter than they are."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a text is written after.

    Attributes:
        demonstrations: answered prompts, first to last.
        question: the prompt itself.
    """

    demonstrations: tuple[str, ...]
    question: str


class TextGenerator:
    """Writes texts with one model and tokenizer.

    Args:
        model: a causal LM; used as it stands, in evaluation mode.
        tokenizer: its tokenizer.
        max_new_tokens: longest text, in tokens.
        temperature: divisor of the logits, 0 for the likeliest token.
        top_p: probability of the likeliest tokens that are drawn from.
        seed: of the draws; each prompt has draws of its own, whatever else is in the batch.
        max_batch_tokens: tokens of a padded batch, new ones included; null takes 16,384 on a CPU and 131,072 elsewhere.
        pace: how steps of decoding follow each other; null takes what suits the device.
        capture: makes of a step of decoding one that is cheaper to run, as `cuda_graphs`; null runs each as it is.

    Attributes:
        warnings: what was run in another way than was asked for.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        max_batch_tokens: int | None = None,
        pace: Pace | None = None,
        capture: Callable[[Step], Step] | None = None,
    ) -> None:
        self.model, self.tokenizer = cast(Any, model), tokenizer
        self.device = next(model.parameters()).device
        self.max_new_tokens, self.temperature, self.top_p, self.seed = max_new_tokens, temperature, top_p, seed
        self.max_batch_tokens = max_batch_tokens or (16_384 if self.device.type == "cpu" else 131_072)
        self.pace, self._capture = pace or (Pace() if self.device.type == "cpu" else ON_DEVICE), capture
        self.max_prompt_tokens = max_positions(model) - max_new_tokens
        if self.max_prompt_tokens < 1:
            raise TaskError(
                f"{max_new_tokens} new tokens leave no room for a prompt",
                where="evaluation.generation.max_new_tokens",
                allowed=f"1 to {max_positions(model) - 1}",
                fix="lower it",
            )
        self.separator = _separator(tokenizer)
        self.ends = _ends(model, tokenizer)
        self.num_without_demonstrations = self.num_truncated = self.num_capped = 0
        self.warnings: list[str] = []
        self._decoder = Decoder(self.model)
        self._processors = row_processors(stated_changes(model))
        self._limits: DecodingLimits | None = None
        self._slots: Slots | None = None

    def generate(
        self, prompts: Sequence[Prompt], *, stop: Sequence[str] = (), workers: Workers | None = None
    ) -> list[str]:
        """The text written after each prompt, without white space around it.

        What prompts share at their beginning, as the demonstrations of a cell, runs through the model once.

        A text ends at end-of-sequence, at the cap, or before the first of `stop` that follows its first visible
        character. What else is asked for does not change a text, beyond float rounding. A prompt that is too long for
        the model loses demonstrations, first ones first (`num_without_demonstrations` counts such prompts), then tokens
        on the left (`num_truncated`); `num_capped` counts texts that reached the cap.

        Args:
            prompts: in any order; equal ones are run once.
            stop: texts that end an answer.
            workers: those that write a part each, with equal weights and prompts; null leaves all of it to this one.
        Returns: one text per prompt, "" where the model ended at once; equal on every worker.
        Raises: ModelError when the logits are not finite.
        """
        workers = workers or Workers()
        encoded = [self._encode(prompt) for prompt in prompts]
        unique = sorted(set(encoded), key=lambda ids: (len(ids), ids))
        owners = [index % workers.number for index in range(len(unique))]  # none has the long ones alone
        written = dict(zip(unique, workers.divide(unique, owners, partial(self._write_all, stop=stop)), strict=True))
        self.num_capped += sum(not written[ids][1] for ids in encoded)
        return [written[ids][0] for ids in encoded]

    @property
    def limits(self) -> DecodingLimits:
        """What the first prompts found out of the model."""
        if self._limits is None:
            with refused_where_impossible(self.model):
                self._limits = find_limits(self._decoder, changes_row_by_row=self._processors is not None)
        return self._limits

    @property
    def _budget(self) -> int:
        """Tokens of a batch, new ones included."""
        limit = _MAX_CACHE if self.device.type == "cpu" else _MAX_CACHE_ELSEWHERE
        return min(self.max_batch_tokens, limit // max(1, self.limits.token_bytes))

    def _write_all(self, prompts: Sequence[tuple[int, ...]], *, stop: Sequence[str]) -> list[tuple[str, bool]]:
        """The text after each of distinct prompts, and whether it ended before the cap."""
        rows = {ids: Row(ids, self._draws(ids), []) for ids in prompts}
        was_training = self.model.training
        self.model.eval()
        try:
            with torch.inference_mode():
                limits = self.limits
                beside = [row for row in rows.values() if len(row.ids) + self.max_new_tokens <= limits.longest_beside]
                for depth, members in self._groups(beside):
                    beginning = left_padded([members[0].ids[:depth]], self.device) if depth else None
                    past = self._decoder.forward(*beginning, None)[1] if beginning else None
                    prefill = partial(self._prefill, depth=depth, shared=past)
                    if all(len(row.ids) + self.max_new_tokens <= limits.longest_in_slots for row in members):
                        self._write_in_slots(members, tuple(stop), prefill)
                        continue
                    for batch in self._batches(members, may_pad=limits.may_pad):
                        self._write(batch, tuple(stop), prefill)
                others = [row for row in rows.values() if len(row.ids) + self.max_new_tokens > limits.longest_beside]
                for batch in self._batches(others, may_pad=False):
                    for first in range(0, len(batch), limits.most_rows):
                        self._write_plain(batch[first : first + limits.most_rows], tuple(stop))
        finally:
            self.model.train(was_training)
            if self._capture is None:
                self._slots = None  # nothing is bound to their addresses
        return [(self._text(row, stop), row.is_done) for row in rows.values()]

    def _encode(self, prompt: Prompt) -> tuple[int, ...]:
        """Tokens of the demonstrations that fit and of the question."""
        for first in range(len(prompt.demonstrations) + 1):
            ids = self._tokenise(self.separator.join([*prompt.demonstrations[first:], prompt.question]))
            if len(ids) <= self.max_prompt_tokens:
                break
        self.num_without_demonstrations += first > 0
        if len(ids) > self.max_prompt_tokens:
            self.num_truncated += 1
            ids = ids[-self.max_prompt_tokens :]
        return ids

    def _tokenise(self, text: str) -> tuple[int, ...]:
        ids = list(self.tokenizer(text, verbose=False)["input_ids"])
        end = self.tokenizer.eos_token_id
        if len(ids) > 1 and end is not None and ids[-1] == end and not text.endswith(self.tokenizer.eos_token):
            ids.pop()  # some tokenizers close every text, and an answer must follow
        return tuple(ids)

    def _draws(self, ids: tuple[int, ...]) -> random.Random:
        return random.Random(hashlib.sha256(f"{self.seed} {ids}".encode()).hexdigest())  # noqa: S311

    def _groups(self, rows: Collection[Row]) -> Iterator[tuple[int, list[Row]]]:
        """Rows by the tokens that they share at their beginning; 0 for those that are run whole."""
        by_ids = {row.ids: row for row in rows}
        short = [ids for ids in by_ids if len(ids) + self.max_new_tokens <= self.limits.longest_shared]
        for depth, members in beginnings(short):
            yield depth, [by_ids[ids] for ids in members]
        if long := [row for ids, row in by_ids.items() if len(ids) + self.max_new_tokens > self.limits.longest_shared]:
            yield 0, long

    def _batches(self, rows: Sequence[Row], *, may_pad: bool) -> Iterator[list[Row]]:
        """Rows of similar length, longest first, within the budgets; of equal length where they may not be padded."""
        batch: list[Row] = []
        width = 0
        for row in sorted(rows, key=lambda row: (-len(row.ids), row.ids)):
            if batch and (
                (len(batch) + 1) * width > self._budget or not (may_pad or len(row.ids) == len(batch[0].ids))
            ):
                yield batch
                batch = []
            if not batch:
                width = len(row.ids) + self.max_new_tokens
            batch.append(row)
        if batch:
            yield batch

    def _prefill(self, rows: Sequence[Row], *, depth: int, shared: Any) -> tuple[Tensor, Any, Tensor]:
        """Logits, keys and values of prompts, and their mask; `shared` holds the first `depth` tokens of each."""
        ids, mask = left_padded([row.ids[depth:] for row in rows], self.device)
        past = None
        if depth:
            past, mask = fork(shared, len(rows)), torch.cat([mask.new_ones(len(rows), depth), mask], dim=1)
        return (*self._decoder.forward(ids, mask, past), mask)

    def _write_in_slots(self, rows: Sequence[Row], stop: tuple[str, ...], prefill: _Prefill) -> None:
        """Write texts in the slots of a static cache, longest prompts first."""
        waiting = sorted(rows, key=lambda row: (-len(row.ids), row.ids))
        pace = self.pace if not self._processors else replace(self.pace, lag=0)  # they look at what was written
        while waiting:
            longest = len(waiting[0].ids) + self.max_new_tokens
            longest_of_all = min(self.limits.longest_in_slots, self.max_prompt_tokens + self.max_new_tokens)
            places = min(math.ceil(longest / pace.places) * pace.places, longest_of_all)
            members = waiting
            if self._num_slots(waiting) < len(waiting):  # prompts less than half as long would leave much of a slot
                members = [row for row in waiting if 2 * (len(row.ids) + self.max_new_tokens) > longest]
            waiting, number = waiting[len(members) :], self._num_slots(members)
            ContinuousBatch(
                self._slots_of(math.ceil(number / pace.rows) * pace.rows, places),
                max_new_tokens=self.max_new_tokens,
                prefill=prefill,
                choose=self._next,
                append=partial(self._append, stop=stop),
                pace=pace,
            ).write(members)

    def _num_slots(self, rows: Sequence[Row]) -> int:
        """How many texts stand side by side: by their mean length within the budget, and as many in every round."""
        number = max(1, self._budget * len(rows) // sum(len(row.ids) + self.max_new_tokens for row in rows))
        return math.ceil(len(rows) / math.ceil(len(rows) / number))

    def _slots_of(self, number: int, places: int) -> Slots:
        """At least so many slots, of at least so many places: those of the last texts where they do."""
        slots = self._slots
        if slots is not None and slots.number >= number and slots.places >= places:
            return slots
        if slots is not None and max(slots.number, number) * max(slots.places, places) <= self._budget:
            number, places = max(slots.number, number), max(slots.places, places)
        capture = None if self.warnings else self._capture  # what failed once is not tried again
        states, options = self.limits.token_states, {"number": number, "places": places}
        self._slots = Slots(self._decoder, states, **options, capture=capture, warnings=self.warnings)
        return self._slots

    def _write(self, rows: list[Row], stop: tuple[str, ...], prefill: _Prefill) -> None:
        """Write the texts of one batch to the end of the longest."""
        logits, past, mask = prefill(rows)
        for step in range(self.max_new_tokens):
            chosen = self._step(self._next(logits, rows), rows, stop)
            going_on = [index for index, row in enumerate(rows) if not row.is_done]
            if not going_on or step + 1 == self.max_new_tokens:
                return
            # Rows that are done still cost their share of every step, and taking them out costs a copy.
            if len(going_on) <= 0.75 * len(rows) and hasattr(past, "batch_select_indices"):
                left = torch.tensor(going_on, device=self.device)
                past.batch_select_indices(left)
                chosen, mask, rows = chosen[left], mask[left], [rows[index] for index in going_on]
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
            logits, past = self._decoder.forward(chosen[:, None], mask, past)

    def _write_plain(self, rows: list[Row], stop: tuple[str, ...]) -> None:
        """Write the texts of rows of equal length by the library."""

        def step(scores: Tensor) -> tuple[Tensor, list[bool]]:
            if bool(scores.isnan().any() | scores.isposinf().any() | scores.isneginf().all(dim=-1).any()):
                raise _not_finite()
            chosen = self._step(self._choose(scores, rows), rows, stop)
            return chosen, [row.is_done for row in rows]

        options: dict[str, Any] = {"ends": sorted(self.ends), "max_new_tokens": self.max_new_tokens}
        write_by_library(self.model, [row.ids for row in rows], step=step, **options)

    def _next(self, logits: Tensor, rows: Sequence[Row | None]) -> Tensor:
        """(B,) next token of each row, after what generation_config.json makes of its logits; -1 where none is."""
        is_finite = logits.isfinite().all(dim=-1)
        if self._processors:
            logits = logits.clone()
            for index, row in enumerate(rows):
                if row is not None:
                    text = torch.tensor([[*row.ids, *row.written]], device=self.device)
                    logits[index] = self._processors(text, logits[index][None])[0]
        return self._choose(logits, rows).masked_fill(~is_finite, -1)

    def _step(self, chosen: Tensor, rows: Sequence[Row], stop: tuple[str, ...]) -> Tensor:
        """The tokens chosen, which are added to their rows."""
        for row, token in zip(rows, chosen.tolist(), strict=True):
            if not row.is_done:
                self._append(row, token, stop=stop)
        return chosen

    def _append(self, row: Row, token: int, *, stop: tuple[str, ...]) -> None:
        if token < 0:
            raise _not_finite()
        if token in self.ends:
            row.is_done = True
            return
        row.written.append(token)
        if stop and any(text in self._decode(row.written[-_WINDOW:]) for text in stop):
            row.is_done = self._stop_index(self._decode(row.written).lstrip(), stop) is not None

    def _choose(self, logits: Tensor, rows: Sequence[Row | None]) -> Tensor:
        """(B,) next token of each row: the likeliest, or one drawn among the likeliest that have `top_p` together."""
        if self.temperature == 0:
            return logits.argmax(dim=-1)
        ranked, order = torch.softmax(logits.double() / self.temperature, dim=-1).sort(
            dim=-1, descending=True, stable=True
        )
        before = ranked.cumsum(dim=-1) - ranked
        ranked = ranked.masked_fill(before >= self.top_p, 0.0)
        draws = torch.tensor([0.0 if row is None else row.draws.random() for row in rows], dtype=torch.double)
        if self.device.type == "cuda":
            draws = draws.pin_memory()  # else the host would wait for the steps before
        reached = ranked.cumsum(dim=-1)
        draws = draws.to(reached.device, non_blocking=True)
        rank = torch.searchsorted(reached, (draws * reached[:, -1])[:, None], right=True)
        rank = torch.minimum(rank, (ranked > 0).sum(dim=-1, keepdim=True) - 1)  # rounding may reach beyond the last
        return order.gather(1, rank)[:, 0]

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    @staticmethod
    def _stop_index(text: str, stop: Sequence[str]) -> int | None:
        starts = [start for word in stop if (start := text.find(word)) >= 0]
        return min(starts, default=None)

    def _text(self, row: Row, stop: Sequence[str]) -> str:
        text = self._decode(row.written).lstrip()
        return text[: self._stop_index(text, stop)].strip()


def _not_finite() -> ModelError:
    return ModelError(
        "the logits are not finite",
        allowed="finite numbers",
        fix="the weights hold NaN or infinities: lower training.learning_rate, or check the checkpoint",
    )


def _separator(tokenizer: Any) -> str:
    """What parts demonstrations: an empty line, or end-of-sequence where the tokenizer knows no line end (XGLM)."""
    line, space = (tokenizer(f"a{between}b", add_special_tokens=False)["input_ids"] for between in ("\n", " "))
    return SEPARATOR if line != space or not tokenizer.eos_token else str(tokenizer.eos_token)


def _ends(model: Any, tokenizer: Any) -> frozenset[int]:
    """Ids that end a text."""
    stated = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    many = stated if isinstance(stated, list) else [stated]
    return frozenset(int(token) for token in (*many, tokenizer.eos_token_id) if token is not None)
