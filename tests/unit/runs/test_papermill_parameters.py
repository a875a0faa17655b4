"""Which parameters a notebook takes, and what is said about those it does not."""

from __future__ import annotations

from typing import Any

import papermill.engines
import papermill.execute
import pytest
from helpers import cell
from papermill.translators import PythonTranslator, papermill_translators

from papermill_mcp.core.documents.document import NotebookDocument
from papermill_mcp.core.papermill import metadata
from papermill_mcp.core.papermill.code import languages
from papermill_mcp.core.papermill.output import PapermillTask, prepare
from papermill_mcp.core.papermill.parameters import (
    NotebookParameters,
    Parameter,
    ignored_cells,
    inspect_parameters,
    is_python,
)
from papermill_mcp.errors import InvalidParametersError

_DEFAULTS = """\
alpha = 0.5
count = 3
name = "run"
flag = True
items = [1, 2]
options = {"a": 1}
nothing = None
computed = 2 * 3
"""


def test_the_names_of_kernels_decide_as_papermill_does() -> None:
    """Papermill takes a quarter of a second to import, so a Python notebook is recognised without it."""
    kernels = [*papermill_translators._translators, *languages._MORE_NAMES, "python3", "my-env", "R", "Pwsh"]
    for kernel in kernels:
        for language in ("python", "R", "julia"):
            expected = isinstance(languages.writer_for(kernel, language), languages.Python)
            assert is_python(kernel, language) is expected, (kernel, language)


def kernelspec(name: str, language: str) -> dict[str, str]:
    return {"name": name, "display_name": name, "language": language}


def document(parameters: str | None = _DEFAULTS, language: str = "python", kernel: str = "python3") -> NotebookDocument:
    made = NotebookDocument.new({"kernelspec": kernelspec(kernel, language)})
    made.insert(0, cell("# Title", "markdown"))
    if parameters is not None:
        made.insert(1, cell(parameters, tags=["parameters"]))
    made.insert(len(made.cells), cell("print(1)"))
    return made


def check(
    values: dict[str, Any],
    parameters: str | None = _DEFAULTS,
    *,
    strict: bool = True,
    language: str = "python",
    kernel: str = "python3",
) -> list[str]:
    made = document(parameters, language, kernel)
    return NotebookParameters(made, kernel_name=kernel, language=language).check(values, strict=strict)


def refusal(values: dict[str, Any], parameters: str | None = _DEFAULTS, *, strict: bool = True) -> str:
    with pytest.raises(InvalidParametersError) as raised:
        check(values, parameters, strict=strict)
    text = str(raised.value)
    assert text.startswith("INVALID_PARAMETERS: ")
    assert "Nothing was run." in text
    return text


# Inspection


def test_parameters_are_found_with_default_type_and_help() -> None:
    found, inspected = inspect_parameters(
        document("alpha: float = 0.5  # learning rate\nname = 'run' # type: str\nplain = 1"), "python3", "python"
    )

    assert inspected
    assert found == [
        Parameter("alpha", "0.5", "float", "learning rate"),
        Parameter("name", "'run'", "str", ""),
        Parameter("plain", "1", None, ""),
    ]


@pytest.mark.parametrize("source", [None, "", "# nothing here"])
def test_a_notebook_without_parameters_has_none(source: str | None) -> None:
    assert inspect_parameters(document(source), "python3", "python") == ([], True)


@pytest.mark.parametrize(
    ("kernel", "language"),
    [
        ("bash", "bash"),
        ("ir", "R"),
        ("spylon-kernel", "scala"),
        ("julia-1.10", "julia"),
        ("matlab", "matlab"),
        (".net-csharp", "C#"),
        (".net-fsharp", "F#"),
        (".net-powershell", "PowerShell"),
        ("octave", "octave"),
        ("deno", "typescript"),
        ("nobody", ""),
    ],
)
def test_a_language_that_papermill_cannot_inspect_is_told_apart_from_no_parameters(kernel: str, language: str) -> None:
    assert inspect_parameters(document("a=1", language, kernel), kernel, language) == ([], False)
    assert inspect_parameters(document(None, language, kernel), kernel, language) == ([], True)


@pytest.mark.parametrize("kernel", ["python3", "pysparkkernel", "conda-env-x-py"])
def test_python_is_inspected_whatever_its_kernel_is_called(kernel: str) -> None:
    assert inspect_parameters(document("a = 1", "python", kernel), kernel, "python")[0] == [
        Parameter("a", "1", None, "")
    ]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x: int = 1", [("x", "1", "int", "")]),
        ("x = 1  # what it is", [("x", "1", None, "what it is")]),
        ("x = 1  # type: int", [("x", "1", "int", "")]),
        ("x = 1  # type: int what it is", [("x", "1", "int", "what it is")]),
        ("x = {}  # type: dict[str, list[int]] by [name]", [("x", "{}", "dict[str, list[int]]", "by [name]")]),
        ('x: "int" = 1', [("x", "1", "int", "")]),
        ("x: int | None = None", [("x", "None", "int | None", "")]),
        ("x = [\n    1,  # one\n    2,\n]  # both", [("x", "[1, 2]", None, "both")]),
        ('x = {\n    "a": 1,\n\n    "b": dict(c=2),\n}', [("x", "{'a': 1, 'b': dict(c=2)}", None, "")]),
        ('x = """one\ntwo"""', [("x", "'one\\ntwo'", None, "")]),
        ("url = 'http://a/?b=c#d'  # where", [("url", "'http://a/?b=c#d'", None, "where")]),
        ("x = y = 1", [("x", "1", None, ""), ("y", "1", None, "")]),
        ("x, y = 1, 'a'", [("x", "1", None, ""), ("y", "'a'", None, "")]),
        ("x = 1; y = 2  # help", [("x", "1", None, "help"), ("y", "2", None, "help")]),
        ("été = 'ü'  # ß", [("été", "'ü'", None, "ß")]),
        ("x = 1\nx = 2", [("x", "2", None, "")]),
        ("if True:\n    x = 1\nelse:\n    y = 2", [("x", "1", None, ""), ("y", "2", None, "")]),
        ("def f():\n    x = 1\nclass A:\n    y = 2\nf(z=3)\nd = dict(\n    w=4,\n)", [("d", "dict(w=4)", None, "")]),
        ("%matplotlib inline\n!ls\nx = 1  # help", [("x", "1", None, "help")]),
        ("x = 1\r\ny = 2\r\n", [("x", "1", None, ""), ("y", "2", None, "")]),
        ("x: int", []),
        ("import os", []),
        ("this is (no Python", []),
    ],
)
def test_python_parameters_are_found_as_python_reads_them(source: str, expected: list[tuple[Any, ...]]) -> None:
    found, inspected = inspect_parameters(document(source), "python3", "python")

    assert inspected
    assert [(p.name, p.default, p.type_name, p.help) for p in found] == expected


@pytest.mark.parametrize(
    "source", ["a = 1", "a: float = 0.5  # rate", "a = 'x' # type: str the name", "a = [1, 2]\nb = None", "# no\na = 1"]
)
def test_of_simple_lines_papermill_finds_the_same(source: str) -> None:
    found, _ = inspect_parameters(document(source), "python3", "python")

    theirs = PythonTranslator.inspect({"source": source})
    assert [(p.name, p.default, str(p.type_name), p.help) for p in found] == [
        (p.name, p.default, p.inferred_type_name, p.help) for p in theirs
    ]


def test_code_made_to_be_hard_to_read_ends_in_time() -> None:
    for source in ("x = " + "(" * 5000, "x = " + "-" * 5000 + "1", "if x:\n pass\n" + "elif x:\n pass\n" * 2000):
        inspect_parameters(document(source), "python3", "python")


# Names


def test_known_names_with_fitting_values_pass() -> None:
    values = {
        "alpha": 1.5,
        "count": 4,
        "name": "x",
        "flag": False,
        "items": [],
        "options": {},
        "nothing": "anything",
        "computed": [1],
    }

    assert check(values) == []


def test_no_parameters_need_no_check() -> None:
    assert check({}) == []
    assert check({}, None) == []


def test_an_unknown_name_is_answered_with_the_nearest_and_with_all_there_are() -> None:
    message = refusal({"alhpa": 1})

    assert "'alhpa'" in message
    assert "did you mean 'alpha'?" in message
    assert "alpha = 0.5" in message
    assert "count = 3" in message
    assert "strict_parameters=false" in message


def test_an_unknown_name_that_is_near_to_none_is_answered_with_all_there_are() -> None:
    message = refusal({"zzz": 1})

    assert "did you mean" not in message
    assert "name = " in message


def test_parameters_for_a_notebook_without_a_parameters_cell_are_refused_with_the_way_out() -> None:
    message = refusal({"alpha": 1}, None)

    assert "no cell tagged `parameters`" in message
    assert "strict_parameters=false" in message


def test_parameters_for_an_empty_parameters_cell_are_unknown() -> None:
    assert "'alpha'" in refusal({"alpha": 1}, "# none yet")


@pytest.mark.parametrize(
    "name",
    [
        "x; import os",
        "x = 1\nimport os",
        "x\n",
        "a b",
        "1x",
        "",
        "a-b",
        "a.b",
        ".a",
        "a[0]",
        "class",
        "None",
        "import",
        "x=",
        "__import__('os')",
    ],
)
@pytest.mark.parametrize("strict", [True, False])
def test_what_is_no_plain_name_is_refused_strict_or_not(name: str, strict: bool) -> None:
    """Papermill pastes names into code as they are."""
    assert repr(name) in refusal({name: 1}, strict=strict)


def test_a_name_need_not_be_ascii() -> None:
    assert check({"größe": 1}, "größe = 2") == []


def test_a_bad_name_of_any_length_makes_a_short_message() -> None:
    assert len(refusal({"x " * 100_000: 1})) < 1000


def test_a_name_with_a_dot_is_a_name_in_r() -> None:
    assert check({"learning.rate": 1}, "learning.rate <- 1", language="R", kernel="ir") == [
        "papermill cannot inspect R parameters, so the names and types were not checked"
    ]


# Values


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ({"alpha": "0.5"}, "a number"),
        ({"alpha": True}, "a number"),
        ({"alpha": [0.5]}, "a number"),
        ({"count": "3"}, "a number"),
        ({"count": True}, "a number"),
        ({"name": 3}, "a string"),
        ({"name": ["run"]}, "a string"),
        ({"flag": 1}, "a boolean"),
        ({"flag": "true"}, "a boolean"),
        ({"items": "1, 2"}, "a list"),
        ({"items": {"a": 1}}, "a list"),
        ({"options": [1]}, "an object"),
        ({"options": "{}"}, "an object"),
    ],
)
def test_a_value_of_another_type_than_the_default_is_refused(values: dict[str, Any], wanted: str) -> None:
    message = refusal(values)

    ((name, value),) = values.items()
    assert f"parameter {name!r} must be {wanted}" in message
    assert repr(value) in message


def test_an_integer_and_a_float_stand_for_each_other_without_an_annotation() -> None:
    assert check({"alpha": 1, "count": 1.5}) == []


@pytest.mark.parametrize(
    ("annotation", "good", "bad"),
    [
        ("int", [1, -1, 0], [1.5, True, "1", None, []]),
        ("float", [1, 1.5], [True, "1", None]),
        ("bool", [True, False], [0, 1, "true", None]),
        ("str", ["", "a"], [1, True, None, ["a"]]),
        ("list", [[], [1, "a"]], [{}, "a", None]),
        ("list[int]", [[], [1]], [{}, "a", 1]),
        ("List[str]", [["a"]], ["a", None]),
        ("dict", [{}, {"a": 1}], [[], "a"]),
        ("dict[str, int]", [{"a": 1}], [[], "a", 1]),
        ("tuple", [[1, 2]], ["a", 1]),
        ("Optional[int]", [1, None], [1.5, "1", True]),
        ("Optional[list[int]]", [[1], None], [1, "a"]),
        ("Path", ["a", 1, None, []], []),
        ("Any", ["a", 1, None, []], []),
        ("object", ["a", 1, None, []], []),
        ("set", [[1, 2]], ["a", 1, {}]),
        ("Set[int]", [[1]], ["a"]),
        ("None", [None], [0, ""]),
    ],
)
def test_an_annotation_says_which_values_fit(annotation: str, good: list[Any], bad: list[Any]) -> None:
    source = f"value: {annotation} = ..."
    for value in good:
        assert check({"value": value}, source) == [], value
    for value in bad:
        message = refusal({"value": value}, source)
        assert annotation.strip("'") in message
        assert "parameter 'value'" in message


@pytest.mark.parametrize(
    ("annotation", "good", "bad"),
    [
        ("typing.List[str]", [["a"]], ["a"]),
        ("typing.Optional[str]", ["a", None], [1, True]),
        ("int | None", [1, None], [1.5, "1", True]),
        ("int | str", [1, "a"], [1.5, None, True, []]),
        ("np.ndarray", [[1], "a"], []),
        ("dict[str, int | None]", [{"a": None}], [[]]),
        ('Literal["a", "b"]', ["a"], ["c", 1, None, ["a"]]),
        ("Literal[1, True]", [1, True], [2, 1.0, False]),
        ("Literal[Color.RED]", ["a", 1], []),
        ('Optional[Literal["a"]]', ["a", None], ["b"]),
        ("tuple[int, str]", [[1, "a"]], [[1], ["a", 1], [1, "a", 2], "a"]),
        ("tuple[int, ...]", [[], [1, 2, 3]], [[1, "a"]]),
        ("Sequence[float]", [[1, 2.5]], [["a"]]),
        ("dict[str, int]", [{}, {"a": 1}], [{"a": "b"}]),
        ("Mapping[str, list[int]]", [{"a": [1]}], [{"a": [1, "b"]}, []]),
        ("list[int] | None", [None, [1]], [["a"]]),
        ("Annotated[int, 'metres']", [1], ["a"]),
        ("Union[int, list[str]]", [1, ["a"]], [[1], "a"]),
        ("'int | None'", [1, None], ["a"]),
        ("float | int", [1, 1.5], [True]),
    ],
)
def test_an_annotation_that_papermill_cannot_read_is_one_all_the_same(
    annotation: str, good: list[Any], bad: list[Any]
) -> None:
    test_an_annotation_says_which_values_fit(annotation, good, bad)


@pytest.mark.parametrize(
    ("annotation", "value", "reported"),
    [
        ("list[int]", [1, 2, "c"], "at [2] must be an integer, as its annotation list[int] says; got 'c'"),
        ("dict[str, list[int]]", {"a": [1, None]}, "at ['a'][1] must be an integer"),
        ("Optional[list[int]]", ["a"], "at [0] must be an integer"),
        ("int | None", "a", "must be an integer or null"),
        ("tuple[int, int]", [1], "must be a list of 2"),
        ('Literal["a", "b"]', "c", "must be one of 'a', 'b'"),
        ("float", "a", "must be a number"),
    ],
)
def test_what_does_not_fit_is_named_to_the_part(annotation: str, value: Any, reported: str) -> None:
    assert reported in refusal({"value": value}, f"value: {annotation} = ...")


@pytest.mark.parametrize(
    ("default", "good", "bad"),
    [
        ("-1", [2, -0.5], ["a", True]),
        ("(1, 2)", [[], ["a"]], [1, {}]),
        ("{1, 2}", [[1]], [{}, "a"]),
        ("[\n    1,\n    2,\n]", [[]], ["a", {}]),
        ("{\n    'a': [1, 2],  # = # one\n    'b': 2,\n}", [{}], [[], "a"]),
        ("dict(a=1)", [{"a": 2}], [[], 1]),
        ("list(range(3))", [[1]], [1]),
        ("[n for n in range(3)]", [[1]], [1]),
        ("float('inf')", [1.5, 1], ["inf"]),
        ("f'{a}'", ["a"], [1]),
        ("'a=b#c'", ["a"], [1]),
        ("datetime(2026, 1, 1)", ["2026-01-01", 1, None], []),
        ("b'x'", ["x", 1], []),
        ("...", [1, "a"], []),
    ],
)
def test_a_default_says_which_values_fit(default: str, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        assert check({"value": value}, f"value = {default}") == [], value
    for value in bad:
        assert "as its default" in refusal({"value": value}, f"value = {default}"), value


@pytest.mark.parametrize("default", ["1", "'a'", "True", "[1]", "{}", "None", "2 * 3"])
def test_null_fits_every_parameter_without_an_annotation(default: str) -> None:
    assert check({"x": None}, f"x = {default}") == []


@pytest.mark.parametrize(("annotation", "fits"), [("int", False), ("Optional[int]", True), ("int | None", True)])
def test_an_annotation_decides_about_null(annotation: str, fits: bool) -> None:
    for source in (f"x: {annotation} = 1", f"x = 1  # type: {annotation.replace(' ', '')}"):
        if fits:
            assert check({"x": None}, source) == []
        else:
            assert "'x'" in refusal({"x": None}, source)


def test_null_fits_where_it_is_the_default() -> None:
    assert check({"value": None}, "value: int = None") == []
    assert check({"value": 1}, "value: int = None") == []
    refusal({"value": "a"}, "value: int = None")


def test_a_comment_is_a_type_as_an_annotation_is() -> None:
    assert check({"value": [1]}, "value = []  # type: list[int]") == []
    refusal({"value": ["a"]}, "value = []  # type: list[int]")


def test_a_long_value_makes_a_short_message() -> None:
    assert len(refusal({"count": "x" * 1_000_000})) < 1500
    assert len(refusal({"count": [["x" * 100] * 100] * 100})) < 1500


@pytest.mark.parametrize("strict", [True, False])
def test_what_the_language_cannot_hold_is_refused_strict_or_not(strict: bool) -> None:
    assert "NaN" in refusal({"alpha": float("nan")}, strict=strict)
    with pytest.raises(InvalidParametersError, match="no value for an object"):
        check({"anything": {}}, "anything=2", language="bash", kernel="bash", strict=strict)


# Not strict


def test_what_would_be_refused_is_a_warning_when_not_strict() -> None:
    warnings = check({"alhpa": 1, "name": 3, "count": 4}, strict=False)

    assert len(warnings) == 2
    assert "did you mean 'alpha'?" in warnings[0]
    assert "parameter 'name' must be a string" in warnings[1]


def test_without_a_parameters_cell_there_is_a_warning_when_not_strict() -> None:
    (warning,) = check({"alpha": 1}, None, strict=False)

    assert "no cell tagged `parameters`" in warning


@pytest.mark.parametrize("strict", [True, False])
def test_parameters_of_a_language_that_cannot_be_inspected_come_with_a_warning(strict: bool) -> None:
    (warning,) = check({"anything": 1}, "anything=2", language="bash", kernel="bash", strict=strict)

    assert "bash" in warning
    assert "not checked" in warning


@pytest.mark.case("M04")
def test_a_second_parameters_cell_is_named() -> None:
    """Papermill takes the first one. A name of the second is unknown, and its values hide those that were injected."""
    made = document("x = 1")
    made.insert(2, cell("y = 2", tags=["parameters"], cell_id="second"))
    known = NotebookParameters(made, kernel_name="python3", language="python")

    with pytest.raises(InvalidParametersError) as raised:
        known.check({"y": 7}, strict=True)
    assert "2 [second]" in str(raised.value)
    assert any("2 [second]" in warning for warning in known.check({"x": 7}, strict=True))
    assert ignored_cells(document("x = 1")) is None


def test_without_a_parameters_cell_no_language_has_parameters() -> None:
    with pytest.raises(InvalidParametersError, match="no cell tagged `parameters`"):
        check({"a": 1}, None, language="R", kernel="ir")
    assert check({"a": 1}, None, language="R", kernel="ir", strict=False) == [
        "the notebook has no cell tagged `parameters`"
    ]


# Injection


def injected(values: dict[str, Any], parameters: str | None = _DEFAULTS, *, language: str = "python") -> Any:
    return prepare(
        document(parameters, language, "python3" if language == "python" else language),
        PapermillTask(
            parameters=values,
            kernelspec=kernelspec("python3" if language == "python" else language, language),
            language=language,
            input_path="/in.ipynb",
            output_path="/out.ipynb",
            display_path="in.ipynb",
            timeout_seconds=None,
            continue_on_error=False,
            report_mode=False,
        ),
    )


def test_values_are_injected_behind_the_parameters_cell() -> None:
    prepared = injected({"alpha": 1.5, "name": 'a"b\nc\\'})

    tags = [node.metadata.get("tags", []) for node in prepared.node.cells]
    assert tags == [[], ["parameters"], ["injected-parameters"], []]
    namespace: dict[str, Any] = {}
    exec(prepared.node.cells[2].source, namespace)
    assert (namespace["alpha"], namespace["name"]) == (1.5, 'a"b\nc\\')


def test_values_without_a_parameters_cell_are_injected_at_the_top() -> None:
    prepared = injected({"alpha": 1.5}, None)

    assert prepared.node.cells[0].metadata.tags == ["injected-parameters"]


def test_the_effective_parameters_have_the_defaults_too() -> None:
    parameters = injected({"alpha": 1.5}).parameters

    assert parameters["alpha"] == 1.5
    assert parameters["count"] == 3
    assert parameters["items"] == [1, 2]
    assert parameters["nothing"] is None
    assert "computed" not in parameters  # only the kernel knows what an expression gives


@pytest.mark.parametrize("value", ['"""', "'''", "\\", "{x}", "%s", "\u2028", "\x00", "a\r\nb", "é😀", "$(id)", "`id`"])
def test_a_string_of_any_kind_arrives_as_it_is(value: str) -> None:
    prepared = injected({"name": value})

    namespace: dict[str, Any] = {}
    exec(prepared.node.cells[2].source, namespace)
    assert namespace["name"] == value


@pytest.mark.parametrize(
    "value", [None, True, 10**30, -0.5, 1e300, [], [1, [2, {"a": None}]], {"a": {"b": [True]}}, {"a b": 1, "'": 2}]
)
def test_a_value_of_any_json_type_arrives_as_it_is(value: Any) -> None:
    prepared = injected({"nothing": value})

    namespace: dict[str, Any] = {}
    exec(prepared.node.cells[2].source, namespace)
    assert namespace["nothing"] == value
    assert type(namespace["nothing"]) is type(value)


def test_a_language_that_papermill_cannot_write_is_refused() -> None:
    with pytest.raises(InvalidParametersError, match="cobol"):
        injected({"a": 1}, None, language="cobol")


def test_what_is_prepared_leaves_the_document_alone() -> None:
    original = document()
    before = original.render()
    prepare(
        original,
        PapermillTask(
            parameters={"alpha": 2},
            kernelspec=kernelspec("python3", "python"),
            language="python",
            input_path="a",
            output_path="b",
            display_path="a",
            timeout_seconds=None,
            continue_on_error=False,
            report_mode=True,
        ),
    )

    assert original.render() == before


# Metadata


def test_the_words_of_papermill_are_its_own() -> None:
    """The module that reads the metadata does not import papermill, so its constants are compared here."""
    assert metadata.ERROR_MARKER_TAG == papermill.execute.ERROR_MARKER_TAG
    manager = papermill.engines.NotebookExecutionManager
    assert (metadata.PENDING, metadata.RUNNING, metadata.COMPLETED, metadata.FAILED) == (
        manager.PENDING,
        manager.RUNNING,
        manager.COMPLETED,
        manager.FAILED,
    )
