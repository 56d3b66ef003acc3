"""`everlong mcp`: the tools by the official client, in this process and over stdio."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import tomllib
from pathlib import Path

import pytest

import everlong
from everlong import Blocks, Session
from everlong.cli.main import run
from tests.models.tiny import SHAPE
from tests.server.conftest import SMALL
from tests.session.conftest import byte_level

mcp = pytest.importorskip("mcp", reason="needs the extra: pip install 'everlong[mcp]'")
from everlong.cli.mcp_tools import LibraryTools, server  # noqa: E402 (after what it needs was looked for)
from everlong.models.load import Loaded  # noqa: E402

TEXT = "# Tide\nThe tide rose over the harbour. The gulls cried 4711 times.\n" + "Nobody knew why. " * 20


@pytest.fixture(scope="module")
def loaded(tiny_llama) -> Loaded:
    """A tiny random Llama with a chat template."""
    tokenizer = byte_level()
    return Loaded(tiny_llama(**SHAPE | {"vocab_size": len(tokenizer)}), tokenizer, "tiny")


@pytest.fixture
def call(loaded, tmp_path):
    """Calls tools of a server in this process: (name, arguments) each; what each gave back."""
    told = []

    async def progress(done, total, message):
        told.append((done, message))

    async def called(tools, calls):
        async with mcp.Client(server(tools)) as client:
            return [await client.call_tool(name, given, progress_callback=progress) for name, given in calls]

    def work(*calls, roots=()):
        tools = LibraryTools(tmp_path / "store", lambda session: loaded, Blocks(**SMALL), 64, roots)
        return asyncio.run(called(tools, calls))

    work.told = told
    return work


def refusal(result) -> str:
    """What a tool said that could not do it."""
    assert result.is_error
    return result.content[0].text


def test_a_text_is_read_once_asked_about_searched_and_forgotten(call, loaded, tmp_path):
    given = {"session": "a", "text": TEXT, "name": "tide.md"}
    results = call(
        ("sessions", {}),
        ("read", given),
        ("read", given),
        ("sessions", {}),
        ("search", {"session": "a", "words": "4711 gulls", "top": 1}),
        ("ask", {"session": "a", "question": "How often did the gulls cry?", "max_tokens": 4}),
        ("forget", {"session": "a", "source": "tide.md", "start": 10, "end": 40}),
        ("search", {"session": "a", "words": "harbour"}),
    )
    assert [result.is_error for result in results] == [False] * len(results)
    none, read, again, listed, found, answer, forgotten, gone = [result.structured_content for result in results]
    assert none == {"sessions": []}
    assert read["read_tokens"] == read["tokens"] > 100
    assert read["lost"] == "nothing lost"
    assert (again["read_tokens"], again["read_before"]) == (0, ["tide.md"])
    assert [(one["name"], one["sources"], one["tokens"]) for one in listed["sessions"]] == [
        ("a", ["tide.md"], read["tokens"])
    ]
    (passage,) = found["passages"]
    assert "4711" in passage["sentence"]
    assert (passage["name"], passage["heading"]) == ("tide.md", "Tide")
    assert "looked at" not in answer["looked_at"] or answer["looked_at"].endswith("nothing lost")
    assert all(0 < one["share"] <= 1 and one["sentence"] for one in answer["passages"])
    assert answer["cut_off"] is True
    assert forgotten["tokens"] > 0
    assert not any("harbour" in one["text"] for one in gone["passages"])
    assert call.told
    assert call.told[-1] == (read["tokens"], f"{read['tokens']:,} tokens of tide.md")
    with Session.open(tmp_path / "store", "a", loaded, read_only=True) as session:
        assert session.seen_tokens == read["tokens"]


def test_files_are_read_where_that_is_allowed(call, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text(TEXT)
    (tmp_path / "out.txt").write_text(TEXT)
    (tmp_path / "in" / "link.txt").symlink_to(tmp_path / "out.txt")
    root = (tmp_path / "in").resolve()
    paths = [root / "a.txt", tmp_path / "out.txt", root / "link.txt", root / ".." / "out.txt"]
    inside, *outside = call(*(("read", {"session": "a", "path": str(path)}) for path in paths), roots=[root])
    assert inside.structured_content["read_tokens"] > 0
    for result in outside:
        assert "outside of" in refusal(result)


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("read", {"session": "a"}, "give either a path or a text"),
        ("read", {"session": "a", "path": "x", "text": "y"}, "give either a path or a text"),
        ("read", {"session": "a", "path": "/no/such/file"}, "no such file"),
        ("read", {"session": ".a", "text": "y"}, "a name has"),
        ("ask", {"session": "none", "question": "Why?"}, "holds no kept sessions"),
        ("search", {"session": "none", "words": "why"}, "holds no kept sessions"),
        ("forget", {"session": "none", "source": "x"}, "holds no kept sessions"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(call, name, given, said):
    (result,) = call((name, given))
    assert said in refusal(result)
    assert "\n" not in refusal(result)


def test_a_reading_that_is_broken_off_is_kept(call, loaded, tmp_path):
    tools = LibraryTools(tmp_path / "store", lambda session: loaded, Blocks(**SMALL), 16, ())
    steps = tools._reading("a", "", TEXT, "tide.md")
    first = next(steps)["read"]
    next(steps)
    steps.close()
    (rest,) = call(("read", {"session": "a", "text": TEXT, "name": "tide.md"}))
    assert first < rest.structured_content["read_tokens"] < rest.structured_content["tokens"]


@pytest.mark.heavy(reason="a new process that imports torch and loads a model, as clients start it")
def test_a_client_starts_it_over_stdio(tiny, tmp_path):
    command = ["-m", "everlong", "mcp", "-m", tiny, "--store", str(tmp_path / "store")]
    small = [part for name, value in SMALL.items() for part in ("-o", f"{name}={value}")]
    source = str(Path(everlong.__file__).parents[1])
    started = mcp.StdioServerParameters(command=sys.executable, args=[*command, *small], env={"PYTHONPATH": source})

    async def talk():
        async with mcp.Client(started) as client:
            tools = {tool.name: tool for tool in (await client.list_tools()).tools}
            read = await client.call_tool("read", {"session": "a", "text": TEXT, "name": "tide.md"})
            wrong = await client.call_tool("ask", {"session": "b", "question": "Why?"})
            found = await client.call_tool("search", {"session": "a", "words": "gulls"})
            return tools, read, wrong, found

    tools, read, wrong, found = asyncio.run(asyncio.wait_for(talk(), 120))
    assert set(tools) == {"read", "ask", "search", "forget", "sessions"}
    assert "ctx" not in tools["read"].input_schema["properties"]
    assert tools["ask"].input_schema["required"] == ["session", "question"]
    assert all(tool.description for tool in tools.values())
    assert read.structured_content["read_tokens"] > 100
    assert refusal(wrong)
    assert "4711" in found.structured_content["passages"][0]["text"]


def test_the_settings_of_clients_are_as_the_docs_have_them():
    page = (Path(__file__).parents[2] / "docs" / "mcp.md").read_text()
    as_json = json.loads(re.search(r"```json\n(.*?)```", page, re.DOTALL)[1])["mcpServers"]["everlong"]
    as_toml = tomllib.loads(re.search(r"```toml\n(.*?)```", page, re.DOTALL)[1])["mcp_servers"]["everlong"]
    command = ["everlong", "mcp", "--store", "/home/me/library", "--root", "/home/me/texts"]
    assert [as_json["command"], *as_json["args"]] == [as_toml["command"], *as_toml["args"]] == command
    assert "claude mcp add everlong -- everlong mcp --store /home/me/library" in page


def test_a_folder_that_is_not_there_is_refused(capsys, tiny):
    assert run(["mcp", "-m", tiny, "--root", str(Path("/no/such"))]) == 2
    assert "--root /no/such: no such folder" in capsys.readouterr().err
