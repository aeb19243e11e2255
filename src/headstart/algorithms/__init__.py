"""How it is learned: pure functions of `losses(phi, rows) -> (T,)` and tensors.

To add an algorithm: one file with a function of the signature `Algorithm`, one row in `ALGORITHMS`, one phase class in `recipe.py`.
"""

from headstart.algorithms.fomaml import fomaml
from headstart.algorithms.maml import maml
from headstart.algorithms.multitask import multitask
from headstart.algorithms.reptile import reptile
from headstart.algorithms.types import Algorithm

ALGORITHMS: dict[str, Algorithm] = {"multitask": multitask, "reptile": reptile, "fomaml": fomaml, "maml": maml}

__all__ = ["ALGORITHMS", "Algorithm"]
