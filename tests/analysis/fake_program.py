"""A command that notes each call and writes its last file; as told, it waits for files or fails."""

import os
import sys
import time
from pathlib import Path


def main(argv):
    folder, code, awaited = Path(argv[0]), int(argv[1]), [Path(name) for name in argv[2:]]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "checkpoints").mkdir(exist_ok=True)
    (folder / "pid.txt").write_text(str(os.getpid()))
    with (folder / "calls.txt").open("a") as file:
        file.write(f"{time.monotonic()}\n")
    limit = time.monotonic() + 120
    while not all(path.exists() for path in awaited):
        assert time.monotonic() < limit, f"{awaited} did not come"
        time.sleep(0.01)
    if code:
        print("fake: error: this one cannot", file=sys.stderr)
        return code
    print("made", folder.name)
    (folder / "done.json").write_text(f"{time.monotonic()}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
