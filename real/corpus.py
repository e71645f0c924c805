"""Which Python lies on a machine, and under which licences: standard library and packages."""
import sysconfig
from collections import Counter
from importlib import metadata
from pathlib import Path


def folders():
    """The standard library, and each folder in which packages are installed."""
    paths = sysconfig.get_paths()
    named = [paths["stdlib"], paths["purelib"], paths["platlib"]]
    named += {str(dist.locate_file("")) for dist in metadata.distributions()}
    found = []
    for path in map(Path, named):
        inside = any(path.resolve().is_relative_to(folder.resolve()) for folder in found)
        if path.is_dir() and not inside and (path.name.endswith("-packages") or not found):
            found.append(path)
    return found


def packages():
    """[{name, version, licence, files, bytes}] of what is installed, the largest first; only what
    holds Python counts. files and bytes: of its .py files."""
    found = {}
    for dist in metadata.distributions():
        sizes = [path.stat().st_size for file in dist.files or ()
                 if file.suffix == ".py" and (path := Path(dist.locate_file(file))).is_file()]
        if sizes:
            found[dist.metadata["Name"]] = dict(
                name=dist.metadata["Name"], version=dist.version, licence=licence(dist.metadata),
                files=len(sizes), bytes=sum(sizes))
    return sorted(found.values(), key=lambda p: -p["bytes"])


# What authors write, and the one name under which the page counts it.
SAME = {
    "Apache Software License": "Apache-2.0", "Apache 2.0": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0", "Apache 2.0 License": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0", "Apache": "Apache-2.0",
    "MIT License": "MIT", "The MIT License": "MIT", "BSD License": "BSD", "BSD-3-Clause": "BSD",
    "BSD 3-Clause License": "BSD", "BSD-2-Clause": "BSD", "3-Clause BSD License": "BSD",
    "ISC License (ISCL)": "ISC", "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}


def licence(about):
    """A package's licence by name, from its metadata: the expression, the classifiers, or the
    first line of the free text where that is short."""
    classes = [c.split(" :: ")[-1] for c in about.get_all("Classifier") or ()
               if c.startswith("License :: ")]
    free = (about["License"] or "").strip().split("\n")[0]
    name = about["License-Expression"] or " and ".join(classes) or free[:40] or "not stated"
    return SAME.get(name, name)


def by_licence(found):
    """{licence: [packages, bytes]}, the most bytes first."""
    count, size = Counter(), Counter()
    for package in found:
        count[package["licence"]] += 1
        size[package["licence"]] += package["bytes"]
    return {name: [count[name], n_bytes] for name, n_bytes in size.most_common()}
