"""Every failure a client may see: one family, a closed list of codes, one form of message.

A message reads `CODE: what happened. What is allowed or exists. What state things are in now. What to do next.`
Core raises these in place of third-party exceptions, services pass them on, and the tool wrapper turns them into the
one error answer of a request. Code that raises inside a cell is a result and never comes here.

    ServerError
    ├── UnknownArgumentError, InvalidArgumentError      the request itself
    ├── PathNotAllowedError, NotFoundError, AlreadyExistsError, PermissionDeniedError, DiskFullError
    ├── NotANotebookError, InvalidNotebookError, TooLargeError, ConflictError, BusyError, CellNotFoundError
    ├── KernelNotFoundError, KernelSpecNotFoundError, KernelStartFailedError, KernelDiedError,
    │   KernelUnresponsiveError, LimitReachedError
    ├── EnvironmentFailedError                          packages of a Python
    ├── InvalidParametersError, ExecutionNotFoundError, SearchTimeoutError
    ├── ServerStartFailedError, ServerNotRunningError
    └── NotConfiguredError                              the settings of the server
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from string import Template
from typing import ClassVar, Self, TypeVar


class ErrorCode(StrEnum):
    """The closed list of codes. A client may branch on them."""

    UNKNOWN_ARGUMENT = "UNKNOWN_ARGUMENT"
    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    PATH_NOT_ALLOWED = "PATH_NOT_ALLOWED"
    NOT_FOUND = "NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    NOT_A_NOTEBOOK = "NOT_A_NOTEBOOK"
    INVALID_NOTEBOOK = "INVALID_NOTEBOOK"
    TOO_LARGE = "TOO_LARGE"
    CONFLICT = "CONFLICT"
    BUSY = "BUSY"
    CELL_NOT_FOUND = "CELL_NOT_FOUND"
    KERNEL_NOT_FOUND = "KERNEL_NOT_FOUND"
    KERNELSPEC_NOT_FOUND = "KERNELSPEC_NOT_FOUND"
    KERNEL_START_FAILED = "KERNEL_START_FAILED"
    KERNEL_DIED = "KERNEL_DIED"
    KERNEL_UNRESPONSIVE = "KERNEL_UNRESPONSIVE"
    LIMIT_REACHED = "LIMIT_REACHED"
    TIMEOUT = "TIMEOUT"
    INVALID_PARAMETERS = "INVALID_PARAMETERS"
    EXECUTION_NOT_FOUND = "EXECUTION_NOT_FOUND"
    SERVER_START_FAILED = "SERVER_START_FAILED"
    SERVER_NOT_RUNNING = "SERVER_NOT_RUNNING"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    DISK_FULL = "DISK_FULL"
    NOT_CONFIGURED = "NOT_CONFIGURED"
    ENVIRONMENT_FAILED = "ENVIRONMENT_FAILED"


class Remedy(StrEnum):
    """Advice as data. The code that fails knows the way out, and the tools know the call that takes it.

    The value is the advice in neutral words, for logs and for a process without tools.
    """

    RESTART_KERNEL = "restart the kernel"
    START_KERNEL = "start another kernel"
    CHOOSE_KERNEL = "fix the error shown above, or choose another installed kernel"
    WAIT_FOR_QUEUE = "wait for some of the code, or use another kernel"
    WAIT_FOR_CODE = "wait for the code, or interrupt it"
    TRY_OR_INTERRUPT = "try again later, or interrupt the code"
    TRY_OR_RESTART = "try again, or restart the kernel"
    LIST_IN_CODE = "run code that lists the variables"
    CONVERT_NOTEBOOK = "convert it first, with the operation `convert`"
    INSTALL_IPYKERNEL = "install ipykernel there"
    CHECK_NOTEBOOK = "fix the notebook first"
    CLEAR_OUTPUTS = "clear its outputs, or raise the limit in the settings"
    SHOW_CELLS = "read the outline of the notebook"


def sentence(text: str) -> str:
    """`text` as one sentence: trimmed and with a final stop. Empty stays empty."""
    text = text.strip()
    return text if not text or text.endswith((".", "!", "?", "```")) else f"{text}."


def _capitalised(text: str) -> str:
    """`text` with a capital first letter, unless it begins with a name such as `start_kernel`."""
    return text if "_" in text.partition(" ")[0] else text[0].upper() + text[1:]


def nearest(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """The known name that `name` was probably meant to be, or None. They must be alike by `cutoff`, from 0 to 1."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return matches[0] if matches else None


def alike(name: str, known: Sequence[str], *, most: int = 5) -> list[str]:
    """The known names that `name` may have been meant to be, the likeliest first: those that it begins, then others."""
    begun = [one for one in known if name and one.startswith(name)][:most]
    near = difflib.get_close_matches(name, known, n=most, cutoff=0.6)
    return list(dict.fromkeys([*begun, *near]))[:most]


def listed(names: Iterable[str], *, limit: int = 20, none: str = "none") -> str:
    """Names joined by commas, cut after `limit` with the exact number left out."""
    every = list(names)
    if not every:
        return none
    shown = ", ".join(every[:limit])
    return shown if len(every) <= limit else f"{shown} and {len(every) - limit} more"


_Error = TypeVar("_Error", bound="ServerError")


class ServerError(Exception):
    """A request that could not be carried out, in the four sentences of the contract.

    Args:
        what: what happened, naming the offending thing.
        allowed: the allowed values, or the existing ones.
        state: the present state.
        advice: the next step, in words or as a remedy.
        given: the values of the places in the call of the remedy, such as `$python`.
    """

    code: ClassVar[ErrorCode]

    def __init__(
        self,
        what: str,
        *,
        allowed: str = "",
        state: str = "",
        advice: str | Remedy = "",
        given: Mapping[str, str] | None = None,
    ) -> None:
        self.problem = what
        rest = [sentence(_capitalised(part)) for part in (allowed, state) if part]
        self._facts = " ".join([f"{self.code}: {sentence(what)}", *rest])
        self._advice = advice
        self._given = dict(given or {})
        super().__init__(self.message({}))

    def message(self, calls: Mapping[Remedy, str]) -> str:
        """The whole message. `calls` has the words for remedies; without them the neutral ones are used."""
        advice = self._advice
        words: str = advice
        if isinstance(advice, Remedy):
            words = Template(calls.get(advice, advice)).safe_substitute(self._given)
        return f"{self._facts} {sentence(_capitalised(words))}" if words else self._facts

    def within(self, place: str, *, state: str = "") -> Self:
        """The same failure as a part of something larger, such as `run 3 of the batch`."""
        facts = f"{self.code}: {place}: {self._facts.removeprefix(f'{self.code}: ')}"
        error = _with_message(type(self), f"{facts} {sentence(_capitalised(state))}" if state else facts)
        error._advice, error._given = self._advice, self._given
        error.args = (error.message({}),)
        return error

    @property
    def advice(self) -> str:
        """The next step, in neutral words."""
        return str(self._advice)

    def advising(self, advice: str) -> Self:
        """The same failure with another next step."""
        error = _with_message(type(self), self._facts)
        error._advice = advice
        error.args = (error.message({}),)
        return error

    def __reduce__(self) -> tuple[object, ...]:
        return _with_message, (type(self), str(self))  # from another process it comes with its message made already


def _with_message(kind: type[_Error], message: str) -> _Error:
    error = kind.__new__(kind)
    error._facts, error._advice, error._given = message, "", {}
    error.problem = message
    Exception.__init__(error, message)
    return error


class UnknownArgumentError(ServerError):
    """The request has an argument that the tool does not take."""

    code = ErrorCode.UNKNOWN_ARGUMENT


class InvalidArgumentError(ServerError):
    """An argument is missing, of the wrong type, out of bounds, or contradicts another."""

    code = ErrorCode.INVALID_ARGUMENT


class PathNotAllowedError(ServerError):
    """A path leaves the roots or names something no file tool may touch."""

    code = ErrorCode.PATH_NOT_ALLOWED


class NotFoundError(ServerError):
    """A file or directory inside the roots does not exist."""

    code = ErrorCode.NOT_FOUND


class AlreadyExistsError(ServerError):
    """A file is in the way and `overwrite` was not given."""

    code = ErrorCode.ALREADY_EXISTS


class NotANotebookError(ServerError):
    """The file is not a Jupyter notebook at all."""

    code = ErrorCode.NOT_A_NOTEBOOK


class InvalidNotebookError(ServerError):
    """The file means to be a notebook, but is broken."""

    code = ErrorCode.INVALID_NOTEBOOK


class TooLargeError(ServerError):
    """The file or request is over a published limit."""

    code = ErrorCode.TOO_LARGE


class ConflictError(ServerError):
    """The file is not the revision that the caller, or we, read."""

    code = ErrorCode.CONFLICT


class BusyError(ServerError):
    """Another request or process holds the file or kernel, and the wait for it ended."""

    code = ErrorCode.BUSY


class CellNotFoundError(ServerError):
    """The notebook has no such cell."""

    code = ErrorCode.CELL_NOT_FOUND


class KernelNotFoundError(ServerError):
    """No kernel of this server has that id."""

    code = ErrorCode.KERNEL_NOT_FOUND


class KernelSpecNotFoundError(ServerError):
    """No kernelspec of that name is installed."""

    code = ErrorCode.KERNELSPEC_NOT_FOUND


class KernelStartFailedError(ServerError):
    """The kernel process could not be started, died at start, or never became ready."""

    code = ErrorCode.KERNEL_START_FAILED


class KernelDiedError(ServerError):
    """The kernel process is gone."""

    code = ErrorCode.KERNEL_DIED


class KernelUnresponsiveError(ServerError):
    """The kernel lives, but does not answer."""

    code = ErrorCode.KERNEL_UNRESPONSIVE


class LimitReachedError(ServerError):
    """A published limit on how many things may live at once is reached."""

    code = ErrorCode.LIMIT_REACHED


class SearchTimeoutError(ServerError):
    """A search took longer than it may."""

    code = ErrorCode.TIMEOUT


class InvalidParametersError(ServerError):
    """The parameters do not fit the notebook."""

    code = ErrorCode.INVALID_PARAMETERS


class ExecutionNotFoundError(ServerError):
    """No execution has that id."""

    code = ErrorCode.EXECUTION_NOT_FOUND


class ServerStartFailedError(ServerError):
    """The Jupyter server could not be started."""

    code = ErrorCode.SERVER_START_FAILED


class ServerNotRunningError(ServerError):
    """A server that is needed does not answer, or was never started by this process."""

    code = ErrorCode.SERVER_NOT_RUNNING


class PermissionDeniedError(ServerError):
    """The operating system refuses access."""

    code = ErrorCode.PERMISSION_DENIED


class DiskFullError(ServerError):
    """There is no space left for the write."""

    code = ErrorCode.DISK_FULL


class NotConfiguredError(ServerError):
    """The server runs, but its settings have a fault or its roots are missing. The message says the remedy."""

    code = ErrorCode.NOT_CONFIGURED


class EnvironmentFailedError(ServerError):
    """Packages could not be installed into an environment of Python."""

    code = ErrorCode.ENVIRONMENT_FAILED
