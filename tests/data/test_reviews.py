"""The sample of reviews: the same each time, balanced, in two languages, nothing held out is in the training data."""

from regard.data import sample_reviews
from regard.data.reviews import BAD, BAD_ZH, GOOD, GOOD_ZH


def test_the_same_each_time_and_no_text_in_two_parts() -> None:
    splits = sample_reviews(400)
    assert sample_reviews(400) == splits
    assert sample_reviews(400, seed=1) != splits
    train = {one.text for one in splits["train"]}
    for name, examples in splits.items():
        assert len({one.text for one in examples}) == len(examples) or name == "train"
        assert name == "train" or not train & {one.text for one in examples}


def test_labels_are_balanced_and_single_words_do_not_tell() -> None:
    for name, examples in sample_reviews(2000).items():
        share = sum(one.label == "positive" for one in examples) / len(examples)
        assert 0.35 < share < 0.65, name
        chinese = sum(any("一" <= char <= "鿿" for char in one.text) for one in examples) / len(examples)
        assert 0.25 < chinese < 0.6

    def by_words(text: str) -> bool:
        return sum(word in text for word in GOOD + GOOD_ZH) >= sum(word in text for word in BAD + BAD_ZH)

    found = {}
    for name, examples in sample_reviews(2000).items():
        right = sum(by_words(one.text) == (one.label == "positive") for one in examples)
        found[name] = right / len(examples)
    assert found["plain"] > 0.7
    assert max(found[name] for name in ("negation", "contrast", "distance")) < 0.66
