"""Which paths are let through, and what the others are told."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from pathlib import Path

import pytest
from helpers import IGNORABLE
from hypothesis import given
from hypothesis import strategies as st

from dev.fuzz import examples
from papermill_mcp.errors import NotFoundError, PathNotAllowedError, PermissionDeniedError, ServerError
from papermill_mcp.services.workspace import MAX_LINKS, MAX_PART_BYTES, Workspace


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    (root / "b.ipynb").write_text("{}")
    (root / "a" / "c.IPYNB").write_text("{}")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.ipynb").write_text("{}")
    return root


@pytest.fixture
def workspace(root: Path) -> Workspace:
    return Workspace([root])


@pytest.fixture(scope="module")
def any_workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """One for many examples, which change nothing in it."""
    return Workspace([tmp_path_factory.mktemp("root")])


def refusal(workspace: Workspace, path: str, *, writing: bool = False) -> str:
    with pytest.raises(PathNotAllowedError) as raised:
        workspace.notebook(path, writing=writing)
    text = str(raised.value)
    assert "Nothing was read or written" in text
    assert str(workspace.roots[0]) in text
    return text


@pytest.mark.parametrize("path", ["b.ipynb", "./b.ipynb", "a/../b.ipynb", "a//../b.ipynb", "missing/../b.ipynb"])
def test_every_spelling_inside_the_root_leads_to_the_file(workspace: Workspace, root: Path, path: str) -> None:
    assert workspace.notebook(path) == root / "b.ipynb"
    assert workspace.notebook(path, writing=True) == root / "b.ipynb"


def test_an_absolute_path_inside_a_root_works(workspace: Workspace, root: Path) -> None:
    assert workspace.notebook(str(root / "b.ipynb")) == root / "b.ipynb"
    assert workspace.notebook(f"{root}/a/../b.ipynb") == root / "b.ipynb"


def test_a_root_may_be_named_through_the_link_that_the_settings_name(tmp_path: Path, root: Path) -> None:
    (tmp_path / "alias").symlink_to(root)
    workspace = Workspace([tmp_path / "alias"])

    assert workspace.roots == (root,)
    assert workspace.notebook(str(tmp_path / "alias" / "b.ipynb")) == root / "b.ipynb"


def test_the_suffix_may_be_in_capitals(workspace: Workspace, root: Path) -> None:
    assert workspace.notebook("a/c.IPYNB") == root / "a" / "c.IPYNB"


@pytest.mark.parametrize(
    "path",
    [
        "../x.ipynb",
        "a/../../x.ipynb",
        "../outside/secret.ipynb",
        "..",
        "/etc/passwd",
        "//etc/passwd",
        "/proc/self/environ",
        "/",
        "a/../../../../../../../../etc/passwd",
    ],
)
@pytest.mark.parametrize("writing", [False, True])
def test_a_path_out_of_the_roots_is_refused(workspace: Workspace, path: str, writing: bool) -> None:
    text = refusal(workspace, path, writing=writing)

    assert "leads out of the roots" in text
    assert "Give a path inside a root" in text


def test_a_sibling_with_the_same_beginning_is_outside(workspace: Workspace, root: Path) -> None:
    twin = root.with_name("root-twin")
    twin.mkdir()
    (twin / "x.ipynb").write_text("{}")

    assert "leads out" in refusal(workspace, str(twin / "x.ipynb"))
    assert "leads out" in refusal(workspace, "../root-twin/x.ipynb")


@pytest.mark.parametrize(
    "character",
    [
        "\0",
        "\n",
        "\t",
        "\x1b",
        "\x7f",
        "\x85",
        "\u200b",
        "\u200d",
        "\u202e",
        "\u2066",
        "\u2028",
        "\u2029",
        "\ufeff",
        "\u00ad",
        "\U000e0041",
        "\ud800",
        "\u3164",
    ],
)
def test_invisible_characters_are_refused_by_number(workspace: Workspace, character: str) -> None:
    text = refusal(workspace, f"b{character}.ipynb")

    assert f"U+{ord(character):04X}" in text
    assert character not in text


@pytest.mark.parametrize(("first", "last"), IGNORABLE)
def test_every_character_without_a_shape_is_refused(workspace: Workspace, first: int, last: int) -> None:
    for code in range(first, last + 1):
        assert f"U+{code:04X}" in refusal(workspace, f"b{chr(code)}.ipynb")


@pytest.mark.parametrize("name", ["é", "日本語", "👍", "❤\ufe0f", "ᄞ", "ᅡ", "a b", "ᜀ"])
def test_names_of_all_scripts_are_let_through(workspace: Workspace, root: Path, name: str) -> None:
    assert workspace.notebook(f"{name}.ipynb", writing=True) == root / f"{name}.ipynb"


@pytest.mark.parametrize("end", [" ", ".", '"', "'", "\u00a0", "`"])
def test_a_part_that_ends_with_what_nobody_sees_is_refused(workspace: Workspace, end: str) -> None:
    assert f"U+{ord(end):04X}" in refusal(workspace, f"b.ipynb{end}")
    assert f"U+{ord(end):04X}" in refusal(workspace, f"dir{end}/b.ipynb")


@pytest.mark.parametrize(
    "path",
    [
        "http://x/y.ipynb",
        "HTTP://x/y.ipynb",
        " s3://x/y.ipynb",
        "gs://b/x.ipynb",
        "file://b/b.ipynb",
        "hdfs://x.ipynb",
        "adl://x.ipynb",
        "abs://x.ipynb",
        "https://github.com/a/b.ipynb",
        "git+ssh://x/y.ipynb",
    ],
)
def test_urls_are_refused(workspace: Workspace, path: str) -> None:
    assert "URL" in refusal(workspace, path)


@pytest.mark.parametrize("path", ["-", "-x.ipynb", "a/-rf/x.ipynb"])
def test_a_part_that_looks_like_an_option_is_refused(workspace: Workspace, path: str) -> None:
    assert "starts with -" in refusal(workspace, path)


@pytest.mark.parametrize(
    ("path", "limit"),
    [
        ("x" * 5000 + ".ipynb", "4,096"),
        ("x" * 300 + ".ipynb", "255"),
        ("é" * 125 + ".ipynb", "255"),
        ("a/" * 300 + "x.ipynb", "256"),
        ("é/" * 2000 + "x.ipynb", "4,096"),
        ("x" * 4_000_000, "4,096"),
    ],
)
def test_limits_are_named(workspace: Workspace, path: str, limit: str) -> None:
    text = refusal(workspace, path)

    assert limit in text
    assert len(text) < 1500


def test_a_name_may_be_as_long_as_the_limit(workspace: Workspace) -> None:
    with pytest.raises(NotFoundError):
        workspace.notebook("x" * (MAX_PART_BYTES - 6) + ".ipynb")


@pytest.mark.parametrize(
    "path",
    ["$HOME/x.ipynb", "%2e%2e/x.ipynb", "{}/x.ipynb", '{"cells": [], "nbformat": 4}.ipynb', "{x}.ipynb"],
)
def test_nothing_in_a_path_is_expanded(workspace: Workspace, path: str) -> None:
    with pytest.raises(NotFoundError):
        workspace.notebook(path)


def test_a_file_with_a_special_name_is_found_by_it(workspace: Workspace, root: Path) -> None:
    (root / "~a").mkdir()
    (root / "~a" / "{x} $HOME %2e.ipynb").write_text("{}")

    assert workspace.notebook("~a/{x} $HOME %2e.ipynb").parent == root / "~a"


@pytest.mark.parametrize("path", ["", ".", "a", "b.txt", "b.py", "b", "b.ipynb.bak", ".ipynb", "a/.ipynb", "a/.."])
def test_what_is_no_notebook_by_name_is_refused(workspace: Workspace, root: Path, path: str) -> None:
    (root / "b.txt").write_text("x")
    refusal(workspace, path)
    refusal(workspace, path, writing=True)


def test_a_missing_notebook_is_not_found_and_may_be_written(workspace: Workspace, root: Path) -> None:
    with pytest.raises(NotFoundError, match=r"new\.ipynb"):
        workspace.notebook("new.ipynb")
    assert workspace.notebook("new.ipynb", writing=True) == root / "new.ipynb"


@pytest.mark.parametrize("path", ["b.ipynb/x.ipynb", "b.ipynb/none/x.ipynb", "b.ipynb/../b.ipynb"])
def test_a_file_is_no_directory(workspace: Workspace, path: str) -> None:
    for writing in (False, True):
        with pytest.raises(NotFoundError):
            workspace.notebook(path, writing=writing)


@pytest.mark.parametrize("path", ["none/x.ipynb", "none/deep/x.ipynb", "a/none/x.ipynb"])
def test_a_missing_directory_is_made_for_a_file_to_be_written(workspace: Workspace, root: Path, path: str) -> None:
    with pytest.raises(NotFoundError):
        workspace.notebook(path)
    found = workspace.notebook(path, writing=True)
    assert not (root / path).parent.exists(), "a look makes nothing"
    workspace.make_directory_of(found)

    assert (root / path).parent.is_dir()
    assert found == root / path


@pytest.mark.parametrize("path", [".none/x.ipynb", "none/.deep/x.ipynb", "out/none/x.ipynb", "none/../../x/x.ipynb"])
def test_a_missing_directory_is_not_made_where_nothing_is_written(workspace: Workspace, root: Path, path: str) -> None:
    (root.parent / "beyond").mkdir()
    (root / "out").symlink_to(root.parent / "beyond")
    refusal(workspace, path, writing=True)


def test_a_directory_that_becomes_a_link_meanwhile_is_not_followed(workspace: Workspace, root: Path) -> None:
    found = workspace.notebook("none/deep/x.ipynb", writing=True)
    (root.parent / "beyond").mkdir()
    (root / "none").symlink_to(root.parent / "beyond")

    with pytest.raises(PathNotAllowedError):
        workspace.make_directory_of(found)
    assert not [*(root.parent / "beyond").iterdir()]


def test_a_root_that_is_gone_is_not_made(workspace: Workspace, root: Path) -> None:
    found = workspace.notebook("none/x.ipynb", writing=True)
    shutil.rmtree(root)

    with pytest.raises(NotFoundError):
        workspace.make_directory_of(found)
    assert not root.exists()


@pytest.mark.parametrize("path", [".git/x.ipynb", ".ipynb_checkpoints/x.ipynb", "a/.jupyter/x.ipynb", ".x.ipynb"])
def test_hidden_places_are_read_but_not_written(workspace: Workspace, root: Path, path: str) -> None:
    (root / path).parent.mkdir(exist_ok=True)
    (root / path).write_text("{}")

    assert workspace.notebook(path) == root / path
    assert "hidden" in refusal(workspace, path, writing=True)


def test_a_root_may_itself_be_hidden(tmp_path: Path) -> None:
    root = tmp_path / ".notebooks"
    root.mkdir()

    assert Workspace([root]).notebook("x.ipynb", writing=True) == root / "x.ipynb"


def test_private_directories_are_refused(root: Path) -> None:
    workspace = Workspace([root], private=[root / "state"])
    (root / "state").mkdir()
    (root / "state" / "x.ipynb").write_text("{}")
    (root / "link").symlink_to("state")

    for path in ("state/x.ipynb", "link/x.ipynb", str(root / "state" / "x.ipynb")):
        assert "belongs to this server" in refusal(workspace, path)
    with pytest.raises(PathNotAllowedError):
        workspace.directory("state/sub", create=True)


@pytest.mark.case("P01", "P11")
@pytest.mark.parametrize("writing", [False, True])
def test_links_out_of_the_roots_are_refused_alike_whether_or_not_the_target_exists(
    workspace: Workspace, root: Path, tmp_path: Path, writing: bool
) -> None:
    outside = tmp_path / "outside"
    (root / "file.ipynb").symlink_to(outside / "secret.ipynb")
    (root / "gone.ipynb").symlink_to(outside / "none.ipynb")
    (root / "dir").symlink_to("../outside")
    (root / "nodir").symlink_to("../nowhere")
    (root / "one.ipynb").symlink_to("two.ipynb")
    (root / "two.ipynb").symlink_to("three.ipynb")
    (root / "three.ipynb").symlink_to(outside / "secret.ipynb")
    (outside / "loop.ipynb").symlink_to("loop.ipynb")
    (root / "loop.ipynb").symlink_to(outside / "loop.ipynb")
    (outside / "back").symlink_to(root)
    paths = ["file.ipynb", "gone.ipynb", "one.ipynb", "loop.ipynb"]
    paths += [f"{directory}/{name}.ipynb" for directory in ("dir", "nodir") for name in ("secret", "none")]
    paths += ["dir/back/b.ipynb", "dir/../root/b.ipynb"]
    paths += [str(outside / "secret.ipynb"), str(outside / "none.ipynb")]

    messages = {refusal(workspace, path, writing=writing).replace(f"'{path}'", "PATH") for path in paths}

    assert len(messages) == 1
    assert "leads out of the roots" in messages.pop()


def test_nothing_outside_the_roots_is_looked_at(
    workspace: Workspace, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "dir").symlink_to("../outside")
    looked: list[str] = []
    real = os.lstat

    def lstat(path: str | Path) -> os.stat_result:
        looked.append(os.fspath(path))
        return real(path)

    monkeypatch.setattr(os, "lstat", lstat)
    for path in ("dir/secret.ipynb", "../outside/secret.ipynb", str(tmp_path / "outside" / "secret.ipynb")):
        refusal(workspace, path)

    assert looked
    assert all(Path(path).is_relative_to(root) or root.is_relative_to(path) for path in looked)


def test_a_link_to_the_top_of_everything_is_refused(workspace: Workspace, root: Path) -> None:
    (root / "top").symlink_to("/")

    with pytest.raises(PathNotAllowedError, match="leads out"):
        workspace.directory("top")
    with pytest.raises(PathNotAllowedError, match="leads out"):
        workspace.directory("top/", create=True)


def test_links_inside_the_root_work(workspace: Workspace, root: Path) -> None:
    (root / "file.ipynb").symlink_to("a/c.IPYNB")
    (root / "a" / "up").symlink_to("..")
    (root / "a" / "around").symlink_to("../../root/a")
    (root / "absolute.ipynb").symlink_to(root / "b.ipynb")

    assert workspace.notebook("file.ipynb") == root / "a" / "c.IPYNB"
    assert workspace.notebook("a/up/b.ipynb") == root / "b.ipynb"
    assert workspace.notebook("a/around/c.IPYNB", writing=True) == root / "a" / "c.IPYNB"
    assert workspace.notebook("absolute.ipynb") == root / "b.ipynb"


def test_a_link_cannot_dress_up_another_kind_of_file(workspace: Workspace, root: Path) -> None:
    (root / "kernel.json").write_text("{}")
    (root / "x.ipynb").symlink_to("kernel.json")

    assert "does not end in .ipynb" in refusal(workspace, "x.ipynb", writing=True)


@pytest.mark.case("P11")
def test_a_loop_of_links_is_called_a_loop(workspace: Workspace, root: Path) -> None:
    (root / "x.ipynb").symlink_to("y.ipynb")
    (root / "y.ipynb").symlink_to("x.ipynb")

    assert "loop" in refusal(workspace, "x.ipynb")


def test_a_chain_of_links_may_be_as_long_as_the_system_lets_it(workspace: Workspace, root: Path) -> None:
    target = "b.ipynb"
    for number in range(MAX_LINKS + 1):
        (root / f"{number}.ipynb").symlink_to(target)
        target = f"{number}.ipynb"

    assert workspace.notebook(f"{MAX_LINKS - 1}.ipynb") == root / "b.ipynb"
    assert "too many" in refusal(workspace, f"{MAX_LINKS}.ipynb")


def test_a_link_that_goes_away_meanwhile_is_refused(
    workspace: Workspace, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "x.ipynb").symlink_to("b.ipynb")
    real = os.readlink

    def readlink(path: str | Path) -> str:
        os.unlink(path)
        return real(path)

    monkeypatch.setattr(os, "readlink", readlink)
    assert "changed while it was looked at" in refusal(workspace, "x.ipynb")


def test_a_dangling_link_inside_is_not_found(workspace: Workspace, root: Path) -> None:
    (root / "x.ipynb").symlink_to("a/none.ipynb")

    with pytest.raises(NotFoundError):
        workspace.notebook("x.ipynb")
    assert workspace.notebook("x.ipynb", writing=True) == root / "a" / "none.ipynb"


@pytest.mark.parametrize("kind", ["pipe", "socket", "directory"])
@pytest.mark.parametrize("writing", [False, True])
def test_only_regular_files_are_let_through_and_none_is_opened(
    workspace: Workspace, root: Path, kind: str, writing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = root / "x.ipynb"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        os.mknod(path, stat.S_IFSOCK | 0o600)
    else:
        path.mkdir()
    monkeypatch.setattr(os, "open", lambda *_: pytest.fail("opened"))

    assert kind in refusal(workspace, "x.ipynb", writing=writing)


def test_a_link_to_a_device_is_refused(workspace: Workspace, root: Path) -> None:
    (root / "x.ipynb").symlink_to("/dev/zero")

    refusal(workspace, "x.ipynb")


def test_directories_are_found_and_made(workspace: Workspace, root: Path) -> None:
    assert workspace.directory(".") == root
    assert workspace.directory("a/") == root / "a"
    with pytest.raises(NotFoundError):
        workspace.directory("out/deep")
    assert workspace.directory("out/deep", create=True) == root / "out" / "deep"
    assert (root / "out" / "deep").is_dir()


@pytest.mark.parametrize("path", ["", "b.ipynb", "../out", "/tmp", ".hidden/out", "http://x/out", "a\0", "-out"])
def test_a_directory_follows_the_same_rules(workspace: Workspace, root: Path, path: str) -> None:
    before = sorted(root.rglob("*"))
    with pytest.raises(PathNotAllowedError):
        workspace.directory(path, create=True)
    assert sorted(root.rglob("*")) == before


@pytest.mark.case("P24")
def test_a_directory_that_may_not_be_entered_is_named_as_given() -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name).resolve()
        root.chmod(0o755)
        (root / "closed").mkdir(mode=0o700)
        is_root = os.geteuid() == 0
        workspace = Workspace([root])
        if is_root:
            os.seteuid(65534)
        else:
            (root / "closed").chmod(0)
        try:
            with pytest.raises(PermissionDeniedError, match=r"'closed/x\.ipynb'") as raised:
                workspace.notebook("closed/x.ipynb")
        finally:
            if is_root:
                os.seteuid(0)
            (root / "closed").chmod(0o700)
        assert name not in str(raised.value)


def test_names_are_shown_relative_to_the_first_root(root: Path, tmp_path: Path) -> None:
    second = tmp_path / "second"
    second.mkdir()
    (second / "x.ipynb").write_text("{}")
    workspace = Workspace([root, second])

    assert workspace.display_path(root / "a" / "c.IPYNB") == "a/c.IPYNB"
    assert workspace.display_path(workspace.notebook(str(second / "x.ipynb"))) == str(second / "x.ipynb")
    assert str(second) in refusal(workspace, "../x.ipynb")


def test_one_file_is_recognised_under_two_names(workspace: Workspace, root: Path) -> None:
    (root / "hard.ipynb").hardlink_to(root / "b.ipynb")
    (root / "soft.ipynb").symlink_to("b.ipynb")

    assert workspace.same_file(root / "b.ipynb", root / "hard.ipynb")
    assert workspace.same_file(root / "b.ipynb", workspace.notebook("soft.ipynb"))
    assert not workspace.same_file(root / "b.ipynb", root / "a" / "c.IPYNB")
    assert not workspace.same_file(root / "b.ipynb", root / "none.ipynb")


def test_a_workspace_needs_roots_that_exist(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="root"):
        Workspace([])
    with pytest.raises(FileNotFoundError):
        Workspace([tmp_path / "none"])
    with pytest.raises(NotADirectoryError):
        Workspace([tmp_path / "file"])


@given(path=st.text())
@examples(300)
def test_text_of_any_kind_gets_an_answer_of_ours(any_workspace: Workspace, path: str) -> None:
    try:
        found = any_workspace.notebook(path, writing=True)
    except ServerError:
        return
    assert found.is_relative_to(any_workspace.roots[0])
