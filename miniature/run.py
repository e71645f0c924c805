"""The paper in miniature: train a family of models, sample and score both benchmarks, write the
report.

    python miniature/run.py             four sizes, three seeds; work in out-miniature/, report in
                                        miniature/
    python miniature/run.py --quick     two sizes, two seeds, fewer problems; work and report in
                                        out-quick/

Each job is one of the project's own commands in a process of its own, on a core of its own: models
this small gain nothing from a second one. A finished job is a line of results.jsonl, so the same
command goes on where an interrupted one was.
"""
import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections import namedtuple
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path

from tqdm import tqdm

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))

from harness.cli import CORES, cli, one_line_errors, signals_end_once  # noqa: E402
from harness.files import read_lines, replace_file  # noqa: E402

PARENT = {"nl": None, "multi": "nl", "mono": "multi"}   # whose weights each corpus starts from
TOKENS = 2048       # a step: half of train.py's default, so that few tokens still make enough steps

# A run is repeated with other seeds, which change its first weights, the order of its documents and
# its samples. Trained are:
#     sizes x nl, multi, mono, at the position `share` of the corpus's dial (corpus.py)
#     the whole dial of mono, at one size
#     mono for a part of its steps, the first seed and all sizes but the last, for the law in the
#     data
# Measured: MTPB with so many samples a case and problems; HumanEval with samples a problem at each
# temperature, those of humaneval_all for all corpora and seeds, the others for mono and the first
# seed; the loss beyond the entropy on so many documents.
FULL = dict(
    sizes=["0.1M", "0.3M", "toy", "3M"], seeds=[0, 1, 2], share=12, dial=[0, 3, 12, 50, 100],
    dial_size="toy", steps=dict(nl=450, multi=300, mono=1200), short=[0.25, 0.5], mtpb_n=1,
    mtpb_limit=100, humaneval_n={"0.2": 5, "0.8": 100}, humaneval_all=["0.2"], humaneval_limit=100,
    documents=400, quick=False)
QUICK = FULL | dict(
    sizes=["0.1M", "0.3M"], seeds=[0, 1], share=50, dial=[0, 50, 100], dial_size="0.3M",
    steps=dict(nl=150, multi=300, mono=900), short=[0.5], mtpb_limit=30, humaneval_limit=20,
    documents=100, quick=True)

# What a job costs, roughly, in seconds of one quiet core: for the order and the time left.
STEP = {"0.1M": 0.02, "0.3M": 0.047, "toy": 0.12, "3M": 0.3}
Job = namedtuple("Job", "name cost needs commands collect")     # collect() -> what of it is kept


# ------------------------------------------------- the jobs --------------------------------------

def python(script, *args):
    return [sys.executable, str(ROOT / script), *map(str, args)]


# A model: its size, its corpus, its seed, and its steps where they are not those of the plan.
Model = namedtuple("Model", "size kind seed steps", defaults=[0])


def name_of(what, model, how=""):
    """"mtpb toy mono@12 s0 multi": what the report looks for."""
    more = [how] * bool(how) + [f"{model.steps} steps"] * bool(model.steps)
    return " ".join([what, model.size, model.kind, f"s{model.seed}", *more])


def folder_of(model, out):
    return out / name_of("", model).strip().replace(" ", "-")


def train_job(model, plan, out):
    name = model.kind.partition("@")[0]
    parent = PARENT[name] and model._replace(kind=f"{PARENT[name]}@{plan['share']}", steps=0)
    folder, start = folder_of(model, out), folder_of(parent, out) if parent else "scratch"
    steps = model.steps or plan["steps"][name]
    command = lambda: python(
        "train.py", "--model", model.size, "--data", f"miniature:{model.kind}", "--out_dir", folder,
        "--init_from", "resume" if list(folder.glob("step_????????")) else start,
        "--steps", steps, "--batch_size", TOKENS // 256, "--warmup_steps", 30, "--eval_every", 50,
        "--save_every", 150, "--keep", 1, "--no-benchmark", "--seed", model.seed)

    def collect():
        rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        newest = max(folder.glob("step_????????"), key=lambda p: p.name)
        return dict(model=json.loads((newest / "config.json").read_text())["model"],
                    tokens_per_step=TOKENS,
                    curve=[[r["step"], round(r["loss"], 4), round(r["val_loss"], 4)]
                           for r in rows if "val_loss" in r])

    return Job(name_of("train", model), 5 + steps * STEP[model.size],
               [name_of("train", parent)] if parent else [], [command], collect)


def loss_job(model, plan, out):
    """The loss on whole documents beside the entropy of the corpus (entropy.py)."""
    name = name_of("loss", model)
    command = lambda: python("miniature/entropy.py", "--kind", model.kind, "--n", plan["documents"],
                             "--ckpt", folder_of(model, out))

    def collect():
        lines = log_of(name, out).read_text().splitlines()
        return dict(rate=json.loads([line for line in lines if line.startswith("{")][-1]))

    return Job(name, 8 + 0.1 * STEP[model.size] * plan["documents"], [name_of("train", model)],
               [command], collect)


def sample_job(what, how, model, out, cost, *flags):
    """generate, then score: samples lie in a file of the out folder, what comes out of them goes
    into the results."""
    name, script, problems = name_of(what, model, how), f"{what}.py", HERE / f"{what}.jsonl"
    file = out / f"{name.replace(' ', '-')}.jsonl"
    generate = lambda: python(
        script, "generate", "--ckpt", folder_of(model, out), "--out", file, "--problems", problems,
        "--top_p", 0.95, "--batch_size", 100, "--seed", model.seed, *flags)
    score = lambda: python(script, "score", file, "--problems", problems)
    asked = lambda: python("miniature/asked.py", "--ckpt", folder_of(model, out), "--samples", file)

    def collect():
        results = file.with_name(file.stem + "_results.jsonl")
        samples, verdicts = [[json.loads(line) for line in f.read_text().splitlines()]
                             for f in (file, results)]
        found = dict(problems=by_problem(samples, verdicts))
        if what == "mtpb":
            found["conversations"] = conversations(samples, verdicts)
            for name, likely in json.loads(file.with_suffix(".asked.json").read_text()).items():
                found["problems"][name][2:] = likely
        return found

    commands = [generate, score] + [asked] * (what == "mtpb")
    return Job(name, cost, [name_of("train", model)], commands, collect)


def by_problem(samples, verdicts):
    """{id: [programs that pass, programs, sum of log p of its prompts, tokens of them]}, over cases
    and samples."""
    problems = {}
    for s, v in zip(samples, verdicts, strict=True):
        p = problems.setdefault(s.get("task_id", s.get("id")), [0, 0, 0.0, 0])
        p[0] += v["passed"]
        p[1] += 1
        if s.get("prompt_logprob"):
            p[2] = round(p[2] + s["prompt_logprob"][0], 3)
            p[3] += s["prompt_logprob"][1]
    return problems


def conversations(samples, verdicts):
    """Three to read: the first that is right, the first with a wrong value, the first that failed
    otherwise."""
    found, kinds = {}, {"passed": "right", "failed: wrong value": "wrong value"}
    for s, v in zip(samples, verdicts):
        found.setdefault(kinds.get(v["result"], "error"), dict(
            program=s["completions"], expected=s["gold_output"], printed=v["printed"],
            result=v["result"], id=s["id"]))
    return found


def all_jobs(plan, out):
    """Every job of a plan; where several could start, the one that stands first does."""
    jobs, later, share = [], [], plan["share"]
    for size in reversed(plan["sizes"]):    # the largest is the longest chain: it must never wait
        shares = plan["dial"] if size == plan["dial_size"] else [share]
        kinds = [f"nl@{share}", f"multi@{share}", *(f"mono@{s}" for s in shares)]
        for model in (Model(size, kind, seed) for seed in plan["seeds"] for kind in kinds):
            jobs.append(train_job(model, plan, out))
            later += measures(model, plan, out)
    for size in plan["sizes"][:-1]:         # the last size is what the law is to predict
        for steps in short_steps(plan):
            model = Model(size, f"mono@{share}", plan["seeds"][0], steps)
            later += [train_job(model, plan, out), loss_job(model, plan, out)]
    return jobs + later


def short_steps(plan):
    return [round(part * plan["steps"]["mono"]) for part in plan["short"]]


def measures(model, plan, out):
    """The jobs that measure one model."""
    mono, step = model.kind.startswith("mono"), STEP[model.size]
    jobs = [loss_job(model, plan, out)] if mono else []
    for mode in ("multi", "single") if mono else ("multi",):
        cost = 8 + (6 + 90 * step) * plan["mtpb_n"] * plan["mtpb_limit"] / 100
        jobs.append(sample_job("mtpb", mode, model, out, cost, "--limit", plan["mtpb_limit"],
                               "--mode", mode, "--n", plan["mtpb_n"], "--temperature", 0.2))
    for temperature in temperatures(model, plan):
        n = plan["humaneval_n"][temperature]
        cost = 8 + (10 + 100 * step) * n * plan["humaneval_limit"] / 5000
        jobs.append(sample_job(
            "humaneval", temperature, model, out, cost, "--limit", plan["humaneval_limit"],
            "--n", n, "--temperature", temperature, "--max_new_tokens", 96))
    return jobs


def temperatures(model, plan):
    """Of HumanEval: all for MONO with the first seed, none where only the dial was moved."""
    if not model.kind.endswith(f"@{plan['share']}"):
        return []
    first = model.kind.startswith("mono") and model.seed == plan["seeds"][0]
    return plan["humaneval_n"] if first else plan["humaneval_all"]


def cost_of(plan):
    """Minutes that a plan takes on two quiet cores, roughly."""
    return sum(job.cost for job in all_jobs(plan, ROOT)) / 60 / 2


def log_of(name, out):
    return out / f"{name.replace(' ', '-')}.log"


# ------------------------------------------------- running them ----------------------------------

def run_job(job, out, running):
    """Run a job's commands, their output in a log of their own -> its line of results. RuntimeError
    says which failed."""
    log, begin, cpu = log_of(job.name, out), time.perf_counter(), 0.0
    # Compiled programs are kept: the many samplers of one size compile once.
    env = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(out / "compiled"),
                        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2"}
    for command in job.commands:
        with open(log, "ab") as file:
            # A session of its own: Ctrl-C reaches it once, by way of run_all. A second signal would
            # end it without saving.
            process = running[job.name] = subprocess.Popen(
                command(), stdout=file, stderr=file, stdin=subprocess.DEVNULL, env=env,
                start_new_session=True)
            _, status, usage = os.wait4(process.pid, 0)
        code = process.returncode = os.waitstatus_to_exitcode(status)
        cpu += usage.ru_utime + usage.ru_stime
        del running[job.name]
        if code:
            raise RuntimeError(f"{job.name} failed (exit code {code}): see {log}. The same command "
                               "goes on from here")
    # The CPU's time as well as the clock's: it says what a quiet machine would need.
    return dict(job=job.name, seconds=round(time.perf_counter() - begin), cpu_seconds=round(cpu),
                **job.collect())


def run_all(jobs, out):
    """Run what results.jsonl does not hold yet, on all cores, each job when what it needs is
    there."""
    results = out / "results.jsonl"
    done = {line["job"] for _, line in read_lines(results)}
    todo = [job for job in jobs if job.name not in done]
    cores, running, futures = list(range(CORES)), {}, set()
    if hasattr(os, "sched_getaffinity"):
        cores = sorted(os.sched_getaffinity(0))
    workers = len(cores)

    def pin():      # on Linux the call is for this thread, and the processes that it starts
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {cores.pop()})

    cost = {job.name: job.cost for job in jobs}
    form = "{percentage:3.0f} % |{bar}| {elapsed} gone, about {remaining} left · {postfix}"
    bar = tqdm(total=sum(cost.values()), initial=sum(cost[name] for name in done & set(cost)),
               dynamic_ncols=True, bar_format=form)
    with ThreadPoolExecutor(workers, initializer=pin) as pool:
        try:
            while todo or futures:
                for job in [j for j in todo if done.issuperset(j.needs)][:workers - len(futures)]:
                    todo.remove(job)
                    futures.add(pool.submit(run_job, job, out, running))
                bar.set_postfix_str(", ".join(sorted(running)))
                finished, futures = wait(futures, timeout=5, return_when=FIRST_COMPLETED)
                for future in finished:
                    line = future.result()
                    with open(results, "a") as file:
                        file.write(json.dumps(line) + "\n")
                    done.add(line["job"])
                    bar.write(f"{line['job']:28} {line['seconds']:5} s   {summary(line)}")
                    bar.update(cost[line["job"]])
        finally:            # an error or Ctrl-C: the others save what they have and end too
            for process in list(running.values()):
                process.terminate()
    bar.close()


def summary(line):
    """One job in a few words."""
    if "rate" in line:
        return f"{line['rate']['beyond']:.3f} nats a token beyond the entropy"
    if "curve" in line:
        return f"val_loss {line['curve'][-1][2]:.3f}"
    rates = [passed / programs for passed, programs, *_ in line["problems"].values()]
    return f"{100 * sum(rates) / len(rates):.1f} % of the programs pass"


def parser():
    """The command line."""
    p = one_line_errors(argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False))
    p.add_argument("--quick", action="store_true",
                   help="two sizes in eight minutes instead of four in at most ninety")
    return p


def begin(plan, out):
    """The folder of a run, with its settings as the first line of results.jsonl. ValueError where
    another plan's stand."""
    out.mkdir(exist_ok=True)
    results = out / "results.jsonl"
    settings = dict(job="settings", **plan)
    if results.exists() and not results.read_bytes().endswith(b"\n"):
        whole, end, _ = results.read_bytes().rpartition(b"\n")     # killed while it wrote a line
        replace_file(results, whole + end)
    if not results.exists() or not results.stat().st_size:
        machine = f"{CORES} cores, {platform.system()}, Python {platform.python_version()}"
        results.write_text(json.dumps(settings | dict(machine=machine)) + "\n")
    held = read_lines(results)[0][1]
    if {key: held.get(key) for key in settings} != settings:
        raise ValueError(f"{results} comes from another plan: move {out} away to start anew")


def carry_out(plan, out, to):
    """Do what is left of a plan in the folder `out`, and write the report into the folder `to`."""
    begin(plan, out)
    print(f"the paper in miniature: {len(plan['sizes'])} sizes, work in {out.name}/", flush=True)
    try:
        with signals_end_once():
            run_all(all_jobs(plan, out), out)
    except RuntimeError as error:
        raise ValueError(str(error)) from None
    if to != out:
        shutil.copyfile(out / "results.jsonl", to / "results.jsonl")
    if code := subprocess.run([sys.executable, HERE / "report.py", to]).returncode:
        sys.exit(code)
    print(f"the report is {to / 'README.md'}")


def main():
    if parser().parse_args().quick:
        carry_out(QUICK, ROOT / "out-quick", ROOT / "out-quick")
    else:
        carry_out(FULL, ROOT / "out-miniature", HERE)


if __name__ == "__main__":
    cli(main)
