"""A model under training: whole rows at once give what a stream gives, and gradients reach everything."""

from __future__ import annotations

import pytest
import torch

import everlong
from everlong.errors import CapabilityError
from everlong.hooks.training import attach_training
from everlong.methods import make_method, method_class, method_names
from everlong.methods.recurrent.training import Carried

IDS = torch.randint(97, (2, 45), generator=torch.Generator().manual_seed(3))
TRAINED = [n for n in method_names() if method_class(n).trained]
MORE = [
    ("delta", {"decay": True, "degree": 1, "local": "segment"}),
    ("delta", {"projections": "none", "look_back": 4}),
    ("infini", {"update": "delta"}),
    ("infini", {"local": "segment"}),
    ("infinity_former", {"local": "xl"}),
    ("infinity_former", {"sticky": False}),
    ("transformer_xl", {"mem_len": 20}),
    ("transformer_xl", {"same_length": True, "mem_len": 11}),
    ("transformer_xl", {"memory": "off"}),
    ("transformer_xl", {"variant": "faithful"}),
    ("transformer_xl", {"variant": "faithful", "mem_len": 21, "clamp_len": 15}),
    ("transformer_xl", {"variant": "faithful", "mem_len": 5, "same_length": True}),
]
KINDS = [(n, {}) for n in TRAINED] + MORE
SMALL = {"segment": 8, "beta": 0.0, "basis": 16, "points": 20, "kl": 0.1}


def small(name, fields):
    known = method_class(name).__dataclass_fields__
    return make_method(name, {k: v for k, v in (SMALL | fields).items() if k in known})


@pytest.fixture
def model(tiny_llama):
    return tiny_llama(num_hidden_layers=3, max_position_embeddings=64, initializer_range=0.3)


def streamed(model, method, ids, chunk=7, **more):
    with everlong.attach(model, method) as handle, torch.no_grad():
        cache = handle.new_cache(chunk=16)
        return torch.cat([model(p, past_key_values=cache, **more).logits for p in ids.split(chunk, dim=1)], 1)


def drawn(model, training):
    """Parameters that are not what they start from."""
    with torch.no_grad():
        for n, p in enumerate(training.parameters.parameters()):
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(n)) * 0.5)
    return model


@pytest.mark.parametrize(("name", "fields"), KINDS)
def test_whole_rows_give_what_a_stream_gives(model, name, fields):
    method = small(name, fields)
    with attach_training(model, method) as training, torch.no_grad():
        drawn(model, training)
        got = model(IDS).logits
    torch.testing.assert_close(got, streamed(model, method, IDS), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("name", "fields"), KINDS)
def test_pieces_of_a_row_and_packed_documents_give_the_same(model, name, fields):
    with attach_training(model, small(name, fields)) as training, torch.no_grad():
        drawn(model, training)
        expected, carried = model(IDS).logits, Carried()
        got = [model(piece, carried=carried).logits for piece in IDS.split([16, 8, 21], dim=1)]
        torch.testing.assert_close(torch.cat(got, 1), expected, atol=1e-4, rtol=0)
        packed = torch.cat([IDS[:1], IDS[1:, :30]], 1)
        documents = torch.tensor([[0] * 45 + [1] * 30])
        one, two = model(packed, documents=documents).logits.split([45, 30], 1)
        torch.testing.assert_close(one, expected[:1], atol=1e-4, rtol=0)
        torch.testing.assert_close(two, expected[1:, :30], atol=1e-4, rtol=0)
        mask = torch.ones_like(IDS)
        mask[0, :13] = 0
        padded = model(torch.cat([IDS[:1, :13], IDS[:1, :32]], 1), attention_mask=mask[:1]).logits[:, 13:]
        torch.testing.assert_close(padded, expected[:1, :32], atol=1e-4, rtol=0)


@pytest.mark.parametrize(("name", "fields"), KINDS)
def test_gradients_reach_every_parameter_and_survive_checkpointing(model, name, fields):
    found = []
    with attach_training(model, small(name, fields)) as training:
        drawn(model, training).train()
        for checkpointing in (False, True):
            if checkpointing:
                model.activation_checkpointing_enable()
            model.zero_grad()
            carried = Carried()
            loss = torch.zeros(())
            for piece in IDS.split([24, 21], dim=1):
                loss = loss + model(piece, carried=carried).logits.log_softmax(-1)[..., 5].mean()
                more = training.extra_loss()
                loss = loss if more is None else loss + more
            loss.backward()
            found.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == {n for n, _ in model.named_parameters()}
    for n, grad in found[0].items():
        assert grad.abs().max() > 0, n
        torch.testing.assert_close(found[1][n], grad, atol=1e-6, rtol=1e-4)


def test_detached_pieces_end_the_gradient(model):
    with attach_training(model, small("infini", {"local": "segment"})) as training:
        drawn(model, training)
        found = []
        for cut in (False, True):
            carried, embedded = Carried(), model.get_input_embeddings()(IDS[:, :16]).detach().requires_grad_()
            model(inputs_embeds=embedded, carried=carried)
            if cut:
                carried.detach()
            loss = model(IDS[:, 16:32], carried=carried).logits.square().mean()
            found.append(torch.autograd.grad(loss, embedded, allow_unused=True)[0])
        assert found[0] is not None
        assert found[0].abs().max() > 0
        assert found[1] is None or found[1].abs().max() == 0


def test_detaching_restores_the_model_and_keeps_what_was_trained(model):
    with torch.no_grad():
        expected = model(IDS).logits
        with attach_training(model, small("infini", {})):
            assert not torch.equal(model(IDS).logits, expected)
        assert torch.equal(model(IDS).logits, expected)
    assert model.model.everlong_memory.beta.shape == (3, 4)
    assert "forward" not in model.model.__dict__


def test_a_stage_whose_parameters_have_other_shapes_is_refused(model):
    with attach_training(model, everlong.TransformerXL(segment=8)) as training:
        training.use(everlong.TransformerXL(segment=8, mem_len=5))
        with pytest.raises(CapabilityError, match="cannot go on with what"):
            training.use(everlong.TransformerXL(segment=8, variant="faithful"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: attach_training(m, everlong.Sinks()), "sinks: has nothing to train"),
        (lambda m: attach_training(m, everlong.Infini(memory="off")), "memory=off: a control"),
        (lambda m: attach_training(m, everlong.Infini()), "being trained already"),
        (lambda m: m(IDS, carried=Carried(seen_tokens=5)), "must begin a segment of 8 tokens"),
        (lambda m: m(IDS, documents=IDS, carried=Carried()), "must begin a segment of 8 tokens"),
        (lambda m: m(IDS, attention_mask=torch.ones(2, 1, 45, 45)), "2-D attention masks"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(model, call, message):
    with (
        attach_training(model, small("infini", {})),
        pytest.raises((CapabilityError, ValueError), match=message) as error,
    ):
        call(model)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("positions", "documents", "taken"),
    [
        (torch.arange(16), None, True),
        (torch.arange(16) % 8, torch.arange(16) // 8, True),
        (torch.arange(16) % 8, None, False),
        (torch.arange(16), torch.arange(16) // 8, False),
        (torch.arange(3, 19), None, False),
        (torch.arange(15), None, False),
    ],
)
def test_positions_of_the_caller_are_those_of_the_documents_or_refused(tiny_llama, positions, documents, taken):
    model, ids = tiny_llama(), torch.arange(1, 17)[None]
    more = {} if documents is None else {"documents": documents[None]}
    with attach_training(model, everlong.Infini(segment=8)):
        want = model(ids, **more).logits
        if taken:
            assert torch.equal(model(ids, position_ids=positions[None], **more).logits, want)
        else:
            with pytest.raises(CapabilityError, match=r"position_ids: .*give documents"):
                model(ids, position_ids=positions[None], **more)
        with pytest.raises(CapabilityError, match="output_attentions"):
            model(ids, output_attentions=True, **more)
