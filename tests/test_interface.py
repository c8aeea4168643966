"""Upstream's Python interface: every name, parameter and default of the four repositories.

A parameter in the reference is written as in a signature, where a star in front of one with a
default says that it is given by name only. Required parameters that are given by name only stand
there without a star.
"""

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from support.reference_interface import INTERFACE

import guided_diffusion.improved_diffusion  # noqa: F401  (makes its name importable)

MODULES = [(repository, name) for repository, own in INTERFACE.items() for name in own["api"]]

# Where repositories disagree, guided-diffusion wins; what another one asks for works by name.
# cond_fn stands before model_kwargs.
SAMPLERS = [
    f"gaussian_diffusion.GaussianDiffusion.{method}"
    for method in (
        "p_sample",
        "p_sample_loop",
        "p_sample_loop_progressive",
        "ddim_sample",
        "ddim_sample_loop",
        "ddim_sample_loop_progressive",
    )
]
# in_channels, out_channels and num_classes are given by name; the cond_fn of an encoding move
# stands at the end.
BY_OTHERS = [
    *(
        f"script_util.create_{what}"
        for what in ("model", "model_and_diffusion", "classifier", "classifier_and_diffusion")
    ),
    "gaussian_diffusion.GaussianDiffusion.ddim_reverse_sample",
]
OTHER_ORDER = {
    "improved-diffusion": SAMPLERS,
    "ddib": [*BY_OTHERS, "script_util.sr_create_model"],
    "ADD": BY_OTHERS,
}
OTHER_DEFAULT = {
    ("ADD", "image_datasets.load_data", "random_flip"): True,
    ("ADD", "logger.configure", "dir"): None,  # a folder of its author's
    # guided-diffusion's classifier reads colours, as create_classifier does everywhere
    ("ddib", "script_util.create_classifier_and_diffusion", "in_channels"): 3,
    ("ADD", "script_util.create_classifier_and_diffusion", "in_channels"): 3,
}
# Given by name only in each repository, which the reference cannot say for want of a default.
BY_NAME = ["losses.discretized_gaussian_log_likelihood"]

X = torch.zeros(2, 32, 4, 4)
# Calls that cost nothing, as upstream's own code makes them.
CALLS = {
    "dist_util.dev": (),
    "fp16_util.check_overflow": (1.0,),
    "fp16_util.convert_module_to_f16": (torch.nn.Linear(2, 2),),
    "fp16_util.zero_grad": ([torch.nn.Parameter(X)],),
    "gaussian_diffusion.betas_for_alpha_bar": (10, lambda t: 1 - t),
    "gaussian_diffusion.get_named_beta_schedule": ("cosine", 10),
    "logger.getkvs": (),
    "losses.approx_standard_normal_cdf": (X,),
    "losses.normal_kl": (X, X, X, X),
    "nn.avg_pool_nd": (2, 2),
    "nn.conv_nd": (2, 3, 4, 3),
    "nn.linear": (3, 4),
    "nn.mean_flat": (X,),
    "nn.normalization": (32,),
    "nn.scale_module": (torch.nn.Linear(2, 2), 2.0),
    "nn.timestep_embedding": (torch.tensor([0, 10]), 8),
    "respace.space_timesteps": (100, "ddim10"),
    "script_util.classifier_and_diffusion_defaults": (),
    "script_util.create_gaussian_diffusion": (),
    "script_util.model_and_diffusion_defaults": (),
    "script_util.sr_model_and_diffusion_defaults": (),
    "script_util.str2bool": ("yes",),
    "train_util.parse_resume_step_from_filename": ("model000010.pt",),
    "unet.AttentionBlock": (32,),
    "unet.Downsample": (32, True),
    "unet.ResBlock": (32, 8, 0.0),
    "unet.Upsample": (32, False),
}
CALLED = [
    (repository, path)
    for repository in INTERFACE
    for path in CALLS
    if path.split(".")[1] in INTERFACE[repository]["api"][path.split(".")[0]]
]

PARAMETER = re.compile(r"(?P<stars>\**)(?P<name>\w+)(: (?P<kind>[^=]+))?(=(?P<default>.*))?")


@dataclass(frozen=True)
class Parameter:
    """One of a reference's parameters."""

    stars: str
    name: str
    default: str | None

    @property
    def is_rest(self) -> bool:
        """Whether it is *args or **kwargs."""
        return bool(self.stars) and self.default is None


def parameter(text: str) -> Parameter:
    found = PARAMETER.fullmatch(text)
    return Parameter(found["stars"], found["name"], found["default"])


def members(repository: str, module: str) -> Iterator[tuple[str, list[Parameter]]]:
    """(name, or Class.method, and its parameters) of everything that a module of upstream has."""
    for name, entry in INTERFACE[repository]["api"][module].items():
        methods = entry["class"] if isinstance(entry, dict) else {"": entry}
        if not methods:
            yield name, []
        for method, texts in methods.items():
            yield f"{name}.{method}".rstrip("."), [parameter(text) for text in texts]


def home(repository: str) -> str:
    return "improved_diffusion" if repository == "improved-diffusion" else "guided_diffusion"


def find(repository: str, path: str) -> object:
    """What an upstream's module.name or module.Class.method is here; None if it is not."""
    module, *names = path.split(".")
    try:
        found = importlib.import_module(f"{home(repository)}.{module}")
    except ImportError:
        return None
    for name in names:
        found = getattr(found, name, None)
    return found


def differences(repository: str, path: str, expected: list[Parameter]) -> list[str]:
    """What keeps a call written for upstream from working here."""
    found = find(repository, path)
    if found is None:
        return ["missing"]
    if not expected:
        return []
    own = inspect.signature(found).parameters
    other_order = path in OTHER_ORDER.get(repository, ()) or path in BY_NAME
    return [
        *_absent(expected, own),
        *([] if other_order else _misplaced(expected, own)),
        *_defaults(expected, own, repository, path),
    ]


def _absent(expected, own):
    names = {parameter.name for parameter in expected}
    rests = {(p.stars, own[p.name].kind) for p in expected if p.is_rest and p.name in own}
    wanted = {"*": inspect.Parameter.VAR_POSITIONAL, "**": inspect.Parameter.VAR_KEYWORD}
    yield from (f"no parameter {p.name}" for p in expected if p.name not in own)
    yield from (f"no {stars} parameter" for stars, kind in rests if wanted[stars] != kind)
    yield from (
        f"{name} is required"
        for name, p in own.items()
        if name not in names and p.default is p.empty and p.kind not in wanted.values()
    )


def _misplaced(expected, own):
    by_name_allowed = any(p.stars and not p.is_rest for p in expected)
    places = [name for name, p in own.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    for place, p in enumerate(p for p in expected if not p.stars):
        by_name = p.name in own and own[p.name].kind is inspect.Parameter.KEYWORD_ONLY
        if by_name and by_name_allowed and p.default is None:
            continue
        if places[place : place + 1] != [p.name]:
            yield f"{p.name} is not number {place}"


def _defaults(expected, own, repository, path):
    for p in expected:
        if p.default is None or p.name not in own:
            continue
        key = (repository, path, p.name)
        wanted = OTHER_DEFAULT[key] if key in OTHER_DEFAULT else value_of(p.default)
        if not same(own[p.name].default, wanted):
            yield f"{p.name}={own[p.name].default!r} and not {wanted!r}"


def value_of(text: str) -> object:
    """The value that a default is written as; arrays as lists."""
    return ast.literal_eval(re.sub(r"^array\((.*)\)$", r"\1", text))


def same(found: object, wanted: object) -> bool:
    if isinstance(found, np.ndarray):
        return found.tolist() == wanted
    return found == wanted and isinstance(found, bool) == isinstance(wanted, bool)


def missing(repository: str, module: str) -> list[str]:
    """Everything of a module of upstream that a program written for it would miss here."""
    return [
        f"{module}.{name}: {problem}"
        for name, expected in members(repository, module)
        for problem in differences(repository, f"{module}.{name}", expected)
    ]


@pytest.mark.parametrize(("repository", "module"), MODULES)
def test_nothing_of_upstreams_interface_is_missing(repository, module):
    found = missing(repository, module)
    assert not found, "\n".join(found)


@pytest.mark.parametrize(("repository", "path"), CALLED)
def test_what_costs_nothing_can_be_called_as_in_upstream(repository, path):
    result = find(repository, path)(*CALLS[path])
    assert result is not None or path.split(".")[0] == "fp16_util"  # these work in place


@pytest.mark.parametrize("module", INTERFACE["improved-diffusion"]["api"])
def test_names_of_improved_diffusion_are_also_in_our_modules(module):
    ours = importlib.import_module(f"guided_diffusion.{module}")
    names = INTERFACE["improved-diffusion"]["api"][module]
    assert [name for name in names if not hasattr(ours, name)] == []


def test_every_repository_is_walked_whole():
    counts = {r: sum(len(list(members(r, m))) for s, m in MODULES if s == r) for r in INTERFACE}
    assert counts == {"guided-diffusion": 181, "improved-diffusion": 152, "ddib": 216, "ADD": 214}


def test_every_exception_is_needed(monkeypatch):
    orders = [(repository, path) for repository, paths in OTHER_ORDER.items() for path in paths]
    orders += [(repository, path) for repository in INTERFACE for path in BY_NAME]
    monkeypatch.setattr(f"{__name__}.OTHER_ORDER", {})
    monkeypatch.setattr(f"{__name__}.BY_NAME", [])
    needless = [(r, p) for r, p in orders if not differences(r, p, reference(r, p))]
    defaults = dict(OTHER_DEFAULT)
    monkeypatch.setattr(f"{__name__}.OTHER_DEFAULT", {})
    needless += [(r, p) for r, p, _ in defaults if not differences(r, p, reference(r, p))]
    assert needless == []


def reference(repository, path):
    module, name = path.split(".", 1)
    return dict(members(repository, module))[name]


@pytest.mark.parametrize(
    ("own", "problem"),
    [
        (lambda data, size=1, *, flip=True: 0, None),
        (lambda data, size=1, more=0, *, flip=True: 0, None),
        (lambda data, size=1, flip=True: 0, None),
        (lambda *, data, size=1, flip=True: 0, "size is not number 1"),
        (lambda size=1, data=0, *, flip=True: 0, "size is not number 1"),
        (lambda data, size=2, *, flip=True: 0, "size=2 and not 1"),
        (lambda data, size=True, *, flip=True: 0, "size=True and not 1"),
        (lambda data, *, flip=True: 0, "no parameter size"),
        (lambda data, size=1, *, flip=True, seed: 0, "seed is required"),
        (lambda data, size=1, **flip: 0, "flip=<class 'inspect._empty'> and not True"),
    ],
)
def test_the_comparison_sees_what_breaks_a_call(monkeypatch, own, problem):
    monkeypatch.setattr(f"{__name__}.find", lambda *_: own)
    expected = [parameter(text) for text in ("data", "size=1", "*flip=True")]
    found = differences("ddib", "nothing.here", expected)
    assert (problem in found) if problem else found == []
