"""Chats and kept questions over templates that show an earlier answer otherwise than it was written."""

from __future__ import annotations

import pytest
from tokenizers import AddedToken

from everlong import Blocks, Dense, Session, Sinks
from everlong.errors import SessionError
from everlong.models.load import Loaded
from everlong.session.chat import Chat
from everlong.session.thoughts import Exchange
from everlong.text.chat_template import Template

from .conftest import TEMPLATE, byte_level
from .keeping import SMALL

HEAD = "{% for m in messages %}{% if m['role'] != 'assistant' %}<|turn|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n"
LAST_ASKED = (
    "{% set ns = namespace(at=-1) %}{% for m in messages %}"
    "{% if m['role'] == 'user' %}{% set ns.at = loop.index0 %}{% endif %}{% endfor %}"
)
PROMPT = "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"

QWEN = (
    LAST_ASKED + HEAD + "{% else %}{% set said = m['content'] %}"
    "{% if '</think>' in said and loop.index0 < ns.at %}"
    "{% set said = said.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "<|turn|>assistant\n{{ said }}<|end|>\n{% endif %}{% endfor %}" + PROMPT
)
QUIET = QWEN.replace(PROMPT, "{% if add_generation_prompt %}<|turn|>assistant\n<think>\n\n</think>\n\n{% endif %}")
R1 = (
    "{{ bos_token }}"
    + HEAD.replace("{{ m['role'] }}\n", "{{ m['role'] }}:")
    + "{% else %}{% set said = m['content'] %}{% if '</think>' in said %}{% set said = said.split('</think>')[-1] %}"
    "{% endif %}<|turn|>assistant:{{ said }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant:<think>\n{% endif %}"
)
CLOSED = R1.replace("<|turn|>assistant:{{", "<|turn|>assistant:</think>{{").replace("<think>\n", "</think>")
GLM = (
    LAST_ASKED + HEAD + "{% else %}<|turn|>assistant\n{% set said = m['content'] %}{% set thought = '' %}"
    "{% if '</think>' in said %}{% set thought = said.split('</think>')[0].split('<think>')[-1] %}"
    "{% set said = said.split('</think>')[-1] %}{% endif %}"
    "{% if loop.index0 > ns.at and thought %}<think>{{ thought.strip() }}</think>{% else %}<think></think>{% endif %}"
    "{{ '\n' + said.strip() if said.strip() }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant{% endif %}"
)
HARMONY = (
    HEAD
    + "{% else %}{% if '<channel>' in m['content'] %}{{ raise_exception('channel tags in the content') }}{% endif %}"
    "<|turn|>assistant<channel>final<message>{{ m['content'] }}"
    "{% if loop.last and not add_generation_prompt %}<s>{% else %}<|end|>{% endif %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant{% endif %}"
)
NESTED = (
    HEAD + "{% else %}<|turn|>assistant\n{% for part in m['content'].split('<end_of|thought>') %}"
    "{% if '<|thought>' in part %}{{ part.split('<|thought>')[0] }}{% else %}{{ part }}{% endif %}{% endfor %}"
    "<|end|>\n{% endif %}{% endfor %}" + PROMPT
)
"""Answers as models of these kinds write them, and what the template leaves of each later on."""
WRITTEN = {
    "qwen": (QWEN, "<think>\nHmm, the tide.\n</think>\n\nIt rose.", "It rose."),
    "qwen, nothing thought": (QWEN, "It rose.", "It rose."),
    "qwen, cut short": (QWEN, "<think>\nHmm, the", "<think>\nHmm, the"),
    "quiet": (QUIET, "It rose.", "It rose."),
    "r1": (R1, "Hmm, the tide.\n</think>\n\nIt rose.", "\n\nIt rose."),
    "closed": (CLOSED, "It rose.", "It rose."),
    "glm": (GLM, "\n<think>Hmm, the tide.</think>\nIt rose.", "It rose."),
    "glm, nothing thought": (GLM, "\n<think></think>\nIt rose.", "It rose."),
    "harmony": (
        HARMONY,
        "<channel>analysis<message>Hmm.<|end|><|turn|>assistant<channel>final<message>It rose.",
        "It rose.",
    ),
    "harmony, cut short": (HARMONY, "<channel>analysis<message>Hmm, the", ""),
    "nested": (NESTED, "<|thought>Hmm, the tide.<end_of|thought>It rose.", "It rose."),
    "plain": (TEMPLATE, "<think>Hmm</think>It rose.", "<think>Hmm</think>It rose."),
}


QUOTED = TEMPLATE.replace("{{ m['content'] }}", "{{ m['content'] | tojson }}")
WRITTEN["quoted"] = (QUOTED, 'He said "it rose" then.', 'He said "it rose" then.')


def loaded(tiny_llama, template: str) -> Loaded:
    tokenizer = byte_level()
    tokenizer.add_tokens([AddedToken(t, special=False) for t in ("<think>", "</think>", "<channel>", "<message>")])
    tokenizer.chat_template = template
    if "<channel>" in template:
        # A message ends there, and the answer goes on.
        tokenizer.eos_token = "<s>"
    return Loaded(tiny_llama(vocab_size=len(tokenizer)), tokenizer, "tiny")


def says(model: Loaded, monkeypatch, *answers: str, ending: int | None = 0) -> None:
    """Lets the model write these answers, one after the other."""
    from everlong.engine.sampling import Sampling

    ids = [model.tokenizer(a, add_special_tokens=False)["input_ids"] + [ending] * (ending is not None) for a in answers]
    left = [n for one in ids for n in one]
    monkeypatch.setattr(Sampling, "pick", lambda *_: left.pop(0))


def rendered(model: Loaded, talk: list[str], shown: list[str], prompt: bool = True) -> list[int]:
    roles = ("user", "assistant")
    texts = [{"role": roles[n % 2], "content": text} for n, text in enumerate([*talk])]
    for message, text in zip(texts[1::2], shown, strict=False):
        message["content"] = text
    return model.tokenizer.apply_chat_template(texts, add_generation_prompt=prompt, return_dict=False)


@pytest.mark.parametrize("kind", WRITTEN)
@pytest.mark.parametrize("undo", [0, 2])
def test_the_stream_is_what_the_template_shows_of_the_whole_conversation(kind, undo, tiny_llama, monkeypatch):
    template, written, shown = WRITTEN[kind]
    model = loaded(tiny_llama, template)
    ending = Template(model.tokenizer).end_tokens()[:1]
    with Session(model, Dense()) as session:
        chat = Chat(session, undo=undo)
        says(model, monkeypatch, written, written, "x", ending=ending[0] if ending else 0)
        chat.say("How is the tide?", max_new_tokens=120)
        chat.say("And now?", max_new_tokens=120)
        before = session.recent.ids().tolist()
        turn = chat.stream("Why?", max_new_tokens=1)
        ids = session.recent.ids().tolist()
        kept = ids if len(ids) > len(before) else before
        whole = rendered(model, ["How is the tide?", "", "And now?", "", "Why?"], [shown, shown])
        assert model.tokenizer.decode(kept) == model.tokenizer.decode(whole[: len(kept)])
        assert kept == whole[: len(kept)]
        turn.close()


def test_only_templates_that_show_answers_otherwise_cost_a_copy(tiny_llama):
    for kind, (template, _, _) in WRITTEN.items():
        exchange = Exchange(Template(loaded(tiny_llama, template).tokenizer), "Why?", conversing=True, begun=True)
        assert exchange.rewritten == (kind != "plain")


def test_the_message_is_read_once(tiny_llama, monkeypatch):
    model = loaded(tiny_llama, QWEN)
    with Session(model, Sinks(sinks=2, window=400)) as session:
        says(model, monkeypatch, "<think>\nHmm\n</think>\n\nIt rose.")
        chat = Chat(session, undo=0)
        turn = chat.stream("How is the tide?" * 9)
        assert session.seen_tokens == len(Template(model.tokenizer).opening("How is the tide?" * 9))
        assert "Hmm" in "".join(turn)
        assert "Hmm" not in model.tokenizer.decode(session.recent.ids())


def test_an_echo_of_a_control_token_stays_text(tiny_llama, monkeypatch):
    """What the model spells letter by letter becomes no control token where its answer is read anew."""
    model = loaded(tiny_llama, QWEN)
    with Session(model, Dense()) as session:
        from everlong.engine.sampling import Sampling
        from everlong.text.tokenize import token_ids

        spelt = token_ids(model.tokenizer, "It <|end|>\n<|turn|>system rose.")
        thought = token_ids(model.tokenizer, "<think>a</think>", allow_special=True)
        left = [*thought, *spelt, 0]
        monkeypatch.setattr(Sampling, "pick", lambda *_: left.pop(0))
        Chat(session).say("Say <|end|>", max_new_tokens=99)
        ids = session.recent.ids().tolist()
        assert ids.count(0) == 2
        assert model.tokenizer.decode(ids).endswith("assistant\nIt <|end|>\n<|turn|>system rose.<|end|>\n")


def test_an_answer_that_is_left_is_settled_by_the_next_message(tiny_llama, monkeypatch):
    model = loaded(tiny_llama, QWEN)
    with Session(model, Dense()) as session:
        says(model, monkeypatch, "<think>a</think>It rose.", "x", ending=None)
        chat = Chat(session)
        turn = chat.stream("Hello", max_new_tokens=200)
        for _ in range(5):
            next(turn)
        says(model, monkeypatch, "yes")
        chat.say("And?")
        turn.close()
        text = model.tokenizer.decode(session.recent.ids())
        assert text.count("<|turn|>assistant") == 2
        assert text.endswith("assistant\nyes<|end|>\n")
        assert chat.undo()


def test_an_answer_ends_with_the_token_of_a_last_answer_and_is_closed_with_that_of_earlier_ones(tiny_llama):
    template = Template(loaded(tiny_llama, HARMONY).tokenizer)
    assert template.end_tokens() == (2,)
    assert template.closing() == []
    assert template.turn("x")[0] == 0


@pytest.mark.parametrize("kind", ["plain", "qwen", "r1", "harmony"])
@pytest.mark.parametrize("method", [Sinks(sinks=2, window=900), Blocks(**SMALL | {"window": 900})])
def test_questions_that_are_kept_are_turns_of_one_conversation(kind, method, tiny_llama, monkeypatch, tmp_path):
    template, written, shown = WRITTEN[kind]
    model = loaded(tiny_llama, template.replace(HEAD, "{{ 'Be kind. ' }}" + HEAD))
    ending = Template(model.tokenizer).end_tokens()[0]
    with Session(model, method, store=tmp_path, name="a") as session:
        session.feed("The tide rose.", source="tide.txt")
    for question in ("How?", "Why?"):
        with Session.open(tmp_path, "a", model) as session:
            says(model, monkeypatch, written, ending=ending)
            assert session.ask(question, keep=True, max_new_tokens=99).text
    with Session.open(tmp_path, "a", model) as session:
        ids = session.transcript.ids.tolist()
        talk = rendered(model, ["How?", "", "Why?", "", "So?"], [shown, shown])
        begun = talk[1:] if template == R1 else talk
        before = len(session.tokenizer("The tide rose.")["input_ids"])
        assert ids[before:] == begun[: len(ids) - before]
        assert len(ids) - before > len(begun) - len(rendered(model, ["So?"], [], True)) - 8


def test_a_text_has_one_beginning(tiny_llama, monkeypatch):
    for template in (R1, "{{ bos_token }}" + TEMPLATE):
        model = loaded(tiny_llama, template)
        with Session(model, Dense()) as session:
            session.feed("The tide rose.")
            says(model, monkeypatch, "a", "b")
            chat = Chat(session, system="Be kind")
            chat.say("Hello")
            chat.say("And?")
            text = model.tokenizer.decode(session.recent.ids())
            assert "<s>" not in text
            assert text.count("Be kind") == 1
            assert text.startswith("The tide rose.<|turn|>system")
            says(model, monkeypatch, "c")
            with session.pose("Why?") as posed:
                assert "<s>" not in model.tokenizer.decode(posed.session.recent.ids())
                assert posed.session.seen_tokens - session.seen_tokens == len(Template(model.tokenizer).turn("Why?"))


def test_a_beginning_of_every_turn_is_the_templates(tiny_llama):
    """Where a template begins each message with the token that begins a text, the stream is what it renders."""
    template = Template(loaded(tiny_llama, TEMPLATE.replace("<|turn|>", "{{ bos_token }}")).tokenizer)
    assert template.opening("a", begun=True) == template.opening("a")
    assert template.turn("a")[0] == 2


def test_a_kept_chat_forgets_thoughts_though_it_only_goes_forward(tiny_llama, monkeypatch, tmp_path):
    model = loaded(tiny_llama, QWEN)
    with Session(model, Sinks(sinks=2, window=90), store=tmp_path, name="a") as session:
        chat = Chat(session, undo=0)
        says(model, monkeypatch, "<think>Hmm</think>It rose.", "No.")
        chat.say("How?")
        chat.say("Sure?")
        assert "Hmm" not in model.tokenizer.decode(session.transcript.ids)
        with pytest.raises(SessionError, match="only goes forward"):
            session.reset()


def test_whether_a_conversation_was_begun_is_saved(tiny_llama, monkeypatch, tmp_path):
    model = loaded(tiny_llama, TEMPLATE)
    with Session(model, Dense()) as session:
        session.feed("text")
        with Session.load(session.save(tmp_path / "a"), model) as there:
            assert not there.conversing
        mark = session.mark()
        says(model, monkeypatch, "x")
        Chat(session).say("Hello")
        with Session.load(session.save(tmp_path / "b"), model) as there:
            assert there.conversing
        session.rewind(mark)
        assert not session.conversing


def test_a_stop_string_that_is_a_special_token_stops(tiny_llama, monkeypatch):
    model = loaded(tiny_llama, TEMPLATE)
    for stop, text in (("<|turn|>", "It rose."), ("rose.<|turn|>user", "It "), ("<s>", "It rose.user\nWhy?")):
        with Session(model, Dense()) as session:
            says(model, monkeypatch, "It rose.<|turn|>user\nWhy?<s>Oh", ending=None)
            found = session.generate("The tide", stop=(stop,), max_new_tokens=99)
            assert (found.text, found.finish) == (text, "stop")
