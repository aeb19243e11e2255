"""Blocks: every token once, every pair that sees each other and no other."""

import pytest
import torch

from headstart.model.attention import visible
from headstart.tasks.blocks import ALIKE
from headstart.tasks.planner import Planner
from headstart.tasks.rows import Rendered, build_rows


def conversation(prefix, own, offset):
    return Rendered((*range(prefix), 1000 + offset, *range(own - 1)), prefix + own - 1)


def task(prefix, owns):
    return [[conversation(prefix, own, index)] for index, own in enumerate(owns)]


def candidates(prefix, stem, answers):
    """Examples of several answers each, behind a prompt of their own."""
    return [
        [Rendered((*range(prefix), 500 + e, *range(stem), 900 + a, *range(size)), prefix + stem + 1) for a, size in enumerate(answers)]
        for e in range(3)
    ]


BATCHES = {
    "alike": ([task(4, (3, 3, 3)), task(4, (3, 3, 3))], {}),
    "unlike": ([task(5, (2, 9, 4)), task(1, (3, 3, 3, 30)), task(7, (1,))], {}),
    "split": ([task(5, (2, 9, 4)), task(3, (3, 3, 3, 3))], {"planner": Planner(max_row_tokens=14)}),
    "padded": ([task(5, (2, 9, 4)), task(3, (3, 3))], {"layout": "padded"}),
    "nothing shared": ([task(0, (2, 9, 4))], {}),
    "candidates": ([candidates(4, 3, (1, 2, 5)), task(2, (4, 4))], {}),
}


@pytest.fixture(params=BATCHES, ids=lambda name: name.replace(" ", "-"))
def rows(request):
    tasks, options = BATCHES[request.param]
    return build_rows(tasks, **options)


def keys_of(blocks, bucket):
    """`(N, E, S)`: the token that each key is."""
    own = bucket.tokens[:, None, :].expand(-1, bucket.tokens.shape[1], -1)
    if bucket is blocks.prefix or blocks.prefix is None:
        return own
    shared = blocks.prefix.tokens[bucket.row][:, None, :].expand(-1, own.shape[1], -1)
    return torch.cat([shared, own], 2)


def test_pairs_are_those_of_the_dense_mask(rows):
    """As a set of pairs of tokens, filling apart."""
    found = torch.zeros(rows.tokens, rows.tokens, dtype=torch.long)
    for bucket in rows.blocks.buckets:
        keys = keys_of(rows.blocks, bucket)
        queries = bucket.tokens[:, :, None].expand_as(keys)
        found.index_put_((queries[bucket.visible], keys[bucket.visible]), torch.tensor(1), accumulate=True)
    dense = torch.block_diag(*visible(rows)[:, 0].long())
    real = (rows.branch != -2).flatten().long()
    assert torch.equal(found, dense * real * real[:, None])


def test_each_token_is_in_one_slot_and_found_there(rows):
    heads = 3
    parts = [bucket.tokens[:, None, :].expand(-1, heads, -1).reshape(-1) for bucket in rows.blocks.buckets]
    found = torch.cat(parts)[rows.blocks.places(heads)].view(rows.tokens, heads)
    real = (rows.branch != -2).flatten()
    assert torch.equal(found[real], torch.arange(rows.tokens)[real][:, None].expand(-1, heads))
    assert sum(int(bucket.real.sum()) for bucket in rows.blocks.buckets) == int(real.sum())


def test_positions_tell_how_far_a_key_is_behind(rows):
    positions = rows.position_ids.flatten()
    for bucket in rows.blocks.buckets:
        keys = keys_of(rows.blocks, bucket)
        ahead = positions[bucket.tokens][:, :, None] - positions[keys]
        assert torch.equal(bucket.ahead[bucket.visible], ahead[bucket.visible])
        assert (bucket.ahead[bucket.visible] >= 0).all()


def test_members_of_a_bucket_are_of_like_length(rows):
    for bucket in rows.blocks.own:
        sizes = bucket.real.sum(1)
        assert int(sizes.min()) > ALIKE * int(sizes.max())


def test_filling_is_marked(rows):
    filling = rows.branch == -2
    assert (rows.blocks.filling is None) == (not filling.any())
    assert rows.blocks.filling is None or torch.equal(rows.blocks.filling, filling)
    assert rows.filling == int(filling.sum())


def test_blocks_are_fewer_pairs_than_a_rows_square():
    rows = build_rows([task(24, (12,) * 16)] * 2)
    assert rows.blocks.pairs == 2 * (24**2 + 16 * 12 * 36)
    assert 6 * rows.blocks.pairs < rows.tokens * rows.input_ids.shape[1]
