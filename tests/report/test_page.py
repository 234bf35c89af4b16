"""The report: one file, no network, nothing unescaped, and it looks right in a real browser on a
laptop and on a phone.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.decomposition import PCA

import lowerbound as lb
from lowerbound.data.dataset import Dataset
from lowerbound.evaluation.evaluate import evaluate
from lowerbound.report.embedded import principal_components
from lowerbound.report.page import write_report
from lowerbound.runs.run import Run
from tests.conftest import make_model

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)


def reported(data: Dataset, out: Path, likelihood: str = "Normal", latent: int = 3) -> Path:
    model = make_model(data, latent, likelihood)
    lb.fit(model, lb.objectives.ELBO(), data, epochs=2, out=out, progress=False)
    return write_report(Run(out), model, data, evaluate(model, data, samples=3).as_json())


@pytest.fixture(scope="module")
def report(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return reported(digits, tmp_path_factory.mktemp("report") / "run", latent=2)


def test_it_is_one_file_that_asks_for_nothing(report: Path) -> None:
    page = report.read_text()
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!data:)""", page)
    assert not re.findall(r"url\(|@import|fetch\(|XMLHttpRequest|<link", page)
    assert "http://" not in re.sub(r"data:[^\"]*", "", page)


def test_it_shows_what_is_promised(report: Path) -> None:
    page = report.read_text()
    for heading in (
        "Originals and reconstructions", "Samples", "Training", "Evaluation", "Cost",
        "Traversals", "Interpolations",
        "The latent plane", "Codes", "Rate of each dimension", "Configuration",
    ):  # fmt: skip
        assert f"<h2>{heading}</h2>" in page
    assert page.count('type="range"') >= 1
    assert "±" in page
    assert "sha256" in page


@pytest.mark.parametrize(
    "x", [np.random.default_rng(0).normal(size=(60, 5)), np.random.default_rng(0).normal(size=60)]
)
def test_data_that_are_no_pictures_are_shown_as_lines(x: np.ndarray, tmp_path: Path) -> None:
    page = reported(lb.data.from_arrays(x), tmp_path / "run").read_text()
    assert "<h2>Originals and reconstructions</h2>" in page
    assert "image/png" not in page
    assert "image/svg+xml" in page


@pytest.mark.parametrize("dimensions", [3, 40, 700])
def test_the_plane_of_the_codes_is_that_of_their_principal_components(dimensions: int) -> None:
    torch.manual_seed(0)
    spread = 10 / torch.arange(1.0, dimensions + 1)
    z = torch.randn(300, dimensions) * spread + torch.randn(dimensions)
    places, shares = principal_components(z)
    fitted = PCA(2, svd_solver="full").fit(z.double().numpy())
    assert np.allclose(shares, fitted.explained_variance_ratio_, rtol=1e-3)
    assert np.allclose(places, fitted.transform(z.double().numpy()), atol=0.01 * float(spread[0]))


def test_a_y_of_several_values_colours_no_codes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    data = lb.data.from_arrays(rng.normal(size=(60, 5)), rng.normal(size=(60, 3)))
    assert "<h2>Codes</h2>" in reported(data, tmp_path / "run").read_text()


def test_names_from_outside_are_escaped(tmp_path: Path) -> None:
    evil = tmp_path / "<script>alert(1)</script> & co"
    (evil.parent / "<script>alert(1)<").mkdir(parents=True)
    np.save(tmp_path / "<b>x & y.npy", np.random.default_rng(0).random((40, 6, 6)))
    page = reported(
        lb.data.load(tmp_path / "<b>x & y.npy"), tmp_path / "<script>alert(1)<" / "run"
    ).read_text()
    assert "<b>x" not in page
    assert "&lt;b&gt;x &amp; y" in page
    assert page.count("<script>") == 1


def test_cross_entropy_is_not_shown_as_a_likelihood(digits: Dataset, tmp_path: Path) -> None:
    page = reported(digits, tmp_path / "run", "BinaryCrossEntropy").read_text()
    assert "−log p(x), nats" not in page
    assert "ELBO" not in re.sub(r"<pre>.*</pre>", "", page, flags=re.DOTALL)
    assert "no likelihood" in page


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine to render the page with")
@pytest.mark.parametrize(("width", "height"), [(1280, 2600), (500, 5200)])
def test_it_looks_right_in_a_real_browser(
    report: Path, width: int, height: int, tmp_path: Path
) -> None:
    """Nothing is cut off at the right, pictures are drawn, and sliders show a frame of a digit and
    not the whole strip.
    """
    flags = (  # noqa: SIM905
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
        "--disable-background-networking --disable-component-update --disable-sync "
        "--virtual-time-budget=3000"
    ).split(" ")
    common = [
        CHROMIUM,
        *flags,
        f"--user-data-dir={tmp_path / 'profile'}",
        f"--window-size={width},{height}",
    ]
    measured = tmp_path / "measured.html"
    script = """<script>addEventListener("load", () => setTimeout(() => {
        const wide = document.documentElement.scrollWidth - innerWidth;
        const blank = [...document.images].filter((i) => !i.naturalWidth).length;
        const frames = [...document.querySelectorAll(".frame")]
            .map((f) => f.clientWidth / f.clientHeight);
        document.title = JSON.stringify({ wide, blank, images: document.images.length, frames });
    }, 300));</script>"""
    measured.write_text(report.read_text().replace("</body>", script + "</body>"))
    done = subprocess.run(
        [*common, "--dump-dom", measured.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title is not None
    assert '"wide":0' in title[1] or '"wide":-' in title[1]
    assert '"blank":0' in title[1]
    frames = [float(v) for v in re.findall(r'"frames":\[([^\]]*)\]', title[1])[0].split(",")]
    assert all(0.7 < ratio < 1.4 for ratio in frames)  # one picture of a digit, not fifteen
    shot = tmp_path / "shot.png"
    subprocess.run(
        [*common, f"--screenshot={shot}", report.as_uri()],
        capture_output=True,
        timeout=120,
        check=True,
    )
    with Image.open(shot) as image:
        assert len(image.convert("RGB").getcolors(1 << 24)) > 200
