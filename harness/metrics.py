"""What a run tells of its steps: a line of metrics.jsonl each, and a bar. Process 0 alone tells."""
from harness.files import named
from harness.folder import METRICS

import json
import math
import time

from tqdm import tqdm


class Metrics:
    """first, steps: the step at which the run begins, and the last. tokens: of a step.

    flops: that one token costs. peak: FLOP/s of the whole mesh, None where nobody knows it."""

    def __init__(self, out, first, steps, tokens, flops, peak, lead):
        self.out, self.lead = out, lead
        self.tokens, self.flops, self.peak = tokens, flops, peak
        self.bar = tqdm(total=steps, initial=first, unit="step", disable=not lead,
                        dynamic_ncols=True, smoothing=0.05)
        self.clock = time.perf_counter()

    def write(self, step, loss, lr, grad_norm, val_loss=None):
        """The line of a step that has just ended. A NaN ends the run: SystemExit."""
        if val_loss is not None and self.lead:
            self.bar.write(f"step {step:>6}  loss {loss:.3f}  val_loss {val_loss:.3f}  "
                           f"norm {grad_norm:.2f}")
        if not math.isfinite(loss + grad_norm):
            self.bar.close()
            why = (f"step {step}: loss {loss}, gradient norm {grad_norm}: stopped. The newest "
                   f"checkpoint in {self.out} is from before; try a lower --lr_max or more "
                   "--warmup_steps")
            raise SystemExit(why if self.lead else 1)
        now = time.perf_counter()
        rate, self.clock = self.tokens / (now - self.clock), now
        row = dict(step=step, loss=loss, lr=lr, grad_norm=grad_norm, tokens_per_s=round(rate),
                   mfu=rate * self.flops / self.peak if self.peak else None)
        if val_loss is not None:
            row["val_loss"] = val_loss
        if self.lead:
            with named(self.out / METRICS), open(self.out / METRICS, "a") as file:
                file.write(json.dumps(row) + "\n")
        self.bar.set_postfix_str(f"loss {loss:.3f} · {rate:,.0f} tokens/s")
        self.bar.update()
