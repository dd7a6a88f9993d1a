"""A bounded share of the damaged files that `make hostile` tries by the thousand."""

import pytest

from hostile.fuzz import fuzz


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "count"), [("pictures", 150), ("volumes", 100)])
def test_damaged_files_are_predicted_or_refused_in_one_sentence(kind: str, count: int) -> None:
    outcomes = fuzz(kind, count, seed=1)
    assert sum(outcomes.values()) == count
    assert {key.rpartition(" ")[2] for key in outcomes} == {"predicted", "refused"}
