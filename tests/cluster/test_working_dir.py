"""The files that are sent with a job: those that git would track, and no more than the limit."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from trimtab.errors import SecurityError, SpecError
from trimtab.remote.working_dir import collect, stage


def test_gitignore_is_read_as_git_reads_it(tmp_path: Path) -> None:
    files = {
        ".gitignore": "*.bin\nbuild/\n/top.txt\n!keep.bin\n",
        "a.py": "",
        "data.bin": "",
        "keep.bin": "",
        "top.txt": "",
        "build/x.py": "",
        "src/top.txt": "",
        "src/.gitignore": "*.log\n!data.bin\n",
        "src/data.bin": "",
        "src/run.log": "",
        "src/deep/run.log": "",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    listed = subprocess.run(
        ["git", "-C", tmp_path, "ls-files", "-co", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=True,
    )
    found = collect(tmp_path, 20)
    assert sorted(found.sizes) == sorted(listed.stdout.split())
    assert {"build/", "data.bin", ".git/"} <= set(found.left_out)


def test_over_the_limit_the_largest_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "weights.npy").write_bytes(b"0" * 1_500_000)
    (tmp_path / "small.py").write_text("x")
    with pytest.raises(SpecError, match=r"1\.5 MB in 2 files(.|\n)*1\.50 MB  weights\.npy"):
        collect(tmp_path, 1)


def test_secrets_stay_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_planted_value")
    for name in (".env", "server.pem", "id_rsa", "code.py"):
        (tmp_path / name).write_text("x")
    assert set(collect(tmp_path, 1).sizes) == {"code.py"}
    (tmp_path / "code.py").write_text("token = 'hf_planted_value'")
    with pytest.raises(SecurityError, match=r"code\.py holds the value of \$HF_TOKEN"):
        collect(tmp_path, 1)


def test_a_link_that_leads_out_is_refused(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "private").write_text("x")
    (tmp_path / "work" / "link").symlink_to(tmp_path / "private")
    with pytest.raises(SpecError, match="link out of"):
        collect(tmp_path / "work", 1)


def test_what_is_sent_is_what_was_listed(tmp_path: Path) -> None:
    (tmp_path / "from" / "pkg").mkdir(parents=True)
    (tmp_path / "from" / "pkg" / "m.py").write_text("x = 1\n")
    (tmp_path / "from" / ".gitignore").write_text("*.tmp\n")
    (tmp_path / "from" / "a.tmp").write_text("")
    (tmp_path / "to").mkdir()
    stage(collect(tmp_path / "from", 1), tmp_path / "to")
    sent = sorted(p.relative_to(tmp_path / "to").as_posix() for p in (tmp_path / "to").rglob("*"))
    assert sent == [".gitignore", "pkg", "pkg/m.py"]
