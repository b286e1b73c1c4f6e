"""Summed log-likelihood of continuations given their contexts.

What requests have in common at their beginning runs once, and its keys and values are handed to each of them; a model
whose keys and values cannot be handed on exactly is given whole requests, which takes longer and gives the same.

Shapes: R requests in a batch, T tokens of the longest, N scored positions of the batch, D hidden size, V vocabulary.
"""

import copy
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from afp_ray.errors import ModelError, TaskError
from afp_ray.evaluation.sharing import Request, common_prefix, stems, trunks

_MAX_LOGITS = {"cpu": 1 << 20}
"""Logits held at a time by kind of device: 4 MB in float32 stay in a CPU's cache; positions beyond are projected in the
next chunk."""
_MAX_LOGITS_ELSEWHERE = 1 << 26
_MAX_CACHE, _MAX_CACHE_ELSEWHERE = 1 << 28, 1 << 32
"""Bytes of keys and values of a batch, on a CPU and elsewhere."""


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
        self._sharing: tuple[int, int] | None = None

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
        starts = [common_prefix(context, whole) for context, whole in zip(contexts, wholes, strict=True)]
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
        ids = self.tokenizer(filled, verbose=False, return_attention_mask=False)["input_ids"] if filled else []
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

    def _batches(
        self, groups: Sequence[Sequence[Request]], depth: int, token_bytes: int
    ) -> Iterator[list[Sequence[Request]]]:
        """Groups of similar length, longest first, within the token budget and, after `depth` tokens, the cache's."""
        limit = _MAX_CACHE if self.device.type == "cpu" else _MAX_CACHE_ELSEWHERE
        order = sorted(groups, key=lambda group: (-max(len(r.ids) for r in group), group[0].ids, group[0].start))
        batch: list[Sequence[Request]] = []
        rows = longest = 0
        for group in order:
            rows += len(group)
            held = rows * longest * token_bytes if depth else 0
            if batch and (rows * (longest - depth) > self.max_batch_tokens or held > limit):
                yield batch
                batch, rows = [], len(group)
            if not batch:
                longest = max(len(request.ids) for request in group)
            batch.append(group)
        if batch:
            yield batch

    @torch.inference_mode()
    def _score_unique(self, requests: Sequence[Request]) -> list[float]:
        values: dict[Request, float] = {}
        was_training = self.model.training
        self.model.eval()
        try:
            self._sharing = self._sharing or _sharing(self.body, self.max_positions)
            longest, token_bytes = self._sharing
            long = [request for request in requests if len(request.ids) > longest]
            short = [request for request in requests if len(request.ids) <= longest]
            for batch in self._batches([[request] for request in long], 0, 0):
                values |= self._score_batch([request for group in batch for request in group])
            for trunk, members in trunks(short):
                past = self._extend(None, [members[0].ids[:trunk]]) if trunk else None
                by_stem, rest = stems(members, trunk)
                for depth, groups in (*by_stem.items(), (trunk, [[request] for request in rest])):
                    for batch in self._batches(groups, depth, token_bytes):
                        values |= self._score_groups(batch, depth, trunk, past)
        finally:
            self.model.train(was_training)
        return [values[request] for request in requests]

    def _score_groups(
        self, groups: Sequence[Sequence[Request]], depth: int, trunk: int, past: Any
    ) -> dict[Request, float]:
        """Score groups whose requests share `depth` tokens, of which `past` holds the first `trunk` for all of them."""
        flat = [request for group in groups for request in group]
        if depth == trunk:
            cache = _fork(past, len(flat))
        else:
            cache = self._extend(_fork(past, len(groups)), [group[0].ids[trunk:depth] for group in groups])
            owners = [index for index, group in enumerate(groups) for _ in group]
            cache.batch_select_indices(torch.tensor(owners, device=self.device))
        return self._score_batch(flat, depth, cache)

    def _extend(self, past: Any, pieces: Sequence[tuple[int, ...]]) -> Any:
        """Keys and values of `pieces`, which have one length, after those of `past`."""
        inputs = torch.tensor(pieces, device=self.device)
        return self.body(input_ids=inputs, past_key_values=past, use_cache=True).past_key_values

    def _score_batch(self, batch: Sequence[Request], depth: int = 0, past: Any = None) -> dict[Request, float]:
        length = max(len(request.ids) for request in batch) - 1 - depth
        inputs = torch.zeros(len(batch), length, dtype=torch.long)
        rows: list[int] = []
        columns: list[int] = []
        targets: list[int] = []
        for row, request in enumerate(batch):
            inputs[row, : len(request.ids) - 1 - depth] = torch.tensor(request.ids[depth:-1])
            rows += [row] * (len(request.ids) - request.start)
            columns += range(request.start - 1 - depth, len(request.ids) - 1 - depth)
            targets += request.ids[request.start :]
        where = torch.tensor(rows, device=self.device), torch.tensor(columns, device=self.device)
        # Padding stands on the right, where causal attention never looks: no mask is needed and none is sent.
        inputs = inputs.to(self.device)
        if self.head is None:
            states = self.model(input_ids=inputs, **_after(past)).logits[where]  # (N, V)
        else:
            states = self.body(input_ids=inputs, **_after(past)).last_hidden_state[where]  # (N, D)
        gains = self._token_log_likelihoods(states, torch.tensor(targets, device=self.device))
        sums = torch.zeros(len(batch), dtype=torch.float64, device=self.device).index_add_(0, where[0], gains.double())
        values = cast(list[float], sums.tolist())
        if not all(value == value and abs(value) != float("inf") for value in values):
            raise ModelError(
                "the log-likelihoods are not finite",
                allowed="finite numbers",
                fix="the weights hold NaN or infinities: lower training.learning_rate, or check the checkpoint",
            )
        return dict(zip(batch, values, strict=True))

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


def _after(past: Any) -> dict[str, Any]:
    """Keywords of a call whose tokens follow those of `past`, if there is one."""
    return {"use_cache": False} if past is None else {"past_key_values": past, "use_cache": True}


def _fork(past: Any, rows: int) -> Any:
    """A copy of the keys and values of one sequence for `rows` sequences."""
    if past is None:
        return None
    cache = copy.deepcopy(past)
    cache.batch_select_indices(torch.zeros(rows, dtype=torch.long, device=cache.layers[0].keys.device))
    return cache


def _sharing(body: Any, positions: int) -> tuple[int, int]:
    """The longest request, in tokens, that may be scored in pieces, and the bytes of keys and values of one token.

    A few tokens are run whole and in pieces. Where the two differ, or the model keeps anything but plain keys and
    values, (0, 0) comes back and requests are run whole. Layers that look at a window keep no more than that, so
    requests beyond it are run whole too.
    """
    if positions < 12:
        return 0, 0
    ids = torch.arange(1, 13, device=next(body.parameters()).device)[None] % body.config.get_text_config().vocab_size
    whole = body(input_ids=ids, use_cache=True)
    layers = getattr(getattr(whole, "past_key_values", None), "layers", None) or ()
    if not layers or any(type(layer).__name__ not in ("DynamicLayer", "DynamicSlidingWindowLayer") for layer in layers):
        return 0, 0
    windows = [layer.sliding_window - 1 for layer in layers if layer.is_sliding]
    longest = min(windows, default=1 << 30)
    if longest < ids.shape[1]:
        return 0, 0
    first = body(input_ids=ids[:, :5], use_cache=True)
    second = body(input_ids=ids[:, 5:].repeat(2, 1), **_after(_fork(first.past_key_values, 2)))
    expected, pieces = whole[0][:, 5:].float().expand(2, -1, -1), second[0].float()
    if not torch.allclose(pieces, expected, rtol=1e-4, atol=1e-4, equal_nan=True):
        return 0, 0
    token_bytes = sum(layer.keys.nbytes + layer.values.nbytes for layer in layers) // ids.shape[1]
    return longest, token_bytes


def _move_spaces(context: str, continuation: str) -> tuple[str, str]:
    """The pair with the context's trailing white space moved to the continuation."""
    kept = context.rstrip()
    return kept, context[len(kept) :] + continuation
