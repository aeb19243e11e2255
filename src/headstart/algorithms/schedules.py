"""How an inner loop's weights move along a phase: pure functions of the share of it that is done."""


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
