"""Steps with their times, printed as they happen."""
import time


class Timeline:
    def __init__(self, echo=None):
        self.echo = echo or (lambda text: print(text, flush=True))
        self.begun = self.last = time.monotonic()

    def step(self, what):
        """Says that `what` is done; the second column is how long it took."""
        now = time.monotonic()
        self.echo(f"{now - self.begun:7.1f} s  (+{now - self.last:5.1f})  {what}")
        self.last = now

    def note(self, what):
        self.echo(f"{'':21}{what}")
