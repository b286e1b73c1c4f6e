"""Drafts a study from what a survey found: every choice with its reason, and what is left out with its reason."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from afp_ray.config import DataConfig, SourceConfig, TrialConfig
from afp_ray.config.model import EMBEDDED
from afp_ray.data import embedded, sources
from afp_ray.errors import DataError, UserError
from afp_ray.evaluation.available import choice_languages
from afp_ray.planning.resources import num_gpus
from afp_ray.planning.survey import Corpus, Survey
from afp_ray.trial.prepare import read_candidates

HELD_OUT: Final = ("flores", "ntrex")
"""Corpora that are measured on rather than trained on, where another one is there to train on."""
WITH_BOTH: Final = ("base", "mcl", "mit", "cit", "afp")
WITH_PAIRS: Final = ("base", "mcl", "ft", "alignx")
WITH_INSTRUCTIONS: Final = ("base", "mit", "cit")
BESIDE: Final = ("opus100", "tico19", "tatoeba", "bactrian_x", "xquad", "flores", "ntrex", "mt_bench", "udhr")
"""Which corpus beside the tasks is trained on first."""
MAX_LANGUAGES: Final = 6
"""Languages of such a corpus."""
_MAX_ROWS, _MAX_HELD_OUT, _MAX_TASK_ROWS = 100_000, 100, 200
_SMALL_MODEL = 512
"""Width below which a model is a small one, which learns at a hundred times the rate."""


@dataclass(slots=True)
class Draft:
    """A study to write.

    Attributes:
        fields: values by top-level field; `fixed` and `tune` by dotted name.
        comments: why a value was chosen, by its name.
        chose: the choices in a few lines.
        left_out: what is not used, and why.
    """

    fields: dict[str, Any]
    comments: dict[str, str] = field(default_factory=dict)
    chose: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    def fix(self, name: str, value: Any, why: str = "") -> None:
        """Give a field of a trial a value, with the reason."""
        self.fields["fixed"][name] = value
        if why:
            self.comments[name] = why


def draft_study(name: str, seen: Survey) -> Draft:
    """A study of what was found; what is missing is taken from the embedded model, corpus and tasks.

    Raises: DataError when nothing that was named can be used.
    """
    draft = Draft({"name": name, "fixed": {}}, left_out=dict(seen.unusable))
    if not (seen.models or seen.corpora or seen.data_dirs or seen.beside) and seen.unusable:
        first, reason = next(iter(seen.unusable.items()))
        raise DataError(
            f"nothing here can be used: {reason}", where=first, fix="name a TSV, JSONL, model or task folder"
        )
    _choose_model(draft, seen)
    data = _choose_data(draft, seen)
    _choose_held_out(draft, seen, data)
    _choose_amounts(draft, data)
    _choose_tasks(draft, seen, data)
    _choose_search(draft, seen, data)
    return draft


def _choose_model(draft: Draft, seen: Survey) -> None:
    names = list(seen.models) or [EMBEDDED]
    model = seen.models.get(names[0])
    why = f"{model.model_type}, {model.num_layers} blocks" if model else "no model that was named can be used"
    draft.fix("model.name", names[0], why if model or seen.unusable else "ships with the package")
    draft.chose.append(f"model {names[0]}{'' if model or not seen.unusable else ', in place of what cannot be used'}")
    for name in names[1:]:
        draft.left_out[name] = f"one model a study is drafted; compare: {{model.name: [{names[0]}, {name}]}} has both"


@dataclass(slots=True)
class _Data:
    """Training rows: their sources, the languages, and how many rows each corpus has of each."""

    pivot: str
    languages: tuple[str, ...]
    corpora: list[Corpus]
    counts: dict[str, Mapping[str, int]]
    held_out: list[Corpus]

    @property
    def sources(self) -> tuple[SourceConfig, ...]:
        return tuple(corpus.source for corpus in self.corpora)

    @property
    def has_pairs(self) -> bool:
        return any(corpus.pairs for corpus in self.corpora)

    @property
    def has_instructions(self) -> bool:
        return any(corpus.instructions for corpus in self.corpora)


def _choose_data(draft: Draft, seen: Survey) -> _Data:
    corpora = seen.corpora or _beside(draft, seen)
    if not corpora:
        codes = tuple(code for code in embedded.LANGUAGES if code != "en")
        corpora = [Corpus(SourceConfig(), "en", codes[:4], ("en", *codes[:4]))]
        draft.chose.append("rows of the embedded corpus, since no pairs or instructions were named")
    pivots = [corpus.pivot for corpus in corpora]
    pivot = max(dict.fromkeys(pivots), key=pivots.count)
    data = _Data(pivot, (), [], {}, [])
    has_others = any(corpus.pairs and corpus.source.kind not in HELD_OUT for corpus in corpora)
    for corpus in corpora:
        path = corpus.source.path or EMBEDDED
        if corpus.pivot != pivot:
            draft.left_out[path] = f"its pivot is {corpus.pivot}, that of the others {pivot}"
        elif corpus.source.kind in HELD_OUT and has_others:
            data.held_out.append(corpus)
        elif problem := _instruction_problem(corpus):
            draft.left_out[path] = problem
        elif not corpus.pairs:
            data.corpora.append(corpus)
        else:
            _add_pairs(draft, data, corpus, path)
    data.languages = _languages(draft, seen, data)
    if not data.languages:
        raise DataError(
            "no file that was named has rows to train on",
            fix="; ".join(f"{name}: {why}" for name, why in draft.left_out.items()),
        )
    named = [source.model_dump(mode="json", exclude_defaults=True) for source in data.sources]
    if named != [{}]:
        draft.fix("data.sources", named)
    draft.fix("data.pivot", pivot)
    draft.fix("data.languages", list(data.languages))
    return data


def _add_pairs(draft: Draft, data: _Data, corpus: Corpus, path: str) -> None:
    """Read the pairs of a corpus once, so that what is broken is known now."""
    counts: dict[str, int] = {}
    for code in corpus.pairs:
        try:
            config = DataConfig(sources=(corpus.source,), pivot=corpus.pivot, languages=(code,))
            counts[code] = sum(report.num_kept for report in sources.read_pairs(config)[1])
        except UserError as error:
            draft.left_out[f"{path} ({code})"] = error.problem
    if counts or corpus.instructions:
        data.corpora.append(corpus)
        data.counts[path] = counts


def _beside(draft: Draft, seen: Survey) -> list[Corpus]:
    """The corpora of a folder of tasks that are trained on where none was named: pairs of one, instructions of one."""
    chosen: list[Corpus] = []
    for corpus in sorted(seen.beside, key=lambda corpus: BESIDE.index(corpus.source.kind)):
        adds_pairs = bool(corpus.pairs) and not any(other.pairs for other in chosen)
        adds_instructions = bool(corpus.instructions) and not any(other.instructions for other in chosen)
        if not adds_pairs and not adds_instructions:
            draft.left_out[corpus.source.path or ""] = f"{corpus.source.kind}: name it to train on it"
        elif problem := _instruction_problem(corpus):
            draft.left_out[corpus.source.path or ""] = problem
        else:
            chosen.append(corpus)
    return chosen


def _instruction_problem(corpus: Corpus) -> str:
    """Why the instructions of a corpus cannot be read; "" where they can, or where it has none."""
    if not corpus.instructions:
        return ""
    others = [code for code in corpus.instructions if code != corpus.pivot]
    try:
        sources.read_instructions(DataConfig(sources=(corpus.source,), pivot=corpus.pivot, languages=tuple(others)))
    except UserError as error:
        return error.problem
    return ""


def _languages(draft: Draft, seen: Survey, data: _Data) -> tuple[str, ...]:
    """Languages that the pairs have and, where there are instructions, those have as well."""
    codes = dict.fromkeys(code for counts in data.counts.values() for code, count in counts.items() if count)
    told = [corpus for corpus in data.corpora if corpus.instructions]
    shared = set.intersection(*(set(corpus.instructions) for corpus in told)) if told else set()
    if not codes:
        return tuple(code for code in told[0].instructions if code in shared and code != data.pivot) if told else ()
    if told and not shared & set(codes):
        for corpus in told:
            draft.left_out[corpus.source.path or EMBEDDED] = "its instructions share no language with the pairs"
        data.corpora = [corpus for corpus in data.corpora if corpus not in told]
        return tuple(codes)
    if lacking := [code for code in codes if told and code not in shared]:
        draft.left_out[f"pairs of {' '.join(lacking)}"] = "the instructions lack these languages"
    kept = [code for code in codes if code not in lacking]
    if len(kept) > MAX_LANGUAGES and not seen.corpora:
        draft.left_out[" ".join(kept[MAX_LANGUAGES:])] = f"{MAX_LANGUAGES} languages are a beginning"
        kept = kept[:MAX_LANGUAGES]
    return tuple(kept)


def _choose_held_out(draft: Draft, seen: Survey, data: _Data) -> None:
    """Held-out pairs: a corpus made for it, else a tenth of the training pairs."""
    if data.sources == (SourceConfig(),):
        return
    beside = [corpus for corpus in seen.beside if corpus.source.kind in HELD_OUT and corpus.pairs]
    for corpus in (*data.held_out, *data.corpora, *beside):
        if not set(data.languages) <= set(corpus.pairs):
            continue
        counts = data.counts.get(corpus.source.path or EMBEDDED, {})
        most = min((count // 10 for count in counts.values()), default=_MAX_HELD_OUT)
        number = min(_MAX_HELD_OUT, most)
        if number >= 2 and _has_held_out(corpus, data, number):
            named = corpus.source.model_dump(mode="json", exclude_defaults=True)
            why = (
                "taken out of training"
                if corpus in data.corpora
                else f"{corpus.source.kind} is measured on, not trained on"
            )
            draft.fix("evaluation.representation.source", named, why)
            draft.fix("evaluation.representation.num_pairs", number, "a language and split; retrieval is among these")
            return
    draft.fix("evaluation.representation", None, "no corpus has held-out pairs of every language: no retrieval")
    draft.left_out["retrieval"] = "no single corpus has enough pairs of every language to hold some out"


def _has_held_out(corpus: Corpus, data: _Data, number: int) -> bool:
    try:
        for code in data.languages:
            for split in ("validation", "test"):
                sources.load_heldout_pairs(
                    corpus.source, pivot=data.pivot, language=code, split=split, num_pairs=number
                )
    except UserError:
        return False
    return True


def _choose_amounts(draft: Draft, data: _Data) -> None:
    """Numbers of rows, by reading what is left once held-out sentences are out; steps by them."""
    fixed = draft.fields["fixed"]
    wanted = {"num_pairs": 2 if data.has_pairs else 0, "num_instructions": 1 if data.has_instructions else 0}
    representation = {name.rpartition(".")[2]: value for name, value in fixed.items() if ".representation." in name}
    evaluation = {"representation": representation or (None if "evaluation.representation" in fixed else {})}
    values = {"sources": data.sources, "pivot": data.pivot, "languages": data.languages, **wanted}
    loss = {"contrastive_weight": float(data.has_pairs), "instruction_weight": float(data.has_instructions)}
    config = TrialConfig.model_validate({"data": values, "evaluation": evaluation, "loss": loss})
    candidates = read_candidates(config)
    num_pairs = min(len(candidates.pairs), _MAX_ROWS)
    num_instructions = min(len(candidates.instructions), _MAX_ROWS)
    if data.has_pairs:
        why = f"all {len(candidates.pairs):,}" + (
            f"; {candidates.num_heldout:,} are held out" if candidates.num_heldout else ""
        )
        draft.fix("data.num_pairs", num_pairs, why)
    if data.has_instructions:
        draft.fix("data.num_instructions", num_instructions, f"of {len(candidates.instructions):,} in every language")
    elif data.has_pairs:
        draft.fix(
            "data.num_instructions", min(num_pairs, 4000), "translation tasks made from the pairs; none were named"
        )
    rows = max(num_pairs / 32 if data.has_pairs else 0, num_instructions / 16)
    steps = min(max(math.ceil(rows / 10) * 10, 50), 2000 if num_gpus() else 200)
    draft.fix("training.batch_size", 16)
    if data.has_pairs:
        draft.fix("training.pair_batch_size", 32, "pairs are cheap, and each is a negative of the others")
    draft.fix(
        "training.max_steps",
        steps,
        "about one pass over the rows" if steps >= rows else "less than one pass; raise it on a GPU",
    )


def _choose_tasks(draft: Draft, seen: Survey, data: _Data) -> None:
    """Choice tasks with the languages whose rows are there and become prompts."""
    codes = (data.pivot, *data.languages)
    data_dir, *others = seen.data_dirs or (None,)
    for other in others:
        draft.left_out[str(other)] = f"one folder of tasks a study; {data_dir} was named first"
    wanted = seen.data_dirs[data_dir] if data_dir else ("xnli", "pawsx", "xcopa", "xstorycloze")
    there = choice_languages(data_dir, codes, pivot=data.pivot)
    tasks = {name: found for name, found in there.items() if name in wanted and set(found) - {data.pivot}}
    for name in set(wanted) - set(tasks) if data_dir else ():
        draft.left_out[f"task {name}"] = f"no rows in {', '.join(data.languages)} that become prompts"
    if data_dir:
        draft.fix("evaluation.data_dir", data_dir)
    alike = len({tuple(found) for found in tasks.values()}) == 1 and set(next(iter(tasks.values()))) == set(codes)
    draft.fix(
        "evaluation.tasks",
        list(tasks) if alike or not tasks else tasks,
        "" if alike or not tasks else "each in the languages that it has",
    )
    if not tasks:
        draft.fields["objective"] = {"metric": "retrieval@1"}
        draft.comments["objective"] = "no task has rows in these languages; this is measured on the held-out pairs"
        draft.chose.append("no task: nothing is there in these languages, so retrieval decides")
    else:
        draft.fix("evaluation.limit", _MAX_TASK_ROWS, "rows a task, language and split; leave it out for all")
        draft.fields["objective"] = {"metric": "mean"}
        draft.chose.append("tasks " + ", ".join(f"{name} ({' '.join(found)})" for name, found in tasks.items()))


def _choose_search(draft: Draft, seen: Survey, data: _Data) -> None:
    """Arms by what there is to train on, and what is searched inside each."""
    name = draft.fields["fixed"]["model.name"]
    model = seen.models.get(name)
    is_small = name == EMBEDDED or (model is not None and model.hidden_size <= _SMALL_MODEL)
    limit = model.max_positions if model is not None else None
    rate, why = (1e-3, "for a model this small") if is_small else (1e-5, "as published for 564M to 7B")
    draft.fix("training.learning_rate", 1.5e-3 if name == EMBEDDED else rate, why)
    draft.fix("training.max_length", min(128, limit or 128))
    arms = (
        WITH_BOTH if data.has_pairs and data.has_instructions else WITH_PAIRS if data.has_pairs else WITH_INSTRUCTIONS
    )
    draft.fields |= {"compare": {"method": list(arms)}, "seeds": [0, 1, 2]}
    if data.has_pairs:
        num_layers = model.num_layers if model is not None else 2
        draft.fields["tune"] = {
            "loss.temperature": {"low": 0.02, "high": 0.2, "log": True},
            "loss.layer": {"low": 1, "high": num_layers, "int": True},
            "loss.pooling": {"choices": ["last", "mean"]},
        }
        draft.comments["loss.layer"] = f"the model has {num_layers} blocks"
        draft.fields |= {"budget": {"trials": 3}}
    if num_gpus():
        draft.fields["runtime"] = {"gpus_per_worker": 1}
    if not data.has_instructions:
        draft.left_out["mit, cit, afp"] = "they train on instructions, and no parallel instructions were named"
    if not data.has_pairs:
        draft.left_out["mcl, afp"] = "they train on translation pairs, and none were named"
    draft.chose.append(f"arms {', '.join(arms)}, three seeds")
