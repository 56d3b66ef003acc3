"""What a chat template puts around messages, from renderings of short conversations."""

from __future__ import annotations

import pytest

from everlong.errors import CapabilityError
from everlong.session.chat import system_tokens
from everlong.text.chat_template import Template

from .conftest import byte_level, prefix_space

CHATML = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<|turn|>system\nBe kind<|end|>\n{% endif %}"
    "<|turn|>{{ m['role'] }}\n{{ m['content'] | trim }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)
LLAMA2 = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set system = '<<SYS>>\n' ~ messages[0]['content'] ~ "
    "'\n<</SYS>>\n\n' %}{% set rest = messages[1:] %}{% else %}{% set system = '' %}{% set rest = messages %}"
    "{% endif %}"
    "{% for m in rest %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m['role'] == 'user' %}[INST] {{ (system if loop.first else '') ~ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] }} </s>{% endif %}{% endfor %}"
)
NO_SYSTEM = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "<|turn|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>model\n{% endif %}"
)
QUESTIONS, ANSWERS = ["Who are you?", "  And why? ", "Since when?"], ["A model.", "Because.", "Long ago"]


def conversation(system: str | None) -> list[dict[str, str]]:
    messages = [] if system is None else [{"role": "system", "content": system}]
    for question, answer in zip(QUESTIONS, ANSWERS, strict=True):
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return messages


def turned(make, chat_template: str):
    tokenizer = make()
    tokenizer.chat_template = chat_template
    return tokenizer


@pytest.mark.parametrize("system", [None, "Answer in verse."])
@pytest.mark.parametrize("chat_template", [byte_level().chat_template, CHATML, LLAMA2])
def test_the_parts_of_all_turns_are_the_whole_rendered_conversation(chat_template, system):
    tokenizer = turned(byte_level, chat_template)
    template = Template(tokenizer, system)
    ids = template.opening(QUESTIONS[0])
    for i, answer in enumerate(ANSWERS):
        ids += template.turn(QUESTIONS[i]) if i else []
        space = " " if chat_template == LLAMA2 else ""
        ids += tokenizer(space + answer, add_special_tokens=False)["input_ids"] + template.closing()
    assert tokenizer.decode(ids) == tokenizer.apply_chat_template(conversation(system), tokenize=False)


def test_a_message_may_hold_the_stand_ins():
    template = Template(turned(byte_level, CHATML), "Everlong answers. Who knows it?")
    found = byte_level().decode(template.turn("Everlong answers. Everlong asks."))
    assert found == "<|turn|>user\nEverlong answers. Everlong asks.<|end|>\n<|turn|>assistant\n"


def test_the_ids_of_a_turn_are_those_of_the_whole(smollm2):
    tokenizer = smollm2.tokenizer
    template = Template(tokenizer, "Answer in verse.")
    ids = template.opening(QUESTIONS[0])
    for i, answer in enumerate(ANSWERS):
        ids += (template.turn(QUESTIONS[i]) if i else []) + tokenizer(answer)["input_ids"] + template.closing()
    messages = conversation("Answer in verse.")
    assert ids == tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)


def test_a_turn_begins_in_the_middle_of_a_text_for_prefix_space_tokenizers():
    tokenizer = turned(lambda: prefix_space("metaspace"), LLAMA2)
    template = Template(tokenizer)
    assert tokenizer.convert_ids_to_tokens(template.closing())[-1] == "</s>"
    assert tokenizer.decode(template.turn("tide")).strip() == "[INST] tide [/INST]"


@pytest.mark.parametrize(
    ("chat_template", "system", "rendered"),
    [
        (CHATML, "Answer in verse.", "<|turn|>system\nAnswer in verse.<|end|>\n"),
        (CHATML, None, "<|turn|>system\nBe kind<|end|>\n<|turn|>user\n"),
        (NO_SYSTEM, None, "<|turn|>user\n"),
        (LLAMA2, "Be brief", "<s>[INST] <<SYS>>\nBe brief\n<</SYS>>\n\n"),
    ],
)
def test_the_system_prompt_is_counted(chat_template, system, rendered):
    tokenizer = turned(byte_level, chat_template)
    count = system_tokens(tokenizer, system)
    assert tokenizer.decode(Template(tokenizer, system).opening("Hello there")[:count]) == rendered


def test_a_special_token_behind_the_answer_ends_it():
    assert Template(turned(byte_level, CHATML)).end_tokens() == (0,)
    assert Template(turned(byte_level, "{% for m in messages %}{{ m['content'] }}\n{% endfor %}")).end_tokens() == ()


def test_without_a_template_there_is_no_chat():
    for tokenizer in (None, turned(byte_level, "")):
        with pytest.raises(CapabilityError, match="the model's tokenizer has no chat template"):
            Template(tokenizer)


def test_a_template_that_refuses_says_why():
    tokenizer = turned(byte_level, NO_SYSTEM)
    Template(tokenizer)
    with pytest.raises(
        CapabilityError, match=r"refuses a system prompt \(System role not supported\); leave"
    ) as caught:
        Template(tokenizer, "Be kind")
    assert "\n" not in str(caught.value)
    with pytest.raises(CapabilityError, match="does not show the answer as it is"):
        Template(turned(byte_level, "{% for m in messages %}{{ m['content'] | upper }}{% endfor %}"))
