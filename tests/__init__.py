"""The tests. What they share (contracts, quadrature, composition) explains its failures as they do.

pytest rewrites the assertions of test files only. The modules below are imported by tests, so they
are named here, before anything imports them: here and not in a conftest.py, because the tests of a
part in another package import the contracts too, and run without our conftest.py.
"""

import pytest

pytest.register_assert_rewrite("tests.contracts", "tests.quadrature", "tests.composition")
