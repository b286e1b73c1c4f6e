"""A choice task of the user's own: rows in files, and the columns and words of which its questions are made."""

import string
from typing import Literal, Self

from pydantic import Field, model_validator

from afp_ray.config.base import StrictModel
from afp_ray.languages import is_known, may_be_declared, unknown_language


class OwnTaskConfig(StrictModel):
    """Where the rows of a choice task lie, and how a row becomes a question."""

    kind: Literal["jsonl"] = "jsonl"
    """One JSON object a row; a file may be packed (`.gz`, `.xz`, ...)."""
    path: str
    """File of the rows. `{language}` stands for the language's code and `{split}` for `validation` (or `dev`, `val`)
    and `test`; without `{split}` it is one file a language, of whose contents one half is validation, the other test.
    `~` and `${AFP_DATA_DIR}` are expanded."""
    template: str
    """What stands before the choices, with columns in braces: `"{premise} {question}"`; `{{` is a brace. A space
    follows where the language writes one."""
    choices: tuple[str, ...] = Field(min_length=1)
    """Columns of the choices in order; one column holds a list of them."""
    label: str
    """Column of the right answer: its place among the choices from 0, or one of `labels`."""
    labels: tuple[str, ...] | None = Field(default=None, min_length=2)
    """What the label column says for each choice in order, for instance `[A, B]`; null counts from 0."""
    id: str | None = None
    """Column that names the content of a row, the same in every language, by which intervals and tests pair rows; null
    takes the row's number in its file."""
    languages: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Languages that it is scored in; null takes those of the other tasks."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the template, each once."""
        parts = string.Formatter().parse(self.template)
        return tuple(dict.fromkeys(name for _, name, _, _ in parts if name is not None))

    @property
    def words(self) -> str:
        """The template without its columns."""
        return "".join(text for text, _, _, _ in string.Formatter().parse(self.template))

    @model_validator(mode="after")
    def _template_names_columns(self) -> Self:
        try:
            fields = [part for part in string.Formatter().parse(self.template) if part[1] is not None]
        except ValueError as error:
            raise ValueError(
                f"`template` {self.template!r} is not well formed: {error}; write {{{{ for a brace"
            ) from error
        for _, name, form, conversion in fields:
            if not name or form or conversion:
                raise ValueError(
                    f"`template` {self.template!r} has {{{name}{'!' + conversion if conversion else ''}"
                    f"{':' + form if form else ''}}}; write the name of a column in the braces, and nothing else"
                )
        if not fields:
            raise ValueError(f"`template` {self.template!r} names no column; write one in braces: {{question}}")
        return self

    @model_validator(mode="after")
    def _lists_are_sets(self) -> Self:
        for name in ("choices", "labels", "languages"):
            values = getattr(self, name)
            if values is not None and len(set(values)) != len(values):
                raise ValueError(f"`{name}` repeats a value: {list(values)}")
        if self.labels is not None and len(self.choices) > 1 and len(self.labels) != len(self.choices):
            raise ValueError(
                f"`labels` has {len(self.labels)} values for {len(self.choices)} choices; give one for each"
            )
        for code in self.languages or ():
            if not is_known(code) and not may_be_declared(code):
                raise ValueError(f"language {unknown_language(code)}")
        return self
