"""New data for a trained run: every command finds the columns by their names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lowerbound.cli import main
from tests.cli.conftest import Command

# what is ignored, and what is taken by position, is said as a note
pytestmark = pytest.mark.filterwarnings("default")

RNG = np.random.default_rng(0)
HEIGHT = 170 + 8 * RNG.normal(size=80)
SHARE = 0.7 + 0.1 * RNG.normal(size=80) + 0.005 * (HEIGHT - 170)
KIND = np.array(["oak", "elm", "fir"])[RNG.integers(0, 3, 80)]


def write(path: Path, **columns: object) -> Path:
    lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values()))]  # noqa: B905
    path.write_text("\n".join([*lines, ""]))
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("names")
    path = write(folder / "t.csv", height=HEIGHT, share=SHARE, kind=KIND)
    options = ["--data.categorical", "[kind]", "--data.missing", "marginalise", "--latent", "2"]
    code = main(
        ["train", str(path), *options, "--epochs", "3", "--out", str(folder / "run"), "--quiet"]
    )
    assert code == 0
    write(folder / "moved.csv", kind=KIND, share=SHARE, height=HEIGHT)
    write(folder / "more.csv", id=[f"r{i}" for i in range(80)], kind=KIND, share=SHARE,
          height=HEIGHT)  # fmt: skip
    write(folder / "renamed.csv", Height=HEIGHT, share=SHARE, kind=KIND)
    write(folder / "fewer.csv", share=SHARE, kind=KIND)
    return folder


@pytest.mark.parametrize(
    "verb",
    [
        ("evaluate", "--samples", 20),
        ("gaps", "-n", 2, "--steps", 2, "--chains", 1, "--temperatures", 3),
        ("score", "--samples", 20, "--out", "{}.npy"),
        ("encode", "--out", "{}.npy"),
        ("reconstruct", "--out", "{}.npy"),
    ],
    ids=lambda verb: verb[0],
)
def test_every_verb_matches_by_name(run: Path, command: Command, verb: tuple[object, ...]) -> None:
    results = {}
    for name in ("t", "moved", "more", "renamed", "fewer"):
        argv = [str(word).format(name) for word in verb]
        results[name] = command(argv[0], run / "run", run / f"{name}.csv", *argv[1:])
    for name in ("moved", "more"):
        assert results[name][0] == results["t"][0] == 0
        if "--out" in verb:
            assert np.array_equal(np.load("t.npy"), np.load(f"{name}.npy"))
        else:
            assert results[name][1] == results["t"][1]
    assert not results["moved"][2].count("note")
    assert "more.csv: ignored the column id, which the model was not" in results["more"][2]
    for name, message in (
        ("renamed", "lacks the column 'height' (did you mean 'Height'?); its columns: Height"),
        ("fewer", "lacks the column 'height'; its columns: share, kind"),
    ):
        code, _, err = results[name]
        assert (code, len(err.splitlines())) == (2, 1)
        assert message in err


def test_what_is_imputed_stands_below_its_name(run: Path, command: Command) -> None:
    gaps = np.where(np.arange(80) % 2, HEIGHT, np.nan)
    path = write(Path("gaps.csv"), share=SHARE, height=gaps, kind=KIND)
    assert command("impute", run / "run", path, "--out", "full.csv", "--samples", 50)[0] == 0
    header, *rows = Path("full.csv").read_text().splitlines()
    assert header == "height,share,kind"
    filled = np.array([float(row.split(",")[0]) for row in rows])
    assert np.abs(filled[1::2] - HEIGHT[1::2]).max() < 1e-4
    # with heights of 170 and shares of 0.7, either in the place of the other would show
    assert 140 < filled[::2].min() < filled[::2].max() < 200
    assert [row.split(",")[2] for row in rows] == KIND.tolist()


def test_without_names_by_position_said_once(run: Path, command: Command) -> None:
    train = ("train", run / "t.csv", "--data.ignore", "[kind]", "--epochs", 1, "--quiet")
    assert command(*train, "--out", "numbers")[0] == 0
    np.save("plain.npy", np.stack([HEIGHT, SHARE], 1))
    np.savetxt("plain.csv", np.stack([HEIGHT, SHARE], 1), delimiter=",", fmt="%s")
    found = []
    for name in ("plain.npy", "plain.csv", run / "t.csv"):
        code, _, err = command("score", "numbers", name, "--out", "a.npy", "--samples", 20)
        assert code == 0
        said = f"{name} has no names of columns, so they are taken by position: height, share"
        assert err.count(said) == err.count("note") == (name != run / "t.csv")
        found.append(np.load("a.npy"))
    assert np.allclose(found[0], found[2])
    assert np.allclose(found[1], found[2])


def test_a_table_of_classes_is_trained_with_a_likelihood_of_them(
    run: Path, command: Command
) -> None:
    code, out, err = command(
        "train", run / "t.csv", "--data.categorical", "[kind]", "--epochs", 1, "--out", "again",
        "--samples", 5, "--no-report",
    )  # fmt: skip
    assert code == 0
    assert "likelihood: Product, since kind holds classes" in out
    assert "part: Categorical" in out
    assert command("sample", "again", "-n", 200, "--out", "s.csv")[0] == 0
    labels = {line.split(",")[2] for line in Path("s.csv").read_text().splitlines()[1:]}
    assert labels == {"oak", "elm", "fir"}
    code, _, err = command(
        "train", run / "t.csv", "--data.categorical", "[kind]", "--likelihood", "Normal",
        "--out", "none",
    )  # fmt: skip
    assert code == 2
    assert "Normal is no likelihood of classes, which the column 'kind' (elm, fir, oak)" in err
    assert "--likelihood Product" in err
    assert not Path("none").exists()


def test_a_mean_over_three_classes_is_no_label(run: Path, command: Command) -> None:
    code, _, err = command("sample", run / "run", "-n", 30, "--mean", "--out", "m.csv")
    assert code == 2
    assert "column 'kind' holds classes (elm, fir, oak), and " in err
    assert "is none of them" in err
