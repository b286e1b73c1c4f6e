"""Every method's loss and gradient are its closed definition, computed here with plain torch from the texts alone."""

import math
from collections import Counter
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from tiny_models import SIZES, build_tokenizer
from training_cases import relative_error

from afp_ray.config import StudyConfig, TrialConfig, nest
from afp_ray.data.batches import Batching, TrainBatch, TrainingBatches
from afp_ray.data.mixing import draw_instructions
from afp_ray.data.rows import Instruction, ParallelInstruction, TranslationPair
from afp_ray.methods import METHODS
from afp_ray.records import Host
from afp_ray.search import make_arms, resolve
from afp_ray.training.loop import TrainingRequest, train
from afp_ray.training.schedule import terms_of_step
from afp_ray.training.step import StepLosses, TrainingStep

NUM_LAYERS = 4
LANGUAGES = ("en", "zh", "th")
PAIRS = [
    TranslationPair("w1 w2 w3", "w11 w12", "en", "zh", "a"),
    TranslationPair("w4 w5", "w14 w15 w16 w17", "en", "th", "b"),
    TranslationPair("w6 w7 w8 w9 w2", "w18 w19 w11", "en", "zh", "c"),
]
INSTRUCTIONS = [
    Instruction("w20 w21 w22", "w23 w24", "en", "zh", "d"),
    Instruction("w25", "w26 w27 w28 w29", "th", "en", "e"),
    Instruction("w30 w31 w32 w33 w34", "w35", "zh", "zh", "f"),
]


@dataclass(frozen=True)
class Definition:
    """What a method trains on in one step, said without the project's own words."""

    contrastive: float
    instruction: float
    layers: tuple[int, ...] = (1,)
    pooling: str = "last"
    temperature: float = 0.05
    both_directions: bool = False
    own_side: bool = False
    in_turns: bool = False


INSTRUCTIONS_ALONE = Definition(0.0, 1.0)
BOTH = Definition(1.0, 1.5)
DEFINITIONS = {
    "ft": INSTRUCTIONS_ALONE,
    "mcl": Definition(1.0, 0.0),
    "mit": INSTRUCTIONS_ALONE,
    "mit_nfold": INSTRUCTIONS_ALONE,
    "cit": INSTRUCTIONS_ALONE,
    "mcl_mit": BOTH,
    "coit": INSTRUCTIONS_ALONE,
    "crossin": INSTRUCTIONS_ALONE,
    "mid_align": Definition(1.0, 1.0, (2,), "mean", 0.1, in_turns=True),
    "prealign": Definition(1.0, 1.0, (0, 1, 2, 3, 4), "mean", 0.1, own_side=True),
    "alignx": Definition(0.15, 1.0, (2,), "mean", 0.1),
    "infoxlm": Definition(1.0, 1.0, (2,), "last", 0.25),
    "afp": BOTH,
    "afp_paper": BOTH,
}
UNTRAINED = {
    "base": "embedded",
    "bloomz_560m": "bigscience/bloomz-560m",
    "bloomz_7b1": "bigscience/bloomz-7b1",
    "polylm_1b7": "DAMO-NLP-MT/polylm-1.7b",
    "polylm_13b": "DAMO-NLP-MT/polylm-13b",
}
ONE_TERM = [method for method, meant in DEFINITIONS.items() if 0 in (meant.contrastive, meant.instruction)]


def config_of(method: str, **fields: Any) -> TrialConfig:
    """The trial of a method, with small amounts where it takes any."""
    small = {"data.num_pairs": 6, "data.num_instructions": 12, "data.languages": ["zh", "th"], **fields}
    return TrialConfig.model_validate(nest({**small, "method": method, **METHODS[method]}))


def model_of_four_blocks() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.LlamaConfig(**{**SIZES, "num_hidden_layers": NUM_LAYERS})
        model = transformers.AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def fixed_batch() -> TrainBatch:
    """All rows in one batch, the pairs and the instructions each in some order."""
    tokenizer = build_tokenizer()
    return TrainingBatches(PAIRS, INSTRUCTIONS, tokenizer, Batching(batch_size=3, max_length=16, seed=0)).batch(0)


def forward(model: Any, text: str, *, ending: tuple[int, ...] = ()) -> tuple[torch.Tensor, Any]:
    """(T,) tokens of one text, and the outputs of a whole forward over it alone."""
    ids = torch.tensor([[*build_tokenizer()(text)["input_ids"], *ending]])
    return ids[0], model(input_ids=ids, output_hidden_states=True)


def info_nce(
    anchors: list[torch.Tensor], others: list[torch.Tensor], temperature: float, *, own_side: bool = False
) -> torch.Tensor:
    losses = []
    for index, anchor in enumerate(anchors):
        same = [*anchors[:index], *anchors[index + 1 :]] if own_side else []
        cosines = [torch.dot(anchor, other) / anchor.norm() / other.norm() for other in [*others, *same]]
        scores = (torch.stack(cosines) / temperature).exp()
        losses.append(-(scores[index] / scores.sum()).log())
    return torch.stack(losses).mean()


def contrastive_term(model: Any, meant: Definition) -> torch.Tensor:
    """Mean over the layers of InfoNCE between the pooled states of sentences that are encoded one by one."""
    of_layers = []
    for layer in meant.layers:
        sides: list[list[torch.Tensor]] = []
        for texts in ([pair.source for pair in PAIRS], [pair.target for pair in PAIRS]):
            states = [forward(model, text)[1].hidden_states[layer][0] for text in texts]
            sides.append([one[-1] if meant.pooling == "last" else one.mean(dim=0) for one in states])
        value = info_nce(sides[0], sides[1], meant.temperature, own_side=meant.own_side)
        if meant.both_directions:
            value = (value + info_nce(sides[1], sides[0], meant.temperature)) / 2
        of_layers.append(value)
    return torch.stack(of_layers).mean()


def instruction_term(model: Any) -> torch.Tensor:
    """Cross-entropy of responses and ends of texts, mean over their tokens; prompts and pairs have none."""
    end = build_tokenizer().eos_token_id
    losses = []
    for row in INSTRUCTIONS:
        ids, outputs = forward(model, f"{row.prompt} {row.response}", ending=(end,))
        length = len(row.prompt.split())  # a word is a token
        losses.append(F.cross_entropy(outputs.logits[0, length - 1 : -1], ids[length:], reduction="none"))
    return torch.cat(losses).mean()


def by_definition(meant: Definition, step: int) -> tuple[torch.Tensor | None, torch.Tensor | None, dict[str, Any]]:
    """Both terms where the step has them, and the gradient of their weighted sum."""
    model = model_of_four_blocks()
    has_contrastive = meant.contrastive > 0 and (not meant.in_turns or step % 2 == 1)
    has_instruction = meant.instruction > 0 and (not meant.in_turns or step % 2 == 0)
    contrastive = contrastive_term(model, meant) if has_contrastive else None
    instruction = instruction_term(model) if has_instruction else None
    total = torch.zeros(())
    if contrastive is not None:
        total = total + meant.contrastive * contrastive
    if instruction is not None:
        total = total + meant.instruction * instruction
    total.backward()
    return contrastive, instruction, gradients_of(model)


def gradients_of(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


def step_of(method: str, batch: TrainBatch) -> tuple[StepLosses, dict[str, torch.Tensor]]:
    model = model_of_four_blocks()
    losses = TrainingStep(model, config_of(method).loss, device=torch.device("cpu")).backward(batch)
    return losses, gradients_of(model)


def test_every_method_is_defined_here() -> None:
    assert {*DEFINITIONS, *UNTRAINED} == set(METHODS)


@pytest.mark.parametrize("step", [0, 1])
@pytest.mark.parametrize("method", DEFINITIONS)
def test_loss_and_gradient_are_the_definition(method: str, step: int) -> None:
    contrastive, instruction, expected = by_definition(DEFINITIONS[method], step)
    losses, found = step_of(method, terms_of_step(fixed_batch(), config_of(method).loss, step))
    for value, meant in ((losses.contrastive, contrastive), (losses.instruction, instruction)):
        assert (value is None) == (meant is None)
        if value is not None and meant is not None:
            assert value.item() == pytest.approx(meant.item(), rel=1e-5)
    assert relative_error(found, expected) <= 1e-5


@pytest.mark.parametrize("method", ONE_TERM)
def test_a_term_of_weight_zero_is_gone_to_the_last_bit(method: str) -> None:
    batch, loss = fixed_batch(), config_of(method).loss
    bare = TrainBatch(
        batch.pairs if loss.contrastive_weight else None,
        batch.instructions if loss.instruction_weight else (),
        batch.num_supervised if loss.instruction_weight else 0,
    )
    (_, found), (_, expected) = step_of(method, batch), step_of(method, bare)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("method", UNTRAINED)
def test_an_untrained_row_leaves_the_weights_alone(method: str) -> None:
    config, model = config_of(method), model_of_four_blocks()
    before = {name: value.clone() for name, value in model.state_dict().items()}

    class NoBatches:
        def batch(self, step: int, **sizes: Any) -> TrainBatch:
            raise AssertionError("an untrained row takes no batch")

    summary = train(model, NoBatches(), TrainingRequest(config.loss, config.training, seed=config.seed), Host())
    assert summary.steps == 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert config.model.name == UNTRAINED[method]


def drawn(method: str, **fields: Any) -> list[Instruction]:
    """The instruction rows of a method, from enough parallel ones."""
    prompts, responses = {code: f"ask {code}" for code in LANGUAGES}, {code: code for code in LANGUAGES}
    rows = [ParallelInstruction(prompts, responses, f"i{number}", "question") for number in range(12)]
    return draw_instructions(rows, PAIRS, config_of(method, **fields).data, seed=0)


def crosses(row: Instruction) -> bool:
    return row.prompt_language != row.response_language


def is_translation(row: Instruction) -> bool:
    return row.content_id in {pair.content_id for pair in PAIRS}


def test_which_rows_each_method_trains_on() -> None:
    for method in ("mit", "mit_nfold", "mcl_mit"):
        assert not any(crosses(row) or is_translation(row) for row in drawn(method)), method
    assert all(crosses(row) and not is_translation(row) for row in drawn("cit"))
    for method in ("ft", "alignx", "infoxlm"):
        assert all(is_translation(row) for row in drawn(method)), method
    tasks = [row for row in drawn("coit") if is_translation(row)]
    assert len(tasks) == 4
    assert not any(crosses(row) for row in drawn("coit") if row not in tasks)
    for method in ("afp", "afp_paper", "mid_align", "prealign"):
        assert sum(crosses(row) for row in drawn(method)) == 6, method
    assert drawn("mcl") == []
    folds = Counter(row.content_id for row in drawn("mit_nfold"))
    assert list(folds.values()) == [3, 3, 3, 3]  # twelve rows are four instructions in three languages
    ways = Counter((row.prompt_language, row.response_language) for row in drawn("crossin") if crosses(row))
    assert ways == dict.fromkeys(permutations(LANGUAGES, 2), 1)  # the way from zh to th is among them


def test_idle_fields_are_pinned_so_that_arms_of_one_recipe_are_one() -> None:
    compare = {
        "method": ["base", "mcl", "ft", "cit", "bloomz_560m"],
        "data.filter": ["none", "rules"],
        "loss.layer": [1, "middle"],
        "data.instruction_folds": [1, 3],
    }
    arms = make_arms(StudyConfig.model_validate({"name": "s", "compare": compare}))
    counts = {method: sum(arm.method == method for arm in arms) for method in compare["method"]}
    assert counts == {"base": 1, "mcl": 4, "ft": 2, "cit": 4, "bloomz_560m": 1}


def test_a_published_checkpoint_differs_from_base_in_its_model_alone() -> None:
    study = StudyConfig.model_validate({"name": "s", "compare": {"method": list(UNTRAINED)}})
    base, *others = (resolve(arm, {}, 3) for arm in make_arms(study))
    assert len({other.model.name for other in others}) == len(others)
    for other in others:
        assert other.model_copy(update={"model": base.model, "method": "base"}) == base


def test_terms_in_turns_need_both_and_end_with_a_loss_of_each() -> None:
    batch = fixed_batch()

    class SameBatch:
        def batch(self, step: int, **sizes: Any) -> TrainBatch:
            return batch

    config = config_of("mid_align", **{"training.max_steps": 5, "training.batch_size": 3})
    summary = train(model_of_four_blocks(), SameBatch(), TrainingRequest(config.loss, config.training), Host())
    assert summary.contrastive_loss is not None and math.isfinite(summary.contrastive_loss)
    assert summary.instruction_loss is not None and math.isfinite(summary.instruction_loss)
    alone = config.loss.model_copy(update={"instruction_weight": 0.0})
    assert terms_of_step(batch, alone, 0).pairs is batch.pairs
