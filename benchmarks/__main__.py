"""`python -m benchmarks`: the commands of this folder, and what each measures."""

import ast
from pathlib import Path


def main() -> None:
    for path in sorted(Path(__file__).parent.glob("*.py")):
        source = path.read_text(encoding="utf-8")
        if path.stem != "__main__" and '__name__ == "__main__"' in source:
            print(f"python -m benchmarks.{path.stem}\n    {ast.get_docstring(ast.parse(source)).splitlines()[0]}")


if __name__ == "__main__":
    main()
