"""Summed log-likelihood of continuations given their contexts.

Shapes: R requests in a batch, T tokens of the longest, N scored positions of the batch, D hidden size, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from afp_ray.errors import ModelError, TaskError

_MAX_LOGITS = {"cpu": 1 << 20}
"""Logits held at a time by kind of device: 4 MB in float32 stay in a CPU's cache; positions beyond are projected in the
next chunk."""
_MAX_LOGITS_ELSEWHERE = 1 << 26


@dataclass(frozen=True, slots=True)
class Request:
    """A tokenised choice.

    Attributes:
        ids: token ids of context and continuation.
        start: index of the first continuation token, at least 1.
    """

    ids: tuple[int, ...]
    start: int


class ContinuationScorer:
    """Scores continuations with one model and tokenizer.

    Args:
        model: a causal LM with an output projection; used as it stands, in evaluation mode.
        tokenizer: its tokenizer.
        max_batch_tokens: tokens of a padded batch; null takes 2,048 on a CPU and 65,536 elsewhere.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, *, max_batch_tokens: int | None = None) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.device = next(model.parameters()).device
        self.max_batch_tokens = max_batch_tokens or (2048 if self.device.type == "cpu" else 65536)
        self.max_positions = max_positions(model)
        self.num_truncated = 0
        self.body, self.head = _body_and_head(model)

    def score(self, questions: Sequence[Sequence[tuple[str, str]]]) -> list[tuple[float, ...]]:
        """Log-likelihood in nats of every choice of every question, summed over continuation tokens.

        The result of a choice does not depend on what else is scored, beyond float rounding. Contexts too long for the
        model lose tokens on the left; `num_truncated` counts such choices.

        Args:
            questions: (context, continuation) pairs per question.

        Returns: one tuple of nats per question, in its order of choices.
        Raises: TaskError for a continuation without tokens or too long; ModelError for a result that is not finite.
        """
        requests = [self._fit(request) for request in self.encode(questions)]
        unique = list(dict.fromkeys(requests))
        values = dict(zip(unique, self._score_unique(unique), strict=True))
        flat = iter(requests)
        return [tuple(values[next(flat)] for _ in question) for question in questions]

    def encode(self, questions: Sequence[Sequence[tuple[str, str]]]) -> list[Request]:
        """Tokenise every choice, context and continuation together.

        The continuation starts where the tokens of the whole text leave those of the context alone, so that a merge
        across the joint belongs to the continuation. Choices of a question that share their context share that place
        too (the earliest), so that none is scored on more of the context than another. Spaces at the end of a context
        move to the continuation before.
        """
        pairs = [_move_spaces(*choice) for question in questions for choice in question]
        contexts = self._tokenise([context for context, _ in pairs])
        wholes = self._tokenise([context + continuation for context, continuation in pairs])
        starts = [_common_prefix(context, whole) for context, whole in zip(contexts, wholes, strict=True)]
        requests: list[Request] = []
        for question in questions:
            span = range(len(requests), len(requests) + len(question))
            earliest: dict[str, int] = {}
            for index in span:
                context = pairs[index][0]
                earliest[context] = min(earliest.get(context, starts[index]), starts[index])
            requests += [self._request(wholes[index], earliest[pairs[index][0]], pairs[index]) for index in span]
        return requests

    def _request(self, ids: tuple[int, ...], start: int, pair: tuple[str, str]) -> Request:
        if start >= len(ids):
            raise TaskError(
                f"the continuation {pair[1][:80]!r} has no tokens of its own",
                where=f"after the context {pair[0][-80:]!r}",
                fix="give every choice some text that the tokenizer knows",
            )
        if start > 0:
            return Request(ids, start)
        # Nothing precedes the first token: condition it on the token that begins texts.
        first = next((i for i in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id) if i is not None), None)
        if first is None:
            raise TaskError(
                "the context is empty and the tokenizer has neither a BOS nor an EOS token to stand before it",
                fix="use a tokenizer with one of them",
            )
        return Request((first, *ids), 1)

    def _tokenise(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        distinct = list(dict.fromkeys(texts))
        filled = [text for text in distinct if text]
        ids = self.tokenizer(filled, verbose=False)["input_ids"] if filled else []
        eos = self.tokenizer.eos_token_id
        by_text: dict[str, tuple[int, ...]] = {"": ()}
        for text, tokens in zip(filled, ids, strict=True):
            # Some tokenizers close every text; a continuation must not be scored on that closing token.
            ends = len(tokens) > 1 and eos is not None and tokens[-1] == eos
            by_text[text] = tuple(tokens[:-1] if ends and not text.endswith(self.tokenizer.eos_token) else tokens)
        return [by_text[text] for text in texts]

    def _fit(self, request: Request) -> Request:
        """Drop context tokens on the left until the model can hold the request; its last token is never an input."""
        excess = len(request.ids) - 1 - self.max_positions
        if excess <= 0:
            return request
        if excess > request.start - 1:
            raise TaskError(
                f"a continuation of {len(request.ids) - request.start} tokens does not fit the model",
                allowed=f"at most {self.max_positions} tokens",
                fix="use a model with more positions",
            )
        self.num_truncated += 1
        return Request(request.ids[excess:], request.start - excess)

    def _batches(self, requests: Sequence[Request]) -> Iterator[list[int]]:
        """Indices of requests of similar length, longest first, within the token budget."""
        order = sorted(range(len(requests)), key=lambda index: (-len(requests[index].ids), requests[index].ids))
        batch: list[int] = []
        for index in order:
            if batch and (len(batch) + 1) * len(requests[batch[0]].ids) > self.max_batch_tokens:
                yield batch
                batch = []
            batch.append(index)
        if batch:
            yield batch

    @torch.inference_mode()
    def _score_unique(self, requests: Sequence[Request]) -> list[float]:
        values = [0.0] * len(requests)
        was_training = self.model.training
        self.model.eval()
        try:
            for batch in self._batches(requests):
                for index, value in zip(batch, self._score_batch([requests[i] for i in batch]), strict=True):
                    values[index] = value
        finally:
            self.model.train(was_training)
        return values

    def _score_batch(self, batch: Sequence[Request]) -> list[float]:
        length = max(len(request.ids) for request in batch) - 1
        inputs = torch.zeros(len(batch), length, dtype=torch.long)
        rows: list[int] = []
        columns: list[int] = []
        targets: list[int] = []
        for row, request in enumerate(batch):
            inputs[row, : len(request.ids) - 1] = torch.tensor(request.ids[:-1])
            rows += [row] * (len(request.ids) - request.start)
            columns += range(request.start - 1, len(request.ids) - 1)
            targets += request.ids[request.start :]
        where = torch.tensor(rows, device=self.device), torch.tensor(columns, device=self.device)
        # Padding stands on the right, where causal attention never looks: no mask is needed and none is sent.
        inputs = inputs.to(self.device)
        if self.head is None:
            states = self.model(input_ids=inputs, use_cache=False).logits[where]  # (N, V)
        else:
            states = self.body(input_ids=inputs, use_cache=False).last_hidden_state[where]  # (N, D)
        gains = self._token_log_likelihoods(states, torch.tensor(targets, device=self.device))
        sums = torch.zeros(len(batch), dtype=torch.float64, device=self.device).index_add_(0, where[0], gains.double())
        values = cast(list[float], sums.tolist())
        if not all(value == value and abs(value) != float("inf") for value in values):
            raise ModelError(
                "the log-likelihoods are not finite",
                allowed="finite numbers",
                fix="the weights hold NaN or infinities: lower training.learning_rate, or check the checkpoint",
            )
        return values

    def _token_log_likelihoods(self, states: Tensor, targets: Tensor) -> Tensor:
        """(N,) log-probability of each target in nats, from (N, D) states or, without a head, (N, V) logits."""
        vocabulary = self.model.get_output_embeddings().weight.shape[0]  # type: ignore[operator]
        size = max(1, _MAX_LOGITS.get(self.device.type, _MAX_LOGITS_ELSEWHERE) // vocabulary)
        parts = []
        for chunk, target in zip(torch.split(states, size), torch.split(targets, size), strict=True):
            logits = (chunk if self.head is None else self.head(chunk)).float()
            parts.append(-cross_entropy(logits, target, reduction="none"))
        return torch.cat(parts)


def max_positions(model: nn.Module) -> int:
    """Longest input of `model` in tokens; a very large number where its positions have no end."""
    config = cast(Any, model).config
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    for name in ("max_position_embeddings", "n_positions"):
        if isinstance(value := getattr(config, name, None), int) and value > 0:
            return value
    return 1 << 30


@torch.inference_mode()
def _body_and_head(model: nn.Module) -> tuple[Any, Any]:
    """The model without its vocabulary projection, and that projection; (model, None) where they cannot be parted.

    Some families change their logits after the projection (a soft cap, a scale), so the parts are tried on a few
    tokens and used only when they give the very logits of the whole.
    """
    causal = cast(Any, model)
    head = causal.get_output_embeddings()
    body = getattr(model, getattr(model, "base_model_prefix", ""), None)
    if head is None:
        raise ModelError(f"{type(model).__name__} has no output projection", allowed="causal language models")
    if body is None:
        return model, None
    was_training = model.training
    model.eval()
    try:
        ids = torch.arange(4, device=next(model.parameters()).device)[None] % head.weight.shape[0]
        whole = causal(input_ids=ids, use_cache=False).logits
        states = getattr(body(input_ids=ids, use_cache=False), "last_hidden_state", None)
        if states is None or states.shape[-1] != head.weight.shape[-1]:
            return model, None
        equal = torch.allclose(head(states).float(), whole.float(), rtol=1e-4, atol=1e-4, equal_nan=True)
        return (body, head) if equal else (model, None)
    finally:
        model.train(was_training)


def _move_spaces(context: str, continuation: str) -> tuple[str, str]:
    """The pair with the context's trailing white space moved to the continuation."""
    kept = context.rstrip()
    return kept, context[len(kept) :] + continuation


def _common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """Number of leading elements that both share."""
    for index, (left, right) in enumerate(zip(first, second, strict=False)):
        if left != right:
            return index
    return min(len(first), len(second))
