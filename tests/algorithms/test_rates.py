"""Rates as numbers and as matrices: worked out by hand, against autograd, and the ones as the others."""

import pytest
import torch
from torch import tensor
from toys import normal

from headstart.algorithms.inner import moved
from headstart.algorithms.rates import as_matrices, followed_by, joined, parted, rate_at, rate_gradient, scaled, scaled_back

M = tensor([[1.0, 2.0], [3.0, 4.0]])
D = tensor([[[1.0, 10.0], [100.0, 1000.0]]])
SHAPES = {"x.lora_A": (3, 2, 5), "x.lora_B": (3, 4, 2), "square.lora_A": (3, 2, 2), "square.lora_B": (3, 2, 2)}


def test_ranks_are_as_rows_and_bs_columns():
    """Both are 2 x 2 here, so that the name alone tells them apart."""
    assert scaled("x.lora_A", M, D).tolist() == [[[201.0, 2010.0], [403.0, 4030.0]]]
    assert scaled("x.lora_B", M, D).tolist() == [[[31.0, 42.0], [3100.0, 4200.0]]]
    phi = {"x.lora_A": D, "x.lora_B": D}
    after = moved(phi, {"x.lora_A": D}, {"x.lora_A": M})
    assert after["x.lora_A"].tolist() == [[[-200.0, -2000.0], [-303.0, -3030.0]]]
    assert after["x.lora_B"] is D


@pytest.mark.parametrize("name", SHAPES)
def test_every_task_may_have_a_matrix_of_its_own(name):
    draw = normal(0)
    direction, own = draw(*SHAPES[name]), draw(3, 2, 2)
    together = scaled(name, own, direction)
    for task in range(3):
        torch.testing.assert_close(together[task : task + 1], scaled(name, own[task], direction[task : task + 1]))


@pytest.mark.parametrize("name", SHAPES)
def test_gradients_are_autograds(name):
    draw = normal(1)
    direction, cotangent, rate = draw(*SHAPES[name]).requires_grad_(), draw(*SHAPES[name]), draw(2, 2).requires_grad_()
    of_direction, of_rate = torch.autograd.grad((cotangent * scaled(name, rate, direction)).sum(), (direction, rate))
    torch.testing.assert_close(scaled_back(name, rate, cotangent), of_direction)
    torch.testing.assert_close(rate_gradient(name, cotangent, direction), of_rate / 3)


@pytest.mark.parametrize("name", SHAPES)
def test_numbers_are_matrices_times_the_identity(name):
    direction, rates = normal(2)(*SHAPES[name]), tensor([0.1, 0.3], dtype=torch.float64)
    matrices = as_matrices(name, rates, direction[0])
    assert matrices.shape == (2, 2, 2)
    assert as_matrices(name, matrices, direction) is matrices
    for step in (0, 1, 5):
        assert torch.equal(scaled(name, rate_at(matrices, step), direction), scaled(name, rate_at(rates, step), direction))
        assert torch.equal(scaled_back(name, rate_at(rates, step), direction), scaled(name, rate_at(rates, step), direction))


def test_the_rank_is_not_the_longer_side():
    assert as_matrices("x.lora_A", torch.ones(1), torch.zeros(2, 7)).shape == (1, 2, 2)
    assert as_matrices("x.lora_B", torch.ones(1), torch.zeros(7, 2)).shape == (1, 2, 2)


def test_parts_are_positive_numbers_and_one_matrix_of_largest_entry_1():
    rates = joined(tensor([0.5, 2.0]), tensor([[1.0, 0.0], [-4.0, 2.0]]))
    numbers, matrix = parted(rates)
    assert numbers.tolist() == [2.0, 8.0]
    assert matrix.tolist() == [[0.25, 0.0], [-1.0, 0.5]]
    assert torch.equal(joined(numbers, matrix), rates)


def test_numbers_and_what_acts_like_them_have_exact_parts():
    numbers = tensor([1e-3, 7e-4, 3.3e-2])
    assert parted(numbers) == (numbers, None)
    assert joined(numbers, None) is numbers
    found, matrix = parted(as_matrices("x.lora_A", numbers, torch.zeros(4, 6)))
    assert torch.equal(found, numbers)
    assert torch.equal(matrix, torch.eye(4))


def test_one_more_step_at_a_number():
    assert followed_by(tensor([1.0, 2.0]), 3.0).tolist() == [1.0, 2.0, 3.0]
    assert followed_by(M[None], 3.0).tolist() == [[[1.0, 2.0], [3.0, 4.0]], [[3.0, 0.0], [0.0, 3.0]]]
