"""The house: layers and fences hold, nothing heavy is imported early, versions agree with each other."""

from __future__ import annotations

import ast
import importlib.metadata
import pkgutil
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("edl_allreduce", "rendezvous", "launcher", "model_zoo")
HEAVY = (
    *("tensorflow", "keras", "horovod", "kubernetes", "docker", "gcsfs", "s3fs", "boto3", "sklearn"),
    *("pyarrow", "sqlalchemy", "sqlglot"),
)
WITH_TENSORFLOW = ("edl_allreduce.worker", "edl_allreduce.contracts", "edl_allreduce.trained_model")


def run(*command: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], cwd=cwd, capture_output=True, text=True, timeout=120)


def loaded_by(*modules: str) -> set[str]:
    """Which heavy packages a fresh Python has loaded after importing these modules."""
    code = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    ended = run("-c", code)
    assert ended.returncode == 0, ended.stderr
    return set(HEAVY) & set(ended.stdout.split())


def modules_of(package: str) -> list[str]:
    found = pkgutil.walk_packages([str(ROOT / package)], f"{package}.")
    return [package, *(module.name for module in found if not module.name.endswith("__main__"))]


@pytest.mark.parametrize("package", ["edl_allreduce", "launcher", "rendezvous"])
def test_a_package_loads_nothing_heavy(package: str) -> None:
    assert loaded_by(package) == set()


def test_base_modules_load_nothing_heavy() -> None:
    base = [name for name in modules_of("edl_allreduce") if not name.startswith(WITH_TENSORFLOW)]
    assert len(base) > 10
    assert loaded_by(*base) == set()


def test_no_module_of_the_launcher_loads_anything_heavy() -> None:
    assert loaded_by(*modules_of("launcher")) == set()


def test_no_module_of_the_coordinator_loads_tensorflow() -> None:
    # Its store is Horovod's; the client of Kubernetes is loaded with the provisioner that needs it.
    assert loaded_by(*modules_of("rendezvous")) <= {"horovod"}


def test_help_answers_in_under_a_second() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = run("-m", "edl_allreduce.launch", "--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert ended.returncode == 0, ended.stderr
    assert "train" in ended.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    return run("-c", command, "--no-cache", "--no-logo", cwd=folder)


def test_layers_and_fences_hold() -> None:
    ended = lint_imports(ROOT)
    assert ended.returncode == 0, ended.stdout


def test_every_contract_notices_its_breach(tmp_path: Path) -> None:
    for name in (*PACKAGES, ".importlinter"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    breaches = {
        "edl_allreduce/spec.py": "import rendezvous, edl_allreduce.worker, tensorflow",
        "launcher/local/plan.py": "import edl_allreduce.contracts, horovod.tensorflow, docker, pickle",
        "rendezvous/rounds.py": "import kubernetes, fsspec",
        "model_zoo/digits.py": "import edl_allreduce.worker",
    }
    for path, line in breaches.items():
        with (tmp_path / path).open("a") as file:
            file.write(f"\n\ndef breach() -> None:\n    {line}\n")
    ended = lint_imports(tmp_path)
    contracts = (ROOT / ".importlinter").read_text().count("[importlinter:contract:")
    assert f"Contracts: 0 kept, {contracts} broken." in ended.stdout, ended.stdout


def requirements(extra: str = "") -> str:
    lines = importlib.metadata.requires("edl_allreduce") or []
    return "\n".join(line for line in lines if (f'extra == "{extra}"' in line if extra else "extra ==" not in line))


def test_a_plain_installation_is_the_launcher_alone() -> None:
    plain = requirements()
    assert "fire" in plain
    assert not any(re.match(rf"{name}\b", line) for name in HEAVY for line in plain.splitlines())


def test_horovod_is_nobodys_requirement() -> None:
    assert not [line for line in importlib.metadata.requires("edl_allreduce") or [] if line.startswith("horovod")]


@pytest.mark.parametrize("extra", ["worker", "worker-gpu"])
def test_a_worker_has_what_horovod_needs(extra: str) -> None:
    needs = {re.split(r"[^\w-]", line)[0] for line in importlib.metadata.requires("horovod") or [] if ";" not in line}
    assert {"cloudpickle", "psutil"} <= needs
    assert needs <= {re.split(r"[^\w-]", line)[0] for line in requirements(extra).splitlines()}


def test_generated_code_loads_with_the_oldest_versions_we_allow() -> None:
    allowed = dict(re.findall(r"^(grpcio|protobuf)\D*([\d.]+)", requirements(), re.MULTILINE))
    generated = {"grpcio": r"GRPC_GENERATED_VERSION = '([\d.]+)'", "protobuf": r"Protobuf Python Version: ([\d.]+)"}
    for library, pattern in generated.items():
        text = "\n".join(path.read_text() for path in ROOT.glob("*/**/*_pb2*.py") if ".venv" not in path.parts)
        versions = [tuple(map(int, found.split("."))) for found in re.findall(pattern, text)]
        assert versions
        assert max(versions)[:2] <= tuple(map(int, allowed[library].split("."))), library


def test_the_version_is_stated_once() -> None:
    import edl_allreduce

    assert importlib.metadata.version("edl_allreduce") == edl_allreduce.__version__


def test_no_program_takes_a_part_of_a_flag_for_the_flag() -> None:
    found = 0
    for folder in (*PACKAGES, "benchmarks", "tests"):
        for file in (ROOT / folder).rglob("*.py"):
            for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(call, ast.Call) and ast.unparse(call.func).endswith(("ArgumentParser", ".add_parser")):
                    found += 1
                    assert "allow_abbrev=False" in ast.unparse(call), f"{file}:{call.lineno}"
    assert found > 10
