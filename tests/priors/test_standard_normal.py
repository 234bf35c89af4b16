import lowerbound as lb
from tests.contracts import PriorContract


class TestStandardNormal(PriorContract):
    make = staticmethod(lb.priors.StandardNormal)

    def test_has_nothing_to_learn_or_save(self) -> None:
        assert not self.make((3,)).state_dict()
