"""The model `everlong` of lm-evaluation-harness: equal to plain sums over the model, tasks end to end, no network."""

from __future__ import annotations

import importlib.util
import logging
import sys

import pytest
import torch

pytest.importorskip("lm_eval", reason="needs lm-evaluation-harness (extra eval)")

import lm_eval
from lm_eval.api.instance import Instance
from lm_eval.api.model import CacheHook
from lm_eval.api.registry import get_model
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager

from everlong.errors import CapabilityError, ConfigError, TooLongError
from everlong.evaluate import harness
from everlong.evaluate import shared_prefixes as contexts
from everlong.evaluate.harness import EverlongLM, main, writing
from everlong.methods.base import Method
from everlong.models.load import Loaded
from everlong.session.session import Session

TEXT = "It was the best of times, it was the worst of times; the tide rose and fell. "
BLOCKS = {"method": "blocks", "sinks": 4, "window": 16, "block": 8, "top_k": 2, "exec_chunk": 8, "pool": 4}
EVERY = [
    {"method": "transformers"},
    {"method": "dense"},
    {"method": "sinks", "sinks": 4, "window": 20},
    {"method": "window", "window": 20},
    BLOCKS,
]
NAMES = [fields["method"] for fields in EVERY]


def requests(kind, *arguments):
    return [Instance(kind, {}, given, n, ("made here", n, 1)) for n, given in enumerate(arguments)]


def likelihoods(lm, *pairs):
    return lm.loglikelihood(requests("loglikelihood", *pairs), disable_tqdm=True)


def rolling(lm, *texts):
    return lm.loglikelihood_rolling(requests("loglikelihood_rolling", *((t,) for t in texts)), disable_tqdm=True)


def answers(lm, *pairs):
    return lm.generate_until(requests("generate_until", *pairs), disable_tqdm=True)


def ids_of(tiny, text):
    return tiny.tokenizer(text, add_special_tokens=False)["input_ids"]


def direct(tiny, context, continuation):
    """(log-likelihood, is greedy) of ids behind ids by one forward of the plain model."""
    with torch.inference_mode():
        logits = tiny.model(torch.tensor([context + continuation])).logits[0, len(context) - 1 : -1]
    wanted = torch.tensor(continuation)
    found = logits.double().log_softmax(-1).gather(1, wanted[:, None]).sum()
    return float(found), bool((logits.argmax(-1) == wanted).all())


@pytest.fixture
def greedy(tiny):
    """What the plain model writes behind TEXT."""
    with torch.inference_mode():
        out = tiny.model.generate(torch.tensor([ids_of(tiny, TEXT)]), max_new_tokens=4, do_sample=False)
    return out[0, len(ids_of(tiny, TEXT)) :].tolist()


@pytest.mark.parametrize("method", ["transformers", "dense"])
@pytest.mark.parametrize("chunk", [3, 512])
def test_loglikelihood_is_the_models_own(tiny, method, chunk):
    lm = EverlongLM(tiny, method, chunk=chunk)
    pairs = [(TEXT, "And then"), (TEXT, "But when"), ("The", " the"), ("", "Once"), (TEXT + "Why", "? Because of it")]
    found = likelihoods(lm, *pairs)
    for (context, continuation), (value, is_greedy) in zip(pairs, found, strict=True):
        before = ids_of(tiny, context.rstrip()) or [lm.prefix_token_id]
        whole = ids_of(tiny, context + continuation)
        behind = whole[len(before) :] if context else whole
        wanted, likeliest = direct(tiny, before, behind)
        assert value == pytest.approx(wanted, abs=1e-4)
        assert is_greedy == likeliest


@pytest.mark.parametrize("method", ["transformers", "dense"])
def test_greedy_continuations_are_told_apart(tiny, greedy, method):
    lm = EverlongLM(tiny, method)
    other = [(greedy[-1] + 1) % 100 + 3]
    for behind, likeliest in ((greedy, True), (greedy[:1], True), (greedy[:-1] + other, False)):
        ((value, is_greedy),) = lm._loglikelihood_tokens([(None, ids_of(tiny, TEXT), behind)], disable_tqdm=True)
        assert is_greedy is likeliest
        assert value == pytest.approx(direct(tiny, ids_of(tiny, TEXT), behind)[0], abs=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_plain_transformers_is_what_lm_evals_hf_is(tiny):
    from lm_eval.models.huggingface import HFLM

    hf = HFLM(pretrained=tiny.model, tokenizer=tiny.tokenizer, batch_size=1, max_length=128)
    lm = EverlongLM(tiny, "transformers")
    pairs = [(TEXT, "And then"), ("in ", "the"), ("", "Once"), (TEXT * 4, "tide"), (TEXT * 4, "tide and")]
    for (value, likeliest), (wanted, wanted_likeliest) in zip(
        likelihoods(lm, *pairs), likelihoods(hf, *pairs), strict=True
    ):
        assert value == pytest.approx(wanted, abs=1e-3)
        assert likeliest == wanted_likeliest
    assert rolling(lm, TEXT * 9, "a") == pytest.approx(rolling(hf, TEXT * 9, "a"), abs=2e-3)
    how = {"until": ["q"], "max_gen_toks": 12, "do_sample": False}
    for context in (TEXT, TEXT * 4):
        assert answers(lm, (context, how)) == answers(hf, (context, how))


def test_spaces_at_the_end_of_a_context_belong_to_the_continuation(tiny):
    lm = EverlongLM(tiny, "transformers")
    assert "Ġthe" in tiny.tokenizer.get_vocab()
    assert likelihoods(lm, ("in ", "the")) == likelihoods(lm, ("in", " the"))
    wanted = direct(tiny, ids_of(tiny, "in"), ids_of(tiny, " the"))[0]
    assert likelihoods(lm, ("in ", "the"))[0][0] == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("fields", EVERY, ids=NAMES)
def test_a_greedy_answer_is_greedy_by_its_likelihood(tiny, fields):
    lm = EverlongLM(tiny, **fields)
    context = TEXT[:-1]
    behind = _written(lm, tiny, context)
    (answer,) = answers(lm, (context, {"until": [], "max_gen_toks": 6}))
    assert answer == tiny.tokenizer.decode(behind, skip_special_tokens=True)
    ((_, is_greedy),) = lm._loglikelihood_tokens([(None, ids_of(tiny, context), behind)], disable_tqdm=True)
    assert is_greedy


def _written(lm, tiny, context):
    """The ids of a greedy answer."""
    if isinstance(lm.subject, Method):
        with Session(tiny, lm.subject) as session:
            return session.generate(ids_of(tiny, context), max_new_tokens=6).token_ids
    with torch.inference_mode():
        out = tiny.model.generate(torch.tensor([ids_of(tiny, context)]), max_new_tokens=6, do_sample=False)
    return out[0, len(ids_of(tiny, context)) :].tolist()


def test_a_continuation_of_blocks_remembers_as_an_answer_does(tiny):
    lm = EverlongLM(tiny, **BLOCKS)
    ids, behind = ids_of(tiny, TEXT * 3), ids_of(tiny, "And")
    with Session(tiny, lm.subject) as session:
        session.stream(ids, max_new_tokens=1)
        wanted = 0.0
        for token in behind:
            wanted += float(session.prediction.double().log_softmax(-1)[token])
            session.feed([token], answering=True)
    ((value, _),) = lm._loglikelihood_tokens([(None, ids, behind)], disable_tqdm=True)
    assert value == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("fields", [*EVERY, {"method": "recompute", "window": 12}], ids=[*NAMES, "recompute"])
def test_sharing_contexts_changes_nothing(tiny, fields, monkeypatch):
    lm = EverlongLM(tiny, **fields)
    document = TEXT[:60]
    pairs = [(document + question, choice) for question in (" Who", " Why", " And") for choice in (" one", " two", "")]
    pairs = [(context, choice or " three of them") for context, choice in pairs]
    monkeypatch.setattr(contexts, "SHARED_TOKENS", 8)
    together = likelihoods(lm, *pairs)
    alone = [likelihoods(lm, pair)[0] for pair in pairs]
    assert [value for value, _ in together] == pytest.approx([value for value, _ in alone], abs=2e-5)
    assert [likeliest for _, likeliest in together] == [likeliest for _, likeliest in alone]


def test_what_contexts_share_is_read_once(tiny, monkeypatch):
    fed = []
    feed = Session.feed

    def counting(self, x, *rest, **more):
        fed.append(len(x))
        return feed(self, x, *rest, **more)

    monkeypatch.setattr(Session, "feed", counting)
    lm = EverlongLM(tiny, "sinks", sinks=4, window=20)
    likelihoods(lm, *((TEXT + end, choice) for end in ("Who", "Why") for choice in (" a", " b", " c")))
    whole, ends = len(ids_of(tiny, TEXT.rstrip())), len(ids_of(tiny, " Who")) + len(ids_of(tiny, " Why"))
    assert whole <= sum(fed) <= whole + ends


def test_a_long_beginning_is_shared_by_blocks_too(tiny, monkeypatch):
    lm = EverlongLM(tiny, **BLOCKS)
    monkeypatch.setattr(contexts, "ANSWERING_TOKENS", 16)
    pairs = [(TEXT * 3 + question, {"until": [], "max_gen_toks": 5}) for question in ("Who?", "Why?", "Why?", "When?")]
    assert answers(lm, *pairs) == [answers(lm, pair)[0] for pair in pairs]


@pytest.mark.parametrize("fields", EVERY[2:], ids=NAMES[2:])
def test_rolling_is_the_sum_of_the_sessions_scores(tiny, fields):
    lm = EverlongLM(tiny, **fields)
    texts = [TEXT * 9, "a", ""]
    found = rolling(lm, *texts)
    for text, value in zip(texts, found, strict=True):
        with Session(tiny, lm.subject) as session:
            session.feed([lm.prefix_token_id])
            scores = session.score(ids_of(tiny, text))
        assert value == pytest.approx(float(scores.double().sum()), abs=1e-4)
    assert len(ids_of(tiny, TEXT * 9)) > 2 * tiny.model.config.max_position_embeddings


@pytest.mark.parametrize("method", ["transformers", "dense"])
@pytest.mark.parametrize("tokens", [1, 127, 128, 129, 300])
def test_rolling_in_disjoint_windows_of_the_trained_length(tiny, method, tokens):
    lm = EverlongLM(tiny, method, chunk=50)
    ids = (ids_of(tiny, TEXT) * 9)[:tokens]
    text = tiny.tokenizer.decode(ids)
    assert ids_of(tiny, text) == ids
    wanted = direct(tiny, [lm.prefix_token_id], ids[:128])[0]
    whole = [lm.prefix_token_id, *ids]
    for at in range(128, tokens, 128):
        end = min(at + 128, tokens)
        wanted += direct(tiny, whole[end - 128 : at + 1], ids[at:end])[0]
    assert rolling(lm, text)[0] == pytest.approx(wanted, abs=2e-3)


@pytest.mark.parametrize("fields", EVERY, ids=NAMES)
def test_an_answer_ends_before_a_stop_text(tiny, fields):
    lm = EverlongLM(tiny, **fields)
    (whole,) = answers(lm, (TEXT, {"until": [], "max_gen_toks": 20}))
    stop = whole[3:5]
    found = answers(
        lm,
        (TEXT, {"until": [stop], "max_gen_toks": 20}),
        (TEXT, {"until": stop, "max_gen_toks": 20}),
        (TEXT, {"until": ["", "\0"], "max_gen_toks": 20}),
        (TEXT, {"until": [], "max_new_tokens": 1}),
    )
    assert found[:3] == [whole[: whole.index(stop)]] * 2 + [whole]
    assert whole.startswith(found[3])
    assert len(found[3]) < len(whole)


def test_answers_are_those_of_the_plain_model(tiny, greedy):
    wanted = tiny.tokenizer.decode(greedy, skip_special_tokens=True)
    for method in ("transformers", "dense"):
        assert answers(EverlongLM(tiny, method, max_gen_toks=4), (TEXT, {"until": []})) == [wanted]


def test_sampled_answers_follow_the_seed_of_torch(tiny):
    lm = EverlongLM(tiny, "sinks", sinks=4, window=20)
    how = {"until": [], "max_gen_toks": 12, "do_sample": True, "temperature": 1.5, "top_p": 0.9}
    torch.manual_seed(3)
    first = answers(lm, (TEXT, how))
    torch.manual_seed(3)
    assert answers(lm, (TEXT, how)) == first
    assert answers(lm, (TEXT, how)) != first
    with pytest.raises(ConfigError, match=r"temperature=1\.5: method transformers answers greedily|top_p=0\.9"):
        answers(EverlongLM(tiny, "transformers"), (TEXT, how))


def test_generation_arguments(caplog):
    found = writing({"until": "\n", "do_sample": False, "temperature": 0.7, "top_p": 0.5, "max_tokens": 5}, 9)
    assert (found.max_new_tokens, found.stop, found.sampling) == (5, ("\n",), {})
    assert writing({"until": None}, 9).stop == ()
    assert writing({"repetition_penalty": 1.2, "num_beams": 1}, 9).sampling == {"repetition_penalty": 1.2}
    caplog.clear()
    writing({"num_beams": 4, "min_p": 0.1}, 9)
    assert "without effect: num_beams=4, min_p=0.1" in caplog.text


def test_what_is_too_long_is_cut_from_the_left_for_the_plain_model_only(tiny, caplog):
    context = TEXT * 4
    ids = ids_of(tiny, context.rstrip())
    behind = ids_of(tiny, context + "tide")[len(ids) :]
    plain = EverlongLM(tiny, "transformers")
    ((value, _),) = likelihoods(plain, (context, "tide"))
    room = 128 - (len(behind) - 1)
    assert value == pytest.approx(direct(tiny, ids[-room:], behind)[0], abs=1e-4)
    assert "1 of 1 contexts: up to" in caplog.text
    (answer,) = answers(plain, (context, {"until": [], "max_gen_toks": 5}))
    with torch.inference_mode():
        kept = ids_of(tiny, context)[-123:]
        out = tiny.model.generate(torch.tensor([kept]), max_new_tokens=5, do_sample=False)[0, 123:]
    assert answer == tiny.tokenizer.decode(out, skip_special_tokens=True)
    dense = EverlongLM(tiny, "dense")
    with pytest.raises(TooLongError, match=r"dense takes 128 \(trained length\)"):
        likelihoods(dense, ("short", " one"), (context, "tide"))
    with pytest.raises(TooLongError, match="129 tokens: transformers takes 128"):
        answers(plain, ("a", {"until": [], "max_gen_toks": 128}))


def test_a_method_that_only_scores_says_so(tiny):
    lm = EverlongLM(tiny, "recompute", window=12)
    assert likelihoods(lm, ("The tide", " rose"))[0][0] < 0
    with pytest.raises(CapabilityError, match="can only score"):
        answers(lm, (TEXT, {"until": []}))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": "sink"}, r"method 'sink': does not exist; .*transformers"),
        ({"method": "sinks", "windw": 3}, "windw=3: method sinks has no option 'windw'; did you mean 'window'"),
        ({"method": "transformers", "window": 3}, "method transformers: has no options, got window"),
        ({"method": "sinks", "window": [20, 40]}, "the fields of sinks name 2 methods"),
    ],
)
def test_mistakes_are_one_line(tiny, fields, message):
    with pytest.raises(ConfigError, match=message):
        EverlongLM(tiny, **fields)


def test_a_model_without_tokenizer_and_a_batch_size(tiny, caplog):
    with pytest.raises(ConfigError, match="has no tokenizer"):
        EverlongLM(Loaded(tiny.model, None, "bare"))
    EverlongLM(tiny, batch_size="auto")
    assert "batch_size=auto: no effect" in caplog.text


def test_answers_are_given_to_the_cache_of_lm_eval(tiny):
    lm, kept = EverlongLM(tiny, "transformers"), {}
    hook = CacheHook(None)
    hook.dbdict = kept
    lm.set_cache_hook(hook)
    likelihoods(lm, ("a", " b"))
    rolling(lm, "some text")
    answers(lm, ("a", {"until": [], "max_gen_toks": 2}))
    assert len(kept) == 3


def test_a_chat_is_rendered_with_the_models_template(tiny):
    lm = EverlongLM(tiny)
    text = lm.apply_chat_template([{"role": "user", "content": "Hi"}])
    assert text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert lm.tok_encode(text)[0] == tiny.tokenizer.bos_token_id
    assert lm.chat_template(True) == tiny.tokenizer.chat_template


def rows():
    """Documents made here, as `datasets` would give them."""
    import datasets

    docs = [{"text": TEXT * n, "choices": [" a", " bc"], "label": n % 2, "answer": "x"} for n in range(1, 4)]
    return {"test": datasets.Dataset.from_list(docs)}


def task(name, kind, **config):
    fields = {"task": name, "output_type": kind, "custom_dataset": lambda **_: rows(), "test_split": "test"}
    return ConfigurableTask(config=fields | {"num_fewshot": 0, "doc_to_text": "{{text}}Which?"} | config)


@pytest.fixture
def made_tasks():
    """A task of each kind, over documents that are made here."""
    return [
        task("made_choice", "multiple_choice", doc_to_choice="{{choices}}", doc_to_target="label"),
        task("made_rolling", "loglikelihood_rolling", doc_to_text="", doc_to_target="{{text}}"),
        task(
            "made_answer",
            "generate_until",
            doc_to_target="{{answer}}",
            generation_kwargs={"until": ["\n"], "max_gen_toks": 4, "do_sample": False},
        ),
    ]


@pytest.mark.parametrize("fields", [{"method": "transformers"}, {"method": "sinks", "sinks": 4, "window": 20}, BLOCKS])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tasks_of_lm_eval_run_from_end_to_end(tiny, fields, made_tasks):
    found = lm_eval.simple_evaluate(
        model="everlong",
        model_args={"model": tiny, **fields},
        tasks=made_tasks,
        task_manager=TaskManager(include_defaults=False),
        bootstrap_iters=0,
    )
    results = found["results"]
    assert 0 <= results["made_choice"]["acc,none"] <= 1
    assert results["made_rolling"]["word_perplexity,none"] > 1
    assert "exact_match,none" in results["made_answer"]
    assert found["config"]["everlong_method"]["name"] == fields["method"]
    samples = found["samples"]["made_rolling"]
    lm = EverlongLM(tiny, **fields)
    assert samples[1]["resps"][0][0] == pytest.approx(rolling(lm, TEXT * 2)[0], abs=1e-4)


def test_it_is_registered():
    assert get_model("everlong") is EverlongLM


def test_the_command_line_is_lm_evals(tiny, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["harness", "--tasks", "none", "--model_args", "method=sink"])
    called = []

    def cli():
        called.append(sys.argv[1:])
        EverlongLM(tiny, "sink")

    monkeypatch.setattr("lm_eval.__main__.cli_evaluate", cli)
    with pytest.raises(SystemExit, match="2"):
        main()
    wanted = ["run", "--model", "everlong", "--device", "auto", "--tasks", "none", "--model_args", "method=sink"]
    assert called == [wanted]
    assert capsys.readouterr().err.startswith("everlong: method 'sink': does not exist")
    for given, wanted in (
        (["ls", "tasks"], ["ls", "tasks"]),
        (["run", "--model", "hf", "-t", "a"], ["run", "--model", "hf", "-t", "a"]),
        (["--config", "x.yaml"], ["run", "--model", "everlong", "--config", "x.yaml"]),
        ([], []),
    ):
        monkeypatch.setattr(sys, "argv", ["harness", *given])
        monkeypatch.setattr("lm_eval.__main__.cli_evaluate", lambda: called.append(sys.argv[1:]))
        main()
        assert called[-1] == wanted


def test_without_lm_eval_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval.api.model", None)
    spec = importlib.util.spec_from_file_location("harness_again", harness.__file__)
    with pytest.raises(ConfigError, match=r"pip install 'everlong\[eval\]'"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


@pytest.fixture(autouse=True)
def _quiet():
    """lm-eval and its libraries log as they like; warnings of this module are what is tested."""
    before = logging.getLogger("lm_eval").level
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    yield
    logging.getLogger("lm_eval").setLevel(before)
