"""What a run left behind, as the page needs it: from the stages and from the sample files.

Of the benchmarks it keeps numbers and names, and of programs what the model wrote.
"""
from harness import samples
from harness.cli import CORES
from harness.files import find_benchmark, read_lines

import platform
import re
import shlex
from collections import Counter
from importlib import metadata
from pathlib import Path

MODES = {"multi": "turn by turn", "single": "said at once"}
NAMES = ["STDLIB", "SITE-PACKAGES"]         # what commands show instead of this machine's folders
PACKAGES = ("jax", "numpy", "tiktoken", "tokenizers", "torch", "transformers")
SHOWN = 5                                   # programs of each kind

def collect(done, out):
    """The stages, and what is read from the sample files -> results.json's content.

    done: {stage: its line of stages.jsonl}; out: the folder of the run."""
    begin, corpus = done["begin"], done["corpus"]["meta"]
    names = {} if begin["own"] else name_folders(begin["folders"])
    names[str(out)] = "OUT"

    def shown(stage):
        words = shlex.split(done[stage]["command"])
        return shlex.join(named(word, names) for word in words)

    keep = ("documents_seen", "kept", "dropped", "documents", "tokens", "cut_documents")
    return dict(
        minutes=begin["minutes"], limit=begin["limit"], own=begin["own"], machine=machine(begin),
        commands={stage: shown(stage) for stage in done if "command" in done[stage]},
        seconds={stage: line["seconds"] for stage, line in done.items()},
        packages=begin["packages"], n_packages=begin["n_packages"], licences=begin["licences"],
        corpus={name: corpus[name] for name in keep}, entries=done["tokenizer"]["entries"],
        trials=done["choose"]["trials"], chosen=done["choose"]["chosen"],
        curve=done["train"]["curve"], val=done["train"]["val"],
        tokens_per_s=done["train"]["tokens_per_s"], opened=done["export"]["opened"],
        humaneval=done["humaneval"]["report"], outcomes=outcomes(out),
        mtpb={mode: done[f"mtpb {mode}"]["report"] for mode in MODES},
        programs=programs(out))


def name_folders(folders):
    """{folder: what the page calls it}, the longest first: one may begin as another does."""
    named = {folder: NAMES[min(i, 1)] for i, folder in enumerate(folders)}
    return dict(sorted(named.items(), key=lambda item: -len(item[0])))


def named(word, names):
    """A word of a command, the folder that it begins with by its name."""
    for folder, name in names.items():
        if word == folder or word.startswith(f"{folder}/"):
            return name + word.removeprefix(folder)
    return word


def machine(begin):
    """On what: device, cores, versions of what took part."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    device = cpu_name() if begin["platform"] == "cpu" else begin["device"]
    return dict(device=device, cores=CORES, system=platform.system(),
                python=platform.python_version(), versions=versions)


def cpu_name():
    """As the kernel tells it, or "CPU"."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "CPU"
    told = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return f"{told.get('model name', 'CPU')} (family {told.get('cpu family', '?')})"


def results_files(out):
    """[(temperature, HumanEval's verdicts on its samples)]."""
    files = sorted(out.glob("humaneval*_results.jsonl"))
    return [(re.search(r"_t([\d.]+)_", file.name)[1], file) for file in files]


def outcomes(out):
    """{temperature: {what became of a completion: how many}}, the most frequent first. One that was
    cut off where its tokens ended counts as that, and not as the syntax error that it then is."""
    found = {}
    for temperature, file in results_files(out):
        kinds = Counter(kind_of(r) for _, r in read_lines(file))
        found[temperature] = dict(kinds.most_common())
    return found


def kind_of(r):
    """One verdict as a word or two: "wrong answer", "NameError", "timed out", ..."""
    if r["finish_reason"] == "length" and not r["passed"]:
        return "no end"
    first, *rest = r["result"].split(": ")
    return rest[0] if first == "failed" and rest else first


def programs(out):
    """{"solved": how many problems, "passed": [...], "nearly": [...]}, each of another problem:
    {"problem", "how", "wrote"}.

    Nearly: it ran to its end, returned something, and that was wrong; of the problems whose prompts
    the model finds likeliest."""
    passed, nearly = {}, {}
    for temperature, file in results_files(out):
        add_functions(file, temperature, passed, nearly)
    for mode in MODES:
        add_conversations(out / f"mtpb-{mode}", mode, passed)
    ranked = sorted((p, task) for task, (p, _) in nearly.items() if task not in passed)
    return dict(solved=len(passed), passed=spread(list(passed.values())),
                nearly=[nearly[task][1] for _, task in ranked[:SHOWN]])


def add_functions(file, temperature, passed, nearly):
    """HumanEval's: into passed {problem: program}, and nearly {problem: (perplexity, program)}."""
    problems = read_lines(find_benchmark("HumanEval.jsonl.gz"))
    entry = {p["task_id"]: p["entry_point"] for _, p in problems}
    perplexity = None
    for _, r in read_lines(file):
        task = r["task_id"]
        if r.get("prompt_logprob"):             # it stands with the first sample of a problem
            perplexity = samples.perplexity_of(r["prompt_logprob"])
        said = dict(problem=f"{task} ({entry[task]})", how=f"temperature {temperature}",
                    wrote=r["completion"].strip("\n"))
        if r["passed"]:
            passed.setdefault(task, said)
        elif r["result"] == "failed: wrong answer" and "return " in r["completion"]:
            nearly.setdefault(task, (perplexity, said))


def add_conversations(file, mode, passed):
    """MTPB's that pass by the official rules, the answers alone. file: without its ending."""
    verdicts = read_lines(f"{file}_results.jsonl")
    for (_, s), (_, v) in zip(read_lines(f"{file}.jsonl"), verdicts, strict=True):
        answers = s["prompts_completions"][2::2]
        turns = (f"# turn {i}\n{text.strip()}" for i, text in enumerate(answers, 1))
        wrote = "\n".join(map(str.strip, turns))
        if v["passed"]:
            said = dict(problem=f"MTPB {s['id']}, input {v['case']}", how=MODES[mode], wrote=wrote)
            passed.setdefault("MTPB " + s["id"], said)


def spread(found):
    """At most SHOWN of them, evenly over both benchmarks."""
    every = max(1, len(found) / SHOWN)
    return [found[int(i * every)] for i in range(min(SHOWN, len(found)))]
