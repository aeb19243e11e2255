"""How an inner loop's weights move along a phase: pure functions of the share of it that is done, or of a step's number."""

import torch


def second_order_weight(done: float, warmup: float) -> float:
    """The weight of second derivatives: linearly from 0 to 1 over the first `warmup` of a phase, then 1 (arXiv 1810.09502, section 4).

    Args:
        done: the share of the phase that is done.
        warmup: the share over which it rises; 0 for 1 from the first step on.
    """
    return 1.0 if done >= warmup else done / warmup


def query_weights(steps: int, done: float, annealing: float) -> tuple[float, ...]:
    """What the query losses after 0 to K inner steps weigh, K + 1 of them that sum to 1 (multi-step loss, arXiv 1810.09502, section 4).

    From equal weights of steps 1 to K, linearly over the first `annealing` of a phase, to the last alone.

    Args:
        steps: K.
        done: the share of the phase that is done.
        annealing: the share over which they move; 0 for the last alone from the first step on.
    """
    if not steps or done >= annealing:
        return (*(0.0,) * steps, 1.0)
    equal = (1 - done / annealing) / steps
    return (0.0, *(equal,) * (steps - 1), equal + done / annealing)


def support_weights(steps: int, start: float, path: float) -> tuple[float, ...]:
    """What the support losses before each of K inner steps weigh, K of them that sum to `start + path`.

    Args:
        steps: K.
        start: of the first, which is taken at the initialisation itself.
        path: of all together, in equal parts.
    """
    return tuple(path / steps + (0.0 if index else start) for index in range(steps))


def drawn_steps(fewest: int | None, most: int, seed: int, step: int) -> int:
    """The number of inner steps of an outer step, between two bounds, each as likely: a pure function of (seed, step).

    Args:
        fewest: the lower bound; where None, all outer steps take the most.
        most: the upper one.
        seed: of the run.
        step: the outer step's number.
    """
    if fewest is None:
        return most
    # torch mixes what it is seeded with, so that neighbouring steps are unrelated
    generator = torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)
    return int(torch.randint(fewest, most + 1, (), generator=generator))
