"""Doors: what comes from other people's files and programs does no more than be read."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import lowerbound as lb
from lowerbound.cli import main
from lowerbound.data.tables import text
from lowerbound.parallel.launch import meeting_point
from lowerbound.utils.messages import printable

RNG = np.random.default_rng(0)
POSIX = pytest.mark.skipif(os.name != "posix", reason="a shell closes the streams")


@pytest.mark.skipif(sys.platform != "linux", reason="where 127.0.0.2 is this machine too")
def test_processes_meet_on_the_loopback_interface_only() -> None:
    """A port on all interfaces answers at every address of the machine, this one at one."""
    with meeting_point() as port:
        socket.create_connection(("127.0.0.1", port), timeout=10).close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", port), timeout=10)


NASTY = "a\x1b[31m\x07\nlowerbound: error: all is well\x9b"


def test_what_moves_a_terminal_is_printed_escaped() -> None:
    assert printable(NASTY) == r"a\x1b[31m\x07\nlowerbound: error: all is well\x9b"
    assert printable("größe (µm) ± 日本") == "größe (µm) ± 日本"


@pytest.mark.parametrize("place", ["option", "value", "file", "column", "class", "command"])
def test_names_reach_the_terminal_escaped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    monkeypatch.chdir(tmp_path)
    quoted = NASTY.replace('"', "")
    Path("columns.csv").write_text(f'"{quoted}",b\n1,x\n', newline="")
    Path("classes.csv").write_text(
        "a,b\n" + "".join(f'{i},"{quoted if i % 2 else "c"}"\n' for i in range(40)), newline=""
    )
    argv = {
        "option": ["train", f"--{NASTY}", "1"],
        "value": ["train", "--epochs", NASTY],
        "file": ["train", f"{NASTY}.npy"],
        "column": ["train", "columns.csv", "--data.labels", f"{NASTY}?"],
        "class": ["train", "classes.csv", "--data.labels", "b", "--data.classes", "['c','d']"],
        "command": [NASTY],
    }[place]
    assert main(argv) == 2
    captured = capsys.readouterr()
    said = captured.out + captured.err
    assert not {"\x1b", "\x07", "\x9b"} & set(said)
    assert captured.err.count("\n") == 1


def test_a_run_folder_and_data_with_such_names_are_shown_escaped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    name = NASTY.replace("/", "")
    np.save(f"{name}.npy", RNG.normal(size=(40, 2)))
    settings = ["--epochs", "1", "--latent", "1", "--samples", "2", "--no-report"]
    assert main(["train", f"{name}.npy", "--out", name, *settings]) == 0
    assert main(["evaluate", name, "--samples", "2"]) == 0
    assert main(["sample", name, "--out", f"{name}.csv"]) == 0
    captured = capsys.readouterr()
    assert not {"\x1b", "\x07", "\x9b"} & set(captured.out + captured.err)
    assert r"\x1b[31m\x07\nlowerbound: error" in captured.out


FORMULAS = ("=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1:A9)", "\t=1+1", " =1+1")


def test_cells_that_a_spreadsheet_would_run_are_text() -> None:
    classes = [*FORMULAS, "-1.5", "+1e3", "rose"]
    codes = np.linspace(0, 1, len(classes))[:, None]
    x = np.concatenate([codes, -codes - 0.5], 1)
    table = text(x, ["=kind", "size"], {"=kind": classes})
    cells = [line.rpartition(",")[0].strip('"') for line in table.splitlines()]
    assert cells == ["'=kind", *(f"'{cell}" for cell in FORMULAS), "-1.5", "+1e3", "rose"]
    numbers = [float(line.rpartition(",")[2]) for line in table.splitlines()[1:]]
    assert numbers == pytest.approx(x[:, 1])
    assert all(number < 0 for number in numbers)  # which begin with -, and stay numbers
    left = text(x, ["=kind", "size"], {"=kind": classes}, formulas=True)
    cells = [line.rpartition(",")[0].strip('"') for line in left.splitlines()]
    assert cells == ["=kind", *classes]


def test_samples_are_safe_to_open_unless_asked_for_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_text("a,b\n" + "".join(f"{-i},={i % 2}+1\n" for i in range(60)))
    settings = ["--data.labels", "b", "--epochs", "1", "--latent", "1", "--samples", "2"]
    settings += ["--prior", "ConditionalNormal", "--posterior.condition", "y", "--no-report"]
    assert main(["train", "t.csv", "--out", "run", "--quiet", *settings]) == 0
    for option, expected in ([], {"'=0+1", "'=1+1"}), (["--formulas"], {"=0+1", "=1+1"}):
        assert main(["sample", "run", "--out", "s.csv", *option]) == 0
        rows = [line.split(",") for line in Path("s.csv").read_text().splitlines()[1:]]
        assert {row[-1] for row in rows} == expected
        assert all(np.isfinite(float(row[0])) for row in rows)
    assert "--formulas" in (main(["sample", "--help"]), capsys.readouterr().out)[1]


def test_no_name_is_not_the_folder_that_one_is_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for i in range(10):
        Image.fromarray(np.full((4, 4), i, np.uint8)).save(f"{i}.png")
    with pytest.raises(ValueError, match="the data's name is empty"):
        lb.data.load("")
    assert main(["train", "", "--epochs", "1"]) == 2
    assert len(lb.data.load(".", splits="all")["all"]) == 10


@pytest.mark.parametrize("what", ["a file outside", "a folder outside", "a folder inside", "none"])
def test_links_out_of_a_folder_of_pictures_are_not_followed(tmp_path: Path, what: str) -> None:
    for folder in ("pictures/a", "pictures/b", "private"):
        (tmp_path / folder).mkdir(parents=True)
        for i in range(6):
            Image.fromarray(np.full((4, 4), i, np.uint8)).save(tmp_path / folder / f"{i}.png")
    inside = tmp_path / "pictures" / "a" / "6.png"
    inside.symlink_to(tmp_path / "pictures" / "a" / "0.png")  # a link in the folder is a file of it
    assert len(lb.data.load(tmp_path / "pictures", splits="all")["all"]) == 13
    link, target = {
        "a file outside": ("a/7.png", tmp_path / "private" / "0.png"),
        "a folder outside": ("c", tmp_path / "private"),
        "a folder inside": ("c", tmp_path / "pictures" / "a"),
        "none": ("a/7.png", tmp_path / "pictures" / "gone.png"),
    }[what]
    (tmp_path / "pictures" / link).symlink_to(target)
    with pytest.raises(ValueError, match=r"is a link that .*such links are not followed"):
        lb.data.load(tmp_path / "pictures")


@POSIX
@pytest.mark.parametrize(
    ("redirection", "code"),
    [(">&-", 0), ("2>&-", 0), (">&- 2>&- <&-", 0), (">/dev/full", 2)],
)
def test_closed_and_full_streams(redirection: str, code: int) -> None:
    if "full" in redirection and not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    command = f'"{sys.executable}" -m lowerbound --help {redirection}'
    ended = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert ended.returncode == code
    assert ended.stderr == ("lowerbound: error: No space left on device\n" if code else "")


@POSIX
def test_what_is_said_is_not_written_into_a_file_that_got_the_number_of_a_closed_stream(
    tmp_path: Path,
) -> None:
    program = (
        "import os, sys; from lowerbound.cli import main; code = main(['--version']); "
        f"stream = open({str(tmp_path / 'file')!r}, 'wb'); "
        "assert stream.fileno() > 2, stream.fileno(); sys.exit(code)"
    )
    command = f'"{sys.executable}" -c "{program}" >&- 2>&-'
    assert subprocess.run(["sh", "-c", command], check=False).returncode == 0


def default_type() -> AbstractContextManager[None]:
    torch.set_default_dtype(torch.float64)
    return nullcontext()


def default_device() -> AbstractContextManager[None]:
    torch.set_default_device("meta")
    return nullcontext()


MODES = {
    "default type": default_type,
    "default device": default_device,
    "device": lambda: torch.device("meta"),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}


@pytest.fixture
def modes_are_put_back() -> object:
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)


X = np.random.default_rng(0).normal(size=(60, 3))


def built() -> lb.VAE:
    torch.manual_seed(0)
    return lb.VAE(
        lb.priors.StandardNormal((2,)),
        lb.posteriors.DiagonalNormal((3,), (2,)),
        lb.likelihoods.Normal((2,), (3,)),
    )


def numbers(model: lb.VAE) -> list[torch.Tensor]:
    data = lb.data.from_arrays(X)
    lb.fit(model, lb.objectives.ELBO(), data, epochs=2, progress=False)
    evaluation = lb.evaluate(model, data, samples=20)
    return [*model.state_dict().values(), evaluation.values["nll"], data["test"].values]


@pytest.mark.parametrize("mode", MODES)
def test_modes_of_torch_that_were_left_on_do_nothing(mode: str, modes_are_put_back: None) -> None:
    expected = numbers(built())
    model = built()
    with MODES[mode]():
        found = numbers(model)
        # and they are still on behind it
        is_on = {
            "default type": torch.get_default_dtype() == torch.float64,
            "default device": torch.get_default_device().type == "meta",
            "device": torch.get_default_device().type == "meta",
            "no_grad": not torch.is_grad_enabled(),
            "inference_mode": torch.is_inference_mode_enabled(),
            "autocast": torch.is_autocast_enabled("cpu"),
        }[mode]
    assert is_on
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("mode", "words"),
    [("device", "was built on the device meta"), ("inference_mode", "in torch.inference_mode")],
)
def test_a_model_that_such_a_mode_has_spoiled_is_refused(mode: str, words: str) -> None:
    with MODES[mode]():
        model = built()
    for call in (
        lambda: numbers(model),
        lambda: lb.evaluate(model, lb.data.from_arrays(X)),
    ):
        with pytest.raises(ValueError, match=words):
            call()
