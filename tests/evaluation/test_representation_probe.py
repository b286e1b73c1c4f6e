"""The language probe: what it must tell, what it cannot, and that no translation of a sentence helps it."""

import numpy as np
import pytest
from numpy.typing import NDArray

from afp_ray.evaluation.probe import LanguageProbe, content_groups

LANGUAGES = ("en", "sw", "zh")


def labelled(num_contents: int) -> tuple[list[str], list[str]]:
    """Languages and contents of every content in every language."""
    contents = [str(number) for number in range(num_contents)]
    return [language for _ in contents for language in LANGUAGES], [name for name in contents for _ in LANGUAGES]


def test_languages_with_directions_of_their_own_are_all_told() -> None:
    languages, contents = labelled(10)
    direction = dict(zip(LANGUAGES, np.eye(3, 6), strict=True))
    noise = np.random.default_rng(0).normal(size=(len(languages), 6)) * 0.05
    states = np.stack([direction[language] for language in languages]) + noise
    assert LanguageProbe(languages, contents).accuracy(states) == dict.fromkeys(LANGUAGES, 1.0)


def test_translations_that_are_equal_leave_nothing_to_tell() -> None:
    languages, contents = labelled(12)
    state = np.random.default_rng(0).normal(size=(12, 5))
    probe = LanguageProbe(languages, contents)
    told = probe.accuracy(state[[int(name) for name in contents]])
    assert list(told.values()) == pytest.approx([probe.chance] * 3)
    assert probe.chance == pytest.approx(1 / 3)
    assert list(probe.accuracy(np.ones((36, 4))).values()) == pytest.approx([probe.chance] * 3)


def test_states_without_the_language_are_told_by_chance() -> None:
    languages, contents = labelled(400)
    states = np.random.default_rng(0).normal(size=(1200, 8))
    shares = LanguageProbe(languages, contents).accuracy(states)
    assert np.mean(list(shares.values())) == pytest.approx(1 / 3, abs=4 * np.sqrt(2 / 9 / 1200))


def test_a_sentence_is_told_without_its_translations() -> None:
    """Each content has a direction of its own, on which its two languages stand on opposite sides.

    A probe that has seen one of them knows the other; one that has seen neither knows nothing.
    """
    languages = ["en", "zh"] * 40
    directions = np.eye(40)
    states = np.stack([sign * directions[number] for number in range(40) for sign in (1.0, -1.0)])
    grouped = LanguageProbe(languages, [str(number) for number in range(40) for _ in range(2)]).accuracy(states)
    parted = LanguageProbe(languages, [str(number) for number in range(80)]).accuracy(states)
    assert list(grouped.values()) == pytest.approx([0.5, 0.5])
    assert min(parted.values()) > 0.6


@pytest.mark.parametrize("width", [3, 200], ids=["fewer directions than sentences", "more"])
def test_scale_shift_and_rotation_change_nothing(width: int) -> None:
    languages, contents = labelled(20)
    random = np.random.default_rng(1)
    states: NDArray[np.float64] = random.normal(size=(60, width))
    states[:, 0] += np.array([LANGUAGES.index(language) for language in languages]) * 0.7
    rotation = np.linalg.qr(random.normal(size=(width, width)))[0]
    probe = LanguageProbe(languages, contents)
    expected = probe.accuracy(states)
    assert expected != dict.fromkeys(LANGUAGES, 1.0)
    assert probe.accuracy(7.5 * states @ rotation + random.normal(size=width)) == pytest.approx(expected)


def test_the_order_of_sentences_and_the_size_of_a_language_change_nothing_of_note() -> None:
    languages, contents = labelled(30)
    states = np.random.default_rng(2).normal(size=(90, 6))
    states[:, 1] += np.array([LANGUAGES.index(language) for language in languages])
    expected = LanguageProbe(languages, contents).accuracy(states)
    order = np.random.default_rng(3).permutation(90)
    shuffled = LanguageProbe([languages[i] for i in order], [contents[i] for i in order])
    assert shuffled.accuracy(states[order]) == pytest.approx(expected)
    # Every English sentence three times: each weighs a third.
    more = [index for index in range(90) for _ in range(3 if languages[index] == "en" else 1)]
    repeated = LanguageProbe([languages[i] for i in more], [contents[i] for i in more])
    assert repeated.accuracy(states[more]) == pytest.approx(expected, abs=0.1)


def test_rows_that_share_a_key_through_others_are_one_content() -> None:
    keys = [("text a", "name 1"), ("text b", "name 2"), ("text b", "name 1"), ("text c", "name 3")]
    groups = content_groups(keys)
    assert groups[0] == groups[1] == groups[2]
    assert groups[3] not in groups[:3]
    assert content_groups(keys[::-1])[::-1] == groups
