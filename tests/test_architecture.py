"""The folders of `lib` import downwards only, and the core knows nothing of servers."""

import ast
from pathlib import Path

import pytest

LIB = Path(__file__).resolve().parents[1] / "lib"
# From top to bottom: each may import those after it, and itself.
ORDER = (
    "doctor", "web", "datasets", "benchmarks", "simulation", "training", "activelearning",
    "store", "inference", "settings", "access", "metrics", "networks", "transforms", "phantom", "anatomy", "volume_io",
    "archives", "nifti_file", "nrrd_file", "uploads", "segments", "dicomweb", "dicom_seg", "dicom", "looked_at",
    "case_scores", "volume", "limits", "labels", "box", "console", "gzip_file", "cores", "files", "supervision",
    "errors", "venv", "imports",
)  # fmt: skip
# Files that are MONAI Label's interfaces; everything else is core.
SHELLS = {
    "web/app.py", "web/answers.py", "web/requests.py", "web/ledger_requests.py", "web/model_requests.py",
    "web/retraining.py", "web/connection.py", "web/pacs_proxy.py", "web/ohif.py", "web/origins.py", "web/jobs.py",
    "web/job_requests.py", "web/lookup_requests.py", "web/guarded.py", "web/guard/rows.py", "web/guard/guard.py",
    "web/session_requests.py", "web/front_page.py", "web/health.py", "web/metrics.py", "web/login_requests.py",
    "web/removal_requests.py", "web/file_answers.py", "web/openapi.py", "web/endpoints.py",
    "store/folder.py", "benchmarks/stock_store.py", "benchmarks/soak_people.py", "benchmarks/soak_annotator.py",
    "benchmarks/monai_scoring.py", "inference/task.py",
    "inference/batch.py", "training/task.py", "activelearning/tasks.py", "doctor.py",
}  # fmt: skip
FILES = sorted(path.relative_to(LIB) for path in LIB.rglob("*.py") if path.name != "__init__.py")


def part(name: str) -> str:
    """`lib.training.fit` and `training/fit.py` both belong to `training`."""
    return name.removeprefix("lib.").removesuffix(".py").replace("/", ".").split(".")[0]


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse((LIB / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return found


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_go_downwards(path: Path) -> None:
    own = part(path.as_posix())
    assert own in ORDER, f"say in ORDER where {own} stands"
    for module in imports(path):
        if module.startswith("lib."):
            other = part(module)
            assert ORDER.index(other) >= ORDER.index(own), f"{path} imports {module}, which stands above it"


@pytest.mark.parametrize("path", [p for p in FILES if p.as_posix() not in SHELLS], ids=str)
def test_the_core_knows_no_server(path: Path) -> None:
    servers = {"monailabel", "fastapi", "starlette", "uvicorn"}
    assert not {module.split(".")[0] for module in imports(path)} & servers
