"""Names that clients use for arguments of ours. They are taken and stand in no schema."""

from __future__ import annotations

from collections.abc import Collection

# For each of our names, the others. Where two of ours share one, the first is meant that the tool has and whose type
# the value has.
OTHER_NAMES = {
    "content": "notebook notebook_content nb",
    "path": "notebook_path notebook file file_path file_name nb_path nb notebook_file notebook_name",
    "input_path": "notebook_path notebook path file file_path input input_notebook input_file notebook_file",
    "output_path": "output output_notebook output_file",
    "input_paths": "inputs input_notebooks notebook_paths notebooks paths",
    "output_directory": "output_dir output_folder",
    "directory": "path dir folder directory_path",
    "root_directory": "directory root_dir root dir folder path",
    "cwd": "working_directory working_dir work_dir directory",
    "op": "operation action type operation_type",
    "operations": "edits changes ops steps",
    "cell_id": "id",
    "to": "to_index new_index target_index dest_index destination_index new_position to_position position",
    "index": "cell_index idx position cell_position insert_index at_index",
    "after_cell_id": "after after_id insert_after",
    "cells": "cell_id id index cell_index cell_indices cell_indexes cell_ids indices indexes selection cell_range",
    "cell_type": "type kind",
    "cell_types": "types",
    "source": "code content text new_source cell_source cell_content new_content contents",
    "code": "source content cell_source cell_content",
    "old_text": "old_string old_str old find",
    "new_text": "new_string new_str new replace replacement replace_with",
    "metadata": "cell_metadata meta",
    "tags": "cell_tags",
    "with": "other other_path with_path against compare_to path2",
    "what": "part compare",
    "start": "next cursor offset",
    "version": "version_id version_number to_version",
    "steps": "n count step",
    "if_revision": "revision expected_revision",
    "overwrite": "replace_existing",
    "kernel": "kernel_name kernelspec",
    "kernel_name": "kernel kernelspec",
    "kernel_id": "kernel kernel_uuid",
    "execution_id": "id execution run_id job_id",
    "python": "interpreter python_path python_executable venv environment",
    "env": "environment environment_variables env_vars",
    "parameters": "params parameter_sets notebook_parameters",
    "grid": "parameter_grid param_grid",
    "timeout": "timeout_seconds cell_timeout execution_timeout",
    "wait": "wait_seconds",
    "continue_on_error": "allow_errors",
    "max_parallel": "max_workers parallel workers n_jobs concurrency",
    "packages": "requirements package_names",
    "query": "q search search_query search_text pattern text term",
    "in": "where search_in",
    "regex": "is_regex use_regex regexp",
    "pattern": "glob name_pattern file_pattern",
    "limit": "max_results max_matches count n",
    "max_chars": "max_characters max_length",
}

#: Old names, of one tool alone.
_OF_TOOL = {"search_notebooks": {"path": "directory dir folder"}}


def plain(name: str) -> str:
    """A name without its style: `cellIndex`, `cell-index` and `cell_index` are one."""
    return name.replace("_", "").replace("-", "").casefold()


def _turned(table: dict[str, str]) -> dict[str, list[str]]:
    turned: dict[str, list[str]] = {}
    for ours, others in table.items():
        for other in others.split():
            turned.setdefault(plain(other), []).append(ours)
    return turned


_MEANT = _turned(OTHER_NAMES)
_MEANT_IN = {tool: _turned(table) for tool, table in _OF_TOOL.items()}


def meant(tool: str, name: str, known: Collection[str]) -> list[str]:
    """The names among `known` that a client may mean by `name`, the likeliest first."""
    key = plain(name)
    same = [ours for ours in known if plain(ours) == key]
    return same or [ours for ours in [*_MEANT_IN.get(tool, {}).get(key, []), *_MEANT.get(key, [])] if ours in known]
