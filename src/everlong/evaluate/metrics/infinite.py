"""InfiniteBench's scores by subset (`src/compute_scores.py`), each of a prediction against the answer in the file.

Answers may stand alone or in a list. Differences: the official scorer stops with an error where the prediction for a
whole number is a fraction, here that is wrong; it takes numbers that stand as text in the file for wrong, here they
count as numbers; and it leaves out GPT-4's first number in Math.Calc, which nothing here does.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from everlong.evaluate.metrics import qa
from everlong.evaluate.metrics.rouge import rouge_lsum

_DIGITS = re.compile(r"[0-9]+")
_NUMBER = re.compile(r"\d+\.\d+|\d+")
_LETTERS = "ABCD"


def first_number(prediction: str, answer: Any) -> float:
    """1 if the first digits in the prediction are the answer.

    InfiniteBench `get_score_one_passkey`, `get_score_one_number_string`.

    >>> first_number(" is 72333. 1", "72333"), first_number("723331", "72333")
    (1.0, 0.0)
    """
    found = _DIGITS.search(prediction)
    return float(found is not None and found[0] == str(_one(answer)))


def word(prediction: str, answer: Any) -> float:
    """1 if the answer is one of the words of the prediction.

    InfiniteBench `get_score_one_kv_retrieval`.

    >>> word('{"b33c8fd9-dd05"}', "b33c8fd9-dd05"), word("b33c8fd9-dd057", "b33c8fd9-dd05")
    (1.0, 0.0)
    """
    return float(str(_one(answer)) in _words(prediction))


def name(prediction: str, answer: Any) -> float:
    """1 if the (first) answer is one of the words of the prediction in upper case; a name of two words never is.

    InfiniteBench `get_score_one_longdialogue_qa_eng`.

    >>> name("It is Marsha.", ["MARSHA", "MRS WHITE"]), name("Mrs White", ["MRS WHITE"])
    (1.0, 0.0)
    """
    return float(str(_one(answer)) in _words(prediction.upper()))


def number(prediction: str, answer: Any) -> float:
    """1 if the first number in the prediction, a sign left out, is the answer.

    InfiniteBench `get_score_one_math_find`.

    >>> number("It is 89.", 89), number("0.50", 0.5), number("89.5", 89)
    (1.0, 1.0, 0.0)
    """
    found = _NUMBER.search(prediction)
    wanted = _one(answer)
    kind = int if isinstance(wanted, int) or str(wanted).isdecimal() else float
    try:
        return float(found is not None and kind(found[0]) == kind(wanted))
    except ValueError:
        return 0.0


def steps(prediction: str, answer: Sequence[Any]) -> float:
    """The share of the results that are right up to the first wrong one; signs are left out.

    InfiniteBench `get_score_one_math_calc`.

    >>> steps("[1, 4, 8]", [1, 4, 9]), steps("2, 4, 9", [1, 4, 9])
    (0.6666666666666666, 0.0)
    """
    wanted = answer[0] if answer and isinstance(answer[0], list) else answer
    said = [digits.lstrip("0") or "0" for digits in _DIGITS.findall(prediction)]
    pairs = zip(said, wanted, strict=False)
    right = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == str(int(pair[1])), pairs))
    return right / len(wanted) if wanted else 0.0


def last_number(prediction: str, answer: Any) -> float:
    """1 if the last word of the prediction is the answer, a whole number.

    InfiniteBench `get_score_one_code_run`.

    >>> last_number("The value is: -6.", -6), last_number("6 it is", 6)
    (1.0, 0.0)
    """
    words = _spaced(prediction, "\n.`'\":").split()
    try:
        return float(bool(words) and int(words[-1]) == int(_one(answer)))
    except ValueError:
        return 0.0


def faulty(prediction: str, answer: Sequence[str]) -> float:
    """1 if the prediction begins with the letter and a mark, or names letter or function behind "is:" or "answer:".

    InfiniteBench `get_score_one_code_debug`; the answer is (function, letter). A letter alone is wrong there.

    >>> [faulty(said, ("parse", "B")) for said in ("B. parse", "the answer is: parse", "B")]
    [1.0, 1.0, 0.0]
    """
    function, letter = answer
    said = prediction.strip()
    if said[:2] in (f"{letter}.", f"{letter}:"):
        return 1.0
    for part in ("Option", "option"):
        said = said.replace(part, " ")
    rest = _behind(re.sub(" +", " ", _spaced(said, "\n`'\"-*")), ("answer is:", "is:", "answer:"))
    return float(bool(rest) and rest.startswith((letter, function)))


def chosen(prediction: str, answer: Sequence[str]) -> float:
    """1 if the right letter, or the right option itself, is what the prediction chooses.

    InfiniteBench `get_score_one_longbook_choice_eng`; the answer is (option, letter). In this order: a letter at the
    beginning, the option's own words alone, what stands behind "answer is" and the like, the first letter on its own.

    >>> [chosen(said, ("Paris", "B")) for said in ("B", "Paris", "The answer is B", "it may be B", "A or B")]
    [1.0, 1.0, 1.0, 1.0, 0.0]
    """
    said = prediction.strip()
    if not said:
        return 0.0
    if said[0] in _LETTERS:
        return float(said[0] in answer)
    if said in answer:
        return 1.0
    plain = re.sub(" +", " ", _spaced(said, "\n\"'.,?!{}"))
    rest = _behind(plain, ("answer is:", "answer:", "answer is", "option is"))
    if rest is not None:
        return float(rest.startswith(tuple(answer)))
    return float(next((found for found in plain.split() if found in _LETTERS), "") in answer)


def english(prediction: str, answer: Any) -> float:
    """The highest F1 of English words over the answers.

    InfiniteBench `get_score_one_longbook_qa_eng`.

    >>> english("the cat", ["dogs", "cat"])
    1.0
    """
    return max((qa.f1(prediction, gold) for gold in _all(answer)), default=0.0)


def chinese(prediction: str, answer: Any) -> float:
    """The highest F1 of characters over the answers.

    InfiniteBench `get_score_one_longbook_qa_chn`.

    >>> chinese("北京。", ["上海", "北京"])
    1.0
    """
    return max((qa.f1_characters(prediction, gold) for gold in _all(answer)), default=0.0)


def summary(prediction: str, answer: Any) -> float:
    """The highest rougeLsum over the answers.

    InfiniteBench `get_score_one_longbook_sum_eng`.

    >>> summary("tide rose", "Tide rose.")
    1.0
    """
    return rouge_lsum(prediction, _all(answer))


SCORERS: Mapping[str, Callable[[str, Any], float]] = {
    "passkey": first_number,
    "number_string": first_number,
    "kv_retrieval": word,
    "longbook_sum_eng": summary,
    "longbook_choice_eng": chosen,
    "longbook_qa_eng": english,
    "longbook_qa_chn": chinese,
    "longdialogue_qa_eng": name,
    "math_find": number,
    "math_calc": steps,
    "code_run": last_number,
    "code_debug": faulty,
}
"""What scores each subset."""


def _one(answer: Any) -> Any:
    return answer[0] if isinstance(answer, list | tuple) else answer


def _all(answer: Any) -> list[str]:
    return [str(gold) for gold in answer] if isinstance(answer, list | tuple) else [str(answer)]


def _words(prediction: str) -> list[str]:
    return _spaced(prediction, "\n:\"'.,?!{}").split()


def _spaced(text: str, marks: str) -> str:
    """The text with spaces in the place of these characters."""
    return text.translate(str.maketrans(dict.fromkeys(marks, " ")))


def _behind(text: str, openings: Sequence[str]) -> str | None:
    """What follows the first of the openings that stands in the text, and one character; None if none does."""
    for opening in openings:
        _, found, after = text.partition(opening)
        if found:
            return after[1:]
    return None
