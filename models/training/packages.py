"""Fetch the npm packages of hands.yaml, each of its version, into a folder.

python models/training/packages.py models/training/work/packages
"""

import argparse
import subprocess
from pathlib import Path

from hands import read_hands


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for spec, archive in sorted({(f"{hand.package}@{hand.version}", hand.archive) for hand in read_hands()}):
        if not (args.out / archive).exists():
            subprocess.run(["npm", "pack", spec, "--silent", "--pack-destination", args.out], check=True)


if __name__ == "__main__":
    main()
