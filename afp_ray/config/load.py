"""Study and trial files: YAML plus `--set` becomes a validated config, or an error at the line of the mistake."""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from afp_ray.config.base import canonical_json
from afp_ray.config.data import SOURCE_KINDS
from afp_ray.config.document import Document, KeyPath, Position, parse_value, read_document, write_document
from afp_ray.config.dotted import TOPS, dot, flat
from afp_ray.config.evaluation import CHOICE_TASKS, GENERATED_SCORES
from afp_ray.config.fields import (
    did_you_mean,
    fields_beside,
    is_section,
    models_in,
    trial_fields,
    value_type,
)
from afp_ray.config.search import ChoiceSpec, RangeSpec
from afp_ray.config.small import small_form
from afp_ray.config.study import StudyConfig, arm_name_problem, flatten, nest
from afp_ray.config.translate import error_at, parts_of, place_of, translate
from afp_ray.config.trial import METHOD_NAMES, TrialConfig
from afp_ray.errors import ConfigError
from afp_ray.languages import is_known, may_be_declared, unknown_language

_FINITE = ConfigDict(allow_inf_nan=False)
_Model = TypeVar("_Model", bound=BaseModel)


def load_study(
    path: str | Path | Mapping[str, Any], overrides: Sequence[str] = (), *, small: bool = False
) -> StudyConfig:
    """Read a study file, or a study that a program holds as a mapping.

    Args:
        path: YAML, or what would stand in it; the names under `fixed`, `compare` and `tune` may be dotted or nested.
        overrides: `name=value` each, over the file; `name` is a field of the study (`budget.trials`) or of a trial
            (`training.max_steps`, then it is fixed). Values are YAML.
        small: take the file's small form: what stands under `small` replaces the rest, and `overrides` come after.
    Returns: the study; names under `fixed`, `compare` and `tune` are dotted and known fields of a trial. A small form
        is a study like any other, whose own `small` is empty.
    Raises: ConfigError with file:line:column, the value, what is allowed and a fix. The small form is checked whichever
        form is asked for, so that a slip in it does not wait for the day it is run.
    """
    _require_sound_plugins()
    document = write_document(path) if isinstance(path, Mapping) else read_document(path)
    dot(document, document.values, ())
    has_small = bool(document.values.get("small"))
    if small and not has_small:
        raise document.error((), "the study has no small form", fix="add a section `small:`, or run it without --small")
    reduced = None
    with document.mistakes:
        reduced = small_form(document) if has_small else None
    study = None if small else _study_of(document, overrides)
    if reduced is not None:
        small_study = _study_of(reduced, overrides if small else ())
        study = small_study if small else study
    document.mistakes.refuse()
    assert study is not None
    return study


def _require_sound_plugins() -> None:
    """Refuse installed packages whose names clash, whatever the study uses: it must mean one thing.

    Raises: ConfigError with the packages.
    """
    for names in (METHOD_NAMES, CHOICE_TASKS, SOURCE_KINDS):
        names.plugins()


def _study_of(document: Document, overrides: Sequence[str]) -> StudyConfig | None:
    """The study of a document, as far as its mistakes leave one."""
    for override in overrides:
        with document.mistakes:
            _override_study(document, override)
    study = _without_mistakes(document, _misnamed_arms(document))
    if study is not None:
        _check_fields(study, document)
    return study


def _without_mistakes(document: Document, misnamed: Collection[str]) -> StudyConfig | None:
    """The study without the fields that are wrong, so that what the others say is checked as well.

    Args:
        document: the study.
        misnamed: arms that are left out from the start.
    Returns: None where it is not to be said which field that is.
    """
    values = {top: dict(value) if isinstance(value, dict) else value for top, value in document.values.items()}
    for name in misnamed:
        del values["arms"][name]
    while True:
        try:
            return StudyConfig.model_validate_json(json.dumps(values, allow_nan=False), strict=True)
        except ValidationError as error:
            _add_mistakes(error, document, StudyConfig)
            places = [place_of(details, document) for details in error.errors()]
            if not any([_take_out(values, place) for place in places]):
                return None


def _take_out(values: dict[str, Any], place: KeyPath) -> bool:
    """Take what stands at `place` out of the values of a study; whether it was there."""
    top, *rest = place or ("name",)
    if top == "name":
        was_there = values.get("name") != "nameless"
        values["name"] = "nameless"
        return was_there
    if rest and top in (*TOPS, "arms") and isinstance(values.get(str(top)), dict):
        return values[str(top)].pop(rest[0], None) is not None
    return values.pop(str(top), None) is not None


def load_trial(
    path: str | Path, overrides: Sequence[str] = (), *, methods: Mapping[str, Mapping[str, Any]] | None = None
) -> TrialConfig:
    """Read a trial file: a `TrialConfig` in YAML with dotted or nested names.

    Args:
        path: YAML.
        overrides: `name=value` each, over the file.
        methods: fields that each method pins, by method and dotted name; they win over the file.
    Raises: ConfigError with file:line:column, the value, what is allowed and a fix.
    """
    _require_sound_plugins()
    document = read_document(path)
    document.values, document.positions = flat(document, document.values, ())
    for override in overrides:
        with document.mistakes:
            name, value, positions, origin = _split(override)
            _require(name, trial_fields(), origin=origin)
            document.values[name] = value
            _locate_override(document, (name,), positions)
    _check_values(document.values, document, ())
    method = document.values.get("method", TrialConfig.model_fields["method"].default)
    pinned = (methods or {}).get(method, {}) if isinstance(method, str) else {}
    trial = _validate(TrialConfig, nest({**document.values, **pinned}), document)
    document.mistakes.refuse()
    assert trial is not None
    return trial


def _validate(
    model: type[_Model], values: Mapping[str, Any], document: Document, *, root: KeyPath = ()
) -> _Model | None:
    """Validate strictly (no text read as a number, no true read as 1); None where it has mistakes of the document."""
    try:
        return model.model_validate_json(json.dumps(values, allow_nan=False), strict=True)
    except ValidationError as error:
        _add_mistakes(error, document, model, root=root)
        return None


def _add_mistakes(error: ValidationError, document: Document, model: type[BaseModel], *, root: KeyPath = ()) -> None:
    """Note what pydantic has found, each at the place of its field."""
    places = [details["loc"] for details in error.errors()]
    for details in error.errors():
        is_missing, loc = details["type"] == "missing", details["loc"]
        if any(len(other) > len(loc) > 0 and other[: len(loc)] == loc for other in places):
            continue  # of a list that is too short without the items that are wrong
        if is_missing and (*root, *loc) in document.positions:
            continue  # it is there, and what is wrong with it is known
        mistake = translate(details, document, model=model, root=root)
        document.mistakes.add(mistake, key=f"{mistake.where} {loc[-1]}" if is_missing else "")


# --set


def _split(override: str) -> tuple[str, Any, Mapping[KeyPath, Position], str]:
    """Name, value, positions of the value's parts, and what errors call all of it."""
    name, separator, text = override.partition("=")
    name, origin = name.strip(), f"--set {override}"
    if not separator or not name:
        raise ConfigError(f"{override!r} is no `name=value`", where="--set", fix="write --set training.max_steps=200")
    return name, *parse_value(text, origin), origin


def _require(name: str, allowed: Iterable[str], *, origin: str) -> None:
    names = list(allowed)
    if name not in names:
        fix = did_you_mean(name, names)
        raise ConfigError(f"unknown field {name!r}", where=origin, allowed=fields_beside(name, names), fix=fix)


def _locate_override(document: Document, path: KeyPath, positions: Mapping[KeyPath, Position]) -> None:
    """Let what stands at `path` be found in a `--set`, down to the items of a list: no line of the file has them."""
    document.positions = {
        other: position for other, position in document.positions.items() if other[: len(path)] != path
    }
    document.positions |= {(*path, *inner): position for inner, position in positions.items()}


def _override_study(document: Document, override: str) -> None:
    """Put one `--set` over the values of a study file."""
    name, value, positions, origin = _split(override)
    fields = trial_fields()
    top, _, rest = ("fixed", "", name) if name in fields else name.partition(".")
    keys = [rest] if rest else []
    if top in TOPS and rest:
        part = rest.rpartition(".")[2]
        if top == "tune" and rest not in fields and part in {*RangeSpec.model_fields, *ChoiceSpec.model_fields}:
            keys = list(rest.rpartition(".")[::2])
        _require(keys[0], fields, origin=origin)
    elif top == "arms" and rest:
        keys = _arm_and_field(rest, document)
        for field in keys[1:]:
            _require(field, fields, origin=origin)
    elif name not in (study_names := _study_names()):
        names = [*study_names, *fields]
        fix = did_you_mean(name, names)
        is_known_section = any(other.startswith(f"{top}.") for other in names) and rest
        beside = fields_beside(name, names if is_known_section else study_names)
        raise ConfigError(f"unknown field {name!r}", where=origin, allowed=beside, fix=fix)
    else:
        keys = rest.split(".") if rest else []
    *parents, last = [top, *keys]
    section = document.values
    for key in parents:
        inner = section.setdefault(key, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"{key} is no mapping, so {name} cannot be set", where=origin)
        section = inner
    section[last] = value
    _locate_override(document, (top, *keys), positions)
    if isinstance(value, dict) and (top == "arms" or (top in TOPS and not rest)):
        dot(document, document.values, ())


def _arm_and_field(text: str, document: Document) -> list[str]:
    """Name and field of `full.loss.pooling`; the name alone where no part of it is one. Names may hold dots."""
    arms = document.values.get("arms")
    for name in sorted(arms if isinstance(arms, dict) else (), key=lambda name: -len(str(name))):
        if text == name or text.startswith(f"{name}."):
            return [name, text[len(name) + 1 :]] if text != name else [name]
    name, _, field = text.partition(".")
    return [name, field] if field else [name]


def _study_names() -> list[str]:
    """Fields of a study by dotted name, those of a trial and the small form left out."""
    names: list[str] = []
    for name, field in StudyConfig.model_fields.items():
        if name == "small":
            continue
        names.append(name)
        if is_section(field):
            names += [f"{name}.{inner}" for inner in models_in(field.annotation)[0].model_fields]
    return names


# Fields of a trial inside a study


def _misnamed_arms(document: Document) -> list[str]:
    """Named arms that cannot have that name, or have a seed; a mistake of the document each."""
    arms, misnamed = document.values.get("arms"), []
    for name, fields in arms.items() if isinstance(arms, dict) else ():
        if problem := arm_name_problem(name):
            problem, allowed, fix = parts_of(problem)
            mistake = error_at(document, ("arms", name), problem, at_key=True, allowed=allowed, fix=fix)
        elif isinstance(fields, dict) and "seed" in fields:
            problem, fix = "`seed` is never an arm's own", "list the seeds under `seeds`"
            mistake = error_at(document, ("arms", name, "seed"), problem, at_key=True, fix=fix)
        else:
            continue
        document.mistakes.add(mistake)
        misnamed.append(name)
    return misnamed


def _check_fields(study: StudyConfig, document: Document) -> None:
    fixed, num_before = flatten(study.fixed), len(document.mistakes)
    _check_values(study.fixed, document, ("fixed",))
    _check_sections(fixed, fixed, document, ("fixed",))
    is_fixed_right = len(document.mistakes) == num_before
    for name, own in study.arms.items():
        _check_values(own, document, ("arms", name))
        if is_fixed_right:  # what `fixed` has wrong is not each arm's mistake as well
            _check_sections({**fixed, **own}, own, document, ("arms", name))
    for name, values in study.compare.items():
        with document.mistakes:
            _require_field(name, document, ("compare", name))
            _check_list(name, values, document, ("compare", name))
    for name, spec in study.tune.items():
        with document.mistakes:
            _require_field(name, document, ("tune", name))
            _check_spec(name, spec, document)
    _check_objective(study, document)


def _check_sections(fields: Mapping[str, Any], own: Mapping[str, Any], document: Document, root: KeyPath) -> None:
    """Check what the fields of a section say together, for instance that the pivot is no target language.

    Args:
        fields: all that are set, by dotted name.
        own: those that stand at `root`; a section of which it has nothing was checked elsewhere.
    """
    nested, here, num_before = nest(dict(fields)), nest(dict(own)), len(document.mistakes)
    for section in ("data", "evaluation", "model"):
        if section in here:
            model = models_in(TrialConfig.model_fields[section].annotation)[0]
            _validate(model, nested[section], document, root=(*root, section))
    if len(document.mistakes) > num_before:
        return
    declared, by_task = fields.get("data.language_names") or {}, own.get("evaluation.tasks")
    lists: dict[KeyPath, Sequence[str]] = {("evaluation.languages",): own.get("evaluation.languages") or ()}
    lists |= {("evaluation.tasks", task): codes for task, codes in by_task.items()} if isinstance(by_task, dict) else {}
    for path, code in ((path, code) for path, codes in lists.items() for code in codes):
        if not is_known(code) and code not in declared:  # only the section `data` knows what is declared
            with document.mistakes:
                problem, allowed, fix = parts_of(f"language {unknown_language(code)}")
                raise error_at(document, (*root, *path), problem, allowed=allowed, fix=fix)


def _check_values(values: Mapping[str, Any], document: Document, root: KeyPath) -> None:
    for name, value in values.items():
        with document.mistakes:
            _require_field(name, document, (*root, name))
            _check_value(name, value, document, (*root, name))


def _require_field(name: str, document: Document, path: KeyPath) -> None:
    fields = trial_fields()
    if name not in fields:
        allowed, fix = fields_beside(name, fields), did_you_mean(name, fields)
        raise error_at(document, path, f"unknown field {name!r}", at_key=True, allowed=allowed, fix=fix)


def _check_list(name: str, values: Sequence[Any], document: Document, path: KeyPath) -> None:
    """Check the values that a field is given in turn, and that no two are one once the field has read them."""
    seen: dict[str, Any] = {}
    for index, value in enumerate(values):
        at = (*path, index)
        with document.mistakes:
            key = canonical_json(_check_value(name, value, document, at))
            if key in seen:
                shown = f"{json.dumps(seen[key])} and {json.dumps(value)}"
                problem = f"{name} repeats a value: {shown} are one once they are read"
                raise error_at(document, at, problem, fix="keep one of them")
            seen[key] = value


def _check_value(name: str, value: Any, document: Document, path: KeyPath) -> Any:
    """The value as its field reads it, checked against the field's type and range."""
    adapter = value_type(name)
    try:
        read = adapter.validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        errors = error.errors()
        details = next(
            (part for part in errors if part["type"] == "literal_error" and isinstance(value, str)), errors[0]
        )
        if value is None:  # of a union, pydantic names one part that it is not
            raise error_at(
                document,
                path,
                f"{name} cannot be null",
                allowed="null where the default of a field is null, or its page says so",
                fix="take null out of the list, or leave the field out",
            ) from None
        raise translate(details, document, root=path) from None
    return adapter.dump_python(read, mode="json")


def _check_spec(name: str, spec: RangeSpec | ChoiceSpec, document: Document) -> None:
    """Check the ends or choices of a searched field."""
    path: KeyPath = ("tune", name)
    if isinstance(spec, ChoiceSpec):
        _check_list(name, spec.choices, document, (*path, "choices"))
        return
    kinds = set(_plain_kinds(trial_fields()[name].annotation))
    if not kinds & {int, float}:
        raise error_at(document, path, f"{name} is no number, so it has no range", fix="give it `choices`")
    is_whole = float not in kinds
    if is_whole and not spec.int:
        raise error_at(document, path, f"{name} is a whole number", fix="add `int: true` to its range")
    for end in ("low", "high"):
        value = getattr(spec, end)
        with document.mistakes:
            _check_value(name, int(value) if is_whole else value, document, (*path, end))


def _plain_kinds(kind: Any) -> Iterator[Any]:
    """`kind` and what it is a union of, constraints left out: `int` of `Annotated[int, ...] | Literal["all"]`."""
    yield kind
    if get_origin(kind) is not Literal:
        for part in get_args(kind):
            yield from _plain_kinds(part)


def _check_objective(study: StudyConfig, document: Document) -> None:
    metrics: dict[KeyPath, str] = {("objective", "metric"): study.objective.metric}
    metrics |= {("objective", "also", index, "metric"): goal.metric for index, goal in enumerate(study.objective.also)}
    metrics |= {("constraints", index, "metric"): limit.metric for index, limit in enumerate(study.constraints)}
    for path, metric in metrics.items():
        with document.mistakes:
            _check_metric(metric, study, document, path)


def _check_metric(name: str, study: StudyConfig, document: Document, path: KeyPath) -> None:
    metric, _, language = name.partition("/")
    own = [task for fields in (study.fixed, *study.arms.values()) for task in fields.get("evaluation.own_tasks") or ()]
    known = ["mean", "pivot_mean", "retrieval@1", "alignment", "uniformity", *CHOICE_TASKS, *own, *GENERATED_SCORES]
    if metric not in known:
        problem = f"{'.'.join(map(str, path))} = {name!r} is not known"
        allowed = f"{', '.join(known)}, or TASK/LANGUAGE"
        raise error_at(document, path, problem, allowed=allowed, fix=did_you_mean(metric, known))
    if language and not is_known(language) and not may_be_declared(language):
        problem, allowed, fix = parts_of(f"language {unknown_language(language)}")
        raise error_at(document, path, problem, allowed=allowed, fix=fix)
