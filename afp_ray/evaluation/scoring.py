"""Summed log-likelihood of continuations given their contexts.

What requests have in common at their beginning runs once: demonstrations once for all questions behind them, a context
once for its choices. The vocabulary projection sees scored states alone. A model for which that cannot be exact is
given whole requests in padded batches, which takes longer and gives the same; `obstacle` says why. So are requests
whose length changes how the model treats them, each beside those that it treats alike.

Shapes: R requests in a batch, T tokens of the longest, N scored positions of the batch, D hidden size, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from afp_ray.errors import ModelError, TaskError
from afp_ray.evaluation.ahead import made_ahead
from afp_ray.evaluation.late_results import LateResults, Result, fetch
from afp_ray.evaluation.likelihood import log_likelihoods
from afp_ray.evaluation.packs import Pack, make_pack
from afp_ray.evaluation.request_cache import KEPT
from afp_ray.evaluation.sharing import Stretch, like_parts, packs, plan
from afp_ray.evaluation.trie import Request, common_prefix
from afp_ray.evaluation.weights_digest import tokenizer_digest
from afp_ray.evaluation.workers import Workers
from afp_ray.models.attention_totals import kernel_obstacles
from afp_ray.models.branching import Trunk, branch_states, branching_obstacle, extend_trunk
from afp_ray.models.head import VocabularyHead, vocabulary_head
from afp_ray.models.hidden_states import decoder_of, forget_lengths
from afp_ray.models.lengths import reads_ahead
from afp_ray.models.packing import lengths_of
from afp_ray.models.tree_rows import on_host, sent

_CACHE_BYTES = 1 << 23
"""The widest activations of a batch on a CPU: what stays near the core is not fetched anew by every layer."""
_LEAST_TOKENS, _MOST_TOKENS, _MOST_TOKENS_ELSEWHERE = 512, 4096, 65536
_MAX_LOGITS = 1 << 26
"""Logits that a batch of whole requests may have."""
_IN_ORDER = frozenset({"cpu"})
"""Devices that compute when they are asked to: what is prepared beside them takes their time."""
_NUM_LATE = 4
"""Batches that a device may be asked for before the results of the first are read."""
_GRANULARITY = {"cuda": 64}
"""Tokens to a multiple of which a row is padded, by device, so that its shapes recur and kernels have whole tiles."""
T = TypeVar("T")


class ContinuationScorer:
    """Scores continuations with one model and tokenizer.

    Args:
        model: a causal LM with an output projection; used as it stands, in evaluation mode.
        tokenizer: its tokenizer.
        max_batch_tokens: tokens that run at a time; null takes what suits the model's width and the device's memory.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, *, max_batch_tokens: int | None = None) -> None:
        self.model, self.tokenizer = cast(Any, model), tokenizer
        self.device = next(model.parameters()).device
        self.max_batch_tokens = max_batch_tokens or token_budget(model)
        self.max_positions = max_positions(model)
        self.granularity = _GRANULARITY.get(self.device.type, 1)
        self.is_in_order = self.device.type in _IN_ORDER
        """Whether the device computes when it is asked to, so that nothing is gained by asking ahead of time."""
        self._num_late = 0 if self.is_in_order else _NUM_LATE
        self.num_truncated = 0
        self._tokens_by = tokenizer_digest(tokenizer)
        self.head, self.obstacle = _in_evaluation_mode(model, lambda: _head_and_obstacle(model))
        self.lengths = _in_evaluation_mode(model, lambda: lengths_of(self.model))
        self.notes = kernel_obstacles()
        """What of this machine makes scoring slower than it need be, in words."""

    def score(
        self,
        questions: Sequence[Sequence[tuple[str, str]]],
        *,
        workers: Workers | None = None,
        tokenised: Sequence[Request] | None = None,
    ) -> list[tuple[float, ...]]:
        """Log-likelihood in nats of every choice of every question, summed over continuation tokens.

        The result of a choice does not depend on what else is scored, beyond float rounding. Contexts too long for the
        model lose tokens on the left; `num_truncated` counts such choices.

        Args:
            questions: (context, continuation) pairs per question.
            workers: those that score a part each, with equal weights and questions; null leaves all of it to this one.
            tokenised: what `tokenised` gave for these questions, where it was asked before.

        Returns: one tuple of nats per question, in its order of choices; equal on every worker.
        Raises: TaskError for a continuation without tokens or too long; ModelError for a result that is not finite.
        """
        workers = workers or Workers()
        requests = self.requests(questions, tokenised)
        unique = sorted(dict.fromkeys(requests), key=lambda request: (request.ids, request.start))
        owners = like_parts(unique, workers.number)
        values = dict(zip(unique, workers.divide(unique, owners, self._score_requests), strict=True))
        flat = iter(requests)
        return [tuple(values[next(flat)] for _ in question) for question in questions]

    def requests(
        self, questions: Sequence[Sequence[tuple[str, str]]], tokenised: Sequence[Request] | None = None
    ) -> list[Request]:
        """Every choice of every question, tokenised and cut to what the model can hold."""
        return [self._fit(request) for request in (self.tokenised(questions) if tokenised is None else tokenised)]

    def tokenised(self, questions: Sequence[Sequence[tuple[str, str]]]) -> Sequence[Request]:
        """Every choice of every question, from what this process keeps where it is there."""
        key = self._tokens_by, tuple(tuple(question) for question in questions)
        return KEPT.get(key, lambda: self.encode(questions))

    def _score_requests(self, requests: Sequence[Request]) -> list[float]:
        """Log-likelihood in nats of distinct requests.

        Raises: ModelError for a result that is not finite.
        """
        values: dict[Request, float] = _in_evaluation_mode(self.model, lambda: self._score_each(requests))
        if not all(value == value and abs(value) != float("inf") for value in values.values()):
            raise ModelError(
                "the log-likelihoods are not finite",
                allowed="finite numbers",
                fix="the weights hold NaN or infinities: lower training.learning_rate, or check the checkpoint",
            )
        return [values[request] for request in requests]

    def encode(self, questions: Sequence[Sequence[tuple[str, str]]]) -> list[Request]:
        """Tokenise every choice, context and continuation together.

        The continuation starts where the tokens of the whole text leave those of the context alone, so that a merge
        across the joint belongs to the continuation. Choices of a question that share their context start at the same
        token, the earliest, so that none is scored on more of the context than another. Spaces at the end of a context
        move to the continuation before.
        """
        pairs = [_move_spaces(*choice) for question in questions for choice in question]
        contexts = self._tokenise([context for context, _ in pairs])
        # After an empty context stands one token that begins texts; what the tokenizer would add must not be scored.
        bare = [continuation for context, continuation in pairs if not context]
        begun = dict(zip(bare, self._tokenise(bare, adds_special=False), strict=True))
        others = iter(self._tokenise([context + continuation for context, continuation in pairs if context]))
        wholes = [next(others) if context else begun[continuation] for context, continuation in pairs]
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

    def _tokenise(self, texts: Sequence[str], *, adds_special: bool = True) -> list[tuple[int, ...]]:
        distinct = list(dict.fromkeys(texts))
        filled = [text for text in distinct if text]
        settings = {"add_special_tokens": adds_special, "verbose": False, "return_attention_mask": False}
        ids = self.tokenizer(filled, **settings)["input_ids"] if filled else []
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

    def _score_each(self, requests: Sequence[Request]) -> dict[Request, float]:
        if self.obstacle is not None:
            return self._score_whole(requests)
        plain = [request for request in requests if len(request.ids) - 1 <= self.lengths.longest_plain]
        others = [request for request in requests if len(request.ids) - 1 > self.lengths.longest_plain]
        return self._score_shared(plain) | self._score_whole(others)

    def _score_shared(self, requests: Sequence[Request]) -> dict[Request, float]:
        width = self.model.config.get_text_config().hidden_size
        stretch = plan(requests, width=width, largest=self.max_batch_tokens)
        results = LateResults(self._num_late)
        trunks: list[Trunk] = []  # that of the stretch at hand, behind those around it
        with made_ahead(self._steps(stretch, 0), in_background=not self.is_in_order) as steps:
            for depth, work in steps:
                del trunks[depth:]
                trunk = trunks[-1] if trunks else None
                if isinstance(work, Pack):
                    self._within_memory(work, partial(self._score_pack, trunk), self._halves_of_pack, results)
                else:
                    trunks.append(extend_trunk(self.model, work, trunk))
        return results.all()

    def _steps(self, stretch: Stretch, depth: int) -> Iterator[tuple[int, tuple[int, ...] | Pack]]:
        """Tokens of trunks, and packs, in their order, each with the number of trunks that it follows."""
        if stretch.ids:
            yield depth, stretch.ids
            depth += 1
        for branches in packs(stretch.trees, self.max_batch_tokens):
            yield depth, make_pack(branches, self.device, granularity=self.granularity)
        for inner in stretch.inner:
            yield from self._steps(inner, depth)

    def _score_pack(self, trunk: Trunk | None, pack: Pack) -> Result:
        """Score the requests of trees that run in one row."""
        assert self.head is not None
        states = branch_states(self.model, pack.row, trunk)
        scored = states.index_select(0, sent(pack.states, self.device))
        from_states, targets = sent(pack.pairs, self.device)
        terms, owners = sent(pack.terms, self.device)
        gains = log_likelihoods(self.head, scored, from_states, targets)[terms]
        return fetch(pack.requests, gains, owners)

    def _halves_of_pack(self, pack: Pack) -> list[Pack]:
        """The trees of a row in two rows; one tree as it is."""
        return [make_pack(part, self.device, granularity=self.granularity) for part in _halves(pack.branches)]

    def _within_memory(
        self, work: T, score: Callable[[T], Result], halves: Callable[[T], Sequence[T]], results: LateResults
    ) -> None:
        """Add what `score` gives for `work`, in smaller parts from here on when the device's memory is too small."""
        try:
            results.add(score(work))
            return
        except torch.OutOfMemoryError:
            parts = halves(work)
            if len(parts) == 1:
                raise
        torch.cuda.empty_cache()
        self.max_batch_tokens = max(_LEAST_TOKENS, self.max_batch_tokens // 2)
        for part in parts:
            self._within_memory(part, score, halves, results)

    def _score_whole(self, requests: Sequence[Request]) -> dict[Request, float]:
        results = LateResults(self._num_late)
        for batch in self._batches(requests):
            self._within_memory(batch, self._score_batch, _halves, results)
        return results.all()

    def _batches(self, requests: Sequence[Request]) -> Iterator[Sequence[Request]]:
        """Requests of similar length that the model treats alike, longest first, within the token budget."""
        budget = self.max_batch_tokens
        if self.head is None:  # all logits come, whatever is scored
            budget = min(budget, _MAX_LOGITS // len(self.model.get_output_embeddings().weight))
        batch: list[Request] = []
        for request in sorted(requests, key=lambda request: (-len(request.ids), request.ids, request.start)):
            kinds = {self.lengths.kind(len(member.ids) - 1) for member in (request, *batch[:1])}
            if batch and (len(kinds) > 1 or (len(batch) + 1) * len(batch[0].ids) > budget):
                yield batch
                batch = []
            batch.append(request)
        if batch:
            yield batch

    def _score_batch(self, batch: Sequence[Request]) -> Result:
        """Score whole requests, padded on the right, where causal attention never looks: no mask is needed."""
        inputs = np.zeros((len(batch), max(len(request.ids) for request in batch) - 1), dtype=np.int64)
        rows: list[int] = []
        columns: list[int] = []
        targets: list[int] = []
        for row, request in enumerate(batch):
            inputs[row, : len(request.ids) - 1] = request.ids[:-1]
            rows += [row] * (len(request.ids) - request.start)
            columns += range(request.start - 1, len(request.ids) - 1)
            targets += request.ids[request.start :]
        forget_lengths(self.model)
        numbers = (inputs, np.array(rows), np.array(columns), np.array(targets))
        ids, owners, at, wanted = (sent(on_host(part, self.device), self.device) for part in numbers)
        if self.head is None:
            logits = self.model(input_ids=ids, use_cache=False).logits[owners, at].float()  # (N, V)
            gains = -cross_entropy(logits, wanted, reduction="none")
        else:
            states = decoder_of(self.model)(input_ids=ids, use_cache=False).last_hidden_state[owners, at]  # (N, D)
            each = torch.arange(len(states), device=self.device)
            gains = log_likelihoods(self.head, states, each, wanted)
        return fetch(batch, gains, owners)


def _halves(work: Sequence[T]) -> list[Sequence[T]]:
    """The first and the second half; one piece alone as it is."""
    middle = len(work) // 2
    return [work[:middle], work[middle:]] if middle else [work]


def token_budget(model: nn.Module) -> int:
    """Tokens of `model` that run at a time: the same for equal models and devices, so that scores repeat bit for bit.

    On a CPU the widest activations stay in its cache; elsewhere all activations take up to an eighth of the memory.
    """
    weight = next(model.parameters())
    config = cast(Any, model).config.get_text_config()
    narrow = config.hidden_size
    names = ("intermediate_size", "ffn_dim", "n_inner")
    wide = next((value for name in names if (value := getattr(config, name, None))), 4 * narrow)
    if weight.device.type == "cpu":
        return int(min(max(_CACHE_BYTES // (wide * weight.itemsize), _LEAST_TOKENS), _MOST_TOKENS))
    if weight.device.type != "cuda":
        return _MOST_TOKENS
    memory = torch.cuda.get_device_properties(weight.device).total_memory
    token_bytes = (3 * wide + 12 * narrow) * max(weight.itemsize, 4)
    return int(min(max(memory // 8 // token_bytes, _LEAST_TOKENS), _MOST_TOKENS_ELSEWHERE))


def max_positions(model: nn.Module) -> int:
    """Longest input of `model` in tokens; a very large number where its positions have no end."""
    config = cast(Any, model).config
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    for name in ("max_position_embeddings", "n_positions"):
        if isinstance(value := getattr(config, name, None), int) and value > 0:
            return value
    return 1 << 30


def _in_evaluation_mode(model: nn.Module, work: Callable[[], T]) -> T:
    """What `work` gives while nothing is dropped and no gradients are kept; the model's mode is restored."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            return work()
    finally:
        model.train(was_training)


def _head_and_obstacle(model: nn.Module) -> tuple[VocabularyHead | None, str | None]:
    """The vocabulary projection, None where it cannot be parted from the model; and why nothing can be shared."""
    causal = cast(Any, model)
    if causal.get_output_embeddings() is None:
        raise ModelError(f"{type(model).__name__} has no output projection", allowed="causal language models")
    obstacle = branching_obstacle(causal)
    if obstacle and reads_ahead(causal):
        raise ModelError(
            f"{type(model).__name__} looks at what stands behind a token, so that texts have no log-likelihood",
            allowed="causal language models",
            fix="choose another model.name",
        )
    try:
        head = vocabulary_head(causal)
    except ModelError as error:  # some families change their logits in ways of their own
        return None, error.problem
    return head, obstacle


def _move_spaces(context: str, continuation: str) -> tuple[str, str]:
    """The pair with the context's trailing white space moved to the continuation."""
    bare = context.rstrip()
    return bare, context[len(bare) :] + continuation
