"""Chooses how a study trains on a card of a given size, by the memory that is computed for its own model."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from afp_ray.config import StudyConfig, TrialConfig, canonical_json
from afp_ray.errors import ConfigError
from afp_ray.planning.memory import MemoryModel, PassSizes, memory_model, usable_bytes
from afp_ray.planning.resources import num_gpus
from afp_ray.search.arms import ends_of, make_arms

CARDS: Final = {"24gb": 24 * 10**9, "48gb": 48 * 10**9, "80gb": 80 * 10**9}
"""Bytes of the cards that have a preset."""
_PRECISION, _LORA, _AGAIN = "training.precision", "training.lora", "runtime.gradient_checkpointing"
_ADAPTERS = {"rank": 16}
FORMS: Final[tuple[Mapping[str, Any], ...]] = (
    {_PRECISION: "bf16"},
    {_PRECISION: "bf16", _AGAIN: True},
    {_PRECISION: "bf16_resident"},
    {_PRECISION: "bf16_resident", _AGAIN: True},
    {_PRECISION: "bf16", _LORA: _ADAPTERS},
    {_PRECISION: "bf16", _LORA: _ADAPTERS, _AGAIN: True},
    {_PRECISION: "bf16_resident", _LORA: _ADAPTERS, _AGAIN: True},
)
"""Forms of training in the order in which they are tried: every weight before adapters, memory bought by time last."""
_WORTHWHILE = 8
"""Instructions of a pass below which a card is badly used: the next form is tried first."""


@dataclass(frozen=True, slots=True)
class Preset:
    """How a study trains on a card.

    Attributes:
        name: of the card.
        values: fields of the study by dotted name; those of a trial are fixed.
        peak_bytes: computed at the highest point of a step, of the arm that takes most.
        usable_bytes: what tensors may take of the card.
        arm: the arm that takes most.
    """

    name: str
    values: Mapping[str, Any]
    peak_bytes: int
    usable_bytes: int
    arm: str

    @property
    def overrides(self) -> list[str]:
        """The values as `--set` has them."""
        return [f"{name}={canonical_json(value)}" for name, value in self.values.items()]


def choose_preset(study: StudyConfig, name: str, *, given: Collection[str] = ()) -> Preset:
    """The first form of `FORMS` with passes of a worthwhile size; where none has them, the one with the largest.

    Args:
        study: as its file has it.
        name: of `CARDS`.
        given: fields that stay as they are; what `compare`, `arms` and `tune` name stays too.
    Raises: ConfigError for a name that is no preset, and where no form fits the card; ModelError for a model whose
        shapes cannot be told.
    """
    if name not in CARDS:
        raise ConfigError(f"there is no preset {name!r}", where="--preset", allowed=", ".join(CARDS))
    limit = usable_bytes(CARDS[name])
    taken = {*given, *study.compare, *study.tune, *(field for fields in study.arms.values() for field in fields)}
    if _is_taken("training.trainable", {*taken, *study.fixed}):
        taken.add(_LORA)  # which part is trained is the study's own question
    models: dict[str, MemoryModel] = {}
    best: tuple[int, Preset] | None = None
    least: int | None = None
    for form in FORMS:
        values = {field: value for field, value in form.items() if not _is_taken(field, taken)}
        trained = list(_trained(_with(study, values), models))
        if not trained:
            return Preset(name, {}, 0, limit, "")
        sizes = [model.largest(limit) for _, model in trained]
        smallest = max(model.peak(_one_of_each(model)) for _, model in trained)
        least = smallest if least is None else min(least, smallest)
        if None in sizes:
            continue
        fitting = [size for size in sizes if size is not None]
        preset = _preset(name, values, trained, fitting, taken)
        rows = min(size.instructions or _WORTHWHILE for size in fitting)
        wanted = min(_WORTHWHILE, min(model.whole.instructions or _WORTHWHILE for _, model in trained))
        if rows >= wanted:
            return preset
        if best is None or rows > best[0]:
            best = rows, preset
    if best is None:
        assert least is not None
        raise ConfigError(
            f"a step takes {least / 1e9:.1f} GB at least, and a card of {name} has {limit / 1e9:.1f} GB for tensors",
            where="--preset",
            allowed="larger: " + (", ".join(card for card in CARDS if usable_bytes(CARDS[card]) >= least) or "none"),
            fix="lower training.max_length, name a smaller model, or share it over workers: runtime.sharding: full",
        )
    return best[1]


def _is_taken(field: str, taken: Collection[str]) -> bool:
    return any(f"{name}.".startswith(f"{field}.") or f"{field}.".startswith(f"{name}.") for name in taken)


def _with(study: StudyConfig, values: Mapping[str, Any]) -> StudyConfig:
    """The study with these values, as if its file had them."""
    content = study.model_dump(mode="json")
    for field, value in values.items():
        section, _, name = field.partition(".")
        if section == "runtime":
            content["runtime"][name] = value
        else:
            content["fixed"] = {key: old for key, old in content["fixed"].items() if not key.startswith(f"{field}.")}
            content["fixed"][field] = value
    return StudyConfig.model_validate(content)


def _trained(study: StudyConfig, models: dict[str, MemoryModel]) -> Iterator[tuple[str, MemoryModel]]:
    """Arm and memory of each kind of trial that trains; `models` keeps what was counted for the next form."""
    seen = set()
    for arm in make_arms(study):
        for config in ends_of(arm, study.seeds[0]):
            key = canonical_json([config.model.model_dump(), config.loss.model_dump(), config.training.model_dump()])
            if config.training.max_steps > 0 and key not in seen:
                seen.add(key)
                yield arm.name, _counted(config, study, models)


def _counted(config: TrialConfig, study: StudyConfig, models: dict[str, MemoryModel]) -> MemoryModel:
    """The memory of a trial, whose shapes are counted once for a model, length, layer, precision and adapters."""
    training = config.training.model_dump(include={"max_length", "precision", "lora", "trainable"})
    key = canonical_json([config.model.model_dump(), config.loss.layer, training])
    runtime = study.runtime.of_training
    if key not in models:
        models[key] = memory_model(config, runtime)
    return replace(models[key], config=config, runtime=runtime, num_workers=study.runtime.num_workers)


def _one_of_each(model: MemoryModel) -> PassSizes:
    return PassSizes(min(1, model.whole.instructions), min(1, model.whole.pairs))


def _preset(
    name: str,
    values: Mapping[str, Any],
    trained: list[tuple[str, MemoryModel]],
    sizes: list[PassSizes],
    taken: Collection[str],
) -> Preset:
    """The form with the sizes of passes that all trials have room for; a whole batch in one pass needs no size."""
    chosen = dict(values)
    for field, part in (("micro_batch_size", "instructions"), ("pair_chunk_size", "pairs")):
        pairs = zip(sizes, trained, strict=True)
        fitting = [(getattr(size, part), getattr(model.whole, part)) for size, (_, model) in pairs]
        cut = [fits for fits, whole in fitting if 0 < fits < whole]
        if cut and not _is_taken(f"runtime.{field}", taken):
            chosen[f"runtime.{field}"] = min(cut)
    peaks = []
    for arm, model in trained:
        runtime = model.runtime.model_copy(
            update={field.partition(".")[2]: value for field, value in chosen.items() if field.startswith("runtime.")}
        )
        passes = replace(model, runtime=runtime)
        peaks.append((passes.peak(passes.asked), arm))
    peak, arm = max(peaks)
    return Preset(name, chosen, peak, usable_bytes(CARDS[name]), arm)


def preset_lines(preset: Preset) -> list[str]:
    """What was chosen and the memory that is expected of it, and whether there is a card here."""
    chosen = "  ".join(preset.overrides) or "nothing to choose: no arm trains"
    peak, usable = preset.peak_bytes / 1e9, preset.usable_bytes / 1e9
    lines = [f"preset {preset.name}  {chosen}"]
    if preset.arm:
        lines.append(f"memory {peak:.1f} GB computed for arm {preset.arm}, of {usable:.1f} GB that tensors have there")
    if not num_gpus():
        lines.append("note   this machine has no GPU: chosen by the size of the card alone")
    return lines
