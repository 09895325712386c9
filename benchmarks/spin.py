"""How long an idle OpenMP thread should spin before it sleeps: an update on two threads, alone and beside a busy one.

    python benchmarks/spin.py [--rounds 2]

Runs `benchmarks/update.py` with values of GOMP_SPINCOUNT (0 is what OMP_WAIT_POLICY=PASSIVE does, none is GNU OpenMP's
own, about 300,000) in turns, and prints a Markdown table of seconds an update: the median over the rounds of medians.
"""

import argparse
import os
import statistics
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

COUNTS = ("0", "1000", "3000", "10000", "")
UPDATE = Path(__file__).with_name("update.py")


def seconds(count: str) -> float:
    kept = {key: value for key, value in os.environ.items() if key not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    environment = {**kept, "OMP_NUM_THREADS": "2", **({"GOMP_SPINCOUNT": count} if count else {})}
    ran = subprocess.run([sys.executable, UPDATE], env=environment, capture_output=True, text=True, check=True)
    return float(ran.stdout.split()[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    rounds = parser.parse_args().rounds
    found = defaultdict(list)
    for _ in range(rounds):
        for beside in (False, True):
            other = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if beside else None
            try:
                for count in COUNTS:
                    found[beside, count].append(seconds(count))
            finally:
                if other:
                    other.kill()
    print("| turns before it sleeps | alone, s | beside a busy process, s |\n|---|--:|--:|")
    for count in COUNTS:
        alone, shared = (statistics.median(found[beside, count]) for beside in (False, True))
        print(f"| {count or 'as GNU OpenMP does'} | {alone:.2f} | {shared:.2f} |")


if __name__ == "__main__":
    main()
