"""The house rules of CONTRIBUTING that a program can hold."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import sesurgeon

PACKAGE = Path(sesurgeon.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
FOLDERS = sorted(path.parent for path in PACKAGE.glob("*/__init__.py"))

# Each imports from itself and from what stands before it.
ROAD = (
    "errors",
    "files",
    "interrupts",
    "machine",
    "modules",
    "paths",
    "randomness",
    "scalars",
    "version",
    "words",
    "blocks",
    "models",
    "graph",
    "placement",
    "surgery",
    "finetune",
    "gates",
    "export",
    "demo",
    "cli",
)
# The package itself stands behind all of them; what it re-exports is judged by where that lives.
ROOT = {"__init__", "__main__"}


def imported(file: Path) -> Iterator[tuple[str, str | None]]:
    """Each (module, name) that ``file`` imports, inside functions too; name is None for ``import module``."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield from ((node.module, alias.name) for alias in node.names)


def place(file: Path) -> str:
    """The part of the road on which ``file`` stands."""
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def target(module: str, name: str | None) -> str | None:
    """The part of the road that an import reaches; None for what is not ours."""
    parts = module.split(".")
    if parts[0] != "sesurgeon":
        return None
    if len(parts) > 1:
        return parts[1]
    return name if name in ROAD else "__init__"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_go_left(file: Path) -> None:
    here = place(file)
    if here in ROOT:
        return
    allowed = ROAD[: ROAD.index(here) + 1]
    for module, name in imported(file):
        reached = target(module, name)
        assert reached is None or reached in allowed, f"{file} imports {module}.{name}"


def test_only_the_command_line_knows_typer_and_rich() -> None:
    knowing = {
        place(file)
        for file in FILES
        for module, _ in imported(file)
        if module.split(".")[0] in ("typer", "rich", "click")
    }
    assert knowing == {"cli"}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_folder_exports_what_it_imports(folder: Path) -> None:
    # ruff (RUF022) holds the order of __all__
    ours = {name for module, name in imported(folder / "__init__.py") if module.split(".")[0] == "sesurgeon"}
    listed = getattr(importlib.import_module(f"sesurgeon.{folder.name}"), "__all__", [])
    assert len(listed) == len(set(listed))
    assert set(listed) == ours


def test_every_name_of_the_library_can_be_had() -> None:
    assert set(sesurgeon.__all__) <= set(dir(sesurgeon))
    for name in sesurgeon.__all__:
        value = getattr(sesurgeon, name)
        assert isinstance(value, str) if name == "__version__" else callable(value), name
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = sesurgeon.no_such_name  # type: ignore[attr-defined]


def test_the_lazy_names_are_those_that_type_checkers_see() -> None:
    file = PACKAGE / "__init__.py"
    (block,) = [
        node
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    ]
    seen = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == sesurgeon._HOMES


def test_the_import_of_a_folder_does_not_hide_the_function_of_its_name() -> None:
    code = "import sesurgeon.finetune, inspect; assert inspect.isfunction(sesurgeon.finetune)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    "code",
    [
        "import sesurgeon; dir(sesurgeon)",
        "from sesurgeon.cli.app import app; app(['--help'], standalone_mode=False)",
        "from sesurgeon.cli.app import app; app(['export', '--help'], standalone_mode=False)",
    ],
)
def test_torch_is_not_imported_before_it_is_needed(code: str) -> None:
    check = "import sys; assert not {'torch', 'timm', 'matplotlib', 'onnx'} & set(sys.modules)"
    result = subprocess.run([sys.executable, "-c", f"{code}; {check}"], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


def test_no_file_is_longer_than_400_lines() -> None:
    files = [*FILES, *(PACKAGE.parent / "tests").rglob("*.py")]
    lengths = {str(file): len(file.read_text(encoding="utf-8").splitlines()) for file in files}
    assert {file: length for file, length in lengths.items() if length > 400} == {}


def test_nobody_but_the_user_says_that_a_file_is_trusted() -> None:
    assert [file.name for file in FILES if "trust_pickle=True" in file.read_text()] == []
