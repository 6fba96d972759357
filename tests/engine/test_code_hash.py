"""What changes what a factory gives, changes the hash of its code: held against what the factory gives when it runs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from clrtool.engine.runtime.code_hash import code_hashes

RUN = """
import sys
from pathlib import Path
from clrtool.engine.runtime.imports import import_module
print(import_module(sys.argv[1], [Path.cwd()]).make())
"""
REGISTRY = "KNOWN = {}\nclass Base:\n    def __init_subclass__(cls): KNOWN[cls.name] = cls\n"
META = "class Meta(type):\n    def __init__(cls, *_): KNOWN[cls.name] = cls\nKNOWN = {}\n"

# The files of a program, in which LEAF is 1 and then 2.
PROGRAMS = {
    "a package whose star lists a module": {
        "program": "from parts import *\ndef make(): return leaf.value\n",
        "parts/__init__": "__all__ = ['leaf']\n",
        "parts/leaf": "value = LEAF\n",
    },
    "a name put together": {
        "program": "import importlib\ndef make(kind='leaf'): return importlib.import_module(f'parts.{kind}').value\n",
        "parts/leaf": "value = LEAF\n",
    },
    "a name that is given": {
        "program": "import importlib as i\ndef make(kind='leaf'): return i.import_module(kind).value\n",
        "leaf": "value = LEAF\n",
    },
    "an importer by another name": {
        "program": "from importlib import import_module as get\ndef make(kind='leaf'): return get(kind).value\n",
        "leaf": "value = LEAF\n",
    },
    "all that is in a package": {
        "program": "import pkgutil, parts\ndef make():\n    for each in pkgutil.iter_modules(parts.__path__):\n"
        "        __import__('parts.' + each.name)\n    return parts.found\n",
        "parts/__init__": "found = []\n",
        "parts/leaf": "import parts\nparts.found.append(LEAF)\n",
    },
    "a package that imports its parts when they are asked for": {
        "program": "import parts\ndef make(): return parts.leaf.value\n",
        "parts/__init__": "import importlib\nPLACES = {'leaf': '.leaf'}\n"
        "def __getattr__(name): return importlib.import_module(PLACES[name], __name__)\n",
        "parts/leaf": "value = LEAF\n",
    },
    "a file in a folder beside": {
        "program": "import runpy\ndef make(): return runpy.run_path('parts/leaf.py')['value']\n",
        "parts/leaf": "value = LEAF\n",
    },
    "a file by its path": {
        "program": "from importlib import util\nfrom pathlib import Path\ndef make(kind='leaf'):\n"
        "    spec = util.spec_from_file_location('any', Path('parts') / f'{kind}.py')\n"
        "    made = util.module_from_spec(spec)\n    spec.loader.exec_module(made)\n    return made.value\n",
        "parts/leaf": "value = LEAF\n",
    },
    "a text that is executed": {
        "program": "from pathlib import Path\ndef make():\n    found = {}\n"
        "    exec(Path('parts', 'leaf.py').read_text(), found)\n    return found['value']\n",
        "parts/leaf": "value = LEAF\n",
    },
    "a folder that is put on sys.path": {
        "program": "import sys, os\nsys.path.insert(0, os.path.join(os.path.abspath('.'), 'src'))\nimport branch\n"
        "def make(): return branch.leaf.value\n",
        "src/branch": "import leaf\n",
        "src/leaf": "value = LEAF\n",
    },
    "a folder in a folder that is put on sys.path": {
        "program": "import sys\nsys.path.append('src/lib')\ndef make():\n    import leaf\n    return leaf.value\n",
        "src/lib/leaf": "value = LEAF\n",
    },
    "a package whose parts are attached to it": {
        "program": "import parts\ndef make(): return parts.leaf.value\n",
        "parts/__init__": "from attaching import attach\n__getattr__, __all__ = attach(__name__, ['leaf'])\n",
        "attaching": "import sys\nfrom importlib import import_module\ndef attach(package, names):\n"
        "    return (lambda name: import_module(f'{package}.{name}')), names\n",
        "parts/leaf": "value = LEAF\n",
    },
    "the folder above, put on sys.path": {
        "program": "import importlib\ndef make(): return importlib.import_module('deep.inner').make()\n",
        "deep/inner": "import sys\nfrom pathlib import Path\nsys.path.append(str(Path(__file__).parent.parent))\n"
        "import leaf\ndef make(): return leaf.value\n",
        "leaf": "value = LEAF\n",
    },
    "a class that its base lists": {
        "program": "from base import KNOWN, Base\nclass Net(Base):\n    name = 'a net'\n    value = LEAF\n"
        "def make(): return KNOWN['a net'].value\n",
        "base": REGISTRY,
    },
    "a class that a base of its base lists": {
        "program": "from base import KNOWN, Base\nclass Middle(Base):\n    name = 'middle'\nclass Net(Middle):\n"
        "    name = 'a net'\n    value = LEAF\ndef make(): return KNOWN['a net'].value\n",
        "base": REGISTRY,
    },
    "a class that the class of its base lists": {
        "program": f"{META}class Base(metaclass=Meta):\n    name = ''\nclass Net(Base):\n    name = 'a net'\n"
        "    value = LEAF\ndef make(): return KNOWN['a net'].value\n",
    },
    "a class by its path in a text": {
        "program": "import pydoc\nclass Net:\n    value = LEAF\ndef make(): return pydoc.locate('program.Net').value\n",
    },
    "a function among the names of another": {
        "program": "def _leaf(): return LEAF\ndef make(name='_'): return make.__globals__[name + 'leaf']()\n",
    },
    "a function among the names of a frame": {
        "program": "import sys\ndef _leaf(): return LEAF\n"
        "def make(name='_'): return sys._getframe().f_globals[name + 'leaf']()\n",
    },
    "a function that a pickle names": {
        "program": "import pickle\ndef leaf(): return LEAF\ndef make(): return pickle.loads(b'cprogram\\nleaf\\n.')()\n",
    },
    "a module that makes its names": {"program": "def __getattr__(name): return lambda: LEAF\n"},
    "a whole number too long for a text": {"program": f"LONG = 0x{'f' * 6000}\ndef make(): return LEAF\n"},
    "a condition that is nested deeply": {"program": f"if {'+'.join('1' * 600)}:\n    value = LEAF\ndef make(): return value\n"},
}  # fmt: skip


def written(folder, program, leaf):
    for name, text in program.items():
        path = folder / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("LEAF", str(leaf)))
    hashes = code_hashes(["program:make"], [folder])
    done = subprocess.run(
        [sys.executable, "-c", RUN, "program"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, hashes


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_what_changes_what_a_factory_gives_changes_its_hash(tmp_path, program):
    one, before = written(tmp_path, program, 1)
    two, after = written(tmp_path, program, 2)
    assert one != two
    assert before != after


def test_a_library_counts_whatever_its_size(tmp_path):
    (tmp_path / "program.py").write_text("import fast\ndef make(): return fast.value\n")
    found = []
    for end in (b"1", b"2"):
        with (tmp_path / "fast.so").open("wb") as file:
            file.truncate(70 * 2**20)
            file.seek(0, 2)
            file.write(end)
        found.append(code_hashes(["program:make"], [tmp_path])["fast"])
    assert found[0] != found[1]


UNUSED = {
    "a class of a base that is plain": "from abc import ABC\nclass A(ABC): ...\nclass B(A):\n    value = LEAF\n"
    "def make(): return A\n",
    "a function of a name in a message": "def leaf(): return LEAF\nSAID = 'no module: import_module, exec, eval'\n"
    "def make(): return 1\n",
    "a function that a docstring names": "def leaf(): return LEAF\ndef make():\n    'Not a leaf.'\n    return 1\n",
    "a script": "def make(): return 1\nif __name__ == '__main__':\n    print(LEAF)\n",
}  # fmt: skip


@pytest.mark.parametrize("text", UNUSED.values(), ids=UNUSED)
def test_what_no_factory_reaches_does_not_count(tmp_path, text):
    assert written(tmp_path, {"program": text}, 1) == written(tmp_path, {"program": text}, 2)


@pytest.mark.parametrize(("line", "counts"), [("import leaf", False), ("leaf = __import__(''.join('leaf'))", True)])
def test_what_lies_beside_counts_where_a_name_is_put_together_and_what_comes_to_it(tmp_path, line, counts):
    written(tmp_path, {"program": f"def make():\n    {line}\n    return leaf.value\n", "leaf": "value = LEAF\n"}, 1)
    before = code_hashes(["program:make"], [tmp_path])
    for name in ("other.py", "notes.txt", "loose/other.py", "parts/__init__.py", "parts/other.py", ".hidden/other.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("value = 1\n")
    os.mkfifo(tmp_path / "pipe.py")
    after = code_hashes(["program:make"], [tmp_path])
    assert set(before) == {"program", "leaf"}
    assert set(after) - set(before) == ({"other", "parts", "parts.other"} if counts else set())


def test_links_that_lead_back_are_gone_through_once(tmp_path):
    package = tmp_path / "parts"
    written(
        tmp_path,
        {"program": "def make(): return __import__('parts.' + 'leaf')\n", "parts/__init__": "", "parts/leaf": ""},
        1,
    )
    for name in ("one", "two"):
        (package / name).symlink_to(Path("..") / "parts")
    assert set(code_hashes(["program:make"], [tmp_path])) == {"program", "parts", "parts.leaf"}
