"""What train.py says before its first step and after its last."""
from harness.hosts import say

from model import num_params
from runs.settings import mesh_of, remarks, show


def announce(args, config, hyper, steps, data, source, meta, note):
    """What is trained, on what, and what may surprise. note: of check_data."""
    rows, length = hyper.batch_size, data.block_size
    say(f"model {args.model}: {num_params(config):,} parameters · mesh {show(mesh_of(args))} · "
        f"{rows} x {length} = {rows * length:,} tokens a step · {steps} steps · data {args.data}")
    if source:
        resumed = args.init_from == "resume"
        say(f"from {source}, " + (f"step {meta['step']}" if resumed else "weights alone"))
    say(*filter(None, [note, *remarks(args, config, hyper, steps, meta)]))


def conclude(run, signal, source):
    """How it ended and what is next. signal: what stopped it, or 0; then SystemExit with its
    code."""
    if signal:
        if run.done < run.steps:
            say(f"stopped after step {run.done}, saved. The same command with --init_from resume "
                "goes on")
        else:
            say(f"all {run.steps} steps are done and saved")
        raise SystemExit(128 + signal)
    if run.first >= run.steps:
        say(f"{source} is already at step {run.first}: raise --steps to train on")
    elif run.lead and run.data.meta.get("miniature") == "mono" and not run.args.no_benchmark:
        from miniature.closing import closing
        closing(run.out, run.val_loss)
