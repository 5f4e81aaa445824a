"""Run the code of model cards in a process without this kit.

    python -I tests/support/plain_libraries.py CASES OUT

CASES is a JSON file of {name: {"code": ..., "verb": ..., "rows": [...]}}: each snippet defines a
function named `verb`. Its results for all rows are written to OUT, images and tensors as lists.
This file imports nothing from the repository.
"""

import builtins
import json
import sys
import traceback

import numpy

KIT = ("finetune", "tasks", "tests")


class Blocker:
    """Importer that blocks the kit."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in KIT:
            raise ImportError(f"{name} is blocked in this process")
        return


def as_list(value):
    """Convert a tensor or a PIL image to nested lists."""
    return (value if hasattr(value, "tolist") else numpy.asarray(value)).tolist()


def main():
    path, out = sys.argv[1:]
    sys.meta_path.insert(0, Blocker())
    results = {}
    with open(path) as file:
        cases = json.load(file)
    for name, case in cases.items():
        namespace = {"__name__": "card", "print": lambda *_: None, "__builtins__": builtins}
        try:
            exec(case["code"], namespace)
            results[name] = [namespace[case["verb"]](row) for row in case["rows"]]
        except Exception:
            results[name] = traceback.format_exc()
    assert not {*KIT} & sys.modules.keys()
    with open(out, "w") as file:
        json.dump(results, file, default=as_list)


main()
