"""The command lines of data.py: their flags, and what `prepare` does before, around and after the
five steps."""
from harness import flags
from harness.cli import CORES, one_line_errors, pasted

import argparse
import contextlib
from pathlib import Path

from corpora.cluster import absolute_paths, pool_for
from corpora.files import TextFiles, input_flags
from corpora.folder import folders_for
from corpora.languages import LANGUAGES, language
from corpora.shards import print_totals

from tqdm import tqdm


def chosen_files(args):
    """The flags -> TextFiles. ValueError, before any work, where a file's language is not known or
    nothing can be written to --out."""
    if args.dask:
        absolute_paths(args)
    files = TextFiles.of(args)
    if args.language_prefix:
        files.check_languages(language, LANGUAGES)
    files.left_out |= {str(folder) for folder in folders_for(args.out)}
    return files


@contextlib.contextmanager
def workers_over(args, files, n_bytes, n_text, make_tools, *parts):
    """-> (the Documents of the files, the Pool that works on them) as long as the block runs, with
    a bar of n_bytes; each worker has called make_tools(*parts)."""
    # One more for each MB, because a worker takes 0.3 s to start, longer than for 1 MB of text.
    workers = min(args.workers, 1 + n_text // 2 ** 20)
    with (pool_for(args, workers, make_tools, *parts) as pool,
          tqdm(total=n_bytes, unit="B", unit_scale=True, desc="filter, tokenize") as bar):
        yield files.documents(bar, language if args.language_prefix else None), pool


@contextlib.contextmanager
def counted_in_errors(files):
    """Adds to a ValueError what became of the documents, once all have been read."""
    try:
        yield
    except ValueError as error:
        counted = f" ({files.words()})" if files.all_read else ""
        raise ValueError(f"{error}{counted}") from None


def entries(args, files):
    """What meta.json says of the choice of documents and of what became of them."""
    return {"extensions": files.endings, "filters": args.filters,
            "language_prefix": args.language_prefix,
            "exclude_benchmarks": args.exclude_benchmarks, **files.numbers()}


def print_written(args, files, meta):
    """What a user wants to see at the end of `prepare`."""
    print(f"{meta['documents_seen']:,} documents, {files.words()}")
    print_totals(meta)
    # A folder of its own, because --out_dir is `out` by default and may hold a run already.
    print(f"written to {args.out}. Next:  python train.py --data {pasted(args.out)} "
          f"--out_dir {pasted('out-' + Path(args.out).resolve().name)}")


def command_line(description, filters):
    """The parser of both commands; filters: the names that --filters takes."""
    top = argparse.ArgumentParser(
        prog="data.py", description=description, allow_abbrev=False)
    commands = top.add_subparsers(dest="command", required=True, metavar="prepare | train-bpe")
    p = commands.add_parser(
        "prepare", allow_abbrev=False, help="source files to shards of packed sequences")
    b = commands.add_parser(
        "train-bpe", allow_abbrev=False, help="learn a byte-level BPE, digits kept single")
    for command in (p, b):
        input_flags(command)
        command.add_argument("--filters", choices=filters, default="code",
                             help="code: the paper's (default); prose: no limit to lines; none")
        one_line_errors(command)
    one_line_errors(top)
    prepare_flags(p)
    b.add_argument("--vocab_size", type=flags.whole(257, 65536), required=True,
                   help="number of ids, end of text included")
    b.add_argument("--out", type=flags.new_file, required=True, metavar="FILE.tiktoken",
                   help="file to write")
    return top


def prepare_flags(p):
    """The flags that `prepare` alone has."""
    p.add_argument("--out", type=flags.new_folder, required=True, metavar="DIR",
                   help="folder to make, or an empty one to fill")
    p.add_argument("--tokenizer", type=flags.text, default="codegen",
                   help="gpt2, codegen (default), bytes, miniature, a .tiktoken file")
    p.add_argument("--block_size", type=flags.whole(1), default=2048,
                   help="tokens a sequence (default 2048)")
    p.add_argument("--val_fraction", type=flags.number(0, 0.99), default=0.01,
                   help="documents kept for validation (default 0.01; 0: none)")
    p.add_argument("--seed", type=flags.whole(0, 2 ** 63 - 1), default=0,
                   help="of the shuffle (default 0)")
    p.add_argument("--workers", type=flags.whole(1, 1024), default=CORES,
                   help="processes (default one a core)")
    p.add_argument("--language_prefix", action="store_true",
                   help="put the language's name first (BIGQUERY)")
    p.add_argument("--exclude_benchmarks", action="store_true",
                   help="drop documents that hold a problem of HumanEval or MTPB")
    p.add_argument("--dask", type=flags.text, metavar="ADDRESS",
                   help="work on a dask.distributed cluster; local: start one here")
