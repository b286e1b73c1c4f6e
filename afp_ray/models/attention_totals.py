"""Attention that also gives the logarithms of its denominators, so that two parts of one softmax can be joined.

Shapes: n rows, H heads, T queries, K keys, D width of a head.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from afp_ray.models.packed_attention import ScoreForm

_ALIGNED = 16
"""Elements to a multiple of which the kernel of a GPU wants the rows of a bias to lie apart."""
_LIMIT, _LIMIT_OF_HALVES = 1e-4, 2e-2
"""Largest difference that rounding makes between the kernel and the scores written out, of values of about 1."""
_obstacles: dict[tuple[torch.device, torch.dtype, int], str | None] = {}


def attended(
    query: Tensor, key: Tensor, value: Tensor, *, form: ScoreForm, bias: Tensor | None, is_causal: bool = False
) -> tuple[Tensor, Tensor]:
    """(n, H, T, D) attention with `bias` added to the scores, and (n, H, T) float32 logarithms of its denominators.

    The public attention of torch returns no denominators, so its kernels are called by name. Where no kernel serves,
    the scores are written out: n * H * T * K in float32.

    Args:
        query, key, value: (n, H, T or K, D).
        form: scale and softcap; window and slopes are in the bias.
        bias: (1 or n, 1 or H, 1 or T, K) float32, -inf where a key is not seen; None for none.
        is_causal: whether a query sees the keys up to its own place alone.
    """
    device = query.device.type
    if form.softcap is None and device == "cpu":
        own, total = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, is_causal, attn_mask=bias, scale=form.scale
        )
        return own, total
    if form.softcap is None and device == "cuda":
        if bias is None:
            return _by_kernel(query, key, value, form, None, is_causal=is_causal)
        # In halves ALiBi's products of slope and distance would be rounded; 0 and -inf are the same in every type.
        is_exact = form.slopes is None or query.dtype == torch.float32
        if is_exact and kernel_obstacle(query) is None:
            own, total = _by_kernel(query, key, value, form, bias, is_causal=is_causal)
            return own.nan_to_num(0.0), total  # of a token that sees nothing here
    return _written_out(query, key, value, form, bias, is_causal=is_causal)


def kernel_obstacle(query: Tensor) -> str | None:
    """Why the kernel of a GPU does not take a bias for queries like these; None where it does.

    It is tried once for a device, type and width, against the scores written out.

    Args:
        query: (n, H, T, D), whose device, type and D count.
    """
    case = (query.device, query.dtype, query.shape[-1])
    if case not in _obstacles:
        _obstacles[case] = _try_kernel(*case)
    return _obstacles[case]


def kernel_obstacles() -> list[str]:
    """What `kernel_obstacle` found in this process, in words."""
    return sorted({text for text in _obstacles.values() if text is not None})


def _try_kernel(device: torch.device, dtype: torch.dtype, width: int) -> str | None:
    draws = torch.randn(3, 2, 3, 21, width, generator=torch.Generator().manual_seed(0))
    query, key, value = draws.to(device, dtype)
    index = torch.arange(21, device=device)
    hidden = (index > index[:, None]) | ((index % 5 == 3) & (index != index[:, None]))
    bias = torch.zeros(1, 1, 21, 21, device=device).masked_fill(hidden, float("-inf"))
    form = ScoreForm(width**-0.5)
    where = f"attention over shared beginnings on {device.type} in {dtype}"
    try:
        found = _by_kernel(query, key, value, form, bias, is_causal=False)
    except RuntimeError as error:
        return f"{where}: the kernel takes no mask ({str(error).splitlines()[0]}), so scores are written out, slower"
    expected = _written_out(query, key, value, form, bias, is_causal=False)
    limit = _LIMIT if dtype == torch.float32 else _LIMIT_OF_HALVES
    difference = max(float((a.float() - b.float()).abs().max()) for a, b in zip(found, expected, strict=True))
    if difference <= limit:
        return None
    return f"{where}: the kernel differs under a mask by {difference:.1e}, so scores are written out, slower"


def _by_kernel(
    query: Tensor, key: Tensor, value: Tensor, form: ScoreForm, bias: Tensor | None, *, is_causal: bool
) -> tuple[Tensor, Tensor]:
    if bias is not None:
        keys = key.shape[2]
        apart = F.pad(bias.to(query.dtype), (0, -keys % _ALIGNED))
        bias = apart[..., :keys].expand(*query.shape[:3], keys)
    own, total, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, bias, True, 0.0, is_causal, scale=form.scale
    )
    return own, total[:, :, : query.shape[2]]  # the kernel rounds its number of rows up


def _written_out(
    query: Tensor, key: Tensor, value: Tensor, form: ScoreForm, bias: Tensor | None, *, is_causal: bool
) -> tuple[Tensor, Tensor]:
    scores = (query @ key.transpose(2, 3)).float() * form.scale
    if form.softcap is not None:
        scores = torch.tanh(scores / form.softcap) * form.softcap
    if bias is not None:
        scores = scores + bias
    if is_causal:
        ahead = torch.ones(scores.shape[2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(ahead, float("-inf"))
    total = scores.logsumexp(dim=-1)
    weights = (scores - total[..., None]).exp().nan_to_num(0.0)  # of a token that sees nothing here
    return weights.to(value.dtype) @ value, total
