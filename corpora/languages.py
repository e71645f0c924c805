"""The six languages of BIGQUERY, by the names that files and records give them."""
import os

# By the ending of a file's name, and by their own names (".c++", ".python"), which look like
# endings here so that one look-up serves both.
LANGUAGES = {".c": "C", ".h": "C", ".cc": "C++", ".cpp": "C++", ".cxx": "C++", ".hpp": "C++",
             ".c++": "C++", ".go": "Go", ".java": "Java", ".js": "JavaScript",
             ".javascript": "JavaScript", ".py": "Python", ".python": "Python"}


def language(name):
    """"src/a.cc", ".h" or a language's own name, "C++" -> the language; None for none of
    LANGUAGES."""
    ending = os.path.basename(name).lower().rpartition(".")[2]      # all of a name without a dot
    return LANGUAGES.get("." + ending)
