"""Runs of whole notebooks: by Papermill into an output, and in place. Papermill itself is the measure of the output."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
import papermill
import pytest
from by_papermill import run_by_papermill
from conftest import AddKernelspec, Connect, StartRaw
from helpers import (
    Json,
    call,
    cell,
    digest,
    joined,
    read_json,
    refused,
    stdout_in,
    until,
    waiting_code,
    write_notebook,
)
from mcp import Client

pytestmark = pytest.mark.kernel

#: Waits for a file named `go` in the workspace, which the test makes.
_WAIT = waiting_code()


async def run(client: Client, path: str = "in.ipynb", **arguments: Any) -> Json:
    """A run that must begin. Its output is `out.ipynb`."""
    arguments = {"output_path": "out.ipynb", **arguments}
    return await call(client, "execute_notebook_papermill", input_path=path, **arguments)


def statuses(notebook: Json) -> list[str]:
    return [entry["metadata"]["papermill"].get("status", "none") for entry in notebook["cells"]]


def sources(notebook: Json) -> list[str]:
    return [joined(entry["source"]) for entry in notebook["cells"]]


# The output is as papermill writes it

_TIMES = {"start_time", "end_time", "duration"}


def normalised(notebook: Json) -> Json:
    """A notebook without what differs from run to run: ids of new cells, and times. What is there must be there."""
    made = copy.deepcopy(notebook)
    made["metadata"].get("papermill", {}).pop("environment", None)  # papermill records no packages
    for entry in made["cells"]:
        entry["id"] = entry["id"] if re.fullmatch(r"c\d{1,2}", entry["id"]) else "new"
        entry["source"] = joined(entry["source"])
        timed = entry["metadata"].get("papermill", {})
        for key in _TIMES & timed.keys():
            timed[key] = timed[key] is not None
        if "execution" in entry["metadata"]:
            entry["metadata"]["execution"] = sorted(entry["metadata"]["execution"])
        outputs: list[Json] = []
        for output in entry.get("outputs", []):
            if "text" in output:
                output["text"] = joined(output["text"])
            if "traceback" in output:
                output["traceback"] = [re.sub(r"\d+", "0", line) for line in output["traceback"]]
            for mime, value in output.get("data", {}).items():
                output["data"][mime] = joined(value) if isinstance(value, list) else value
            # Papermill keeps each message as an output of its own.
            if outputs and output["output_type"] == "stream" and outputs[-1].get("name") == output["name"]:
                outputs[-1]["text"] += output["text"]
            else:
                outputs.append(output)
        if "outputs" in entry:
            entry["outputs"] = outputs
    run = made["metadata"]["papermill"]
    for key in _TIMES & run.keys():
        run[key] = run[key] is not None
    return made


async def by_papermill(path: Path, **options: Any) -> Json:
    """What papermill's own execution writes to `out.ipynb`. The file is gone afterwards."""
    output = path.with_name("out.ipynb")
    await run_by_papermill(path, output, request_save_on_cell_execute=False, **options)
    notebook: Json = read_json(output)
    output.unlink()
    return notebook


_DEFAULTS = cell("alpha = 1\nname = 'a'", tags=["parameters"])

_PASSING: list[Json | str] = [
    cell("# Title", "markdown"),
    _DEFAULTS,
    "print('out')\nimport sys; print('err', file=sys.stderr)\nalpha * 2",
    cell("raw text", "raw"),
    "",
    "from IPython.display import display, HTML\ndisplay(HTML('<b>x</b>'))\ndisplay({'a': 1})",
    cell("1/0", tags=["skip-execution"]),
    {**cell("name", tags=["remove_input", "other"]), "metadata": {"tags": ["a"], "jupyter": {"x": 1}, "mine": [1]}},
    cell("The end", "markdown"),
]
_FAILING: list[Json | str] = [
    cell("# Title", "markdown"),
    _DEFAULTS,
    "print('before')\n1/0",
    cell("between", "markdown"),
    "print('never')",
    "",
    cell("The end", "markdown"),
]


@pytest.mark.parametrize(
    ("cells", "options"),
    [
        pytest.param(_PASSING, {"parameters": {"alpha": 5, "name": "é\n\"'"}}, id="passing"),
        pytest.param(_PASSING, {}, id="without parameters", marks=pytest.mark.slow),
        pytest.param(
            _PASSING, {"report_mode": True, "parameters": {"alpha": 2}}, id="report mode", marks=pytest.mark.slow
        ),
        pytest.param(_FAILING, {"parameters": {"alpha": 5}}, id="failing"),
        pytest.param(
            ["1", "import sys; sys.exit()", "print('never')", cell("x", "markdown")],
            {},
            id="sys.exit()",
            marks=pytest.mark.slow,
        ),
        pytest.param(["1", "import sys; sys.exit(0)", "print('never')"], {}, id="sys.exit(0)", marks=pytest.mark.slow),
        pytest.param(["1", "import sys; sys.exit(3)", "print('never')"], {}, id="sys.exit(3)", marks=pytest.mark.slow),
        pytest.param([cell("only text", "markdown"), "", "2"], {}, id="an empty cell", marks=pytest.mark.slow),
        pytest.param([cell("# T", "markdown"), cell("text", "raw")], {}, id="no code", marks=pytest.mark.slow),
        pytest.param([], {}, id="no cells", marks=pytest.mark.slow),
        pytest.param(
            ["print(alpha)"],
            {"parameters": {"alpha": [1, {"a": None, "é": "$x"}]}},
            id="no parameters cell",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            [_DEFAULTS, cell("alpha = 9", tags=["injected-parameters"]), "print(alpha)"],
            {"parameters": {"alpha": 2}},
            id="injected before",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            [_DEFAULTS, "import os; os.write(2, b'x'); raise KeyError('é')"],
            {"report_mode": True, "parameters": {"name": "b"}},
            id="failing in report mode",
            marks=pytest.mark.slow,
        ),
        pytest.param(_FAILING, {"language": "python", "kernel_name": "python3"}, id="language", marks=pytest.mark.slow),
    ],
)
async def test_the_output_is_what_papermill_writes(
    cells: Sequence[Json | str], options: dict[str, Any], client: Connect, workspace: Path
) -> None:
    path = write_notebook(workspace / "in.ipynb", cells)
    before = digest(path)
    expected = await by_papermill(path, **options)

    async with client() as connected:
        facts = await run(connected, strict_parameters=False, **options)

    output = read_json(workspace / "out.ipynb")
    same(output, expected)
    assert digest(path) == before
    nbformat.validate(output)
    assert facts["input_path"] == "in.ipynb"
    assert facts["output_path"] == "out.ipynb"
    reported = output["metadata"]["papermill"]
    assert (reported["input_path"], reported["output_path"]) == (str(path), str(workspace / "out.ipynb"))
    assert (reported["version"], reported["environment_variables"]) == (papermill.__version__, {})


_OLD_CELL = {"cell_type": "code", "language": "python", "metadata": {}, "collapsed": False, "prompt_number": 3}
_VERSION_3 = [
    {"cell_type": "heading", "level": 2, "metadata": {}, "source": ["Old"]},
    {**_OLD_CELL, "input": ["x = 1\n", "x"], "metadata": {"tags": ["parameters"]}, "outputs": []},
    {"cell_type": "markdown", "metadata": {}, "source": "text"},
    {"cell_type": "raw", "metadata": {}, "source": "raw"},
    {**_OLD_CELL, "input": "x", "outputs": [{"output_type": "pyout", "prompt_number": 3, "text": ["9"]}]},
]


def old_notebook(major: int, minor: int) -> Json:
    """A notebook of an earlier format, without ids and without a kernel."""
    if major == 3:
        sheets = [{"cells": _VERSION_3, "metadata": {}}]
        return {"metadata": {"name": "old"}, "nbformat": 3, "nbformat_minor": minor, "worksheets": sheets}
    cells = [cell("# T", "markdown"), cell("x = 1", tags=["parameters", "mine"]), cell("raw", "raw"), cell("x")]
    cells[3]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": ["old"]}]
    return {"cells": cells, "metadata": {"mine": [1]}, "nbformat": major, "nbformat_minor": minor}


@pytest.mark.case("M01")
@pytest.mark.parametrize("version", [(3, 0), pytest.param((4, 0), marks=pytest.mark.slow), (4, 4)])
async def test_an_earlier_format_is_run_as_papermill_runs_it(
    version: tuple[int, int], client: Connect, workspace: Path
) -> None:
    """The output is of the newest format. It also names the kernel that ran, which the input did not."""
    path = workspace / "in.ipynb"
    path.write_text(json.dumps(old_notebook(*version)))
    before = digest(path)
    options: Json = {"parameters": {"x": 5}, "kernel_name": "python3", "language": "python"}
    expected = await by_papermill(path, **options)

    async with client() as connected:
        facts = await run(connected, **options)

    output = read_json(workspace / "out.ipynb")
    assert facts["status"] == "ok"
    assert output["metadata"].pop("kernelspec")["name"] == "python3"
    for notebook in (output, expected):
        for entry in notebook["cells"]:
            entry["id"] = "new"
    same(output, expected)
    assert digest(path) == before


@pytest.mark.slow
async def test_another_language_is_run_as_papermill_runs_it(
    bash_kernelspec: str, client: Connect, workspace: Path
) -> None:
    cells: list[Json | str] = [cell("x=1", tags=["parameters"]), "echo $x", "exit_code_of_nothing"]
    path = write_notebook(workspace / "in.ipynb", cells, kernel=bash_kernelspec, language="bash")
    options: Json = {"parameters": {"x": 5}}
    expected = await by_papermill(path, **options)

    async with client() as connected:
        await run(connected, strict_parameters=False, **options)

    same(read_json(workspace / "out.ipynb"), expected)


@pytest.mark.case("M02")
async def test_an_output_names_the_kernel_that_ran(kernelspec: AddKernelspec, client: Connect, workspace: Path) -> None:
    """So the run is taken up in the same kernel, and a batch of outputs runs in it, too."""
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernelspec("other", argv, display_name="Another", env={"OTHER_KERNEL": "yes"})
    source = "import os; print(os.environ.get('OTHER_KERNEL'))"
    write_notebook(workspace / "in.ipynb", [source, "1/0"])
    async with client() as connected:
        facts = await run(connected, kernel_name="other")
        assert (facts["status"], facts["kernel_name"]) == ("error", "other")
        output = read_json(workspace / "out.ipynb")
        again = await call(connected, "execute_notebook", path="out.ipynb", cells="1")
        batch = await call(connected, "execute_notebook_batch", input_path="out.ipynb")

    assert output["metadata"]["kernelspec"] == {"display_name": "Another", "language": "python", "name": "other"}
    assert again["kernel_name"] == batch["kernel_name"] == "other"
    assert stdout_in(read_json(workspace / "out.ipynb")["cells"][0]) == "yes\n"
    assert stdout_in(read_json(workspace / batch["runs"][0]["output_path"])["cells"][1]) == "yes\n"


@pytest.mark.case("M03")
@pytest.mark.parametrize("spares", [0, 1])
async def test_the_code_knows_the_paths_of_its_run(spares: int, client: Connect, workspace: Path) -> None:
    """The names are those of `papermill --inject-paths`. Each run of a batch has its own output."""
    source = "import os\nfor which in 'INPUT', 'OUTPUT':\n    print(os.environ[f'PAPERMILL_{which}_PATH'])"
    write_notebook(workspace / "in it's.ipynb", [cell("x = 1", tags=["parameters"]), source])
    async with client(prewarm_kernels=spares) as connected:
        await run(connected, "in it's.ipynb", output_path="out.ipynb")
        batch = await call(
            connected, "execute_notebook_batch", input_path="in it's.ipynb", parameters=[{"x": 2}, {"x": 3}]
        )

    outputs = [workspace / "out.ipynb", *(workspace / row["output_path"] for row in batch["runs"])]
    for output in outputs:
        assert stdout_in(read_json(output)["cells"][-1]).splitlines() == [str(workspace / "in it's.ipynb"), str(output)]


def same(ours: Json, theirs: Json) -> None:
    """Two outputs are equal but for what differs from run to run."""
    ours, theirs = normalised(ours), normalised(theirs)
    for mine, other in zip(ours["cells"], theirs["cells"], strict=True):
        assert mine == other
    assert ours == theirs


@pytest.mark.slow
@pytest.mark.parametrize("parameters", [{}, {"alpha": 6}])
async def test_an_output_that_is_run_again_becomes_what_papermill_makes_of_it(
    parameters: Json, client: Connect, workspace: Path
) -> None:
    """The markers of the first run go, its injected cell is replaced, and papermill's old metadata are kept or not."""
    first = write_notebook(workspace / "in.ipynb", _FAILING)
    made = await by_papermill(first, parameters={"alpha": 5})
    assert sum("papermill-error-cell-tag" in entry["metadata"]["tags"] for entry in made["cells"]) == 2
    made["metadata"]["papermill"]["version"] = "1.0"
    again = workspace / "again.ipynb"
    again.write_text(json.dumps(made))
    expected = await by_papermill(again, parameters=parameters)

    async with client() as connected:
        await run(connected, "again.ipynb", parameters=parameters)

    output = read_json(workspace / "out.ipynb")
    same(output, expected)
    assert output["metadata"]["papermill"]["parameters"] == {"alpha": 5} | parameters


@pytest.mark.slow
async def test_an_expected_exception_is_no_failure_which_papermill_calls_one(client: Connect, workspace: Path) -> None:
    """Papermill goes on after it, as tagged, and then puts the markers of a failed run in. We leave them out."""
    cells: list[Json | str] = ["1", cell("raise ValueError('allowed')", tags=["raises-exception"]), "print('after')"]
    path = write_notebook(workspace / "in.ipynb", cells)
    expected = await by_papermill(path)
    marked = [entry for entry in expected["cells"] if "papermill-error-cell-tag" in entry["metadata"]["tags"]]
    assert len(marked) == 2

    async with client() as connected:
        facts = await run(connected)

    assert (facts["status"], facts["cells_failed"]) == ("ok", 0)
    expected["cells"] = [entry for entry in expected["cells"] if entry not in marked]
    same(read_json(workspace / "out.ipynb"), expected)


@pytest.mark.slow
async def test_a_failure_after_an_expected_exception_is_marked_where_papermill_marks_it(
    client: Connect, workspace: Path
) -> None:
    path = write_notebook(workspace / "in.ipynb", [cell("1/0", tags=["raises-exception"]), "undefined", "never"])
    expected = await by_papermill(path)

    async with client() as connected:
        facts = await run(connected)

    assert facts["failed_cell"]["index"] == 1
    same(read_json(workspace / "out.ipynb"), expected)


async def test_a_cell_that_may_raise_does_not_end_the_run(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "in.ipynb", [cell("1/0", tags=["raises-exception"]), "print('after')"])
    async with client() as connected:
        facts = await run(connected)

    assert (facts["status"], facts["cells_done"], facts["cells_failed"]) == ("ok", 2, 0)
    assert stdout_in(read_json(workspace / "out.ipynb")["cells"][1]) == "after\n"


@pytest.mark.slow
async def test_the_output_can_be_run_again(client: Connect, workspace: Path) -> None:
    """Markers and injected parameters of the first run are replaced, not added to."""
    write_notebook(workspace / "in.ipynb", _FAILING)
    async with client() as connected:
        await run(connected, parameters={"alpha": 5})
        facts = await run(connected, "out.ipynb", output_path="again.ipynb", parameters={"alpha": 6})

    first, second = read_json(workspace / "out.ipynb"), read_json(workspace / "again.ipynb")
    assert len(first["cells"]) == len(second["cells"])
    assert "alpha = 6" in sources(second)[3]
    assert facts["status"] == "error"


# Paths


@pytest.mark.parametrize(
    "at_once",
    [
        False,
        True,
    ],
)
async def test_without_an_output_path_the_output_has_a_name_with_the_time(
    at_once: bool, client: Connect, workspace: Path
) -> None:
    write_notebook(workspace / "in.ipynb", ["1"])
    made: list[Json] = []

    async def run_into_a_new_file() -> None:
        made.append(await run(connected, output_path=None))

    async with client(output_directory=Path("results")) as connected:
        if at_once:
            ended = await asyncio.gather(*(run_into_a_new_file() for _ in range(4)), return_exceptions=True)
        else:
            await run_into_a_new_file()
            await run_into_a_new_file()
            ended = []

    assert not any(ended)
    assert len({facts["output_path"] for facts in made}) == len(made) >= 2
    for facts in made:
        assert re.fullmatch(r"results/in-\d{8}-\d{6}(-\d+)?\.ipynb", facts["output_path"])
        assert statuses(read_json(workspace / facts["output_path"])) == ["completed"]


@pytest.mark.case("B18")
async def test_an_output_that_exists_is_replaced_only_when_asked(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "in.ipynb", ["print('new')"])
    old = write_notebook(workspace / "out.ipynb", ["'old'"])
    before = digest(old)
    async with client() as connected:
        message = await refused(connected, "execute_notebook_papermill", input_path="in.ipynb", output_path="out.ipynb")
        assert message.startswith("ALREADY_EXISTS: ")
        assert "overwrite=true" in message
        assert digest(old) == before

        await run(connected, overwrite=True)

    assert stdout_in(read_json(old)["cells"][0]) == "new\n"


@pytest.mark.case("B18")
async def test_what_is_no_notebook_is_not_replaced_even_when_asked(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "in.ipynb", ["1"])
    (workspace / "out.ipynb").write_text("my diary")
    async with client() as connected:
        message = await refused(
            connected, "execute_notebook_papermill", input_path="in.ipynb", output_path="out.ipynb", overwrite=True
        )

    assert message.startswith("NOT_A_NOTEBOOK: ")
    assert (workspace / "out.ipynb").read_text() == "my diary"


@pytest.mark.parametrize("spelling", ["in.ipynb", "sub/../in.ipynb", "link.ipynb", "hard.ipynb", "absolute"])
async def test_the_input_is_never_the_output(spelling: str, client: Connect, workspace: Path) -> None:
    path = write_notebook(workspace / "in.ipynb", ["1"])
    (workspace / "sub").mkdir()
    (workspace / "link.ipynb").symlink_to("in.ipynb")
    os.link(path, workspace / "hard.ipynb")
    before = digest(path)
    async with client() as connected:
        message = await refused(
            connected,
            "execute_notebook_papermill",
            input_path="in.ipynb",
            output_path=str(path) if spelling == "absolute" else spelling,
            overwrite=True,
        )

    assert message.startswith("INVALID_ARGUMENT: ")
    assert "same file" in message
    assert digest(path) == before


async def test_the_working_directory_is_that_of_the_notebook_and_ours_stays(client: Connect, workspace: Path) -> None:
    (workspace / "sub").mkdir()
    write_notebook(workspace / "sub" / "in.ipynb", ["import os\nprint(os.getcwd())\nos.chdir('/')"])
    before = Path.cwd()
    async with client() as connected:
        await run(connected, "sub/in.ipynb")

    assert stdout_in(read_json(workspace / "out.ipynb")["cells"][0]) == f"{workspace / 'sub'}\n"
    assert Path.cwd() == before


@pytest.mark.parametrize(
    ("directory", "name"),
    [("plain", "{x}.ipynb"), ("{pm}", "{0}-{}.ipynb"), ("a{", "}{alpha!r:>5}.ipynb"), ("$HOME", "~%20%s.ipynb")],
)
async def test_braces_and_other_signs_in_paths_are_only_signs(
    directory: str, name: str, client: Connect, workspace: Path
) -> None:
    """Papermill fills braces in a path in with parameters."""
    (workspace / directory).mkdir()
    path = write_notebook(workspace / directory / name, [_DEFAULTS, "print(alpha)"])
    async with client() as connected:
        facts = await run(
            connected, f"{directory}/{name}", output_path=f"{directory}/out {name}", parameters={"alpha": 7}
        )

    output = workspace / directory / f"out {name}"
    assert stdout_in(read_json(output)["cells"][2]) == "7\n"
    assert facts["output_path"] == f"{directory}/out {name}"
    reported = read_json(output)["metadata"]["papermill"]
    assert (reported["input_path"], reported["output_path"]) == (str(path), str(output))


@pytest.mark.parametrize(
    "path", ["-", "-.ipynb", "http://localhost/in.ipynb", "s3://bucket/in.ipynb", "gs://a/b.ipynb"]
)
@pytest.mark.parametrize("argument", ["input_path", "output_path"])
async def test_what_papermill_takes_for_a_stream_or_a_url_is_refused(
    argument: str, path: str, client: Connect, workspace: Path
) -> None:
    write_notebook(workspace / "in.ipynb", ["1"])
    paths = {"input_path": "in.ipynb", "output_path": "out.ipynb", argument: path}
    async with client() as connected:
        message = await refused(connected, "execute_notebook_papermill", **paths)

    assert message.startswith("PATH_NOT_ALLOWED: ")
    assert sorted(entry.name for entry in workspace.iterdir()) == ["in.ipynb"]


# Parameters


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
@pytest.mark.slow
async def test_values_arrive_in_a_bash_kernel(
    locale: str, client: Connect, workspace: Path, kernelspec: AddKernelspec
) -> None:
    """The kernel types them into an interactive shell, whose line editor must not take them for commands."""
    pytest.importorskip("bash_kernel")
    argv = [sys.executable, "-m", "bash_kernel", "-f", "{connection_file}"]
    kernelspec("bash", argv, language="bash", env={"PS1": "$", "LC_ALL": locale, "HISTFILE": ""})
    texts = [
        "", "a b", "it's", "$(touch injected)", "`touch injected`", "\"; touch injected; \"", "'; touch injected; '",
        "a\nb\n", "\ttab\t\t", "\x03\x04\x15\x1a\x1b[A\x7f", "a\rb", "!x !! !-1", "a\n!x\n'!y", "é€😀", "\u2028\x85",
        "\\ \\n \\", "-n", "~ * ? {a,b} [a]", "#", "x" * 5000, "NaN",
    ]  # fmt: skip
    values: Json = {f"t{number}": text for number, text in enumerate(texts)}
    values |= {"list": texts, "number": 10**30, "real": 1e100, "flag": True, "nothing": None, "empty": []}
    shown = [f'printf %s "$t{number}" | od -An -v -tx1 | tr -d " \\n"; echo' for number in range(len(texts))]
    shown.append('printf "%s\\0" "${list[@]}" | od -An -v -tx1 | tr -d " \\n"; echo')
    shown.append('echo "$number $real $flag [$nothing] ${#list[@]} ${#empty[@]}"')
    write_notebook(
        workspace / "in.ipynb",
        [cell("\n".join(f"{name}=1" for name in values), tags=["parameters"]), *shown],
        kernel="bash",
        language="bash",
    )
    async with client() as connected:
        facts = await run(connected, parameters=values)
        message = await refused(connected, "execute_notebook_papermill", input_path="in.ipynb", parameters={"a": {}})

    assert facts["status"] == "ok"
    assert "cannot inspect bash" in facts["notes"][0]
    assert "no value for an object" in message
    printed = [stdout_in(entry).strip() for entry in read_json(workspace / "out.ipynb")["cells"][2:]]
    assert printed[: len(texts)] == [text.encode().hex() for text in texts]
    assert printed[-2] == "".join(text + "\0" for text in texts).encode().hex()
    assert printed[-1] == f"{10**30} 1e+100 true [] {len(texts)} 0"
    assert not (workspace / "injected").exists()


async def test_the_language_is_that_of_the_kernel_unless_it_is_said(
    client: Connect, workspace: Path, kernelspec: AddKernelspec
) -> None:
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernelspec("mine", argv, language="mine")
    write_notebook(workspace / "in.ipynb", [_DEFAULTS, "print(alpha)"])
    write_notebook(workspace / "of_mine.ipynb", [_DEFAULTS, "print(alpha)"], kernel="mine", language="mine")
    async with client() as connected:
        for path, options in (("in.ipynb", {"kernel_name": "mine"}), ("of_mine.ipynb", {})):
            message = await refused(
                connected, "execute_notebook_papermill", input_path=path, parameters={"alpha": 5}, **options
            )
            assert message.startswith("INVALID_PARAMETERS: papermill cannot write parameters in 'mine'")
            facts = await run(connected, path, parameters={"alpha": 5}, language="python", overwrite=True, **options)
            assert facts["status"] == "ok"
            assert stdout_in(read_json(workspace / "out.ipynb")["cells"][2]) == "5\n"
        wrong = await refused(
            connected, "execute_notebook_papermill", input_path="in.ipynb", parameters={"alpha": 5}, language="pyton"
        )

    assert "did you mean 'Python'?" in wrong


async def test_numbers_that_are_none_of_json_are_refused(raw_server: StartRaw, workspace: Path) -> None:
    """JSON has no such numbers, but the parser lets them through: some by name, and one that is only too large."""
    write_notebook(workspace / "in.ipynb", [_DEFAULTS])
    async with raw_server() as server:
        for number, token in enumerate((b"NaN", b"-Infinity", b"1e999", b"[1e999]")):
            arguments = {"input_path": "in.ipynb", "output_path": "out.ipynb", "parameters": {"alpha": "@"}}
            request = {
                "jsonrpc": "2.0",
                "id": f"n{number}",
                "method": "tools/call",
                "params": {"name": "execute_notebook_papermill", "arguments": arguments},
            }
            await server.write(json.dumps(request).encode().replace(b'"@"', token) + b"\n")
            await until(lambda: len(server.answers) > 1 + number, seconds=30, what="an answer")  # noqa: B023
            assert "result" not in server.answers[-1]
            assert server.answers[-1]["error"]["code"] in (-32700, -32600)

    assert not (workspace / "out.ipynb").exists()


async def test_parameters_are_checked_before_anything_runs(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "in.ipynb", [_DEFAULTS, "open('ran', 'w')"])
    async with client() as connected:
        for parameters, reported in (
            ({"alhpa": 1}, "did you mean 'alpha'?"),
            ({"alpha": "1"}, "must be a number"),
            ({"alpha": 1, "x; import os": 1}, "'x; import os'"),
        ):
            message = await refused(
                connected,
                "execute_notebook_papermill",
                input_path="in.ipynb",
                output_path="out.ipynb",
                parameters=parameters,
            )
            assert message.startswith("INVALID_PARAMETERS: ")
            assert reported in message
        assert "active: none" in str(await connected.call_tool("list_kernels", {}))

    assert sorted(path.name for path in workspace.iterdir()) == ["in.ipynb"]


async def test_without_a_parameters_cell_values_go_to_the_top_when_not_strict(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "in.ipynb", ["print(alpha)"])
    async with client() as connected:
        message = await refused(connected, "execute_notebook_papermill", input_path="in.ipynb", parameters={"alpha": 5})
        assert "strict_parameters=false" in message
        facts = await run(connected, parameters={"alpha": 5}, strict_parameters=False)

    output = read_json(workspace / "out.ipynb")
    assert facts["status"] == "ok"
    assert "`parameters`" in facts["notes"][0]
    assert output["cells"][0]["metadata"]["tags"] == ["injected-parameters"]
    assert stdout_in(output["cells"][1]) == "5\n"


async def test_values_that_the_notebook_records_are_told(client: Connect, workspace: Path) -> None:
    record = (
        "from IPython.display import display\n"
        "display({'application/papermill.record+json': {'loss': 0.5}}, raw=True)\n"
        "display({'application/scrapbook.scrap.json+json': {'name': 'rows', 'data': [1, 2]}}, raw=True)\n"
        "display({'application/scrapbook.scrap.json+json': {'name': 'rows', 'data': [3]}}, raw=True)\n"
        "scrap = {'name': 'frame', 'data': 'QVJS', 'encoder': 'arrow'}\n"
        "display({'application/scrapbook.scrap.arrow+json': scrap}, raw=True)\n"
        "display({'application/scrapbook.scrap.text+json': {'name': 'long', 'data': 'x' * 5000}}, raw=True)"
    )
    write_notebook(workspace / "in.ipynb", [record])
    async with client() as connected:
        facts = await run(connected)

    loss, rows, frame, long = facts["result"]
    assert loss == {"name": "loss", "value": 0.5}
    assert rows == {"name": "rows", "value": [3]}, "the last value of a name counts"
    assert frame == {"name": "frame", "value": "(arrow data)"}
    assert len(long["value"]) < 1100
    assert long["value"].endswith("… (5002 characters)")


# Failures


async def test_a_cell_that_raises_ends_the_run_and_is_told_in_full(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "in.ipynb", ["x = 1", "print('before')\n1/0", "print('never')"])
    async with client() as connected:
        facts = await run(connected)

    assert facts["status"] == "error"
    assert (facts["cells_total"], facts["cells_done"], facts["cells_failed"]) == (3, 2, 1)
    assert facts["failed_cell"]["index"] == 1
    assert facts["failed_cell"]["source"] == "print('before')\n1/0"
    assert facts["failed_cell"]["error"]["ename"] == "ZeroDivisionError"
    assert "1/0" in facts["failed_cell"]["error"]["traceback"]
    assert "kernel_id" not in facts


async def test_a_run_goes_on_after_an_error_when_asked(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "in.ipynb", ["1/0", "print('after')", "undefined"])
    async with client() as connected:
        facts = await run(connected, continue_on_error=True)

    output = read_json(workspace / "out.ipynb")
    assert facts["status"] == "error"
    assert (facts["cells_done"], facts["cells_failed"]) == (3, 2)
    assert stdout_in(output["cells"][1]) == "after\n"
    assert statuses(output) == ["failed", "completed", "failed"]


async def test_a_kernel_that_is_kept_after_a_failure_has_the_variables(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "in.ipynb", ["x = 42", "1/0"])
    async with client() as connected:
        facts = await run(connected, keep_kernel=True)
        looked = await call(connected, "execute_cell", kernel_id=facts["kernel_id"], code="x")
        passed = await run(connected, "in.ipynb", keep_kernel=False, overwrite=True)

    assert looked["outputs"][0]["text"] == "42"
    assert "kernel_id" not in passed


async def test_a_run_that_failed_is_taken_up_in_its_output_and_ends_as_if_nothing_had_been(
    client: Connect, workspace: Path
) -> None:
    """What ran before the failure does not run again; papermill's metadata and markers tell the state of things."""
    cells: list[Json | str] = [
        cell("# Title", "markdown"),
        cell("alpha = 1", tags=["parameters"]),
        "with open('ran', 'a') as f: f.write('x')\nx = alpha",
        "x / zero",
        cell("between", "markdown"),
        "print(x + missing)",
        "print('end')",
    ]
    write_notebook(workspace / "in.ipynb", cells)
    async with client() as connected:
        failed = await run(connected, parameters={"alpha": 41}, keep_kernel=True)
        assert failed["status"] == "error"
        (advice,) = [note for note in failed["notes"] if "go on from there" in note]
        assert 'execute_notebook, path=out.ipynb, cells="6-"' in advice
        output = read_json(workspace / "out.ipynb")
        assert output["cells"][6]["source"] == "x / zero" or output["cells"][6]["source"] == ["x / zero"]
        looked = await call(connected, "inspect_variables", kernel_id=failed["kernel_id"], pattern="x")
        assert looked["variables"][0]["preview"] == "41"

        await call(connected, "update_cell", path="out.ipynb", index=6, source="missing = 1")
        again = await call(connected, "execute_notebook", path="out.ipynb", cells="6-7")
        assert again["kernel_id"] == failed["kernel_id"], "the kernel that was kept is the notebook's own"
        half = read_json(workspace / "out.ipynb")
        assert [statuses(half)[i] for i in (-1, -2)] == ["pending", "pending"]

        await call(connected, "update_cell", path="out.ipynb", cell_id="c5", source="undefined")
        second = await call(connected, "execute_notebook", path="out.ipynb", cells="c5,c6")
        assert second["status"] == "error"
        twice = read_json(workspace / "out.ipynb")
        await call(connected, "update_cell", path="out.ipynb", cell_id="c5", source="print(x + missing)")
        last = await call(connected, "execute_notebook", path="out.ipynb", cells="c5,c6")
        info = await call(connected, "get_notebook_info", path="out.ipynb")

    markers = [i for i, c in enumerate(twice["cells"]) if "papermill-error-cell-tag" in c["metadata"].get("tags", [])]
    assert markers == [0, [c.get("id") for c in twice["cells"]].index("c5") - 1]
    assert twice["metadata"]["papermill"]["exception"] is True
    assert last["status"] == "ok"
    done = read_json(workspace / "out.ipynb")
    nbformat.validate(done)
    assert set(statuses(done)) == {"completed"}
    assert done["metadata"]["papermill"]["exception"] is None
    assert not [c for c in done["cells"] if "papermill-error-cell-tag" in c["metadata"].get("tags", [])]
    assert len(done["cells"]) == len(cells) + 1
    assert "".join(stdout_in(c) for c in done["cells"] if c["cell_type"] == "code") == "42\nend\n"
    assert (workspace / "ran").read_text() == "x"
    assert info["papermill"]["status"] == "completed", info["papermill"]


@pytest.mark.parametrize("keep", [False, True])
async def test_a_kernel_that_dies_ends_the_run_and_the_output_tells_the_truth(
    client: Connect, workspace: Path, keep: bool
) -> None:
    code = "import os\nprint('last words', flush=True)\nimport time; time.sleep(0.1)\nos._exit(7)"
    write_notebook(workspace / "in.ipynb", ["print('fine')", code, "print('never')", cell("text", "markdown")])
    async with client() as connected:
        facts = await run(connected, keep_kernel=keep)

    output = read_json(workspace / "out.ipynb")
    assert facts["status"] == "died"
    assert "keep_kernel" not in json.dumps(facts["notes"]), "a dead kernel cannot be kept"
    assert "exit code 7" in json.dumps(facts)
    assert facts["failed_cell"]["index"] == 1
    assert statuses(output) == ["completed", "failed", "pending", "pending"]
    assert stdout_in(output["cells"][0]) == "fine\n"
    assert stdout_in(output["cells"][1]) == "last words\n"
    assert output["cells"][1]["outputs"][-1]["output_type"] == "error"
    assert output["cells"][2]["outputs"] == []
    nbformat.validate(output)


async def test_a_cell_that_runs_too_long_ends_the_run_with_its_output_kept(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "in.ipynb", ["1", "print('so far', flush=True)\nwhile True: pass", "print('never')"])
    async with client() as connected:
        began = time.monotonic()
        facts = await run(connected, timeout=0.5)
        assert time.monotonic() - began < 5

    output = read_json(workspace / "out.ipynb")
    assert facts["status"] == "timeout"
    assert stdout_in(output["cells"][1]) == "so far\n"
    assert statuses(output) == ["completed", "failed", "pending"]


async def test_a_run_that_is_cancelled_ends_with_its_output_kept(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "in.ipynb", ["print('first')", _WAIT, "print('never')"])
    async with client() as connected:
        begun = await run(connected, timeout=0, wait=0)
        await until((workspace / "waiting").exists, seconds=10, what="the second cell runs")
        cancelled = await call(connected, "cancel_execution", execution_id=begun["execution_id"])
        assert cancelled["ended"] is True
        assert cancelled["status"] == "interrupted"
        assert "active: none" in str(await connected.call_tool("list_kernels", {}))

    output = read_json(workspace / "out.ipynb")
    assert stdout_in(output["cells"][0]) == "first\n"
    assert stdout_in(output["cells"][1]) == "waiting\n"
    assert output["cells"][2]["outputs"] == []
    assert statuses(output)[2] == "pending"


async def test_two_runs_at_once_do_not_mix(client: Connect, workspace: Path) -> None:
    (workspace / "one").mkdir()
    (workspace / "two").mkdir()
    for name in ("one", "two"):
        loop = f"for i in range(20):\n    print('{name}', flush=True); time.sleep(0.01)"
        code = f"import os, time\n{loop}\nprint(os.getcwd())"
        write_notebook(workspace / name / "in.ipynb", ["x = '" + name + "'", code, "print(x)"])
    async with client() as connected:
        await asyncio.gather(
            *(run(connected, f"{name}/in.ipynb", output_path=f"{name}/out.ipynb") for name in ("one", "two"))
        )

    for name in ("one", "two"):
        cells = read_json(workspace / name / "out.ipynb")["cells"]
        assert stdout_in(cells[1]) == f"{name}\n" * 20 + f"{workspace / name}\n"
        assert stdout_in(cells[2]) == f"{name}\n"


async def test_an_output_that_is_being_written_is_busy(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "in.ipynb", [_WAIT])
    async with client() as connected:
        begun = await run(connected, timeout=0, wait=0)
        message = await refused(
            connected, "execute_notebook_papermill", input_path="in.ipynb", output_path="out.ipynb", overwrite=True
        )
        assert message.startswith("BUSY: ")
        (workspace / "go").touch()
        last = await call(connected, "get_execution", execution_id=begun["execution_id"], wait=10)

    assert last["status"] == "ok"


async def test_the_output_is_a_whole_notebook_at_every_moment_of_the_run(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "in.ipynb", [f"print({n})\nimport time; time.sleep(0.3)" for n in range(5)])
    seen: set[str] = set()
    async with client() as connected:
        begun = await run(connected, wait=0)
        task = asyncio.create_task(call(connected, "get_execution", execution_id=begun["execution_id"], wait=20))
        while not task.done():
            output = read_json(workspace / "out.ipynb")
            assert len(output["cells"]) == 5
            seen.add(",".join(statuses(output)))
            await asyncio.sleep(0.01)
        await task

    assert len(seen) >= 2
    assert "completed,completed,completed,completed,completed" in seen | {
        ",".join(statuses(read_json(workspace / "out.ipynb")))
    }


# In place


async def test_a_run_in_place_saves_into_the_notebook_and_keeps_the_kernel(client: Connect, workspace: Path) -> None:
    path = write_notebook(workspace / "a.ipynb", [cell("# T", "markdown"), "x = 5\nprint('one')", "x + 1"])
    async with client() as connected:
        facts = await call(connected, "execute_notebook", path="a.ipynb")
        again = await call(connected, "execute_notebook", path="a.ipynb", cells="2")
        assert again["status"] == "ok"
        read = await connected.call_tool("read_notebook", {"path": "a.ipynb"})
        assert read.structured_content is not None
        assert read.structured_content["revision"] == again["revision"]

    cells = read_json(path)["cells"]
    assert facts["status"] == "ok"
    assert again["kernel_id"] == facts["kernel_id"]
    assert stdout_in(cells[1]) == "one\n"
    assert [entry.get("execution_count") for entry in cells] == [None, 1, 3]
    assert set(cells[1]["metadata"]["execution"]) >= {"iopub.status.busy", "iopub.status.idle", "shell.execute_reply"}
    assert "papermill" not in cells[1]["metadata"]


async def test_a_run_of_one_cell_is_told_as_a_run(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "a.ipynb", ["print('one')", "print('two')"])
    async with client() as connected:
        facts = await call(connected, "execute_notebook", path="a.ipynb", cells="1")

    assert (facts["cells_total"], facts["cells_done"], facts["cells_failed"]) == (1, 1, 0)
    assert [row["index"] for row in facts["results"]] == [1]


async def test_a_run_in_place_changes_nothing_but_results(client: Connect, workspace: Path) -> None:
    path = workspace / "a.ipynb"
    text = (
        '{"cells": [{"cell_type": "markdown", "metadata": {}, "source": "# é \\u00e9", "id": "m", "mine": 1.0},\n'
        '   {"id": "c", "cell_type": "code", "metadata": {"custom": [1,2]}, "source": ["1+1"], "outputs": [], '
        '"execution_count": null}],\n "nbformat": 4, "nbformat_minor": 5, '
        '"metadata": {"zzz": 1e5, "kernelspec": {"name": "python3", "display_name": "P"}}}'
    )
    path.write_text(text, encoding="utf-8")
    async with client() as connected:
        await call(connected, "execute_notebook", path="a.ipynb")

    after = path.read_text(encoding="utf-8")
    assert after.startswith(text[: text.index("\n")])
    assert read_json(path)["metadata"]["zzz"] == 1e5
    assert read_json(path)["metadata"]["language_info"]["name"] == "python"
    assert not after.endswith("\n")
    assert read_json(path)["cells"][1]["metadata"]["custom"] == [1, 2]
    assert read_json(path)["cells"][1]["outputs"][0]["data"]["text/plain"] in ("2", ["2"])


async def test_a_run_in_place_leaves_the_text_of_other_metadata(client: Connect, workspace: Path) -> None:
    path = write_notebook(workspace / "a.ipynb", ["1"])
    path.write_text(
        path.read_text().replace('"metadata": {\n  "kernelspec"', '"metadata": {\n  "zzz": 1e5,\n  "kernelspec"')
    )
    assert '"zzz": 1e5' in path.read_text()
    async with client() as connected:
        await call(connected, "execute_notebook", path="a.ipynb")

    assert '"zzz": 1e5' in path.read_text()


async def test_without_save_the_file_stays_as_it_is(client: Connect, workspace: Path) -> None:
    path = write_notebook(workspace / "a.ipynb", ["print('x')", "2"])
    before = (digest(path), path.stat().st_mtime_ns)
    async with client() as connected:
        facts = await call(connected, "execute_notebook", path="a.ipynb", save=False)

    assert facts["results"][0]["outputs"][0]["text"] == "x\n"
    assert (digest(path), path.stat().st_mtime_ns) == before


async def test_a_notebook_that_is_running_is_busy(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "a.ipynb", [_WAIT])
    async with client() as connected:
        await call(connected, "execute_notebook", path="a.ipynb", timeout=0, wait=0)
        assert (await refused(connected, "execute_notebook", path="a.ipynb")).startswith("BUSY: ")
        (workspace / "go").touch()


async def run_with_a_change(client: Client, path: Path, change: dict[str, str]) -> Json:
    """Run a notebook whose second cell waits, and have the sources of cells changed on disk in the meantime."""
    begun = await call(client, "execute_notebook", path=path.name, timeout=0, wait=0)
    await until((path.parent / "waiting").exists, seconds=20, what="the second cell runs")
    notebook = read_json(path)
    for entry in notebook["cells"]:
        entry["source"] = change.get(entry["id"], entry["source"])
    temporary = path.with_name("other")
    temporary.write_text(json.dumps(notebook, indent=1))
    temporary.rename(path)
    (path.parent / "go").touch()
    return await call(client, "get_execution", execution_id=begun["execution_id"], wait=20)


async def test_a_change_by_somebody_else_during_a_run_is_kept_and_so_are_the_results(
    client: Connect, workspace: Path
) -> None:
    path = write_notebook(
        workspace / "a.ipynb", [cell("# Old", "markdown"), "print('one')", _WAIT + "print('two')", "print('three')"]
    )
    async with client() as connected:
        facts = await run_with_a_change(connected, path, {"c0": "# New"})

    cells = read_json(path)["cells"]
    assert facts["status"] == "ok"
    assert "notes" not in facts
    assert joined(cells[0]["source"]) == "# New"
    assert [stdout_in(entry) for entry in cells[1:]] == ["one\n", "waiting\ntwo\n", "three\n"]


async def test_a_cell_that_somebody_changed_during_a_run_gets_no_result_of_its_old_source(
    client: Connect, workspace: Path
) -> None:
    path = write_notebook(workspace / "a.ipynb", ["print('one')", _WAIT + "print('two')", "print('three')"])
    async with client() as connected:
        facts = await run_with_a_change(connected, path, {"c2": "print('changed')"})

    cells = read_json(path)["cells"]
    assert joined(cells[2]["source"]) == "print('changed')"
    assert cells[2]["outputs"] == []
    assert stdout_in(cells[0]) == "one\n"
    assert any("cell 2 was changed or removed" in note for note in facts["notes"])


async def test_cells_that_somebody_moved_get_their_own_results(client: Connect, workspace: Path) -> None:
    path = write_notebook(workspace / "a.ipynb", ["print('one')", _WAIT + "print('two')", "print('three')"])
    async with client() as connected:
        begun = await call(connected, "execute_notebook", path="a.ipynb", timeout=0, wait=0)
        await until((workspace / "waiting").exists, seconds=20, what="the second cell runs")
        await call(connected, "add_cell", path="a.ipynb", cell_type="markdown", source="# Top", index=0)
        notebook = read_json(path)
        notebook["cells"].append(notebook["cells"].pop(1))
        path.write_text(json.dumps(notebook))
        (workspace / "go").touch()
        facts = await call(connected, "get_execution", execution_id=begun["execution_id"], wait=20)

    cells = read_json(path)["cells"]
    assert facts["status"] == "ok"
    assert [entry["id"] for entry in cells[1:]] == ["c1", "c2", "c0"]
    assert stdout_in(cells[1]) == "waiting\ntwo\n"
    assert stdout_in(cells[2]) == "three\n"
    assert stdout_in(cells[3]) == "one\n"


async def test_a_kernel_that_died_is_replaced_and_the_next_run_says_so(client: Connect, workspace: Path) -> None:
    write_notebook(workspace / "a.ipynb", ["import os", "os._exit(1)"])
    async with client() as connected:
        first = await call(connected, "execute_notebook", path="a.ipynb")
        second = await call(connected, "execute_notebook", path="a.ipynb", cells="0")

    assert (first["status"], second["status"]) == ("died", "ok")
    assert second["kernel_id"] != first["kernel_id"]
    assert any("died (exit code 1)" in note for note in second["notes"])
