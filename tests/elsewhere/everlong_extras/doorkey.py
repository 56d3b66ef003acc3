"""doorkey: whether a number that is said once, at the start of a text, is said again when it is asked for."""

from dataclasses import dataclass, field

from everlong.evaluate.task import Sample, Task


@dataclass(frozen=True)
class Doorkey(Task):
    """A number between sentences that say nothing."""

    name = "doorkey"
    source = "everlong-extras"
    licence = "generated"
    metric = "the number is in the answer"
    lines: int = field(default=20, metadata={"help": "sentences behind the number"})
    samples: int = field(default=2, metadata={"help": "numbers"})

    def make_samples(self, setting):
        """As many numbers as were asked for."""
        for n in range(self.samples):
            key = str(setting.rng(self.name, n).randrange(1000, 10000))
            text = f"The key of the door is {key}. " + "The door is green. " * self.lines
            yield Sample(str(n), text, "The key of the door is", (key,), max_new_tokens=4, length=self.lines)

    def score(self, prediction, sample):
        """1 where the answer has the number in it."""
        return float(sample.gold[0] in prediction)
