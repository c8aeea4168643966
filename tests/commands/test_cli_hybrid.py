"""Models with hybrid attention, from training to sequences, as a user runs them."""

import pytest
import torch
from support.cli import DRAWING, SEQUENCES, call, read_csv, succeed

from guided_diffusion.models.checkpoint import load_state
from guided_diffusion.models.domains import load_domain
from guided_diffusion.networks import attention

HYBRID = "--attention_kind hybrid --attention_window 3 --max_steps 4 --sample_interval 0".split()
BLEND = "middle_block.1.attention.blend"


@pytest.fixture(scope="module")
def both(runs, tmp_path_factory):
    """A run of a model for both roles, started from a standard one; to be left as it is."""
    folder = tmp_path_factory.mktemp("both")
    flags = [*HYBRID, "--attention_priority", "both", "--init_checkpoint", runs.source]
    result = succeed("image_train", *runs.training, *flags, "--out_dir", folder)
    assert f"anew: {'input_blocks.3.1.attention.blend'}" in result.out
    assert f"training from step 0 with the weights of {runs.source}" in result.out
    assert "from scratch" not in result.out
    return folder


def test_training_starts_from_a_standard_model_and_moves_both_sets_of_shares(both, runs):
    first, trained = load_state(runs.source / "model000008.pt"), load_state(both / "model000004.pt")
    assert trained.keys() - first.keys() == {k for k in trained if k.endswith("blend")}
    starts = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    assert trained[BLEND].shape == starts.shape
    assert ((trained[BLEND] - starts).abs().amax(dim=1) > 0).all()


def test_a_killed_training_goes_on_to_the_same_weights(both, runs, tmp_path):
    flags = [
        *runs.training,
        *HYBRID,
        "--attention_priority",
        "both",
        "--out_dir",
        tmp_path,
        "--init_checkpoint",
        runs.source,
        "--save_interval",
        2,
    ]
    succeed("image_train", *flags, "--max_steps", 2)
    succeed("image_train", *flags)
    for name in ("model000004.pt", "ema_0.5_000004.pt"):
        torch.testing.assert_close(load_state(tmp_path / name), load_state(both / name))


def test_init_and_resume_exclude_each_other(runs, tmp_path):
    flags = ["--init_checkpoint", runs.source, "--resume_checkpoint", runs.source]
    result = call("image_train", *runs.training, *flags, "--out_dir", tmp_path / "run")
    assert result.code == 2 and "--init_checkpoint: expected alone" in result.last
    assert not (tmp_path / "run").exists()


def test_one_model_is_source_and_target(both, runs, tmp_path):
    ends = ["--source_model", both, "--target_model", both, "--data_dir", runs.images]
    flags = [*DRAWING, "--num_images", 2, "--amount", 2, "--out_dir", tmp_path]
    roles = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            attention.HybridAttention,
            "set_priority",
            lambda block, priority: roles.append(priority),
        )
        result = succeed(SEQUENCES, *ends, *flags)
    assert set(roles) == {"global", "local"} and roles[0] == "global" and roles[-1] == "local"
    assert "trained with --attention_priority" not in result.out + result.err
    assert len(read_csv(tmp_path / "translation_0_1" / "manifest.csv")) == 6


def test_a_model_in_a_role_it_was_not_trained_for_is_named(runs, tmp_path):
    training = [*runs.training, *HYBRID, "--attention_priority", "local", "--max_steps", 1]
    succeed("image_train", *training, "--out_dir", tmp_path / "local")
    ends = ["--source_model", tmp_path / "local", "--target_model", tmp_path / "local"]
    data = ["--data_dir", runs.images, "--num_images", 1, "--amount", 1]
    result = succeed(SEQUENCES, *ends, *data, *DRAWING, "--out_dir", tmp_path / "run")
    assert result.out.count("--attention_priority local instead of global or both") == 1


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_conversion_keeps_what_a_hybrid_network_computes(both, suffix, tmp_path):
    target = tmp_path / "converted" / f"model{suffix}"
    flags = ["--model_path", both, "--output", target, "--attention_order", "new"]
    succeed("convert_checkpoint", *flags)
    domains = load_domain(both), load_domain(target)
    assert (
        domains[1].args["use_new_attention_order"]
        and not domains[0].args["use_new_attention_order"]
    )
    x, t = torch.randn(1, 3, 16, 16), torch.tensor([30])
    for role in ("global", "local"):
        outputs = []
        for domain in domains:
            domain.model.set_priority(role)
            outputs.append(domain.model(x, t))
        torch.testing.assert_close(*outputs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("priority", ["global", "local", "both"])
def test_two_ranks_train_as_one_process(two_ranks, priority, runs, tmp_path):
    flags = [*runs.training, *HYBRID, "--attention_priority", priority, "--dropout", 0]
    flags += ["--lr", 1e-4]  # Adam makes a whole step of a gradient that is rounding alone
    alone, together = tmp_path / "alone", tmp_path / "together"
    succeed("image_train", *flags, "--batch_size", 4, "--out_dir", alone)
    words = [*flags, "--batch_size", 2, "--out_dir", together]
    result = two_ranks.run("torchrun", "image_train", *words)
    assert result.code == 0, result.err
    states = [load_state(place / "model000004.pt") for place in (alone, together)]
    torch.testing.assert_close(*states, rtol=1e-4, atol=5e-5)


def test_priority_without_hybrid_attention_is_refused(runs, tmp_path):
    flags = [*runs.training, "--attention_priority", "both", "--out_dir", tmp_path / "run"]
    result = call("image_train", *flags)
    assert result.code == 2
    assert "--attention_priority: both goes with attention_kind hybrid" in result.last
