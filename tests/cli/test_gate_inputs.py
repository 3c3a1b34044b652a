"""Every kind of input gives the verdict, and all the numbers, that the plain CSV gives."""

from __future__ import annotations

import gzip
import http.server
import json
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas
import polars
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from lightning_flip import gate
from lightning_flip.cli import main
from lightning_flip.reports import gate_json
from lightning_flip.stores import read_predictions

COUNT = 200
LIMITS = ["--max-nfr", "8%", "--max-nfr-per-class", "50%", "--max-nfr-per-slice", "50%", "--slice", "site"]


def predictions(seed: int) -> dict[str, Any]:
    """Rows whose confidences are exact in 32 bits."""
    rng = np.random.default_rng(seed)
    target = np.random.default_rng(0).integers(0, 3, COUNT)
    wrong = np.random.default_rng(1).random(COUNT) < 0.1  # of both models
    pred = np.where(wrong | (rng.random(COUNT) < 0.05), (target + 1) % 3, target)
    return {
        "sample_id": [str(number) for number in range(COUNT)],
        "target": target.tolist(),
        "pred": pred.tolist(),
        "confidence": (rng.integers(128, 256, COUNT) / 256).tolist(),
        "site": [f"site {number % 2}" for number in range(COUNT)],
    }


def one_hot(columns: dict[str, Any]) -> np.ndarray:
    """Probabilities [R, 3] of which the largest is the confidence."""
    top = np.array(columns["confidence"], np.float32)
    probs = np.repeat((1 - top[:, None]) / 2, 3, axis=1)
    probs[np.arange(COUNT), columns["pred"]] = top
    return probs


def without(columns: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: values for name, values in columns.items() if name not in names}


def write_csv(columns: dict[str, Any], path: Path, **options: Any) -> str:
    pandas.DataFrame(columns).to_csv(path, index=False, **options)
    return str(path)


def write_jsonl(columns: dict[str, Any], path: Path, between: str = "\n") -> str:
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    path.write_text(between.join(map(json.dumps, rows)) + "\n")
    return str(path)


def write_parquet(columns: dict[str, Any], path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=70)
    return str(path)


def write_stream(columns: dict[str, Any], path: Path) -> str:
    table = pa.table(columns)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=70)
    return str(path)


def write_feather(columns: dict[str, Any], path: Path) -> str:
    pyarrow.feather.write_feather(pa.table(columns), str(path), compression="lz4", chunksize=70)
    return str(path)


def write_npz(columns: dict[str, Any], path: Path) -> str:
    np.savez(path, **{name: np.array(values) for name, values in columns.items()})
    return str(path)


def write_gzip(columns: dict[str, Any], path: Path, **options: Any) -> str:
    with gzip.open(path, "wt") as file:
        pandas.DataFrame(columns).to_csv(file, index=False, **options)
    return str(path)


def write_folder(columns: dict[str, Any], folder: Path) -> str:
    """Partitioned by site, as Hive, Spark and DuckDB write it, with what they leave beside; rows change their order."""
    for site in ("site 0", "site 1"):
        rows = [row for row, value in enumerate(columns["site"]) if value == site]
        part = {name: [values[row] for row in rows] for name, values in columns.items() if name != "site"}
        write_parquet(part, folder / f"site={site.replace(' ', '%20')}" / "part-0.parquet")
    (folder / "_SUCCESS").touch()
    (folder / ".part-0.parquet.crc").write_bytes(b"crc")
    return str(folder)


def write_glob(columns: dict[str, Any], folder: Path) -> str:
    """Two files; the labels of the second have another type, as pandas has it where one was missing."""
    first = {name: values[:90] for name, values in columns.items()}
    second = {name: values[90:] for name, values in columns.items()}
    second |= {"target": pa.array(second["target"], pa.float64()), "sample_id": pa.array(map(int, second["sample_id"]))}
    write_parquet(first, folder / "a.parquet")
    write_parquet(second, folder / "b.parquet")
    (folder / "notes.txt").write_text("not a part")
    return str(folder / "*.parquet")


def write_memory(columns: dict[str, Any], path: Path) -> str:
    url = f"memory://{path}"
    with fsspec.open(url, "wb") as file:
        pq.write_table(pa.table(columns), file)
    return url


def write_memory_folder(columns: dict[str, Any], path: Path) -> str:
    half = {name: values[:90] for name, values in columns.items()}
    write_memory(half, path / "a.parquet")
    return write_memory({name: values[90:] for name, values in columns.items()}, path / "b.parquet").removesuffix(
        "/b.parquet"
    )


def write_excel(columns: dict[str, Any], path: Path) -> str:
    return write_csv(columns, path, sep=";", decimal=",", encoding="utf-8-sig", lineterminator="\r\n")


def write_announced(columns: dict[str, Any], path: Path) -> str:
    text = pandas.DataFrame(columns).to_csv(index=False, sep=";")
    path.write_bytes(b"\xef\xbb\xbfsep=;\r\n" + text.encode())
    return str(path)


KINDS: dict[str, Callable[[dict[str, Any], Path], str]] = {
    "csv with a byte order mark": lambda columns, path: write_csv(columns, path / "p.csv", encoding="utf-8-sig"),
    "csv.gz": lambda columns, path: write_gzip(columns, path / "p.csv.gz"),
    "csv of a European spreadsheet": lambda columns, path: write_excel(columns, path / "p.csv"),
    "csv that announces its separator": lambda columns, path: write_announced(columns, path / "p.csv"),
    "csv with semicolons and decimal points": lambda columns, path: write_csv(columns, path / "p.csv", sep=";"),
    "csv with tabs": lambda columns, path: write_csv(columns, path / "p.csv", sep="\t"),
    "tsv": lambda columns, path: write_csv(columns, path / "p.tsv", sep="\t"),
    "tsv.gz": lambda columns, path: write_gzip(columns, path / "p.tsv.gz", sep="\t"),
    "jsonl": lambda columns, path: write_jsonl(columns, path / "p.jsonl"),
    "jsonl with blank lines": lambda columns, path: write_jsonl(columns, path / "p.ndjson", "\n\n"),
    "jsonl.gz": lambda columns, path: str(
        Path(write_jsonl(columns, path / "p")).rename(path / "q")
        and (path / "p.jsonl.gz").write_bytes(gzip.compress((path / "q").read_bytes()))
        and path / "p.jsonl.gz"
    ),
    "parquet": lambda columns, path: write_parquet(columns, path / "p.parquet"),
    "partitioned folder": lambda columns, path: write_folder(columns, path / "preds.parquet"),
    "glob": lambda columns, path: write_glob(columns, path / "preds"),
    "arrow file": lambda columns, path: write_feather(columns, path / "p.arrow"),
    "arrow stream": lambda columns, path: write_stream(columns, path / "p.arrow"),
    "feather": lambda columns, path: write_feather(columns, path / "p.feather"),
    "npz": lambda columns, path: write_npz(columns, path / "p.npz"),
    "file URL": lambda columns, path: f"file://{write_parquet(columns, path / 'p.parquet')}",
    "memory URL": lambda columns, path: write_memory(columns, path / "p.parquet"),
    "memory folder": write_memory_folder,
    "memory glob": lambda columns, path: write_memory_folder(columns, path) + "/*.parquet",
    "a name that looks like a glob": lambda columns, path: write_csv(columns, path / "p[1].csv"),
}
# The same rows with ids of other types: the expected text of each id, and the column.
ID_TYPES: dict[str, Callable[[int], tuple[str, Any]]] = {
    "uint64": lambda number: (str(2**64 - 1 - number), 2**64 - 1 - number),
    "uuid": lambda number: (str(uuid.UUID(int=number << 64)), uuid.UUID(int=number << 64)),
    "decimal": lambda number: (str(10**25 + number), Decimal(10**25 + number)),
    "decimal with a scale": lambda number: (str(number), Decimal(number).quantize(Decimal("0.01"))),
}
DERIVED: dict[str, Callable[[dict[str, Any], Path], str]] = {
    "lists of logits": lambda columns, path: write_parquet(
        without(columns, "pred", "confidence") | {"logits": np.log(one_hot(columns)).tolist()}, path / "p.parquet"
    ),
    "lists of probabilities in jsonl": lambda columns, path: write_jsonl(
        without(columns, "pred", "confidence") | {"probs": one_hot(columns).tolist()}, path / "p.jsonl"
    ),
    "an array of probabilities": lambda columns, path: write_npz(
        without(columns, "pred", "confidence") | {"probabilities": one_hot(columns)}, path / "p.npz"
    ),
    "best classes": lambda columns, path: write_stream(
        without(columns, "pred", "confidence")
        | {"top_classes": [[pred, (pred + 1) % 3] for pred in columns["pred"]]}
        | {"top_probs": [[top, (1 - top) / 2] for top in columns["confidence"]]},
        path / "p.arrow",
    ),
    "one column per class in csv": lambda columns, path: write_csv(
        without(columns, "pred", "confidence") | {f"prob_{k}": one_hot(columns)[:, k] for k in (2, 0, 1)},
        path / "p.csv",
    ),
    "one column per class, decimal commas": lambda columns, path: write_excel(
        without(columns, "pred", "confidence") | {f"prob_{k}": one_hot(columns)[:, k] for k in range(3)}, path / "p.csv"
    ),
    "one column of logits per class": lambda columns, path: write_parquet(
        without(columns, "pred", "confidence") | {f"logit_{k}": np.log(one_hot(columns)[:, k]) for k in range(3)},
        path / "p.parquet",
    ),
}


def plain(columns: dict[str, Any], folder: Path) -> str:
    folder.mkdir(exist_ok=True)
    return write_csv(columns, folder / "plain.csv")


def judged(old: str, new: str, out: Path) -> tuple[int, dict[str, Any]]:
    """The exit status, and what the JSON of a gate has but names."""
    status = main(["gate", "--old", old, "--new", new, *LIMITS, "--json", str(out)])
    return status, numbers(out)


def numbers(out: Path) -> dict[str, Any]:
    return {name: value for name, value in json.loads(out.read_text()).items() if name not in ("old", "new")}


def assert_same_rows(place: str, csv: str) -> None:
    """What is read is the same, in any order, also the confidences and slices that no limit needs."""
    found, expected = (read_predictions(one, columns=["site"]).rows.sort_by("sample_id") for one in (place, csv))
    names = ["sample_id", "target", "pred", "confidence", "site"]
    assert found.select(names[:3]).equals(expected.select(names[:3]))
    assert found["site"].to_pylist() == expected["site"].to_pylist()
    np.testing.assert_allclose(found["confidence"].to_numpy(), expected["confidence"].to_numpy(), rtol=1e-6)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    return tmp_path / "old", tmp_path / "new"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_the_result_of_the_plain_csv(kind: str, folders: tuple[Path, Path], tmp_path: Path) -> None:
    old, new = predictions(1), predictions(2)
    expected = judged(plain(old, tmp_path / "a"), plain(new, tmp_path / "b"), tmp_path / "plain.json")
    assert expected[1]["samples"] == COUNT
    found = judged(KINDS[kind](old, folders[0]), KINDS[kind](new, folders[1]), tmp_path / "kind.json")
    assert found == expected
    assert_same_rows(KINDS[kind](new, folders[1]), plain(new, tmp_path / "b"))
    # and beside a file of another kind
    assert judged(plain(old, tmp_path / "a"), KINDS[kind](new, folders[1]), tmp_path / "kind.json") == expected


@pytest.mark.parametrize(
    ("kind", "option"),
    [
        *((kind, "--new") for kind in ("csv", "csv.gz", "jsonl", "parquet", "arrow file", "arrow stream", "npz")),
        ("csv", "--old"),
    ],
)
def test_standard_input_tells_its_format(kind: str, option: str, folders: tuple[Path, Path], tmp_path: Path) -> None:
    old, new = plain(predictions(1), tmp_path / "a"), plain(predictions(2), tmp_path / "b")
    expected = judged(old, new, tmp_path / "plain.json")
    piped = predictions(1 if option == "--old" else 2)
    path = plain(piped, folders[0]) if kind == "csv" else KINDS[kind](piped, folders[0])
    places = {"--old": old, "--new": new} | {option: "-"}
    words = [word for pair in places.items() for word in pair]
    command = [sys.executable, "-m", "lightning_flip.cli", "gate", *words, *LIMITS, "--json", str(tmp_path / "p.json")]
    with open(path, "rb") as content, subprocess.Popen(["cat"], stdin=content, stdout=subprocess.PIPE) as pipe:
        done = subprocess.run(command, stdin=pipe.stdout, capture_output=True, text=True)
    assert done.returncode == expected[0], done.stderr
    assert numbers(tmp_path / "p.json") == expected[1]
    assert json.loads((tmp_path / "p.json").read_text())[option.removeprefix("--")] == "standard input"


@pytest.mark.parametrize("kind", ID_TYPES)
@pytest.mark.parametrize("table", ["parquet", "arrow", "pandas", "polars"])
def test_ids_of_every_type_have_the_result_of_the_plain_csv(kind: str, table: str, tmp_path: Path) -> None:
    texts, values = zip(*(ID_TYPES[kind](number) for number in range(COUNT)), strict=True)
    old = plain(predictions(1) | {"sample_id": texts}, tmp_path / "a")
    new = predictions(2) | {"sample_id": list(values)}
    expected = judged(old, plain(new | {"sample_id": texts}, tmp_path / "b"), tmp_path / "plain.json")
    if table in ("pandas", "polars"):
        frame = (pandas.DataFrame if table == "pandas" else polars.DataFrame)(new)
        result = gate(old, frame, max_nfr=0.08, max_nfr_per_class=0.5, max_nfr_per_slice=0.5, slices=["site"])
        (tmp_path / "kind.json").write_text(gate_json(result))
        assert numbers(tmp_path / "kind.json") == expected[1]
    else:
        new["sample_id"] = pa.array(values, pa.uint64() if kind == "uint64" else None)
        write = write_parquet if table == "parquet" else write_stream
        assert judged(old, write(new, tmp_path / f"p.{table}"), tmp_path / "kind.json") == expected


def test_ids_of_64_bits_in_json(tmp_path: Path) -> None:
    ids = [2**64 - 1, 5, 2**63]
    path = write_jsonl({"sample_id": ids, "target": [0, 1, 2], "pred": [0, 1, 1]}, tmp_path / "p.jsonl")
    assert read_predictions(path).rows["sample_id"].to_pylist() == [*map(str, ids)]


@pytest.mark.parametrize("kind", DERIVED)
def test_derived_predictions_have_the_result_of_the_plain_csv(
    kind: str, folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = predictions(1), predictions(2)
    status, expected = judged(plain(old, tmp_path / "a"), plain(new, tmp_path / "b"), tmp_path / "plain.json")
    capsys.readouterr()
    derived = DERIVED[kind](new, folders[1])
    found = judged(plain(old, tmp_path / "a"), derived, tmp_path / "kind.json")
    assert expected.pop("warnings") == []
    (warning,) = found[1].pop("warnings")
    assert warning.startswith(f"{derived} has no column 'pred'; the prediction is the ")
    assert warning.endswith("with its probability as the confidence.")
    assert "has no column 'pred'" in " ".join(capsys.readouterr().out.split())
    assert found[0] == status
    assert found[1] == expected
    assert_same_rows(derived, plain(new, tmp_path / "b"))


def test_standard_input_is_one_file(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["gate", "--old", "-", "--new", "-", *LIMITS, "--json", str(tmp_path / "gate.json")])
    assert "--old and --new are both -, but standard input holds one file" in capsys.readouterr().err
    assert json.loads((tmp_path / "gate.json").read_text())["status"] == "error"


@pytest.mark.parametrize("content", [b"", gzip.compress(b"", mtime=0), b"\x1f\x8bbroken", b"PAR1broken", b"\n"])
def test_standard_input_without_predictions(content: bytes, tmp_path: Path) -> None:
    new = plain(predictions(2), tmp_path)
    words = ["gate", "--old", "-", "--new", new, *LIMITS, "--json", str(tmp_path / "gate.json")]
    done = subprocess.run([sys.executable, "-m", "lightning_flip.cli", *words], input=content, capture_output=True)
    assert done.returncode == 2
    assert b"standard input" in done.stderr
    assert b"Traceback" not in done.stderr
    assert json.loads((tmp_path / "gate.json").read_text())["status"] == "error"


@pytest.mark.parametrize("kind", ["partitioned folder", "glob", "file URL", "a name that looks like a glob"])
def test_an_output_among_the_inputs_is_refused(
    kind: str, folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = KINDS[kind](predictions(1), folders[0]), KINDS[kind](predictions(2), folders[1])
    inputs = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    inside = {
        "partitioned folder": [f"{new}/gate.json", f"{old}/site=site%200/part-0.parquet"],
        "glob": [new.replace("*", "b"), old.replace("*", "gate")],
        "file URL": [new.removeprefix("file://")],
        "a name that looks like a glob": [new],
    }[kind]
    for place in inside:
        with pytest.raises(SystemExit, match="2"):
            main(["gate", "--old", old, "--new", new, *LIMITS, "--json", place])
        assert f"--json would overwrite {place}, which is read" in " ".join(capsys.readouterr().err.split())
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == inputs
    # what is beside them is no input, also if the gate ends with an error
    assert main(["gate", "--old", old, "--new", new, *LIMITS, "--json", str(folders[1] / "gate.json")]) in (0, 1, 3)
    words = ["gate", "--old", old, "--new", new, *LIMITS, "--id-column", "none"]
    assert main([*words, "--json", str(folders[1] / "gate.json")]) == 2
    assert json.loads((folders[1] / "gate.json").read_text())["status"] == "error"


@pytest.mark.parametrize("command", ["compare", "report"])
def test_the_other_commands_read_the_same_kinds(command: str, folders: tuple[Path, Path], tmp_path: Path) -> None:
    old, new = KINDS["partitioned folder"](predictions(1), folders[0]), KINDS["jsonl.gz"](predictions(2), folders[1])
    floor = KINDS["memory glob"](predictions(3), tmp_path / "floor")
    out = tmp_path / "update.html"
    words = [command, "--old", old, "--new", new, "--floor", floor, "--slice", "site"]
    assert main([*words, "--json" if command == "compare" else "--out", str(out)]) == 0
    flips = sum(
        old == target != new
        for target, old, new in zip(
            predictions(1)["target"], predictions(1)["pred"], predictions(2)["pred"], strict=True
        )
    )
    expected = f'"count": {flips}' if command == "compare" else f"The update breaks {flips} of"
    assert expected in out.read_text()


@pytest.mark.parametrize("inside", ["", "page", "page.html"])
def test_a_page_among_the_inputs_is_refused(
    inside: str, folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = KINDS["partitioned folder"](predictions(1), folders[0]), KINDS["csv.gz"](predictions(2), folders[1])
    with pytest.raises(SystemExit, match="2"):
        main(["report", "--old", old, "--new", new, "--out", str(Path(old, inside))])
    assert "which is read; name another" in capsys.readouterr().err
    assert sorted(path.name for path in Path(old).iterdir() if path.name[0] not in "._") == [
        "site=site%200",
        "site=site%201",
    ]


@pytest.fixture
def server() -> Iterator[tuple[str, dict[str, bytes]]]:
    """A web server on this machine, as (its address, the files it has); others are forbidden."""
    files: dict[str, bytes] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = files.get(self.path)
            self.send_response(403 if content is None else 200)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content or b"")

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{running.server_port}", files
        running.shutdown()


def test_secrets_of_urls_are_not_shown(
    server: tuple[str, dict[str, bytes]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address, files = server
    old, new = plain(predictions(1), tmp_path / "a"), plain(predictions(2), tmp_path / "b")
    expected = judged(old, new, tmp_path / "plain.json")
    files["/new.csv?X-Signature=qqzz"] = Path(new).read_bytes()
    capsys.readouterr()
    out = tmp_path / "gate.json"
    assert judged(old, f"http://user:xxyy@{address}/new.csv?X-Signature=qqzz", out) == expected
    assert json.loads(out.read_text())["new"] == f"http://{address}/new.csv"
    told = capsys.readouterr()
    words = ["gate", "--old", old, "--new", f"http://user:xxyy@{address}/no.csv?X-Signature=abc%2Fqqzz", *LIMITS]
    assert main([*words, "--json", str(out)]) == 2
    error = capsys.readouterr().err
    assert f"http://{address}/no.csv cannot be read as CSV (" in error
    assert "403" in error
    for text in (told.out, told.err, error, out.read_text()):
        assert "qqzz" not in text
        assert "xxyy" not in text
