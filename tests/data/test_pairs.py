"""Reading pairs: every layout, alignment kept, no leak between parts, and a clear sentence for every mistake."""

from pathlib import Path

import pytest

from regard.data.pairs import Pair, Splits, read_lines, read_pairs
from regard.errors import UserError


def put(folder: Path, **files: str | bytes) -> Path:
    """Write files whose names are given with "_" for "." and "__" for "/"."""
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return folder


def numbered(word: str, count: int) -> str:
    return "".join(f"{word} {number}\n" for number in range(count))


def both(splits: Splits) -> list[Pair]:
    return [*splits.train, *splits.valid]


class TestLayouts:
    def test_directory_of_parallel_files(self, tmp_path: Path) -> None:
        put(tmp_path, train_en="a\nb\n", train_de="A\nB\n", val_en="c\n", val_de="C\n", README_md="no data")
        put(tmp_path, test_2016_en="d\n", test_2016_de="D\n", test_2017_en="e\n", test_2017_de="E\n")
        splits = read_pairs([tmp_path], "en", "de")
        assert splits.train == [Pair("a", "A", "train.en:1"), Pair("b", "B", "train.en:2")]
        assert splits.valid == [Pair("c", "C", "val.en:1")]
        assert splits.test == {
            "test.2016": [Pair("d", "D", "test.2016.en:1")],
            "test.2017": [Pair("e", "E", "test.2017.en:1")],
        }

    @pytest.mark.parametrize("name", ["valid", "val", "dev", "validation"])
    def test_every_name_of_the_valid_part(self, tmp_path: Path, name: str) -> None:
        put(tmp_path, train_en="a\nb\n", train_de="A\nB\n")
        put(tmp_path, **{f"{name}_en": "c\n", f"{name}_de": "C\n"})
        assert [pair.source for pair in read_pairs([tmp_path], "en").valid] == ["c"]

    def test_languages_may_be_left_out_or_given(self, tmp_path: Path) -> None:
        put(tmp_path, train_en="a\n", train_de="A\n", dev_en="c\n", dev_de="C\n")
        for source, target in ((None, None), ("de", None), (None, "en"), ("de", "en")):
            assert read_pairs([tmp_path], source, target).train[0].source == "A"
        for source, target in (("en", None), (None, "de"), ("en", "de")):
            assert read_pairs([tmp_path], source, target).train[0].source == "a"

    def test_sub_directories(self, tmp_path: Path) -> None:
        put(
            tmp_path, train__news_en="a\n", train__news_de="A\n", train__talks_en="b\n", train__talks_de="B\n"
        )
        put(tmp_path, valid__x_en="c\n", valid__x_de="C\n", test__y_en="d\n", test__y_de="D\n")
        splits = read_pairs([tmp_path], "en", "de")
        assert [pair.source for pair in splits.train] == ["a", "b"]
        assert [pair.source for pair in splits.valid] == ["c"]
        assert list(splits.test) == ["y"]

    def test_names_that_only_begin_with_the_part(self, tmp_path: Path) -> None:
        put(tmp_path, train_tok_en="a\n", train_tok_de="A\n", valid_tok_en="c\n", valid_tok_de="C\n")
        assert read_pairs([tmp_path], "en", "de").train == [Pair("a", "A", "train.tok.en:1")]

    def test_tatoeba(self, tmp_path: Path) -> None:
        put(tmp_path, train_txt="Hi.\t嗨。\tCC-BY 2.0\nRun.\t跑。\tCC-BY 2.0\n", val_txt="Go.\t去。\tCC-BY\n")
        splits = read_pairs([tmp_path])
        assert splits.train[0] == Pair("Hi.", "嗨。", "train.txt:1")
        assert splits.valid == [Pair("Go.", "去。", "val.txt:1")]
        assert read_pairs([tmp_path], "2", "1").train[1] == Pair("跑。", "Run.", "train.txt:2")

    def test_two_files_in_the_order_of_the_languages(self, tmp_path: Path) -> None:
        put(tmp_path, a_en=numbered("a", 40), b_de=numbered("b", 40))
        files = [tmp_path / "a.en", tmp_path / "b.de"]
        assert both(read_pairs(files))[0].source.startswith("a")
        assert both(read_pairs(files, "de", "en"))[0].source.startswith("b")
        with pytest.raises(UserError, match=r"do not end in the languages asked for: source fr, target any"):
            read_pairs(files, "fr")

    def test_blank_lines_keep_the_alignment(self, tmp_path: Path) -> None:
        put(tmp_path, train_en="a\n\nb\n \n", train_de="A\n\nB\n\t\n", dev_en="c\n", dev_de="C\n")
        assert [(p.source, p.target, p.origin) for p in read_pairs([tmp_path], "en").train] == [
            ("a", "A", "train.en:1"),
            ("b", "B", "train.en:3"),
        ]


class TestHoldingOut:
    def test_no_sentence_is_in_two_parts(self, tmp_path: Path) -> None:
        rows = [f"source {n // 2}\ttarget {n * 7 % 300 // 3}\n" for n in range(0, 300, 5)]
        rows += [f"alone {n}\tallein {n}\n" for n in range(100)]
        rows += [f"ALONE  {n}\tanders {n}\n" for n in range(0, 100, 9)]
        put(tmp_path, all_tsv="".join(rows))
        splits = read_pairs([tmp_path / "all.tsv"], valid_share=0.2)
        assert sorted(pair.origin for pair in both(splits)) == sorted(
            f"all.tsv:{line}" for line in range(1, len(rows) + 1)
        )
        assert 0.15 * len(rows) <= len(splits.valid) <= 0.2 * len(rows) + 1
        for side in ("source", "target"):
            parts = [
                {" ".join(getattr(pair, side).lower().split()) for pair in part}
                for part in (splits.train, splits.valid)
            ]
            assert not parts[0] & parts[1]

    def test_it_is_repeatable_and_depends_on_the_seed(self, tmp_path: Path) -> None:
        put(tmp_path, train_en=numbered("a", 200), train_de=numbered("b", 200))
        assert read_pairs([tmp_path], seed=1) == read_pairs([tmp_path], seed=1)
        assert read_pairs([tmp_path], seed=1).valid != read_pairs([tmp_path], seed=2).valid
        assert len(read_pairs([tmp_path]).valid) == 10

    def test_the_order_of_the_lines_does_not_matter(self, tmp_path: Path) -> None:
        lines = [f"a {n}\tb {n}\n" for n in range(100)]
        put(tmp_path, one_tsv="".join(lines), two_tsv="".join(reversed(lines)))
        one, two = ({p.source for p in read_pairs([tmp_path / f"{n}.tsv"]).valid} for n in ("one", "two"))
        assert one == two

    def test_a_test_part_is_kept_when_valid_is_split_off(self, tmp_path: Path) -> None:
        put(tmp_path, train_en=numbered("a", 40), train_de=numbered("b", 40), test_en="t\n", test_de="T\n")
        splits = read_pairs([tmp_path], "en")
        assert len(splits.valid) == 2
        assert splits.test == {"test": [Pair("t", "T", "test.en:1")]}

    def test_too_few_pairs(self, tmp_path: Path) -> None:
        put(tmp_path, one_tsv="a\tb\n", same_tsv="a\tb\na\tc\n")
        for name in ("one", "same"):
            with pytest.raises(UserError, match=r"cannot be split into train and valid"):
                read_pairs([tmp_path / f"{name}.tsv"])

    def test_a_share_must_be_a_share(self, tmp_path: Path) -> None:
        put(tmp_path, one_tsv="a\tb\nc\td\n")
        with pytest.raises(UserError, match=r"between 0 and 1, got 1\.5"):
            read_pairs([tmp_path / "one.tsv"], valid_share=1.5)


class TestLines:
    def test_only_line_feeds_end_lines(self, tmp_path: Path) -> None:
        put(tmp_path, a_en="\ufeffone\r\ntwo\u2028still two\x0b\x0c\x85\rtwo\nthree")
        assert read_lines(tmp_path / "a.en") == ["one", "two\u2028still two\x0b\x0c\x85\rtwo", "three"]

    def test_line_ends_do_not_make_lines(self, tmp_path: Path) -> None:
        put(tmp_path, a_en="one\n\n", b_en="", c_en="\n")
        assert read_lines(tmp_path / "a.en") == ["one", ""]
        assert read_lines(tmp_path / "b.en") == []
        assert read_lines(tmp_path / "c.en") == [""]

    def test_wrong_encodings_are_found_by_line(self, tmp_path: Path) -> None:
        put(tmp_path, a_de="gut\nschön\n".encode("latin-1"), b_de="gut\n".encode("utf-16"))
        with pytest.raises(UserError, match=r"a\.de, line 2: not UTF-8 \(byte 0xf6\)"):
            read_lines(tmp_path / "a.de")
        with pytest.raises(UserError, match=r"b\.de, line 1: not UTF-8 \(byte 0xff\)"):
            read_lines(tmp_path / "b.de")

    def test_what_cannot_be_read(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"none: cannot be read \(No such file"):
            read_lines(tmp_path / "none")
        with pytest.raises(UserError, match=r"cannot be read \(Is a directory"):
            read_lines(tmp_path)


SENTENCES = [
    ({"train_en": "a\nb\n", "train_de": "A\n"}, r"train\.de has 1 lines but .*train\.en has 2: line N"),
    ({"train_en": "", "train_de": "A\n"}, r"train\.en: the file is empty"),
    ({"train_en": "a\n", "train_de": ""}, r"train\.de: the file is empty"),
    ({"train_en": "\n", "train_de": "\n"}, r"all lines are blank"),
    (
        {"train_en": "a\n\n", "train_de": "A\nB\n"},
        r"train\.en, line 2: blank, but .*train\.de has a sentence",
    ),
    ({"train_en": "a\n", "train_de": b"\xe4\n"}, r"train\.de, line 1: not UTF-8 \(byte 0xe4\)"),
    (
        {"train_en": "a\n", "train_de": "A\n", "train_fr": "A\n"},
        r"There are 3: train\.de, train\.en, train\.fr",
    ),
    ({"train_en": "a\n"}, r"There are 1: train\.en"),
    ({"valid_en": "a\n", "notes_md": "x"}, r"no training files; expected .*found notes\.md, valid\.en"),
    (
        {"train_en": "a\n", "train_de": "A\n", "train_tsv": "a\tA\n"},
        r"both tab-separated and parallel .*train\.tsv",
    ),
    ({"train_tsv": "a\tA\n", "train_txt": "a\tA\n"}, r"has train\.tsv, train\.txt: keep only one"),
    (
        {"train_1_en": "a\n", "train_1_de": "A\n", "train_2_en": "a\n", "train_2_de": "A\n"},
        r"more than one train set",
    ),
    ({"train_en": "a\n", "train_de": "A\n", "dev_en": "a\n"}, r"dev\.en has no counterpart dev\.de"),
    (
        {"train_en": "a\n", "train_de": "A\n", "dev_tsv": "a\tA\n"},
        r"valid part, but not in the form and languages",
    ),
    ({"train_en": "a\n", "train_de": "A\n", "train__x_en": "a\n"}, r"has both train/ and train\.de"),
    ({"train_tsv": "a\tA\nb\n"}, r"train\.tsv, line 2: 1 column, expected at least 2, separated by tabs"),
    ({"train_tsv": "a\tA\n\tB\n"}, r"train\.tsv, line 2: column 1 is blank"),
    ({"train_tsv": "a\tA\nb\t \tCC\n"}, r"train\.tsv, line 2: column 2 is blank"),
    ({"train_tsv": "\t\n\n"}, r"train\.tsv: all lines are blank"),
    ({"train_tsv": ""}, r"train\.tsv: the file is empty"),
]


@pytest.mark.parametrize(("files", "sentence"), SENTENCES)
def test_every_mistake_has_its_sentence(tmp_path: Path, files: dict[str, str | bytes], sentence: str) -> None:
    put(tmp_path, **files)
    with pytest.raises(UserError, match=sentence) as raised:
        read_pairs([tmp_path])
    assert str(tmp_path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_mistakes_in_what_is_asked_for(tmp_path: Path) -> None:
    put(tmp_path, train_en="a\n", train_de="A\n", x_tsv="a\tb\n")
    with pytest.raises(UserError, match=r"no training file ends in \.fr; found train\.de, train\.en"):
        read_pairs([tmp_path], "en", "fr")
    with pytest.raises(UserError, match=r"both 'en'"):
        read_pairs([tmp_path], "en", "en")
    with pytest.raises(UserError, match=r"columns, not languages: .* \(got 'en' and 'zh'\)"):
        read_pairs([tmp_path / "x.tsv"], "en", "zh")
    with pytest.raises(UserError, match=r"line 1: 2 columns, expected at least 3"):
        read_pairs([tmp_path / "x.tsv"], "3", "1")
    with pytest.raises(UserError, match=r"gone: no such file or directory"):
        read_pairs([tmp_path / "gone"])
    with pytest.raises(UserError, match=r"two parallel files, got nothing"):
        read_pairs([])
    with pytest.raises(UserError, match=r"two parallel files, got .*x\.tsv, .*x\.tsv, .*x\.tsv"):
        read_pairs([tmp_path / "x.tsv"] * 3)
