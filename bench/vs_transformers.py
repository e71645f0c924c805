"""Sampling on this CPU, or with --gpu on a GPU: tokens a second beside transformers' CodeGen, the same weights on all sides.

    pip install torch==2.13.0 && pip install transformers safetensors ctranslate2 && python bench/vs_transformers.py

All draw with top_p 0.95 at temperature 0.8 and stop at the same number of new tokens. For 350M on a CPU also: CTranslate2, in
float32 and with its int8 beside our bfloat16; the weights that ours reads a second, prefill included in the time, beside a
plain read of memory by all cores; and its speed with bfloat16."""
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

from versus import CORES, flags, machine, numbers, ratio, report, serve, versus

#           preset, rows, new tokens
SHAPES = {"toy x 1": ("toy", 1, 128), "toy x 64": ("toy", 64, 128), "350M x 1": ("350M", 1, 24), "350M x 8": ("350M", 8, 24)}
GPU_SHAPES = {"350M x 1, GPU": ("350M", 1, 128), "350M x 8, GPU": ("350M", 8, 128), "350M x 64, GPU": ("350M", 64, 128)}
PROMPT = 16     # tokens
LARGE = ["CTranslate2", "ours bf16", "CTranslate2 int8", "read"]      # more sides of 350M on a CPU


def folder(preset):
    return Path(tempfile.gettempdir()) / f"codegen-bench-{preset}"


def write_models():
    """Random weights of both presets in Hugging Face's layout, written and read by the project's own export."""
    import jax

    from data import get_tokenizer
    from model import CONFIGS, export_hf, init_params
    jax.config.update("jax_platforms", "cpu")       # this process leaves a GPU to the sides
    for preset, tokenizer in ("toy", "bytes"), ("350M", "codegen"):
        if not folder(preset).exists():
            config = CONFIGS[preset]
            export_hf(init_params(jax.random.key(0), config), config, folder(preset), get_tokenizer(tokenizer))


def ours(shape, dtype="float32"):
    import numpy as np

    import sample
    preset, rows, new = (SHAPES | GPU_SHAPES)[shape]
    config, params, _ = sample.load(folder(preset), "bfloat16" if shape in GPU_SHAPES else dtype)

    prompt = "".join(map(chr, np.random.default_rng(0).integers(1, 500, PROMPT)))

    def measure():
        start = time.perf_counter()
        texts = sample.generate(params, config, numbers(config), [prompt] * rows, new, temperature=0.8, top_p=0.95)
        return sum(len(text) for text, _ in texts) / (time.perf_counter() - start)
    return measure


def theirs(shape):
    import torch
    from transformers import AutoModelForCausalLM
    torch.set_num_threads(CORES)
    preset, rows, new = (SHAPES | GPU_SHAPES)[shape]
    device, dtype = ("cuda", torch.bfloat16) if shape in GPU_SHAPES else ("cpu", torch.float32)
    net = AutoModelForCausalLM.from_pretrained(folder(preset), dtype=dtype).to(device).eval()
    return transformers_generate(net, rows, new)


def transformers_generate(net, rows, new):
    import torch
    ids = torch.randint(1, 500, (rows, PROMPT), device=net.device)

    def measure():
        start = time.perf_counter()
        with torch.no_grad():
            out = net.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, min_new_tokens=new,
                               do_sample=True, top_p=0.95, top_k=0, temperature=0.8, pad_token_id=0)
        return out[:, PROMPT:].numel() / (time.perf_counter() - start)
    return measure


def ctranslate2(shape, kind):
    """CTranslate2's own CodeGen, made of the same folder; kind: float32 or int8."""
    from ctranslate2 import Generator
    from ctranslate2.converters import TransformersConverter
    preset, rows, new = SHAPES[shape]
    converted = f"{folder(preset)}/ctranslate2-{kind}"
    if not Path(converted).exists():
        TransformersConverter(str(folder(preset))).convert(converted, quantization=kind)
    net = Generator(converted, compute_type=kind, intra_threads=CORES)
    prompt = ["a"] * PROMPT

    def measure():
        start = time.perf_counter()
        done = net.generate_batch([prompt] * rows, max_length=new, min_length=new, include_prompt_in_result=False,
                                  sampling_topk=0, sampling_topp=0.95, sampling_temperature=0.8)
        return sum(len(text.sequences_ids[0]) for text in done) / (time.perf_counter() - start)
    return measure


def plain_read():
    """GB/s of summing 1 GB in memory, a part a core."""
    import numpy as np
    parts = np.split(np.ones(CORES * (250_000_000 // CORES), np.float32), CORES)

    def measure():
        start = time.perf_counter()
        with ThreadPoolExecutor(CORES) as pool:
            list(pool.map(np.sum, parts))
        return sum(p.nbytes for p in parts) / 1e9 / (time.perf_counter() - start)
    return measure


def weights_read(shape, tokens_per_s):
    """GB/s of weights: a token of all rows reads each of them once, but of the embedding only its own rows."""
    from model import CONFIGS, num_params
    preset, rows, _ = (SHAPES | GPU_SHAPES)[shape]
    config = CONFIGS[preset]
    return 4 * (num_params(config) - config.vocab_size * config.n_embd) * tokens_per_s / rows / 1e9


def main():
    p = flags(__doc__, 7, gpu=True)
    p.add_argument("--only", default="", help="shapes whose name holds this text")
    args = p.parse_args()
    if args.side:
        return serve({"ours": lambda: ours(args.shape), "ours bf16": lambda: ours(args.shape, "bfloat16"),
                      "transformers": lambda: theirs(args.shape), "read": plain_read,
                      "CTranslate2": lambda: ctranslate2(args.shape, "float32"),
                      "CTranslate2 int8": lambda: ctranslate2(args.shape, "int8")}[args.side]())
    write_models()
    machine("jax", "torch", "transformers", *["ctranslate2"] * (not args.gpu), gpu=args.gpu)
    for shape in (s for s in (GPU_SHAPES if args.gpu else SHAPES) if args.only in s):
        large = shape.startswith("350M") and not args.gpu
        figures = versus(__file__, shape, ["ours", "transformers"] + LARGE * large, args.rounds, args.gpu)
        more = ""
        if large:
            m = {side: median(values) for side, values in figures.items()}
            more = (f"· {weights_read(shape, m['ours']):.1f} GB/s of weights, plain read {m['read']:.1f} · "
                    f"bfloat16 {m['ours bf16']:.1f}, {ratio(figures['ours bf16'], figures['ours'])[0]:.2f} of float32's "
                    f"speed, CTranslate2's int8 {m['CTranslate2 int8']:.1f} ")
        report("sample", "tokens/s", shape, figures, more)
    for preset in ("toy", "350M"):
        shutil.rmtree(folder(preset), ignore_errors=True)


if __name__ == "__main__":
    main()
