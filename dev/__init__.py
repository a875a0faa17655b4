"""Tools for those who work on this project. None of it is installed with the package.

    python -m dev.proof            promises, cases, tests and their last results
    python -m dev.fault_report     faults in every system call of a save
    python -m dev.fuzz             property tests with new seeds each round
    python -m dev.mutation         small changes of a module that its tests do not notice
    python -m dev.floors           the lowest versions that pyproject.toml claims, as constraints for pip

`power_cut` has no command: a test and the fault report use it.
"""
