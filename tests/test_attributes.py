"""Every attribute of our modules that benchmarks, experiments, tests and notebooks ask for exists.

What they run is not all run by the tests; and a name that is gone shows without running anything.
"""

import ast
import importlib
import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("benchmarks", "experiments", "notebooks", "scripts", "tests")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".ipynb"))


def source_of(path):
    """Python; of a notebook the code of its cells, without lines for IPython."""
    if path.suffix == ".py":
        return path.read_text()
    cells = json.loads(path.read_text())["cells"]
    lines = [line.rstrip("\n") for cell in cells if cell["cell_type"] == "code" for line in [*cell["source"], "\n"]]
    return "\n".join("pass" if line.lstrip().startswith(("%", "!")) else line for line in lines)


def module_of(name):
    """One of our modules by its full name, or None."""
    if name.split(".")[0] != "rljax":
        return None
    try:
        return importlib.import_module(name) if importlib.util.find_spec(name) else None
    except ModuleNotFoundError:  # of a part of the name, which then is no module
        return None


def missing(source):
    """Names of ours that a source asks for and that do not exist."""
    tree, modules, found = ast.parse(source), {}, set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level and (home := module_of(node.module)):
            for alias in node.names:
                module = module_of(f"{node.module}.{alias.name}")
                if module is not None:
                    modules[alias.asname or alias.name] = module
                elif not hasattr(home, alias.name):
                    found.add(f"{node.module}.{alias.name}")
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if module := module_of(alias.name):
                    modules[alias.asname or "rljax"] = module if alias.asname else module_of("rljax")
    # A name that is assigned somewhere may be something else there.
    modules = {name: m for name, m in modules.items() if name not in _assigned(tree)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            module = modules[node.value.id]
            if not hasattr(module, node.attr) and module_of(f"{module.__name__}.{node.attr}") is None:
                found.add(f"{module.__name__}.{node.attr}")
    return found


def _assigned(tree):
    names = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load)}
    return names | {n.arg for n in ast.walk(tree) if isinstance(n, ast.arg)}


@pytest.mark.parametrize("folder", FOLDERS)
def test_what_is_asked_for_exists(folder):
    of = {path.relative_to(ROOT): missing(source_of(path)) for path in FILES if ROOT / folder in path.parents}
    assert not {str(path): names for path, names in of.items() if names}


def test_a_name_that_is_gone_is_found():
    source = "from rljax.algorithms import sac, nothing\nimport rljax\nsac.Collector(1)\nsac.Agent\nrljax.make"
    assert missing(source) == {"rljax.algorithms.sac.Collector", "rljax.algorithms.nothing"}
