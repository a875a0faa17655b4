"""How parameters are written as code: as papermill does where it is right, and never so that a value becomes code.

Languages other than Python and Bash are held against their lexical rules here; `test_parameter_values` asks
interpreters.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from papermill.translators import Translator, papermill_translators, translate_parameters

from dev.fuzz import examples
from papermill_mcp.core.papermill.code.languages import writer_for
from papermill_mcp.core.papermill.code.writer import Writer
from papermill_mcp.errors import InvalidParametersError

#: Kernel and language of everything that papermill has a translator for, and of Octave, as kernels name them.
LANGUAGES = {
    "python": ("python3", "python"),
    "r": ("ir", "R"),
    "scala": ("spylon-kernel", "scala"),
    "julia": ("julia-1.10", "julia"),
    "matlab": ("jupyter_matlab_kernel", "matlab"),
    "csharp": (".net-csharp", "C#"),
    "fsharp": (".net-fsharp", "F#"),
    "powershell": (".net-powershell", "PowerShell"),
    "bash": ("bash", "bash"),
    "octave": ("octave", "octave"),
}


def writer(language: str) -> Writer:
    return writer_for(*LANGUAGES[language])


def literal(language: str, value: Any) -> str:
    """The expression for a value."""
    code = writer(language).code({"x": value})
    before = {"scala": "val x = ", "csharp": "var x = ", "fsharp": "let x = ", "powershell": "$x = ", "bash": "x="}
    text = code.partition("\n")[2].removeprefix(before.get(language, "x = ")).removesuffix("\n")
    return text.removesuffix(";") if language in ("matlab", "octave", "csharp") else text


def refusal(language: str, value: Any, name: str = "x") -> str:
    with pytest.raises(InvalidParametersError) as raised:
        writer(language).code({name: value})
    text = str(raised.value)
    assert text.startswith("INVALID_PARAMETERS: ")
    assert "Nothing was run." in text
    assert len(text) < 600
    return text


# Who writes


@pytest.mark.parametrize(
    ("kernel_name", "language", "expected"),
    [
        ("python3", "python", "Python"),
        ("anything", "Python", "Python"),
        ("pysparkkernel", "python", "Python"),
        ("sparkkernel", "scala", "Scala"),
        ("sparkrkernel", "R", "R"),
        ("anything", "r", "R"),
        (".net-csharp", "polyglot-notebook", "C#"),
        ("anything", "F#", "F#"),
        ("powershell", "powershell", "PowerShell"),
        ("bash", "python", "Bash"),  # papermill, too, looks for the kernel first
        ("octave", "matlab", "Octave"),
        ("python3", "bash", "Bash"),
    ],
)
def test_the_kernel_decides_and_then_the_language(kernel_name: str, language: str, expected: str) -> None:
    assert writer_for(kernel_name, language).language == expected


def test_a_language_that_nobody_writes_is_refused_with_those_there_are() -> None:
    with pytest.raises(InvalidParametersError) as raised:
        writer_for("deno", "typescript")
    assert "'typescript'" in str(raised.value)
    assert "C#, F#, Julia" in str(raised.value)

    with pytest.raises(InvalidParametersError, match="did you mean 'Python'"):
        writer_for("mine", "Pyton")


def test_a_translator_that_somebody_registered_is_used_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    class Logo(Translator):  # type: ignore[misc]  # papermill has no types
        @classmethod
        def comment(cls, cmt_str: str) -> str:
            return f"; {cmt_str}"

        @classmethod
        def assign(cls, name: str, str_val: str) -> str:
            return f'make "{name} {str_val}'

    monkeypatch.setattr(papermill_translators, "_translators", {**papermill_translators._translators, "logo": Logo})
    logo = writer_for("ucb", "logo")

    assert logo.code({"x": 5}) == '; Parameters\nmake "x 5\n'
    with pytest.raises(InvalidParametersError, match="list type translation"):
        logo.code({"x": [1]})
    with pytest.raises(InvalidParametersError, match="cannot be the name"):
        logo.code({"x y": 1})
    with pytest.raises(InvalidParametersError, match="neither NaN"):
        logo.code({"x": float("nan")})


def test_papermill_itself_is_left_as_it_was() -> None:
    before = dict(papermill_translators._translators)
    for language in LANGUAGES:
        writer(language).code({"x": "$é"})

    assert papermill_translators._translators == before
    assert translate_parameters("julia", "julia", {"x": "$y"}) == '# Parameters\nx = "$y"\n'


# As papermill writes it

_PLAIN: dict[str, list[Any]] = {
    "all": ["", "a", "a b", "it's", 0, -5, 2**31 - 1, 1.5, -0.0, 1e100, True, False, ["a", "b"], [1, 2, 3]],
    "python": [None, "\\\n\t\"é€😀\x00", 10**30, [], [1, [2.5, None, {"a": "b"}]], {"a": {"b": [True]}}],
    "r": [None, '\\\n\t"\x1b', "€😀", [], [1, [2.5, None, {"a": "b"}]], {"a": {"b": [True]}}, 2**40],
    "scala": [None, '\\\n\t"$', "€", 2**40, -(2**40), [], ["a", 1, None, [2.5]], {"a": {"b": [True, "x"]}}],
    "julia": [None, '\\\n\t"\x1b\x00', "€😀", 2**40, 10**30, [], ["a", 1, None], [[1], [2]], {"a": {"b": [1, "c"]}}],
    "matlab": [None, "$%\"'", [1, ["a", True, None]], [], {"a": {"b'": [1]}}, 2**53],
    "csharp": ['\\\n\t"$', "€😀", 2**40, -(2**40), 2**63, [[1], [2]], {"a": {"b": ["c"]}}, {}],
    "fsharp": [None, '\\\n\t"$é€😀\x1b', 2**40, [], [[1], [2]], {"a": {"b": ["c"]}}],
    "powershell": [None, 'a"b', 2**40, [], [1, [2, "a", None]], {"a": 1, "b": {"c": [True]}}],
    "bash": [None, "\"$x `id`\\", "a\nb", "~ * ?", 10**30, [], ["a b", 1, True, 1.5]],
}  # fmt: skip


@pytest.mark.parametrize("language", [name for name in LANGUAGES if name != "octave"])
def test_where_papermill_is_right_the_code_is_the_same(language: str) -> None:
    kernel_name, papermill_language = LANGUAGES[language]
    values = [*_PLAIN["all"], *_PLAIN[language]]
    for value in values:
        parameters = {"alpha": value, "beta_2": 1}
        expected = translate_parameters(kernel_name, papermill_language, parameters)
        assert writer(language).code(parameters) == expected, value


# Strings

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.text(
    st.sampled_from(list("\"'`$\\{}()%!;#\n\r\tab0123456789éÿ€😀\x00\x01\x1b\x7f\x85\u2028“‘’”nux")), max_size=12
)


def decoded(tokens: dict[str, Callable[[str], str]], text: str) -> str:
    """A literal taken apart by its language's rules. Every part must be one of `tokens`."""
    pattern = re.compile("|".join(f"({token})" for token in tokens), re.DOTALL)
    made, at = [], 0
    while at < len(text):
        match = pattern.match(text, at)
        assert match is not None, f"{text[at : at + 20]!r} is no part of a string"
        made.append([*tokens.values()][match.lastindex - 1](match[0]) if match.lastindex else "")
        at = match.end()
    return "".join(made)


def _by_number(text: str) -> str:
    return chr(int(text[2:], 16))


_NAMED = {r"\\n": lambda _: "\n", r"\\r": lambda _: "\r", r"\\t": lambda _: "\t", r'\\[\\"]': lambda text: text[1]}
_UNICODE = {r"\\u[0-9a-f]{4}": _by_number, r"\\U[0-9a-f]{8}": _by_number}


def _as_it_is(text: str) -> str:
    return text


@given(_TEXT)
@example("$(run(`id`)) $x")
def test_a_string_is_only_a_string_in_julia(value: str) -> None:
    text = literal("julia", value)
    assert text[0] == text[-1] == '"'
    tokens = {
        r'[^"\\$\x00-\x1f]': _as_it_is,
        **_NAMED,
        r"\\\$": lambda _: "$",
        r"\\x[0-7][0-9a-f]": _by_number,
        **_UNICODE,
    }
    assert decoded(tokens, text[1:-1]) == value


@given(_TEXT)
def test_a_string_is_only_a_string_in_fsharp(value: str) -> None:
    text = literal("fsharp", value)
    assert text[0] == text[-1] == '"'
    assert (
        decoded({r'[^"\\\x00-\x1f]': _as_it_is, **_NAMED, r"\\x[0-9a-f]{2}": _by_number, **_UNICODE}, text[1:-1])
        == value
    )


@given(_TEXT)
def test_a_string_is_only_a_string_in_csharp(value: str) -> None:
    text = literal("csharp", value)
    assert text[0] == text[-1] == '"'
    assert decoded({r'[^"\\\x00-\x1f]': _as_it_is, **_NAMED, **_UNICODE}, text[1:-1]) == value


@given(_TEXT)
@example("\\u0022")
def test_a_string_is_only_a_string_in_scala(value: str) -> None:
    text = literal("scala", value)
    assert text[0] == text[-1] == '"'
    tokens = {r'[^"\\\x00-\x1f]': _as_it_is, **_NAMED, r"\\u[0-9a-f]{4}": _by_number}
    units = decoded(tokens, text[1:-1])
    assert units.encode("utf-16", "surrogatepass").decode("utf-16") == value


@given(_TEXT)
def test_a_string_is_only_a_string_in_r(value: str) -> None:
    if "\0" in value:
        assert "NUL" in refusal("r", value)
        return
    text = literal("r", value)
    assert text[0] == text[-1] == '"'
    # R does not allow escapes of both kinds in one string, and takes the first for a byte.
    byte = r"\\x[0-7][0-9a-f]" if value.isascii() else r"(?!)"
    tokens = {r'[^"\\\x00-\x1f]': _as_it_is, **_NAMED, byte: _by_number, **_UNICODE}
    assert decoded(tokens, text[1:-1]) == value


@given(_TEXT)
@example("$(Remove-Item x) ${x} `n “ ” ‘")
def test_a_string_is_only_a_string_in_powershell(value: str) -> None:
    text = literal("powershell", value)
    assert text[0] == text[-1] == '"'
    tokens = {
        r'[^"`$\x00-\x1f\u2018-\u201f]': _as_it_is,
        r"\u201f": _as_it_is,
        "`n": lambda _: "\n",
        "`r": lambda _: "\r",
        "`t": lambda _: "\t",
        '`[`$"]': lambda token: token[1],
        r"\$\(\[char\]0x[0-9a-f]+\)": lambda token: chr(int(token[10:-1], 16)),
    }
    units = decoded(tokens, text[1:-1])
    assert units.encode("utf-16", "surrogatepass").decode("utf-16") == value


@given(_TEXT)
@example("char(1)\nchar(2)")
@example('"\n"')
def test_a_string_is_only_a_string_in_matlab(value: str) -> None:
    tokens: dict[str, Callable[[str], str]] = {
        r'"(?:[^"\x00-\x1f]|"")*"': lambda token: token[1:-1].replace('""', '"'),
        r"char\(\d+\)": lambda token: chr(int(token[5:-1])),
    }
    text = literal("matlab", value)
    if text[0] == "(":
        parts = re.findall(rf"({'|'.join(tokens)})( \+ |\)\Z)", text[1:])
        assert "(" + "".join(part + plus for part, plus in parts) == text
        assert parts[0][0][0] == '"'
        assert "".join(decoded(tokens, part) for part, _ in parts) == value
    else:
        assert decoded(tokens, text) == value


@given(_TEXT)
def test_a_string_is_only_a_string_in_octave(value: str) -> None:
    text = literal("octave", value)
    assert text[0] == text[-1] == '"'
    tokens = {r'[^"\\\x00-\x1f]': _as_it_is, **_NAMED, r"\\[0-7]{3}": lambda token: chr(int(token[1:], 8))}
    assert decoded(tokens, text[1:-1]) == value


@pytest.mark.parametrize("language", ["r", "julia", "matlab", "octave", "bash"])
def test_half_a_character_is_refused_where_strings_are_unicode(language: str) -> None:
    assert "lone surrogate" in refusal(language, "\ud800")
    assert "lone surrogate" in refusal(language, ["\udfff"])


@pytest.mark.parametrize("language", ["python", "scala", "csharp", "fsharp", "powershell"])
def test_half_a_character_is_written_where_strings_are_utf_16(language: str) -> None:
    assert "d800" in literal(language, "\ud800")


# Numbers


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), [float("nan")], {"a": [float("inf")]}])
@pytest.mark.parametrize("language", LANGUAGES)
def test_what_json_has_no_number_for_is_refused_by_rule(language: str, value: Any) -> None:
    assert "neither NaN nor infinities" in refusal(language, value)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "nan", "null", "true", "1"])
def test_a_string_that_looks_like_something_else_stays_a_string(language: str, value: str) -> None:
    assert literal(language, value) == (value if language == "bash" else f'"{value}"')


@pytest.mark.parametrize(
    ("language", "value", "expected"),
    [
        ("r", 2**60, str(2**60)),
        ("r", 2**53 + 1, None),
        ("r", -(2**53) - 1, None),
        ("r", 10**400, None),
        ("scala", 2**31, "2147483648L"),
        ("scala", -(2**63), "-9223372036854775808L"),
        ("scala", 2**63, 'BigInt("9223372036854775808")'),
        ("julia", 10**40, str(10**40)),
        ("matlab", 2**53 + 1, "int64(9007199254740993)"),
        ("matlab", -(2**53) - 1, "-int64(9007199254740993)"),
        ("matlab", 2**64 - 1, "uint64(18446744073709551615)"),
        ("matlab", 10**22, str(10**22)),
        ("matlab", 10**30 + 1, None),
        ("csharp", 2**64, 'System.Numerics.BigInteger.Parse("18446744073709551616")'),
        ("csharp", -(2**63) - 1, 'System.Numerics.BigInteger.Parse("-9223372036854775809")'),
        ("fsharp", 2**63, "9223372036854775808I"),
        ("powershell", 2**63, '[bigint]::Parse("9223372036854775808")'),
        ("bash", 10**40, str(10**40)),
    ],
)
def test_an_integer_keeps_every_digit_or_is_refused(language: str, value: int, expected: str | None) -> None:
    if expected is None:
        assert "exactly" in refusal(language, value)
    else:
        assert literal(language, value) == expected


@pytest.mark.parametrize("language", LANGUAGES)
def test_an_integer_that_nothing_can_read_is_refused(language: str) -> None:
    refusal(language, 1 << 20_000)


# Lists and objects


@pytest.mark.parametrize(
    ("language", "value", "expected"),
    [
        ("julia", [1, 2.5], "Any[1, 2.5]"),  # would be promoted to floats
        ("julia", [True, 1], "Any[true, 1]"),
        ("julia", [[1], [2.5]], "Any[[1], [2.5]]"),
        ("scala", [1, 2.5], "Seq[Any](1, 2.5)"),
        ("csharp", [1, 2.5], "new object[] { 1, 2.5 }"),
        ("csharp", [1, "a"], 'new object[] { 1, "a" }'),
        ("csharp", [], "new object[] {  }"),
        ("csharp", [None], "new object[] { null }"),
        ("csharp", {"a": None}, 'new Dictionary<string,Object>{ { "a" , null } }'),
        ("fsharp", [1, "a"], '[ box (1); box ("a") ]'),
        ("fsharp", {}, "(Map.empty : Map<string, IComparable>)"),
        ("powershell", [[1, 2]], "@(, @(1, 2))"),  # would be the inner list
        ("powershell", [[]], "@(, @())"),
        ("r", {"": 1}, 'structure(list(1), names = c(""))'),
        ("matlab", {}, "containers.Map()"),
        ("bash", ["a", None, "b"], "(a '' b)"),  # would be two words
    ],
)
def test_what_papermill_writes_wrong_is_written_right(language: str, value: Any, expected: str) -> None:
    assert literal(language, value) == expected


def test_null_needs_a_type_in_csharp() -> None:
    assert writer("csharp").code({"x": None}) == "// Parameters\nobject x = null;\n"


@pytest.mark.parametrize(
    ("language", "value", "reported"),
    [
        ("bash", {"a": 1}, "no value for an object"),
        ("bash", [[1]], "neither lists nor objects"),
        ("bash", [{}], "neither lists nor objects"),
        ("bash", "a\0b", "NUL"),
        ("r", "a\0b", "NUL"),
        ("powershell", {"a": 1, "A": 2}, "only in case"),
        ("octave", {"": 1}, "empty key"),
        ("scala", "é" * 40_000, "65535"),
        ("python", (1, 2), "tuple is no type of JSON"),
        ("python", {1: 2}, "strings"),
    ],
)
def test_what_a_language_cannot_hold_is_refused_by_name(language: str, value: Any, reported: str) -> None:
    message = refusal(language, value)

    assert reported in message
    assert "parameter 'x' cannot be written in" in message


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_is_nested_too_deeply_is_refused(language: str) -> None:
    value: Any = 1
    for _ in range(5000):
        value = [value]
    refusal(language, value)


# Names

_GOOD = {
    "python": ["a", "_a", "été", "名", "match", "print"],
    "r": ["a", "a.b", ".a", "été", "T", "a_b", "Function"],
    "scala": ["a", "_a", "été", "a$b", "then", "Val"],
    "julia": ["a", "_a", "été", "a!", "struct_"],
    "matlab": ["a", "A_1", "a" * 63],
    "csharp": ["a", "_a", "été", "var", "Class"],
    "fsharp": ["a", "_a", "été", "Let"],
    "powershell": ["a", "_a", "été", "1a", "if"],
    "bash": ["a", "_a", "A1", "if"],
    "octave": ["a", "_a", "a" * 70],
}
_BAD = {
    "python": ["class", "None", "a.b", "__debug__", "a b", "²"],
    "r": ["if", "TRUE", "function", "_a", ".1a", "...", "..1", "NA_integer_", "in", "a-b", "a$b"],
    "scala": ["val", "def", "_", "a.b", "type", "`a`"],
    "julia": ["end", "function", "a.b", "_", "__", "!a", "true", "in"],
    "matlab": ["end", "_a", "é", "a.b", "a" * 64, "parfor"],
    "csharp": ["class", "int", "@class", "a.b", "null"],
    "fsharp": ["let", "rec", "a'", "a.b", "``a b``", "_"],
    "powershell": ["true", "NULL", "PID", "_", "a:b", "env:PATH", "{a}", "Error", "a-b"],
    "bash": ["é", "a.b", "UID", "PS1", "PROMPT_COMMAND", "a[0]", "BASH_ENV", "a+"],
    "octave": ["end", "endif", "until", "é", "a.b"],
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_name_of_the_language_is_accepted(language: str) -> None:
    for name in _GOOD[language]:
        assert name in writer(language).code({name: 1})


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_is_no_name_in_the_language_is_refused(language: str) -> None:
    for name in [
        *_BAD[language],
        "",
        " a",
        "a ",
        "a\n",
        "a;b",
        "a=1;b",
        "a(b)",
        "$a",
        "#",
        "a\0",
        "a\u2028",
        "(touch x)",
    ]:
        message = refusal(language, 1, name)
        assert repr(name) in message
        assert f"{writer(language).language} variable" in message


# Python and Bash as they read it themselves

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(_JSON)
def test_any_json_arrives_in_python_as_it_is(value: Any) -> None:
    namespace: dict[str, Any] = {}
    exec(writer("python").code({"x": value}), namespace)

    assert repr(namespace["x"]) == repr(value)  # of the same types, and with the sign of zero


@examples(60)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30), max_size=5))
@example(["$(touch injected)", "`touch injected`", "'; touch injected; '", "a\nb!x\n!y", "\t\x03\x04\x15", "é😀\u2028"])
@example(["[0]=x", "-n", "~", "*", "{a,b}", "", "\\", "'"])
def test_any_strings_arrive_in_bash_as_they_are(values: list[str]) -> None:
    script = writer("bash").code({"list": values, **{f"x{number}": value for number, value in enumerate(values)}})
    script += 'printf "%s\\0" "${list[@]}"\n' + "".join(f'printf "%s\\0" "$x{n}"\n' for n in range(len(values)))
    done = subprocess.run(["bash", "--norc"], input=script.encode(), capture_output=True, timeout=20, check=True)

    assert done.stderr == b""
    expected = values + values if values else [""]  # printf without arguments prints one empty text
    assert done.stdout.decode().split("\0")[:-1] == expected
