"""`everlong generate` from end to end."""

from __future__ import annotations

import json

import pytest

from everlong.hooks.adapter import load
from everlong.methods import Sinks
from everlong.session.session import Session

PROMPT = "the beginning"
SHORT = ["--max-new-tokens", 12]


def written(folder: str, prompt: str, allow_special: bool = False, **sampling):
    with Session(load(folder), Sinks(), allow_special=allow_special) as session:
        return session.generate(prompt, **{"max_new_tokens": 12} | sampling)


def test_json_holds_the_interface(everlong, tiny):
    ended = everlong("generate", "--prompt", PROMPT, "--model", tiny, *SHORT, "--json")
    assert ended.code == 0
    assert ended.err == ""
    found, expected = ended.json, written(tiny, PROMPT)
    assert list(found) == ["text", "token_ids", "seconds_per_token", "report"]
    assert found["text"] == expected.text
    assert found["token_ids"] == expected.token_ids
    assert 0 < found["seconds_per_token"] < 60
    prompt_tokens = len(load(tiny).tokenizer(PROMPT).input_ids)
    assert found["report"]["seen_tokens"] == prompt_tokens + len(found["token_ids"])


def test_text_is_streamed_to_stdout(everlong, tiny):
    ended = everlong("generate", "--prompt", PROMPT, "--model", tiny, *SHORT)
    assert ended.out == written(tiny, PROMPT).text + "\n"
    assert ended.err.splitlines()[-1].startswith("Next: everlong chat --model ")
    quiet = everlong("generate", "--prompt", PROMPT, "--model", tiny, *SHORT, "--quiet")
    assert (quiet.out, quiet.err) == (ended.out, "")


def test_a_prompt_file_and_stdin_give_the_same(everlong, tiny, tmp_path):
    (tmp_path / "prompt.txt").write_text(PROMPT)
    rest = ["--model", tiny, *SHORT, "--json"]
    given = everlong("generate", "--prompt", PROMPT, *rest).json["token_ids"]
    assert everlong("generate", "--prompt-file", tmp_path / "prompt.txt", *rest).json["token_ids"] == given
    assert everlong("generate", "--prompt-file", "-", *rest, stdin=PROMPT.encode()).json["token_ids"] == given


def test_sampling_options_reach_the_session(everlong, tiny):
    options = ["--temperature", 1.5, "--top-k", 20, "--top-p", 0.9, "--repetition-penalty", 1.2, "--seed", 3]
    ended = everlong("generate", "--prompt", PROMPT, "--model", tiny, *SHORT, *options, "--json")
    expected = written(tiny, PROMPT, temperature=1.5, top_k=20, top_p=0.9, repetition_penalty=1.2, seed=3)
    assert ended.json["token_ids"] == expected.token_ids


def test_stop_strings_end_the_text(everlong, tiny):
    whole = everlong("generate", "--prompt", PROMPT, "--model", tiny, *SHORT, "--json").json["text"]
    stop = whole[5:7]
    cut = everlong("generate", "--prompt", PROMPT, "--model", tiny, *SHORT, "--json", "--stop", stop, "--stop", "@@")
    assert cut.json["text"] == whole[: whole.index(stop)]


def test_chat_puts_the_text_through_the_template(everlong, tiny):
    ended = everlong("generate", "--chat", "--prompt", "Hi", "--model", tiny, *SHORT, "--json")
    rendered = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert ended.json["token_ids"] == written(tiny, rendered, allow_special=True).token_ids


@pytest.mark.parametrize("how", [["--prompt", "Hi<|im_end|>\n"], ["--chat", "--prompt", "Hi<|im_end|>\n"]])
def test_control_tokens_in_a_prompt_are_text_unless_they_are_allowed(everlong, tiny, how):
    seen = [
        everlong("generate", *how, "--model", tiny, "--max-new-tokens", 1, *allowed, "--json").json["report"][
            "seen_tokens"
        ]
        for allowed in ([], ["--allow-special"])
    ]
    assert seen[0] - seen[1] in (8, 9, 10)


def test_a_long_prompt_stays_in_bounded_memory(everlong, tiny, text_file):
    ended = everlong("generate", "--prompt-file", text_file, "--model", tiny, *SHORT, "-o", "window=20", "--json")
    report = ended.json["report"]
    assert report["sink_tokens"] + report["window_tokens"] == 24
    assert report["seen_tokens"] > 1000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "recompute", "-o", "window=64"], "can only score"),
        (["--model", "STORIES"], "has no tokenizer"),
        (["--model", "STORIES", "--chat"], "has no chat template"),
    ],
)
def test_what_cannot_work_is_one_line_and_exit_2(everlong, tiny, stories, options, message):
    options = [str(stories) if option == "STORIES" else option for option in options]
    ended = everlong("generate", "--prompt", PROMPT, *([] if "--model" in options else ["--model", tiny]), *options)
    assert ended.code == 2
    assert message in ended.err
    assert len(ended.err.splitlines()) == 1


def test_many_prompts_are_written_together_each_as_if_alone(everlong, tiny, tmp_path):
    lines = ["It was the best", "Gulls cried over", "the tide", "one more line that is longer", "a"]
    (tmp_path / "prompts.txt").write_text("\n".join(lines[:2]) + "\n\n" + "\n".join(lines[2:]) + "\n")
    options = ["--model", tiny, *SHORT, "--method", "sinks", "-o", "window=24"]
    alone = [everlong("generate", "--prompt", line, *options, "--json").json for line in lines]
    done = everlong("generate", "--prompts", tmp_path / "prompts.txt", "--batch", 3, *options, "--json")
    assert done.code == 0, done.err
    found = [json.loads(line) for line in done.out.splitlines()]
    assert [(row["number"], row["prompt"]) for row in found] == list(enumerate(lines, 1))
    assert [row["token_ids"] for row in found] == [row["token_ids"] for row in alone]
    assert [row["report"]["seen_tokens"] for row in found] == [row["report"]["seen_tokens"] for row in alone]
    said = everlong("generate", "--prompts", "-", *options, stdin="\n".join(lines).encode()).out
    assert [text in said for text in (f"1. {lines[0]}{alone[0]['text']}", f"5. {lines[4]}{alone[4]['text']}")] == [
        True
    ] * 2


def test_prompts_that_are_none_or_twice_are_one_line(everlong, tiny, tmp_path):
    (tmp_path / "empty.txt").write_text("\n \n")
    for arguments, message in (
        (["--prompts", tmp_path / "empty.txt"], "has no prompts; give one on each line"),
        (["--prompts", tmp_path / "empty.txt", "--prompt", "a"], "got --prompts FILE and another prompt"),
    ):
        ended = everlong("generate", *arguments, "--model", tiny)
        assert ended.code == 2
        assert message in ended.err
        assert len(ended.err.splitlines()) == 1


def test_a_line_that_fails_is_named_and_the_others_are_written(everlong, tiny, tmp_path, monkeypatch):
    from everlong.engine import engine
    from everlong.errors import InputError

    begin = engine.begin_answer

    def fails(stream, settings):
        if stream.seen_tokens > 30:
            raise InputError("too long")
        return begin(stream, settings)

    monkeypatch.setattr(engine, "begin_answer", fails)
    (tmp_path / "prompts.txt").write_text("short\n" + "long " * 40 + "\nshort too\n")
    ended = everlong("generate", "--prompts", tmp_path / "prompts.txt", "--model", tiny, *SHORT)
    assert ended.code == 2
    assert "line 2: too long" in ended.err
    assert "1 of 3 lines could not be written on" in ended.err.splitlines()[-1]
    assert ended.out.startswith("1. short")
    assert "3. short too" in ended.out
