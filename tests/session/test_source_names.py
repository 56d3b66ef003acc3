"""Names of sources: shown by the shortest ending that tells them apart, meant by any path or ending."""

from __future__ import annotations

import pytest

from everlong.errors import InputError
from everlong.text.source_names import full_name, short_name, short_names


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["/a/README.md"], ["README.md"]),
        (["/a/README.md", "/b/README.md"], ["a/README.md", "b/README.md"]),
        (["/x/a/m.md", "/y/a/m.md", "/m.md"], ["x/a/m.md", "y/a/m.md", "/m.md"]),
        (["README.md", "/a/README.md"], ["README.md", "a/README.md"]),
        (["docs/m.md", "/a/docs/m.md"], ["docs/m.md", "a/docs/m.md"]),
        (["stdin:0f", "https://a.org/m.md", "/b/m.md"], ["stdin:0f", "https://a.org/m.md", "m.md"]),
        (
            ["notes: /a/m.md", "notes: /b/m.md", "/a/m.md", "/b/m.md"],
            ["notes: a/m.md", "notes: b/m.md", "a/m.md", "b/m.md"],
        ),
        (["text", ""], ["text", ""]),
    ],
)
def test_the_shortest_ending_that_no_other_name_has(names, shown):
    assert short_names(names) == dict(zip(names, shown, strict=True))
    assert len(set(shown)) == len(names)
    for name, said in zip(names, shown, strict=True):
        assert full_name(said, names) == name
        assert short_name(name, names) == said


def test_a_path_that_leads_to_the_file_means_it(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "m.md").touch()
    (tmp_path / "link.md").symlink_to(tmp_path / "a" / "m.md")
    names = [str((tmp_path / "a" / "m.md").resolve()), "/elsewhere/m.md"]
    monkeypatch.chdir(tmp_path / "a")
    for said in ("m.md", "./m.md", "../a/m.md", "../link.md", names[0]):
        assert full_name(said, names) == names[0]


def test_an_ending_of_several_names_and_no_name_are_refused():
    with pytest.raises(InputError, match=r"source 'm\.md': stands for /a/m\.md, /b/m\.md; give more of the path"):
        full_name("m.md", ["/a/m.md", "/b/m.md"])
    with pytest.raises(
        InputError, match=r"source 'n\.md': was not read into this session, or is forgotten; did you mean"
    ):
        full_name("n.md", ["m.md"])
