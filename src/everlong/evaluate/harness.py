"""lm-evaluation-harness (EleutherAI) on every method: registers the model `everlong` for all of its tasks.

    python -m everlong.evaluate.harness --tasks lambada_openai --model_args model=smollm2,method=blocks,window=512

is lm-eval's own command with this model in it; in Python, `import everlong.evaluate.harness` and then
`lm_eval.simple_evaluate(model="everlong", model_args="method=sinks", ...)`. Arguments that are none of the model's
are fields of the method. Texts become tokens as in lm-eval's `hf`, and plain transformers is treated as `hf` treats it:
cut from the left (with a warning) where it is too long, rolling in disjoint windows. Our methods read everything;
a rolling likelihood is one stream. `dense` rolls in windows too, and refuses other requests that are too long.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch

from everlong.errors import ConfigError, EverlongError, TooLongError
from everlong.evaluate.baseline import PeerStream
from everlong.evaluate.plan import Plain, subjects
from everlong.evaluate.shared_prefixes import Contexts, PeerContexts, Request, SessionContexts, Writing, one_by_one
from everlong.evaluate.stream import Clock, trained_length
from everlong.hooks.adapter import load
from everlong.hooks.attach import attach
from everlong.machine import versions
from everlong.methods.dense import Dense
from everlong.models.load import Loaded
from everlong.models.weights import FULL
from everlong.session.session import CHUNK_TOKENS, Session
from everlong.text.tokenize import token_ids

try:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.models.utils import normalize_gen_kwargs
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
    from tqdm import tqdm
except ImportError as error:
    raise ConfigError(f"harness: needs the extra everlong[eval] ({error}): pip install 'everlong[eval]'") from error

NAME = "everlong"
_NEUTRAL = {"num_beams": 1, "num_return_sequences": 1}
logger = logging.getLogger(__name__)


@register_model(NAME)
class EverlongLM(TemplateLM):
    """A model with a method, one stream at a time, in the order of the requests.

    `model`: a name or path, or what `everlong.load` returned. `method`: a method, or transformers. ConfigError for
    `fields` that the method does not have.
    """

    tokenizer: Any

    def __init__(
        self,
        model: str | Loaded = "smollm2",
        method: str = "blocks",
        chunk: int = CHUNK_TOKENS,
        dtype: str = "auto",
        device: str = "auto",
        threads: int | None = None,
        max_gen_toks: int = 256,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        weights: str = FULL,
        **fields: Any,
    ) -> None:
        super().__init__()
        found = subjects([{"name": method, **fields}])
        if len(found) != 1:
            raise ConfigError(f"model_args: the fields of {method} name {len(found)} methods; give one value for each")
        self.subject = found[0]
        self.chunk = chunk
        self.max_gen_toks = max_gen_toks
        if str(batch_size) != "1" or max_batch_size is not None:
            logger.warning("batch_size=%s: no effect, everlong reads one stream at a time", batch_size)
        if threads is not None:
            torch.set_num_threads(threads)
        self.loaded = model if isinstance(model, Loaded) else load(model, dtype, device, weights=weights)
        self.tokenizer = self.loaded.tokenizer
        if self.tokenizer is None:
            raise ConfigError(f"model={self.loaded.name}: has no tokenizer; lm-eval needs one")

    @property
    def max_length(self) -> int | None:
        """The most tokens of one sequence; None for methods that read without end."""
        return trained_length(self.loaded.model) if self.subject.name in (Dense.name, Plain.name) else None

    @property
    def eot_token_id(self) -> int:
        """The tokenizer's end token."""
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text that nothing stands before: the beginning token, else the end token."""
        for found in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id):
            if found is not None:
                return found
        raise ConfigError(
            f"model={self.loaded.name}: its tokenizer has no beginning and no end token; lm-eval needs one"
        )

    @property
    def tokenizer_name(self) -> str:
        """What tells apart requests that were rendered with a chat template."""
        return self.loaded.name.replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """The ids of a text; None adds special tokens as the tokenizer does, unless the text begins with one."""
        special = add_special_tokens
        if special is None:
            special = not string.startswith(self.tokenizer.decode([self.prefix_token_id]))
        # lm-eval gives whole prompts, those of its chat templates too, and `hf` finds control tokens in all of them.
        return token_ids(self.tokenizer, string, bool(special), allow_special=True)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The conversation as text."""
        how = {"add_generation_prompt": add_generation_prompt, "continue_final_message": not add_generation_prompt}
        return self.tokenizer.apply_chat_template(chat_history, tokenize=False, **how)

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval writes beside its results."""
        method = {"name": self.subject.name} | self.subject.as_dict()
        return {"everlong_model": self.loaded.name, "everlong_method": method, "everlong_versions": versions()}

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Answers, before any of the texts in `until`."""
        found = []
        answers = []
        for request in requests:
            context, given, *_ = request.args
            ids = self.tok_encode(context) or [self.prefix_token_id]
            found.append(Request((context, given), ids, writing(given, self.max_gen_toks)))
        with self._contexts() as contexts:
            for request in self._read(contexts, found, disable_tqdm):
                assert isinstance(request.then, Writing)
                answers.append(contexts.answer(request.then))
                self.cache_hook.add_partial("generate_until", request.asked, answers[-1])
        return answers

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """The log-likelihood of whole texts, each behind the prefix token, which is not scored itself."""
        found = []
        limit = self.max_length
        with nullcontext() if isinstance(self.subject, Plain) else attach(self.loaded.model, Dense()):
            for (text,) in tqdm([request.args for request in requests], disable=disable_tqdm, desc=self.subject.name):
                found.append(self._streamed(text) if limit is None else self._in_windows(text, limit))
                self.cache_hook.add_partial("loglikelihood_rolling", (text,), found[-1])
        return found

    def _loglikelihood_tokens(
        self, requests: list[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        answers = []
        with self._contexts() as contexts:
            for request in self._read(contexts, [Request(*request) for request in requests], disable_tqdm):
                assert isinstance(request.then, list)
                answers.append(contexts.continued(request.then))
                if request.asked is not None:
                    self.cache_hook.add_partial("loglikelihood", request.asked, answers[-1])
        return answers

    def _streamed(self, text: str) -> float:
        with self._session() as session:
            session.feed([self.prefix_token_id])
            return sum((float(part.double().sum()) for part in session.score_stream(text)), 0.0)

    def _in_windows(self, text: str, length: int) -> float:
        """lm-eval's own windows: disjoint, each as long as the model takes."""
        ids = self.tok_encode(text, add_special_tokens=False)
        windows = get_rolling_token_windows(ids, self.prefix_token_id, length, context_len=1)
        pairs = [(None, *make_disjoint_window(window)) for window in windows]
        return sum((found for found, _ in self._loglikelihood_tokens(pairs, disable_tqdm=True)), 0.0)

    def _read(self, contexts: Contexts, requests: list[Request], quiet: bool) -> Iterator[Request]:
        """The requests, with contexts that fit, each when its context was read."""
        found = [replace(request, context=self._fitting(request)) for request in requests]
        cut = [len(a.context) - len(b.context) for a, b in zip(requests, found, strict=True)]
        if any(cut):
            say = "%d of %d contexts: up to %d tokens were cut from the left, since the model takes %d"
            logger.warning(say, sum(map(bool, cut)), len(cut), max(cut), self.max_length)
        yield from tqdm(one_by_one(contexts, found), total=len(found), disable=quiet, desc=self.subject.name)

    def _fitting(self, request: Request) -> list[int]:
        """The context, or as much of its end as fits; TooLongError where nothing fits, and for dense."""
        ids = request.context
        limit = self.max_length
        more = request.then.max_new_tokens if isinstance(request.then, Writing) else len(request.then) - 1
        if limit is None or len(ids) + more <= limit:
            return ids
        if more >= limit or not isinstance(self.subject, Plain):
            raise TooLongError(
                f"{len(ids) + more} tokens: {self.subject.name} takes {limit} (trained length); use another method,"
                f" or {Plain.name}, where contexts are cut from the left as by lm-eval's hf"
            )
        return ids[more - limit :]

    @contextmanager
    def _contexts(self) -> Iterator[Contexts]:
        if isinstance(self.subject, Plain):
            yield PeerContexts(PeerStream(self.loaded, Clock(), self.chunk))
        else:
            with self._session() as session:
                yield SessionContexts(session)

    def _session(self) -> Session:
        assert not isinstance(self.subject, Plain)
        return Session(self.loaded, self.subject, self.chunk)


def writing(given: dict[str, Any], max_gen_toks: int) -> Writing:
    """lm-eval's generation arguments as ours; warns of those that have no effect here."""
    fields: dict[str, Any] = dict(normalize_gen_kwargs(given, max_gen_toks))
    stop = tuple(text for text in fields.pop("until") if text)
    tokens = fields.pop("max_gen_toks")
    sampling = {name: fields.pop(name) for name in ("top_p", "top_k", "repetition_penalty") if name in fields}
    temperature = float(fields.pop("temperature", 0))
    if temperature:
        sampling["temperature"] = temperature
    else:
        sampling = {name: value for name, value in sampling.items() if name == "repetition_penalty"}
    fields.pop("do_sample")
    if left := [f"{name}={value}" for name, value in fields.items() if _NEUTRAL.get(name) != value]:
        logger.warning("generation arguments without effect: %s", ", ".join(left))
    return Writing(tokens, stop, sampling)


def main() -> None:
    """Run lm-eval's own command line, with the model `everlong` where no other is named."""
    from lm_eval.__main__ import cli_evaluate

    given = sys.argv[1:]
    if given and given[0] not in ("ls", "validate"):
        given = given[given[0] == "run" :]
        device = [] if {"--config", "-C"} & set(given) else ["--device", "auto"]
        chosen = [] if {"--model", "-M"} & set(given) else ["--model", NAME, *device]
        sys.argv[1:] = ["run", *chosen, *given]
    try:
        cli_evaluate()
    except EverlongError as error:
        sys.stderr.write(f"everlong: {error}\n")
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
