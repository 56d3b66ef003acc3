"""What of a folder is read: documents, prose and code; what is hidden, ignored or no text is counted."""

from __future__ import annotations

import os
from collections import Counter

import pytest

from everlong.cli.documents import choose
from everlong.cli.folders import files_in, is_text_name
from everlong.errors import InputError


@pytest.fixture
def tree(tmp_path):
    """A repository of many kinds of files."""
    files = {
        "README": "read",
        "README.md": "read",
        "src/a.py": "read",
        "src/b.rs": "read",
        "src/Makefile": "read",
        "src/build/out.c": "ignored",
        "src/keep.log": "read",
        "src/other.log": "ignored",
        "docs/page.txt": "read",
        "docs/deep/.gitignore": "secret.txt\n",
        "docs/deep/secret.txt": "ignored",
        "docs/deep/open.txt": "read",
        "id_rsa": "a key",
        "server.pem": "a key",
        ".git/config": "hidden",
        ".venv/lib.py": "hidden",
        ".env": "hidden",
        ".gitignore": "build/\n*.log\n!keep.log\n# a comment\n",
        "empty.txt": "",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    (tmp_path / "image.png").write_bytes(b"\x89PNG\0")
    (tmp_path / "film.ts").write_bytes(bytes(range(256)) * 9)
    (tmp_path / "loop").symlink_to(tmp_path)
    return tmp_path


READ = {
    "README",
    "README.md",
    "src/a.py",
    "src/b.rs",
    "src/Makefile",
    "src/keep.log",
    "docs/page.txt",
    "docs/deep/open.txt",
}


def test_documents_and_code_are_read_and_the_rest_is_counted(tree):
    chosen = choose([str(tree)])
    assert {str(f.path.relative_to(tree)) for f in chosen.files} == READ
    assert chosen.skipped == {
        "hidden": 5,
        "ignored by .gitignore": 3,
        "without a suffix": 1,
        ".pem": 1,
        ".png": 1,
        "empty": 1,
        "links to folders, and what is no file": 1,
        "no text, whatever their names say": 1,
    }
    assert chosen.told().startswith("14 skipped (5 hidden, 3 ignored by .gitignore, ")
    assert [f.path for f in chosen.files] == sorted(f.path for f in chosen.files)


def test_rules_of_the_repository_hold_in_a_folder_below_it(tree, monkeypatch):
    monkeypatch.chdir(tree / "src")
    assert {f.called for f in choose(["."]).files} == {"Makefile", "a.py", "b.rs", "keep.log"}
    (tree / ".git" / "config").unlink()
    (tree / ".git").rmdir()
    assert "other.log" in {f.called for f in choose(["."]).files}


def test_what_is_named_is_read_whatever_its_folder_says(tree):
    named = [str(tree / name) for name in ("src/other.log", ".env", "id_rsa", ".venv")]
    assert len(choose(named).files) == 4
    with pytest.raises(InputError, match=r"image\.png: a binary file"):
        choose([str(tree / "image.png")])


def test_patterns_pass_over_what_is_no_text(tree):
    assert {f.path.name for f in choose([f"{tree}/*.ts", f"{tree}/README*"]).files} == {"README", "README.md"}
    with pytest.raises(InputError, match=r"no files with text; 1 skipped"):
        choose([f"{tree}/*.ts"])


def test_a_folder_without_text_and_a_name_that_means_nothing_are_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\0")
    with pytest.raises(InputError, match=r"no files with text; 1 skipped \(1 \.png\); a file that is named"):
        choose([str(tmp_path)])
    with pytest.raises(InputError, match=r"missing\.txt: no such file"):
        choose([str(tmp_path / "missing.txt")])
    with pytest.raises(
        InputError, match=r"an address; fetch it first, as in `curl -L https://a\.org/b \| everlong read -`"
    ):
        choose(["https://a.org/b"])


def test_folders_and_files_that_cannot_be_read(tree, monkeypatch):
    scandir, access = os.scandir, os.access

    def refusing(path):
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    monkeypatch.setattr(os, "access", lambda path, mode: "a.py" not in str(path) and access(path, mode))
    skipped = Counter()
    found = {str(p.relative_to(tree)) for p in files_in(tree, skipped)}
    assert found == READ - {"src/a.py", "docs/deep/open.txt"} | {"film.ts"}
    assert [skipped["folders that cannot be read"], skipped["that cannot be read"]] == [1, 1]
    with pytest.raises(InputError, match="deep: Permission denied; give a folder that can be read"):
        files_in(tree / "docs" / "deep", skipped)


@pytest.mark.parametrize(
    "name", ["a.TXT", "b.Py", "c.ipynb", "d.EPUB", "LICENSE", "Dockerfile", "e.yaml", "f.csv", "g.hpp"]
)
def test_names_of_text(name):
    assert is_text_name(name)


@pytest.mark.parametrize(
    "name", ["a.png", "b.pyc", "c.pem", "id_rsa", "core", "d.zip", "e.svg", "f.so", "g.safetensors"]
)
def test_names_of_what_is_not_read(name):
    assert not is_text_name(name)
