"""What train.py says before its first step and after its last."""
from harness.cli import pasted
from harness.hosts import say

import re
import shlex

from corpora.tokenizer import END_OF_TEXT

from data import get_sequences, get_tokenizer
from model import num_params
from runs.settings import mesh_of, remarks, show

# ---- before --------------------------------------------------------------------------------------

def announce(args, config, hyper, steps, data, source, meta, note):
    """What is trained, on what, and what may surprise. note: of check_data."""
    rows, length = hyper.batch_size, data.block_size
    say(f"model {args.model}: {num_params(config):,} parameters · mesh {show(mesh_of(args))} · "
        f"{rows} x {length} = {rows * length:,} tokens a step · {steps} steps · data {args.data}")
    if source:
        resumed = args.init_from == "resume"
        say(f"from {source}, " + (f"step {meta['step']}" if resumed else "weights alone"))
    unseen = "the data has no validation split: no val_loss is measured"
    asked = args.eval_every and not data.meta["sequences"]["val"]
    say(*filter(None, [note, asked and unseen, *remarks(args, config, hyper, steps, meta)]))


# ---- after ---------------------------------------------------------------------------------------

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
    elif run.lead:
        if run.data.meta.get("miniature") == "mono" and not run.args.no_benchmark:
            from miniature.closing import closing
            closing(run.out, run.val_loss)
        for i, (command, what) in enumerate(next_commands(run.out, run.data)):
            print(f"{'' if i else 'next: '}{what}:\n    {command}")    # zsh takes no # behind it


AFTER = {"nl": "multi", "multi": "mono"}    # corpus -> the one that the paper goes on with


def next_commands(out, data):
    """What one may want to do with the model in the folder `out` that was trained on `data`
    -> [(command, what it does)]."""
    ckpt, kind = pasted(out), data.meta.get("miniature")
    name, *dial = (kind or "").partition("@")
    if name in AFTER:
        new = "".join([AFTER[name], *dial])
        return [(f"python train.py --init_from {ckpt} --data miniature:{new} --out_dir out-{new}",
                 "from these weights, as the paper goes on")]
    turns = f"python sample.py --ckpt {ckpt}"
    commands = [(turns, "say what you want, turn by turn")]
    if kind:
        page = pasted(out / "trace.html")
        return [*commands, (f"{turns} --trace {page}", "and see each token's rivals on a page")]
    if prompt := opening(data):
        commands.insert(0, (f"{turns} --prompt {shlex.quote(prompt)}", "a line of your files"))
    if data.meta.get("filters") == "code":
        commands.append((f"python humaneval.py run --ckpt {ckpt} --limit 5 --n 4",
                         "five of the paper's problems"))
    return commands


def opening(data) -> str:
    """The beginning of a line that some document holds, for a model to go on with: of the
    validation split where there is one. "" where none of eight sequences has a fit one."""
    tokenizer = get_tokenizer(data.tokenizer)
    split = "val" if data.meta["sequences"]["val"] else "train"
    for ids in get_sequences(data, split, 0, 0, 8):
        text = tokenizer.decode(ids.tolist()).replace(END_OF_TEXT.decode(), "\n")
        # Behind a line break, because a sequence may begin in the middle of a line; not indented;
        # 10 to 40 characters, up to the end of a word; no half of a character.
        found = re.search(r"(?<=\n)\w[^\n\ufffd]{9,39}(?!\w)", text)
        if found and found[0].isprintable():
            return found[0].rstrip()
    return ""
