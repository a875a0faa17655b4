"""Widgets in runs: the notebook is as papermill leaves it, and a cell keeps its own outputs."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import nbformat
import pytest
from by_papermill import all_by_papermill
from conftest import Connect
from helpers import Json, call, cell, read_json, stdout_in, write_notebook

from papermill_mcp.core.widget_state import STATE_TYPE, VIEW_TYPE, models_in, shown_in

pytestmark = [pytest.mark.kernel, pytest.mark.case("O02")]

_SLIDER = "import ipywidgets\nslider = ipywidgets.IntSlider(value=3)\ndisplay(slider)"

#: Cells by subject. Each begins a notebook of its own.
_CELLS = {
    "boxes": ["import ipywidgets as w\nw.VBox([w.Text('a'), w.HBox([w.Button(description='b'), w.Checkbox(True)])])"],
    "output": [
        "import ipywidgets as w\nfrom IPython.display import HTML, clear_output\nout = w.Output()\nprint('before')\n"
        "display(out)\nwith out:\n    print('x')\n    display(HTML('<b>q</b>'))\n    1 / 0\nprint('after')",
        "print([entry['output_type'] for entry in out.outputs])",
        "with out:\n    clear_output(wait=True)\n    print('second')",
        "print(len(out.outputs))",
    ],
    "nested": [
        "import ipywidgets as w\na, b = w.Output(), w.Output()\nwith a:\n    print('1')\n"
        "    with b:\n        print('2')\n    print('3')\ndisplay(a, b)\nprint('cell')"
    ],
    "interact": ["import ipywidgets as w\nprint('rows')\n@w.interact(x=(0, 5))\ndef f(x=2):\n    print('x is', x)"],
    "closed": [
        "import ipywidgets as w\ns = w.IntSlider()\ndisplay(s)\ns.close()",
        "t = w.Text('k')\ndisplay(t)\nt.value = 'new'",
    ],
    "linked": [
        "import ipywidgets as w\na, b = w.IntSlider(), w.IntSlider()\n"
        "w.jslink((a, 'value'), (b, 'value'))\ndisplay(a, b)"
    ],
    "binary": ["import ipywidgets as w\nw.Image(value=b'\\x89PNG 1234', format='png')"],
    "bars": ["from tqdm.notebook import tqdm\nfor _ in tqdm(range(5), bar_format='{l_bar}{bar}'):\n    pass"],
    "none": ["print(1)"],
}


def _with_state(path: Path, models: Json) -> None:
    notebook = read_json(path)
    notebook["metadata"]["widgets"] = {STATE_TYPE: {"state": models, "version_major": 2, "version_minor": 0}}
    path.write_text(json.dumps(notebook))


def _views(notebook: Json) -> list[str]:
    outputs = [output for entry in notebook["cells"] for output in entry.get("outputs", [])]
    return [view for output in outputs for view in shown_in([output])]


def _plain(notebook: Json) -> tuple[list[Any], list[Any], list[str]]:
    """Outputs, the models that they show with all that those refer to, and the kinds of the other models.

    Ids are replaced by numbers in the order in which they are met.
    """
    models = models_in(notebook["metadata"])
    met: dict[str, str] = {}

    def meet(value: Any) -> None:
        if isinstance(value, str):
            model_id = value.removeprefix("IPY_MODEL_")
            if model_id in models and model_id not in met:
                met[model_id] = f"#{len(met)}"
                meet(models[model_id]["state"])
        elif isinstance(value, list | dict):
            for item in sorted(value.items()) if isinstance(value, dict) else value:
                meet(item[1] if isinstance(item, tuple) else item)

    outputs = [entry["outputs"] for entry in notebook["cells"]]
    meet(outputs)
    text = json.dumps([outputs, [models[model_id] for model_id in met]], sort_keys=True)
    for model_id, name in met.items():
        text = text.replace(model_id, name)
    found = json.loads(text)
    for output in (output for of_cell in found[0] for output in of_cell):
        output.pop("traceback", None)
    return found[0], found[1], sorted(model["model_name"] for key, model in models.items() if key not in met)


@pytest.mark.slow
async def test_widgets_are_saved_as_papermill_saves_them(client: Connect, workspace: Path) -> None:
    (workspace / "theirs").mkdir()
    for name, cells in _CELLS.items():
        _with_state(write_notebook(workspace / f"{name}.ipynb", cells), {})
        shutil.copy(workspace / f"{name}.ipynb", workspace / "theirs")  # papermill reads while ours are run in place
    theirs = workspace / "theirs"
    jobs = [(theirs / f"{name}.ipynb", theirs / f"papermill-{name}.ipynb") for name in _CELLS]
    papermill = asyncio.create_task(all_by_papermill(jobs, kernel_name="python3"))
    async with client() as c:
        for name in _CELLS:
            source, output = f"{name}.ipynb", f"output-{name}.ipynb"
            await call(c, "execute_notebook_papermill", input_path=source, output_path=output, wait=20)
            await call(c, "execute_notebook", path=source, wait=20)
    assert await papermill == ["ok"] * len(_CELLS)

    for name in _CELLS:
        in_place = read_json(workspace / f"{name}.ipynb")
        ours = read_json(workspace / f"output-{name}.ipynb")
        by_papermill = read_json(theirs / f"papermill-{name}.ipynb")
        assert _plain(ours) == _plain(by_papermill), name
        assert _plain(in_place)[1:] == _plain(by_papermill)[1:], name
        assert set(_views(ours)) <= models_in(ours["metadata"]).keys(), name
        nbformat.validate(nbformat.from_dict(ours))
    assert "widgets" not in read_json(workspace / "none.ipynb")["metadata"]


async def test_states_follow_the_outputs_of_a_notebook(client: Connect, workspace: Path) -> None:
    """Stale states go, those that other cells of the kernel show stay, and a cell that runs again drops its own."""
    path = write_notebook(
        workspace / "a.ipynb", [_SLIDER, "text = ipywidgets.Text('t')\ndisplay(text)", "slider.value = 8"]
    )
    _with_state(path, {"stale": {"model_name": "X", "model_module": "m", "model_module_version": "1", "state": {}}})
    async with client() as c:
        await call(c, "execute_notebook", path="a.ipynb")
        first = read_json(path)
        await call(c, "execute_notebook_cell", path="a.ipynb", index=1)
        second = read_json(path)

    (slider, text), (_, again) = _views(first), _views(second)
    assert "stale" not in models_in(first["metadata"])
    assert models_in(first["metadata"])[slider]["state"]["value"] == 8
    assert {slider, again} <= models_in(second["metadata"]).keys()
    assert text not in models_in(second["metadata"])


async def test_another_kernel_leaves_the_states_that_other_cells_show(client: Connect, workspace: Path) -> None:
    path = write_notebook(workspace / "a.ipynb", [_SLIDER, "print(1)"])
    async with client() as c:
        first = await call(c, "execute_notebook", path="a.ipynb")
        before = read_json(path)
        await call(c, "restart_kernel", kernel_id=first["kernel_id"])
        await call(c, "execute_notebook_cell", path="a.ipynb", index=1)
        kept = read_json(path)["metadata"]["widgets"]
        await call(c, "execute_cell", kernel_id=first["kernel_id"], code="import ipywidgets")
        notebook = read_json(path)
        notebook["cells"][0]["source"] = "print('no widget')"
        path.write_text(json.dumps(notebook))
        await call(c, "execute_notebook_cell", path="a.ipynb", index=0)

    assert kept == before["metadata"]["widgets"]
    assert "widgets" not in read_json(path)["metadata"]


async def test_a_save_leaves_the_metadata_of_others(client: Connect, workspace: Path) -> None:
    path = write_notebook(
        workspace / "a.ipynb", [_SLIDER, "import pathlib\npathlib.Path('go').touch()\nimport time\ntime.sleep(1)"]
    )
    async with client() as c:
        run = asyncio.create_task(call(c, "execute_notebook", path="a.ipynb"))
        async with asyncio.timeout(20):
            while not (workspace / "go").exists():
                await asyncio.sleep(0.01)
        notebook = read_json(path)
        notebook["metadata"]["own"] = {"of": "another program"}
        path.write_text(json.dumps(notebook))
        await run

    metadata = read_json(path)["metadata"]
    assert metadata["own"] == {"of": "another program"}
    assert models_in(metadata)


async def test_replies_show_widgets_as_text(client: Connect, workspace: Path) -> None:
    cells = [
        "import ipywidgets\nfrom IPython.display import clear_output\nprint('step 1')\nout = ipywidgets.Output()\n"
        "display(out)\nwith out:\n    print('old')\n    clear_output(wait=True)\n    print('epoch 2')",
        "bar = ipywidgets.IntProgress(max=4)\ndisplay(bar)\nbar.value = 4",
    ]
    write_notebook(workspace / "a.ipynb", cells)
    async with client() as c:
        run = await call(c, "execute_notebook", path="a.ipynb")
        read = await call(c, "read_notebook", path="a.ipynb", outputs="full")
        code = await call(c, "execute_cell", kernel_id=run["kernel_id"], code="display(out)")

    shown = [[output["text"].strip() for output in row["outputs"]] for row in run["results"]]
    assert shown == [["step 1", "epoch 2"], ["|██████████| 4/4"]]
    assert [[output["text"].strip() for output in row["outputs"]] for row in read["cells"]] == shown
    assert code["outputs"][0]["text"].strip() == "epoch 2"


async def test_the_file_keeps_the_outputs_of_the_cell_and_its_views(client: Connect, workspace: Path) -> None:
    path = write_notebook(workspace / "a.ipynb", _CELLS["output"])
    async with client() as c:
        run = await call(c, "execute_notebook", path="a.ipynb")

    saved = read_json(path)
    assert run["status"] == "ok"
    assert stdout_in(saved["cells"][0]) == "before\nafter\n"
    assert stdout_in(saved["cells"][1]) == "['stream', 'display_data', 'error']\n"
    (view,) = _views(saved)
    assert saved["cells"][0]["outputs"][1]["data"][VIEW_TYPE]["model_id"] == view
    assert [output["text"] for output in models_in(saved["metadata"])[view]["state"]["outputs"]] == ["second\n"]


async def test_states_that_are_too_large_are_left_out_and_counted(client: Connect, workspace: Path) -> None:
    cells = [
        "import ipywidgets\na = ipywidgets.Text('small')\nb = ipywidgets.Image(value=bytes(30_000_000))\ndisplay(a, b)"
    ]
    path = write_notebook(workspace / "a.ipynb", [cell(source) for source in cells])
    async with client() as c:
        run = await call(c, "execute_notebook", path="a.ipynb")

    small, large = _views(read_json(path))
    assert small in models_in(read_json(path)["metadata"])
    assert large not in models_in(read_json(path)["metadata"])
    assert any("1 widget " in note for note in run["notes"])


async def test_a_run_that_goes_on_in_its_output_keeps_the_states_there(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "a.ipynb", [_SLIDER, "text = ipywidgets.Text('t')\ndisplay(text)\n1 / zero", "zero = 1"])
    async with client() as c:
        failed = await call(
            c, "execute_notebook_papermill", input_path="a.ipynb", output_path="out.ipynb", keep_kernel=True
        )
        first = read_json(workspace / "out.ipynb")
        await call(c, "execute_cell", kernel_id=failed["kernel_id"], code="zero = 2")
        done = await call(c, "execute_notebook", path="out.ipynb", cells="3-")

    last = read_json(workspace / "out.ipynb")
    assert (failed["status"], done["status"]) == ("error", "ok")
    for notebook, count in ((first, 2), (last, 2)):
        assert len(_views(notebook)) == count
        assert set(_views(notebook)) <= models_in(notebook["metadata"]).keys()
    assert _views(first)[0] == _views(last)[0]
    assert _views(first)[1] not in models_in(last["metadata"])
