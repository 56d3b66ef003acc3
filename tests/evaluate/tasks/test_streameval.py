"""streameval: a question after every ten lines, about the line so many lines back, in one stream."""

from __future__ import annotations

import re

import pytest

from everlong.errors import ConfigError, InputError, TooLongError
from everlong.evaluate.tasks.streameval import OPENING, QUESTION, StreamEval
from tests.evaluate import layouts
from tests.evaluate.fakes import EchoStream

LINES = re.compile(r"(?<!\?\n)line (\S+): REGISTER_CONTENT is <(\d+)>")


def answered(text, question):
    """What a perfect reader says."""
    return dict(LINES.findall(text))[re.findall(r"line (\S+)[?:]", question)[0]]


def made(**fields):
    (sample,) = StreamEval(**fields).make_samples(layouts.setting())
    return sample


@pytest.mark.parametrize("distance", [1, 5, 10, 20, 37])
def test_the_line_so_many_lines_back_is_asked_for(distance):
    sample, seen = made(lengths=(4000,), distances=(distance,)), []

    def answer(text, question):
        lines = LINES.findall(text)
        seen.append(len(lines))
        name, number = lines[-distance]
        assert question == QUESTION.format(name=name)
        return number + ">"

    found = list(StreamEval().run(EchoStream(answer), sample))
    assert seen == [n for n in range(10, seen[-1] + 1, 10) if n >= distance]
    assert [outcome.score for outcome in found] == [1.0] * len(seen)
    assert [(o.part, o.facts["line"]) for o in found] == [(f"line {n - distance}", n - distance) for n in seen]
    assert tuple(o.gold[0] for o in found) == sample.gold
    assert sample.group == f"distance {distance}"


def test_the_stream_goes_on_with_questions_and_answers():
    sample = made(lengths=(3000,), distances=(20,))
    stream = EchoStream(lambda text, question: " no")
    found = list(StreamEval().run(stream, sample))
    assert {o.score for o in found} == {0.0}
    assert all(asked.keep and asked.stop == (">",) for asked in stream.asked)
    assert "".join(text for text, _ in stream.fed).replace("\n\nline", "\nline") == sample.context.replace("\n\n", "\n")
    assert stream.text.startswith(OPENING)
    assert stream.text.count(" no\nline ") == len(found) - 1
    assert stream.text.count("\nWhat is the") == len(found)


def test_all_that_is_read_and_said_fits():
    for length in (2000, 5000):
        sample = made(lengths=(length,), distances=(20,))
        stream = EchoStream(lambda text, question: "12345>")
        list(StreamEval().run(stream, sample))
        assert 0.85 * length < layouts.setting().count(stream.text) <= length


def test_no_line_is_there_twice_and_answers_are_judged_by_their_first_number():
    sample = made(lengths=(20_000,), distances=(20,))
    names = [name for name, _ in LINES.findall(sample.context)]
    assert len(set(names)) == len(names) > 300
    right = sample.gold[0]
    assert StreamEval().score(f" {right}> or 7", sample) == 1
    assert StreamEval().score(f"7 or {right}", sample) == 0


def test_each_distance_is_a_stream_of_its_own():
    found = list(StreamEval(lengths=(3000,), distances=(5, 20), samples=2).make_samples(layouts.setting()))
    assert [s.group for s in found] == ["distance 5", "distance 5", "distance 20", "distance 20"]
    with pytest.raises(ConfigError, match="distances=500: no line of 3000 tokens is so far back"):
        made(lengths=(3000,), distances=(500,))


def test_official_lines(tmp_path):
    setting = layouts.setting(layouts.longeval(tmp_path, lines=40, samples=3))
    (sample,) = StreamEval(lengths=(3000,), distances=(20,), origin="file").make_samples(setting)
    lines = [f"{name} {number}" for name, number in LINES.findall(sample.context)]
    official = {
        f"{layouts.NAMES[n % 12]}-{layouts.NAMES[n // 12]}-{s} {1000 * s + n + 100}"
        for n in range(40)
        for s in range(3)
    }
    assert set(lines) <= official
    assert len(set(lines)) == min(len(lines), 120)
    assert [o.score for o in StreamEval().run(EchoStream(answered), sample)] == [1.0] * len(sample.gold)
    (longer,) = StreamEval(lengths=(9000,), distances=(20,), origin="file").make_samples(setting)
    assert len(LINES.findall(longer.context)) > 120
    (tmp_path / "longeval" / "200_lines.jsonl").unlink()
    with pytest.raises(InputError, match=r"has no longeval/\*_lines.jsonl"):
        next(StreamEval(origin="file").make_samples(setting))


def test_a_stream_that_is_too_long_passes_the_error_on():
    class Short(EchoStream):
        def feed(self, text, source="text"):
            if self.seen_tokens > 100:
                raise TooLongError("too long")
            return super().feed(text, source)

    run = StreamEval().run(Short(answered), made(lengths=(4000,), distances=(5,)))
    assert next(run).score == 1.0
    with pytest.raises(TooLongError):
        list(run)


def test_the_real_files(data_dir):
    setting = layouts.setting(data_dir)
    (sample,) = StreamEval(lengths=(7680,), distances=(100,), origin="file").make_samples(setting)
    assert [o.score for o in StreamEval().run(EchoStream(answered), sample)] == [1.0] * len(sample.gold)
    assert len(sample.gold) >= 3
