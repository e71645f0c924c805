"""What Hugging Face transformers computes, written to tests/goldens.npz and tests/goldens.json, so that the tests can
compare with it where it is not installed:  pip install -r requirements-hf.txt && python tests/make_goldens.py"""
import json
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

# Odd on purpose: heads of 6, 9 and 4 dims, rotary smaller than the head and as large, heads that mp_num does not divide.
CASES = {
    "small":   dict(n_layer=2, n_head=4, n_embd=24, rotary_dim=2, vocab_size=67, mp_num=4),
    "odd":     dict(n_layer=3, n_head=8, n_embd=72, rotary_dim=6, vocab_size=101, mp_num=4),
    "mp8":     dict(n_layer=1, n_head=16, n_embd=64, rotary_dim=4, vocab_size=53, mp_num=8),
    "6 heads": dict(n_layer=2, n_head=6, n_embd=48, rotary_dim=4, vocab_size=40, mp_num=4),
}
POSITIONS = 96
PROMPT = 8
TOP_P = (0.1, 0.5, 0.9, 0.95, 0.999)


def sizes(case):
    """The case as Hugging Face's config.json has it."""
    return {n: x for n, x in CASES[case].items() if n != "mp_num"} | dict(n_positions=POSITIONS, n_ctx=POSITIONS)


def random_tensors(case):
    """Weights of a model under the names and in the shapes of a Hugging Face file. RandomState never changes."""
    c, random = CASES[case], np.random.RandomState(sum(map(ord, case)))
    D, V = c["n_embd"], c["vocab_size"]
    shapes = {"transformer.wte.weight": (V, D), "transformer.ln_f.weight": (D,), "transformer.ln_f.bias": (D,),
              "lm_head.weight": (V, D), "lm_head.bias": (V,)}
    for i in range(c["n_layer"]):
        layer = {"ln_1.weight": (D,), "ln_1.bias": (D,), "attn.qkv_proj.weight": (3 * D, D), "attn.out_proj.weight": (D, D),
                 "mlp.fc_in.weight": (4 * D, D), "mlp.fc_in.bias": (4 * D,), "mlp.fc_out.weight": (D, 4 * D),
                 "mlp.fc_out.bias": (D,)}
        shapes |= {f"transformer.h.{i}.{name}": shape for name, shape in layer.items()}
    tensors = {}
    for name, shape in shapes.items():       # far from the usual start, so that the greedy text is not one token repeated
        scale, middle = (1.5 * shape[-1] ** -0.5, 0) if len(shape) == 2 else (0.2, name.endswith("weight"))
        tensors[name] = (middle + scale * random.standard_normal(shape)).astype(np.float32)
    return tensors


def random_ids(case):
    return np.random.RandomState(1).randint(0, CASES[case]["vocab_size"], (2, 20))


def random_logits():
    return (2 * np.random.RandomState(2).standard_normal((8, 60))).astype(np.float32)


def random_strings(n=60):
    """Text as the tokenizer finds it hardest: white space in every mix, code, digits, letters of several alphabets."""
    random = np.random.RandomState(3)
    pieces = [" ", "  ", "\t", "\n", "\r\n", "    ", " " * 31, "\t" * 9, "def ", "self.", "return", "'re", "'s", "x", "0",
              "12345", "()", "==", "#", '"', "é", "ß", "你好", "привет", "🙂", "\u00a0", "\u2028", "\u0301", "<|endoftext", "_",
              "\x00", "A"]
    return ["".join(pieces[i] for i in random.randint(0, len(pieces), random.randint(1, 30))) for _ in range(n)]


def reference_model(case):
    """transformers' own model with the case's weights, mp_num included."""
    import torch
    from transformers import CodeGenConfig, CodeGenForCausalLM
    model = CodeGenForCausalLM(CodeGenConfig(**sizes(case), bos_token_id=None, eos_token_id=None)).eval()
    for block in model.transformer.h:
        assert block.attn.mp_num == 4        # what released weights have
        block.attn.mp_num = CASES[case]["mp_num"]
    model.load_state_dict({n: torch.tensor(w) for n, w in random_tensors(case).items()})
    return model


def reference(case):
    """Logits (2, 20, V), mean loss, and 64 greedy tokens after the first PROMPT ids of the first row."""
    import torch
    model, ids = reference_model(case), torch.tensor(random_ids(case))
    with torch.no_grad():
        out = model(ids, labels=ids)
        greedy = model.generate(ids[:1, :PROMPT], attention_mask=torch.ones(1, PROMPT), max_new_tokens=64, do_sample=False)
    return dict(logits=out.logits.numpy(), loss=out.loss.numpy(), greedy=greedy[0, PROMPT:].numpy())


def reference_nucleus():
    """Which tokens TopPLogitsWarper keeps: (len(TOP_P), rows, V)."""
    import torch
    from transformers import TopPLogitsWarper
    logits = torch.tensor(random_logits())
    return np.stack([np.isfinite(TopPLogitsWarper(p)(None, logits.clone()).numpy()) for p in TOP_P])


def reference_tokenizer():
    """transformers' CodeGenTokenizer, from GPT-2's vocabulary and merges and CodeGen's 38 runs of white space."""
    from transformers import CodeGenTokenizer

    import data
    from hf.tokenizer import SPELL, last_merge
    gpt2 = data.get_tokenizer("gpt2")
    spell = lambda token: "".join(SPELL[b] for b in token)
    ranks = {token: i for i, token in enumerate(gpt2.vocab[:-1])}
    pairs = [last_merge(token, ranks) for token in ranks]
    vocab = {spell(token): i for token, i in ranks.items()} | {"<|endoftext|>": 50256}
    tokenizer = CodeGenTokenizer(vocab=vocab, merges=[tuple(map(spell, pair)) for pair in pairs if pair])
    tokenizer.add_tokens([" " * n for n in range(31, 1, -1)] + ["\t" * n for n in range(9, 1, -1)])
    return tokenizer


def main():
    arrays = {f"{case}/{name}": x for case in CASES for name, x in reference(case).items()}
    np.savez_compressed(HERE / "goldens.npz", nucleus=reference_nucleus(), **arrays)
    tokenizer = reference_tokenizer()
    ids = {text: tokenizer.encode(text) for text in random_strings()}
    (HERE / "goldens.json").write_text(json.dumps(ids, separators=(",", ":")))


if __name__ == "__main__":
    main()
