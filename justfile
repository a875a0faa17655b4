# One word for each habit: `just` lists them. The commands are those of the active virtual environment, else of .venv.

bin := if env("VIRTUAL_ENV", "") != "" { env("VIRTUAL_ENV") + "/bin/" } else if path_exists(".venv/bin/python") == "true" { ".venv/bin/" } else { "" }

[private]
default:
    @"{{ just_executable() }}" --list

# format the code and sort its imports
fmt:
    {{ bin }}ruff check --fix .
    {{ bin }}ruff format .

# check format, rules and the direction of imports
lint:
    {{ bin }}ruff format --check .
    {{ bin }}ruff check .
    {{ bin }}lint-imports

# check the types, strictly
types:
    {{ bin }}mypy

# run the tests, or some of them: just test tests/unit -k path
test *arguments:
    {{ bin }}python -m pytest {{ arguments }}

# run the slow tests
slow *arguments:
    {{ bin }}python -m pytest -m slow {{ arguments }}

# write the tables of the documents from the code
docs:
    {{ bin }}python -m dev.docs

# list promises, cases, tests and their last results
proof:
    {{ bin }}python -m dev.proof

# measure speed and memory, all or some: just bench execute
bench *arguments:
    {{ bin }}python benchmarks/run.py {{ arguments }}
