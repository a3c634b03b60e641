"""The embedded sample for sentiment: reviews by a grammar in which single words do not tell.

A review judges one thing. What judges may be negated; of two judgements joined by a contrast the second counts; and
around it stands what does not matter: other people's opinions of other things, in the same words.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from regard.data.labelled import Labelled

__all__ = ["sample_reviews"]

LABELS = ("negative", "positive")

THINGS = ["the food", "the soup", "the service", "the room", "the film", "the hotel", "the coffee", "the music",
          "the staff", "the phone", "the garden", "the breakfast"]  # fmt: skip
GOOD = [
    "wonderful",
    "excellent",
    "delightful",
    "superb",
    "charming",
    "great",
    "lovely",
    "impressive",
    "perfect",
]
BAD = [
    "terrible",
    "awful",
    "dreadful",
    "disappointing",
    "poor",
    "horrible",
    "dull",
    "miserable",
    "unpleasant",
]
NOT = ["was not", "was never", "was hardly", "was anything but", "was far from"]
WHO = [
    "my neighbour",
    "the man beside us",
    "the radio",
    "somebody",
    "my cousin",
    "the driver",
    "a friend of hers",
]
WHAT = [
    "the weather",
    "the traffic",
    "the news",
    "the match",
    "the election",
    "the road",
    "the wind",
    "the sea",
]
SAID = ["called {0} {1}", "thought that {0} was {1}", "said {0} was not {1}", "complained that {0} was {1}"]
FACTS = ["we came on a Tuesday", "there are two doors", "the house stands by the river", "we were five",
         "it opens at nine", "the walls are green", "the bus stops in front of it", "we paid by card"]  # fmt: skip

THINGS_ZH = ["菜", "汤", "服务", "房间", "电影", "酒店", "咖啡", "音乐", "店员", "手机", "花园", "早餐"]
GOOD_ZH = ["很好", "很棒", "非常出色", "令人满意", "十分精彩", "很讨人喜欢", "完美"]
BAD_ZH = ["很糟糕", "很差", "令人失望", "非常难受", "十分无聊", "让人讨厌", "一塌糊涂"]
NOT_ZH = ["并不", "一点也不", "绝对谈不上", "算不上"]
WHO_ZH = ["邻居", "旁边的先生", "广播里", "有人", "表弟", "司机", "她的朋友"]
WHAT_ZH = ["天气", "交通", "新闻", "球赛", "选举", "路况", "风景", "海水"]
SAID_ZH = ["{2}说{0}{1}", "{2}觉得{0}{1}", "{2}抱怨{0}{1}"]
FACTS_ZH = [
    "我们星期二来的",
    "有两个门",
    "房子在河边",
    "我们一共五个人",
    "九点开门",
    "墙是绿色的",
    "公交车停在门口",
    "我们刷卡付的钱",
]

Draw = random.Random


def sample_reviews(size: int = 6000, seed: int = 0) -> dict[str, list[Labelled]]:
    """Reviews in English and Chinese by split: train, valid, and a test set for each phenomenon.

    No text is in two splits; the same size and seed give the same reviews.

    Example:
        >>> splits = sample_reviews(100)
        >>> list(splits)
        ['train', 'valid', 'plain', 'negation', 'contrast', 'distance']
        >>> splits["contrast"][0].label in ("positive", "negative")
        True
    """
    draw, held_out = Draw(f"reviews {seed}"), set[str]()
    kinds = {"plain": 1, "negation": 2, "contrast": 3, "distance": 4}

    def several(count: int, name: str) -> list[Labelled]:
        found: list[Labelled] = []
        while len(found) < count:
            kind = name if name in kinds else draw.choices(list(kinds), list(kinds.values()))[0]
            text, good = (_english if draw.random() < 0.6 else _chinese)(draw, kind)
            if text in held_out:
                continue
            if name != "train":
                held_out.add(text)
            found.append(Labelled(text, LABELS[good], f"{name}/{len(found) + 1}"))
        return found

    others = {name: several(max(size // 20, 10), name) for name in ("valid", *kinds)}
    return {"train": several(size, "train"), **others}


def _english(draw: Draw, kind: str) -> tuple[str, bool]:
    def judged(thing: str, good: bool, negated: bool) -> str:
        word = draw.choice(GOOD if good != negated else BAD)
        return f"{thing} {draw.choice(NOT) if negated else 'was'} {word}"

    def aside() -> str:
        if draw.random() < 0.4:
            return draw.choice(FACTS)
        said = draw.choice(SAID).format(draw.choice(WHAT), draw.choice(GOOD + BAD))
        return f"{draw.choice(WHO)} {said}"

    return _review(
        draw, kind, THINGS, judged, aside, ["although {0}, {1}", "{0}, but {1}", "{0}; still, {1}"], ". "
    )


def _chinese(draw: Draw, kind: str) -> tuple[str, bool]:
    def judged(thing: str, good: bool, negated: bool) -> str:
        word = draw.choice(GOOD_ZH if good != negated else BAD_ZH)
        return f"{thing}{draw.choice(NOT_ZH) if negated else ''}{word}"

    def aside() -> str:
        if draw.random() < 0.4:
            return draw.choice(FACTS_ZH)
        words = draw.choice(WHAT_ZH), draw.choice(GOOD_ZH + BAD_ZH), draw.choice(WHO_ZH)
        return draw.choice(SAID_ZH).format(*words)

    return _review(
        draw, kind, THINGS_ZH, judged, aside, ["虽然{0}，但是{1}", "{0}，不过{1}", "尽管{0}，{1}"], "。"
    )


def _review(
    draw: Draw,
    kind: str,
    things: list[str],
    judged: Callable[[str, bool, bool], str],
    aside: Callable[[], str],
    contrasts: list[str],
    stop: str,
) -> tuple[str, bool]:
    """A review and whether it is a good one."""
    good = draw.random() < 0.5
    negated = kind == "negation" or (kind in ("contrast", "distance") and draw.random() < 0.4)
    first, second = draw.sample(things, 2)
    verdict = judged(first, good, negated)
    if kind == "contrast" or (kind == "distance" and draw.random() < 0.3):
        verdict = draw.choice(contrasts).format(judged(second, not good, draw.random() < 0.3), verdict)
    around = {"plain": (0, 1), "negation": (0, 2), "contrast": (0, 2), "distance": (5, 10)}[kind]
    parts = [aside() for _ in range(draw.randint(*around))]
    parts.insert(draw.randint(0, len(parts)), verdict)
    sentences = [part[:1].upper() + part[1:] for part in parts]
    return (stop.join(sentences) + stop).strip(), good
