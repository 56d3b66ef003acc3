"""Official prompts, cut in two: what is read first, and the question that ends where the answer begins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from everlong.errors import InputError

CONTEXT = "{context}"
SHORTEST = 32
"""Characters of a question at least, where a prompt is cut at a line break."""


def filled(template: str, fields: Mapping[str, Any], where: str) -> tuple[str, str]:
    r"""The template with its fields, cut behind the context. InputError, naming `where`, if it cannot be filled in.

    >>> filled("Read.\n{context}\nQ: {input}\nA:", {"context": "It rains {now}.", "input": "Is it dry?"}, "t")
    ('Read.\nIt rains {now}.', '\nQ: Is it dry?\nA:')
    """
    before, found, after = template.partition(CONTEXT)
    if not found:
        raise InputError(f"{where}: the template has no {CONTEXT}; use the official file")
    try:
        return before.format(**fields) + str(fields["context"]), after.format(**fields)
    except (KeyError, IndexError, ValueError) as error:
        raise InputError(f"{where}: the template cannot be filled in ({error!r}); use the official files") from None


def cut(prompt: str, template: str) -> tuple[str, str]:
    r"""A prompt that was filled in before, cut where its template ends the context.

    That is the last place where the words stand that follow the context in the template. Where it has none there (a
    field follows at once) or they are not in the prompt (another version of the template), it is the last line break
    that leaves SHORTEST characters.

    >>> cut("Read. It rains. Now answer: Is it dry?", "Read. {context} Now answer: {input}")
    ('Read. It rains.', ' Now answer: Is it dry?')
    >>> cut("Type: Food\nQuestion: Where is the sea of tales?\nType:", "{context}\n{input}")
    ('Type: Food', '\nQuestion: Where is the sea of tales?\nType:')
    """
    follows = template.partition(CONTEXT)[2].partition("{")[0]
    at = prompt.rfind(follows) if follows.strip() else -1
    if at < 0:
        at = max(0, prompt.rfind("\n", 0, max(0, len(prompt) - SHORTEST)))
    return prompt[:at], prompt[at:]
