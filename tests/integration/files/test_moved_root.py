"""A root that becomes a symbolic link while the server runs: no tool starts anything in the new place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import Connect
from helpers import Json, call, refused, text_of, write_notebook

pytestmark = pytest.mark.kernel


def swap(root: Path) -> Path:
    """Put a link to another directory in the place of a root. Returns that directory."""
    other = root.with_name("elsewhere")
    root.rename(other)
    root.symlink_to(other)
    return other


@pytest.mark.case("W08")
@pytest.mark.parametrize("moved", ["the root", "a directory above it"])
async def test_nothing_is_started_in_a_root_that_became_a_link(moved: str, client: Connect, tmp_path: Path) -> None:
    root = tmp_path / "above" / "root"
    (root / "below").mkdir(parents=True)
    write_notebook(root / "a.ipynb", ["open('ran', 'w').close()"])
    calls: list[tuple[str, Json]] = [
        ("start_kernel", {}),
        ("start_kernel", {"cwd": "."}),
        ("start_kernel", {"cwd": "below"}),
        ("start_kernel", {"cwd": str(root)}),
        ("execute_notebook", {"path": "a.ipynb"}),
        ("execute_notebook_papermill", {"input_path": "a.ipynb"}),
        ("execute_notebook_papermill", {"input_path": "a.ipynb", "output_path": "out.ipynb"}),
        ("execute_notebook_batch", {"input_path": "a.ipynb", "grid": {"n": [1]}}),
        ("start_jupyter_server", {"root_directory": "."}),
        ("list_notebook_files", {}),
        ("read_notebook", {"path": "a.ipynb"}),
        ("create_notebook", {"path": "b.ipynb"}),
    ]
    async with client(roots=[root]) as c:
        kernel_id = (await call(c, "start_kernel"))["kernel_id"]
        other = swap(root if moved == "the root" else root.parent)
        for tool, arguments in calls:
            message = await refused(c, tool, **arguments)
            assert message.startswith("PATH_NOT_ALLOWED"), (tool, arguments, message)
        assert (await refused(c, "restart_kernel", kernel_id=kernel_id)).startswith("PATH_NOT_ALLOWED")
        kernels = await call(c, "list_kernels")
        assert [kernel["kernel_id"] for kernel in kernels["active"]] == [kernel_id]

        place = root if moved == "a directory above it" else other
        real = place.resolve()
        assert sorted(path.name for path in real.iterdir()) == ["a.ipynb", "below"]

        (root if moved == "the root" else root.parent).unlink()
        other.rename(root if moved == "the root" else root.parent)
        result: Any = await c.call_tool("start_kernel", {})
        assert not result.is_error, text_of(result)
