"""The pen of drawings.py: texts, boxes and arrows as SVG, in GitHub's light and dark colours.

Looks are words, the classes of the style sheet below. A hue (blue, orange, green, purple, grey) is
a tint with a border on a shape and a colour on a text and a line; `full` fills a shape with the hue
itself. Of texts: `s` small, `c` code, `b` bold, `m` centred, `e` to the left of its place. So the
two files of a drawing differ in their style sheets alone."""
from html import escape

WIDTH, MARGIN = 640, 16      # of what is drawn, and on its left and right
SANS = "-apple-system,BlinkMacSystemFont,'Segoe UI','Noto Sans',Helvetica,Arial,sans-serif"
MONO = "ui-monospace,SFMono-Regular,Menlo,Consolas,'Liberation Mono',monospace"

# The hues of the miniature's plots, which are legible on both grounds.
HUES = {"blue": "#3b8eea", "orange": "#e0862b", "green": "#2fa36b", "purple": "#9a6bd6"}
LIGHT = {
    "ground": "#ffffff", "ink": "#1f2328", "words": "#59636e", "line": "#8c959f", "pale": "#f3f5f7",
    "tints": {"blue": "#e0eefd", "orange": "#fdecd8", "green": "#dcf4e7", "purple": "#efe7fb"},
    "texts": {"blue": "#1a63bd", "orange": "#9c5206", "green": "#1a7346", "purple": "#7445bd"}}
DARK = {
    "ground": "#0d1117", "ink": "#e6edf3", "words": "#9198a1", "line": "#6e7681", "pale": "#171d25",
    "tints": {"blue": "#11294a", "orange": "#3a2711", "green": "#0f3321", "purple": "#2a1e47"},
    "texts": {"blue": "#79b8ff", "orange": "#f2ad63", "green": "#5fd39d", "purple": "#c09ef2"}}


def page(title, height, marks, colours):
    """A whole SVG file."""
    wide = WIDTH + 2 * MARGIN
    rows = ['<svg xmlns="http://www.w3.org/2000/svg" role="img" '
            f'viewBox="-{MARGIN} 0 {wide} {height}" width="{wide}" height="{height}">',
            f"<title>{escape(title)}</title>", f"<style>{style(colours)}</style>",
            f'<rect class="ground" x="-{MARGIN}" width="{wide}" height="{height}" rx="8"/>',
            *marks, "</svg>"]
    return "\n".join(rows) + "\n"


def style(colours):
    """The style sheet of one ground."""
    rules = [f"text{{font:16px {SANS};fill:{colours['ink']}}}",
             f".ground{{fill:{colours['ground']}}}", ".dash{stroke-dasharray:4 4}",
             ".faint{stroke-opacity:.3}",
             ".s{font-size:14px}", f".c{{font:14px {MONO}}}", ".b{font-weight:600}",
             ".m{text-anchor:middle}", ".e{text-anchor:end}", ".wide{stroke-width:2.5}",
             f".grey{{fill:{colours['pale']};stroke:{colours['line']}}}",
             f"text.grey{{fill:{colours['words']};stroke:none}}",
             f".grey.full{{fill:{colours['line']}}}", "text.on{fill:#0d1117}"]
    for hue, solid in HUES.items():
        rules += [f".{hue}{{fill:{colours['tints'][hue]};stroke:{solid}}}",
                  f"text.{hue}{{fill:{colours['texts'][hue]};stroke:none}}",
                  f".{hue}.full{{fill:{solid}}}"]
    rules += ["path.open{fill:none}", f"rect.bare,circle.bare{{fill:{colours['ground']}}}"]
    return "".join(rules)


def number(x):
    return f"{x:.1f}".rstrip("0").rstrip(".")


def text(x, y, words, look=""):
    """A line of text whose letters stand on y; what is in `backticks` is code."""
    spans = escape(words, quote=False).split("`")
    spans[1::2] = [f'<tspan class="c">{span}</tspan>' for span in spans[1::2]]
    return f'<text x="{number(x)}" y="{number(y)}"{named(look)}>{"".join(spans)}</text>'


def lines(x, y, all_words, look="", high=20):
    """Lines of text, one below the other, the first on y."""
    return [text(x, y + high * i, words, look) for i, words in enumerate(all_words)]


def box(x, y, width, height, look="grey", round=6):
    return (f'<rect x="{number(x)}" y="{number(y)}" width="{number(width)}" '
            f'height="{number(height)}" rx="{number(round)}"{named(look)}/>')


def label(x, y, width, height, words, look="grey", letters="s", round=6):
    """A box with its words in the middle."""
    return box(x, y, width, height, look, round) + \
        text(x + width / 2, y + height / 2 + 5, words, f"m {letters}")


def line(points, look="grey"):
    """A line through points [(x, y), ...]."""
    steps = "L".join(f"{number(x)} {number(y)}" for x, y in points)
    return f'<path d="M{steps}"{named("open " + look)}/>'


def arrow(points, look="grey"):
    """A line with a head at its last point; the last piece runs along an axis."""
    (x0, y0), (x, y) = points[-2:]
    dx, dy = (x > x0) - (x < x0), (y > y0) - (y < y0)       # the direction of the last piece
    back, side = (x - 8 * dx, y - 8 * dy), (4 * dy, 4 * dx)
    corners = (x, y), (back[0] + side[0], back[1] + side[1]), (back[0] - side[0], back[1] - side[1])
    return line([*points[:-1], back], look) + polygon(corners, look)


def polygon(corners, look):
    points = "L".join(f"{number(x)} {number(y)}" for x, y in corners)
    return f'<path d="M{points}Z"{named(look + " full")}/>'


def plus(x, y):
    """A sum: a circle with a plus."""
    return (f'<circle cx="{number(x)}" cy="{number(y)}" r="11" class="grey bare"/>'
            + line([(x - 5, y), (x + 5, y)]) + line([(x, y - 5), (x, y + 5)]))


def key(x, y, entries):
    """A legend, its first line on y: [(look, words of a line, of the next, ...)], of each a patch
    of its look."""
    marks = []
    for look, *words in entries:
        marks += [box(x, y - 14, 22, 18, look, 4), *lines(x + 34, y, words, high=22)]
        y += 22 * len(words) + 6
    return marks


def bracket(x0, x1, y, look="grey", depth=6):
    """A bracket below what stands from x0 to x1."""
    return line([(x0, y), (x0, y + depth), (x1, y + depth), (x1, y)], look)


def named(look):
    return f' class="{look}"' if look else ""
