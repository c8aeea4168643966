import pytest

from guided_diffusion.translation.soft_labels import over_stages, soft_label


def test_the_labels_of_ten_images():
    labels = [soft_label(i, 10) for i in range(1, 11)]
    assert labels[0] == (0.9, 0.1)
    assert labels[-1] == (0.0, 1.0)
    assert soft_label(0, 10) == (1.0, 0.0)


@pytest.mark.parametrize("amount", [1, 3, 7, 10, 999])
def test_labels_sum_to_one_and_rise(amount):
    labels = [soft_label(i, amount) for i in range(amount + 1)]
    assert all(abs(sum(label) - 1) < 1e-12 for label in labels)
    assert [label[1] for label in labels] == sorted({label[1] for label in labels})


@pytest.mark.parametrize(("step", "amount"), [(-1, 3), (4, 3), (0, 0)])
def test_steps_outside_the_sequence_are_refused(step, amount):
    with pytest.raises(ValueError, match=f"step {step}, amount {amount}"):
        soft_label(step, amount)


def test_a_label_between_two_of_several_stages_gives_the_others_nothing():
    found = over_stages((0.25, 0.75), "c", "a", "abcd")
    assert found == {"a": 0.75, "b": 0.0, "c": 0.25, "d": 0.0} and list(found) == list("abcd")
