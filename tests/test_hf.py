"""Laws of the released weights: transformers' numbers (goldens from make_goldens.py), there and back, what is refused."""
from harness.folder import find_checkpoint

import json
import shutil
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from make_goldens import CASES, PROMPT, TOP_P, random_ids, random_logits, random_strings, random_tensors, sizes

import data
import hf.files
import model
import sample
import tpu_mesh
import train
from hf.config import FIXED, blocks_of, hf_config
from hf.layout import from_hf, hf_tensors, to_hf
from hf.tokenizer import hf_vocab, last_merge, read_hf_tokenizer, write_hf_tokenizer
from hf.weights import load_hf
from model import Config, export_hf, import_hf, loss_fn, num_params, param_table

safetensors = pytest.importorskip("safetensors.numpy", reason="needs pip install safetensors")
HERE = Path(__file__).parent
GOLDENS = np.load(HERE / "goldens.npz")


def write_folder(folder, config, tensors):
    """A Hugging Face folder of one file."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(dict(model_type="codegen") | config))
    safetensors.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    top = tmp_path_factory.mktemp("hf")
    return {case: write_folder(top / case, sizes(case), random_tensors(case)) for case in CASES}


def read(case, folder):
    config = hf_config(folder)
    return config, load_hf(folder, config, mp_num=CASES[case]["mp_num"])


def equal(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(np.asarray(a[name]), np.asarray(b[name]), err_msg=name)


# ---- the numbers are transformers'

@partial(jax.jit, static_argnums=2)
def run(params, ids, config):
    """Three rows: two of random ids, 20 long, and one of greedy text -> (logits, loss of the first two)."""
    logits = model.transformer(params, ids, config)
    return logits, model.cross_entropy(logits[:2, :19], ids[:2, 1:20])[1].mean()


@pytest.mark.parametrize("case", CASES)
def test_logits_loss_and_greedy_tokens(case, folders):
    config, params = read(case, folders[case])
    ids, greedy = np.zeros((3, PROMPT + 64), np.int32), GOLDENS[f"{case}/greedy"]
    ids[:2, :20] = random_ids(case)
    ids[2, :PROMPT], ids[2, PROMPT:] = ids[0, :PROMPT], greedy
    logits, loss = run(params, ids, config)
    np.testing.assert_allclose(logits[:2, :20], GOLDENS[f"{case}/logits"], atol=1e-4)
    assert float(loss) == pytest.approx(float(GOLDENS[f"{case}/loss"]), abs=1e-4)
    np.testing.assert_array_equal(np.argmax(logits[2, PROMPT - 1:-1], -1), greedy)


def test_the_nucleus_is_that_of_TopPLogitsWarper():
    kept = jax.jit(sample.top_p_filter)
    for p, keeps in zip(TOP_P, GOLDENS["nucleus"]):
        np.testing.assert_array_equal(np.isfinite(kept(random_logits(), p)), keeps)


def test_codegen_ids_are_transformers():
    ids = json.loads((HERE / "goldens.json").read_text())
    assert list(ids) == list(dict.fromkeys(random_strings()))
    codegen = data.get_tokenizer("codegen")
    for text, want in ids.items():
        assert codegen.encode(text) == want, text


# ---- layout

@pytest.mark.parametrize("mp_num", [1, 4, 8])
def test_qkv_rows_stand_where_the_released_code_looks_for_them(mp_num):
    """Head by head and component by component, the row number written out as a formula (q, then v, then k)."""
    H, K, D = 8, 3, 24
    w = np.random.RandomState(0).standard_normal((3 * D, D))
    ours, local, per = from_hf("qkv_proj", w, (D, 3, H, K), mp_num), D // mp_num, H // mp_num
    for h in range(H):
        for i in range(K):
            row = h // per * 3 * local + h % per * K + i
            for part, place in (("q", 0), ("v", 1), ("k", 2)):
                np.testing.assert_array_equal(ours[:, "qkv".index(part), h, i], w[row + place * local])
    np.testing.assert_array_equal(to_hf("qkv_proj", ours, mp_num), w)


def test_a_wrong_mp_num_loads_and_is_another_model(folders):
    config = hf_config(folders["mp8"])
    right, wrong = (load_hf(folders["mp8"], config, mp_num=n) for n in (8, 4))
    assert {n for n in right if not np.array_equal(right[n], wrong[n])} == {"qkv_proj"}


# ---- there and back

@pytest.mark.parametrize("case", ["odd", "6 heads"])
def test_import_and_export_give_the_same_bytes(case, tmp_path, monkeypatch, capsys):
    """Through both commands: Hugging Face -> checkpoint -> Hugging Face. What a stranger calls NAME.tmp stays."""
    def run(*args):
        monkeypatch.setattr(sys, "argv", ["model.py", *map(str, args)])
        model.main()
    monkeypatch.setitem(CASES, case, CASES[case] | dict(vocab_size=300))      # rows for every byte
    folder = write_folder(tmp_path / "hf", sizes(case), random_tensors(case))
    (tmp_path / "back.tmp").mkdir()
    (tmp_path / "back.tmp" / "mine").write_text("keep")
    run("import", "--hf", folder, "--out", tmp_path / "ckpt", "--tokenizer", "bytes")
    run("export", "--ckpt", tmp_path / "ckpt", "--hf", tmp_path / "back/")
    equal(safetensors.load_file(tmp_path / "back" / "model.safetensors"), random_tensors(case))
    assert f"{num_params(hf_config(folder)):,} parameters, tokenizer bytes" in capsys.readouterr().out
    assert sizes(case).items() <= json.loads((tmp_path / "back" / "config.json").read_text()).items()
    assert {p.name for p in tmp_path.iterdir()} == {"hf", "ckpt", "back", "back.tmp"}
    assert (tmp_path / "back.tmp" / "mine").read_text() == "keep"
    assert (tmp_path / "back").stat().st_mode == (tmp_path / "ckpt").stat().st_mode
    with pytest.raises(ValueError, match="already holds checkpoints"):
        run("import", "--hf", folder, "--out", tmp_path / "ckpt", "--tokenizer", "bytes")
    with pytest.raises(ValueError, match="exists already"):
        run("export", "--ckpt", tmp_path / "ckpt", "--hf", tmp_path / "back")


def test_large_models_are_written_in_parts(folders, tmp_path, monkeypatch):
    """Parts of at most so many bytes under an index; nothing is left where a part cannot be written."""
    config, params = read("odd", folders["odd"])
    monkeypatch.setattr(hf.files, "LARGEST", 100_000)
    export_hf(params, config, tmp_path / "parts")
    files = sorted((tmp_path / "parts").glob("*.safetensors"))
    assert len(files) > 3 and files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
    assert all(f.stat().st_size < 110_000 for f in files)
    index = json.loads((tmp_path / "parts" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 4 * num_params(config)
    equal(import_hf(tmp_path / "parts")[1], params)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(ValueError, match="pip install safetensors"):
        export_hf(params, config, tmp_path / "none")
    assert [p.name for p in tmp_path.iterdir()] == ["parts"]


def test_shards_buffers_and_half_precision(folders, tmp_path):
    """Several files under an index, the causal masks that old files carry, float16 and bfloat16."""
    tensors = random_tensors("small")
    folder = write_folder(tmp_path / "hf", sizes("small"), {})
    (folder / "model.safetensors").unlink()
    kinds, where, stored = (np.float32, np.float16, ml_dtypes.bfloat16), {}, {}
    for i, kind in enumerate(kinds):
        file = f"model-{i + 1:05d}-of-00003.safetensors"
        part = {n: w.astype(kind) for n, w in list(tensors.items())[i::3]}
        stored |= part
        part[f"transformer.h.{i % 2}.attn.bias"] = np.ones((1, 1, 96, 96), bool)
        part["transformer.h.0.attn.masked_bias"] = np.full((1,), -1e9, np.float32)
        safetensors.save_file(part, folder / file)
        where |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps(dict(metadata={}, weight_map=where)))
    config, params = import_hf(folder)
    for theirs, (name, layer, _) in hf_tensors(config, 4).items():
        w = np.asarray(params[name] if layer is None else params[name][layer])
        np.testing.assert_array_equal(to_hf(name, w, 4), stored[theirs].astype(np.float32), err_msg=theirs)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ValueError, match="model-00002-of-00003.safetensors cannot be read"):
        import_hf(folder)


def test_read_onto_a_mesh(folders, mesh_of):
    config, single = read("odd", folders["odd"])
    mesh = mesh_of(2, 2, 2)
    cut = Config(**{**config.__dict__, "vocab_size": 101})
    with pytest.raises(ValueError):       # 101 rows do not divide by 2, on any path to this mesh
        load_hf(folders["odd"], cut, mesh)
    config, single = read("6 heads", folders["6 heads"])
    params = load_hf(folders["6 heads"], config, mesh)
    equal(params, single)
    for name, (_, spec, _) in param_table(config).items():
        assert params[name].sharding.is_equivalent_to(jax.sharding.NamedSharding(mesh, spec), params[name].ndim), name


# ---- what is refused, in words

def test_wrong_tensors_are_named(folders, tmp_path):
    tensors = random_tensors("small")
    del tensors["transformer.h.1.mlp.fc_in.bias"]
    tensors["transformer.h.0.ln_2.weight"] = np.zeros(24, np.float32)
    tensors["lm_head.weight"] = np.zeros((67, 25), np.float32)
    with pytest.raises(ValueError) as error:
        import_hf(write_folder(tmp_path / "hf", sizes("small"), tensors))
    for words in ("transformer.h.1.mlp.fc_in.bias is missing", "transformer.h.0.ln_2.weight is unknown",
                  "lm_head.weight has shape (67, 25), not (67, 24)"):
        assert words in str(error.value)


@pytest.mark.parametrize("change, words", [
    (dict(model_type="gpt2"), "model_type is gpt2"), (dict(activation_function="relu"), "activation_function is relu"),
    (dict(n_inner=17), "n_inner is 17"), (dict(n_layer=None), "n_layer must be there"), (dict(rotary_dim=99), "rotary_dim"),
    (dict(n_layer=3), "h.2.ln_1.weight is missing")])
def test_other_models_are_refused(change, words, folders, tmp_path):
    with pytest.raises(ValueError, match=words):
        import_hf(write_folder(tmp_path / "hf", sizes("small") | change, random_tensors("small")))


def test_damaged_files_and_missing_packages_are_one_line(folders, tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "hf", sizes("small"), random_tensors("small"))
    with pytest.raises(ValueError, match="--mp_num 5 does not divide n_embd 24"):
        load_hf(folder, hf_config(folder), mp_num=5)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="model.safetensors cannot be read"):
        import_hf(folder)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ValueError, match="pip install safetensors"):
        import_hf(folder)
    file.rename(folder / "pytorch_model.bin")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ValueError, match="pip install torch"):
        import_hf(folder)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(FileNotFoundError, match="neither model.safetensors nor pytorch_model.bin"):
        import_hf(folder)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 797365461\n"


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("text, words", [(POINTER, "Git LFS pointer"), ("<!DOCTYPE html>", "a web page")])
def test_files_that_stand_for_others_are_named(name, text, words, folders, tmp_path):
    folder = write_folder(tmp_path / "hf", sizes("small"), random_tensors("small"))
    if name == "pytorch_model.bin":
        pytest.importorskip("torch")
        (folder / "model.safetensors").unlink()
    (folder / name).write_text(text)
    with pytest.raises(ValueError, match=f"{name} is .*{words}"):
        import_hf(folder)


ODD = [None, True, "2", -1, 2.5, [], {}, 2 ** 70, 10 ** 9, float("nan")]


@pytest.mark.parametrize("key", [*sizes("small"), "n_inner", "tie_word_embeddings", "layer_norm_epsilon",
                                 "activation_function", "model_type", "auto_map", "_name_or_path"])
@pytest.mark.parametrize("value", ODD, ids=repr)
def test_odd_values_in_config_json(key, value, folders, tmp_path):
    """One line that names the key, or a key that means nothing here; no memory is taken before it is refused."""
    path = folders["small"] / "config.json"
    (tmp_path / "config.json").write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    (tmp_path / "model.safetensors").symlink_to(folders["small"] / "model.safetensors")
    try:
        _, params = import_hf(tmp_path)
    except ValueError as error:
        assert key in str(error) or "CodeGen2" in str(error) or "missing" in str(error)
        return
    assert key in ("n_ctx", "n_inner", "_name_or_path", "auto_map") or value == FIXED.get(key, ())
    equal(params, import_hf(folders["small"])[1])


@pytest.mark.parametrize("index", [
    {}, {"weight_map": None}, {"weight_map": []}, {"weight_map": {"a": 1}}, {"weight_map": {"a": None}},
    {"weight_map": {"a": "../model.safetensors"}}, {"weight_map": {"a": "/etc/passwd"}}, {"weight_map": {"a": ".."}}])
def test_odd_indices_are_refused(index, folders, tmp_path):
    """A path that leaves the folder is not followed, though the file is there and whole."""
    folder = tmp_path / "hf"
    folder.mkdir()
    shutil.copy(folders["small"] / "config.json", folder)
    shutil.copy(folders["small"] / "model.safetensors", tmp_path)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="index.json is damaged"):
        import_hf(folder)


@pytest.mark.parametrize("kind", [np.int8, np.int64, bool])
def test_whole_numbers_are_no_weights(kind, tmp_path):
    tensors = random_tensors("small")
    tensors["lm_head.weight"] = tensors["lm_head.weight"].astype(kind)
    with pytest.raises(ValueError, match="lm_head.weight holds .* no floats"):
        import_hf(write_folder(tmp_path / "hf", sizes("small"), tensors))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.module."])
def test_prefixed_names_are_read(prefix, folders, tmp_path):
    prefixed = {prefix + n: w for n, w in random_tensors("small").items()}
    equal(import_hf(write_folder(tmp_path / "hf", sizes("small"), prefixed))[1], import_hf(folders["small"])[1])


def test_a_model_without_its_head_is_told(tmp_path):
    base = {n.removeprefix("transformer."): w for n, w in random_tensors("small").items() if "lm_head" not in n}
    with pytest.raises(ValueError, match="hf: lm_head.weight is missing; lm_head.bias is missing$"):
        import_hf(write_folder(tmp_path / "hf", sizes("small"), base))


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize("wrap", [dict, lambda t: dict(model=t, step=3), lambda t: dict(state_dict=t, epoch=1)])
def test_torch_files_in_each_form(new_format, wrap, folders, tmp_path):
    torch = pytest.importorskip("torch", reason="needs pip install torch")
    tensors = {f"module.{n}": torch.tensor(w) for n, w in random_tensors("small").items()}
    shutil.copy(folders["small"] / "config.json", tmp_path)
    torch.save(wrap(tensors), tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=new_format)
    equal(import_hf(tmp_path)[1], import_hf(folders["small"])[1])


@pytest.mark.parametrize("content", [[], {}, {"step": 3}, {"model": {"a": 1}}, 3])
def test_torch_files_without_weights(content, folders, tmp_path):
    torch = pytest.importorskip("torch", reason="needs pip install torch")
    shutil.copy(folders["small"] / "config.json", tmp_path)
    torch.save(content, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="pytorch_model.bin holds no weights"):
        import_hf(tmp_path)


@pytest.mark.parametrize("change, name", [({"auto_map": {"AutoConfig": "configuration_codegen.CodeGenConfig"}}, "hf"),
                                          ({"_name_or_path": "Salesforce/codegen2-1B"}, "hf"), ({}, "codegen25-7b-mono")])
def test_a_codegen2_asks_for_mp_num(change, name, tmp_path):
    folder = write_folder(tmp_path / name, sizes("mp8") | change, random_tensors("mp8"))
    config = hf_config(folder)
    with pytest.raises(ValueError, match="add --mp_num 8"):
        model.load_params(folder, config)
    right, wrong = (model.load_params(folder, config, mp_num=n) for n in (8, 4))
    assert not np.array_equal(right["qkv_proj"], wrong["qkv_proj"])


def test_names_of_the_first_codegen_ask_for_nothing(tmp_path):
    """codegen-2B-mono is a size, not a version."""
    for name in ("codegen-2B-mono", "codegen_2b_nl", "codegen-16B-multi"):
        config = sizes("small") | {"_name_or_path": f"Salesforce/{name}"}
        assert blocks_of(write_folder(tmp_path / name, config, {})) == 4


# ---- tokenizers

@pytest.mark.parametrize("name", ["codegen", "bytes", "miniature"])
def test_the_tokenizer_of_a_written_folder_is_recognised(name, tmp_path):
    tokenizer = data.get_tokenizer(name)
    write_hf_tokenizer(tokenizer, tmp_path, 256)
    assert data.get_tokenizer(read_hf_tokenizer(tmp_path)).vocab == tokenizer.vocab
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    assert sorted(content["model"]["vocab"].values()) == list(range(tokenizer.n_vocab))
    if name == "codegen":       # GPT-2's file of merges has 50,000 lines and begins with "Ġ t"
        assert len(content["model"]["merges"]) == 50000 and content["model"]["merges"][0] == ["Ġ", "t"]


def test_another_version_of_a_tokenizer_is_not_taken_for_the_same(tmp_path, monkeypatch):
    """tokenizer.json says how a text is cut before the merges of the .tiktoken file beside it."""
    write_hf_tokenizer(data.get_tokenizer("miniature"), tmp_path, 256)
    assert read_hf_tokenizer(tmp_path).endswith("miniature.tiktoken")
    monkeypatch.setattr("hf.tokenizer.PATTERN", r"\S+|\s+")
    with pytest.raises(ValueError, match="another version of tokenizer miniature.tiktoken"):
        read_hf_tokenizer(tmp_path)


def test_the_tokenizer_of_a_released_folder_is_recognised(tmp_path):
    """vocab.json with GPT-2's 50,257 entries, and added_tokens.json where there are CodeGen's runs."""
    vocab, added = hf_vocab(data.get_tokenizer("codegen"))
    runs = {text: i for text, i in added.items() if i != 50256}
    (tmp_path / "vocab.json").write_text(json.dumps({text: i for text, i in vocab.items() if text not in runs}))
    with pytest.raises(ValueError, match="without added_tokens.json.*--tokenizer gpt2"):     # or CodeGen's, its runs lost
        read_hf_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(dict(tokenizer_class="GPT2Tokenizer")))
    assert read_hf_tokenizer(tmp_path) == "gpt2"
    about = dict(added_tokens_decoder={str(i): dict(content=text) for text, i in runs.items()})
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(about))
    assert read_hf_tokenizer(tmp_path) == "codegen"
    (tmp_path / "added_tokens.json").write_text(json.dumps(runs))
    assert read_hf_tokenizer(tmp_path) == "codegen"
    (tmp_path / "added_tokens.json").write_text(json.dumps(runs | {"more": 50295}))
    with pytest.raises(ValueError, match="neither GPT-2's nor CodeGen's"):
        read_hf_tokenizer(tmp_path)


@pytest.mark.parametrize("name, content", [
    ("vocab.json", []), ("vocab.json", {"a": None}), ("vocab.json", {"a": "1"}), ("vocab.json", {"a": 2 ** 70}),
    ("tokenizer.json", {}), ("tokenizer.json", {"model": []}), ("tokenizer.json", {"model": {"vocab": []}}),
    ("tokenizer.json", {"model": {"vocab": {"a": {}}}}),
    ("tokenizer.json", {"model": {"vocab": {}}, "added_tokens": [None]}),
    ("tokenizer.json", {"model": {"vocab": {}}, "added_tokens": [{"content": [], "id": 1}]}),
    ("tokenizer_config.json", {"added_tokens_decoder": {"x": {"content": "y"}}})])
def test_damaged_tokenizer_files_ask_for_a_name(name, content, tmp_path):
    (tmp_path / "vocab.json").write_text('{"a": 0}')
    (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(ValueError, match="damaged ones .*--tokenizer gpt2"):
        read_hf_tokenizer(tmp_path)


def test_which_tokenizer_is_taken_is_said_and_has_rows(byte_model, tmp_path, capsys):
    top, config, _ = byte_model
    assert model.read_meta(top / "hf")["tokenizer"] == "bytes"
    assert "tokenizer bytes, 257 ids of 260 rows" in capsys.readouterr().err
    folder = write_folder(tmp_path / "hf", sizes("small"), random_tensors("small"))
    write_hf_tokenizer(data.get_tokenizer("bytes"), folder, 96)
    with pytest.raises(ValueError, match="257 ids and the embedding 67 rows"):
        model.read_meta(folder)


def test_no_tokenizer_files_ask_for_a_name(folders):
    with pytest.raises(ValueError, match="--tokenizer gpt2"):
        sample.load(folders["small"])


def test_merges_give_the_ids_of_tiktoken():
    """Lowest merge first, as transformers applies tokenizer.json, on words that the trained tokenizer has to cut."""
    t = data.get_tokenizer("miniature")
    ranks = {token: i for i, token in enumerate(t.vocab[:-1])}
    order = {tuple(pair): i for i, pair in enumerate(filter(None, (last_merge(token, ranks) for token in ranks)))}
    random = np.random.RandomState(0)
    for _ in range(300):
        word = "".join(random.choice(list("aeinorstlp"), random.randint(1, 12)))
        parts = [bytes([b]) for b in word.encode()]
        while found := [(order[pair], i) for i, pair in enumerate(zip(parts, parts[1:])) if pair in order]:
            i = min(found)[1]
            parts[i:i + 2] = [parts[i] + parts[i + 1]]
        assert [ranks[part] for part in parts] == t.encode(word)


# ---- sampling from it and training on from it

@pytest.fixture(scope="module")
def byte_model(tmp_path_factory):
    """A Hugging Face folder with the bytes tokenizer, and prepared data beside it."""
    top = tmp_path_factory.mktemp("finetune")
    config = Config(n_layer=1, n_head=4, n_embd=16, rotary_dim=2, block_size=64, vocab_size=260)
    random = np.random.RandomState(0)
    params = {n: (0.3 * random.standard_normal(shape)).astype(np.float32) for n, (shape, *_) in param_table(config).items()}
    export_hf(params, config, top / "hf", data.get_tokenizer("bytes"))
    for name in ("bytes", "miniature"):
        tokenizer = data.get_tokenizer(name)
        texts = (tokenizer.encode("xxxxx = 1\n" * 40) for _ in range(20))
        data.pack(texts, top / name, tokenizer, 32, 0, 0)
    return top, config, params


def test_sample_takes_a_folder_and_a_dtype(byte_model):
    top, config, params = byte_model
    got_config, got, tokenizer = sample.load(top / "hf")
    assert (got_config, tokenizer.name) == (config, "bytes")
    want = model.unstack(jax.tree.map(jnp.asarray, params))
    jax.tree.map(np.testing.assert_array_equal, got, want)
    config, half, _ = sample.load(top / "hf", "bfloat16")
    assert config.dtype == half["lm_head"].parts[0].dtype == "bfloat16" and half["ln_f.bias"].dtype == jnp.float32
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b.astype(jnp.bfloat16)), half["fc_in"], want["fc_in"])


def run_train(monkeypatch, *flags):
    monkeypatch.setattr(sys, "argv", ["train.py", *map(str, flags)])
    monkeypatch.setattr(train, "stop_on_signal", list)     # the signals belong to pytest
    train.main()


def test_finetuning_starts_from_the_weights_with_a_gentle_recipe(byte_model, tmp_path, monkeypatch):
    top, config, params = byte_model
    run_train(monkeypatch, "--init_from", top / "hf", "--data", top / "bytes", "--steps", 1, "--batch_size", 8,
              "--out_dir", tmp_path / "out")
    first = json.loads((tmp_path / "out" / "metrics.jsonl").read_text().splitlines()[0])
    batch = data.get_batch(data.open_data(top / "bytes"), "train", 0, 0, 8)
    loss = jax.jit(partial(loss_fn, config=config))(params, batch)[1]
    assert first["loss"] == pytest.approx(float(loss), abs=1e-4)
    meta = model.read_meta(find_checkpoint(tmp_path / "out"))
    assert meta["hyper"]["lr_max"] == 1e-5 and meta["recipe"] == "finetune" and meta["tokenizer"] == "bytes"


@pytest.mark.parametrize("flags, words", [
    (("--init_from", "{top}/hf", "--data", "{top}/miniature"), "was trained with tokenizer bytes"),
    (("--init_from", "resume", "--data", "{top}/bytes"), "holds weights alone")])
def test_finetuning_refuses(flags, words, byte_model, tmp_path, monkeypatch):
    top = byte_model[0]
    if "resume" in flags:
        config, params = import_hf(top / "hf")
        tpu_mesh.save_checkpoint(tmp_path / "out", 0, {f"params/{n}": w for n, w in params.items()},
                                 model.read_meta(top / "hf"))
    with pytest.raises(ValueError, match=words):
        run_train(monkeypatch, *(flag.format(top=top) for flag in flags), "--out_dir", tmp_path / "out")
