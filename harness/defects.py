"""Known faults of the official MTPB file. They are listed with every score and never mended: the
paper has them in its figures too."""
import importlib.util

DEFECTS = [     # (problem, cases or "", what is wrong)
    ("1", "", "the same problem as 26"),
    ("10", "2 and 5", "the same input"),
    ("57", "6", "an output without an input"),
    ("9", "3", "wrong gold: Mike, right is John"),
    ("31", "1", "wrong gold: 17, right is 16"),
    ("55", "3", "wrong gold: True"),
    ("56", "4", "wrong gold: 8, right is 6"),
    ("94", "2", "wrong gold: 55"),
    ("87", "1", "wrong gold: 100 is not above the limit"),
    ("46", "", "wrong gold: one sum for every split"),
    ("89", "", "gold is a dict, which the official rules never pass"),
    ("41", "2 and 5", "gold is None, which the official rules never pass"),
    ("14", "", "never passes officially: the official guard keeps scikit-learn from loading"),
    ("23", "1 to 4", "random results, compared exactly"),
    ("77", "3", "gold 39.57 is rounded, right is 39.5727..."),
    ("39", "3 and 4", "right only with split()"),
    ("43", "2 and 3", "counts letters only, unsaid"),
    ("44", "", "means pairs that do not overlap, unsaid"),
    ("45", "3", "gold contradicts the prompt"),
    ("91", "4 and 5", "wants text, unsaid"),
    ("55", "", "asks for return, no print"),
    ("62", "", "asks for return, no print"),
]
NEEDS = {"pandas": ("6", "38", "46"), "sklearn": ("14", "46")}
CSV = ("38", "46")          # read ./datasets/*.csv, which was never distributed


def notes(scored_ids):
    """What is known to be wrong with the official data or missing on this machine, for the problems
    scored: lines."""
    lines = [f"problem {i}{', case ' + cases if cases else ''}: {what}"
             for i, cases, what in DEFECTS if i in scored_ids]
    for module, ids in NEEDS.items():
        ids = [i for i in ids if i in scored_ids]
        if ids and importlib.util.find_spec(module) is None:
            lines.append(f"{module} is not installed: problems {', '.join(ids)} cannot pass, "
                         "whatever the model wrote")
    ids = [i for i in CSV if i in scored_ids]
    if ids:
        lines.append(f"the CSV files of problems {', '.join(ids)} were never distributed: "
                     "they cannot pass")
    return lines
