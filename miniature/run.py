"""The paper in miniature: train a family of models, sample and score both benchmarks, write the report.

    python miniature/run.py             four sizes, three seeds; work in out-miniature/, report in miniature/
    python miniature/run.py --quick     two sizes, two seeds, fewer problems; work and report in out-quick/

Each job is one of the project's own commands in a process of its own, on a core of its own: models this small gain nothing
from a second one. A finished job is a line of results.jsonl, so the same command goes on where an interrupted one was.
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
TOKENS = 2048               # a step: half of train.py's default, so that few tokens still make enough steps

# A run is repeated with other seeds, which change its first weights, the order of its documents and its samples. sizes x
# corpora at the position `share` of the corpus's dial; the whole dial at one size; fewer steps of mono, once, for the law in
# the data. Of MTPB samples a case and problems; of HumanEval samples a problem at each temperature and problems, and the
# temperatures that all seeds and corpora have; documents to measure the loss beyond the entropy on.
FULL = dict(sizes=["0.1M", "0.3M", "toy", "3M"], seeds=[0, 1, 2], share=12, dial=[0, 3, 12, 50, 100], dial_size="toy",
            steps=dict(nl=150, multi=300, mono=900), short=[225, 450], mtpb_n=1, mtpb_limit=100,
            humaneval_n={"0.2": 5, "0.8": 100}, humaneval_all=["0.2"], humaneval_limit=100, documents=400, quick=False)
QUICK = FULL | dict(sizes=["0.1M", "0.3M"], seeds=[0, 1], dial=[0, 12, 100], dial_size="0.3M", short=[450], mtpb_limit=30,
                    humaneval_n={"0.2": 5, "0.8": 100}, humaneval_limit=20, documents=100, quick=True)

# What a job costs, roughly, in seconds of one quiet core: for the order, the time left, and `cost_of`.
STEP = {"0.1M": 0.03, "0.3M": 0.07, "toy": 0.21, "3M": 0.48}
Job = namedtuple("Job", "name cost needs commands collect")     # collect: () -> what is kept of the job's results


# ----------------------------------------------------- the jobs ------------------------------------------------

def python(script, *args):
    return [sys.executable, str(ROOT / script), *map(str, args)]


def train_job(size, kind, seed, plan, out, steps=0):
    """steps: where they are not those of the plan, which then stand in the names."""
    name = kind.partition("@")[0]
    parent = PARENT[name] and f"{PARENT[name]}@{plan['share']}"
    folder = out / "-".join([size, kind, f"s{seed}", *([str(steps)] if steps else [])])
    start = out / f"{size}-{parent}-s{seed}" if parent else "scratch"
    steps_ = steps or plan["steps"][name]
    command = lambda: python(
        "train.py", "--model", size, "--data", f"miniature:{kind}", "--out_dir", folder, "--steps", steps_,
        "--init_from", "resume" if list(folder.glob("step_????????")) else start, "--batch_size", TOKENS // 256,
        "--warmup_steps", 30, "--eval_every", 50, "--save_every", 150, "--keep", 1, "--no-benchmark", "--seed", seed)

    def collect():
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        newest = max(folder.glob("step_????????"), key=lambda p: p.name)
        return dict(model=json.loads((newest / "config.json").read_text())["model"], tokens_per_step=TOKENS,
                    curve=[[r["step"], round(r["loss"], 4), round(r["val_loss"], 4)] for r in rows if "val_loss" in r])

    return Job(name_of("train", size, kind, seed, steps), 5 + steps_ * STEP[size],
               [name_of("train", size, parent, seed)] if parent else [], [command], collect)


def name_of(what, size, kind, seed, steps=0, how=()):
    """"mtpb toy mono@12 s0 multi": what the report looks for."""
    return " ".join([what, size, kind, f"s{seed}", *how, *([f"{steps} steps"] if steps else [])])


def loss_job(size, kind, seed, plan, out, steps=0):
    """The loss on whole documents beside the entropy of the corpus (entropy.py)."""
    folder = out / "-".join([size, kind, f"s{seed}", *([str(steps)] if steps else [])])
    name = name_of("loss", size, kind, seed, steps)
    command = lambda: python("miniature/entropy.py", "--kind", kind, "--ckpt", folder, "--n", plan["documents"])

    def collect():
        lines = (out / f"{name.replace(' ', '-')}.log").read_text().splitlines()
        return dict(rate=json.loads([line for line in lines if line.startswith("{")][-1]))

    return Job(name, 8 + 0.1 * STEP[size] * plan["documents"], [name_of("train", size, kind, seed, steps)], [command], collect)


def sample_job(what, how, size, kind, seed, out, cost, problems, *flags):
    """generate, then score: samples lie in a file of the out folder, what comes out of them goes into the results."""
    name, script = name_of(what, size, kind, seed, how=[how]), f"{what}.py"
    file = out / f"{name.replace(' ', '-')}.jsonl"
    generate = lambda: python(script, "generate", "--ckpt", out / f"{size}-{kind}-s{seed}", "--out", file, "--problems",
                              problems, "--top_p", 0.95, "--batch_size", 100, "--seed", seed, *flags)
    score = lambda: python(script, "score", file, "--problems", problems)

    def collect():
        samples = [json.loads(line) for line in file.read_text().splitlines()]
        verdicts = [json.loads(line) for line in file.with_name(file.stem + "_results.jsonl").read_text().splitlines()]
        more = dict(conversations=conversations(samples, verdicts)) if what == "mtpb" else {}
        return dict(problems=by_problem(samples, verdicts)) | more

    return Job(name, cost, [name_of("train", size, kind, seed)], [generate, score], collect)


def by_problem(samples, verdicts):
    """{id: [programs that pass, programs, sum of log p of its prompts, tokens of them]}, over cases and samples."""
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
    """Three to read: the first that is right, the first with a wrong value, the first that failed otherwise."""
    found = {}
    for s, v in zip(samples, verdicts):
        kind = "right" if v["passed"] else "wrong value" if v["result"] == "failed: wrong value" else "error"
        found.setdefault(kind, dict(program=s["completions"], expected=s["gold_output"], printed=v["printed"],
                                    result=v["result"], id=s["id"]))
    return found


def kinds_of(plan, size):
    """The corpora that a size is trained on, in the order of training."""
    shares = plan["dial"] if size == plan["dial_size"] else [plan["share"]]
    return [f"nl@{plan['share']}", f"multi@{plan['share']}", *(f"mono@{share}" for share in shares)]


def all_jobs(plan, out):
    """Every job of a plan; where several could start, the one that stands first does."""
    jobs, later = [], []
    for size in reversed(plan["sizes"]):            # the largest size is the longest chain: it must never wait
        for seed in plan["seeds"]:
            for kind in kinds_of(plan, size):
                jobs.append(train_job(size, kind, seed, plan, out))
                later += measures(size, kind, seed, plan, out)
    for size in plan["sizes"][:-1]:                 # the last size is what the law is to predict
        for steps in plan["short"]:
            for make in (train_job, loss_job):
                later.append(make(size, f"mono@{plan['share']}", plan["seeds"][0], plan, out, steps))
    return jobs + later


def measures(size, kind, seed, plan, out):
    """The jobs that measure one model."""
    mono, main = kind.startswith("mono"), kind.endswith(f"@{plan['share']}")
    jobs = [loss_job(size, kind, seed, plan, out)] if mono else []
    for mode in ("multi", "single") if mono else ("multi",):
        cost = (15 + 40 * STEP[size]) * plan["mtpb_n"] * plan["mtpb_limit"] / 100
        jobs.append(sample_job("mtpb", mode, size, kind, seed, out, cost, HERE / "mtpb.jsonl", "--limit", plan["mtpb_limit"],
                               "--mode", mode, "--n", plan["mtpb_n"], "--temperature", 0.2))
    for temperature in temperatures(plan, seed, mono) if main else ():
        n = plan["humaneval_n"][temperature]
        cost = 8 + (10 + 100 * STEP[size]) * n * plan["humaneval_limit"] / 5000
        jobs.append(sample_job("humaneval", temperature, size, kind, seed, out, cost, HERE / "humaneval.jsonl", "--limit",
                               plan["humaneval_limit"], "--n", n, "--temperature", temperature, "--max_new_tokens", 96))
    return jobs


def temperatures(plan, seed, mono):
    """Many samples a problem are for mono and the first seed."""
    return plan["humaneval_n"] if mono and seed == plan["seeds"][0] else plan["humaneval_all"]


def cost_of(plan):
    """Minutes that a plan takes on two quiet cores, roughly."""
    return sum(job.cost for job in all_jobs(plan, ROOT)) / 60 / 2


# -------------------------------------------------- running them -----------------------------------------------

def run_job(job, out, running):
    """Run a job's commands, their output in a log of their own -> its line of results. RuntimeError says which failed."""
    log, begin, cpu = out / f"{job.name.replace(' ', '-')}.log", time.perf_counter(), 0.0
    # Compiled programs are kept: the many samplers of one size compile once.
    env = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(out / "compiled"),
                        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2"}
    for command in job.commands:
        with open(log, "ab") as file:
            # A session of its own: Ctrl-C reaches it once, by way of run_all. A second signal would end it without saving.
            process = running[job.name] = subprocess.Popen(command(), stdout=file, stderr=file, stdin=subprocess.DEVNULL,
                                                           env=env, start_new_session=True)
            _, status, usage = os.wait4(process.pid, 0)
        code = process.returncode = os.waitstatus_to_exitcode(status)
        cpu += usage.ru_utime + usage.ru_stime
        del running[job.name]
        if code:
            raise RuntimeError(f"{job.name} failed (exit code {code}): see {log}. The same command goes on from here")
    # The CPU's time as well as the clock's: it says what a quiet machine would need.
    return dict(job=job.name, seconds=round(time.perf_counter() - begin), cpu_seconds=round(cpu), **job.collect())


def run_all(jobs, out):
    """Run what results.jsonl does not hold yet, on all cores, each job when what it needs is there."""
    results = out / "results.jsonl"
    done = {line["job"] for _, line in read_lines(results)}
    todo = [job for job in jobs if job.name not in done]
    cores, running, futures = list(range(CORES)), {}, set()
    if hasattr(os, "sched_getaffinity"):
        cores = sorted(os.sched_getaffinity(0))
    workers = len(cores)

    def pin():          # on Linux the call is for this thread, and the processes that it starts inherit it
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {cores.pop()})

    cost = {job.name: job.cost for job in jobs}
    bar = tqdm(total=sum(cost.values()), initial=sum(cost[name] for name in done & set(cost)), dynamic_ncols=True,
               bar_format="{percentage:3.0f} % |{bar}| {elapsed} gone, about {remaining} left · {postfix}")
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


def main():
    args = parser().parse_args()
    plan = QUICK if args.quick else FULL
    out = ROOT / ("out-quick" if args.quick else "out-miniature")
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
    print(f"the paper in miniature: {len(plan['sizes'])} sizes, work in {out.name}/", flush=True)
    jobs = all_jobs(plan, out)
    try:
        with signals_end_once():
            run_all(jobs, out)
    except RuntimeError as error:
        raise ValueError(str(error)) from None
    to = out if args.quick else HERE
    if to != out:
        shutil.copyfile(results, to / "results.jsonl")
    if code := subprocess.run([sys.executable, HERE / "report.py", to]).returncode:
        sys.exit(code)
    print(f"the report is {to.relative_to(ROOT) / 'README.md'}")


if __name__ == "__main__":
    cli(main)
