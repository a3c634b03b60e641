"""Vocabularies: nothing is lost, everything is legible, training is repeatable."""

import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regard.data.vocabulary import BOS, EOS, PAD, UNK, Vocabulary
from regard.errors import UserError

ENGLISH = [
    "A man is walking his dog.",
    "Two dogs are walking.",
    "A dog isn't walking, is it?",
    "12 dogs in 2026",
]
CHINESE = ["我们喜欢学习语言。", "我们喜欢学习。", "他们学习语言，我们喜欢。"]
JAPANESE = ["犬が好きです。", "猫が好きです。", "カラーテレビが好きです。"]
TEXTS = [text for text in ENGLISH + CHINESE + JAPANESE for _ in range(5)]

AWKWARD = [
    "",
    " ",
    "  two  spaces  ",
    " 我们",
    "我们 love 语言",
    "龘 is not known",
    "👨‍👩‍👧 🇩🇪 emoji",
    "tab\tand\nline\r\n",
    "<pad><bos><eos><unk> <0x41>",
    "▁ is not a space",
    "हिन्दी में, ไทย, العربية",
    "no\u00a0break \u202f \u200f marks",
    "𠮷野家と々〆ー",
    "\ufffd \x00 \x7f",
]


@pytest.fixture(scope="module")
def subwords() -> Vocabulary:
    return Vocabulary.train(TEXTS, "bpe", 400)


@pytest.fixture(scope="module")
def characters() -> Vocabulary:
    return Vocabulary.train(TEXTS, "characters", 200)


@pytest.mark.parametrize("text", AWKWARD + TEXTS[::5])
def test_subwords_lose_nothing(subwords: Vocabulary, text: str) -> None:
    ids = subwords.encode(text)
    assert subwords.decode(ids) == text
    assert not {PAD, BOS, EOS, UNK} & set(ids)
    assert len(subwords.pieces(text)) == len(ids)


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_subwords_lose_nothing_of_any_text(text: str) -> None:
    vocabulary = _trained_once()
    normal = unicodedata.normalize("NFC", text)
    assert vocabulary.decode(vocabulary.encode(text)) == normal
    assert len(vocabulary.pieces(text)) == len(vocabulary.encode(text))


_ONCE: list[Vocabulary] = []


def _trained_once() -> Vocabulary:
    if not _ONCE:
        _ONCE.append(Vocabulary.train(TEXTS, "bpe", 400))
    return _ONCE[0]


@pytest.mark.parametrize("text", TEXTS[::5])
def test_characters_lose_nothing_they_know(characters: Vocabulary, text: str) -> None:
    assert characters.decode(characters.encode(text)) == text
    assert len(characters.encode(text)) == len(text)


def test_unknown_characters_are_one_token_each_and_still_legible(characters: Vocabulary) -> None:
    assert characters.encode("a龘龘g") == [characters.encode("a")[0], UNK, UNK, characters.encode("g")[0]]
    assert characters.pieces("a龘 龘") == ["a", "龘", "▁", "龘"]
    assert characters.decode(characters.encode("a龘g")) == "a\N{REPLACEMENT CHARACTER}g"
    assert characters.labels([PAD, BOS, EOS, UNK]) == ["<pad>", "<bos>", "<eos>", "<unk>"]


def test_subwords_are_learnt_in_every_script(subwords: Vocabulary) -> None:
    assert subwords.pieces("dogs walking") == ["▁dogs", "▁walking"]
    assert subwords.pieces("我们喜欢学习。") == ["我们喜欢学习", "。"]
    assert subwords.pieces("鳥が好きです。")[-2:] == ["が好きです", "。"]
    assert subwords.pieces("2026") == ["▁2", "0", "2", "6"]
    assert subwords.pieces("isn't it?")[-1] == "?"


def test_a_word_is_the_same_token_wherever_it_stands(subwords: Vocabulary) -> None:
    assert subwords.encode("dogs walking") == subwords.encode("dogs") + subwords.encode("walking")


def test_bytes_are_labelled_with_their_character(subwords: Vocabulary) -> None:
    assert subwords.pieces("龘") == ["龘", "龘₂", "龘₃"]
    assert subwords.pieces("我👧")[1:] == ["👧", "👧₂", "👧₃", "👧₄"]
    assert subwords.pieces("我\n")[-1] == "U+000A"
    assert subwords.pieces("我\u200d")[1] == "U+200D"
    cut_short = subwords.encode("龘")[1:]
    assert subwords.labels(cut_short) == ["0xBE", "0x98"]
    assert set(subwords.decode(cut_short)) == {"\N{REPLACEMENT CHARACTER}"}


def test_marks_that_need_a_base_get_one() -> None:
    vocabulary = Vocabulary.train(["हि"], "characters", 10)
    assert vocabulary.pieces("हि") == ["ह", "◌ि"]


def test_special_tokens_are_dropped_and_never_come_from_text(subwords: Vocabulary) -> None:
    ids = subwords.encode("A dog.")
    assert subwords.decode([BOS, *ids, EOS, PAD, PAD]) == "A dog."
    assert EOS not in subwords.encode("the <eos> token")


def test_decoding_a_part_does_not_lose_spaces_inside(subwords: Vocabulary) -> None:
    assert subwords.decode(subwords.encode("A dog") + subwords.encode("is it")) == "A dog is it"


def test_lowercase_and_normal_form() -> None:
    vocabulary = Vocabulary.train(["CAFE\u0301 ÇA"] * 3, "characters", 50, lowercase=True)
    assert vocabulary.decode(vocabulary.encode("CAFÉ")) == "café"
    assert vocabulary.encode("cafe\u0301") == vocabulary.encode("CAFÉ")
    assert len(vocabulary.encode("cafe\u0301")) == 4
    assert vocabulary.pieces("CAFÉX")[:4] == ["c", "a", "f", "é"]


@pytest.mark.parametrize("kind", ["bpe", "characters"])
def test_training_is_repeatable(kind: str, tmp_path: Path) -> None:
    for name in ("one", "two"):
        Vocabulary.train(iter(TEXTS), kind, 330, lowercase=True).save(tmp_path / name)  # type: ignore[arg-type]
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize("kind", ["bpe", "characters"])
@pytest.mark.parametrize("size", [270, 330])
def test_size_is_a_limit(kind: str, size: int) -> None:
    many = ["".join(map(chr, range(0x4E00 + start, 0x4E00 + start + 40))) for start in range(0, 400, 7)]
    vocabulary = Vocabulary.train(many + TEXTS, kind, size)  # type: ignore[arg-type]
    assert len(vocabulary) <= size
    assert len(vocabulary) > size - 5
    assert max(max(ids) for ids in vocabulary.encode_batch(many)) < len(vocabulary)


@pytest.mark.parametrize("kind", ["bpe", "characters"])
def test_saved_and_loaded_it_is_the_same(kind: str, tmp_path: Path) -> None:
    vocabulary = Vocabulary.train(TEXTS, kind, 330, lowercase=True)  # type: ignore[arg-type]
    vocabulary.save(tmp_path / "vocabulary.json")
    assert [path.name for path in tmp_path.iterdir()] == ["vocabulary.json"]
    loaded = Vocabulary.load(tmp_path / "vocabulary.json")
    assert len(loaded) == len(vocabulary)
    for text in AWKWARD + TEXTS:
        assert loaded.encode(text) == vocabulary.encode(text)
        assert loaded.pieces(text) == vocabulary.pieces(text)
        assert loaded.decode(loaded.encode(text)) == vocabulary.decode(vocabulary.encode(text))


def test_a_batch_is_encoded_like_its_texts(subwords: Vocabulary, characters: Vocabulary) -> None:
    for vocabulary in (subwords, characters):
        assert vocabulary.encode_batch(iter(AWKWARD)) == [vocabulary.encode(text) for text in AWKWARD]
        assert vocabulary.encode_batch([]) == []


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.json: cannot read the vocabulary"):
        Vocabulary.load(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match=r"bad\.json: not a vocabulary of the tokenizers library"):
        Vocabulary.load(tmp_path / "bad.json")


def test_a_foreign_tokenizer_is_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]")).save(str(tmp_path / "other.json"))
    with pytest.raises(UserError, match=r"other\.json: not a vocabulary of regard"):
        Vocabulary.load(tmp_path / "other.json")


def test_bad_settings_are_told() -> None:
    with pytest.raises(UserError, match="'bpe', 'characters', 'words', not 'word'"):
        Vocabulary.train(TEXTS, "word", 500)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="'bpe' needs a size of at least 262, got 200"):
        Vocabulary.train(TEXTS, "bpe", 200)
    with pytest.raises(UserError, match="no text to learn"):
        Vocabulary.train(["", ""], "characters", 100)


PLACEHOLDERS = ["<url>", "__NAME__", "__NAME__2", "｟地名｠"]
HELD = [
    "<url>",
    "see <url> now",
    "see<url>now",
    " <url> ",
    "<url><url>",
    "我们去｟地名｠学习",
    "｟地名｠<url>犬",
    "A dog isn't __NAME__'s",
    "__NAME__2__NAME__",
    "<URL> is text",
    "龘<url>龘",
    "",
]


@pytest.mark.parametrize("kind", ["bpe", "characters"])
@pytest.mark.parametrize("lowercase", [False, True])
def test_placeholders_are_whole_wherever_they_stand_and_come_out_as_they_went_in(
    kind: str, lowercase: bool, tmp_path: Path
) -> None:
    learnt = [*TEXTS, *(text.replace("龘", "") for text in HELD)]
    made = Vocabulary.train(learnt, kind, 420, lowercase, PLACEHOLDERS)  # type: ignore[arg-type]
    made.save(tmp_path / "tokenizer.json")
    cut = "|".join(sorted(PLACEHOLDERS, key=len, reverse=True))
    for vocabulary in (made, Vocabulary.load(tmp_path / "tokenizer.json")):
        assert list(vocabulary.placeholders.values()) == PLACEHOLDERS
        for text in HELD:
            ids = vocabulary.encode(text)
            parts = re.split(f"({cut})", text)
            whole = [vocabulary.placeholders[id] for id in ids if id in vocabulary.placeholders]
            assert whole == [part for part in parts if part in PLACEHOLDERS]
            small = [part.lower() if lowercase and part not in PLACEHOLDERS else part for part in parts]
            expected = "".join(small)
            if kind == "characters":
                expected = expected.replace("龘", "\N{REPLACEMENT CHARACTER}")
            assert vocabulary.decode(ids) == expected
            assert len(vocabulary.pieces(text)) == len(vocabulary.parts(text)) == len(ids)


def test_nothing_of_a_placeholder_is_learnt() -> None:
    without = Vocabulary.train(TEXTS, "bpe", 400)
    texts = [f"{text}<url>" for text in TEXTS]
    learnt = Vocabulary.train(texts, "bpe", 401, placeholders=["<url>"])
    assert learnt.tokens == [*without.tokens, "<url>"]


@pytest.mark.parametrize("wrong", [[""], [" <url>"], ["<unk>"], ["<0x41>"], ["<url>", "<url>"]])
def test_placeholders_that_cannot_be_told_apart_are_refused(wrong: list[str]) -> None:
    with pytest.raises(UserError, match="placeholder"):
        Vocabulary.train(TEXTS, "bpe", 400, placeholders=wrong)


def test_unknown_characters_are_written_as_told() -> None:
    characters = Vocabulary.train(["abc"], "characters", 9, lowercase=True)
    ids = characters.encode("a龘b犬")
    assert characters.parts("a龘B犬") == ["a", "龘", "b", "犬"]
    assert characters.decode(ids) == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}"
    assert characters.decode(ids, ["龘", "犬"]) == "a龘b犬"


def test_words_are_whole_and_of_chinese_each_character() -> None:
    texts = ["Don't go, it's 2026!", "我很喜欢 tea", "我 tea tea"]
    words = Vocabulary.train(texts, "words", 100)
    assert words.pieces("I don't go: 我爱tea, 2026!") == [
        "I",
        "don't",
        "go",
        ":",
        "我",
        "爱",
        "tea",
        ",",
        "2026",
        "!",
    ]
    known = words.encode("Don't 我喜欢 tea!")
    assert UNK not in known
    assert words.decode(known) == "Don't 我喜欢 tea !"
    assert words.decode([*known, UNK]) == "Don't 我喜欢 tea ! \N{REPLACEMENT CHARACTER}"
    assert set(words.ids) >= {"Don't", "我", "tea", "2026", "!"}
    assert all(words.encode(word) == [id] for word, id in words.ids.items())
    small = Vocabulary.train(["a a a b b c"], "words", 6)
    assert list(small.ids) == ["a", "b"]
    assert Vocabulary.train(["Tea TEA"], "words", 9, lowercase=True).encode("tEa") != [UNK]
