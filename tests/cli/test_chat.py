"""`everlong chat` from end to end, its lines coming from a pipe."""

from __future__ import annotations

import json
import shlex

import pytest

from everlong.hooks.adapter import load
from everlong.methods import Sinks
from everlong.session.chat import system_tokens
from everlong.session.session import Session
from tests.models.tiny import save_folder

SHORT = ["--max-new-tokens", 8, "--temperature", 0]


@pytest.fixture
def chat(everlong, tiny):
    """Runs a chat over lines; its JSON lines and the lines on stderr."""

    def talk(*lines: str, options=(), ends_with_newline: bool = True):
        stdin = "\n".join(lines) + ("\n" if ends_with_newline else "")
        ended = everlong("chat", "--model", tiny, *SHORT, "--json", *options, stdin=stdin.encode())
        assert ended.code == 0
        return [json.loads(line) for line in ended.out.splitlines()], ended.err.splitlines()

    return talk


def test_answers_follow_the_template_turn_by_turn(chat, tiny):
    answers, said = chat("Hello", "And then?")
    assert said == []
    assert [list(answer) for answer in answers] == [["text", "token_ids", "seconds_per_token", "report"]] * 2
    tokenizer = load(tiny).tokenizer
    first = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    turn = "<|im_end|>\n<|im_start|>user\nAnd then?<|im_end|>\n<|im_start|>assistant\n"
    read = len(tokenizer(first).input_ids) + len(answers[0]["token_ids"]) + len(tokenizer(turn).input_ids)
    closing = len(tokenizer("<|im_end|>\n").input_ids)
    assert answers[1]["report"]["seen_tokens"] == read + len(answers[1]["token_ids"]) + closing


def test_the_last_line_needs_no_newline_and_empty_lines_are_nothing(chat):
    answers, _ = chat("Hello", "", "   ", "And then?", ends_with_newline=False)
    assert len(answers) == 2


def test_undo_takes_the_last_turn_back(chat):
    answers, said = chat("Hello", "/report", "Other", "/undo", "/report", "Other", "/undo", "/undo", "/undo", "/report")
    hello, before, other, after, again, begun = answers
    assert hello["report"] == before == after
    assert other["token_ids"] == again["token_ids"]
    assert begun["seen_tokens"] == 0
    assert said == ["Taken back."] * 3 + ["There is no turn to take back."]


def test_undo_reaches_as_far_as_was_asked_for(chat):
    _, said = chat("a", "b", "c", "/undo", "/undo", options=["--undo", 1])
    assert said == ["Taken back.", "There is no turn to take back."]


def test_reset_begins_anew(chat):
    answers, said = chat("Hello", "Other", "/reset", "/report", "Hello")
    assert answers[2]["seen_tokens"] == 0
    assert answers[3]["token_ids"] == answers[0]["token_ids"]
    assert said == ["Begun anew."]


def test_save_and_load_go_on_where_it_was(chat, tmp_path):
    path = tmp_path / "kept talk.session"
    answers, said = chat("Hello", f"/save {path}", "Other")
    assert said == [f"Wrote {path}."]
    assert list(tmp_path.iterdir()) == [path]
    later, said = chat(f"/load {path}", "Other")
    assert later[0]["token_ids"] == answers[1]["token_ids"]
    assert said == [f"Going on after {answers[0]['report']['seen_tokens']:,} tokens."]


def test_mistakes_are_said_and_the_conversation_goes_on(chat, tmp_path, tiny):
    (tmp_path / "damaged").write_bytes(b"nothing of the kind")
    save_folder(tmp_path / "other", seed=1)
    with Session(load(tmp_path / "other"), Sinks()) as session:
        session.feed("x")
        session.save(tmp_path / "foreign")
    answers, said = chat(
        "Hello",
        "/repotr",
        "/save",
        f"/save {tmp_path}/absent/file",
        f"/load {tmp_path}/absent",
        f"/load {tmp_path}/damaged",
        f"/load {tmp_path}/foreign",
        "/report",
    )
    expected = [
        "/repotr: no such command; did you mean 'report'?",
        "/save: which file? write /save FILE",
        "absent/file: ",
        "No such file or directory; give the path of a saved session",
        "not a saved session",
        "model weights",
    ]
    assert len(said) == len(expected)
    for line, part in zip(said, expected, strict=True):
        assert line.startswith("everlong: ")
        assert part in line
    assert answers[0]["report"] == answers[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["damaged", "foreign", "other"]


def test_exit_leaves_before_the_rest(chat):
    answers, _ = chat("Hello", "/exit", "Other")
    assert len(answers) == 1


def test_pinned_system_prompt_stays_as_sinks(chat, tiny):
    system = "You are the tiny one. " * 3
    answers, _ = chat("Hello", *["Go on"] * 6, options=["--system", system, "--pin-system", "-o", "window=40"])
    pinned = system_tokens(load(tiny).tokenizer, system)
    report = answers[-1]["report"]
    assert pinned > 40
    assert report["sink_tokens"] == pinned
    assert report["window_tokens"] == 40
    assert report["dropped_tokens"] > 0


def test_words_without_json(everlong, tiny):
    ended = everlong("chat", "--model", tiny, *SHORT, stdin=b"/help\n/report\n")
    assert ended.out.startswith("sinks(sinks=4, window=1020): seen 0 = ")
    assert "/load FILE   go on with a kept conversation" in ended.err
    assert ended.err.splitlines()[-2].startswith("Nothing was said.")
    unkept = everlong("chat", "--model", tiny, *SHORT, "--no-keep", stdin=b"/report\n")
    assert unkept.err.splitlines()[-1].startswith("Next time: /save FILE")


def test_the_seed_makes_a_conversation_repeatable(chat):
    options = ["--temperature", 2, "--seed", 5]
    (a, b), (c, d) = (chat("Hello", "Hello", options=options)[0] for _ in range(2))
    assert (a["token_ids"], b["token_ids"]) == (c["token_ids"], d["token_ids"])
    assert a["token_ids"] != b["token_ids"]


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        ({"template": None}, [], "has no chat template"),
        ({}, ["--method", "recompute"], "can only score"),
        ({}, ["--method", "dense", "--pin-system"], "method dense has no sinks"),
    ],
)
def test_what_cannot_work_is_one_line_and_exit_2(everlong, tmp_path, make, options, message):
    folder = save_folder(tmp_path, **make)
    ended = everlong("chat", "--model", folder, *options, stdin=b"Hello\n")
    assert message in ended.err
    assert ended.code == 2
    assert len(ended.err.splitlines()) == 1


def test_a_conversation_is_kept_and_goes_on_by_its_name(everlong, chat, tiny, home):
    (first, second), _ = chat("Hello", "And then?")
    (row,) = everlong("chat", "--list", "--json").json
    assert (row["turns"], row["tokens"]) == (2, second["report"]["seen_tokens"])
    assert row["name"].startswith("chat-20")
    (third,), _ = chat("And now?", options=["--session", row["name"]])
    (*_, whole), _ = chat("Hello", "And then?", "And now?", options=["--no-keep"])
    assert third["token_ids"] == whole["token_ids"]
    assert third["report"]["seen_tokens"] == whole["report"]["seen_tokens"]
    chat("Hi", options=["--session", "my own"])
    rows = everlong("chat", "--list", "--json").json
    assert [(r["name"], r["turns"]) for r in rows] == [("my own", 1), (row["name"], 3)]
    listed = everlong("chat", "--list")
    assert "my own" in listed.out
    header, _, kept = listed.out.splitlines()
    assert kept[: header.index("TURNS") + len("TURNS")].split() == [row["name"], "3"]
    assert first["token_ids"]
    assert everlong("chat", "--list", "--store", home / "none").err.startswith("No conversation is kept yet")
    assert not (home / "none").exists()


def test_chats_of_one_day_have_names_of_their_own_and_an_empty_one_none(everlong, chat):
    for lines in (["Hello"], ["/report"], [], ["Hello"]):
        chat(*lines)
    names = [row["name"] for row in everlong("sessions", "list", "--json").json]
    assert len(names) == 2
    assert names[1] == f"{names[0]}-2"


def test_what_was_taken_back_is_not_kept(everlong, chat, tiny, home):
    (hello, _), said = chat("Hello", "A secret", "/undo", options=["--session", "a"])
    assert said == ["Taken back."]
    with Session.open(home, "a", load(tiny), read_only=True) as session:
        assert session.seen_tokens == hello["report"]["seen_tokens"]
        assert "secret" not in session.transcript.text(0, session.seen_tokens)
    assert everlong("sessions", "verify", "a").code == 0
    assert [row["name"] for row in everlong("sessions", "list", "--json").json] == ["a"]
    (again,), _ = chat("Other", options=["--session", "a"])
    (*_, whole), _ = chat("Hello", "Other", options=["--no-keep"])
    assert again["token_ids"] == whole["token_ids"]


def test_a_reset_leaves_what_was_said_under_its_name(everlong, chat):
    chat("Hello", "/reset", "Other", "And?", options=["--session", "a"])
    rows = everlong("chat", "--list", "--json").json
    assert sorted(row["turns"] for row in rows) == [1, 2]
    assert {row["name"]: row["turns"] for row in rows}["a"] == 1


def test_a_chat_goes_on_with_what_was_read(everlong, chat, tiny, text_file):
    assert everlong("read", text_file, "--session", "book", "--model", tiny).code == 0
    system = ["--system", "Be kind."]
    (answer,), _ = chat("What came?", "/undo", options=["--session", "book", *system])[0:1][0], None
    assert answer["report"]["seen_tokens"] > 200
    _, said = chat("And?", "/undo", options=["--session", "book", *system])
    assert said[0].startswith("everlong: warning: system: this conversation was begun before")
    assert "only goes forward; begin the conversation with --no-keep" in said[1]
    before = everlong("chat", "--list", "--json").json[0]
    chat("Who?", options=["--session", "book", "--no-keep"])
    assert everlong("chat", "--list", "--json").json[0] == before


def test_another_method_than_the_chat_was_begun_with_is_refused(everlong, chat, tiny):
    chat("Hello", options=["--session", "a"])
    for options in (["-o", "window=20"], ["--method", "dense"], ["--system", "x", "--pin-system"]):
        ended = everlong("chat", "--session", "a", "--model", tiny, *options, stdin=b"Hi\n")
        assert ended.code == 2
        assert "session 'a': was begun with sinks(sinks=4, window=1020), got" in ended.err
        assert len(ended.err.splitlines()) == 1


def test_the_printed_command_goes_on_with_the_chat(everlong, tiny, home, monkeypatch):
    ended = everlong(
        "chat",
        "--model",
        tiny,
        "--dtype",
        "bfloat16",
        *SHORT,
        "--session",
        "my own",
        "--store",
        home / "s p",
        stdin=b"Hello\n",
    )
    listed = everlong("chat", "--list", "--store", home / "s p")
    monkeypatch.chdir("/")
    for turns, said in ((2, ended), (3, listed)):
        words = shlex.split(said.err.splitlines()[-1].removeprefix("Next: "))
        assert words[:2] == ["everlong", "chat"]
        again = everlong(*words[1:], *SHORT, "--json", stdin=b"And?\n")
        assert again.code == 0, again.err
        assert everlong("chat", "--list", "--store", home / "s p", "--json").json[0]["turns"] == turns
