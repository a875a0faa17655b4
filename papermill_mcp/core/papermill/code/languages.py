"""How parameters are written as code, in every language that papermill has a translator for.

Papermill's translators leave holes: a `$` in a Julia or PowerShell string is code, an `é` in R or Julia becomes a
broken byte, C# reads too many digits of an escape, large integers lose digits. So the code is written here, as
papermill writes it where papermill is right. A value that a language cannot hold is refused. Papermill's own
registry is only asked which language a kernel speaks; other users of it in this process see no change.
"""

from __future__ import annotations

import keyword
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from papermill.exceptions import PapermillException
from papermill.translators import (
    BashTranslator,
    CSharpTranslator,
    FSharpTranslator,
    JuliaTranslator,
    MatlabTranslator,
    PowershellTranslator,
    PythonTranslator,
    RTranslator,
    ScalaTranslator,
    papermill_translators,
)

from papermill_mcp.core.papermill.code.writer import UnwritableError, Writer, refuse_surrogates, utf16, words
from papermill_mcp.errors import InvalidParametersError, nearest

_EXACT = 2**53  # up to here every integer is a double


class Translated(Writer):
    """Lets a translator of papermill's write: one that is right, or one that the user has registered."""

    name = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")

    def __init__(self, translator: Any, language: str) -> None:
        self._translator = translator
        self.language = language

    def code(self, values: Mapping[str, Any]) -> str:
        """The code of the translator; for Python, Black formats it if it is installed."""
        super().code(values)  # checks
        try:
            return str(self._translator.codify(dict(values)))
        except (PapermillException, NotImplementedError) as error:
            raise InvalidParametersError(
                f"these parameters cannot be written in {self.language}: {error}", state="nothing was run"
            ) from error

    def assignment(self, name: str, value: Any) -> str:
        """Nothing: the translator writes all at once."""
        return ""


class Python(Translated):
    """Papermill is right here."""

    reserved = frozenset({*keyword.kwlist, "__debug__"})
    max_depth = 90  # of 200 brackets

    def __init__(self) -> None:
        super().__init__(PythonTranslator, "Python")

    def check(self, values: Mapping[str, Any]) -> None:
        """See `Writer.check`. The translator is left out: it looks for Black each time, and runs it if it is there."""
        Writer.code(self, values)

    def is_name(self, name: str) -> bool:
        """Whether a name is an identifier."""
        return name.isidentifier()


class R(Writer):
    """R takes `\\x` for a byte and mixes no escapes, so all but ASCII is written as `\\u`. Its numbers are doubles."""

    language = "R"
    # Papermill drops a leading underscore, which makes another name of it.
    name = re.compile(r"(?:[^\W\d_]|\.(?!\d))[\w.]*\Z")
    name_rule = "a name has letters, digits, . and _, and begins with a letter or ."
    reserved = words(
        "if else repeat while function for next break TRUE FALSE NULL Inf NaN NA NA_integer_ NA_real_ NA_character_ "
        "NA_complex_ in ..."
    )
    null = "NULL"
    false_true = ("FALSE", "TRUE")

    def is_reserved(self, name: str) -> bool:
        """Also `..1` and its like."""
        return super().is_reserved(name) or re.fullmatch(r"\.\.\d+", name) is not None

    def integer(self, value: int) -> str:
        """A number that a double holds."""
        return str(_exact(value))

    def text(self, value: str) -> str:
        """A string, without NUL."""
        refuse_surrogates(value)
        if "\0" in value:
            raise UnwritableError("a string has the character NUL, which R has not")
        if value.isascii():  # papermill is right
            return '"' + value.encode("unicode_escape").decode("ascii").replace('"', '\\"') + '"'
        return super().text(value)

    def array(self, values: Sequence[Any]) -> str:
        """A list."""
        return f"list({self.joined(values)})"

    def table(self, values: Mapping[str, Any]) -> str:
        """A list with names. An empty or a very long one cannot stand before a `=`."""
        if all(key and len(key.encode("utf-8", "replace")) <= 10_000 for key in values):
            return f"list({', '.join(f'{self.text(key)} = {self.value(item)}' for key, item in values.items())})"
        return f"structure({self.array([*values.values()])}, names = c({', '.join(map(self.text, values))}))"


def _exact(value: int) -> int:
    """An integer, refused if a double cannot hold it."""
    try:
        exact = int(float(value)) == value
    except OverflowError:
        exact = False
    if not exact:
        raise UnwritableError("its numbers are doubles, which cannot hold this integer exactly; pass it as a string")
    return value


class Scala(Writer):
    """A string is UTF-16. A list of integers and floats would become one of floats."""

    language = "Scala"
    name = re.compile(r"[^\W\d][\w$]*\Z")
    reserved = words(
        "abstract case catch class def do else extends false final finally for forSome if implicit import lazy match "
        "new null object override package private protected return sealed super this throw trait true try type val "
        "var while with yield _"
    )
    comment = "// Parameters"
    null = "None"

    def assignment(self, name: str, value: Any) -> str:
        """A value definition."""
        return f"val {name} = {self.value(value)}"

    def integer(self, value: int) -> str:
        """An Int, a Long, or a BigInt."""
        if -(2**31) <= value < 2**31:
            return str(value)
        return f"{value}L" if -(2**63) <= value < 2**63 else f'BigInt("{value}")'

    def text(self, value: str) -> str:
        """A string that fits into a class file."""
        size = sum(1 if 0 < unit < 0x80 else 2 if unit < 0x800 else 3 for char in value for unit in utf16(char))
        if size > 65535:
            raise UnwritableError("a string is longer than the 65535 bytes of a constant")
        return super().text(value)

    def unicode(self, char: str) -> str:
        """Escapes are of 16 bits."""
        return "".join(f"\\u{unit:04x}" for unit in utf16(char))

    def array(self, values: Sequence[Any]) -> str:
        """A Seq."""
        kinds = {type(value) for value in values}
        return f"Seq{'[Any]' if {int, float} <= kinds else ''}({self.joined(values)})"

    def table(self, values: Mapping[str, Any]) -> str:
        """A Map."""
        return f"Map({', '.join(f'{self.text(key)} -> {self.value(item)}' for key, item in values.items())})"


class Julia(Writer):
    """`$` in a string is code. A list of different numbers would become one of the widest kind."""

    language = "Julia"
    name = re.compile(r"[^\W\d][\w!]*\Z")
    reserved = words(
        "baremodule begin break catch const continue do else elseif end export false finally for function global if "
        "import in isa let local macro module quote return struct true try using where while"
    )
    null = "nothing"
    hex_escapes_below = 0x80

    def is_reserved(self, name: str) -> bool:
        """Also names that can only be written to."""
        return super().is_reserved(name) or not name.strip("_")

    def text(self, value: str) -> str:
        """A string."""
        refuse_surrogates(value)
        return super().text(value)

    def char(self, char: str) -> str:
        """A character in a string."""
        return "\\$" if char == "$" else super().char(char)

    def array(self, values: Sequence[Any]) -> str:
        """A vector, of `Any` where promotion would change the numbers in it."""
        return f"{'Any' if len(_numbers(values)) > 1 else ''}[{self.joined(values)}]"

    def table(self, values: Mapping[str, Any]) -> str:
        """A Dict."""
        return f"Dict({', '.join(f'{self.text(key)} => {self.value(item)}' for key, item in values.items())})"


def _numbers(value: Any) -> set[type]:
    """The kinds of numbers, booleans included, anywhere in a value."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return set[type]().union(*map(_numbers, value))
    return {type(value)} & {bool, int, float}


class Matlab(Writer):
    """A string has no escapes but the doubled quote; numbers are doubles unless they are made otherwise."""

    language = "MATLAB"
    name = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}\Z")
    name_rule = "a name has at most 63 ASCII letters, digits and _, and begins with a letter"
    reserved = words(
        "break case catch classdef continue else elseif end for function global if otherwise parfor persistent return "
        "spmd switch try while"
    )
    comment = "% Parameters"
    null = "NaN"

    def assignment(self, name: str, value: Any) -> str:
        """A statement that displays nothing."""
        return f"{name} = {self.value(value)};"

    def integer(self, value: int) -> str:
        """A double, or an integer type that holds it."""
        if abs(value) <= _EXACT:
            return str(value)
        for kind, least, most in (("int64", -(2**63) + 1, 2**63), ("uint64", 0, 2**64)):
            if least <= value < most:
                return f"{'-' if value < 0 else ''}{kind}({abs(value)})"
        return str(_exact(value))

    def text(self, value: str) -> str:
        """A string; control characters are added by their numbers."""
        parts = _quoted_parts(value, '"')
        return parts[0] if len(parts) == 1 else f"({' + '.join(parts)})"

    def array(self, values: Sequence[Any]) -> str:
        """A cell array."""
        return f"{{{self.joined(values)}}}"

    def table(self, values: Mapping[str, Any]) -> str:
        """A map with character arrays as keys."""
        if not values:
            return "containers.Map()"
        keys = ", ".join(self.key(key) for key in values)
        return f"containers.Map({{{keys}}}, {{{self.joined([*values.values()])}}})"

    def key(self, key: str) -> str:
        """A character array."""
        parts = _quoted_parts(key, "'")
        return parts[0] if len(parts) == 1 else f"[{', '.join(parts)}]"


def _quoted_parts(value: str, quote: str) -> list[str]:
    """A string as MATLAB literals and control characters in turn. The first is a literal, so that `+` joins texts."""
    refuse_surrogates(value)
    parts = re.split(r"([\x00-\x1f\x7f-\x9f\u2028\u2029])", value)
    return [
        f"char({ord(part)})" if number % 2 else quote + part.replace(quote, quote * 2) + quote
        for number, part in enumerate(parts)
        if part or number == 0
    ]


class Octave(Matlab):
    """Papermill has no translator for Octave. Its strings have escapes, and all are character arrays."""

    language = "Octave"
    name = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
    reserved = Matlab.reserved | words(
        "do until end_try_catch end_unwind_protect endfor endfunction endif endparfor endswitch endwhile "
        "unwind_protect unwind_protect_cleanup __FILE__ __LINE__"
    )

    def text(self, value: str) -> str:
        """A string in double quotes."""
        refuse_surrogates(value)
        return Writer.text(self, value)

    def key(self, key: str) -> str:
        """A string that is not empty, which Octave's maps cannot have as a key."""
        if not key:
            raise UnwritableError("an object has an empty key, which Octave's maps cannot hold")
        return self.text(key)

    def unicode(self, char: str) -> str:
        """Control characters by number, others as they are."""
        return f"\\{ord(char):03o}" if char < " " or char == "\x7f" else char


class CSharp(Writer):
    """`\\x` takes as many digits as follow, so it is not used. A list needs one type for all that is in it."""

    language = "C#"
    reserved = words(
        "abstract as base bool break byte case catch char checked class const continue decimal default delegate do "
        "double else enum event explicit extern false finally fixed float for foreach goto if implicit in int "
        "interface internal is lock long namespace new null object operator out override params private protected "
        "public readonly ref return sbyte sealed short sizeof stackalloc static string struct switch this throw true "
        "try typeof uint ulong unchecked unsafe ushort using virtual void volatile while"
    )
    comment = "// Parameters"

    def assignment(self, name: str, value: Any) -> str:
        """A declaration; `null` alone has no type."""
        return f"{'object' if value is None else 'var'} {name} = {self.value(value)};"

    def integer(self, value: int) -> str:
        """An int, a long, a ulong, or a BigInteger."""
        if -(2**31) <= value < 2**31:
            return str(value)
        if -(2**63) <= value < 2**64:
            return f"{value}L"
        return f'System.Numerics.BigInteger.Parse("{value}")'

    def array(self, values: Sequence[Any]) -> str:
        """An array."""
        kind = "" if _element_kind(values) not in (None, "null") else "object"
        return f"new {kind}[] {{ {self.joined(values)} }}"

    def table(self, values: Mapping[str, Any]) -> str:
        """A dictionary of objects."""
        pairs = ", ".join(f"{{ {self.text(key)} , {self.value(item)} }}" for key, item in values.items())
        return f"new Dictionary<string,Object>{{ {pairs} }}"


def _kind(value: Any) -> str:
    """The static type of a value, in a language that has such."""
    if isinstance(value, list):
        kind = _element_kind(value)
        return f"{kind}[]" if kind else "object[]"
    if isinstance(value, int) and not isinstance(value, bool):
        widths = (("int", 2**31), ("long", 2**63), ("ulong", 2**64))
        return next((kind for kind, end in widths if (0 if kind == "ulong" else -end) <= value < end), "big")
    return "null" if value is None else type(value).__name__


def _element_kind(values: Sequence[Any]) -> str | None:
    """The one type of all elements, or None."""
    kinds = {_kind(value) for value in values}
    return kinds.pop() if len(kinds) == 1 else None


class FSharp(Writer):
    """A list needs one type for all that is in it."""

    language = "F#"
    reserved = words(
        "abstract and as assert base begin class default delegate do done downcast downto elif else end exception "
        "extern false finally fixed for fun function global if in inherit inline interface internal lazy let match "
        "member module mutable namespace new not null of open or override private public rec return sig static struct "
        "then to true try type upcast use val void when while with yield _ const asr land lor lsl lsr lxor mod atomic "
        "break checked component constraint constructor continue event external include mixin parallel process "
        "protected pure sealed tailcall trait virtual"
    )
    comment = "(* Parameters *)"
    null = "None"
    hex_escapes_below = 0x100

    def assignment(self, name: str, value: Any) -> str:
        """A binding."""
        return f"let {name} = {self.value(value)}"

    def integer(self, value: int) -> str:
        """An int, an int64, or a bigint."""
        if -(2**31) <= value < 2**31:
            return str(value)
        return f"{value}L" if -(2**63) <= value < 2**63 else f"{value}I"

    def array(self, values: Sequence[Any]) -> str:
        """A list, of objects if the elements differ."""
        if not values or _element_kind(values):
            return f"[ {self.joined(values, '; ')} ]"
        return f"[ {'; '.join(f'box ({self.value(value)})' for value in values)} ]"

    def table(self, values: Mapping[str, Any]) -> str:
        """A Map."""
        if not values:
            return "(Map.empty : Map<string, IComparable>)"
        pairs = "; ".join(f"({self.text(key)}, {self.value(item)} :> IComparable)" for key, item in values.items())
        return f"[ {pairs} ] |> Map.ofList"


class PowerShell(Writer):
    """`$` in a string is code, the backtick escapes, and curly quotes are quotes, too."""

    language = "PowerShell"
    name = re.compile(r"\w+\Z")
    # In upper or lower case: constants, read-only variables, and those that PowerShell sets itself.
    reserved = words(
        "_ args consolefilename enabledexperimentalfeatures error executioncontext false foreach home host input "
        "iscoreclr islinux ismacos iswindows matches myinvocation nestedpromptlevel null pid psboundparameters "
        "pscmdlet pscommandpath psculture psedition pshome psitem psscriptroot psuiculture psversiontable pwd sender "
        "shellid stacktrace switch this true"
    )
    null = "$Null"
    false_true = ("$False", "$True")

    _chars: ClassVar[dict[str, str]] = {
        "`": "``", "$": "`$", '"': '`"', "\n": "`n", "\r": "`r", "\t": "`t",
    }  # fmt: skip

    def is_reserved(self, name: str) -> bool:
        """Names are compared without case."""
        return name.lower() in self.reserved

    def assignment(self, name: str, value: Any) -> str:
        """An assignment."""
        return f"${name} = {self.value(value)}"

    def integer(self, value: int) -> str:
        """An int, a long, or a bigint."""
        return str(value) if -(2**63) < value < 2**63 else f'[bigint]::Parse("{value}")'

    def char(self, char: str) -> str:
        """A character in a string. One that is not printable is made from its number, as every version can."""
        if char in self._chars:
            return self._chars[char]
        if char.isprintable() and char not in "\u2018\u2019\u201a\u201b\u201c\u201d\u201e":
            return char
        return "".join(f"$([char]0x{unit:x})" for unit in utf16(char))

    def array(self, values: Sequence[Any]) -> str:
        """An array. One that has only a list in it would fall into that."""
        alone = len(values) == 1 and isinstance(values[0], list)
        return f"@({', ' if alone else ''}{self.joined(values)})"

    def table(self, values: Mapping[str, Any]) -> str:
        """A hash table, which has keys without case."""
        if len({key.lower() for key in values}) < len(values):
            raise UnwritableError("an object has keys that differ only in case")
        pairs = "\n ".join(f"{self.text(key)} = {self.value(item)}" for key, item in values.items())
        return f"@{{{pairs}}}"


class Bash(Writer):
    """Everything is text. A list is an array of texts, and there is nothing for a list in a list or an object."""

    language = "Bash"
    name = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
    # Read-only, or run by the shell as code.
    reserved = words("BASHOPTS BASH_VERSINFO EUID PPID SHELLOPTS UID _ BASH_ENV ENV PROMPT_COMMAND PS0 PS1 PS2 PS3 PS4")
    null = ""

    def assignment(self, name: str, value: Any) -> str:
        """An assignment, without spaces."""
        return f"{name}={self.value(value)}"

    def text(self, value: str) -> str:
        """A word in single quotes where it needs them.

        The kernel types the code into an interactive shell. So characters that a terminal or the line editor takes
        for commands go in by their numbers, and `!` too, since the editor looks for it line by line.
        """
        refuse_surrogates(value)
        if "\0" in value:
            raise UnwritableError("a string has the character NUL, which Bash has not")
        if all(" " <= char <= "~" or char == "\n" for char in value) and not ("\n" in value and "!" in value):
            return shlex.quote(value)
        return "$'" + "".join(map(self.char, value)) + "'"

    def char(self, char: str) -> str:
        """A character in `$'…'`."""
        if " " <= char <= "~" and char not in "!'\\":
            return char
        return "".join(f"\\{byte:03o}" for byte in char.encode())

    def array(self, values: Sequence[Any]) -> str:
        """An array; null in it is an empty word."""
        if any(isinstance(value, list | dict) for value in values):
            raise UnwritableError("an array holds neither lists nor objects; pass JSON text and read it with jq")
        return f"({' '.join(self.value(value) or shlex.quote('') for value in values)})"

    def table(self, values: Mapping[str, Any]) -> str:
        """There is none."""
        raise UnwritableError("it has no value for an object; pass JSON text and read it with jq")


#: Writers that replace a translator of papermill's.
_WRITERS: dict[Any, Writer] = {
    PythonTranslator: Python(),
    RTranslator: R(),
    ScalaTranslator: Scala(),
    JuliaTranslator: Julia(),
    MatlabTranslator: Matlab(),
    CSharpTranslator: CSharp(),
    FSharpTranslator: FSharp(),
    PowershellTranslator: PowerShell(),
    BashTranslator: Bash(),
}
#: Names of kernels and languages that papermill does not know, in lower case.
_MORE_NAMES: dict[str, Writer] = {
    "octave": Octave(),
    "csharp": _WRITERS[CSharpTranslator],
    "fsharp": _WRITERS[FSharpTranslator],
    "pwsh": _WRITERS[PowershellTranslator],
    **{writer.language.lower(): writer for writer in _WRITERS.values()},
}


def writer_for(kernel_name: str, language: str) -> Writer:
    """The writer of code for a kernel: by the kernel's name if that is known, else by the language, as papermill goes.

    Raises:
        InvalidParametersError: there is none.
    """
    for name in (kernel_name, language):
        try:
            translator = papermill_translators.find_translator(name, name)
        except PapermillException:
            if name.lower() in _MORE_NAMES:
                return _MORE_NAMES[name.lower()]
        else:
            return _WRITERS.get(translator) or Translated(translator, language)
    known = sorted({writer.language for writer in _MORE_NAMES.values()})
    near = nearest(language, known)
    raise InvalidParametersError(
        f"papermill cannot write parameters in {language[:100]!r}" + (f"; did you mean {near!r}?" if near else ""),
        allowed=f"languages: {', '.join(known)}",
        state="nothing was run",
        advice="pass the right language, or set the values in the code of the notebook",
    )
