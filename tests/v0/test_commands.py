"""`trimtab v0` from files to files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from trainables.value_models.records import Row, write_rows
from trimtab.cli.main import main


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Additions; longer numbers are harder, and the large model is better."""
    folder = tmp_path_factory.mktemp("logs")
    rng = np.random.default_rng(0)
    texts = {
        f"add_{i}": f"{rng.integers(10 ** (i % 4 + 1))}+{rng.integers(10 ** (i % 4 + 1))}="
        for i in range(160)
    }
    (folder / "prompts.json").write_text(json.dumps(texts))
    for model, skill in (("small", 6.0), ("large", 7.0)):
        for step in (1, 2):
            rows = []
            for i in range(120):
                p = 1 / (1 + np.exp(len(texts[f"add_{i}"]) - skill - step / 2))
                rows.append(Row("add", str(i), model, step, 2 * rng.binomial(8, p) / 8 - 1, 8))
            write_rows(folder / f"{model}-{step}.jsonl", rows)
    return folder


def trimtab(*args: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["v0", *map(str, args)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def test_fit_predict_route_eval(logs: Path, tmp_path: Path) -> None:
    records = sorted(logs.glob("*.jsonl"))
    common = ["--prompts", logs / "prompts.json", "--cache", tmp_path / "cache"]
    code, text = trimtab("fit", *records, *common, "--out", tmp_path / "head", "--encoder", "none")
    assert code == 0, text
    assert "fitted gp on 480 rows of 4 policies, 120 prompts" in text

    ask = ["predict", tmp_path / "head", *common, "--context", logs / "small-2.jsonl"]
    code, text = trimtab(*ask, "--out", tmp_path / "p.jsonl")
    assert code == 0, text
    found = {p["key"]: p["p"] for p in map(json.loads, (tmp_path / "p.jsonl").read_text().splitlines())}
    assert len(found) == 160
    new = [[found[f"add_{i}"] for i in range(120, 160) if i % 4 == d] for d in range(4)]
    means = [np.mean(group) for group in new]
    assert means == sorted(means, reverse=True)
    code, text = trimtab(*ask, "--id", "add_7")
    assert (code, json.loads(text)["key"]) == (0, "add_7")

    code, text = trimtab(
        "route",
        tmp_path / "head",
        logs / "small-2.jsonl",
        logs / "large-2.jsonl",
        *common,
        "--costs",
        "1,5",
        "--out",
        tmp_path / "r.jsonl",
    )
    assert code == 0, text
    assert "small step 2 100%" in text
    assert "large step 2" in text
    assert len((tmp_path / "r.jsonl").read_text().splitlines()) == 11 * 40

    code, text = trimtab(
        "eval", *records, *common, "--encoder", "none", "--sizes", "16,512", "--heads", "mean,gp"
    )
    assert code == 0, text
    assert "512 (96 there)" in text
    rates = {
        line.split()[0]: float(line.split("there)")[1].split()[0])
        for line in text.splitlines()
        if "there" in line
    }
    assert rates["gp"] > 0.8 > rates["mean"]


def test_bad_input_is_one_message(logs: Path, tmp_path: Path) -> None:
    record, common = logs / "small-1.jsonl", ["--prompts", logs / "prompts.json", "--cache", tmp_path / "c"]
    out = ["--out", tmp_path / "h", "--encoder", "none"]
    flat = tmp_path / "flat.jsonl"
    write_rows(flat, [Row("add", str(i), "flat", 3, 1.0) for i in range(5)])
    strange = tmp_path / "strange.jsonl"
    write_rows(strange, [Row("add", str(900 + i), "m", 3, i / 4) for i in range(4)])
    sure = tmp_path / "sure.jsonl"
    write_rows(sure, [Row("add", str(i), "sure", 3, i / 4) for i in range(5)])
    broken = tmp_path / "broken.jsonl"
    broken.write_text(record.read_text() + "{\n")
    code, _ = trimtab("fit", record, logs / "small-2.jsonl", *common, *out)
    assert code == 0
    for args, words in (
        (("fit", flat, *common, *out), ["flat.jsonl:1: ", "flat at step 3", "all 5 rows score 1"]),
        (("fit", strange, *common, *out), ["strange.jsonl:1: ", "no text for 4 prompt(s)", "add_900"]),
        (("fit", broken, *common, *out), ["broken.jsonl:121", "not JSON"]),
        (("fit", record, *common, *out), ["no past", "calibration"]),
        (("fit", record, *common, *out, "--head", "oracle"), ["'oracle' is unknown"]),
        (("fit", record, *common, *out, "--layers", "x"), ["--layers", "'x'"]),
        (("eval", record, *common, "--encoder", "none", "--sizes", "0"), ["context sizes"]),
        (("eval", sure, *common, "--encoder", "none"), ["sure at step 3", "all 5 rows are right"]),
        (("predict", tmp_path / "absent", *common, "--context", record), ["no fitted head"]),
        (("predict", tmp_path / "h", *common, "--context", record, "--id", "add_x"), ["no prompt 'add_x'"]),
        (("route", tmp_path / "h", record, *common, "--costs", "1"), ["at least two"]),
        (("route", tmp_path / "h", record, *common, "--costs", "a"), ["--costs", "'a'"]),
    ):
        code, text = trimtab(*args)
        assert code == 2, (args, text)
        assert all(word in text for word in words), text
    two = tmp_path / "two.jsonl"
    two.write_text(record.read_text() + (logs / "large-1.jsonl").read_text())
    code, text = trimtab("predict", tmp_path / "h", *common, "--context", two)
    assert (code, "two.jsonl:121: rows of 2 policies" in text) == (2, True), text
