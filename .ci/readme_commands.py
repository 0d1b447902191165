"""Print the commands of one labelled block of README.md, for `.ci/run` and the tests.

Usage: readme_commands.py LABEL. A block is labelled after its language: ```sh LABEL
"""

import re
import sys
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def commands(label: str) -> str:
    """Return the text of the block; there must be exactly one with this label."""
    text = README.read_text(encoding="utf-8")
    blocks = re.findall(rf"^```sh {re.escape(label)}\n(.*?)^```", text, flags=re.M | re.S)
    if len(blocks) != 1:
        raise SystemExit(f"README.md has {len(blocks)} blocks labelled {label!r}; expected one.")
    return blocks[0]


if __name__ == "__main__":
    print(commands(sys.argv[1]), end="")
