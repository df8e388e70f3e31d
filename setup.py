"""What an installation of edl_allreduce consists of: the launcher alone by default, everything else as an extra."""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "edl_allreduce" / "__init__.py").read_text(encoding="utf-8"))
assert VERSION, "edl_allreduce/__init__.py states no __version__"

PACKAGES = ("edl_allreduce", "rendezvous", "launcher", "model_zoo")

# What Horovod imports at run time. Horovod itself is compiled by `python -m edl_allreduce.horovod_wheel install`:
# its source package does not build against a current TensorFlow as it is (docs/install.md).
HOROVOD_NEEDS = ["cloudpickle>=3", "packaging>=23", "psutil>=5.9", "pyyaml>=6"]

EXTRAS = {
    "worker": [
        # The CPU package exists for x86-64 only; elsewhere `tensorflow` is the package without CUDA.
        "tensorflow-cpu>=2.21,<2.22; platform_machine == 'x86_64'",
        "tensorflow>=2.21,<2.22; platform_machine != 'x86_64'",
        "keras>=3.12,<4",
        "safetensors>=0.4.3",
        *HOROVOD_NEEDS,
    ],
    "worker-gpu": ["tensorflow[and-cuda]>=2.21,<2.22", "keras>=3.12,<4", "safetensors>=0.4.3", *HOROVOD_NEEDS],
    "parquet": ["pyarrow>=21"],
    "sql": ["psycopg[binary]>=3.2", "pymysql[rsa]>=1.1", "sqlalchemy>=2.0.36", "sqlglot>=30"],
    "gcs": ["gcsfs>=2024.6"],
    "s3": ["s3fs>=2025.2"],
    "kubernetes": ["cryptography>=42", "kubernetes>=31,<37", "pyyaml>=6"],
    "docker": ["docker>=7.1"],
    "demo": ["scikit-learn>=1.5"],
    "bench": ["matplotlib>=3.9"],
}
TOOLS = [
    # What s3fs brings anyway; named so that pip takes its one botocore first, instead of trying hundreds for moto.
    "aiobotocore>=2.19",
    "axe-playwright-python>=0.1.4",
    "gcp-storage-emulator>=2024.8.3",
    "hypothesis>=6.100",
    "import-linter>=2.5",
    "ipykernel>=6.29",
    "jsonschema>=4.23",
    "moto[server]>=5",
    "mypy>=1.15",
    "nbclient>=0.10",
    "openapi-spec-validator>=0.7.1",
    "playwright>=1.49",
    "pytest>=8.3",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.6",
    "ruff>=0.11",
    "types-docker",
    "types-grpcio",
    "types-jsonschema",
    "types-protobuf",
    "types-psutil",
    "types-PyYAML",
    "types-setuptools",
]
USED_IN_TESTS = ("parquet", "sql", "gcs", "s3", "kubernetes", "docker", "demo", "bench")
EXTRAS["dev"] = [*TOOLS, *(line for name in USED_IN_TESTS for line in EXTRAS[name])]

setup(
    name="edl_allreduce",
    version=VERSION[1],
    description="Elastic allreduce training for TensorFlow and Keras on Horovod",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    packages=find_packages(include=[name + rest for name in PACKAGES for rest in ("", ".*")]),
    include_package_data=True,
    install_requires=[
        "cramjam>=2.8",
        "fire>=0.6",
        "fsspec>=2024.6",
        "google-crc32c>=1.6",
        "grpcio>=1.73.1",
        "isal>=1.7",
        "numpy>=1.26",
        "prometheus-client>=0.21",
        "protobuf>=6.31,<8",
        "psutil>=5.9",
        "rich>=13.7",
        "starlette>=0.41",
        "tensorboardX>=2.6",
        "uvicorn>=0.32",
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["edl = launcher.cli:main"]},
)
