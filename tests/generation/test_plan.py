"""The plan of a run: which stages, in which order, and the pairs that sequences go between."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support.cli import SEQUENCES, load_script

from guided_diffusion.errors import UserError
from guided_diffusion.generation.plan import Plan, Stage

NAMES = st.from_regex(r"\A\w[\w.-]{0,6}\Z")
MODELS = st.text(st.characters(exclude_characters=",", exclude_categories=["C"]), min_size=1)
STAGES = st.lists(st.tuples(NAMES, MODELS), min_size=2, max_size=6, unique_by=lambda pair: pair[0])
MALFORMED = "expected NAME=RUN,NAME=RUN,... of two or more different names"


def planned(*words: str) -> Plan:
    """Return the plan of a command line."""
    return Plan.of(load_script(SEQUENCES).main.parse(words)[0])


def pairs(plan: Plan) -> str:
    return " ".join(f"{source.name}{target.name}" for source, target in plan.pairs)


def test_without_stages_there_are_a_source_and_a_target():
    plan = planned("--source_model", "s", "--target_model", "t", "--data_dir", "d", "--source", "p")
    assert plan.stages == (
        Stage("p", "s", "d", "data_dir", "source_model", {"use_new_attention_order": True}),
        Stage("1", "t", "", "target_data_dir", "target_model", {"use_new_attention_order": False}),
    )
    assert plan.pairs == (plan.stages,) and plan.name == "p_to_1"


def test_stages_are_read_in_their_order_each_with_its_model_and_its_folder():
    plan = planned("--stages", "benign=runs/a, in-situ.2=runs/b=c.pt,invasive=d", "--data_dir", "x")
    assert plan.stages == (
        Stage("benign", "runs/a", "x/benign", "data_dir, stage benign", "stages.benign"),
        Stage(
            "in-situ.2",
            "runs/b=c.pt",
            "x/in-situ.2",
            "data_dir, stage in-situ.2",
            "stages.in-situ.2",
        ),
        Stage("invasive", "d", "x/invasive", "data_dir, stage invasive", "stages.invasive"),
    )
    assert plan.name == "benign_to_in-situ.2_to_invasive"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", "ab bc cd"),
        ("--pairs all", "ab ac ad bc bd cd"),
        ("--bidirectional True", "ab bc cd ba cb dc"),
        ("--pairs all --bidirectional True", "ab ac ad bc bd cd ba ca da cb db dc"),
    ],
)
def test_pairs_go_up_the_stages_and_down_again_where_asked(words, expected):
    assert (
        pairs(planned("--stages", "a=1,b=2,c=3,d=4", "--data_dir", "x", *words.split())) == expected
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a", MALFORMED),
        ("a=1", MALFORMED),
        ("a=1,", MALFORMED),
        ("a=1,b", MALFORMED),
        ("a=1,b=", MALFORMED),
        ("a=1,a=2", MALFORMED),
        ("a=1, a=2", MALFORMED),
        ("=1,b=2", "expected a name of letters, digits, _, . or -, got ''"),
        ("a=1,b/c=2", "expected a name of letters, digits, _, . or -, got 'b/c'"),
        ("a=1,..=2", "expected a name of letters, digits, _, . or -, got '..'"),
        ("a=1,b =2", "expected a name of letters, digits, _, . or -, got 'b '"),
    ],
)
def test_a_text_that_names_no_stages_is_a_mistake(text, message):
    with pytest.raises(UserError) as problem:
        planned(f"--stages={text}", "--data_dir", "x")
    assert problem.value.report.startswith(f"--stages: {message}")


def test_two_pairs_with_one_folder_are_a_mistake():
    with pytest.raises(UserError, match="two pairs make translation_a_b_c$"):
        planned("--stages", "a=1,b_c=2,a_b=3,c=4", "--pairs", "all", "--data_dir", "x")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--stages a=1,b=2", "data_dir: expected a folder with a subfolder"),
        ("--stages a=1,b=2 --data_dir x --source a", "source: expected without --stages"),
        ("--stages a=1,b=2 --data_dir x --target_model 2", "target_model: expected without"),
        ("--pairs all --data_dir x", "pairs: expected together with --stages"),
        ("--target_data_dir y", "target_data_dir: expected together with --bidirectional"),
        ("--bidirectional True", "bidirectional: expected together with --target_data_dir"),
        ("--source a --target a", "target: expected a name that differs from --source"),
        ("--source a/b", "source: expected a name of letters"),
    ],
)
def test_flags_that_do_not_go_together_are_named(words, message):
    with pytest.raises(UserError, match=f"^{message}"):
        planned(*words.split())


@given(STAGES, st.booleans(), st.booleans())
def test_any_names_and_models_are_read_back_and_give_every_pair_once(stages, every, back):
    assume(all(model == model.strip() for _, model in stages))
    text = ",".join(f"{name}={model}" for name, model in stages)
    words = ["--pairs", "all"] if every else []
    try:
        plan = planned(f"--stages={text}", "--data_dir=x", f"--bidirectional={back}", *words)
    except UserError as error:
        assert "names that make different folders" in str(error)
        return
    assert [(stage.name, stage.model) for stage in plan.stages] == stages
    ways = {(plan.stages.index(a), plan.stages.index(b)) for a, b in plan.pairs}
    up = {(i, j) for j in range(len(stages)) for i in range(j) if every or j == i + 1}
    assert ways == up | ({(j, i) for i, j in up} if back else set())
    assert len(plan.pairs) == len(ways)


@given(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1) | st.from_regex(r"\A[ab=, ]+\Z")
)
def test_any_text_is_a_plan_or_a_mistake_of_the_flag(text):
    try:
        plan = planned(f"--stages={text}", "--data_dir", "x")
    except UserError as error:
        assert error.report.startswith("--stages: expected ")
    else:
        names = [stage.name for stage in plan.stages]
        assert len(set(names)) == len(names) >= 2 and all(stage.model for stage in plan.stages)
