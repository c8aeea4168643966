"""A training starts from another model: what is loaded, rewritten, new, left out or refused."""

import json

import pytest
import torch
from support.hybrid_networks import build, hybrid, pictures

from guided_diffusion.errors import UserError
from guided_diffusion.models import checkpoint
from guided_diffusion.models.mismatch import SIGNS_OF_FLAGS
from guided_diffusion.training import starting_weights


def save(model, folder, **recorded):
    folder.mkdir(exist_ok=True)
    checkpoint.save_state(model.state_dict(), folder / "model000005.pt")
    if recorded:
        record = {"script": "image_train", "args": {"num_heads": 2, **recorded}}
        (folder / "args.json").write_text(json.dumps(record))
    return folder


def start(model, folder):
    starting_weights.start_from(model, folder, SIGNS_OF_FLAGS)
    return model


@pytest.mark.parametrize("priority", ["global", "both"])
def test_a_hybrid_network_starts_as_the_standard_one(priority, tmp_path, recorder):
    standard = build()
    folder = save(standard, tmp_path / "run", use_new_attention_order=False)
    model = start(hybrid(priority, seed=1), folder)
    model.set_priority("global")
    torch.testing.assert_close(model(*pictures()), standard(*pictures()), rtol=0, atol=1e-6)
    assert "anew: " in recorder.text and "middle_block.1.attention.blend" in recorder.text
    assert "left out: none" in recorder.text


def test_a_network_of_the_other_channel_order_computes_the_same(tmp_path, recorder):
    standard = build()
    folder = save(standard, tmp_path / "run", use_new_attention_order=False)
    model = start(build(seed=1, use_new_attention_order=True), folder)
    torch.testing.assert_close(model(*pictures()), standard(*pictures()), rtol=0, atol=1e-6)
    assert "rewritten from the legacy order to the new one" in recorder.text


def test_without_a_record_the_assumed_order_is_said(tmp_path, recorder):
    standard = build(use_new_attention_order=True)
    model = start(build(seed=1, use_new_attention_order=True), save(standard, tmp_path / "run"))
    torch.testing.assert_close(model(*pictures()), standard(*pictures()))
    assert "assuming the qkv order of --use_new_attention_order True" in recorder.text


def test_a_record_of_a_command_that_made_images_tells_no_order(tmp_path, recorder):
    standard = build(use_new_attention_order=True)
    folder = save(standard, tmp_path / "run", use_new_attention_order=False)
    record = json.loads((folder / "args.json").read_text())
    record["script"] = "frequency_generating_m_samples"
    (folder / "args.json").write_text(json.dumps(record))
    model = start(build(seed=1, use_new_attention_order=True), folder)
    torch.testing.assert_close(model(*pictures()), standard(*pictures()))
    assert "assuming the qkv order of --use_new_attention_order True" in recorder.text


def test_an_embedding_of_classes_is_left_out(tmp_path, recorder):
    conditional = build(class_cond=True)
    model = start(build(seed=1), save(conditional, tmp_path / "run"))
    assert "left out: label_emb.weight" in recorder.text
    torch.testing.assert_close(
        model.input_blocks[0][0].weight, conditional.input_blocks[0][0].weight
    )


def test_one_set_of_shares_does_not_become_two(tmp_path, recorder):
    one = hybrid("local")
    with torch.no_grad():
        one.middle_block[1].attention.blend.fill_(0.5)
    model = start(hybrid("both", seed=1), save(one, tmp_path / "run"))
    expected = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    torch.testing.assert_close(model.middle_block[1].attention.blend.detach(), expected)


@pytest.mark.parametrize(("recorded", "expected"), [("local", 0.5), ("global", 1.0)])
def test_shares_are_taken_over_where_they_are_of_the_same_priority(
    recorded, expected, tmp_path, recorder
):
    one = hybrid("local")
    with torch.no_grad():
        one.middle_block[1].attention.blend.fill_(0.5)
    folder = save(one, tmp_path / "run", attention_kind="hybrid", attention_priority=recorded)
    model = start(hybrid("local", seed=1), folder)
    assert model.middle_block[1].attention.blend.detach().unique().tolist() == [expected]


def test_another_network_is_refused(tmp_path):
    folder = save(build(num_res_blocks=2), tmp_path / "run")
    with pytest.raises(UserError, match="num_res_blocks"):
        start(hybrid("global"), folder)


def test_a_hybrid_checkpoint_does_not_load_as_a_standard_one(tmp_path):
    folder = save(hybrid("global"), tmp_path / "run")
    with pytest.raises(UserError, match="blend.*check --attention_kind"):
        checkpoint.load_weights(build(), folder / "model000005.pt")
    with pytest.raises(UserError, match="blend.*check --attention_priority"):
        checkpoint.load_weights(hybrid("both"), folder / "model000005.pt")
