"""What the benchmark of start and end measures of a command."""

from pathlib import Path

import pytest

from benchmarks.start_and_end import measure

COMMAND = """
import sys, time
print("starting the policy", flush=True)
time.sleep(0.5)
print("held-out evaluation before training", sys.argv[1:], flush=True)
print("the last line", flush=True)
time.sleep(1)
"""


def test_start_and_end_of_a_command():
    found = measure(Path.cwd(), COMMAND, "train")
    assert found["start"] > 0.5 and found["end"] > 0.9
    assert found["start CPU"] >= 0 and found["end CPU"] >= 0


@pytest.mark.parametrize("code", ["print('words'); raise SystemExit(3)", "print('words')"])
def test_a_command_that_fails_or_rolls_nothing_out_is_told(code):
    with pytest.raises(SystemExit, match="(?s)the command ended with [03].*words"):
        measure(Path.cwd(), code)
