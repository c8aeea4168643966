"""The porch: upstream's module names stand for the modules in the wings, with all their names."""

import ast
import importlib
import json
import pickle
import subprocess
import sys
from types import ModuleType

import pytest
import torch
from support.cli import DEADLINE, ROOT, environment
from support.reference_interface import INTERFACE
from support.upstream_program import NAMESPACES

import guided_diffusion.improved_diffusion  # noqa: F401  (makes its name importable)
from guided_diffusion import _porch
from guided_diffusion.unet import UNetModel

PACKAGE = ROOT / "guided_diffusion"
NAMES = sorted(
    path.stem for path in PACKAGE.glob("[!_]*.py") if "hand_on" in path.read_text(encoding="utf-8")
)
UPSTREAM = sorted(
    {name for repository, own in INTERFACE.items() for name in own["api"]} - {"__init__"}
)


def module(name: str) -> ModuleType:
    return importlib.import_module(f"guided_diffusion.{name}")


def imports_of(name: str) -> list[ast.ImportFrom | ast.Import]:
    tree = ast.parse((PACKAGE / f"{name}.py").read_text(encoding="utf-8"))
    return [node for node in tree.body if isinstance(node, (ast.ImportFrom, ast.Import))]


def module_of(name: str) -> str:
    """The module that a porch stands for, as its file says: "networks.unet"."""
    for node in imports_of(name):
        for alias in node.names:
            if alias.asname == "module":
                return f"{node.module}.{alias.name}"
    raise AssertionError(f"{name} has no real module")


def python(code: str) -> object:
    """Run a program in a process of its own, and return what it prints as JSON."""
    line = [sys.executable, "-c", code]
    env = environment(PYTHONPATH=ROOT)
    done = subprocess.run(
        line, text=True, capture_output=True, timeout=DEADLINE, env=env, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_module_of_upstream_has_a_porch_and_no_other_name_has():
    assert NAMES == UPSTREAM


@pytest.mark.parametrize("name", NAMES)
def test_a_porch_is_the_real_module(name):
    real = module(module_of(name))
    assert real.__file__ == str(PACKAGE / f"{module_of(name).replace('.', '/')}.py")
    assert module(name) is real is sys.modules[f"guided_diffusion.{name}"]
    found: dict[str, object] = {}
    exec(f"from guided_diffusion import {name} as a\nimport guided_diffusion.{name} as b", found)
    assert found["a"] is found["b"] is real


@pytest.mark.parametrize("name", NAMES)
def test_what_a_porch_imports_is_the_same_object_where_it_comes_from(name):
    here = module(name)
    for node in imports_of(name):
        if not isinstance(node, ast.ImportFrom) or node.level == 0 or node.module == "_porch":
            continue
        for alias in node.names:
            if alias.name != "*" and alias.asname != "module":
                home = module(node.module) if node.module else module(alias.name)
                assert getattr(here, alias.asname or alias.name) is getattr(home, alias.name, home)


def stars() -> dict[str, set[str]]:
    """The names that `import *` brings from each module of an upstream, by the module's path."""
    found: dict[str, set[str]] = {}
    for repository, own in NAMESPACES.items():
        package = "improved" if repository == "improved-diffusion" else "guided"
        for name, entry in own.items():
            found.setdefault(f"{package}_diffusion.{name}", set()).update(entry["star"])
    for path in [path for path in found if path.startswith("improved")]:
        shared = path.replace("improved", "guided")
        if module(path.partition(".")[2]) is sys.modules[path]:  # one module for both projects
            found[path] = found[shared] = found[path] | found[shared]
    return found


@pytest.mark.parametrize("step", [1, -1])
def test_a_star_brings_upstreams_names_and_no_other_whatever_was_imported_before(step):
    expected = {path: sorted(names) for path, names in stars().items()}
    code = f"""
import json, sys
import guided_diffusion.improved_diffusion
found = {{}}
for path in {[*expected][::step]}:
    names = {{}}
    exec(f"from {{path}} import *", names)
    found[path] = sorted(set(names) - {{"__builtins__"}})
json.dump(found, sys.stdout)
"""
    assert python(code) == expected


def test_any_module_of_upstream_is_an_attribute_of_the_package():
    code = """
import json, sys
import guided_diffusion.train_util
import guided_diffusion as g
assert "guided_diffusion.respace" not in sys.modules
found = [g.dist_util.__name__, g.respace is sys.modules["guided_diffusion.respace"]]
found += [hasattr(g, name) for name in ("nonsense", "nonsense.x", "__main__")]
names = {}
exec("from guided_diffusion import *", names)
json.dump([*found, len(names)], sys.stdout)
"""
    assert python(code) == ["guided_diffusion.runtime.dist_util", True, False, False, False, 1]
    with pytest.raises(ImportError, match="cannot import name 'nonsense'"):
        exec("from guided_diffusion import nonsense")


def test_a_module_that_misses_a_package_says_which(monkeypatch):
    monkeypatch.delitem(sys.modules, "guided_diffusion.losses")
    monkeypatch.delattr(guided_diffusion, "losses", raising=False)
    monkeypatch.setitem(sys.modules, "guided_diffusion._porch", None)
    with pytest.raises(ModuleNotFoundError, match="guided_diffusion._porch"):
        _ = guided_diffusion.losses


def test_the_logger_needs_no_torch():
    code = "import json, sys, guided_diffusion.logger; print(json.dumps('torch' in sys.modules))"
    assert python(code) is False


@pytest.mark.parametrize(
    "path",
    [
        "gaussian_diffusion._extract_into_tensor",
        "respace._WrappedModel",
        "image_datasets._list_image_files_recursively",
        "dist_util._find_free_port",
    ],
)
def test_private_names_resolve_and_can_be_replaced_for_the_room(path, monkeypatch):
    name, private = path.split(".")
    found: dict[str, object] = {}
    exec(f"from guided_diffusion.{name} import {private} as found", found)
    assert found["found"] is getattr(module(module_of(name)), private)
    replaced = object()
    monkeypatch.setattr(f"guided_diffusion.{path}", replaced)
    assert getattr(module(module_of(name)), private) is replaced


def classes() -> list[tuple[str, str]]:
    """(module, class) of every class of an upstream that is defined in the package."""
    found = {
        (name, key)
        for own in INTERFACE.values()
        for name, entries in own["api"].items()
        for key, entry in entries.items()
        if isinstance(entry, dict) and "class" in entry
    }
    return sorted(
        (name, key)
        for name, key in found
        if getattr(module(name), key).__module__.startswith("guided_diffusion.")
    )


@pytest.mark.parametrize("protocol", [0, 2, pickle.HIGHEST_PROTOCOL])
def test_classes_that_were_pickled_under_upstreams_paths_load(protocol):
    known = classes()
    assert len(known) > 40
    for name, key in known:
        saved = as_saved_by_upstream(getattr(module(name), key), name, key, protocol)
        assert pickle.loads(saved) is getattr(module(module_of(name)), key), (name, key)


def as_saved_by_upstream(kind: type, name: str, key: str, protocol: int) -> bytes:
    """Pickle a class under the module in which upstream has it."""
    before = kind.__module__
    kind.__module__ = f"guided_diffusion.{name}"
    try:
        saved = pickle.dumps(kind, protocol)
    finally:
        kind.__module__ = before
    assert f"guided_diffusion.{name}".encode() in saved and key.encode() in saved
    return saved


def test_a_whole_model_that_was_pickled_under_upstreams_paths_loads_and_computes_the_same():
    model = UNetModel(8, 3, 32, 3, 1, (1,), channel_mult=(1,), use_scale_shift_norm=True)
    saved = pickle.dumps(model, protocol=2)
    for name, key in classes():
        here = f"c{getattr(module(name), key).__module__}\n{key}\n"
        saved = saved.replace(here.encode(), f"cguided_diffusion.{name}\n{key}\n".encode())
    for kind in (b"unet\nUNetModel", b"unet\nResBlock", b"unet\nAttentionBlock", b"nn\nSiLU"):
        assert b"cguided_diffusion.%b\n" % kind in saved
    loaded = pickle.loads(saved)
    assert type(loaded) is UNetModel
    x, t = torch.ones(1, 3, 8, 8), torch.tensor([3])
    assert torch.equal(loaded(x, t), model(x, t))


def test_a_room_is_the_same_where_the_porch_is_imported_first():
    code = """
import importlib, json, sys
names = "guided_diffusion.unet", "guided_diffusion.networks.unet"
first, second = map(importlib.import_module, names)
json.dump([first is second, first.__name__, hasattr(first, "hand_on")], sys.stdout)
"""
    assert python(code) == [True, "guided_diffusion.networks.unet", False]


JUST_UPSTREAMS = {  # names that a module of upstream happened to import, and ours does without
    "script_util": "argparse inspect str2bool add_dict_to_argparser args_to_dict",
    "unet": "math np abstractmethod avg_pool_nd",
    "train_util": "functools dist bf INITIAL_LOG_LOSS_SCALE",
    "gaussian_diffusion": "image_fourier_trans betas_for_alpha_bar",
    "logger": "shutil osp JSONOutputFormat",
}


def handed_on_by(name: str) -> set[str]:
    """The names that the file of a porch brings, by a star or one by one."""
    found: set[str] = set()
    for node in imports_of(name):
        for alias in node.names:
            if alias.name == "*":
                found |= {key for key in vars(module(node.module)) if not key.startswith("_")}
            else:
                found.add(alias.asname or alias.name)
    return found - {"module", "hand_on"} | {"__all__"}


def test_names_that_just_upstream_had_come_with_the_porch_alone():
    handed_on = {name: handed_on_by(name) for name in NAMES}
    modules = {name: module_of(name) for name in NAMES}
    code = f"""
import importlib, json, sys
import guided_diffusion.commands.frequency_generating_m_samples
import guided_diffusion.commands.image_train
loaded = [name for name in {NAMES} if "guided_diffusion." + name in sys.modules]
modules = {modules}.items()
found = {{name: importlib.import_module("guided_diffusion." + real) for name, real in modules}}
before = {{name: sorted(vars(real)) for name, real in found.items()}}
for name, real in found.items():
    assert importlib.import_module("guided_diffusion." + name) is real
after = {{name: sorted(vars(real)) for name, real in found.items()}}
json.dump([loaded, before, after], sys.stdout)
"""
    loaded, before, after = python(code)
    assert loaded == []  # no command needs the porch
    for name in NAMES:
        assert handed_on[name] <= set(after[name])
        assert set(after[name]) - set(before[name]) <= handed_on[name]
    for name, keys in JUST_UPSTREAMS.items():
        assert [key for key in keys.split() if key in before[name]] == [], name
        assert set(keys.split()) <= handed_on[name]


def test_a_porch_does_not_replace_what_the_module_has(monkeypatch):
    porch, real = ModuleType("porch"), ModuleType("real")
    porch.__dict__.update(own="porch", th="torch", module=real, hand_on=_porch.hand_on)
    real.own = "real"
    monkeypatch.setitem(sys.modules, "porch", porch)
    monkeypatch.setitem(_porch.STARS, "porch", "own")
    _porch.hand_on("porch", real)
    assert sys.modules["porch"] is real
    assert (real.own, real.th, real.__name__) == ("real", "torch", "real")
    assert real.__all__ == ["own"]
    assert not {"hand_on", "module"} & vars(real).keys()
