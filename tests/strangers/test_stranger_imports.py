"""Everything that upstream's four repositories can be asked to import."""

import ast
import importlib
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch as th
from support.cli import DEADLINE, ROOT, environment
from support.upstream_program import NAMESPACES

import guided_diffusion.improved_diffusion  # noqa: F401  (makes its name importable)

MODULES = [(repository, name) for repository, own in NAMESPACES.items() for name in own]
# DDIB and ADD have further arguments among guided-diffusion's; they are given by name.
BY_NAME = {
    "create_model",
    "create_model_and_diffusion",
    "create_classifier",
    "create_classifier_and_diffusion",
    "sr_create_model",
}
FOREIGN = "mpi4py blobfile matplotlib cv2 skimage torchvision".split()


def package(repository):
    return "improved_diffusion" if repository == "improved-diffusion" else "guided_diffusion"


@pytest.fixture(params=list(NAMESPACES))
def modules(request):
    """Pairs of what the reference says of a repository's module, and the module."""
    own, home = NAMESPACES[request.param], package(request.param)
    return [(own[name], importlib.import_module(f"{home}.{name}")) for name in own]


def test_every_name_of_every_module(modules):
    for expected, module in modules:
        for name in expected["names"]:
            exec(f"from {module.__name__} import {name}", {})


MYPY = """
[mypy]
disable_error_code = import-untyped, import-not-found
[mypy-torch.*,numpy.*,PIL.*]
follow_imports = skip
"""


def test_a_type_checker_finds_every_name(tmp_path):
    homes = {"improved_diffusion": "guided_diffusion.improved_diffusion"}
    lines = {
        f"from {homes.get(package(repository), 'guided_diffusion')}.{name} import {key} as"
        for repository, name in MODULES
        for key in NAMESPACES[repository][name]["names"]
    }
    text = "\n".join(f"{line} name{i}" for i, line in enumerate(sorted(lines)))
    (tmp_path / "names.py").write_text(text)
    (tmp_path / "mypy.ini").write_text(MYPY)
    line = [sys.executable, "-m", "mypy", "--config-file=mypy.ini", "--follow-imports=silent"]
    done = subprocess.run(
        [*line, "names.py"],
        cwd=tmp_path,
        text=True,
        capture_output=True,
        timeout=DEADLINE,
        env=environment(MYPYPATH=ROOT),
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_star_brings_every_name(modules):
    for expected, module in modules:
        found = {}
        exec(f"from {module.__name__} import *", found)
        assert set(expected["star"]) - set(found) == set(), module.__name__


def test_every_method_of_every_class(modules):
    for expected, module in modules:
        for name, methods in expected["methods"].items():
            kind = getattr(module, name)
            assert inspect.isclass(kind)
            assert [method for method in methods if not hasattr(kind, method)] == [], name


def test_every_value_of_every_enumeration(modules):
    kinds = [
        (getattr(module, name), values)
        for expected, module in modules
        for name, values in expected["enums"].items()
    ]
    assert kinds
    for kind, values in kinds:
        assert {key: member.value for key, member in kind.__members__.items()} == values
        assert all(kind(value).name == key for key, value in values.items())


@pytest.mark.parametrize("repository", NAMESPACES)
def test_positional_arguments_of_every_function(repository):
    guided = NAMESPACES["guided-diffusion"]["script_util"]["positional"]
    for module_name, expected in NAMESPACES[repository].items():
        module = importlib.import_module(f"{package(repository)}.{module_name}")
        for name, arguments in expected["positional"].items():
            function = getattr(module, name)
            found = inspect.getfullargspec(function)[0]
            if found == arguments:
                continue
            assert repository in ("ddib", "ADD") and name in BY_NAME, name
            assert found == guided[name]
            further = set(arguments) - set(found)
            assert further and further <= {"in_channels", "num_classes", "out_channels"}
            inspect.signature(function).bind(**dict.fromkeys(arguments))


@pytest.mark.parametrize("repository", NAMESPACES)
def test_default_dicts(repository):
    for module_name, expected in NAMESPACES[repository].items():
        module = importlib.import_module(f"{package(repository)}.{module_name}")
        for name, values in expected["defaults"].items():
            found = getattr(module, name)()
            if repository in ("ddib", "ADD") and not name.endswith("_2d"):
                # Where the repositories disagree, guided-diffusion's defaults stand.
                assert set(found) <= set(values), name
                assert set(values) - set(found) <= {"in_channels", "out_channels"}, name
            else:
                assert found == values, name


def test_further_arguments_of_ddib_by_name():
    from guided_diffusion import script_util

    flags = dict(
        script_util.model_and_diffusion_defaults(),
        image_size=16,
        num_channels=32,
        num_res_blocks=1,
        channel_mult="1,2",
        attention_resolutions="8",
        class_cond=True,
        learn_sigma=True,
        in_channels=1,
        num_classes=5,
    )
    model, _ = script_util.create_model_and_diffusion(**flags)
    x, t, y = th.randn(2, 1, 16, 16), th.tensor([1, 2]), th.tensor([0, 4])
    assert model(x, t, y=y).shape == (2, 2, 16, 16) and model.label_emb.num_embeddings == 5
    flags = dict(
        script_util.classifier_defaults(),
        image_size=64,
        classifier_width=32,
        classifier_depth=1,
        classifier_attention_resolutions="8",
        in_channels=1,
        out_channels=3,
    )
    classifier = script_util.create_classifier(**flags)
    assert classifier(th.randn(2, 1, 64, 64), t).shape == (2, 3)


def python(code, **env):
    """Run a program in a process of its own, and return what it prints as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        text=True,
        capture_output=True,
        timeout=DEADLINE,
        env=environment(**env),
        cwd=env.get("PYTHONPATH", ROOT),
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_importing_loads_no_foreign_package_and_using_one_that_is_missing_says_so():
    modules = sorted({f"{package(r)}.{name}" for r, name in MODULES})
    code = f"""
import sys, importlib, json
import guided_diffusion.improved_diffusion
for name in {modules}:
    importlib.import_module(name)
loaded = [name for name in {FOREIGN} if name in sys.modules]
from guided_diffusion import color_datasets, dist_util, fourier_trans, image_datasets
from guided_diffusion import synthetic_datasets, train_util
for name in {FOREIGN}:
    sys.modules[name] = None  # as where it is not installed
uses = [
    lambda: dist_util.MPI.COMM_WORLD, lambda: image_datasets.MPI.COMM_WORLD.Get_rank(),
    lambda: dist_util.bf.exists("a"), lambda: train_util.bf.join("a", "b"),
    lambda: synthetic_datasets.plt.figure(), lambda: fourier_trans.cv2.imread("a"),
    lambda: color_datasets.color.rgb2lab([0]),
]
errors = []
for use in uses:
    try:
        use()
        errors.append("none")
    except (ImportError, RuntimeError) as error:
        errors.append(type(error).__name__)
json.dump([loaded, errors], sys.stdout)
"""
    loaded, errors = python(code, PYTHONPATH=ROOT)
    assert loaded == [] and len(errors) == 7 and "none" not in errors


def test_foreign_packages_are_there_when_they_are_used(tmp_path):
    from guided_diffusion.synthetic_datasets import plt
    from guided_diffusion.train_util import bf

    path = bf.join(str(tmp_path), "model000003.pt")
    with bf.BlobFile(path, "wb") as file:
        th.save({"a": th.ones(2)}, file)
    assert bf.exists(path) and bf.dirname(path) == str(tmp_path)
    assert bf.basename(path) == "model000003.pt"
    assert callable(plt.scatter) and callable(plt.savefig)


@pytest.mark.parametrize("copy", [True, False])
def test_the_package_in_a_folder_of_another_project(tmp_path, copy):
    (tmp_path / "models").mkdir()
    inner = tmp_path / "models" / "guided_diffusion"
    if copy:  # without what imports nothing of upstream's names
        inner.mkdir()
        for file in (ROOT / "guided_diffusion").rglob("*.py"):
            place = inner / file.relative_to(ROOT / "guided_diffusion")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(file.read_bytes())
    else:
        inner.symlink_to(ROOT / "guided_diffusion")
    names = sorted({name for repository, name in MODULES if repository != "improved-diffusion"})
    code = f"""
import importlib, json, sys
sys.path[:] = [place for place in sys.path if place != {str(ROOT)!r}]
sys.meta_path[:] = [finder for finder in sys.meta_path if "__editable__" not in repr(finder)]
for name in {names}:
    importlib.import_module(f"models.guided_diffusion.{{name}}")
from models.guided_diffusion.unet import UNetModel
from models.guided_diffusion.gaussian_diffusion import GaussianDiffusion
from models.guided_diffusion.script_util import create_model_and_diffusion as create
from models.guided_diffusion.script_util import model_and_diffusion_defaults
import torch
flags = dict(model_and_diffusion_defaults(), image_size=64, num_channels=32, num_res_blocks=1)
with torch.device("meta"):
    model, diffusion = create(**flags)
same = isinstance(model, UNetModel) and isinstance(diffusion, GaussianDiffusion)
others = sorted(name for name in sys.modules if name.split(".")[0] == "guided_diffusion")
json.dump([UNetModel.__module__, same, others], sys.stdout)
"""
    home, same, others = python(code, PYTHONPATH=tmp_path)
    assert home.startswith("models.guided_diffusion") and same
    assert others == []  # not a second copy by another name


def imported(tree):
    """Yield (module, name) of each import from either package."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name.rpartition(".")[::2] for alias in node.names)


def test_strangers_know_upstreams_names_alone():
    known = {}  # module -> the names that any of the four repositories has in it
    for own in NAMESPACES.values():
        for module, expected in own.items():
            known.setdefault(module, set()).update(expected["names"])
    files = sorted(Path(__file__).parent.rglob("*.py"))
    assert len(files) > 15
    for file in files:
        for module, name in imported(ast.parse(file.read_text())):
            home, _, inner = module.partition(".")
            if home not in ("guided_diffusion", "improved_diffusion") or (
                name == "improved_diffusion"
            ):
                continue
            assert name in (known[inner] if inner else known), f"{file.name}: {module}.{name}"
