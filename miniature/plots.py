"""matplotlib in the project's manner: transparent, in mid-tones, for light pages and dark ones."""
import sys

GREY = "#7d8590"
COLORS = ["#9a6bd6", "#e0862b", "#3b8eea", "#2fa36b"]


def pyplot():
    """matplotlib.pyplot, or None and one line on stderr where it is not installed."""
    try:
        import matplotlib
    except ImportError:
        print("matplotlib is not installed: no plots (pip install matplotlib)", file=sys.stderr)
        return None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    names = "text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor", "grid.color"
    plt.rcParams.update(dict.fromkeys(names, GREY) | {
        "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25,
        "legend.frameon": False, "font.size": 10})
    return plt


def save(figure, path):
    """Write a figure and forget it."""
    figure.tight_layout()
    figure.savefig(path, dpi=110, transparent=True)
    figure.clear()
