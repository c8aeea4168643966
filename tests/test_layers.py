"""The house: wings in their order, no circle within one, and no heavy package at import time."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "guided_diffusion"
# A wing imports only from wings that stand before it.
WINGS = """
errors networks config runtime data diffusion models training sampling evaluation comparisons
translation generation benchmark commands
""".split()
HEAVY = {
    "blobfile",
    "cv2",
    "h5py",
    "matplotlib",
    "mpi4py",
    "openslide",
    "safetensors",
    "scipy",
    "skimage",
    "sklearn",
    "torch_fidelity",
    "torchmetrics",
    "torchvision",
    "tqdm",
}
MOST_LINES = 400

MODULES = sorted(
    path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".")
    for path in PACKAGE.rglob("*.py")
    if path.relative_to(PACKAGE).parts[0].removesuffix(".py") in WINGS
)
PORCH = sorted(path.stem for path in PACKAGE.glob("[!_]*.py") if path.stem not in WINGS)


def own_imports(tree: ast.AST, module: str) -> set[str]:
    """Return the modules and wings of the package that a module imports, anywhere in its body.

    Args:
        tree: of the module.
        module: its name, such as "data.low_res".
    """
    here = module.split(".")
    found: set[str] = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or node.level == 0:
            continue
        base = here[: len(here) - node.level] + (node.module.split(".") if node.module else [])
        for alias in node.names:
            whole = ".".join([*base, alias.name])
            found.add(whole if whole in MODULES else ".".join(base))
    return found


def module_level_imports(tree: ast.Module) -> set[str]:
    """Return the top-level packages that importing a module imports."""
    found: set[str] = set()
    pending = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module.partition(".")[0])
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            pending += list(ast.iter_child_nodes(node))
    return found


def source_of(module: str) -> str:
    return (PACKAGE / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")


def tree_of(module: str) -> ast.Module:
    return ast.parse(source_of(module))


def test_every_folder_is_a_wing_and_every_wing_says_its_job():
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    wings = folders - {"improved_diffusion"}  # a porch with modules of its own
    assert wings <= set(WINGS) and len(wings) <= 16
    for wing in wings:
        tree = tree_of(f"{wing}.__init__")
        assert len(tree.body) == 1 and ast.get_docstring(tree), wing


@pytest.mark.parametrize("module", MODULES)
def test_no_wing_imports_a_lower_one_and_nothing_the_porch(module):
    wing = WINGS.index(module.split(".")[0])
    for name in own_imports(tree_of(module), module):
        head = name.split(".")[0]
        if head:  # else the package itself
            assert head in WINGS, f"{module} imports {name}, which is no wing"
            assert WINGS.index(head) <= wing, f"{module} imports {name}, which stands below it"


def test_no_circle_within_a_wing():
    needs = {
        module: {name for name in own_imports(tree_of(module), module) if name in MODULES}
        for module in MODULES
    }
    while needs:
        free = [module for module, others in needs.items() if not others & needs.keys()]
        assert free, f"these import one another: {sorted(needs)}"
        for module in free:
            del needs[module]


@pytest.mark.parametrize("module", MODULES)
def test_heavy_packages_are_imported_where_they_are_used(module):
    heavy = module_level_imports(tree_of(module)) & HEAVY
    assert not heavy, f"{module} imports {sorted(heavy)} at module level"


@pytest.mark.parametrize("module", MODULES)
def test_no_file_is_long(module):
    lines = len(source_of(module).splitlines())
    assert lines < MOST_LINES, f"{module} has {lines} lines"


@pytest.mark.parametrize("name", PORCH)
def test_a_porch_defines_nothing(name):
    tree = tree_of(name)
    assert ast.get_docstring(tree)
    _, *imports, last = tree.body
    assert ast.unparse(last) == "hand_on(__name__, module)"
    assert all(isinstance(node, (ast.Import, ast.ImportFrom)) for node in imports)


def test_the_reader_of_imports_sees_what_is_imported():
    tree = ast.parse("def f():\n    from ..translation.encode_decode import walk")
    assert own_imports(tree, "data.low_res") == {"translation.encode_decode"}
    assert own_imports(ast.parse("from . import image_files"), "data.x") == {"data.image_files"}
    assert own_imports(ast.parse("from ..errors import UserError"), "data.x") == {"errors"}
    assert module_level_imports(ast.parse("try:\n    import cv2\nexcept E:\n    pass")) == {"cv2"}
