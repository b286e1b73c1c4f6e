"""Losses against closed forms, finite differences and the plain computation."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from afp_ray.losses import (
    Candidates,
    LogitForm,
    Supervised,
    contrastive_loss,
    instruction_loss,
    next_token_sum,
    supervised_positions,
)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_contrastive_loss_of_orthonormal_pairs_has_its_closed_form() -> None:
    pairs = torch.eye(4)  # each source equals its target and is orthogonal to the other three
    assert contrastive_loss(pairs, pairs, 0.05).item() == pytest.approx(math.log(1 + 3 * math.exp(-20)), abs=1e-7)


@pytest.mark.parametrize("temperature", [0.05, 1.0, 10.0])
def test_contrastive_loss_without_signal_is_log_of_the_batch(temperature: float) -> None:
    assert contrastive_loss(torch.ones(8, 3), torch.ones(8, 3), temperature).item() == pytest.approx(
        math.log(8), abs=1e-6
    )


def test_contrastive_loss_of_swapped_pairs_is_the_worst_case() -> None:
    source = torch.eye(2)
    assert contrastive_loss(source, source.flip(0), 0.5).item() == pytest.approx(math.log(1 + math.exp(2)), rel=1e-6)


def test_contrastive_loss_by_the_formula_of_the_paper() -> None:
    source, target = random(5, 7), random(5, 7, seed=1)
    cosine = F.cosine_similarity(source[:, None], target[None], dim=-1)
    terms = [-torch.log(torch.exp(cosine[i, i] / 0.1) / torch.exp(cosine[i] / 0.1).sum()) for i in range(5)]
    assert contrastive_loss(source, target, 0.1).item() == pytest.approx(torch.stack(terms).mean().item(), rel=1e-5)


def test_contrastive_loss_ignores_scale_and_order() -> None:
    source, target = random(6, 4), random(6, 4, seed=1)
    expected = contrastive_loss(source, target, 0.05).item()
    assert contrastive_loss(source * 100, target * 0.01, 0.05).item() == pytest.approx(expected, rel=1e-6)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    assert contrastive_loss(source[order], target[order], 0.05).item() == pytest.approx(expected, rel=1e-6)


def test_symmetric_loss_is_the_mean_of_both_directions() -> None:
    source, target = random(6, 4), random(6, 4, seed=1)
    both = (contrastive_loss(source, target, 0.05) + contrastive_loss(target, source, 0.05)) / 2
    assert contrastive_loss(source, target, 0.05, symmetric=True).item() == pytest.approx(both.item(), rel=1e-6)
    assert contrastive_loss(source, target, 0.05).item() != pytest.approx(both.item(), rel=1e-3)


@pytest.mark.parametrize("symmetric", [False, True])
def test_negatives_of_the_own_side_by_the_formula(symmetric: bool) -> None:
    source, target = random(5, 7), random(5, 7, seed=1)
    values = []
    for anchors, others in ((source, target), (target, source)):
        for index in range(5):
            same = torch.cat([anchors[:index], anchors[index + 1 :]])
            cosine = F.cosine_similarity(anchors[index][None], torch.cat([others, same]), dim=-1) / 0.1
            values.append(cosine.logsumexp(dim=0) - cosine[index])
    expected = torch.stack(values if symmetric else values[:5]).mean()
    among = Candidates(has_own_side=True)
    loss = contrastive_loss(source, target, 0.1, symmetric=symmetric, candidates=among)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("has_own_side", [False, True])
def test_shares_with_candidates_sum_to_the_whole(has_own_side: bool) -> None:
    source, target = random(6, 4), random(6, 4, seed=1)
    shares = [
        contrastive_loss(
            source[part],
            target[part],
            0.05,
            symmetric=True,
            candidates=Candidates(source, target, labels=torch.arange(6)[part], has_own_side=has_own_side),
            reduction="sum",
        )
        for part in (slice(0, 2), slice(2, 6))
    ]
    among = Candidates(has_own_side=has_own_side)
    whole = contrastive_loss(source, target, 0.05, symmetric=True, candidates=among)
    assert sum(share.item() for share in shares) / 6 == pytest.approx(whole.item(), rel=1e-6)


def test_similarity_stays_float32_under_autocast() -> None:
    source, target = random(6, 4).bfloat16(), random(6, 4, seed=1).bfloat16()
    expected = contrastive_loss(source.float(), target.float(), 0.05)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert contrastive_loss(source, target, 0.05).item() == expected.item()


@pytest.mark.parametrize("symmetric", [False, True])
def test_contrastive_gradient_by_finite_differences(symmetric: bool) -> None:
    others = [random(5, 4, seed=2)[3:], random(5, 4, seed=3)[3:]]
    ignored = torch.zeros(3, 5, dtype=torch.bool)
    ignored[0, 3] = ignored[1, 0] = True

    def value(source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        candidates = Candidates(torch.cat([source, others[0]]), torch.cat([target, others[1]]), ignored=ignored)
        return contrastive_loss(source, target, 0.5, symmetric=symmetric, candidates=candidates)

    sides = [random(3, 4).requires_grad_(), random(3, 4, seed=1).requires_grad_()]
    assert torch.autograd.gradcheck(value, sides, eps=1e-6, atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("num_ignored", [0, 2, 3])
def test_candidates_that_are_ignored_leave_the_denominator(num_ignored: int) -> None:
    pairs = torch.eye(4)
    ignored = torch.zeros(4, 4, dtype=torch.bool)
    for row in range(4):
        ignored[row, [(row + step) % 4 for step in range(1, num_ignored + 1)]] = True
    expected = math.log(1 + (3 - num_ignored) * math.exp(-2))
    for symmetric in (False, True):
        found = contrastive_loss(pairs, pairs, 0.5, symmetric=symmetric, candidates=Candidates(ignored=ignored))
        assert found.item() == pytest.approx(expected, abs=1e-7)


def test_the_own_translation_is_never_ignored() -> None:
    source, target = random(5, 4), random(5, 4, seed=1)
    everything = torch.ones(5, 5, dtype=torch.bool)
    assert contrastive_loss(source, target, 0.1, candidates=Candidates(ignored=everything)).item() == 0
    order = torch.tensor([4, 2, 0, 1, 3])  # the translation of row i is candidate order[i]
    alone = torch.nn.functional.one_hot(order).bool()
    candidates = Candidates(target=target[order.argsort()], labels=order, ignored=alone)
    found = contrastive_loss(source, target, 0.1, candidates=candidates)
    assert found.item() == pytest.approx(contrastive_loss(source, target, 0.1).item(), rel=1e-12)


@pytest.mark.parametrize("temperature", [0.001, 1e-4, 1000.0])
@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_no_temperature_makes_loss_or_gradient_nan(temperature: float, scale: float) -> None:
    source, target = (scale * torch.ones(8, 3)).requires_grad_(), scale * torch.ones(8, 3)
    ignored = torch.zeros(8, 8, dtype=torch.bool)
    ignored[0] = True
    loss = contrastive_loss(source, target, temperature, symmetric=True, candidates=Candidates(ignored=ignored))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(8) * 7 / 8, rel=1e-6)
    assert source.grad is not None
    assert bool(torch.isfinite(source.grad).all())
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]).requires_grad_()
    loss = contrastive_loss(opposite, opposite.detach().flip(0), 0.001)
    loss.backward()
    assert loss.item() == pytest.approx(2000, rel=1e-6)
    assert opposite.grad is not None
    assert bool(torch.isfinite(opposite.grad).all())


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"source \(3, 4\) and target \(2, 4\) differ"):
        contrastive_loss(random(3, 4), random(2, 4), 0.05)


def each_row(*tokens: int) -> Supervised:
    """Every state of a row predicts a token."""
    return Supervised(torch.arange(len(tokens)), torch.tensor(tokens))


LABELS = torch.tensor([[-100, -100, 5, 6, -100], [-100, 3, -100, -100, 1]])


def test_supervised_positions_by_hand() -> None:
    supervised = supervised_positions(LABELS)
    assert supervised.positions.tolist() == [1, 2, 5, 8]
    assert supervised.tokens.tolist() == [5, 6, 3, 1]


def test_uniform_logits_cost_log_of_the_vocabulary() -> None:
    assert instruction_loss(torch.zeros(2, 5, 9), LABELS, 4).item() == pytest.approx(math.log(9), rel=1e-6)
    total = next_token_sum(random(2, 5, 3), torch.zeros(9, 3, dtype=torch.float64), supervised_positions(LABELS))
    assert total.item() == pytest.approx(4 * math.log(9), rel=1e-6)


@pytest.mark.parametrize("chunk_elements", [1, 18, 10**6])
@pytest.mark.parametrize(
    "options", [{}, {"scale": 0.25}, {"softcap": 2.0}, {"scale": 3.0, "softcap": 2.0}, {"bias": True}]
)
def test_next_token_sum_equals_the_loss_of_whole_logits(chunk_elements: int, options: dict[str, float]) -> None:
    scale, softcap = options.get("scale", 1.0), options.get("softcap")
    parts = [random(2, 5, 3), random(9, 3, seed=1), random(9, seed=2)]
    ours = [part.clone().requires_grad_() for part in parts]
    plain = [part.clone().requires_grad_() for part in parts]
    used = 3 if "bias" in options else 2
    total = next_token_sum(
        ours[0],
        ours[1],
        supervised_positions(LABELS),
        head_bias=ours[2] if used == 3 else None,
        form=LogitForm(scale, softcap, chunk_elements),
    )
    (total * 0.7).backward()
    logits = (plain[0] @ plain[1].T + (plain[2] if used == 3 else 0)) * scale
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    expected = instruction_loss(logits, LABELS, 4) * 4
    (expected * 0.7).backward()
    assert total.item() == pytest.approx(expected.item(), rel=1e-6)
    for ours_part, plain_part in zip(ours[:used], plain[:used], strict=True):
        torch.testing.assert_close(ours_part.grad, plain_part.grad, rtol=1e-5, atol=1e-6)


def test_no_supervised_position_costs_nothing() -> None:
    hidden, weight = random(1, 4, 3).requires_grad_(), random(9, 3).requires_grad_()
    total = next_token_sum(hidden, weight, supervised_positions(torch.full((1, 4), -100)))
    total.backward()
    assert total.item() == 0
    assert hidden.grad is not None
    assert not hidden.grad.any()
    assert weight.grad is not None
    assert not weight.grad.any()


def test_a_frozen_head_gets_no_gradient() -> None:
    rows, weight = random(4, 3).requires_grad_(), random(9, 3)
    next_token_sum(rows[None], weight, each_row(1, 2, 3, 4)).backward()
    assert weight.grad is None
    assert rows.grad is not None
    assert rows.grad.any()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of what the compiler itself imports
def test_a_compiled_softmax_is_the_softmax() -> None:
    form = LogitForm(2.0, 3.0)

    def parts(form: LogitForm, number: int) -> list[torch.Tensor]:
        rows, weight = random(1, number, 8).float().requires_grad_(), random(50, 8, seed=1).float().requires_grad_()
        bias = random(50, seed=2).float().requires_grad_()
        total = next_token_sum(rows, weight, each_row(*range(number)), head_bias=bias, form=form)
        total.backward()
        gradients = [value.grad for value in (rows, weight, bias)]
        return [total.detach(), *(gradient for gradient in gradients if gradient is not None)]

    for number in (5, 17):
        compiled = parts(replace(form, is_compiled=True), number)
        for value, expected in zip(compiled, parts(form, number), strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)


def test_rows_of_weight_zero_are_not_there() -> None:
    def parts(supervised: Supervised) -> list[torch.Tensor]:
        hidden, weight = random(1, 6, 3).requires_grad_(), random(9, 3, seed=1).requires_grad_()
        total = next_token_sum(hidden, weight, supervised, form=LogitForm(softcap=2.0, chunk_elements=18))
        total.backward()
        assert hidden.grad is not None
        assert weight.grad is not None
        return [total.detach(), hidden.grad, weight.grad]

    few = parts(Supervised(torch.tensor([1, 4]), torch.tensor([5, 2])))
    filled = Supervised(torch.tensor([1, 4, 0, 0]), torch.tensor([5, 2, 0, 0]), torch.tensor([1.0, 1.0, 0.0, 0.0]))
    for expected, value in zip(few, parts(filled), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-7)


def test_a_huge_logit_gives_no_nan() -> None:
    rows = torch.tensor([[1e4, 0.0]], requires_grad=True)
    total = next_token_sum(rows[None], torch.eye(2), each_row(1))
    total.backward()
    assert total.item() == pytest.approx(1e4)
    assert rows.grad is not None
    assert rows.grad.isfinite().all()


def test_softmax_stays_float32_under_autocast() -> None:
    rows, weight = random(64, 16).float(), random(512, 16, seed=1).float()
    targets = torch.arange(64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total = next_token_sum(rows[None], weight, each_row(*range(64)))
    half = (rows.bfloat16() @ weight.bfloat16().T).float()
    assert total.dtype == torch.float32
    assert total.item() == pytest.approx(F.cross_entropy(half, targets, reduction="sum").item(), rel=1e-6)


def test_a_packed_row_predicts_nothing_across_its_samples() -> None:
    hidden, weight = random(2, 4, 3), random(9, 3, seed=1)
    labels = torch.tensor([[-100, 2, 3, 4], [-100, -100, 7, -100]])
    lengths = (4, 3)  # the last place of the second row is padding
    expected = next_token_sum(hidden, weight, supervised_positions(labels))
    row = torch.cat([hidden[number, :length] for number, length in enumerate(lengths)])[None]
    packed = torch.cat([labels[number, :length] for number, length in enumerate(lengths)])[None]
    assert next_token_sum(row, weight, supervised_positions(packed)).item() == pytest.approx(expected.item(), rel=1e-12)
    assert supervised_positions(packed).positions.tolist() == [0, 1, 2, 5]
