"""Words know where they stand, whatever the script, and batches hold what was asked."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from regard.data.lexicon import LONGEST_WORD, Lexicon
from regard.data.passages import Window, passage, spans
from regard.data.squad import Question


@given(st.text())
def test_words_are_cut_out_of_the_text_and_nothing_but_space_is_lost(text: str) -> None:
    places = spans(text)
    assert all(a < b for a, b in places)
    assert all(before[1] <= after[0] for before, after in pairwise(places))
    kept = {n for a, b in places for n in range(a, b)}
    assert all(n in kept or char.isspace() for n, char in enumerate(text))
    assert not any(char.isspace() for a, b in places for char in text[a:b])


def test_words_of_many_scripts() -> None:
    cut = {
        "The cat's 3,50€": ["The", "cat", "'", "s", "3", ",", "50", "€"],
        "我在2008年来。": ["我", "在", "2008", "年", "来", "。"],
        "東京タワーは高い": ["東", "京", "タワー", "は", "高", "い"],
        "नमस्ते दुनिया": ["नमस्ते", "दुनिया"],
        "cafe\u0301 x": ["cafe\u0301", "x"],
        "서울은 큽니다": ["서울은", "큽니다"],
        " \n\t": [],
    }
    for text, words in cut.items():
        assert list(passage(text).words) == words


def test_an_answer_has_its_words_and_its_words_are_the_answer() -> None:
    context = "他在东京塔(1958年)前, near  Tokyo Tower, waited."
    text = passage(context)
    for answer in ("东京塔", "1958年", "near  Tokyo", "Tower", "他", "."):
        [(first, last)] = text.answers(Question("?", context, ((answer, context.index(answer)),)))
        assert text.between(first, last) == answer
    assert text.answers(Question("?", context, (("958", context.index("958")),))) == [
        (6, 6)
    ]  # a part: the whole word
    assert text.answers(Question("?", context, (("nowhere", -1),))) == []
    assert text.between(0, -1) == ""


def test_windows_cover_every_word() -> None:
    for count in (1, 5, 6, 7, 12, 13, 50):
        limits = passage(" ".join("a" * count)).windows(6, 4)
        assert {n for first, last in limits for n in range(first, last)} == set(range(count))
        assert all(last - first == min(6, count) for first, last in limits)


def test_one_window_is_learnt_from_and_empty_ones_where_questions_may_have_no_answer() -> None:
    context = " ".join(f"w{n}" for n in range(40)).replace("w", "w ")  # w 0 w 1 ...
    one = Question("?", context, (("30", context.index("30")),))
    [window] = Window.to_learn(one, ("?",), 20, 10, null=False)
    [(first, last, share)] = window.answers
    assert (window.context[first], first, share) == ("30", last, 1.0)
    several = list(Window.to_learn(one, ("?",), 20, 10, null=True))
    assert sum(bool(row.answers) for row in several) == 1
    assert all("30" not in row.context for row in several if not row.answers)
    assert list(Window.to_learn(Question("?", context, ((context, 0),)), ("?",), 20, 10, null=True)) == []
    assert len(list(Window.to_learn(Question("?", context), ("?",), 20, 10, null=True))) == 7


def test_shares_of_several_answers_sum_to_one() -> None:
    context = "a b c"
    one = Question("?", context, (("a", 0), ("a", 0), ("b c", 2)))
    [window] = Window.to_learn(one, ("?",), 9, 9, null=False)
    batch = Lexicon.learn([["a", "b"]], words=9, characters=9).lay([window, Window(("?",), ("b",))])
    assert batch.starts.tolist()[0] == [1, 1, 2]
    assert batch.ends.tolist()[0] == [1, 1, 3]
    assert batch.starts.tolist()[1][0] == 0  # no answer
    assert [round(sum(row), 6) for row in batch.shares.tolist()] == [1.0, 1.0]


def test_words_alike_have_one_form_or_stem_and_long_ones_are_cut() -> None:
    lexicon = Lexicon.learn([["Cat", "cats", "dog"]], words=9, characters=20)
    long = "x" * 50
    batch = lexicon.lay([Window(("Cat", "cat", "cats", "dog"), (long,))])
    cat, lower, cats, dog = batch.question[0].tolist()
    assert batch.words[cat] == batch.words[lower] != batch.words[dog]
    assert batch.forms[cat] == batch.forms[lower] != batch.forms[cats]
    assert batch.stems[cat] == batch.stems[cats] != batch.stems[dog]
    assert batch.spellings.shape[1] == LONGEST_WORD
    assert lexicon.lay([]).index == []


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    lexicon = Lexicon.learn(
        [["タワー", "New", "new", "rare"], ["new", "タワー"]], words=99, characters=99, least=2
    )
    lexicon.save(tmp_path)
    other = Lexicon.load(tmp_path)
    window = Window(("new", "rare"), ("タワー", "New", "?"))
    for name in ("words", "spellings", "forms", "context"):
        assert getattr(lexicon.lay([window]), name).tolist() == getattr(other.lay([window]), name).tolist()
    assert sorted(lexicon.words.ids) == ["new", "タワー"]
