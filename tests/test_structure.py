"""The house stays simple: imports go one way, also the late ones inside functions."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

from processes import ROOT

SOURCES = ROOT / "src"


def module_name(file: Path) -> str:
    parts = file.relative_to(SOURCES).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(file: Path, modules: set[str]) -> set[str]:
    """The modules of gradlab that ``file`` names in any import, type-checking ones left out."""
    found = set()
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("gradlab"):
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in modules else node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in modules}
    return found


def test_no_file_imports_its_importer() -> None:
    files = {module_name(file): file for file in (SOURCES / "gradlab").rglob("*.py")}
    graph = {name: imports_of(file, set(files)) - {name} for name, file in files.items()}
    assert len(graph) > 30
    assert graph["gradlab.run"] >= {"gradlab.config", "gradlab.prepare"}
    # A package's __init__ imports the files of its folder, which is what a folder is; so they are no edge upwards.
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the cycle


def test_no_module_is_called_utils() -> None:
    assert not [file for file in (SOURCES / "gradlab").rglob("*.py") if "util" in file.stem]
