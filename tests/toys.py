"""A small thing to differentiate: two LoRA layers on a frozen tanh network, in float64; nothing in it is quadratic."""

import torch

TASKS = 3
NAMES = ("one.lora_A", "one.lora_B", "two.lora_A", "two.lora_B")


def normal(seed):
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)


def network(seed=0, width=5):
    """Losses of a frozen network with two sites; rows are inputs and targets `(T, N, width)`."""
    draw = normal(1000 + seed)
    weights = {site: draw(width, width) / width**0.5 for site in ("one", "two")}

    def losses(phi, rows):
        hidden, targets = rows
        for site, weight in weights.items():
            down, up = (phi[f"{site}.lora_{part}"].transpose(1, 2) for part in "AB")
            hidden = torch.tanh(hidden @ weight.to(hidden).T + 2 * (hidden @ down) @ up)
        return (hidden - targets).square().mean((1, 2))

    return losses


def episode(seed=0, batches=1, tasks=TASKS, width=5, rank=2):
    """An initialisation with B away from zero, support rows a batch, and query rows."""
    draw = normal(seed)
    theta = {name: draw(*((rank, width) if name.endswith("A") else (width, rank))) * 0.4 for name in NAMES}
    rows = [(draw(tasks, 6, width), draw(tasks, 6, width).tanh()) for _ in range(batches + 1)]
    return theta, rows[1:], rows[0]


def constant_rates(theta, steps, rate, names=None):
    """Rates around one, all different; of the tensors that adapt."""
    spread = torch.linspace(0.5, 1.5, max(steps, 1), dtype=torch.float64)
    return {name: rate * (1 + 0.1 * number) * spread for number, name in enumerate(names or theta)}


def mixing(rates, rank=2, seed=7):
    """The same rates, each tensor's times a matrix of its own that is far from the identity."""
    draw = normal(seed)
    return {name: rate[:, None, None] * (torch.eye(rank, dtype=torch.float64) + 0.5 * draw(rank, rank)) for name, rate in rates.items()}


def distance(found, wanted):
    """The norm of the difference over all tensors, as a share of the norm of what is wanted."""
    assert found.keys() == wanted.keys()
    apart = sum(float((found[name].double() - wanted[name].double()).square().sum()) for name in wanted)
    return (apart / sum(float(each.double().square().sum()) for each in wanted.values())) ** 0.5
