"""Finding notebooks: lists, searches, and the facts of one notebook. Reads only."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, MutableSequence, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, Field

from papermill_mcp.core.documents.check import find_problems
from papermill_mcp.core.documents.document import NotebookDocument
from papermill_mcp.core.documents.places import survey
from papermill_mcp.core.documents.reading import joined, kernel_name_of, language_of
from papermill_mcp.core.papermill.metadata import last_run
from papermill_mcp.errors import InvalidArgumentError, SearchTimeoutError, ServerError
from papermill_mcp.services.notebook_service import SMALL_BYTES, NotebookService, OpenNotebook, read_patiently
from papermill_mcp.services.notebooks.view import outline_headings, short_metadata
from papermill_mcp.services.notebooks.walk import FoundNotebook, Walk, walk
from papermill_mcp.services.output_text import searched_texts
from papermill_mcp.services.pythons import Pythons
from papermill_mcp.services.results import OBJECT, ROWS, Result
from papermill_mcp.services.workspace import Workspace
from papermill_mcp.utils.digests import Versions
from papermill_mcp.utils.file_utils import stamp_of
from papermill_mcp.utils.lazy import lazy
from papermill_mcp.utils.regex_search import BadPatternError, RegexSearch, RegexTimeoutError
from papermill_mcp.utils.text_utils import cell_name, clean_text, count_noun, iso_time, one_line

if TYPE_CHECKING:
    from papermill_mcp.core.environments.declared import Declaration
    from papermill_mcp.core.papermill import parameters as papermill_parameters
else:
    papermill_parameters = lazy("papermill_mcp.core.papermill.parameters")

_LIST_SECONDS = 4.0  # for finding files and opening those of a page; it has one row in any case
_SEARCH_SECONDS = 15.0
_REGEX_SECONDS = 5.0  # for one notebook
_CHECK_SECONDS = 3.0
_LINE_CHARS = 200  # of a line that matches
_CONTEXT_CHARS = 120  # of the lines beside it
_FOLDED_CHARS = 1_000_000  # of a line, at a time: longer ones would hold up other threads
_BATCH_CHARS = 4_000_000
_HEADINGS = 100

#: Stale cells that are listed.
_STALE = 10

#: Notebooks whose facts a list keeps, as long as the files are the same.
_LISTED = 5000

#: Notebooks whose problems are known, as long as the files are the same.
_CHECKED = 200

#: Lines of one output that a search shows.
_MATCHES_OF_OUTPUT = 3
_PARAMETER_CHARS = 20_000  # papermill looks for parameters with patterns that are slow for long lines
_PARAMETER_LINE_CHARS = 1000
_PROBLEM_CHARS = 400


class ListedNotebook(BaseModel):
    """A notebook in a list."""

    path: str
    name: str
    size: int
    modified: str
    kernel_name: str | None = None
    language: str | None = None
    cell_count: int | None = None
    problem: str | None = None


class NotebookList(Result):
    """A page of the notebooks in a directory."""

    directory: str
    notebooks: Annotated[list[ListedNotebook], ROWS]
    count: int
    """All found notebooks, on every page."""
    next_cursor: str | None = None
    notes: list[str] | None = None


class Match(BaseModel):
    """A line that matches."""

    path: str
    index: int
    id: str | None = None
    cell_type: str
    output: int | None = None
    """Which output of the cell; None: the source."""
    line: int
    text: str
    context: list[str] | None = None
    """The lines before and after it."""
    more: int | None = None
    """Further lines of this output that match."""


class SearchResult(Result):
    """The lines that were found."""

    query: str
    matches: Annotated[list[Match], ROWS]
    total: int
    truncated: bool
    searched: int
    """Notebooks."""
    notes: list[str] | None = None


class Heading(BaseModel):
    """A Markdown heading."""

    index: int
    id: str | None = None
    level: int
    text: str


class ParameterView(BaseModel):
    """A parameter of a notebook."""

    name: str
    default: str
    type: str | None = None
    help: str | None = None


class LastRun(BaseModel):
    """Papermill's record of its last run."""

    status: Literal["completed", "failed", "unfinished"]
    started: str | None = None
    duration: float | None = None
    failed_cell: int | None = None
    parameters: dict[str, Any] | None = None


class NotebookInfo(Result):
    """The facts of a notebook, without its cells."""

    path: str
    revision: str
    size: int
    modified: str
    nbformat: int
    nbformat_minor: int
    kernel_name: str | None = None
    language: str | None = None
    python: str | None = None
    """The Python that it would run in, and whose choice that is."""
    declares: str | None = None
    """The packages that it declares (PEP 723, `metadata.uv`)."""
    metadata: Annotated[dict[str, Any], OBJECT] = Field(default_factory=dict)
    cell_count: int
    cells_by_type: Annotated[dict[str, int], OBJECT]
    outline: Annotated[list[Heading], ROWS]
    headings: int
    """All there are; `outline` has the first ones."""
    parameters: Annotated[list[ParameterView], ROWS]
    papermill: Annotated[LastRun | None, OBJECT] = None
    problems: list[str]


@dataclass(frozen=True)
class RecentNotebook:
    """A notebook in the list of resources. `modified`: the time in ISO 8601."""

    display_path: str
    modified: str


@dataclass(frozen=True)
class _Text:
    """A text that is searched: a source or the text of an output."""

    cell: int
    output: int | None
    text: str


@dataclass(frozen=True)
class _ListFacts:
    """The facts of a version of a notebook that a list shows."""

    kernel_name: str | None
    language: str | None
    cell_count: int


@dataclass
class _Search:
    """A search that goes on: its bounds, and the result so far."""

    result: SearchResult
    cell_types: Sequence[str] | None
    where: str
    limit: int
    deadline: float
    without_outputs: int = 0
    """Notebooks over the limit, whose outputs were not searched."""

    def is_late(self) -> bool:
        return time.monotonic() > self.deadline

    def room(self, batch: Sequence[_Text]) -> tuple[int, list[int]]:
        """How many lines may be shown, of all texts and of each."""
        keep = self.limit - len(self.result.matches)
        return keep, [keep if text.output is None else _MATCHES_OF_OUTPUT for text in batch]

    def add(
        self,
        document: NotebookDocument,
        display_path: str,
        batch: Sequence[_Text],
        lines: Sequence[tuple[int, int]],
        numbers: Sequence[int],
    ) -> None:
        """Add the lines that were found in a batch, and count all that match, text by text."""
        self.result.total += sum(numbers)
        shown = Counter(place for place, _ in lines)
        for at, (place, line) in enumerate(lines):
            match = _match(document, display_path, batch[place], line)
            last = at + 1 == len(lines) or lines[at + 1][0] != place
            if last and batch[place].output is not None and numbers[place] > shown[place]:
                match.more = numbers[place] - shown[place]
            self.result.matches.append(match)


class NotebookCatalogue:
    """Lists, searches and describes notebooks. Every path passes through the workspace first.

    Args:
        live: the Python of the live kernel of a notebook, in a few words.
    """

    def __init__(
        self,
        workspace: Workspace,
        notebooks: NotebookService,
        pythons: Pythons,
        *,
        live: Callable[[Path], str | None] = lambda _: None,
    ) -> None:
        self._workspace = workspace
        self._notebooks = notebooks
        self._pythons = pythons
        self._live = live
        self._listed = Versions[_ListFacts](_LISTED)
        self._checked = Versions[tuple[str, ...]](_CHECKED)

    async def list(
        self,
        directory: str = ".",
        *,
        recursive: bool = False,
        pattern: str = "*.ipynb",
        limit: int = 100,
        cursor: str | None = None,
    ) -> NotebookList:
        """A page of the notebooks in a directory, in the order of their paths.

        Args:
            pattern: of the names, as shells have them.
            cursor: the path after which the page begins.

        Raises:
            PathNotAllowedError, NotFoundError, PermissionDeniedError: of the directory. The problem of a file stands
                beside it.
        """
        top = self._workspace.directory(directory)

        def find() -> tuple[Walk, Sequence[FoundNotebook]]:
            found = walk(top, self._workspace, recursive=recursive, pattern=pattern)
            after = None if cursor is None else _parts(cursor)
            return found, [one for one in found.found if after is None or _parts(one.display_path) > after]

        deadline = time.monotonic() + _LIST_SECONDS
        found, begun = await asyncio.to_thread(find)
        rows: list[ListedNotebook] = []
        for few in _few_at_a_time(begun[:limit]):
            async with self._notebooks.admitted(sum(one.size for one in few)) as work:
                await work.run(partial(self._fill, rows, few, deadline))
            if time.monotonic() > deadline:  # the page ends here; the cursor goes on
                break
        return NotebookList(
            directory=self._workspace.display_path(top),
            notebooks=rows,
            count=len(found.found),
            next_cursor=rows[-1].path if len(rows) < len(begun) else None,
            notes=found.notes() or None,
        )

    async def recent(self, limit: int) -> Sequence[RecentNotebook]:
        """The notebooks of all roots that were modified last, the newest first, without a look into them."""
        return await asyncio.to_thread(self.find_recent, limit)

    def find_recent(self, limit: int) -> Sequence[RecentNotebook]:
        """The same, in this thread. Looks for a few seconds at most."""
        deadline = time.monotonic() + _LIST_SECONDS
        found: dict[str, FoundNotebook] = {}
        for root in self._workspace.roots:  # one root may be inside another one
            if time.monotonic() < deadline:
                with contextlib.suppress(ServerError):
                    found |= {one.display_path: one for one in walk(root, self._workspace, recursive=True).found}
        newest = heapq.nlargest(limit, found.values(), key=lambda one: one.mtime_ns)
        return [RecentNotebook(one.display_path, _time(one.mtime_ns)) for one in newest]

    async def paths(self, *, limit: int) -> Sequence[str]:
        """Notebooks of the workspace, by path, without a look into them."""
        top = self._workspace.directory(".")

        def find() -> Sequence[str]:
            found = walk(top, self._workspace, recursive=True, pattern="*.ipynb")
            return [one.display_path for one in found.found[:limit]]

        return await asyncio.to_thread(find)

    def _fill(self, rows: MutableSequence[ListedNotebook], found: Sequence[FoundNotebook], deadline: float) -> None:
        """Add rows until the deadline, at least one."""
        for one in found:
            if rows and time.monotonic() > deadline:
                return
            rows.append(self._row(one))

    def _row(self, found: FoundNotebook) -> ListedNotebook:
        row = ListedNotebook(path=found.display_path, name=found.name, size=found.size, modified=_time(found.mtime_ns))
        try:
            facts = self._list_facts(found)
        except ServerError as error:
            row.problem = str(error)[:_PROBLEM_CHARS]
            return row
        row.kernel_name, row.language, row.cell_count = facts.kernel_name, facts.language, facts.cell_count
        return row

    def _list_facts(self, found: FoundNotebook) -> _ListFacts:
        file = self._real(found)
        stamp = stamp_of(file)
        known = None if stamp is None else self._listed.of(file, stamp)
        if known is not None:
            return known
        return read_patiently(file, partial(self._read_list_facts, file, found.display_path))

    def _read_list_facts(self, file: Path, display_path: str) -> _ListFacts:
        content = self._notebooks.content_of(file, display_path)
        parts = survey(content.data)
        if parts is not None:
            facts = _ListFacts(kernel_name_of(parts.metadata), language_of(parts.metadata), len(parts.sources))
        else:
            document = NotebookDocument.parse(content.data, display_path=display_path)
            facts = _ListFacts(document.kernel_name, document.language, len(document.cells))
        if content.stamp.settled:
            self._listed.keep(file, content.stamp, facts, content.stamp.device)
        return facts

    def _real(self, found: FoundNotebook) -> Path:
        if found.linked:
            return self._workspace.notebook(found.display_path)
        self._workspace.check_text(found.display_path)  # no tool would take some names
        return found.path

    async def search(
        self,
        query: str,
        directory: str = ".",
        *,
        regex: bool = False,
        cell_types: Sequence[str] | None = None,
        where: Literal["source", "outputs", "both"] = "source",
        limit: int = 50,
    ) -> SearchResult:
        """The lines of notebooks that hold a text, in upper or lower case, or match a regular expression.

        Args:
            directory: searched with all below it; or one notebook.

        Raises:
            InvalidArgumentError: the query is empty, or no regular expression.
            SearchTimeoutError: the regular expression took too long.
        """
        if not query or "\n" in query:
            raise InvalidArgumentError("query is empty or has a line end", allowed="lines are searched one by one")
        found = await self._places(directory)
        result = SearchResult(query=query, matches=[], total=0, truncated=False, searched=0)
        notes = found.notes()
        search = _Search(result, cell_types, where, limit, time.monotonic() + _SEARCH_SECONDS)
        if regex:
            problems = await self._search_pattern(query, found.found, search)
        else:
            problems = await self._search_text(query, found.found, search)
        if left := len(found.found) - result.searched - problems:
            notes.append(f"{count_noun(left, 'notebook')} not searched: it took too long")
        if search.without_outputs:
            number = count_noun(search.without_outputs, "notebook")
            notes.append(f"the outputs of {number} over max_notebook_bytes are not searched")
        if problems:
            notes.append(f"{count_noun(problems, 'notebook')} could not be read: list_notebook_files tells why")
        shown = sum(1 + (match.more or 0) for match in result.matches)
        result.truncated = result.total > shown
        result.notes = notes or None
        return result

    async def _places(self, directory: str) -> Walk:
        if directory.lower().endswith(".ipynb"):
            with contextlib.suppress(ServerError):
                if (file := self._workspace.notebook(directory)).is_file():
                    size = file.stat().st_size
                    return Walk([FoundNotebook(file.parent, file.name, self._workspace.display_path(file), size)])
                if not file.is_dir():
                    raise self._workspace.not_found(file, directory)
        top = self._workspace.directory(directory)
        return await asyncio.to_thread(walk, top, self._workspace, recursive=True)

    async def _search_text(self, query: str, found: Sequence[FoundNotebook], search: _Search) -> int:
        """Search for a text, a few notebooks at a time. Returns the number of those that cannot be read."""
        text = _PlainText(query)
        problems = 0
        for few in _few_at_a_time(found):
            if search.is_late():
                break
            if few[0].size > self._notebooks.max_bytes:  # a large one is alone
                problems += await self._search_large(few[0], text, search)
                continue
            async with self._notebooks.admitted(sum(one.size for one in few)) as work:
                problems += await work.run(partial(self._search_few, few, text, search))
        return problems

    async def _search_large(self, one: FoundNotebook, text: _PlainText, search: _Search) -> int:
        """Search the sources of a notebook over the limit. Returns 1 if it cannot be read."""
        try:
            async with self._notebooks.opened(one.display_path, light=True, showing=True) as (notebook, work):
                await work.run(partial(self._search_document, notebook.document, one.display_path, text, search))
                search.without_outputs += search.where != "source"
        except ServerError:
            return 1
        search.result.searched += 1
        return 0

    def _search_document(
        self, document: NotebookDocument, display_path: str, text: _PlainText, search: _Search
    ) -> None:
        for batch in _batches(_texts(document, search.cell_types, search.where)):
            lines, numbers = text.find([found.text for found in batch], *search.room(batch))
            search.add(document, display_path, batch, lines, numbers)

    def _search_few(self, few: Sequence[FoundNotebook], text: _PlainText, search: _Search) -> int:
        problems = 0
        for one in few:
            if search.is_late():
                break
            try:
                file = self._real(one)
                document = read_patiently(file, partial(self._matching, file, one.display_path, text, search))
                if document is not None:
                    self._search_document(document, one.display_path, text, search)
            except ServerError:
                problems += 1
            else:
                search.result.searched += 1
        return problems

    def _matching(self, file: Path, display_path: str, text: _PlainText, search: _Search) -> NotebookDocument | None:
        """A notebook that may have the text; None if it has not."""
        data = self._notebooks.content_of(file, display_path).data
        parts = survey(data) if search.where == "source" else None
        # A source has all of a match in one line, so the sources may be joined by line ends.
        if parts is not None and not text.is_in("\n".join(parts.sources)):
            return None
        return NotebookDocument.parse(data, display_path=display_path)

    async def _search_pattern(self, query: str, found: Sequence[FoundNotebook], search: _Search) -> int:
        """Search for a regular expression. Returns the number of notebooks that cannot be read."""
        problems = 0
        try:
            async with RegexSearch.opened(
                query, seconds=_REGEX_SECONDS, total_seconds=_SEARCH_SECONDS + 2 * _REGEX_SECONDS
            ) as pattern:
                for one in found:
                    if search.is_late():
                        break
                    try:
                        async with self._notebooks.opened(one.display_path, light=True, showing=True) as (notebook, _):
                            search.without_outputs += notebook.dropped is not None and search.where != "source"
                            await self._search_one(notebook, pattern, search)
                    except SearchTimeoutError:
                        raise
                    except ServerError:
                        problems += 1
                    else:
                        search.result.searched += 1
        except BadPatternError as error:
            raise InvalidArgumentError(
                f"query is no regular expression: {error}",
                allowed="the syntax of Python's re",
                state="nothing was done",
            ) from None
        return problems

    async def _search_one(self, notebook: OpenNotebook, pattern: RegexSearch, search: _Search) -> None:
        document, display_path = notebook.document, notebook.display_path

        def batches() -> list[tuple[list[_Text], list[str]]]:
            texts = _texts(document, search.cell_types, search.where)
            return [(batch, [text.text for text in batch]) for batch in _batches(texts)]

        for batch, texts in await asyncio.to_thread(batches):
            try:
                keep, each = search.room(batch)
                lines, numbers = await pattern.lines(texts, keep=keep, each=each)
            except RegexTimeoutError:
                raise SearchTimeoutError(
                    f"the regular expression took too long on {display_path}",
                    allowed=f"{_REGEX_SECONDS:g} s for a notebook",
                    state="the search was stopped",
                    advice="write it without nested repeats such as (a+)+, or search for a text",
                ) from None
            search.add(document, display_path, batch, lines, numbers)

    async def info(self, path: str) -> NotebookInfo:
        """The facts of a notebook: headings, parameters, the last run by papermill, and problems.

        Raises:
            ServerError: it cannot be read at all, as for `NotebookService.open`.
        """
        async with self._notebooks.opened(path, light=True, showing=True) as (notebook, work):
            live = self._live(notebook.path)

            def look() -> NotebookInfo:
                notebook.document.read_ahead()
                return _info(
                    notebook,
                    self._problems(notebook),
                    live or self._pythons.glance(notebook.path.parent, notebook.document),
                    self._pythons.declared(notebook.document),
                )

            info = await work.run(look)
            info.problems += filter(
                None, [self._notebooks.large_note(notebook), *await work.run(partial(self._stale, notebook))]
            )
            return info

    def _stale(self, notebook: OpenNotebook) -> Sequence[str]:
        """A line for each stale cell, and for the rest of many."""
        marks = self._notebooks.stale_cells(notebook)
        cells = notebook.document.cells
        lines = [f"cell {cell_name(index, cells[index].cell_id)}: {mark}" for index, mark in marks.items()]
        return lines[:_STALE] + ([f"{len(lines) - _STALE} more cells are stale"] if len(lines) > _STALE else [])

    def _problems(self, notebook: OpenNotebook) -> Sequence[str]:
        """The problems of a notebook. A check reads each output, so it is not repeated for the same version."""
        content = notebook.content
        assert content is not None
        known = self._checked.of(notebook.path, content.stamp)
        if known is not None:
            return known
        began = time.monotonic()
        problems = find_problems(notebook.document, seconds=_CHECK_SECONDS)
        if content.stamp.settled and time.monotonic() - began < _CHECK_SECONDS:  # else a part was not checked
            self._checked.keep(notebook.path, content.stamp, tuple(problems), content.stamp.device)
        return problems


def _few_at_a_time(found: Sequence[FoundNotebook]) -> Iterator[list[FoundNotebook]]:
    """Notebooks in groups that are small work, so that not each of them waits for a thread. A large one is alone."""
    few: list[FoundNotebook] = []
    size = 0
    for one in found:
        if few and size + one.size > SMALL_BYTES:
            yield few
            few, size = [], 0
        few.append(one)
        size += one.size
    if few:
        yield few


class _PlainText:
    """Finds a text in lines, in upper or lower case."""

    def __init__(self, query: str) -> None:
        self._query = query.casefold()
        self._overlap = 4 * len(query)  # folding may make a text three times as long

    def find(self, texts: Sequence[str], keep: int, each: Sequence[int]) -> tuple[list[tuple[int, int]], list[int]]:
        found: list[tuple[int, int]] = []
        numbers: list[int] = []
        for place, text in enumerate(texts):
            number = 0
            for line, content in enumerate(text.split("\n") if self.is_in(text) else ()):
                if self.is_in(content):
                    number += 1
                    if len(found) < keep and number <= each[place]:
                        found.append((place, line))
            numbers.append(number)
        return found, numbers

    def is_in(self, text: str) -> bool:
        if len(text) <= _FOLDED_CHARS:
            return self._query in text.casefold()
        starts = range(0, len(text), _FOLDED_CHARS)
        return any(self._query in text[at : at + _FOLDED_CHARS + self._overlap].casefold() for at in starts)


def _texts(document: NotebookDocument, cell_types: Sequence[str] | None, where: str) -> Iterator[_Text]:
    for index, cell in enumerate(document.cells):
        if cell_types and cell.cell_type not in cell_types:
            continue
        if where != "outputs":
            yield _Text(index, None, cell.source)
        if where != "source" and cell.cell_type == "code":
            for number, output in enumerate(cell.read_outputs()):
                for text in _output_texts(output):
                    yield _Text(index, number, clean_text(text))


def _output_texts(output: dict[str, Any]) -> Iterator[str]:
    kind = output.get("output_type")
    if kind == "stream":
        yield joined(output.get("text"))
    elif kind == "error":
        traceback = output.get("traceback")
        lines = [line for line in traceback if isinstance(line, str)] if isinstance(traceback, list) else []
        yield "\n".join(lines) or f"{joined(output.get('ename'))}: {joined(output.get('evalue'))}"
    elif isinstance(data := output.get("data"), dict):
        yield from searched_texts(data)


def _batches(texts: Iterable[_Text]) -> Iterator[list[_Text]]:
    batch: list[_Text] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text.text)
        if size > _BATCH_CHARS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _match(document: NotebookDocument, display_path: str, found: _Text, line: int) -> Match:
    cell = document.cells[found.cell]
    start = 0
    for _ in range(line):
        start = found.text.find("\n", start) + 1
    end = found.text.find("\n", start)
    before = found.text[found.text.rfind("\n", 0, max(start - 1, 0)) + 1 : max(start - 1, 0)] if line else ""
    rest = found.text[end + 1 : end + 1 + 2000].partition("\n")[0] if end >= 0 else ""
    context = [one_line(text, _CONTEXT_CHARS) for text in (before[:2000], rest)]
    return Match(
        path=display_path,
        index=found.cell,
        id=cell.cell_id,
        cell_type=cell.cell_type,
        output=found.output,
        line=line + 1,
        text=one_line(found.text[start : end if end >= 0 else None], _LINE_CHARS),
        context=context if any(context) else None,
    )


def _info(
    notebook: OpenNotebook, found: Sequence[str], python: str | None, declaration: Declaration | None
) -> NotebookInfo:
    document, problems = notebook.document, [*found]
    assert notebook.content is not None
    rows, number = outline_headings(document, limit=_HEADINGS)
    if declaration is not None and declaration.problem is not None:
        problems.append(f"the declaration in {declaration.place} cannot be used: {declaration.problem}")
    return NotebookInfo(
        path=notebook.display_path,
        revision=notebook.revision,
        size=notebook.content.stamp.size,
        modified=_time(notebook.content.stamp.mtime_ns),
        nbformat=document.nbformat,
        nbformat_minor=document.nbformat_minor,
        kernel_name=document.kernel_name,
        language=document.language,
        python=python,
        declares=None if declaration is None else str(declaration),
        metadata=short_metadata({key: value for key, value in document.metadata.items() if key != "papermill"}),
        cell_count=len(document.cells),
        cells_by_type=dict(Counter(one_line(cell.cell_type, 40) or "none" for cell in document.cells).most_common(20)),
        outline=[Heading(index=at, id=cell_id, level=level, text=text) for at, cell_id, level, text in rows],
        headings=number,
        parameters=_parameters(document, problems),
        papermill=_last_run(document),
        problems=[clean_text(problem)[:_PROBLEM_CHARS] for problem in problems],
    )


def _parameters(document: NotebookDocument, problems: list[str]) -> list[ParameterView]:
    cell = next((cell for cell in document.cells if "parameters" in cell.tags), None)
    if cell is None:
        return []
    if (ignored := papermill_parameters.ignored_cells(document)) is not None:
        problems.append(ignored)
    source = cell.source
    if len(source) > _PARAMETER_CHARS or max(map(len, source.split("\n"))) > _PARAMETER_LINE_CHARS:
        problems.append("the parameters are not listed: their cell is too long")
        return []
    kernel = document.kernel_name or "python3"  # as a run has it
    language = document.language or ("python" if kernel == "python3" else "")
    try:
        found, inspected = papermill_parameters.inspect_parameters(document, kernel, language)
    except Exception as error:  # papermill evaluates nothing, but its patterns meet the texts of others
        problems.append(f"the parameters are not listed: {type(error).__name__}: {error}")
        return []
    if not inspected:
        problems.append(f"papermill cannot tell the parameters of {language or 'a notebook without language'}")
    return [
        ParameterView(name=one.name, default=one.default, type=one.type_name, help=one.help or None) for one in found
    ]


def _last_run(document: NotebookDocument) -> LastRun | None:
    run = last_run(document)
    if run is None:
        return None
    return LastRun(
        status=run.status,
        started=run.started,
        duration=run.duration,
        failed_cell=run.failed_cell,
        parameters=short_metadata(run.parameters) if run.parameters else None,
    )


def _parts(display_path: str) -> tuple[str, ...]:
    return tuple(display_path.split("/"))


def _time(nanoseconds: int) -> str:
    return iso_time(datetime.fromtimestamp(nanoseconds / 1e9, UTC))
