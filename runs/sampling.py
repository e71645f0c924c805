"""The model that the benchmarks sample from, and the settings that their sample files hold.

Imports JAX: humaneval.py and mtpb.py open it in `generate` alone, once the problem file is read.
"""
from harness import samples
from harness.devices import find_devices
from harness.folder import find_checkpoint, fingerprint
from harness.hosts import say
from harness.sampling import surprises

import functools
import hashlib
from pathlib import Path

import sample
from tpu_mesh import make_mesh


def load_model(args, names, path, stop):
    """What `generate` of both benchmarks needs -> (settings, new_chat, logprob, stop rule).

    names: the flags that make a sample what it is; path: the problem file; stop: the name of a rule
    of sample.py, which the settings hold. ValueError, before weights are read, which takes long,
    where args.out holds samples of other settings or models."""
    find_devices()
    folder = find_checkpoint(args.ckpt)
    settings = {name: getattr(args, name) for name in (*names, "dtype")}
    settings["checkpoint"] = fingerprint(folder)
    settings["problems_sha256"] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    settings["stop"] = stop
    samples.check_resumable(args.out, settings)
    mesh = make_mesh(args.dp, tp=args.tp)
    config, params, tokenizer = sample.load(folder, args.dtype, mesh=mesh)

    # Of a long prompt half of the context stays, the newest tokens (sample.Chat.align).
    say(*surprises(args, args.n, config.block_size // 2, "a long prompt's"))

    def new_chat(sample_ids):
        return sample.Chats(params, config, tokenizer, len(sample_ids), args.temperature,
                            args.top_p, args.seed, sample_ids)

    logprob = functools.partial(sample.prompt_logprob, params, config, tokenizer)
    return settings, new_chat, logprob, getattr(sample, stop)
