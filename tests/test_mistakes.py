"""A hundred mistakes: each is answered at once by an error of one line that names the fix."""

import json
import subprocess
import sys
from pathlib import Path


def test_mistakes_are_answered_by_one_line_that_names_the_fix():
    command = [sys.executable, "-m", "tests.mistakes"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["mistakes"] > 100
    assert not found["wrong"]
