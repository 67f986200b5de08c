"""`python -m benchmarks`: the commands of this folder, and what each measures."""

import ast
from pathlib import Path


def main() -> None:
    for name, what in commands().items():
        print(f"python -m {name}\n    {what}")


def commands() -> dict[str, str]:
    """The modules of this folder that are commands, and the first lines of what they say of themselves."""
    folder = Path(__file__).parent
    files = {f"benchmarks.{path.stem}": path for path in folder.glob("*.py") if path.stem != "__main__"}
    files |= {f"benchmarks.{path.parent.name}": path for path in folder.glob("*/__main__.py")}
    sources = {name: path.read_text(encoding="utf-8") for name, path in sorted(files.items())}
    return {
        name: (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
        for name, source in sources.items()
        if '__name__ == "__main__"' in source
    }


if __name__ == "__main__":
    main()
