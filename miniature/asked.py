"""How likely a model finds what it was asked: of each mini-MTPB problem the log-likelihood of the
words of its prompts, given all that stands before them.

    python miniature/asked.py --ckpt out-miniature/toy-mono@12-s0 --samples FILE.jsonl

mtpb.py counts a prompt as it was said, with the "# " of its comment. Here the words alone count:
documents of the miniature keep the gap between two turns that they began with, an answer of the
benchmark has the gap that was sampled and two line breaks more, so the "#" says how used a model is
to blank lines and not how well it understands (3 nats a turn, a quarter of the whole).
"""
import argparse
import json
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import flags  # noqa: E402
from harness.cli import cli, one_line_errors  # noqa: E402
from harness.files import read_lines, replace_file  # noqa: E402


def words_of(pieces):
    """Where the words of the prompts stand in a program -> [(start, end)], in characters: each line
    behind its "#", with the space before its first word. pieces: as mtpb.history's."""
    spans, start = [], 0
    for i, piece in enumerate(pieces):
        if i % 2:       # PREFIX, ask, answer, ask, answer, ...
            spans += [(start + m.start() + 1, start + m.end()) for m in re.finditer("#.*\n", piece)]
        start += len(piece)
    return spans


def asked(ckpt, file):
    """{id: [sum of log p, tokens]} over the cases, each by its first sample."""
    from sample import load, prompt_logprob
    config, params, tokenizer = load(ckpt)
    rows = [row for _, row in read_lines(file) if row.get("prompt_logprob")]
    texts = ["".join(row["prompts_completions"]) for row in rows]
    spans = [words_of(row["prompts_completions"]) for row in rows]
    found = {}
    for row, (total, count) in zip(rows, prompt_logprob(params, config, tokenizer, texts, spans)):
        p = found.setdefault(row["id"], [0.0, 0])
        p[0] = round(p[0] + total, 3)
        p[1] += count
    return found


def parser():
    """The command line."""
    p = one_line_errors(argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False))
    p.add_argument("--ckpt", type=flags.folder, required=True, help="a checkpoint folder")
    p.add_argument("--samples", type=flags.file, required=True, help="a sample file of mtpb.py")
    return p


def main():
    args = parser().parse_args()
    path = Path(args.samples).with_suffix(".asked.json")
    replace_file(path, json.dumps(asked(args.ckpt, args.samples)).encode())
    print(f"wrote {path}")


if __name__ == "__main__":
    cli(main)
