"""The CPU time of a report: of the rows that are there, and of as many as years would leave.

    python benchmarks/report.py
    python benchmarks/report.py --rows 100000

The rows of `results` are read, and nothing is written there. It prints, and saves no row.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def seconds(raw, out):
    """Return the CPU seconds of the command, its imports included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    words = ["report", "--rows", str(raw), "--out", str(out), "--quiet"]
    run = [sys.executable, "-m", "ctxbench", *words]
    subprocess.run(run, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results"), help="results to read")
    parser.add_argument("--rows", type=int, default=100_000, help="made rows; default 100000")
    given = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    from tests.report.many_rows import many_rows

    with tempfile.TemporaryDirectory() as folder:
        kept, made = Path(folder) / "kept", Path(folder) / "made"
        print(f"{given.out}: {seconds(given.out.resolve(), kept):.1f} s of CPU")
        (made / "raw").mkdir(parents=True)
        total = 0
        for kind, rows in many_rows(given.rows).items():
            total += len(rows)
            lines = "".join(f"{json.dumps(row)}\n" for row in rows)
            (made / f"raw/{kind}.jsonl").write_text(lines)
        print(f"{total:,} made rows: {seconds(made, made):.1f} s of CPU")


if __name__ == "__main__":
    main()
