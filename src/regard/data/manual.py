"""The embedded sample of questions: about the functions of the Python standard library, answered by its docstrings."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import groupby

from regard.data.documentation import Documented, documented
from regard.data.squad import Question

__all__ = ["sample_questions"]

PASSAGE = 700
"""About how many characters of documentation are one context."""
LONGEST = 600
"""Of how many characters the docstring of one function may be; longer ones end at a sentence."""
ORDINALS = ("first", "second", "third", "fourth")
RESULT = ("What does {} return?", "What is the result of {}?")
MEANING = ("What does {} of {} mean?", "What is {} in {}?")
DEFAULT = ("What does {} of {} default to?", "What is the default of {} in {}?")

# What the rules read out of a docstring: each gives the answer, and what the question says, as groups.
RETURNED = r"\b(?:[Rr]eturns?|[Yy]ields?) (?!if\b|when\b|from\b)([^.;:]{3,120})(?=[.;:] |[.;:]?$)"
EXCEPTION = r"(?:[A-Z]\w*(?:Error|Exception|Interrupt|Iteration|Exit|Warning|Timeout|Empty|Full)|error)"
RAISED = rf"\b[Rr]aises? (?:an? )?({EXCEPTION})\b[^.;]*? (?:if|when|unless) ([^.;]{{5,80}})(?=[.;])"
CONDITION = r"\b(?:If|When) ([^,.;:]{4,60}), (?:then )?([^.;:]{8,120})(?=[.;:])"
DEFAULTS = r"\b(\w+),? (?:which )?(?:defaults to|\(default(?:s to|:|) ?) ?([^,.;)(\s]{1,30})"
MEANT = (
    r"(?:^|[.;] )(?:The )?(?:optional )?['\"`*]*{}['\"`*]*(?: argument| parameter)?"
    r"(?::| is| are| specifies| gives| controls| indicates| (?:should|must|can|may) be) ([^.;]{{4,120}})(?=[.;]|$)"
)
DONE = r"(?!Returns?|Yields?)([A-Z][^.;:]{10,110})(?=[.;:]|$)"


@lru_cache(1)
def sample_questions() -> dict[str, tuple[Question, ...]]:
    """Questions by part: `train`, `valid`, and `test` of other modules; the same on every call.

    A context is the documentation of a few functions of one module, one after another, each under its signature; so an
    answer is found by the name of its function and by what is asked of it. About one question in five has no answer
    there. Everything about one module is in one part.

    Example:
        >>> sample = sample_questions()
        >>> one = next(one for one in sample["train"] if one.answers)
        >>> text, start = one.answers[0]
        >>> one.context[start:start + len(text)] == text
        True
    """
    parts: dict[str, list[Question]] = {"train": [], "valid": [], "test": []}
    called = (tidy for one in documented() if (tidy := _tidy(one)))
    for module, several in groupby(called, key=lambda one: one.origin.partition(":")[0]):
        part = _part(module)
        for number, passage in enumerate(_passages(list(several))):
            parts[part] += _asked(passage, f"{module}, {number + 1}")
    return {part: tuple(questions) for part, questions in parts.items()}


def _part(module: str) -> str:
    draw = hashlib.sha256(module.encode()).digest()[0]
    return "valid" if draw < 26 else "test" if draw < 52 else "train"


def _tidy(one: Documented) -> Documented | None:
    """A function with its docstring as running text, or None where it is no text worth asking about."""
    name = one.name.rpartition(".")[2]
    if name.startswith("_") or not one.parameters or len(one.parameters) > 8:
        return None
    text = " ".join(one.text.partition(">>>")[0].split())
    if len(text) > LONGEST:
        text = text[: text.rfind(". ", 0, LONGEST) + 1]
    return Documented(name, one.parameters, text, one.origin) if len(text) > 30 else None


def _passages(several: Sequence[Documented]) -> Iterator[list[Documented]]:
    """Neighbouring functions, about as many as make one passage, no name twice."""
    passage: list[Documented] = []
    for one in several:
        if passage and (sum(len(other.text) for other in passage) + len(one.text) > PASSAGE
                        or any(other.name == one.name for other in passage)):  # fmt: skip
            yield passage
            passage = []
        passage.append(one)
    if passage:
        yield passage


def _asked(passage: Sequence[Documented], origin: str) -> Iterator[Question]:
    """Every question there is on a passage, and some that it does not answer."""
    heads = [f"{one.name}({', '.join(one.parameters)}): " for one in passage]
    context, starts = "", []
    for head, one in zip(heads, passage, strict=True):
        starts.append(len(context) + len(head))
        context += f"{head}{one.text}\n"
    context = context.rstrip()
    rng = random.Random(f"manual {origin}")
    count = 0
    for one, start, head in zip(passage, starts, heads, strict=True):
        found = [(text, first + start, last + start) for text, first, last in _of_text(one, rng)]
        if rng.random() < 0.5:
            number = rng.randrange(len(one.parameters[: len(ORDINALS)]))
            before = head.index("(") + 1 + sum(len(name) + 2 for name in one.parameters[:number])
            place = start - len(head) + before
            text = rng.choice(["What is the {} parameter of {}?", "What does {1} take as its {0} parameter?"])
            found.append(
                (text.format(ORDINALS[number], one.name), place, place + len(one.parameters[number]))
            )
        for text, first, last in found:
            count += 1
            answer = context[first:last].rstrip()
            yield Question(text, context, ((answer, first),), f"{origin}.{count}", f"{origin}.{count}")
        for text in _unanswered(one, passage, rng):
            count += 1
            yield Question(text, context, (), f"{origin}.{count}", f"{origin}.{count}")


def _of_text(one: Documented, rng: random.Random) -> Iterator[tuple[str, int, int]]:
    """Questions that a docstring answers, and where."""
    name, text = one.name, one.text

    def ask(forms: Sequence[str], *words: str) -> str:
        return rng.choice(forms).format(*words)

    if match := re.search(RETURNED, text):
        yield ask(RESULT, name), *match.span(1)
    raised = list(re.finditer(RAISED, text))
    for match in raised:
        if rng.random() < 0.5:
            which = "Which exception does {0} raise if {1}?"
            yield (
                ask(
                    [which, "Which exception does {0} raise?"] if len(raised) == 1 else [which],
                    name,
                    match[2],
                ),
                *match.span(1),
            )
        else:
            yield (
                ask(["When does {0} raise {1}?", "In what case does {0} raise {1}?"], name, match[1]),
                *match.span(2),
            )
    for match in re.finditer(CONDITION, text):
        yield (
            ask(["What happens in {1} if {0}?", "If {0}, what does {1} do?"], match[1], name),
            *match.span(2),
        )
    for match in re.finditer(DEFAULTS, text):
        yield ask(DEFAULT, match[1], name), *match.span(2)
    for parameter in one.parameters:
        if match := re.search(MEANT.format(re.escape(parameter)), text):
            yield ask(MEANING, parameter, name), *match.span(1)
    if match := re.match(DONE, text):
        yield ask(["What does {} do?", "What is {} for?"], name), *match.span(1)


def _unanswered(one: Documented, passage: Sequence[Documented], rng: random.Random) -> Iterator[str]:
    """Questions on a function that its documentation does not answer, though that of a neighbour may."""
    low = one.text.lower()
    choices = []
    if not re.search(r"return|yield|get", low):
        choices.append(rng.choice(RESULT).format(one.name))
    if not re.search(r"rais|error|exception", low):
        choices.append(
            rng.choice(["Which exception does {} raise?", "When does {} raise ValueError?"]).format(one.name)
        )
    strange = [
        name
        for other in passage
        for name in other.parameters
        if name not in one.parameters and name not in low
    ]
    if strange:
        choices.append(rng.choice([*MEANING, *DEFAULT]).format(rng.choice(strange), one.name))
    if len(one.parameters) < len(ORDINALS):
        choices.append(f"What is the {ORDINALS[len(one.parameters)]} parameter of {one.name}?")
    if choices and rng.random() < 0.5:
        yield rng.choice(choices)
