"""Reads the hand-written word files of the embedded small world and puts its facts into sentences."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal, NamedTuple

import yaml

from afp_ray.languages import LANGUAGES as PROMPT_LANGUAGES

PIVOT = "en"
LANGUAGES: tuple[str, ...] = ("en", "zh", "es", "id", "vi", "tr", "th", "sw")
GENERATOR_VERSION = 1
"""Raise it whenever the generator writes other text from the same word files."""

Subject = Literal["name", "pronoun", "who"]
_FOLDER = resources.files(__package__) / "lexicon"


class Fact(NamedTuple):
    """One thing that can be said in every language.

    Attributes:
        kind: the section of the word files: events, fillers, values, classes, families, frames or tails.
        key: the entry of that section.
        form: which of the entry's forms, 0 where it has one.
        a: the person it is about.
        b: the other person of families and frames, else "".
    """

    kind: str
    key: str
    form: int
    a: str
    b: str = ""

    def __str__(self) -> str:
        people = f"{self.a}+{self.b}" if self.b else self.a
        return f"{self.kind}:{self.key}.{self.form}:{people}"


def _parse(text: str) -> Any:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C loader is ten times as fast where it was built
    return yaml.load(text, Loader=loader)  # noqa: S506 - both loaders are safe ones


@cache
def read_world() -> Mapping[str, Any]:
    """The structure that all languages share, as `world.yaml` states it."""
    world: Mapping[str, Any] = _parse((_FOLDER / "world.yaml").read_text(encoding="utf-8"))
    return world


@cache
def corpus_fingerprint() -> str:
    """sha256, in hexadecimal, of the word files, the prompt words and the generator's version."""
    digest = hashlib.sha256(f"generator {GENERATOR_VERSION}".encode())
    for name in ("world", *LANGUAGES):
        text = (_FOLDER / f"{name}.yaml").read_text(encoding="utf-8")  # text: line ends may differ between checkouts
        digest.update(f"\n--- {name}\n{text}".encode())
    for code in LANGUAGES:
        digest.update(f"\n{code} {sorted(PROMPT_LANGUAGES[code].words.items())}".encode())
    return digest.hexdigest()


def capitalise(text: str, language: str) -> str:
    """`text` with its first letter in upper case; Turkish keeps the dot of its i."""
    first = "İ" if language == "tr" and text[:1] == "i" else text[:1].upper()
    return first + text[1:]


@dataclass(frozen=True)
class Lexicon:
    """The words of one language and the way it joins them.

    Attributes:
        language: ISO 639-1 code.
        entries: the language's word file.
        genders: f or m by person.
        space: what stands between words, "" in Chinese and Thai.
    """

    language: str
    entries: Mapping[str, Any]
    genders: Mapping[str, str]
    space: str

    def word(self, name: str) -> str:
        """A prompt word (right, yes, also, no, because, so) as evaluation writes it."""
        return PROMPT_LANGUAGES[self.language].literal(name)

    def name(self, person: str) -> Any:
        """The person's name; in Turkish a mapping of its cases."""
        return self.entries["names"][person]

    def nominative(self, person: str) -> str:
        """The person's name as the subject of a sentence."""
        name = self.name(person)
        return str(name["nom"] if isinstance(name, dict) else name)

    def subject(self, person: str, kind: Subject) -> str:
        """The subject of a clause: a name, a pronoun ("" where the language drops it) or the question word."""
        if kind == "name":
            return self.nominative(person)
        if kind == "who":
            return str(self.entries["words"]["who"])
        return str(self.entries["words"]["she" if self.genders[person] == "f" else "he"])

    def clause(self, fact: Fact, *, subject: Subject = "name") -> str:
        """The fact as a clause: no capital, no full stop."""
        entry = self.entries[fact.kind][fact.key]
        text = str(entry[fact.form] if isinstance(entry, list) else entry)
        is_feminine = subject != "who" and self.genders[fact.a] == "f"
        start = self.subject(fact.a, subject)
        if "{a}" in text:
            text = self._with_people(text, start, fact.b)
        elif start:
            text = f"{start}{self.space}{text}"
        return text.replace("{o}", "a" if is_feminine else "o").replace("{f}", "a" if is_feminine else "")

    def _with_people(self, text: str, a: str, b: str) -> str:
        text = text.replace("{a}", a, 1)
        name = self.name(b)
        if isinstance(name, str):
            return text.replace("{b}", name)
        for case, form in name.items():
            text = text.replace(f"{{b.{case}}}", form)
        return text.replace("{b}", name["nom"])

    def sentence(self, fact: Fact, *, subject: Subject = "name", time: str = "") -> str:
        """The fact as a sentence, with a capital and the language's full stop (Thai has none).

        Args:
            time: key of a time expression that opens the sentence, or "".
        """
        clause = self.clause(fact, subject=subject)
        if time:
            clause = f"{self.entries['times'][time]}{self.space}{clause}"
        return self.finish(clause)

    def finish(self, clause: str) -> str:
        """`clause` with a capital and a full stop."""
        return capitalise(clause, self.language) + str(self.entries["words"]["stop"])

    def who_question(self, fact: Fact) -> str:
        """The question after the person of the fact."""
        words = self.entries["words"]
        clause = capitalise(self.clause(fact, subject="who"), self.language)
        return f"{words['question_open']}{clause}{words['question_close']}"

    def question(self, key: str, person: str = "") -> str:
        """One of the questions of the word file, about `person` where it names one."""
        text = str(self.entries["questions"][key])
        return text.replace("{a}", self.nominative(person)) if person else text

    def join(self, sentences: list[str]) -> str:
        """Sentences as running text; Thai parts them by a space, Chinese by nothing."""
        return ("" if self.language == "zh" else " ").join(sentences)


@cache
def read_lexicon(language: str) -> Lexicon:
    """The words of `language`, one of `LANGUAGES`."""
    entries = _parse((_FOLDER / f"{language}.yaml").read_text(encoding="utf-8"))
    return Lexicon(language, entries, read_world()["people"], PROMPT_LANGUAGES[language].space)
