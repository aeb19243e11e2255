"""The shape of rows; that both layouts give the same losses is the learner's test."""

import pytest
import torch

from headstart.model.attention import visible
from headstart.tasks.planner import Planner
from headstart.tasks.rows import Rendered, build_rows, common_prefix, laid_out_tokens

# two tasks; in the first both examples share three tokens, in the second there is one example
FIRST = [Rendered((1, 2, 3, 10, 11, 20, 9), 5), Rendered((1, 2, 3, 12, 21, 22, 9), 4)]
SECOND = [Rendered((1, 5, 30, 9), 2)]


def rows(**options):
    return build_rows([[[one] for one in FIRST], [[one] for one in SECOND]], pad_id=0, **options)


def test_packed_row_is_the_prefix_and_then_the_examples():
    packed = build_rows([[[one] for one in FIRST]])
    assert packed.input_ids.tolist() == [[1, 2, 3, 10, 11, 20, 9, 12, 21, 22, 9]]
    assert packed.position_ids[0].tolist() == [0, 1, 2, 3, 4, 5, 6, 3, 4, 5, 6]
    assert packed.one_row_a_task


def test_short_rows_are_filled_and_a_planner_weighs_that():
    """Two rows of eleven tokens are more than three of seven."""
    packed = rows()
    assert packed.input_ids.tolist() == [[1, 2, 3, 10, 11, 20, 9], [1, 2, 3, 12, 21, 22, 9], [1, 5, 30, 9, 0, 0, 0]]
    assert packed.tokens == 21 == laid_out_tokens([[[one] for one in FIRST], [[one] for one in SECOND]])
    assert packed.row_task.tolist() == [0, 0, 1]
    assert not packed.one_row_a_task


def test_an_example_sees_the_prefix_and_itself_only():
    mask = visible(build_rows([[[one] for one in FIRST]]))[0, 0]
    assert mask[10].nonzero().flatten().tolist() == [0, 1, 2, 7, 8, 9, 10]
    assert mask[6].nonzero().flatten().tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert mask[1].nonzero().flatten().tolist() == [0, 1]


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_labels_are_the_answers_and_every_task_weighs_one(layout):
    made = rows(layout=layout)
    assert made.targets.tolist() == [20, 9, 21, 22, 9, 30, 9]
    torch.testing.assert_close(torch.zeros(2).index_add(0, made.task, made.weight), torch.ones(2))
    torch.testing.assert_close(made.weight, torch.tensor([1 / 4, 1 / 4, 1 / 6, 1 / 6, 1 / 6, 1 / 2, 1 / 2]))
    before = made.input_ids[made.predicts]
    assert before.tolist() == [11, 20, 12, 21, 22, 5, 30]


def test_long_rows_are_split_and_the_prefix_repeated():
    split = rows(planner=Planner(max_row_tokens=8))
    assert split.row_task.tolist() == [0, 0, 1]
    assert split.input_ids[:2, :3].tolist() == [[1, 2, 3]] * 2
    assert not split.one_row_a_task
    torch.testing.assert_close(split.weight, rows().weight)


def test_candidates_share_their_prompt_and_do_not_weigh():
    one = [Rendered((1, 2, 3, 10, 20, 9), 4), Rendered((1, 2, 3, 10, 21, 9), 4), Rendered((1, 2, 3, 10, 22, 23, 9), 4)]
    other = [Rendered((1, 2, 4, 11, 21, 9), 4), Rendered((1, 2, 4, 11, 20, 9), 4)]
    made = build_rows([[one, other]])
    assert made.sequence_example.tolist() == [0, 0, 0, 1, 1]
    assert made.input_ids[0].tolist() == [1, 2, 3, 10, 20, 9, 10, 21, 9, 10, 22, 23, 9, 4, 11, 21, 9, 11, 20, 9]
    true = torch.isin(made.sequence, torch.tensor([0, 3]))
    assert made.weight[true].sum() == 1
    assert not made.weight[~true].any()
    # the third candidate's last token sees prefix, its prompt and itself
    assert visible(made)[0, 0, 12].nonzero().flatten().tolist() == [0, 1, 2, 9, 10, 11, 12]


def test_prefix_leaves_one_token_before_any_answer():
    assert common_prefix(FIRST) == 3
    assert common_prefix([SECOND[0], SECOND[0]]) == 1


def test_a_task_without_examples_is_refused():
    with pytest.raises(ValueError, match="at least one example"):
        build_rows([[]])
