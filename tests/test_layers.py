"""The import direction of the package, read from the source: data flows one way, down."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "guided_diffusion"
# No module imports one of a later line, nor one of its own line that stands after it.
ORDER = """
lazy signatures flags options translation_options tool_options synthetic_options stages demo
log_formats logger dist_util dealing run execution
image_files classes imagenet image_datasets color_datasets super_res tissue plots synthetic_datasets
group_norm upsampling nn windows attention torso unet synthetic
losses schedules spectrum solvers depth fourier_trans
forward_process reverse_process sampling trajectories gaussian_diffusion respace resample
network_flags script_util signs checkpoint domains convert
guidance
fine_tune fp16_util resume loop_log step_draws train_util train_run classifier_util
soft_labels
walks
bridge synthetic_bridge
records likelihood
report samples class_translation export cost pace generation dry_run
image_sets features metrics
ablation
timing published network_timing sequence_timing scaling quality
""".split()
HEAVY = {
    "mpi4py",
    "torchvision",
    "cv2",
    "skimage",
    "sklearn",
    "matplotlib",
    "blobfile",
    "scipy",
    "tqdm",
    "safetensors",
    "torch_fidelity",
    "torchmetrics",
}

MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")


def own_imports(tree: ast.AST) -> set[str]:
    """Modules of the package that a module imports, anywhere in its body."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            found |= {node.module} if node.module else {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
            "guided_diffusion"
        ):
            found |= {node.module.partition(".")[2] or alias.name for alias in node.names}
    return found


def module_level_imports(tree: ast.Module) -> set[str]:
    """Top-level packages that importing a module imports."""
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


def tree_of(module: str) -> ast.Module:
    return ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))


def test_every_module_has_a_place():
    assert sorted(ORDER) == MODULES


@pytest.mark.parametrize("module", MODULES)
def test_no_module_imports_one_below_it(module):
    allowed = set(ORDER[: ORDER.index(module)])
    upward = own_imports(tree_of(module)) - allowed
    assert not upward, f"{module} imports {sorted(upward)}, which stand below it"


@pytest.mark.parametrize("module", MODULES)
def test_heavy_packages_are_imported_where_they_are_used(module):
    heavy = module_level_imports(tree_of(module)) & HEAVY
    assert not heavy, f"{module} imports {sorted(heavy)} at module level"


def test_the_reader_of_imports_sees_an_upward_one():
    assert own_imports(ast.parse("def f():\n    from .bridge import walk")) == {"bridge"}
    assert own_imports(ast.parse("from . import run, logger")) == {"run", "logger"}
    assert module_level_imports(ast.parse("try:\n    import cv2\nexcept E:\n    pass")) == {"cv2"}
