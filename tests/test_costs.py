"""The guard of what tests cost."""

from __future__ import annotations

import pytest

from tests import costs

pytest_plugins = ["pytester"]

LIMIT_S = 0.3
PLUGIN = f"""
from tests import costs
costs.slowness = lambda: {{slowness}}
def pytest_configure(config):
    config.addinivalue_line("markers", "heavy: x")
    config.addinivalue_line("markers", "slow: x")
    config.pluginmanager.register(costs.Guard({LIMIT_S}))
"""
WORK = """
import subprocess, sys, time
import pytest

BURN = "import time; end = time.process_time() + {seconds}\\nwhile time.process_time() < end: pass"

def burn(seconds):
    exec(BURN.format(seconds=seconds))
"""


@pytest.fixture
def guarded(pytester, monkeypatch):
    """Runs tests under a guard of `LIMIT_S`, on a machine of this slowness."""
    monkeypatch.setattr(costs, "slowness", costs.slowness)

    def run(tests, slowness=1.0):
        pytester.makeconftest(PLUGIN.format(slowness=slowness))
        pytester.makepyfile(WORK + tests)
        return pytester.runpytest_inprocess("-p", "no:cacheprovider", "-p", "no:xdist")

    return run


def test_a_dear_test_fails_with_what_to_do_and_a_cheap_one_does_not(guarded):
    result = guarded("def test_dear(): burn(0.4)\ndef test_cheap(): time.sleep(0.4)\n")
    result.assert_outcomes(passed=2, errors=1)
    said = "test_dear needs 0.4 CPU seconds (or its shared fixtures do), and a test may need 0.3."
    line = next(line for line in result.outlines if said in line)
    assert "share a fixture" in line
    assert "pytest.mark.heavy(reason='...')" in line
    assert "pytest.mark.slow(reason='...')" in line
    assert result.ret == pytest.ExitCode.TESTS_FAILED


def test_children_count(guarded):
    code = "def test_child(): subprocess.run([sys.executable, '-S', '-c', BURN.format(seconds=0.4)], check=True)\n"
    guarded(code).assert_outcomes(passed=1, errors=1)


@pytest.mark.parametrize("name", costs.MARKERS)
def test_a_marker_with_a_reason_allows_it(guarded, name):
    guarded(f"@pytest.mark.{name}(reason='so')\ndef test_dear(): burn(0.4)\n").assert_outcomes(passed=1)


@pytest.mark.parametrize("given", ["", "()", "(reason='')"])
def test_a_marker_without_a_reason_is_refused(guarded, given):
    result = guarded(f"@pytest.mark.heavy{given}\ndef test_x(): pass\n")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*test_x: pytest.mark.heavy needs a reason='...'"])


def test_a_slower_machine_may_take_longer(guarded):
    result = guarded("def test_x(): burn(0.4)\ndef test_y(): burn(0.7)\n", slowness=2.0)
    result.assert_outcomes(passed=2, errors=1)
    assert "may need 0.3 times 2.0, as this machine is that much slower" in result.stdout.str()


def test_the_limit_is_higher_where_the_machine_became_slower(monkeypatch):
    found = iter([1.0, 2.0, 2.0])
    monkeypatch.setattr(costs, "slowness", lambda: next(found))
    guard = costs.Guard()
    assert [guard._is_too_much(cost_s) for cost_s in (4.9, 9.0, 11.0)] == [False, False, True]


def test_a_shared_fixture_counts_for_each_test_that_uses_it(guarded):
    fixture = "@pytest.fixture(scope='module')\ndef shared(): burn(0.4)\n"
    result = guarded(fixture + "def test_a(shared): pass\ndef test_b(shared): pass\ndef test_c(): pass\n")
    result.assert_outcomes(passed=3, errors=2)
    assert "test_c needs" not in result.stdout.str()


def test_a_failure_stays_what_it_was(guarded):
    guarded("def test_x():\n    burn(0.4)\n    assert False\n").assert_outcomes(failed=1, errors=1)
