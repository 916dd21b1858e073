"""Nothing writes a file but `edge_stl.durable`: a file that must survive has one way to be made."""

import ast
from collections import Counter
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[2]
PACKAGES = ("edge_stl", "device_agent", "exporter")

ALLOWED = {
    # inside the hidden folder that `publish_folder` flushes and renames
    "edge_stl/fleet/_camera.py": {"save": 2},
    "edge_stl/fleet/_deal.py": {"copyfile": 1, "mkdir": 1, "save": 2},
    "edge_stl/fleet/_demo.py": {"mkdir": 1, "rmtree": 1},
    # what a child process says, kept while it runs
    "edge_stl/fleet/_task.py": {"TemporaryFile": 2},
    # a file of /proc that takes orders
    "device_agent/_memory.py": {"open": 1},
    # read-only
    "device_agent/pixels.py": {"os.open": 1},
    "edge_stl/images/_open.py": {"os.open": 1, "fdopen": 1, "open": 1},
    # what the system shall kill first when memory runs out: no file
    "edge_stl/images/_reader_limits.py": {"write_text": 1},
    # pictures, into a buffer in memory; and Pillow's way of opening it
    "edge_stl/images/_reader_main.py": {"open": 1, "save": 1},
    # pictures, into a buffer in memory
    "edge_stl/fleet/_bands_picture.py": {"save": 1},
    "edge_stl/fleet/_votes_picture.py": {"savefig": 1},
    "edge_stl/fleet/_compare_page.py": {"savefig": 1},
    # checkpoint.save, which writes a record
    "device_agent/_one_branch.py": {"save": 1},
    "device_agent/cotrain/_saved.py": {"save": 1},
    # caches of other settings: to lose them again costs nothing
    "device_agent/_cache_files.py": {"unlink": 1},
    # a few MiB that measure the disk, removed at once
    "device_agent/doctor/_disk.py": {"fsync": 1, "mkdtemp": 1, "rmtree": 1},
    # standard output of a command whose reader went away
    "edge_stl/cli/_app.py": {"os.open": 1},
}
"""File -> call -> how often it may stand there."""

_ALWAYS = {
    "write_bytes", "write_text", "fdopen", "rename", "renames", "copy", "copy2", "copyfile",
    "copytree", "move", "savefig", "save", "savez", "savez_compressed", "tofile", "save_model",
    "save_file", "touch", "unlink", "rmtree", "rmdir", "mkdir", "makedirs", "mkstemp", "mkdtemp",
    "NamedTemporaryFile", "TemporaryFile", "TemporaryDirectory", "symlink_to", "hardlink_to",
    "link", "symlink", "truncate", "ftruncate", "fsync", "mkfifo", "mknod",
}  # fmt: skip


def writers(source: str) -> Counter[str]:
    """Return the calls of a module that make, change or remove files, with how often they stand."""
    found: Counter[str] = Counter()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = _writes(node)
            if name is not None:
                found[name] += 1
    return found


def _writes(call: ast.Call) -> str | None:
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    owner = ""
    if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
        owner = function.value.id
    if owner == "os" and name == "open":
        return "os.open"
    if name == "open":
        return "open" if _may_write(call, position=1 if owner in {"", "io"} else 0) else None
    if name == "replace":  # os.replace and Path.replace; str.replace has two, dataclasses' keywords
        one = len(call.args) == 1 and not call.keywords
        return "replace" if owner == "os" or (isinstance(function, ast.Attribute) and one) else None
    if name == "copy" and owner != "shutil":
        return None  # of arrays and dictionaries
    if name == "save" and not call.args:
        return None  # no file without a name
    return name if name in _ALWAYS else None


def _may_write(call: ast.Call, *, position: int) -> bool:
    modes = [word.value for word in call.keywords if word.arg == "mode"]
    modes += call.args[position : position + 1]
    if not modes:
        return False
    mode = modes[0]
    if not (isinstance(mode, ast.Constant) and isinstance(mode.value, str)):
        return isinstance(call.func, ast.Name) or position == 0
    return bool(set("wax+") & set(mode.value))


def test_nothing_else_opens_a_file_to_write_it():
    files = [f for package in PACKAGES for f in sorted((ROOT / package).rglob("*.py"))]
    found = {str(f.relative_to(ROOT)): writers(f.read_text()) for f in files}
    others = {
        name: dict(calls)
        for name, calls in found.items()
        if calls and not name.startswith("edge_stl/durable/")
    }

    assert len(files) > 100
    assert others == ALLOWED
    assert found["edge_stl/durable/_files.py"]["replace"] >= 2


@pytest.mark.parametrize(
    "line",
    [
        "path.write_bytes(b'')",
        "Path('x').write_text('')",
        "open('x', 'w')",
        "open('x', mode='ab')",
        "io.open('x', 'r+')",
        "path.open('wb')",
        "path.open(mode='x')",
        "open('x', mode)",
        "os.open('x', os.O_WRONLY | os.O_CREAT)",
        "os.replace(a, b)",
        "a.replace(b)",
        "a.rename(b)",
        "shutil.copy(a, b)",
        "shutil.move(a, b)",
        "image.save(path)",
        "onnx.save(model, path)",
        "np.save(path, array)",
        "figure.savefig(path)",
        "os.mkdir(path)",
        "path.mkdir()",
        "tempfile.NamedTemporaryFile()",
        "os.fdopen(3, 'w')",
    ],
)
def test_a_line_that_writes_is_found(line: str):
    assert sum(writers(line).values()) == 1


@pytest.mark.parametrize(
    "line",
    [
        "open('x')",
        "open('x', 'rb')",
        "path.open('rb')",
        "path.open(encoding='utf-8', newline='')",
        "text.replace('a', 'b')",
        "dataclasses.replace(job, fresh=True)",
        "array.copy()",
        "write_durably(path, data)",
    ],
)
def test_a_line_that_does_not_write_is_not_found(line: str):
    assert not writers(line)
