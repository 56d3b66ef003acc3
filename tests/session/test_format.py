"""docs/format.md says what is on the disk: its facts against the code's, and a session read by the page alone."""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
import struct
import zlib

import numpy as np
import pytest
from safetensors import safe_open

from everlong import Session
from everlong.cache.stream_memory import StreamMemory
from everlong.library import journal, portable, schema
from everlong.library.library import Library
from everlong.methods.blocks.recall import piece_file
from everlong.storage import extent
from everlong.storage.known import CODECS
from tests.conftest import ROOT
from tests.session.keeping import IDS, kept

PAGE = (ROOT / "docs" / "format.md").read_text(encoding="utf-8")
SECTIONS = dict(part.split("\n", 1) for part in PAGE.split("\n## ")[1:])


def rows(section: str, columns: int) -> list[list[str]]:
    """The rows of the tables of a section that have so many columns, without their heads."""
    lines = [line.strip("|").split(" | ") for line in SECTIONS[section].splitlines() if line.startswith("| ")]
    found = [[cell.strip() for cell in line] for line in lines if len(line) == columns]
    return [line for line in found if line[0].startswith("`")]


def magics(section: str) -> list[bytes]:
    return [bytes.fromhex(found) for found in re.findall(r"`((?:[0-9a-f]{2} ){7}[0-9a-f]{2})`", SECTIONS[section])]


def test_the_tables_and_their_columns():
    with sqlite3.connect(":memory:") as db:
        for statement in schema.SCHEMA.values():
            db.execute(statement)
        made = {name: [row[1] for row in db.execute(f"PRAGMA table_info({name})")] for name in schema.SCHEMA}
    said = {name.strip("`"): columns.split(", ") for name, columns, _ in rows("everlong.db", 3)}
    assert said == made


def test_the_numbers_of_the_formats():
    said = dict(re.findall(r"\| (store|state) \|.*?\| ([^|]*) \| [\d, ]+ \|", SECTIONS["everlong.db"]))
    read = dict(re.findall(r"\| (store|state) \|.*\| ([\d, ]+) \|\n", SECTIONS["everlong.db"]))
    assert int(said["store"]) == schema.FORMAT
    assert int(said["state"].split(",")[0]) == portable.FORMAT
    assert read["store"] == ", ".join(map(str, schema.FORMATS))
    assert read["state"] == ", ".join(map(str, portable.FORMATS))


def test_the_header_of_a_record():
    assert magics("Blocks") == [extent.MAGIC]
    places = re.findall(r"^\| (\d+) to (\d+) \|", SECTIONS["Blocks"], re.MULTILINE)
    sizes = [int(last) - int(first) + 1 for first, last in places]
    assert sizes == [8, 4, 4, 4, 4, 8, extent.HEADER_BYTES - extent.HEADER.size]
    assert extent.HEADER.format == "<8sIIIIQ"


def test_every_codec_is_there():
    assert [name.strip("`") for name, *_ in rows("Blocks", 3)] == list(CODECS._homes)


def test_the_header_of_meanings():
    assert magics("Ids, state, catalog, meaning") == [journal.MAGIC, piece_file.MAGIC]
    assert piece_file.HEADER.format == "<8sI32sI"
    assert piece_file.row_type(384).itemsize == 384 + 18


@pytest.fixture(scope="module")
def store(tiny_llama, tmp_path_factory):
    """A store with a session that has two checkpoints and forgot a span between them."""
    model = tiny_llama(num_hidden_layers=2, max_position_embeddings=64, initializer_range=0.3)
    folder = tmp_path_factory.mktemp("store")
    with kept(model, folder) as session:
        session.forget((40, 50))
        session.feed(IDS[150:170])
    return folder


@pytest.fixture
def session(store):
    """The session's row of the database, by column."""
    with sqlite3.connect(store / "everlong.db") as db:
        db.row_factory = sqlite3.Row
        (row,) = db.execute("SELECT * FROM sessions").fetchall()
    return row


def of_session(store, session, table):
    with sqlite3.connect(store / "everlong.db") as db:
        return db.execute(f"SELECT * FROM {table} WHERE session = ?", (session["id"],)).fetchall()


def test_the_ids_read_by_the_page(store, session):
    ids = np.fromfile(store / "sessions" / session["id"] / "ids", np.int32)[: session["tokens"]]
    ((_, first, end, filler, wiped),) = of_session(store, session, "forgotten")
    expected = np.array(IDS[:170])
    expected[first:end] = filler
    assert ids.tolist() == expected.tolist()
    assert (first, end, wiped) == (40, 50, 1)


def test_the_blocks_read_by_the_page(store, session):
    dropped = {block for _, block in of_session(store, session, "dropped")}
    state = store / "sessions" / session["id"] / session["state"]
    with safe_open(state, "np") as opened:
        digest_bytes = json.loads(opened.metadata()["document"])["digest_bytes"]
    seen = []
    for _, _, file, first, end, at in of_session(store, session, "volumes"):
        data = (store / "blocks" / file).read_bytes() if end > first else b""
        digests = (store / "blocks" / file).with_suffix(".digests").read_bytes() if end > first else b""
        for block in range(first, end):
            row = data[(at + block - first) * session["row_bytes"] :][: session["row_bytes"]]
            if block in dropped:
                assert not any(row)
                continue
            place = 0
            for layer in range(2):
                magic, got, number, tokens, checksum, size = struct.unpack_from("<8sIIIIQ", row, place)
                assert (magic, got, number) == (b"evrlng\x01\n", layer, block)
                record = row[place + 64 : place + 64 + size]
                assert zlib.crc32(record) == checksum
                assert 1 <= tokens <= 5
                place += 64 + size
            assert place == session["row_bytes"]
            summary = digests[(at + block - first) * digest_bytes :][:digest_bytes]
            assert zlib.crc32(summary[:-4]) == int.from_bytes(summary[-4:], "little")
            seen.append(block)
    assert dropped
    assert sorted({*seen, *dropped}) == list(range(session["blocks"]))


def test_a_record_of_numbers_read_by_the_page(tiny_llama, tmp_path):
    """The keys of the first block, which is of the tokens behind the sinks."""
    model = tiny_llama(num_hidden_layers=1, max_position_embeddings=64)
    with kept(model, tmp_path, ids=60) as opened:
        found: StreamMemory = opened.stored("test")
        k, v = found.rows[0].layers[0].store.codecs[0].decode(found.rows[0].store.record(0, 0))
    (path,) = (tmp_path / "blocks").glob("*.blocks")
    record = path.read_bytes()[64:]
    heads, tokens, dim = k.shape
    keys = np.frombuffer(record, np.float32, heads * tokens * dim).reshape(heads, tokens, dim)
    at = -(-keys.nbytes // 16) * 16
    values = np.frombuffer(record[at:], np.float32, keys.size).reshape(keys.shape)
    assert np.array_equal(keys, k.numpy())
    assert np.array_equal(values, v.numpy())


def test_state_and_catalog_read_by_the_page(store, session):
    folder = store / "sessions" / session["id"]
    data = (folder / session["state"]).read_bytes()
    with safe_open(folder / session["state"], "np") as opened:
        said = opened.metadata()
    assert hashlib.sha256(data.replace(said["digest"].encode(), b"0" * 64, 1)).hexdigest() == said["digest"]
    document = json.loads(said["document"])
    ids = (folder / "ids").read_bytes()[: 4 * session["tokens"]]
    assert (document["format"], document["ids"]) == (portable.FORMAT, zlib.crc32(ids))
    catalog = (folder / "catalog").read_bytes()
    assert int(catalog[:8], 16) == zlib.crc32(catalog[8:])
    assert set(json.loads(catalog[8:])) == {"format", "tables", "facts"}


def test_the_folder_holds_what_the_page_names(store, session):
    found = {path.name for path in (store / "sessions" / session["id"]).iterdir()}
    kept_states = {session["state"], *(state for _, state, *_ in of_session(store, session, "states"))}
    assert found == {"ids", "catalog", "lock", *kept_states}
    assert {path.suffix for path in (store / "blocks").iterdir()} <= {".blocks", ".digests", ".recall"}
    assert {path.name for path in store.iterdir()} - {"everlong.db-wal", "everlong.db-shm"} == {
        "everlong.db",
        "blocks",
        "sessions",
    }


def test_what_verify_finds_is_what_the_page_says(tiny_llama, tmp_path):
    """A record, a row of digests and the ids, each with one byte changed."""
    model = tiny_llama(num_hidden_layers=1, max_position_embeddings=64)
    with kept(model, tmp_path, ids=60) as session:
        session.feed(IDS[60:62])
    library = Library(tmp_path)
    entry = library.entry("one")
    (blocks,) = (tmp_path / "blocks").glob("*.blocks")
    for path, at in (
        (blocks, 2 * entry.row_bytes + 64),
        (blocks.with_suffix(".digests"), 0),
        (library.place(entry) / "ids", 244),
    ):
        data = bytearray(path.read_bytes())
        data[at] ^= 1
        path.write_bytes(data)
    found = library.verify(entry)
    assert found["damaged_blocks"] == [2]
    assert found["damaged_digests"] == [0]
    assert [path.rpartition("/")[2] for path in found["damaged_files"]] == ["ids"]
    repaired = library.verify(entry, repair=True)
    assert repaired["tokens"] == 60
    assert library.dropped(library.entry("one")) == [2]
    after = library.verify(library.entry("one"))
    assert (after["damaged_blocks"], after["damaged_digests"], after["damaged_files"]) == ([], [], [])
    with Session.open(tmp_path, "one", model, chunk=16) as session:
        assert session.keeping.tokens == 60
