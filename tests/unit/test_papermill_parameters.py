"""Which parameters a notebook takes, and what is said about those it does not."""

from __future__ import annotations

from typing import Any

import pytest
from helpers import cell

from papermill_mcp.core.document import NotebookDocument
from papermill_mcp.core.papermill_executor import Parameter, check_parameters, inspect_parameters, prepare
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


def document(parameters: str | None = _DEFAULTS, language: str = "python", kernel: str = "python3") -> NotebookDocument:
    made = NotebookDocument.new({"kernelspec": {"name": kernel, "display_name": kernel, "language": language}})
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
    return check_parameters(
        values, document(parameters, language, kernel), kernel_name=kernel, language=language, strict=strict
    )


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


def test_a_language_that_papermill_cannot_inspect_is_told_apart_from_no_parameters() -> None:
    assert inspect_parameters(document("a=1", "bash", "bash"), "bash", "bash") == ([], False)


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
        "ä" * 3,
        "x=",
        "__import__('os')",
    ],
)
@pytest.mark.parametrize("strict", [True, False])
def test_what_is_no_plain_name_is_refused_strict_or_not(name: str, strict: bool) -> None:
    """Papermill pastes names into code as they are."""
    assert repr(name) in refusal({name: 1}, strict=strict)


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
        ({"alpha": None}, "a number"),
        ({"alpha": [0.5]}, "a number"),
        ({"count": "3"}, "a number"),
        ({"count": True}, "a number"),
        ({"name": 3}, "a string"),
        ({"name": None}, "a string"),
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
    ],
)
def test_an_annotation_says_which_values_fit(annotation: str, good: list[Any], bad: list[Any]) -> None:
    source = f"value: {annotation} = ..."
    for value in good:
        assert check({"value": value}, source) == [], value
    for value in bad:
        message = refusal({"value": value}, source)
        assert annotation in message
        assert repr(value) in message


@pytest.mark.parametrize(
    ("annotation", "good", "bad"),
    [
        ("typing.List[str]", [["a"]], ["a"]),
        ("typing.Optional[str]", ["a", None], [1, True]),
        ("int | None", [1, None], [1.5, "1", True]),
        ("int | str", [1, "a"], [1.5, None, True, []]),
        ("np.ndarray", [[1], "a"], []),
        ("dict[str, int | None]", [{"a": None}], [[]]),
        ('Literal["a", "b"]', ["a"], []),
    ],
)
def test_an_annotation_that_papermill_cannot_read_is_one_all_the_same(
    annotation: str, good: list[Any], bad: list[Any]
) -> None:
    test_an_annotation_says_which_values_fit(annotation, good, bad)


def test_a_long_value_makes_a_short_message() -> None:
    assert len(refusal({"count": "x" * 1_000_000})) < 1500


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


# Injection


def injected(values: dict[str, Any], parameters: str | None = _DEFAULTS, *, language: str = "python") -> Any:
    return prepare(
        document(parameters, language, "python3" if language == "python" else language),
        values,
        kernel_name="python3" if language == "python" else language,
        language=language,
        input_path="/in.ipynb",
        output_path="/out.ipynb",
        report_mode=False,
        shown="in.ipynb",
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
        {"alpha": 2},
        kernel_name="python3",
        language="python",
        input_path="a",
        output_path="b",
        report_mode=True,
        shown="a",
    )

    assert original.render() == before
