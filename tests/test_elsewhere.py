"""What a package elsewhere adds, one file each (tests/elsewhere), as docs/architecture.md says."""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path

import pytest

import everlong
from everlong import Blocks, Session
from everlong.cli.main import run
from everlong.errors import BudgetError, ConfigError, ForeignError
from everlong.evaluate import task as tasks
from everlong.library.library import Library
from everlong.methods import base as methods
from everlong.storage.known import CODECS, STORES
from tests.models.tiny import save_folder
from tests.session.keeping import IDS, SMALL, answer, kept

PACKAGE = Path(__file__).parent / "elsewhere"
REGISTRIES = methods._REGISTRY, tasks._REGISTRY, CODECS, STORES
BROKEN = "\n[everlong.methods]\nbroken = elsewhere_that_is_not_there\n"


def forget():
    """Let nothing be known but what is everlong's, and packages be looked for anew."""
    for registry in REGISTRIES:
        registry._elsewhere = None
        for name in [name for name, cls in registry._classes.items() if cls.__module__.startswith("everlong_extras")]:
            del registry._classes[name]
    for name in [name for name in sys.modules if name.startswith("everlong_extras")]:
        del sys.modules[name]


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """The package is installed: what its pyproject.toml says of entry points stands where an installer writes it."""
    points = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]["entry-points"]
    lines = [f"[{group}]\n" + "".join(f"{n} = {at}\n" for n, at in found.items()) for group, found in points.items()]
    described = tmp_path / "site" / "everlong_extras-0.1.dist-info"
    described.mkdir(parents=True)
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: everlong-extras\nVersion: 0.1\n")
    (described / "entry_points.txt").write_text("".join(lines).replace("[everlong.methods]", BROKEN.strip()))
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.syspath_prepend(PACKAGE)
    forget()
    yield
    forget()


@pytest.fixture
def small(tiny_llama):
    """A tiny model, which a method may be attached to."""
    return tiny_llama()


def uninstall(monkeypatch):
    """The package is there no longer."""
    monkeypatch.setattr(sys, "path", [place for place in sys.path if "site" not in place and place != str(PACKAGE)])
    forget()


@pytest.mark.usefixtures("elsewhere")
def test_each_is_known_by_its_name():
    assert "tail" in methods.method_names()
    assert "doorkey" in tasks.task_names()
    assert CODECS.names() == ["bfloat16", "float8", "int4", "int8", "native"]
    assert STORES.names() == ["counted", "disk", "host", "squeezed"]


@pytest.mark.usefixtures("elsewhere")
def test_a_method_reads_and_writes(small):
    with Session(small, methods.make_method("tail", {"window": "12"})) as session:
        session.feed(IDS[:40])
        assert session.report().window_tokens == 12
        assert len(session.generate(max_new_tokens=3).token_ids) == 3


@pytest.mark.usefixtures("elsewhere")
def test_a_task_is_evaluated_with_a_method(tmp_path, capsys):
    model = save_folder(tmp_path / "model")
    given = ["--method", "tail", "-o", "window=24", "-t", "lines=4", "--chunk", "32", "--json"]
    code = run(["eval", "doorkey", "--model", str(model), "--out", str(tmp_path / "out"), *given])
    said = capsys.readouterr()
    assert code == 0, said.err
    (row,) = json.loads(said.out)
    assert (row["task"], row["method"], row["length"], row["n"]) == ("doorkey", "tail", 4, 2)
    assert row["score"] in (0.0, 0.5, 1.0)


@pytest.mark.usefixtures("elsewhere")
def test_a_codec_is_read_with_kept_and_opened_again(small, tmp_path, monkeypatch):
    with kept(small, tmp_path / "kept", codec="float8") as session, session.fork() as twin:
        codec = session.stored("test").rows[0].store.codecs[0]
        assert (codec.name, codec.record_bytes) == ("float8", 192)
        wanted = answer(twin)
    with Session.open(tmp_path / "kept", "one", small, chunk=16) as session:
        assert answer(session) == wanted
    library = Library(tmp_path / "kept")
    found = library.verify(library.entry("one"))
    assert found["damaged_blocks"] == found["damaged_digests"] == []
    before = library.entry("one")

    uninstall(monkeypatch)
    with pytest.raises(
        ForeignError, match=r"session 'one': kept .*codec 'float8': does not exist; .*int4, int8.*instal"
    ):
        Session.open(tmp_path / "kept", "one", small)
    assert run(["sessions", "list", "--store", str(tmp_path / "kept")]) == 0
    assert library.entry("one") == before
    with library.locked(before):
        pass


@pytest.mark.usefixtures("elsewhere")
def test_digests_are_made_again_from_the_records_of_a_codec(small, tmp_path):
    kept(small, tmp_path, codec="float8").close()
    library = Library(tmp_path)
    (volume,) = library.volumes(library.entry("one"))
    whole = volume.digests.read_bytes()
    volume.digests.write_bytes(bytes(len(whole)))
    library.verify(library.entry("one"), repair=True)
    assert len(volume.digests.read_bytes()) == len(whole)
    with Session.open(tmp_path, "one", small, chunk=16) as session:
        assert len(answer(session)) == 12


def test_a_store_gives_back_what_it_took(elsewhere, small, tmp_path):
    with Session(small, Blocks(**SMALL), chunk=16) as plain:
        plain.feed(IDS[:150])
        wanted = answer(plain)
    method = Blocks(**SMALL, stored_in="squeezed")
    with Session(small, method, chunk=16) as session:
        session.fork().close()
        session.feed(IDS[:150])
        store = session.stored("test").rows[0].store
        assert store.name == "squeezed"
        assert session.report().bytes["host"] >= store.nbytes > 0
        session.save(tmp_path / "saved")
        with session.fork() as twin:
            assert twin.stored("test").rows[0].store.name == "squeezed"
            assert answer(twin) == wanted
        assert answer(session) == wanted
        session.reset()
        session.feed(IDS[:150])
        assert session.stored("test").rows[0].store.name == "squeezed"
        assert answer(session) == wanted
    with Session.load(tmp_path / "saved", small, chunk=16) as session:
        assert session.stored("test").rows[0].store.name == "squeezed"
        assert answer(session) == wanted


def test_what_is_written_of_a_method_names_a_store_only_where_one_was_given():
    assert "stored_in" not in Blocks().recipe()["fields"]
    assert str(Blocks()) == "blocks(sinks=64, window=1024, block=128, top_k=8)"
    host = Blocks(stored_in="host")
    assert methods.make_method(host.name, host.recipe()["fields"]) == host
    assert str(host).endswith("stored_in=host)")


def test_an_empty_fork_has_the_store_too(elsewhere, small):
    with Session(small, Blocks(**SMALL, stored_in="squeezed"), chunk=16) as session, session.fork() as twin:
        twin.feed(IDS[:60])
        assert twin.stored("test").rows[0].store.name == "squeezed"


def test_budgets_hold_in_a_store(elsewhere, small):
    method = Blocks(**SMALL, stored_in="squeezed")
    with Session(small, method, chunk=16, host_budget="64K", when_full="oldest") as session:
        for at in range(0, 500, 50):
            session.feed(IDS[at : at + 50])
            assert session.report().bytes["host"] <= 64 * 2**10
        assert session.report().dropped_tokens > 0
    with Session(small, method, chunk=16, host_budget="64K") as session, pytest.raises(BudgetError):
        session.feed(IDS)


def test_a_store_of_kept_sessions_is_the_sessions_for_good(elsewhere, small, tmp_path):
    with kept(small, tmp_path, stored_in="counted") as session:
        wanted = answer(session.fork())
    with Session.open(tmp_path, "one", small, chunk=16, read_only=True) as session:
        store = session.stored("test").rows[0].store
        store.reads.clear()
        assert answer(session) == wanted
        assert store.name == "counted"
        assert store.reads.total() > 0


@pytest.mark.parametrize(
    ("fields", "folder", "line"),
    [
        (
            {"stored_in": "squeezd"},
            False,
            r"store 'squeezd': does not exist; did you mean 'squeezed'\? known: counted, ",
        ),
        ({"stored_in": "counted"}, False, "stored_in=counted: has its blocks in the files of a kept session, and this"),
        ({"stored_in": "disk"}, False, "stored_in=disk: has its blocks in the files"),
        (
            {"stored_in": "squeezed"},
            True,
            "stored_in=squeezed: keeps no blocks in files, as a kept session needs; leave",
        ),
        ({"stored_in": "host"}, True, "stored_in=host: keeps no blocks in files"),
        ({"stored_in": "squeezed", "keep": "ids"}, False, "stored_in=squeezed: has no effect with keep=ids; leave it"),
        ({"codec": "float9"}, True, "codec 'float9': does not exist; did you mean 'float8'"),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_no_session(elsewhere, small, tmp_path, fields, folder, line):
    with pytest.raises(ConfigError, match=line):
        Session(small, Blocks(**(SMALL | fields)), store=tmp_path / "kept" if folder else None)
    if (tmp_path / "kept").exists():
        assert Library(tmp_path / "kept").entries() == []


@pytest.mark.usefixtures("elsewhere")
def test_a_package_that_cannot_be_imported_is_named_where_a_name_is_missed():
    assert methods.make_method("sinks", {}).name == "sinks"
    with pytest.raises(
        ConfigError, match=r"'broken': does not exist; .*broken \(elsewhere_that_is_not_there\) cannot be"
    ):
        methods.make_method("broken", {})


@pytest.mark.usefixtures("elsewhere")
def test_what_comes_with_everlong_is_asked_for_without_other_packages():
    assert everlong.Blocks(codec="int4", stored_in="host").codec == "int4"
    assert methods.make_method("blocks", {"codec": "native"}).name == "blocks"
    assert "everlong_extras.float8" not in sys.modules
