"""Reading in both ways there are: refusing at the first fault, and collecting them all."""

import pytest

from headstart.tasks.problems import DataError, refuse


@pytest.fixture
def both_ways():
    """Reads with a report that refuses and with one that collects, and gives what is read in spite of the faults."""

    def run(read, *faults):
        with pytest.raises(DataError) as raised:
            list(read(refuse))
        problems = []
        good = list(read(problems.append))
        told = [str(problem) for problem in problems if problem.level == "error"]
        assert str(raised.value) == told[0]
        for one, fault in zip(told, faults, strict=True):
            assert fault in one
        return good

    return run
