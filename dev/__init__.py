"""Tools for those who work on this project. None of it is installed with the package.

    python -m dev.docs             the tables of the documents, from the code
    python -m dev.proof            promises, cases, tests and their last results
    python -m dev.fault_report     faults in every system call of a save
    python -m dev.fuzz             property tests with new seeds each round
    python -m dev.mutation         small changes of a module that its tests do not notice
    python -m dev.floors           the lowest versions that pyproject.toml claims, as constraints for pip
    python -m dev.house            figures of the structure and of the prose
    python -m dev.messages         every message to clients, in one file

`limits` and `power_cut` have no command: the first is the list of published limits, the second is used by tests and by
the fault report.
"""
