"""`read --images` and `ask --image`: image files and pictures of a PDF file, read, cited, skipped and refused."""

from __future__ import annotations

import pytest
import torch

from everlong.library.library import Library
from tests.session.seeing import picture, seeing_model

FIELDS = [part for field in ("sinks=4", "window=32", "block=8", "top_k=40", "exec_chunk=16") for part in ("-o", field)]
QUESTION = ["What was in the picture?", "--raw", "--max-new-tokens", "4", "--json", "--top", "100"]


@pytest.fixture(scope="module")
def seeing(tmp_path_factory):
    """The folder of a tiny random model that takes images, with its processor."""
    folder = tmp_path_factory.mktemp("seeing")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, processor = seeing_model()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def files(tmp_path):
    """A text, and a picture beside it."""
    (tmp_path / "log.txt").write_text("On the first page there is a picture of the harbour.")
    picture(size=(64, 48)).save(tmp_path / "harbour.png")
    return tmp_path


def test_pictures_are_read_once_and_asked_about(everlong, seeing, files):
    store = files / "store"
    where = ("--store", store, "--model", seeing)
    reading = ("read", files / "log.txt", files / "harbour.png", "--images", "--json", *where, *FIELDS)
    found = everlong(*reading)
    assert found.code == 0, found.err
    assert found.json["pictures"] == 1
    names = [s.name for s in Library(store).sources(Library(store).entry("default"))]
    assert names == [str(files / "log.txt"), str(files / "harbour.png")]
    again = everlong(*reading)
    assert (again.json["pictures"], again.json["tokens"]) == (0, found.json["tokens"])
    picture((0, 0, 250), size=(64, 48)).save(files / "other.png")
    asked = everlong("ask", *QUESTION, "--image", files / "other.png", *where)
    assert asked.code == 0, asked.err
    assert asked.json["report"]["seen_tokens"] > found.json["tokens"]
    assert Library(store).entry("default").tokens == found.json["tokens"], "the session stays as it was"


def test_pictures_of_a_pdf_file_are_named_by_their_page(everlong, seeing, files):
    picture(size=(64, 48)).save(files / "slides.pdf", save_all=True, append_images=[picture((0, 90, 0), size=(64, 48))])
    where = ("--store", files / "store", "--model", seeing)
    found = everlong("read", files / "slides.pdf", "--images", "--json", *where, *FIELDS)
    assert found.code == 0, found.err
    assert found.json["pictures"] == 2
    library = Library(files / "store")
    names = [s.name for s in library.sources(library.entry("default"))]
    assert [n for n in names if ", picture" in n] == [f"{files / 'slides.pdf'}, page {n}, picture 1" for n in (1, 2)]


def test_what_cannot_be_is_one_line(everlong, seeing, tiny, files):
    (files / "broken.png").write_bytes(b"no picture")
    where = ("--store", files / "store")
    found = everlong("read", files / "log.txt", files / "harbour.png", "--images", "--model", tiny, *where, *FIELDS)
    assert found.code == 2
    assert "no processor for images; load a model that takes images" in found.err
    found = everlong("read", files / "broken.png", "--images", "--model", seeing, *where, *FIELDS)
    assert found.code == 2
    assert "broken.png: no image that Pillow reads; give a PNG" in found.err
    assert everlong("read", files / "log.txt", "--model", seeing, *where, *FIELDS).code == 0
    found = everlong("ask", *QUESTION, "--image", files / "harbour.png", "--again", "2", "--model", seeing, *where)
    assert found.code == 2
    assert "again=2: passages are read again without the image" in found.err
    found = everlong("ask", *QUESTION, "--image", files / "absent.png", "--model", seeing, *where)
    assert found.code == 2
    assert "No such file" in found.err


def test_pictures_in_a_folder_are_read_with_its_texts(everlong, seeing, files):
    (files / "broken.png").write_bytes(b"no picture")
    (files / "below").mkdir()
    picture((0, 90, 0), size=(64, 48)).save(files / "below" / "other.jpg")
    where = ("--store", files / "store", "--session", "one", "--model", seeing)
    found = everlong("read", files, "--images", "--json", *where, *FIELDS)
    assert found.code == 0, found.err
    assert found.json["pictures"] == 2
    assert "broken.png: no image that Pillow reads" in found.err
    assert "left out" in found.err
    library = Library(files / "store")
    names = [s.name for s in library.sources(library.entry("one"))]
    assert names == [str(files / name) for name in ("log.txt", "below/other.jpg", "harbour.png")]
    other = ("--store", files / "store", "--session", "two", "--model", seeing)
    found = everlong("read", files / "*.png", files / "harbour.png", "--images", *other, *FIELDS)
    assert found.code == 0, found.err
    assert [s.name for s in library.sources(library.entry("two"))] == [str(files / "harbour.png")]
    without = everlong("read", files, "--json", "--session", "three", *where[:2], *where[4:], *FIELDS)
    assert without.json["skipped"].items() >= {".png": 2, ".jpg": 1}.items()
