"""Vocabularies: text to token ids and back without loss, with a legible label for every token."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from regard.durable import write_file
from regard.errors import UserError, require

PAD, BOS, EOS, UNK = 0, 1, 2, 3
SPECIALS = ("<pad>", "<bos>", "<eos>", "<unk>")
BYTES = tuple(f"<0x{value:02X}>" for value in range(256))

Kind = Literal["bpe", "characters", "words"]

# Scripts written without spaces between words, whose runs are cut only by what subwords learn.
_CJK = r"\p{Han}\p{Hiragana}\p{Katakana}ー々〆"
_LETTERS = rf"[[\p{{L}}\p{{M}}]&&[^{_CJK}]]+"
# A word takes the space before it along; a digit stands alone; what is left is punctuation or white space.
_WORD = (
    rf"[{_CJK}]+"
    rf"| ?{_LETTERS}(?:['’]{_LETTERS})*"
    r"| ?\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+"
    r"|\s+(?!\S)|\s+"
)
# What is a token of its own in a vocabulary of words: there is no space between two that says where one ends.
_WHOLE_WORD = rf"[{_CJK}]|{_LETTERS}(?:['’]{_LETTERS})*|\p{{N}}+|[^\s\p{{L}}\p{{M}}\p{{N}}]"
# Text that does not begin with such a script gets one space in front, so that a word is the same token at
# the beginning and in the middle of a sentence; the decoder takes exactly one space off again.
_UNSPACED_START = rf"\A(?=[^{_CJK}])"


class Vocabulary:
    """Tokens and their ids: PAD=0, BOS=1, EOS=2, UNK=3, then what `train` learnt.

    `kind="bpe"` learns subwords by byte-pair encoding (Sennrich et al. 2016). Words keep the space before
    them, runs of Chinese and Japanese are one word to begin with, digits stand alone, and a character that
    is not in the vocabulary is spelt in UTF-8 bytes, so `decode(encode(text))` is `text` for any text.
    `kind="characters"` makes each character a token and each unknown one UNK. `kind="words"` makes words tokens, and
    of Chinese and Japanese each character; white space is lost, and each unknown word is UNK.

    Text is first brought to Unicode's normal form NFC, and to small letters if `lowercase`; "lossless" is
    meant up to that. "<eos>" and the like in a text are ordinary characters, never the special tokens.

    Placeholders (`<url>`, `__name__`) are tokens of their own wherever they stand in a text, also within a word or a
    run of Chinese, and come out as they went in, capitals included; the text around one is as two texts.
    """

    def __init__(self, tokenizer: Any) -> None:
        tokenizer.encode_special_tokens = True  # "<eos>" in a text is text
        self._tokenizer = tokenizer
        self._tokens: list[str] = [tokenizer.id_to_token(id) for id in range(tokenizer.get_vocab_size())]
        self._has_bytes = len(self._tokens) > UNK + 1 and self._tokens[UNK + 1] == BYTES[0]
        added = tokenizer.get_added_tokens_decoder().items()
        self.placeholders: dict[int, str] = {id: token.content for id, token in added if id > UNK}
        """What is kept whole, by its id."""

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        kind: Kind,
        size: int,
        lowercase: bool = False,
        placeholders: Sequence[str] = (),
    ) -> Vocabulary:
        """Learn a vocabulary of at most `size` tokens from `texts`; the same texts give the same vocabulary.

        Of "bpe", 260 tokens are the specials and the bytes and at most half of the rest single characters,
        the most frequent ones. "characters" and "words" keep the most frequent `size - 4`. `placeholders` are the last
        of the tokens.

        Raises `UserError` if `kind` is unknown, `size` is too small, a placeholder cannot be one, or the texts hold no
        characters.

        Example:
            >>> words = Vocabulary.train(["to be or not to be"] * 9, "bpe", 300, placeholders=["<url>"])
            >>> words.pieces("to be"), words.pieces("to <url>")
            (['▁to', '▁be'], ['▁to', '▁', '<url>'])
        """
        require("tokenizers", "tasks")
        builders = {"bpe": _train_bpe, "characters": _train_characters, "words": _train_words}
        if kind not in builders:
            raise UserError(f"a vocabulary is of kind {', '.join(map(repr, builders))}, not {kind!r}")
        check_placeholders(placeholders)
        least = len(SPECIALS) + len(BYTES) + 2 if kind == "bpe" else len(SPECIALS) + 1
        least += len(placeholders)
        if size < least:
            raise UserError(f"a vocabulary of kind {kind!r} needs a size of at least {least}, got {size}")
        tokenizer = builders[kind](_without(texts, placeholders), size - len(placeholders), lowercase)
        _keep_whole(tokenizer, placeholders)
        return cls(tokenizer)

    @classmethod
    def of(cls, tokens: Iterable[str], lowercase: bool = False) -> Vocabulary:
        """A vocabulary of just these tokens, for texts that have been cut already: each text is one of them, or UNK.

        Example:
            >>> Vocabulary.of(["new", "york"], lowercase=True).encode_batch(["New", "new york", "York"])
            [[4], [3], [5]]
        """
        require("tokenizers", "tasks")
        return cls(_of_whole_tokens(list(tokens), _normalizer(lowercase)))

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without BOS and EOS."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """The ids of each of `texts`, without BOS and EOS; faster than one `encode` after another."""
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Sequence[int], unknown: Sequence[str] = ()) -> str:
        """The text of `ids` without PAD, BOS and EOS; UNK and bytes that are not UTF-8 become "�".

        Each UNK is written as the next of `unknown` instead, if there are any.
        """
        text, run, instead = "", list[int](), iter(unknown)
        for id in map(int, ids):
            whole = self.placeholders.get(id)
            if whole is None and unknown and id == UNK:
                whole = next(instead)
            if whole is None:
                run.append(id)
            else:
                text, run = text + self._decode(run) + whole, []
        return text + self._decode(run)

    def _decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True) if ids else ""
        return text

    def parts(self, text: str) -> list[str]:
        """The part of `text` that each id of `encode(text)` stands for, in the vocabulary's normal form.

        Example:
            >>> Vocabulary.train(["ab"], "characters", 9, lowercase=True).parts("Añ龘")
            ['a', 'ñ', '龘']
        """
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        normal = self._tokenizer.normalizer.normalize_str if not self._has_bytes else str
        return [
            self.placeholders.get(id) or normal(text[first:last])
            for id, (first, last) in zip(encoding.ids, encoding.offsets, strict=True)
        ]

    def pieces(self, text: str) -> list[str]:
        """A legible label for each id of `encode(text)`, made of the characters of `text`, known or not."""
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        labels = self.labels(encoding.ids)
        for place, id in enumerate(encoding.ids):
            if id == UNK:
                first, last = encoding.offsets[place]
                labels[place] = _legible(unicodedata.normalize("NFC", text[first:last]))
        return labels

    def labels(self, ids: Sequence[int]) -> list[str]:
        """A legible label for each of `ids`.

        A space is shown as "▁" as in SentencePiece; an unprintable character by its code ("U+200D"); a
        character spelt in bytes once, then with a running number ("龘", "龘₂", "龘₃").
        """
        labels: list[str] = []
        place = 0
        while place < len(ids):
            byte = self._byte(int(ids[place]))
            if byte is None:
                id = int(ids[place])
                labels.append(self._tokens[id] if id < len(SPECIALS) else _legible(self._tokens[id]))
                place += 1
                continue
            spelling = bytes([byte])
            width = _utf8_width(byte)
            for id in ids[place + 1 : place + width]:
                spelling += bytes([following]) if (following := self._byte(int(id))) is not None else b""
            try:
                character = _legible(spelling.decode("utf-8"))
            except UnicodeDecodeError:
                labels.append(f"0x{byte:02X}")
                place += 1
                continue
            labels.append(character)
            labels.extend(f"{character}{'₀₁₂₃₄'[number]}" for number in range(2, len(spelling) + 1))
            place += len(spelling)
        return labels

    @property
    def ids(self) -> dict[str, int]:
        """The id of each token that was learnt."""
        return {token: id for id, token in enumerate(self._tokens) if id > UNK}

    @property
    def tokens(self) -> list[str]:
        """Every token by its id, as it is spelt in the file."""
        return list(self._tokens)

    def __len__(self) -> int:
        return len(self._tokens)

    def save(self, path: Path) -> None:
        """Write the vocabulary to `path` as the JSON of the `tokenizers` library: whole or not at all."""
        write_file(Path(path), self._tokenizer.to_str(pretty=True).encode())

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Read a vocabulary that `save` wrote; `UserError` if `path` does not hold one."""
        require("tokenizers", "tasks")
        from tokenizers import Tokenizer

        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: cannot read the vocabulary ({error})") from None
        try:
            tokenizer = Tokenizer.from_str(text)
        except Exception as error:  # the library raises Exception itself
            raise UserError(f"{path}: not a vocabulary of the tokenizers library ({error})") from None
        if tuple(map(tokenizer.id_to_token, range(len(SPECIALS)))) != SPECIALS:
            raise UserError(f"{path}: not a vocabulary of regard: its first tokens are not {SPECIALS}")
        return cls(tokenizer)

    def _byte(self, id: int) -> int | None:
        """The byte that a token spells, or None if it is no byte token."""
        value = id - len(SPECIALS)
        return value if self._has_bytes and 0 <= value < len(BYTES) else None


def check_placeholders(placeholders: Sequence[str]) -> None:
    """Raise `UserError` where one cannot be told from other text, or from another."""
    for place, one in enumerate(placeholders):
        if not one or one != one.strip():
            raise UserError(f"placeholder {one!r} must not be empty, nor begin or end with white space")
        if one in SPECIALS or one in BYTES:
            raise UserError(f"placeholder {one!r} is the name of a token that every vocabulary has")
        if one in placeholders[:place]:
            raise UserError(f"placeholder {one!r} is given twice")


def _without(texts: Iterable[str], placeholders: Sequence[str]) -> list[str]:
    """What there is to learn from between placeholders, the longest of which is looked for first."""
    if not placeholders:
        return list(texts)
    pattern = "|".join(map(re.escape, sorted(placeholders, key=len, reverse=True)))
    return [part for text in texts for part in re.split(pattern, text) if part]


def _keep_whole(tokenizer: Any, placeholders: Sequence[str]) -> None:
    from tokenizers import AddedToken

    tokenizer.add_tokens([AddedToken(one, normalized=False) for one in placeholders])


def _utf8_width(first: int) -> int:
    """How many bytes a character takes, from its first byte."""
    return 4 if first >= 0xF0 else 3 if first >= 0xE0 else 2 if first >= 0xC0 else 1


def _legible(piece: str) -> str:
    """`piece` with everything that cannot be seen made visible."""
    shown = "".join(
        "▁" if character == " " else character if character.isprintable() else f"U+{ord(character):04X}"
        for character in piece
    )
    return "◌" + shown if unicodedata.category(shown[0]).startswith("M") else shown


def _normalizer(lowercase: bool, *more: Any) -> Any:
    from tokenizers import normalizers

    small = [normalizers.Lowercase()] if lowercase else []
    return normalizers.Sequence([*small, normalizers.NFC(), *more])


def _most_frequent(texts: Iterable[Iterable[str]], count: int) -> list[str]:
    """The `count` most frequent characters, or words, ties by code point."""
    seen: Counter[str] = Counter()
    for text in texts:
        seen.update(text)
    if not seen:
        raise UserError("there is no text to learn a vocabulary from")
    return sorted(seen, key=lambda character: (-seen[character], character))[:count]


def _train_bpe(texts: list[str], size: int, lowercase: bool) -> Any:
    import json

    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    normalizer = _normalizer(lowercase, normalizers.Replace(Regex(_UNSPACED_START), " "))
    pre_tokenizer = pre_tokenizers.Split(Regex(_WORD), "isolated")

    # The trainer's own limit on the alphabet breaks ties at random, so rare characters are taken out here;
    # they are spelt in bytes.
    learnable = size - len(SPECIALS) - len(BYTES)
    normal = [normalizer.normalize_str(text) for text in texts]
    alphabet = set(_most_frequent(normal, max(1, learnable // 2)))
    rare = {character for text in normal for character in set(text) - alphabet}
    if rare:
        cut = {ord(character): "\n" for character in rare}
        normal = [part for text in normal for part in text.translate(cut).split("\n")]

    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizer
    learner.train_from_iterator(
        normal, trainers.BpeTrainer(vocab_size=learnable, min_frequency=2, show_progress=False)
    )
    learnt = json.loads(learner.to_str())["model"]
    tokens = [*SPECIALS, *BYTES, *sorted(learnt["vocab"], key=learnt["vocab"].__getitem__)]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={token: id for id, token in enumerate(tokens)},
            merges=[tuple(merge) for merge in learnt["merges"]],
            unk_token=SPECIALS[UNK],
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(SPECIALS[UNK], "\N{REPLACEMENT CHARACTER}"),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens(list(SPECIALS[:UNK]))
    return tokenizer


def _train_characters(texts: list[str], size: int, lowercase: bool) -> Any:
    from tokenizers import Regex, decoders, pre_tokenizers

    normalizer = _normalizer(lowercase)
    alphabet = _most_frequent((normalizer.normalize_str(text) for text in texts), size - len(SPECIALS))
    tokenizer = _of_whole_tokens(sorted(alphabet), normalizer)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPECIALS[UNK], "\N{REPLACEMENT CHARACTER}"), decoders.Fuse()]
    )
    return tokenizer


def _train_words(texts: list[str], size: int, lowercase: bool) -> Any:
    from tokenizers import Regex, decoders, pre_tokenizers

    normalizer = _normalizer(lowercase)
    split = pre_tokenizers.Split(Regex(_WHOLE_WORD), "removed", invert=True)
    words = ([word for word, _ in split.pre_tokenize_str(normalizer.normalize_str(text))] for text in texts)
    tokenizer = _of_whole_tokens(sorted(_most_frequent(words, size - len(SPECIALS))), normalizer)
    tokenizer.pre_tokenizer = split
    between = rf"(?<=[{_CJK}]) (?=[{_CJK}])"
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(SPECIALS[UNK], "\N{REPLACEMENT CHARACTER}"),
            decoders.Replace(Regex(r"\A"), " "),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
            decoders.Replace(Regex(between), ""),
        ]
    )
    return tokenizer


def _of_whole_tokens(learnt: list[str], normalizer: Any) -> Any:
    from tokenizers import Tokenizer, models

    tokens = [*SPECIALS, *(token for token in learnt if token not in SPECIALS)]
    tokenizer = Tokenizer(
        models.WordLevel({token: id for id, token in enumerate(tokens)}, unk_token=SPECIALS[UNK])
    )
    tokenizer.normalizer = normalizer
    tokenizer.add_special_tokens(list(SPECIALS[:UNK]))
    return tokenizer
