"""Patterns that leave files out, as git reads them: those of --exclude and of .gitignore files."""
import os
import re
from codecs import BOM_UTF8


def rule(line):
    """A line of a .gitignore file -> (regex of paths below its folder, leaves out or takes back,
    folders only); None for a blank line or a comment."""
    line = re.sub(r"(?<!\\) +$", "", line)
    if not line or line.startswith("#"):
        return None
    leaves_out = not line.startswith("!")
    pattern = line if leaves_out else line[1:]
    folders_only = pattern.endswith("/")
    pattern = pattern.removesuffix("/")
    anywhere = "" if "/" in pattern else "(?:.*/)?"     # a name alone counts at every depth
    try:
        regex = re.compile(anywhere + regex_of(pattern.removeprefix("/")), re.DOTALL)
    except re.error:        # a class such as [z-a]: matches nothing
        return None
    return regex, leaves_out, folders_only


PARTS = re.compile(r"""
    (?P<some_folders> (?: ^ | (?<=/) ) \*\*/ )      # **/  at the start or after a slash
  | (?P<all_below> (?<=/) \*\* $ )                  # /**  at the end
  | (?P<star> \*+ )
  | (?P<one> \? )
  | (?P<set> \[ [!^]? \]? (?: \\. | [^\]\\] )* \] )
  | \\ (?P<escaped> . )
  | (?P<plain> . )""", re.VERBOSE | re.DOTALL)
IN_SET = re.compile(r"\\(.)|[^-\w]|(?<=-)-", re.DOTALL)     # of a set: all but ranges is plain
AS_REGEX = {"some_folders": "(?:.*/)?", "all_below": ".+", "star": "[^/]*", "one": "[^/]"}


def regex_of(pattern):
    """A pattern of git's -> a regex of the same paths."""
    regex = ""
    for part in PARTS.finditer(pattern):
        kind, text = part.lastgroup, part[part.lastgroup]
        if kind == "set":
            inside = text[1:-1]
            negated = inside[:1] in ("!", "^")
            inside = IN_SET.sub(lambda c: re.escape(c[1] or c[0]), inside[negated:])
            regex += f"(?!/)[{'^' * negated}{inside}]"
        else:
            regex += AS_REGEX.get(kind) or re.escape(text)
    return regex


def rules_of(lines):
    """Lines -> their rules."""
    return [found for found in map(rule, lines) if found]


def rules_in(folder):
    """The rules of a folder's .gitignore; none where there is no such file."""
    try:
        with open(os.path.join(folder, ".gitignore"), "rb") as file:
            lines = file.read().removeprefix(BOM_UTF8).split(b"\n")     # \r alone ends none
            return rules_of(os.fsdecode(line.removesuffix(b"\r")) for line in lines)
    except OSError:
        return []


def left_out(path, is_folder, rules):
    """Whether a path is left out. rules: [(folder, its rules)], outer folders first: of the rules
    that match it, the last one decides."""
    for folder, inside in reversed(rules):
        below = os.path.relpath(path, folder)
        for regex, leaves_out, folders_only in reversed(inside):
            if (is_folder or not folders_only) and regex.fullmatch(below):
                return leaves_out
    return False


def left_out_of_any(path, is_folder, rule_lists):
    """Whether one of several lists of rules leaves a path out."""
    return any(left_out(path, is_folder, rules) for rules in rule_lists)
