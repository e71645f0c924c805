"""Training on this CPU, or with --gpu on a GPU: tokens a second beside a GPT of the same shape in PyTorch, as in nanoGPT.

    pip install torch==2.13.0 && python bench/vs_nanogpt.py

The peer has what is fastest there: one LayerNorm a layer as ours, learned positions instead of rotary ones, PyTorch's own
attention, the fused AdamW, on a GPU bfloat16 by autocast, with and without torch.compile; the better one counts."""
import dataclasses
import time
from statistics import median

from versus import CORES, flags, machine, matrix_peak, report, serve, versus

#          layers, heads, width, context, vocabulary, sequences a step
SHAPES = {"toy": (4, 4, 128, 256, 1024, 16), "6x384": (6, 6, 384, 256, 1024, 12)}
GPU_SHAPES = {f"350M, {batch} sequences": (20, 16, 1024, 2048, 51200, batch) for batch in (8, 16)}
STEPS = 3


def sizes(shape):
    """(Config, sequences a step)."""
    from model import Config
    layers, heads, width, context, vocabulary, batch = (SHAPES | GPU_SHAPES)[shape]
    return Config(n_layer=layers, n_head=heads, n_embd=width, rotary_dim=16, block_size=context, vocab_size=vocabulary,
                  dtype="bfloat16" if shape in GPU_SHAPES else "float32"), batch


def ours(shape):
    from fast.micro import micro_batches

    import jax
    import numpy as np

    import train
    from tpu_mesh import make_mesh
    config, batch = sizes(shape)
    hyper = train.Hyper(batch_size=batch)
    if jax.default_backend() == "cpu":
        hyper = dataclasses.replace(hyper, grad_accum=micro_batches(config, batch))
    step, state = train.make_train_step(config, hyper, make_mesh()), train.init_state(0, config, make_mesh())
    T, V = config.block_size, config.vocab_size
    tokens = jax.device_put(np.random.default_rng(0).integers(0, V, (batch, T + 1)).astype(np.int32))

    def measure():
        nonlocal state
        start = time.perf_counter()
        for _ in range(STEPS):
            state, metrics = step(state, tokens)
        float(metrics["loss"])
        return batch * T * STEPS / (time.perf_counter() - start)
    return measure


def torch_gpt(shape, compiled):
    import torch
    from torch import nn
    from torch.nn import functional as F
    torch.set_num_threads(CORES)
    torch.set_float32_matmul_precision("high")
    layers, heads, width, T, V, batch = (SHAPES | GPU_SHAPES)[shape]
    device = "cuda" if shape in GPU_SHAPES else "cpu"

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.ln, self.qkv = nn.LayerNorm(width), nn.Linear(width, 3 * width, bias=False)
            self.out = nn.Linear(width, width, bias=False)
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x):
            h = self.ln(x)
            q, k, v = (y.view(batch, T, heads, -1).transpose(1, 2) for y in self.qkv(h).split(width, 2))
            a = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(batch, T, width)
            return x + self.out(a) + self.down(F.gelu(self.up(h), approximate="tanh"))

    class GPT(nn.Module):
        def __init__(self):
            super().__init__()
            self.token, self.place = nn.Embedding(V, width), nn.Embedding(T, width)
            self.layers = nn.Sequential(*[Block() for _ in range(layers)])
            self.ln, self.head = nn.LayerNorm(width), nn.Linear(width, V)

        def forward(self, x, y):
            logits = self.head(self.ln(self.layers(self.token(x) + self.place.weight)))
            return F.cross_entropy(logits.view(-1, V), y.view(-1))

    gpt = GPT().to(device)
    optimizer = torch.optim.AdamW(gpt.parameters(), lr=1e-3, fused=True)
    run = torch.compile(gpt) if compiled else gpt
    x, y = torch.randint(0, V, (2, batch, T), device=device)

    def measure():
        start = time.perf_counter()
        for _ in range(STEPS):
            with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
                loss = run(x, y)
            loss.backward()
            nn.utils.clip_grad_norm_(gpt.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        loss.item()
        return batch * T * STEPS / (time.perf_counter() - start)
    return measure


def main():
    args = flags(__doc__, 15, gpu=True).parse_args()
    if args.side:
        return serve({"ours": lambda: ours(args.shape), "torch": lambda: torch_gpt(args.shape, False),
                      "torch.compile": lambda: torch_gpt(args.shape, True), "peak": lambda: matrix_peak}[args.side]())
    from model import flops_per_token
    machine("jax", "torch", gpu=args.gpu)
    for shape in GPU_SHAPES if args.gpu else SHAPES:
        figures = versus(__file__, shape, ["ours", "torch", "torch.compile", "peak"], args.rounds, args.gpu)
        flops = flops_per_token(sizes(shape)[0])
        share = median(flops * r / 1e9 / peak for r, peak in zip(figures["ours"], figures["peak"]))
        report("train", "tokens/s", shape, figures, f"· {share:.0%} of {median(figures['peak']):.0f} GFLOP/s ")


if __name__ == "__main__":
    main()
