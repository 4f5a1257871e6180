"""What holds for the repository as a whole: light imports, short files, safe loading, nothing of one machine."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import likeness

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "likeness"
MAX_LINES = 400
MAX_WEIGHTS_BYTES = 60 * 2**20

# Joined here so that this file does not hold what it forbids.
MACHINE_PATHS = re.compile(
    "|".join(rf"(?<![\w.]){re.escape('/' + name + '/')}" for name in ("work", "tmp", "root", "home"))
)
REGISTRY_HOSTS = re.compile(
    "|".join(
        re.escape(".".join(parts))
        for parts in (("pypi", "org"), ("pythonhosted", "org"), ("download", "pytorch", "org"))
    )
)
LEFT_OPEN = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "X" + "XX", "Not" + "ImplementedError")) + r")\b")
OTHERS_FOLDERS = re.compile(r"\.\./" + "shared")


def _tracked_files() -> list[Path]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]


def _tracked_texts() -> list[tuple[str, str]]:
    texts = []
    for path in _tracked_files():
        data = path.read_bytes()
        if b"\0" not in data[:8192]:
            texts.append((str(path.relative_to(ROOT)), data.decode("utf-8")))
    return texts


def _modules_after(statement: str) -> set[str]:
    """Names in sys.modules of a fresh interpreter that ran the statement."""
    code = f"{statement}\nimport sys\nprint(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split("\n"))


def test_import_is_light():
    modules = _modules_after("import likeness")
    assert "likeness" in modules
    assert not {"torch", "numpy", "diffusers", "transformers", "insightface", "PIL"} & modules


def test_methods_and_errors_need_no_torch():
    assert "torch" not in _modules_after("from likeness import ST_DRC, Method, UserError")


def test_help_needs_no_torch():
    modules = _modules_after("import likeness.cli")
    assert not {"torch", "diffusers", "transformers", "insightface"} & modules


def test_the_pipeline_needs_no_torchvision():
    modules = _modules_after("import likeness.pipeline")
    assert "torch" in modules
    assert "torchvision" not in modules


@pytest.mark.parametrize("name", likeness.__all__)
def test_public_names_resolve(name: str):
    assert getattr(likeness, name) is not None
    assert name in dir(likeness)


def test_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Likenes'"):
        likeness.Likenes  # noqa: B018


def test_files_are_short():
    long = {
        name: lines
        for name, text in _tracked_texts()
        if name.endswith(".py") and (lines := text.count("\n")) > MAX_LINES
    }
    assert not long


def test_modules_of_tests_have_names_of_their_own():
    """pytest imports them by their file's name alone; two of a name end a whole run while it is collected."""
    names = [path.name for path in (ROOT / "tests").rglob("*.py") if path.name != "conftest.py"]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize(
    "pattern", [MACHINE_PATHS, REGISTRY_HOSTS, LEFT_OPEN, OTHERS_FOLDERS], ids=["machine", "registry", "open", "folder"]
)
def test_forbidden_text(pattern: re.Pattern):
    found = [
        f"{name}:{number}: {line.strip()[:120]}"
        for name, text in _tracked_texts()
        for number, line in enumerate(text.split("\n"), 1)
        if pattern.search(line)
    ]
    assert not found


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (MACHINE_PATHS, "open('" + "/tm" + "p/a')"),
        (REGISTRY_HOSTS, "https://" + "pypi" + ".org/simple"),
        (LEFT_OPEN, "# TO" + "DO: later"),
        (OTHERS_FOLDERS, "see ../" + "shared/facts"),
    ],
)
def test_forbidden_text_is_seen(pattern: re.Pattern, text: str):
    assert pattern.search(text)


def test_weights_are_small():
    weights = PACKAGE / "world" / "weights"
    total = sum(path.stat().st_size for path in _tracked_files() if path.is_relative_to(weights))
    assert total < MAX_WEIGHTS_BYTES


def _unsafe_calls(source: str) -> list[str]:
    """Calls by which a model file could run code: unpickling, trusting a repository's own code, eval and exec."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            found += [
                f"{node.lineno}: imports {name}"
                for name in names
                if name.split(".")[0] in ("pickle", "dill", "torchvision")
            ]
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if called in ("eval", "exec", "yaml.load", "joblib.load"):
            found.append(f"{node.lineno}: {called}()")
        if called == "torch.load" and keywords.get("weights_only") != "True":
            found.append(f"{node.lineno}: torch.load() without weights_only=True")
        if called == "np.load" and keywords.get("allow_pickle", "False") != "False":
            found.append(f"{node.lineno}: np.load() with allow_pickle")
        if keywords.get("trust_remote_code", "False") != "False":
            found.append(f"{node.lineno}: trust_remote_code")
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_cannot_run_code(path: Path):
    assert not _unsafe_calls(path.read_text("utf-8"))


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from torchvision.transforms import Resize",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "eval(text)",
    ],
)
def test_unsafe_calls_are_seen(source: str):
    assert _unsafe_calls(source)


def test_weights_are_in_safe_formats():
    weights = PACKAGE / "world" / "weights"
    allowed = {".safetensors", ".onnx", ".json", ".model", ".txt", ".md", ".png", ".jpg", ".gif", ".mp4"}
    assert {path.suffix for path in weights.rglob("*") if path.is_file()} <= allowed
