"""A plan for people."""
from plan.card import reached
from plan.figures import used_bytes


def gib(n):
    return f"{n / 2 ** 30:.2f} GiB"


def show_sent(c, each, unit, size):
    """One collective of a plan: how often each step or token has it, what a chip sends for it."""
    print(f"  {c['kind']:<18} over {'+'.join(c['axes']):<8} {c['count']:>5} a {each}, "
          f"{c['moved_bytes'] / size:8.3f} {unit} sent by a chip" + " while it computes" * c["hidden"])


def flags_of(plan):
    return " ".join(f"--{k} {n}" for k, n in plan["mesh"].items()) + \
        f" --batch_size {plan['batch_size']} --grad_accum {plan['grad_accum']}" \
        f" --remat {plan['remat']}"


def show_plan(p):
    """A plan for people."""
    how = "compiled by the TPU compiler" if p["compiled"] else "by formula alone"
    print(f"{p['topology']}, {p['chips']} chips, {how}")
    print(f"  {flags_of(p)}: {p['tokens_per_step']:,} tokens a step, {p['params']:,} parameters, "
          f"{p['dtype']}")
    print(f"  a chip holds  parameters and optimizer {gib(p['state_bytes_per_chip'])} · "
          f"activations and temporary {gib(p['temp_bytes_per_chip'])} · "
          f"left {gib(p['hbm_bytes'] - used_bytes(p))} of {gib(p['hbm_bytes'])}")
    print(f"  model FLOPs   {p['flops_per_step']:.3g} a step · {p['flops_per_chip']:.3g} a chip, of "
          f"which the program makes {p['program_flops_per_chip'] / p['flops_per_chip']:.3f} times "
          f"as many (by formula {p['program_flops_by_formula'] / p['flops_per_chip']:.3f})")
    for c in p["collectives"]:
        show_sent(c, "step", "GB", 1e9)
    s = p["seconds"]
    print(f"  seconds       compute {s['compute']:.3f} · HBM {s['hbm']:.3f} · interconnect "
          f"{s['hidden']:.3f} while computing, {s['waiting']:.3f} waiting · "
          f"a step {p['step_seconds']:.3f}, bound by {p['bound']}")
    print(f"  predicted     {p['tokens_per_s']:,} tokens/s · MFU {p['mfu']:.1%} · "
          f"{p['days']:.1f} days for the paper's tokens")
    shares = [share for *_, share in reached()]
    low, high = min(shares), max(shares)
    print(f"  to believe    of such predictions one H100 reached {low:.0%} to {high:.0%}: "
          f"{p['days'] / high:.1f} to {p['days'] / low:.1f} days")
