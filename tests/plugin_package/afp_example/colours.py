"""A task is a `Task`: rows with `id` and `content_id`, and how a row becomes a question. These rows come with it."""

from collections.abc import Sequence

from afp_ray.evaluation.task import Question, Row, Task
from afp_ray.languages import Language

_THINGS = {
    "en": ["snow", "milk", "coal", "night", "blood", "fire", "grass", "leaf", "sky", "sea", "sun", "gold"],
    "zh": ["雪", "牛奶", "煤", "夜", "血", "火", "草", "叶子", "天空", "海", "太阳", "金子"],
    "sw": ["theluji", "maziwa", "makaa", "usiku", "damu", "moto", "nyasi", "jani", "anga", "bahari", "jua", "dhahabu"],
}
_COLOURS = {
    "en": ["white", "black", "red", "green", "blue", "yellow"],
    "zh": ["白", "黑", "红", "绿", "蓝", "黄"],
    "sw": ["nyeupe", "nyeusi", "nyekundu", "kijani", "buluu", "njano"],
}


def rows(language: str, part: str) -> Sequence[Row]:
    """Two things of each colour: the first of them for validation, the second for the test; none to draw from."""
    if language not in _THINGS or part == "train":
        return ()
    first = 0 if part == "validation" else 1
    return [
        {
            "id": f"{part}-{colour}",
            "content_id": f"{part}-{colour}",  # the same in every language: intervals pair by it
            "thing": _THINGS[language][2 * colour + first],
            "right": _COLOURS[language][colour],
            "wrong": _COLOURS[language][(colour + 1) % 6],
        }
        for colour in range(6)
    ]


def render(row: Row, language: Language, words: Language) -> Question:
    """Both choices follow one context; only the choice is scored."""
    context = f"{row['thing']} ="
    return Question(choices=((context, f" {row['right']}"), (context, f" {row['wrong']}")), gold=0)


TASK = Task(name="colours", fields=("thing", "right", "wrong"), render=render, rows=rows)
