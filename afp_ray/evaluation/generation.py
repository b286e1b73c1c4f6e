"""Texts that a causal language model writes after prompts: in batches, greedy or drawn.

Each text is the one that `generate` of transformers writes after its prompt alone. Where that is not so of prompts of
different lengths side by side, tried on a few tokens or known of the model, `generate` writes it.

Shapes: B rows of a batch, T tokens of the longest prompt, V vocabulary.
"""

import copy
import hashlib
import inspect
import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from afp_ray.errors import ModelError, TaskError
from afp_ray.evaluation.beginnings import beginnings
from afp_ray.evaluation.questions import SEPARATOR
from afp_ray.evaluation.scoring import max_positions
from afp_ray.evaluation.workers import Workers
from afp_ray.models.lengths import is_of_library
from afp_ray.models.packing import lengths_of
from afp_ray.models.plain_generation import (
    is_of_transformers,
    most_rows,
    refused_where_impossible,
    row_processors,
    stated_changes,
    write_by_library,
)
from afp_ray.models.stated_lengths import UNENDING, Lengths

_MAX_CACHE, _MAX_CACHE_ELSEWHERE = 1 << 28, 1 << 33
"""Bytes of keys and values of a batch, on a CPU and elsewhere."""
_WINDOW = 8
"""Last tokens of a row that are looked at for a stop; a stop is shorter than they are."""
_PLAIN_LAYERS = ("DynamicLayer", "DynamicSlidingWindowLayer")
"""Kinds of keys and values that can be handed to several rows."""
_WINDOWS = ("sliding_window", "window_size", "attention_window_size", "attention_chunk_size", "local_attention")
"""Fields that families give the tokens of a window in."""
_PADDING = 0
"""Any id will do: padding is masked."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a text is written after.

    Attributes:
        demonstrations: answered prompts, first to last.
        question: the prompt itself.
    """

    demonstrations: tuple[str, ...]
    question: str


@dataclass(slots=True)
class _Row:
    """A prompt on its way: its tokens, its draws and what it has written."""

    ids: tuple[int, ...]
    draws: random.Random
    written: list[int]
    is_done: bool = False


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
    ) -> None:
        self.model, self.tokenizer = cast(Any, model), tokenizer
        self.device = next(model.parameters()).device
        self.max_new_tokens, self.temperature, self.top_p, self.seed = max_new_tokens, temperature, top_p, seed
        self.max_batch_tokens = max_batch_tokens or (16_384 if self.device.type == "cpu" else 131_072)
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
        names = inspect.signature(model.forward).parameters
        self._takes_positions = "position_ids" in names
        self._last_only: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in names else {}
        self._has_library = is_of_transformers(model)
        self._processors = row_processors(stated_changes(model))
        self._may_pad: bool | None = None
        self._token_bytes = self._longest_shared = self._longest_beside = 0
        self._most_rows = UNENDING

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

    def _write_all(self, prompts: Sequence[tuple[int, ...]], *, stop: Sequence[str]) -> list[tuple[str, bool]]:
        """The text after each of distinct prompts, and whether it ended before the cap."""
        rows = {ids: _Row(ids, self._draws(ids), []) for ids in prompts}
        was_training = self.model.training
        self.model.eval()
        try:
            with torch.inference_mode():
                if self._may_pad is None:
                    with refused_where_impossible(self.model):
                        self._try_out()
                beside = [row for row in rows.values() if len(row.ids) + self.max_new_tokens <= self._longest_beside]
                for depth, members in self._groups(beside):
                    past = (
                        self._forward(*_left_padded([members[0].ids[:depth]], self.device), None)[1] if depth else None
                    )
                    for batch in self._batches(members, may_pad=self._may_pad is True):
                        self._write(batch, tuple(stop), depth, past)
                others = [row for row in rows.values() if len(row.ids) + self.max_new_tokens > self._longest_beside]
                for batch in self._batches(others, may_pad=False):
                    for first in range(0, len(batch), self._most_rows):
                        self._write_plain(batch[first : first + self._most_rows], tuple(stop))
        finally:
            self.model.train(was_training)
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

    def _groups(self, rows: Collection[_Row]) -> Iterator[tuple[int, list[_Row]]]:
        """Rows by the tokens that they share at their beginning; 0 for those that are run whole."""
        by_ids = {row.ids: row for row in rows}
        short = [ids for ids in by_ids if len(ids) + self.max_new_tokens <= self._longest_shared]
        for depth, members in beginnings(short):
            yield depth, [by_ids[ids] for ids in members]
        if long := [row for ids, row in by_ids.items() if len(ids) + self.max_new_tokens > self._longest_shared]:
            yield 0, long

    def _batches(self, rows: Sequence[_Row], *, may_pad: bool) -> Iterator[list[_Row]]:
        """Rows of similar length, longest first, within the budgets; of equal length where they may not be padded."""
        limit = _MAX_CACHE if self.device.type == "cpu" else _MAX_CACHE_ELSEWHERE
        batch: list[_Row] = []
        width = 0
        for row in sorted(rows, key=lambda row: (-len(row.ids), row.ids)):
            tokens = (len(batch) + 1) * width
            is_full = tokens > self.max_batch_tokens or tokens * self._token_bytes > limit
            if batch and (is_full or not (may_pad or len(row.ids) == len(batch[0].ids))):
                yield batch
                batch = []
            if not batch:
                width = len(row.ids) + self.max_new_tokens
            batch.append(row)
        if batch:
            yield batch

    def _write(self, rows: list[_Row], stop: tuple[str, ...], depth: int, shared: Any) -> None:
        """Write the texts of one batch; `shared` holds the keys and values of the first `depth` tokens of every row."""
        ids, mask = _left_padded([row.ids[depth:] for row in rows], self.device)
        past = None
        if depth:
            past, mask = _fork(shared, len(rows)), torch.cat([mask.new_ones(len(rows), depth), mask], dim=1)
        for step in range(self.max_new_tokens):
            logits, past = self._forward(ids, mask, past)
            if not bool(torch.isfinite(logits).all()):
                raise _not_finite()
            chosen = self._step(self._changed(logits, rows), rows, stop)
            going_on = [index for index, row in enumerate(rows) if not row.is_done]
            if not going_on or step + 1 == self.max_new_tokens:
                return
            # Rows that are done still cost their share of every step, and taking them out costs a copy.
            if len(going_on) <= 0.75 * len(rows) and hasattr(past, "batch_select_indices"):
                left = torch.tensor(going_on, device=self.device)
                past.batch_select_indices(left)
                chosen, mask, rows = chosen[left], mask[left], [rows[index] for index in going_on]
            ids = chosen[:, None]
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)

    def _write_plain(self, rows: list[_Row], stop: tuple[str, ...]) -> None:
        """Write the texts of rows of equal length by the library."""

        def step(scores: Tensor) -> tuple[Tensor, list[bool]]:
            if bool(scores.isnan().any() | scores.isposinf().any() | scores.isneginf().all(dim=-1).any()):
                raise _not_finite()
            chosen = self._step(scores, rows, stop)
            return chosen, [row.is_done for row in rows]

        options: dict[str, Any] = {"ends": sorted(self.ends), "max_new_tokens": self.max_new_tokens}
        write_by_library(self.model, [row.ids for row in rows], step=step, **options)

    def _changed(self, logits: Tensor, rows: Sequence[_Row]) -> Tensor:
        """(B, V) logits after what generation_config.json makes of each row's."""
        if not self._processors:
            return logits
        texts = (torch.tensor([[*row.ids, *row.written]], device=self.device) for row in rows)
        return torch.cat([self._processors(ids, row[None]) for ids, row in zip(texts, logits, strict=True)])

    def _step(self, logits: Tensor, rows: Sequence[_Row], stop: tuple[str, ...]) -> Tensor:
        """(B,) next token of each row, which is added to it."""
        chosen = self._choose(logits, rows)
        for row, token in zip(rows, chosen.tolist(), strict=True):
            self._append(row, token, stop)
        return chosen

    def _append(self, row: _Row, token: int, stop: tuple[str, ...]) -> None:
        if row.is_done:
            return
        if token in self.ends:
            row.is_done = True
            return
        row.written.append(token)
        if stop and any(text in self._decode(row.written[-_WINDOW:]) for text in stop):
            row.is_done = self._stop_index(self._decode(row.written).lstrip(), stop) is not None

    def _forward(self, ids: Tensor, mask: Tensor, past: Any) -> tuple[Tensor, Any]:
        """(B, V) logits of the next token, and keys and values with those of `ids` added."""
        options: dict[str, Any] = dict(self._last_only)
        if self._takes_positions:
            options["position_ids"] = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        out = self.model(input_ids=ids, attention_mask=mask, past_key_values=past, use_cache=True, **options)
        return out.logits[:, -1].float(), getattr(out, "past_key_values", None)

    def _choose(self, logits: Tensor, rows: Sequence[_Row]) -> Tensor:
        """(B,) next token of each row: the likeliest, or one drawn among the likeliest that have `top_p` together."""
        if self.temperature == 0:
            return logits.argmax(dim=-1)
        ranked, order = torch.softmax(logits.double() / self.temperature, dim=-1).sort(
            dim=-1, descending=True, stable=True
        )
        before = ranked.cumsum(dim=-1) - ranked
        ranked = ranked.masked_fill(before >= self.top_p, 0.0)
        draws = torch.tensor([row.draws.random() for row in rows], dtype=torch.double, device=self.device)
        reached = ranked.cumsum(dim=-1)
        rank = torch.searchsorted(reached, (draws * reached[:, -1])[:, None], right=True)
        rank = torch.minimum(rank, (ranked > 0).sum(dim=-1, keepdim=True) - 1)  # rounding may reach beyond the last
        return order.gather(1, rank)[:, 0]

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    @staticmethod
    def _stop_index(text: str, stop: Sequence[str]) -> int | None:
        starts = [start for word in stop if (start := text.find(word)) >= 0]
        return min(starts, default=None)

    def _text(self, row: _Row, stop: Sequence[str]) -> str:
        text = self._decode(row.written).lstrip()
        return text[: self._stop_index(text, stop)].strip()

    def _try_out(self) -> None:
        """Find out which rows may be written side by side, and which by the library alone."""
        lengths = lengths_of(self.model) if self._has_library else Lengths()
        self._may_pad, self._token_bytes = self._try_padding()
        self._longest_shared = self._try_sharing() if self._may_pad else 0
        is_proven = self._may_pad and self._processors is not None and is_of_library(self.model)
        self._longest_beside = lengths.longest_plain if is_proven or not self._has_library else 0
        if self._has_library and self._longest_beside < UNENDING:
            self._most_rows = most_rows(self.model)

    def _try_padding(self) -> tuple[bool, int]:
        """Whether a row padded on the left gives what it gives alone, now and one step on; bytes kept of one token."""
        size = int(self.model.get_input_embeddings().weight.shape[0])
        long = [1 + index % (size - 1) for index in range(9)]
        short = long[4:]
        ids, mask = _left_padded([long, short], self.device)
        padded, past = self._forward(ids, mask, None)
        layers = getattr(past, "layers", None) or ()
        if self._has_library and not _are_plain(layers):
            return False, 0
        cached = [part for layer in layers for part in (getattr(layer, "keys", None), getattr(layer, "values", None))]
        token_bytes = sum(part.nbytes for part in cached if isinstance(part, Tensor)) // ids.numel()
        after = torch.full((2, 1), 1, device=self.device)
        later, _ = self._forward(after, torch.cat([mask, mask.new_ones(2, 1)], dim=1), past)
        ids, mask = _left_padded([short], self.device)
        alone, _ = self._forward(ids, mask, None)
        ids, mask = _left_padded([[*short, 1]], self.device)
        whole, _ = self._forward(ids, mask, None)
        gaps = [float((left - right).abs().max()) for left, right in ((padded[1:], alone), (later[1:], whole))]
        return max(gaps) <= self._reach(whole), token_bytes

    def _try_sharing(self) -> int:
        """The longest text, prompt included, whose beginning may be run once for several rows; 0 for none.

        Rows are run whole and after a shared beginning, padding between the two. Layers that look at a window count
        that padding, so that texts beyond the window are run whole.
        """
        size = int(self.model.get_input_embeddings().weight.shape[0])
        long = [1 + index % (size - 1) for index in range(11)]
        rows = [long, long[:7]]
        _, past = self._forward(*_left_padded([long[:5]], self.device), None)
        layers = getattr(past, "layers", None) or ()
        if not _are_plain(layers):
            return 0
        windows = [layer.sliding_window for layer in layers if layer.is_sliding]
        config = self.model.config.get_text_config()  # some cut windows out of all that they keep (GPT-Neo)
        windows += [window for name in _WINDOWS if isinstance(window := getattr(config, name, None), int)]
        if (longest := min(windows, default=1 << 30)) < len(long) + 1:
            return 0
        ids, mask = _left_padded([row[5:] for row in rows], self.device)
        mask = torch.cat([mask.new_ones(2, 5), mask], dim=1)
        now, past = self._forward(ids, mask, _fork(past, 2))
        after = torch.full((2, 1), 1, device=self.device)
        later, _ = self._forward(after, torch.cat([mask, mask.new_ones(2, 1)], dim=1), past)
        whole, past = self._forward(*_left_padded(rows, self.device), None)
        _, mask = _left_padded([[*row, 1] for row in rows], self.device)
        expected, _ = self._forward(after, mask, past)
        gaps = [float((left - right).abs().max()) for left, right in ((now, whole), (later, expected))]
        return longest if max(gaps) <= self._reach(whole) else 0

    def _reach(self, logits: Tensor) -> float:
        """The largest difference of logits that counts as rounding."""
        exact = next(self.model.parameters()).dtype == torch.float32
        return (1e-3 if exact else 0.1) * max(1.0, float(logits.abs().max()))


def _are_plain(layers: Collection[Any]) -> bool:
    return bool(layers) and all(type(layer).__name__ in _PLAIN_LAYERS for layer in layers)


def _not_finite() -> ModelError:
    return ModelError(
        "the logits are not finite",
        allowed="finite numbers",
        fix="the weights hold NaN or infinities: lower training.learning_rate, or check the checkpoint",
    )


def _fork(past: Any, rows: int) -> Any:
    """A copy of the keys and values of one sequence for `rows` sequences."""
    copied = copy.deepcopy(past)
    copied.batch_repeat_interleave(rows)
    return copied


def _left_padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """(B, T) ids and mask; padding stands on the left, so that the next token follows every row."""
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), _PADDING, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for index, row in enumerate(rows):
        ids[index, width - len(row) :] = torch.tensor(row)
        mask[index, width - len(row) :] = 1
    return ids.to(device), mask.to(device)


def _separator(tokenizer: Any) -> str:
    """What parts demonstrations: an empty line, or end-of-sequence where the tokenizer knows no line end (XGLM)."""
    line, space = (tokenizer(f"a{between}b", add_special_tokens=False)["input_ids"] for between in ("\n", " "))
    return SEPARATOR if line != space or not tokenizer.eos_token else str(tokenizer.eos_token)


def _ends(model: Any, tokenizer: Any) -> frozenset[int]:
    """Ids that end a text."""
    stated = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    many = stated if isinstance(stated, list) else [stated]
    return frozenset(int(token) for token in (*many, tokenizer.eos_token_id) if token is not None)
