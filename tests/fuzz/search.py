"""Coverage-guided search for bytes that a reader does not stand.

    pip install atheris
    python tests/fuzz/search.py READER SECONDS [FOLDER]

Findings (one for each place in our code where something unforeseen came up) go into FOLDER and are
counted at the end; what is mended goes into ``corpus/READER/`` and is read by every test run.
"""

import json
import re
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["pipeline", "PIL", "pydicom"]):
    from readers import READERS, corpus, room

LONGEST = 1 << 16


def main() -> None:
    name, seconds = sys.argv[1], int(sys.argv[2])
    out = Path(sys.argv[3] if len(sys.argv) > 3 else "findings") / name.replace(" ", "_")
    out.mkdir(parents=True, exist_ok=True)
    seen: Counter[str] = Counter()
    folder = room(name, Path(tempfile.mkdtemp()))
    seeds = Path(tempfile.mkdtemp())
    for number, content in enumerate(corpus(name)):
        (seeds / str(number)).write_bytes(content)
    began, runs = time.monotonic(), 0

    def attempt(content: bytes) -> None:
        nonlocal runs
        runs += 1
        if runs % 256 == 0:
            told = {"reader": name, "seconds": round(time.monotonic() - began), "inputs": runs}
            (out / "told.json").write_text(json.dumps(told | {"findings": dict(seen)}))
        try:
            READERS[name].attempt(folder, content)
        except Exception as error:
            calls = traceback.extract_tb(error.__traceback__)
            last = next((c for c in reversed(calls) if "/pipeline/" in c.filename), calls[-1])
            place = f"{type(error).__name__} {Path(last.filename).name}:{last.lineno}"
            seen[place] += 1
            if seen[place] == 1:
                (out / re.sub(r"[ :]", "-", place)).write_bytes(content)
                traceback.print_exception(error)

    options = [f"-max_total_time={seconds}", f"-max_len={LONGEST}", "-rss_limit_mb=6144",
               "-timeout=30", "-verbosity=0", f"-artifact_prefix={out}/"]  # fmt: skip
    atheris.Setup([sys.argv[0], *options, str(seeds)], attempt)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
