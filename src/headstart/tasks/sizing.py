"""How long examples may get under all that training may draw anew."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from headstart.tasks.codes import MOST_OF_ONE_SYLLABLE, SYLLABLES
from headstart.tasks.episodes import NOTHING_REDRAWN, Redrawn
from headstart.tasks.render import Renderer
from headstart.tasks.rows import Rendered
from headstart.tasks.task import Example, Task


@dataclass(frozen=True)
class Sizing:
    """How long examples may get.

    Args:
        renderer: of the base.
        redrawn: what training draws anew at each step.
    """

    renderer: Renderer
    redrawn: Redrawn = NOTHING_REDRAWN

    def lengths(self, task: Task, rendered: Sequence[Rendered]) -> list[int]:
        """The most tokens of each example, rendered as it is: under each wording and with each answer that it may be given.

        Every wording is measured with every example, since what a tokenizer makes of a line's end may depend on both sides of it.
        """
        lengths = self._answered(task, rendered)
        for wording in task.paraphrases if self.redrawn.wording else ():
            reworded = replace(task, instruction=wording, paraphrases=())
            own = self._answered(reworded, self.renderer.measure(wording, task.examples))
            lengths = [max(pair) for pair in zip(lengths, own, strict=True)]
        return lengths

    def _answered(self, task: Task, rendered: Sequence[Rendered]) -> list[int]:
        """The tokens of each example, whichever answer it is given: ranking renders every label."""
        if not task.labels:
            return [len(one.ids) for one in rendered]
        longest = max(self._answers(task.instruction, task.examples[0], self._labels(task)))
        return [one.answer + longest for one in rendered]

    def _labels(self, task: Task) -> Sequence[str]:
        """All labels that a task may have; of codes drawn anew, the longest stands for all."""
        recoded = self.redrawn.codes and task.original_labels and len(task.labels) <= MOST_OF_ONE_SYLLABLE
        return (*task.labels, self._longest_code) if recoded else task.labels

    @cached_property
    def _longest_code(self) -> str:
        lengths = self._answers("", Example("a", "b"), SYLLABLES)
        return SYLLABLES[lengths.index(max(lengths))]

    def _answers(self, instruction: str, example: Example, answers: Sequence[str]) -> list[int]:
        """The tokens of answers to an example, each with the token that ends it."""
        rendered = self.renderer.measure(instruction, [replace(example, output=answer, tokens=None) for answer in answers])
        return [len(one.ids) - one.answer for one in rendered]
