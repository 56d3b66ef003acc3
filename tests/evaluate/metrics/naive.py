"""The official metrics once more, written from their definitions and as unlike `everlong.evaluate.metrics` as possible.

Words are matched by crossing them out, fractions are exact, and the longest common subsequence is walked in a loop.
"""

from __future__ import annotations

import difflib
import itertools
import re
import string
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import Any

import jieba

CHINESE = re.compile(
    "[–—‘’\u201b-\u201f…‧\u3001-\u3003\u300b-\u3011\u3014-\u301f\u3030\u303e\u303f﹏"
    "\uff01-\uff0d\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff64]"
)


def f1_of(prediction: Iterable[str], gold: Iterable[str]) -> float:
    said, wanted = list(prediction), list(gold)
    left, common = wanted.copy(), 0
    for word in said:
        if word in left:
            left.remove(word)
            common += 1
    if not common:
        return 0.0
    precision, recall = Fraction(common, len(said)), Fraction(common, len(wanted))
    return float(2 * precision * recall / (precision + recall))


def english(text: str) -> list[str]:
    bare = "".join(char for char in text.lower() if char not in string.punctuation)
    return [word for word in re.split(r"(?<!\w)(?:an?|the)(?!\w)|\s+", bare) if word]


def chinese(text: str) -> str:
    kept = (char for char in text.lower() if char not in string.punctuation and not char.isspace())
    return CHINESE.sub("", "".join(kept))


def f1(prediction: str, gold: str) -> float:
    return f1_of(english(prediction), english(gold))


def f1_zh(prediction: str, gold: str) -> float:
    return f1_of(filter(None, map(chinese, jieba.cut(prediction))), filter(None, map(chinese, jieba.cut(gold))))


def f1_characters(prediction: str, gold: str) -> float:
    return f1_of(chinese(prediction), chinese(gold))


def common(one: Sequence[str], other: Sequence[str], first_up: Callable[[int, int], bool]) -> list[int]:
    """Places in `one` of a longest common subsequence; `first_up(up, left)` says which way to go at a fork."""
    table = [[0] * (len(other) + 1)]
    for word in one:
        row = [0]
        for j, same in enumerate(other):
            row.append(table[-1][j] + 1 if word == same else max(table[-1][j + 1], row[j]))
        table.append(row)
    i, j, found = len(one), len(other), []
    while i and j:
        if one[i - 1] == other[j - 1]:
            i, j = i - 1, j - 1
            found.append(i)
        elif first_up(table[i - 1][j], table[i][j - 1]):
            i -= 1
        else:
            j -= 1
    return found


def rouge_l(prediction: str, gold: str) -> float:
    """As the package rouge: sentences end at full stops, of equal ways the left one, a word counts once."""
    said, wanted = ([s.split() or [""] for s in text.split(".") if s] for text in (prediction, gold))
    if not said or not wanted:
        return 0.0
    both = {s[i] for s in wanted for t in said for i in common(s, t, lambda up, left: up > left)}
    precision, recall = (len(both) / len({word for s in text for word in s}) for text in (said, wanted))
    return 2 * precision * recall / (precision + recall + 1e-8)


def rouge_l_zh(prediction: str, gold: str) -> float:
    return rouge_l(" ".join(jieba.cut(prediction)), " ".join(jieba.cut(gold)))


def rouge_lsum(prediction: str, gold: str) -> float:
    """As the package rouge-score: lines are sentences, of equal ways the upper one, words count as often as in both."""
    said, wanted = ([re.findall("[a-z0-9]+", s) for s in t.lower().split("\n")] for t in (prediction, gold))
    left = list(itertools.chain(*said))
    n, m, hits = len(left), sum(map(len, wanted)), 0
    for s in wanted:
        for i in sorted({i for t in said for i in common(s, t, lambda up, left: up >= left)}):
            if s[i] in left:
                left.remove(s[i])
                hits += 1
    return 2 * hits / (n + m) if hits else 0.0


def classification(prediction: str, gold: str, classes: Sequence[str]) -> float:
    named, unseen = [], False
    for name in (name for name in classes if prediction.find(name) >= 0):
        if unseen or name == gold or gold.find(name) < 0:
            named.append(name)
            unseen = False
        else:
            unseen = True
    return 1 / len(named) if gold in named else 0.0


def count(prediction: str, gold: str) -> float:
    numbers = [number for number in re.split(r"\D+", prediction) if number]
    return float(Fraction(sum(number == gold for number in numbers), len(numbers))) if numbers else 0.0


def retrieval(prediction: str, gold: str) -> float:
    return count(prediction, re.sub(r"\D", "", gold))


def code_similarity(prediction: str, gold: str) -> float:
    """Where Levenshtein is not installed."""
    code = re.search(r"^(?!.*[`#])(?!.*//).*$", prediction.lstrip("\n"), re.MULTILINE)
    line = code[0] if code else ""
    return round(100 * difflib.SequenceMatcher(None, line, gold).ratio()) / 100 if line and gold else 0.0


def digits(text: str) -> list[str]:
    return ["".join(group) for is_digit, group in itertools.groupby(text, string.digits.__contains__) if is_digit]


def first_number(prediction: str, answer: str) -> float:
    return float(digits(prediction)[:1] == [answer])


def word(prediction: str, answer: str) -> float:
    edge = r"[\s:\"'.,?!{}]"
    return float(bool(re.search(rf"(?:^|{edge}){re.escape(answer)}(?={edge}|$)", prediction)))


def name(prediction: str, answer: Sequence[str]) -> float:
    return word(prediction.upper(), answer[0]) if " " not in answer[0] else 0.0


def number(prediction: str, answer: float) -> float:
    at = next((i for i, char in enumerate(prediction) if char.isdigit()), None)
    if at is None:
        return 0.0
    whole, fraction = re.match(r"(\d+)(\.\d+)?", prediction[at:]).groups()
    return float(not (fraction and isinstance(answer, int)) and Fraction(whole + (fraction or "")) == answer)


def steps(prediction: str, answer: Sequence[int]) -> float:
    same = (int(said) == wanted for said, wanted in zip(digits(prediction), answer, strict=False))
    return sum(itertools.accumulate(same, lambda before, now: before and now)) / len(answer)


def last_number(prediction: str, answer: int) -> float:
    found = re.fullmatch(r"(?s)(?:.*[\s.`'\":])?([+-]?\d+)[\s.`'\":]*", prediction)
    return float(found is not None and int(found[1]) == answer)


def _follows(text: str, openings: Sequence[str], right: Sequence[str]) -> float | None:
    for opening in openings:
        if (at := text.find(opening)) >= 0:
            return float(any(text.startswith(one, at + len(opening) + 1) for one in right))
    return None


def faulty(prediction: str, answer: Sequence[str]) -> float:
    if re.match(rf"\s*{answer[1]}[.:]", prediction):
        return 1.0
    plain = re.sub(" +", " ", re.sub(r"Option|option|[\n`'\"*-]", " ", prediction.strip()))
    return _follows(plain, ("answer is:", "is:", "answer:"), answer) or 0.0


def chosen(prediction: str, answer: Sequence[str]) -> float:
    option, letter = answer
    said = prediction.strip()
    if re.match("[ABCD]", said):
        return float(said.startswith(letter))
    if said == option:
        return 1.0
    plain = re.sub(" +", " ", re.sub(r"[\n\"'.,?!{}]", " ", said))
    behind = _follows(plain, ("answer is:", "answer:", "answer is", "option is"), answer)
    if behind is not None:
        return behind
    alone = re.search(r"(?<!\S)(A|B|C|D|AB|BC|CD|ABC|BCD|ABCD)(?!\S)", plain)
    return float(alone is not None and alone[1] == letter)


def best(score: Callable[[str, str], float]) -> Callable[[str, Any], float]:
    return lambda prediction, answers: max(score(prediction, answer) for answer in answers)
