"""Parameter values as the interpreters of other languages see them: nothing changes on the way, and nothing is run.

Each language prints every value in one plain form, which is compared with what Python makes of the same value. A test
is skipped where its interpreter is missing.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from papermill_mcp.core.papermill.code.languages import writer_for

_STRINGS = [
    "", "a", "a'b\"c`d", "a\\nb", "\\", "\\\\\"", "a\nb\r\n\tc", "é", "é€😀", "éab\x01f", "\x01f", "\x1b[0m\x7f\x85",
    "\u2028\u2029\u200b\xa0", "$x ${x} $(touch injected) `touch injected`", "%d %s %%", "#{x} {x} @x", "“‘’”„",
    "\\u0022", "\\x41\\101", "'''\"\"\"", "char(65)\nchar(66)", "NaN", "TRUE", "null", "1", "\x1a", "\x04",
    "\");system(\"touch injected\");(\"", "';system('touch injected');'", "*/ // -- # % (*", "a" * 5000,
    "\nsystem(\"touch injected\")\n", "\"\nsystem(\"touch injected\")\n\"", "!x !! \n!x", "~ * ? [a] {a,b} <(ls)",
]  # fmt: skip
_INTEGERS = [0, 1, -1, 2**31 - 1, 2**31, -(2**31), -(2**31) - 1, 2**53, -(2**53), 10**15]
_LARGE = [2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63), 2**63, 2**64 - 1, 10**30 + 1, -(10**30) - 1]
_FLOATS = [0.0, -0.0, 0.1, -2.5, 1.0, 1e16, 1e100, 1.5e-300, 5e-324, 1.7976931348623157e308, 123456789.123456789, 1 / 3]
_OTHERS: list[Any] = [
    None, True, False, [], [None], [True, 1], [1, 2.5], [1, 2.5, True, None, "x"], [[1], [2.5]], [[]], [[1, 2]],
    [["a"]], [[], {}], [{"a": 1}, {"a": 2.5}], {"a": 1, "b": 2.5, "c": True, "d": None, "e": "x"}, [[None], [1, "a"]],
    {"é k'\"$`\\": [1, {"b": [2]}]}, {"": 1}, {"a\nb": {"%": 1}},
]  # fmt: skip
_ALL = [*_STRINGS, *_INTEGERS, *_FLOATS, *_OTHERS]


def nested(kernel_name: str, language: str) -> Any:
    """Lists in each other, as deep as they may be."""
    value: Any = 1
    for _ in range(writer_for(kernel_name, language).max_depth):
        value = [value]
    return value


def plain(value: Any, number: Callable[[Any], str], null: str = "null", empty_object: str = "{}") -> str:
    """A value in the plain form: strings as hexadecimal UTF-8, objects in the order of their keys."""
    if value is None:
        return null
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return "s" + value.encode().hex()
    if isinstance(value, list):
        return "[" + ",".join(plain(item, number, null, empty_object) for item in value) + "]"
    if isinstance(value, dict):
        items = sorted((key.encode().hex(), plain(item, number, null, empty_object)) for key, item in value.items())
        return "{" + ",".join(f"{key}:{item}" for key, item in items) + "}" if items else empty_object
    return number(value)


def double(value: Any) -> str:
    """A number where all are doubles."""
    return f"n{float(value):.17g}"


def typed(value: Any) -> str:
    """A number where integers and floats differ; of floats every bit counts."""
    return f"i{value}" if isinstance(value, int) else "f" + struct.pack(">d", value).hex()


def output(command: list[str], directory: Path) -> list[str]:
    """The lines that an interpreter prints. No value that is code may have been run."""
    done = subprocess.run(
        command, cwd=directory, capture_output=True, text=True, encoding="utf-8", timeout=110, check=False
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-2000:]
    assert not (directory / "injected").exists(), "a value was run as code"
    return done.stdout.splitlines()


def needs(command: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(command) is None, reason=f"{command} is not installed")


def check(values: list[Any], expected: list[str], printed: list[str]) -> None:
    assert len(printed) == len(values)
    for value, wanted, got in zip(values, expected, printed, strict=True):
        assert got == wanted, value


_R = r"""
plain <- function(x) {
  if (is.null(x)) return("null")
  if (is.list(x)) {
    parts <- vapply(x, plain, "")
    if (is.null(names(x))) return(paste0("[", paste(parts, collapse = ","), "]"))
    keys <- vapply(names(x), hex, "")
    items <- paste0(keys, ":", parts)[order(keys, method = "radix")]
    return(paste0("{", paste(items, collapse = ","), "}"))
  }
  if (is.logical(x)) return(tolower(as.character(x)))
  if (is.character(x)) return(paste0("s", hex(x)))
  sprintf("n%.17g", x)
}
hex <- function(x) {
  stopifnot(validUTF8(x))
  paste(as.character(charToRaw(enc2utf8(x))), collapse = "")
}
"""


@needs("Rscript")
@pytest.mark.slow
def test_values_arrive_in_r(tmp_path: Path) -> None:
    values = [*_ALL, nested("ir", "R"), 2.0**70, int(2.0**70), {"x" * 20_000: 1}]
    script = tmp_path / "script.R"
    code = [writer_for("ir", "R").code({"x": value}) + 'cat(plain(x), "\\n", sep = "")\n' for value in values]
    script.write_text(_R + "".join(code), encoding="utf-8")

    printed = output(["Rscript", "--vanilla", "--encoding=UTF-8", str(script)], tmp_path)
    check(values, [plain(value, double, empty_object="[]") for value in values], printed)


_OCTAVE = r"""
1;
function text = hex (x)
  text = sprintf ("%02x", uint8 (x));
end
function text = plain (x)
  if (ischar (x))
    text = ["s" hex(x)];
  elseif (iscell (x))
    text = ["[" strjoin(cellfun (@plain, x, "UniformOutput", false), ",") "]"];
  elseif (isobject (x))
    names = keys (x); items = {};
    for i = 1:numel (names)
      items{end+1} = [hex(names{i}) ":" plain(x(names{i}))];
    end
    text = ["{" strjoin(sort (items), ",") "}"];
  elseif (islogical (x))
    text = ifelse_ (x, "true", "false");
  elseif (isinteger (x))
    text = ["i" strtrim(disp (x))];
  elseif (isnan (x))
    text = "null";
  else
    text = sprintf ("n%.17g", x);
  end
end
function y = ifelse_ (x, a, b)
  if (x) y = a; else y = b; end
end
"""


@needs("octave")
@pytest.mark.slow
def test_values_arrive_in_octave(tmp_path: Path) -> None:
    values = [*_ALL, nested("octave", "octave"), 2**53 + 1, 2**63 - 1, -(2**53) - 1, 2**64 - 1]
    values.remove({"": 1})  # refused
    script = tmp_path / "script.m"
    code = [writer_for("octave", "octave").code({"x": value}) + 'printf ("%s\\n", plain (x));\n' for value in values]
    script.write_text(_OCTAVE + "".join(code), encoding="utf-8")

    printed = output(["octave", "--no-gui", "--norc", "--quiet", str(script)], tmp_path)
    check(
        values,
        [plain(value, lambda n: f"i{n}" if isinstance(n, int) and abs(n) > 2**53 else double(n)) for value in values],
        printed,
    )


_SCALA = r"""
def hex(x: String) = x.getBytes("UTF-8").map("%02x".format(_)).mkString
def plain(x: Any): String = x match {
  case None => "null"
  case x: Boolean => x.toString
  case x: String => "s" + hex(x)
  case x: Double => "f" + "%016x".format(java.lang.Double.doubleToLongBits(x))
  case x: Seq[_] => x.map(plain).mkString("[", ",", "]")
  case x: Map[_, _] => x.toSeq.map { case (k, v) => hex(k.toString) + ":" + plain(v) }.sorted.mkString("{", ",", "}")
  case x => "i" + x.toString
}
"""


@needs("scala")
@pytest.mark.slow
def test_values_arrive_in_scala(tmp_path: Path) -> None:
    values = [*_ALL, *_LARGE, nested("spark", "scala")]
    script = tmp_path / "script.scala"
    code = [
        f"{{\n{writer_for('spylon-kernel', 'scala').code({'x': value})}println(plain(x))\n}};\n" for value in values
    ]
    script.write_text(_SCALA + "".join(code), encoding="utf-8")

    printed = output(["scala", "-nc", "-encoding", "UTF-8", str(script)], tmp_path)
    check(values, [plain(value, typed) for value in values], printed)


_CSHARP = r"""
using System; using System.Collections.Generic; using System.Linq; using System.Text;
class Script {
  static string Hex(string x) { return string.Concat(Encoding.UTF8.GetBytes(x).Select(b => b.ToString("x2"))); }
  static string Plain(object x) {
    if (x == null) return "null";
    if (x is bool) return (bool)x ? "true" : "false";
    if (x is string) return "s" + Hex((string)x);
    if (x is double) return "f" + BitConverter.DoubleToInt64Bits((double)x).ToString("x16");
    var map = x as Dictionary<string, Object>;
    if (map != null) {
      var items = map.Select(p => Hex(p.Key) + ":" + Plain(p.Value)).ToList();
      items.Sort(string.CompareOrdinal);
      return "{" + string.Join(",", items) + "}";
    }
    var list = x as Array;
    if (list != null) return "[" + string.Join(",", list.Cast<object>().Select(Plain)) + "]";
    return "i" + x;
  }
  static void Main() {
%s  }
}
"""


@needs("mcs")
@needs("mono")
@pytest.mark.slow
def test_values_arrive_in_csharp(tmp_path: Path) -> None:
    values = [*_ALL, *_LARGE, nested(".net-csharp", "C#")]
    script = tmp_path / "script.cs"
    code = [
        f"{{\n{writer_for('.net-csharp', 'C#').code({'x': value})}Console.WriteLine(Plain(x));\n}}\n"
        for value in values
    ]
    script.write_text(_CSHARP.replace("%s", "".join(code)), encoding="utf-8")

    output(["mcs", "-r:System.Numerics", "-codepage:utf8", "-out:script.exe", str(script)], tmp_path)
    check(values, [plain(value, typed) for value in values], output(["mono", "script.exe"], tmp_path))
