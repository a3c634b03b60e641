"""How good are generated texts: BLEU and chrF by sacrebleu, and the share of exact matches."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from regard.errors import UserError, require

__all__ = ["bleu_tokenizer", "measure_texts", "require_tokenizer"]

# sacrebleu's names (version 2.6), written out so that settings are checked without importing it.
TOKENIZERS = ("auto", "none", "zh", "13a", "intl", "char", "ja-mecab", "ko-mecab", "spm", "flores101", "flores200",
              "spBLEU-1K")  # fmt: skip


def measure_texts(
    predicted: Sequence[str],
    expected: Sequence[Sequence[str]],
    *,
    tokenizer: str = "auto",
    lowercase: bool = False,
) -> tuple[dict[str, float], dict[str, str]]:
    """BLEU, chrF (both 0 to 100) and exact match (0 to 1) of texts, each held against one or more right ones.

    Also returned are sacrebleu's signatures. Where texts have unlike numbers of right ones, sacrebleu leaves out those
    that are missing.

    `tokenizer` is one of sacrebleu's, or "auto": `zh` and `ja-mecab` where the expected texts are Chinese or Japanese,
    `char` for Korean, Thai and other unspaced scripts, else `13a`.

    Raises `UserError` where sacrebleu is not installed or cannot use the tokeniser.

    Example:
        >>> metrics, signatures = measure_texts(["2026-03-03", "a"], [["2026-03-03"], ["b"]])
        >>> metrics["exact_match"]
        0.5

    BLEU: Papineni et al. 2002; chrF: Popovic 2015; comparable scores and signatures: Post 2018 (sacrebleu).
    """
    sacrebleu: Any = require("sacrebleu", "tasks")
    chosen = bleu_tokenizer([texts[0] for texts in expected]) if tokenizer == "auto" else tokenizer
    exact = sum(text in right for text, right in zip(predicted, expected, strict=True))
    metrics: dict[str, float] = {"exact_match": exact / max(len(expected), 1)}
    if not expected:
        return {"bleu": 0.0, "chrf": 0.0, **metrics}, {}
    try:
        bleu = sacrebleu.BLEU(tokenize=chosen, lowercase=lowercase)
    except (
        ImportError,
        RuntimeError,
        OSError,
    ) as error:  # a tokeniser that needs more packages, or a download
        raise UserError(f"bleu_tokenizer is {chosen!r}, which sacrebleu cannot use here: {error}") from None
    chrf = sacrebleu.CHRF(lowercase=lowercase)
    streams = [list(stream) for stream in zip_longest(*expected)]
    metrics |= {
        "bleu": bleu.corpus_score(list(predicted), streams).score,
        "chrf": chrf.corpus_score(list(predicted), streams).score,
    }
    return metrics, {"bleu": str(bleu.get_signature()), "chrf": str(chrf.get_signature())}


def require_tokenizer(name: str) -> None:
    """Raise `UserError` where there is no such tokeniser."""
    if name not in TOKENIZERS:
        raise UserError(f"bleu_tokenizer is {name!r}; one of {', '.join(TOKENIZERS)} is expected")


def bleu_tokenizer(texts: Sequence[str]) -> str:
    """The sacrebleu tokeniser that suits the script of some texts.

    Example:
        >>> bleu_tokenizer(["我来了。"]), bleu_tokenizer(["行きます"]), bleu_tokenizer(["I come."])
        ('zh', 'ja-mecab', '13a')
    """
    counts = {"HAN": 0, "KANA": 0, "UNSPACED": 0, "OTHER": 0}
    for text in texts[:2000]:
        for char in text:
            if char.isalpha():
                counts[_script(char)] += 1
    total = max(sum(counts.values()), 1)
    if (counts["HAN"] + counts["KANA"]) / total > 0.3:
        return "ja-mecab" if counts["KANA"] > 0.05 * total else "zh"
    return "char" if counts["UNSPACED"] / total > 0.3 else "13a"


def _script(char: str) -> str:
    name = unicodedata.name(char, "")
    if name.startswith("CJK"):
        return "HAN"
    if name.startswith(("HIRAGANA", "KATAKANA")):
        return "KANA"
    return "UNSPACED" if name.startswith(("HANGUL", "THAI", "LAO", "KHMER", "MYANMAR")) else "OTHER"
