"""The same laws against Hugging Face transformers itself: pip install -r requirements-hf.txt, python -m pytest -m transformers.

Skipped where it is not installed; test_hf.py then compares with the numbers that it gave (make_goldens.py)."""
import json
import sysconfig
from pathlib import Path

import jax
import jax.numpy as jnp
import make_goldens
import numpy as np
import pytest
from make_goldens import CASES, PROMPT, random_ids, random_strings

import data
import model
import sample
from hf.config import hf_config
from hf.layout import hf_tensors, to_hf
from hf.weights import load_hf
from model import Config, export_hf, import_hf, param_table

torch = pytest.importorskip("torch", reason="needs pip install -r requirements-hf.txt")
transformers = pytest.importorskip("transformers", reason="needs pip install -r requirements-hf.txt")
pytestmark = pytest.mark.transformers
HERE = Path(__file__).parent


def same_text(hf, params, config, ids):
    """Their logits, loss and 64 greedy tokens are ours, ours from the sampler's own loop."""
    with torch.no_grad():
        theirs = hf(torch.tensor(ids), labels=torch.tensor(ids))
        greedy = hf.generate(torch.tensor(ids[:1, :PROMPT]), attention_mask=torch.ones(1, PROMPT), max_new_tokens=64,
                             do_sample=False, eos_token_id=None)[0, PROMPT:]
    np.testing.assert_allclose(model.forward(params, ids, config), theirs.logits.float(), atol=1e-4)
    assert float(model.loss_fn(params, jnp.asarray(ids), config)[1]) == pytest.approx(float(theirs.loss), abs=1e-4)
    one = jnp.array([PROMPT])
    cache = model.init_cache(config, 1)
    logits, new = sample.prefill(params, ids[:1, :PROMPT], cache, jnp.zeros((1, config.vocab_size)), 0 * one, one, config)
    cache = model.extend_cache(cache, new, 0 * one)
    out = sample.decode(params, cache, logits, one, one < 0, one + 64, 0, 0 * one, 0.0, 1.0, config=config,
                        n_vocab=config.vocab_size, eot=-2, steps=64)[0]
    np.testing.assert_array_equal(out[0], greedy)


def test_the_goldens_are_what_it_computes():
    goldens = np.load(HERE / "goldens.npz")
    for case in CASES:
        for name, x in make_goldens.reference(case).items():
            np.testing.assert_allclose(x, goldens[f"{case}/{name}"], atol=1e-5)
    np.testing.assert_array_equal(make_goldens.reference_nucleus(), goldens["nucleus"])
    tokenizer = make_goldens.reference_tokenizer()
    assert {text: tokenizer.encode(text) for text in random_strings()} == json.loads((HERE / "goldens.json").read_text())


@pytest.mark.parametrize("case", [case for case in CASES if CASES[case]["mp_num"] == 4])
def test_what_it_saves_we_read_and_what_we_write_it_reads(case, tmp_path):
    hf, ids = make_goldens.reference_model(case), random_ids(case)
    hf.save_pretrained(tmp_path / "theirs")
    config, params = import_hf(tmp_path / "theirs")
    same_text(hf, params, config, ids)
    export_hf(params, config, tmp_path / "ours")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert type(again) is type(hf)
    for (name, a), b in zip(hf.state_dict().items(), again.state_dict().values()):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_torch_files_and_shards(dtype, tmp_path):
    """pytorch_model.bin, and safetensors in several files, in each precision, hold the same weights."""
    hf = make_goldens.reference_model("odd").to(dtype)
    hf.save_pretrained(tmp_path / "shards", max_shard_size="60KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    hf.config.save_pretrained(tmp_path / "bin")
    masks = {f"transformer.h.{i}.attn.bias": torch.ones(1, 1, 96, 96, dtype=torch.bool) for i in range(3)}
    torch.save(hf.state_dict() | masks, tmp_path / "bin" / "pytorch_model.bin")
    (config, shards), (_, whole) = import_hf(tmp_path / "shards"), import_hf(tmp_path / "bin")
    for theirs, (name, layer, _) in hf_tensors(config, 4).items():
        for params in (shards, whole):
            w = np.asarray(params[name] if layer is None else params[name][layer])
            np.testing.assert_array_equal(to_hf(name, w, 4), hf.state_dict()[theirs].float().numpy())


def test_a_torch_file_cannot_run_code(tmp_path):
    """weights_only: a pickle that would call something is refused."""
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    make_goldens.reference_model("small").config.save_pretrained(tmp_path)
    torch.save({"transformer.wte.weight": Evil()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="pytorch_model.bin cannot be read"):
        import_hf(tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["codegen", "gpt2", "bytes", "miniature"])
def test_a_toy_model_opens_with_its_tokenizer(name, tmp_path):
    """AutoModelForCausalLM and AutoTokenizer on an exported folder: the same logits, ids and text."""
    tokenizer = data.get_tokenizer(name)
    config = Config(n_layer=2, n_head=4, n_embd=32, rotary_dim=4, block_size=96, vocab_size=tokenizer.n_vocab + 9)
    random = np.random.RandomState(0)
    params = {n: 0.3 * random.standard_normal(shape).astype(np.float32) for n, (shape, *_) in param_table(config).items()}
    export_hf(params, config, tmp_path / "hf", tokenizer)
    hf = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    assert hf.generation_config.eos_token_id == tokenizer.eot
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert theirs.eos_token_id == tokenizer.eot and theirs.model_max_length == 96
    for text in random_strings(300):
        ids = tokenizer.encode(text)
        assert theirs.encode(text) == ids, text
        assert theirs.decode(ids) == text
    if name != "miniature":
        return
    same_text(hf, params, config, random.randint(0, tokenizer.n_vocab, (2, 30)))
    half_config, half, _ = sample.load(tmp_path / "hf", "bfloat16")
    assert sample.generate(half, half_config, tokenizer, ["x = 1"], 4)[0][1] in ("length", "eos")


def test_ids_of_20_MB_of_python():
    """The standard library and what is installed beside it, with both of the paper's tokenizers."""
    paths = sysconfig.get_paths()
    files = sorted(Path(paths["stdlib"]).rglob("*.py")) + sorted(Path(paths["purelib"]).rglob("*.py"))
    texts, size = [], 0
    for file in files:
        try:
            text = file.read_bytes().decode()
        except (UnicodeDecodeError, OSError):
            continue
        if "<|endoftext|>" not in text:          # there it is the end of text, here it is 13 characters
            texts.append(text)
            size += len(text.encode())
        if size > 20e6:
            break
    assert size > 20e6
    theirs = make_goldens.reference_tokenizer()._tokenizer
    codegen = data.get_tokenizer("codegen")
    for i in range(0, len(texts), 50):
        for text, encoding in zip(texts[i:i + 50], theirs.encode_batch(texts[i:i + 50])):
            assert codegen.encode(text) == encoding.ids, text[:100]


def test_loading_onto_a_mesh_gives_its_logits(tmp_path, mesh_of):
    hf, ids = make_goldens.reference_model("6 heads"), random_ids("6 heads")
    hf.save_pretrained(tmp_path / "hf")
    config = hf_config(tmp_path / "hf")
    params = load_hf(tmp_path / "hf", config, mesh_of(1, 2, 2))
    with torch.no_grad():
        theirs = hf(torch.tensor(ids)).logits
    np.testing.assert_allclose(jax.jit(model.transformer, static_argnums=2)(params, ids, config), theirs, atol=1e-4)
