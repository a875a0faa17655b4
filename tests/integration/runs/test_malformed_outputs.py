"""Kernels that send outputs which no notebook may have: the outputs beside them, and the notebook, are kept."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest
from conftest import Connect
from helpers import call, read_json, write_notebook

pytestmark = [pytest.mark.kernel, pytest.mark.case("O01")]

_SEND = """
import json
kernel = get_ipython().kernel
def send(kind, content):
    content = content if isinstance(content, bytes) else json.dumps(content).encode()
    header = kernel.session.msg_header(kind)
    parts = [json.dumps(part, default=str).encode() for part in (header, kernel.get_parent()["header"], {})]
    frames = [b"<IDS|MSG>", kernel.session.sign([*parts, content]), *parts, content]
    kernel.iopub_thread.send_multipart([kind.encode(), *frames])
def shown(**forms):
    send("display_data", {"data": {name.replace("_", "/"): value for name, value in forms.items()}, "metadata": {}})
def nested(levels):
    return b'{"a":' * levels + b"1" + b"}" * levels
def result(**members):
    send("execute_result", {"data": {"text/plain": "beside"}, "metadata": {}, **members})
def raw(value):
    send("display_data", b'{"data":{"application/json":%s,"text/plain":"beside"}}' % value)
print("before", flush=True)
"""

#: Code that sends outputs. Each also prints `beside`.
_MESSAGES = {
    "null": "shown(text_html=None, text_plain='beside')",
    "object as text": "shown(text_html={'a': 1}, text_markdown='beside')",
    "null image": "shown(image_png=None, text_html='beside')",
    "no data": "send('display_data', {'data': None})\nprint('beside')",
    "list as data": "send('display_data', {'data': [1], 'metadata': {}})\nprint('beside')",
    "list as metadata": "send('display_data', {'data': {'text/plain': 'beside'}, 'metadata': [1], 'transient': [1]})",
    "count as text": "result(execution_count='zzz')",
    "negative count": "result(execution_count=-1)",
    "count of the input": "send('execute_input', {'code': '', 'execution_count': [1]})\nprint('beside')",
    "stream": "send('stream', {'name': None, 'text': {'a': 1}})\nprint('beside')",
    "error": "send('error', {'ename': 5, 'evalue': None, 'traceback': {'a': 1}})\nprint('beside')",
    "deep": "raw(nested(900))",
    "very deep": "raw(nested(100_000))",
    "long number": "raw(b'7' * 5_000)",
    "not a number": "raw(b'[NaN,-Infinity,1e999]')",
    "half characters": 'send(\'display_data\', b\'{"data":{"text/\\\\ud800":"\\\\udc00","text/plain":"beside"}}\')',
    "widget": "send('comm_open', {'comm_id': [1], 'target_name': 'jupyter.widget', 'data': [1]})\nprint('beside')",
}


@pytest.mark.parametrize("tool", ["execute_notebook", "execute_notebook_papermill"])
async def test_outputs_beside_a_malformed_one_are_saved(tool: str, client: Connect, workspace: Path) -> None:
    sources = [_SEND, *_MESSAGES.values(), "print('after')"]
    path = write_notebook(workspace / "a.ipynb", sources)
    async with client() as c:
        if tool == "execute_notebook":
            run = await call(c, tool, path="a.ipynb", continue_on_error=True)
        else:
            path = workspace / "out.ipynb"
            run = await call(c, tool, input_path="a.ipynb", output_path="out.ipynb", continue_on_error=True)

    saved = read_json(path)
    nbformat.validate(nbformat.from_dict(saved))
    json.dumps(saved, allow_nan=False, ensure_ascii=False).encode()
    outputs = [str(entry["outputs"]) for entry in saved["cells"]]
    assert "before" in outputs[0]
    assert {name for name, found in zip(_MESSAGES, outputs[1:-1], strict=True) if "beside" not in found} == set()
    assert "after" in outputs[-1]
    for name in ("null", "deep", "very deep", "object as text"):
        assert "not kept" in outputs[1 + list(_MESSAGES).index(name)], name
    assert [row["status"] for row in run["results"]].count("error") == 1  # the error that was sent
    assert any("nested" in note for note in run["notes"])


async def test_the_reply_names_the_parts_that_were_not_kept(client: Connect) -> None:
    async with client() as c:
        kernel = await call(c, "start_kernel")
        code = f"{_SEND}\nshown(text_html=[1, 2], text_plain='beside')"
        run = await call(c, "execute_cell", kernel_id=kernel["kernel_id"], code=code)

    assert {output["text"].strip() for output in run["outputs"]} == {"before", "beside"}
    assert any("text/html" in note for note in run["notes"])
