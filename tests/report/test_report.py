"""The page about a run or a sweep: what it says, that it is inert and self-contained, and what it does in a browser."""

import base64
import html
import json
import re
import time

import h5py
import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from microlatent.files import write_csv, write_json, write_text
from microlatent.report import page, values
from microlatent.report.latents import read_points
from microlatent.report.pictures import Album

EVIL = "<script>document.title='evil'</script>"


def write_run(folder, *, state="completed", epochs=6, score=0.2, num_codes=16, seed=0, evil=""):
    """Write a training run as a run folder holds it, with a picture and a latents table."""
    history = pd.DataFrame({"epoch": range(1, epochs + 1)})
    for i, term in enumerate(("total", "recon", "codes_used")):
        history[f"train_{term}"] = score * np.linspace(3, 1, epochs) + i
        history[f"val_{term}"] = score * np.linspace(3.2, 1, epochs) + i
    metrics = {"best_epoch": epochs, "best_score": score, "epochs": epochs, "best_val_recon": score, "best_val_total": score + 1}
    status = {"state": state, "started": "2026-01-02T03:04:05+0000", "seconds": 12.5}
    final = {"metrics": metrics | {"best_val_codes_used": 12.0, "parameters": 1234, "val_explained_variance": 0.625}}
    status |= final if state == "completed" else {"reason": "OSError: no"}
    write_json(status, folder / "status.json")
    model = {"name": "vqvae_z16", "latent_dim": 8, "num_codes": num_codes}
    config = {"name": f"cells{evil}", "seed": seed, "model": model, "data": {"name": "wells"}, "trainer": {"monitor": "recon"}}
    write_text(yaml.safe_dump(config), folder / "config.yaml")
    write_text(yaml.safe_dump([f"seed={seed}"]), folder / ".hydra" / "overrides.yaml")
    git = {"commit": "0123456789abcdef", "diff": "+one\n-two\n" if evil else "", "untracked": []}
    write_json({"command": ["train.py", f"seed={seed}", *([evil] if evil else [])], "git": git}, folder / "provenance.json")
    write_text(f"2026-01-02 03:04:05,678 WARNING one code died {evil}\n", folder / "log.txt")
    write_csv(history, folder / "history.csv")
    write_picture(folder / "figures" / "reconstructions.png", seed)
    return folder


def write_picture(path, seed=0, size=(300, 200)):
    """Write a picture that does not compress to nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8).astype(np.uint8)).save(path)


def write_latents(path, evil="", num=60):
    """Write an AnnData table as its file holds it."""
    rng = np.random.default_rng(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["X"] = rng.normal(size=(num, 5)).astype(np.float32)
        obs = file.create_group("obs")
        obs["patch"] = [f"A1/{i}{evil}" for i in range(num)]
        obs[f"size{evil}_um".replace("/", "-")] = rng.normal(size=num)
        well = obs.create_group("well")
        well["categories"], well["codes"] = ["A1", f"B2{evil}"], rng.integers(0, 2, num)
        obs.attrs["column-order"] = [name for name in obs if name != "patch"]
    return path


def write_sweep(folder, jobs=6):
    """Write a sweep over two model sizes and seeds, whose last job failed and has left no history."""
    plan = {job: [f"model.num_codes={16 * (1 + job % 2)}", f"seed={job // 2}"] for job in range(jobs)}
    container = {"entry": "train", "arguments": ["model.num_codes=16,32"], "jobs": plan, "created": "2026-01-02T03:04"}
    write_text(yaml.safe_dump(container), folder / "sweep.yaml")
    for job in range(jobs):
        run = write_run(folder / str(job), score=0.2 + 0.1 * job, num_codes=16 * (1 + job % 2), seed=job // 2)
        if job == jobs - 1:
            write_json({"state": "failed", "reason": "ValueError: too large\nmore"}, run / "status.json")
            (run / "history.csv").unlink()
    return folder


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """Return a finished run with what tasks left below it; the names that users gave are hostile. Read only."""
    folder = write_run(tmp_path_factory.mktemp("cells") / "20260102-030405", evil=EVIL)
    write_latents(folder / "process" / "latents.h5ad", EVIL)
    write_json({"state": "completed", "metrics": {"patches": 60}}, folder / "process" / "status.json")
    numbers = {"r2": 0.9, "lo": 0.8, "hi": 0.95}
    probes = {"column": [f"size{EVIL}"]}
    probes |= {f"{name}_{source}": [value] for source in ("latent", "pca_pixels") for name, value in numbers.items()}
    write_csv(pd.DataFrame(probes), folder / "embed" / "tables" / "probes.csv")
    write_json({"state": "completed", "metrics": {"finding": 0.125}}, folder / "mystery" / "status.json")
    wide = {f"figure_of_merit_{i}": [1e6 + i] for i in range(20)}
    write_csv(pd.DataFrame({f"col{EVIL}": [1.5], "p_x": [0.00012]} | wide), folder / "mystery" / "tables" / "odd.csv")
    write_picture(folder / "mystery" / "figures" / f"odd{EVIL.replace('/', '-')}.png")
    return folder


@pytest.fixture(scope="module")
def sweep_folder(tmp_path_factory):
    """Return a sweep of six jobs, one failed. Read only."""
    return write_sweep(tmp_path_factory.mktemp("sweeps") / "20260102-030405")


@pytest.fixture(scope="module")
def run_page(run_folder, tmp_path_factory):
    """Return the run's page, as a file."""
    path = tmp_path_factory.mktemp("page") / "run.html"
    write_text(page.render(run_folder), path)
    return path


@pytest.fixture(scope="module")
def sweep_page(sweep_folder, tmp_path_factory):
    """Return the sweep's page, as a file."""
    path = tmp_path_factory.mktemp("page") / "sweep.html"
    write_text(page.render(sweep_folder), path)
    return path


def sections(text: str) -> list[str]:
    """Return the headings of a page."""
    return re.findall(r"<h2[^>]*>([^<]*)</h2>", text)


def data_of(text: str) -> dict:
    """Return what the page's script is given."""
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


# ----------------------------------------------------------------------------------------------------- what it says


def test_page_of_a_run_has_its_sections_in_order_and_no_empty_one(run_page):
    found = sections(run_page.read_text())
    known = ["Attention", "What was run", "Training curves", "Codebook health", "Reconstructions", "Latent space"]
    assert found == [*known, "Embedding and probes", "Latents", "Mystery", "All final numbers"]


def test_head_gives_state_score_and_parameters(run_page):
    text = run_page.read_text()
    assert "completed" in text
    assert "Best validation reconstruction 0.2 at epoch 6" in text
    assert "<dd>1234</dd>" in text
    assert "12 of 16" in text
    assert "<dt>validation explained variance</dt><dd>0.625</dd>" in text


def test_warnings_name_dead_codes_uncommitted_changes_and_the_log(run_page):
    text = run_page.read_text()
    assert "4 of 16 codes of the codebook are used by no patch of the validation part" in text
    assert "2 lines changed but not committed" in text
    assert "one code died" in text


def test_configuration_says_what_settings_mean_and_which_were_typed(run_page):
    text = run_page.read_text()
    row = re.search(r"<tr><td>seed</td>.*?</tr>", text)[0]
    assert "typed" in row
    assert "of the split, the weights" in row


def test_a_failed_run_gives_its_reason(tmp_path):
    text = page.render(write_run(tmp_path / "run", state="failed"))
    assert "The run failed: OSError: no" in text


def test_an_interrupted_run_says_how_to_go_on(tmp_path):
    run = write_run(tmp_path / "run", state="interrupted")
    assert "resume=" not in page.render(run)  # it has left no checkpoint
    write_text("", run / "checkpoints" / "last.ckpt")
    assert f"To go on: python train.py resume={run}" in page.render(run)


def test_an_empty_or_half_written_folder_still_gives_a_page(tmp_path):
    assert "no status.json" in page.render(tmp_path)
    write_text("model: {", tmp_path / "config.yaml")
    write_text("", tmp_path / "history.csv")
    write_text("{", tmp_path / "status.json")
    text = page.render(tmp_path)
    assert "config.yaml cannot be read" in text
    assert "This section cannot be shown: No columns to parse from file" in text


def test_damaged_pictures_and_tables_are_named(tmp_path):
    run = write_run(tmp_path / "run")
    (run / "figures" / "reconstructions.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    write_text("", run / "match" / "tables" / "odd.csv")
    write_latents(run / "process" / "latents.h5ad").write_bytes(b"no HDF5")
    text = page.render(run)
    assert "This file cannot be read as an image" in text
    assert "tables/odd.csv cannot be read" in text
    assert text.count("This section cannot be shown") == 1


def test_results_that_were_set_aside_are_not_shown(tmp_path):
    run = write_run(tmp_path / "run")
    write_json({"state": "completed", "metrics": {"old": 1}}, run / "process-20260102-030405" / "status.json")
    assert "Process-2026" not in page.render(run)


def test_a_sweep_counts_states_names_failures_and_the_best(sweep_page):
    text = sweep_page.read_text()
    assert "5 completed, 1 failed" in text
    assert "Job 5 (num_codes=32 seed=2) failed: ValueError: too large" in text
    assert "lowest validation reconstruction: job 0 (num_codes=16 seed=0)" in text


def test_a_sweep_gives_its_script_runs_curves_and_differences(sweep_page):
    sweep = data_of(sweep_page.read_text())["sweep"]
    assert [run["values"]["model.num_codes"] for run in sweep["runs"]] == [16, 32] * 3
    assert sweep["runs"][0]["curves"]["val_recon"][-1] == 1.2
    assert not sweep["runs"][5]["epochs"]
    assert {one["name"] for one in sweep["settings"]} == {"seed", "model.num_codes"}
    assert sweep["group"] == ["model.num_codes"]


def test_losses_of_two_families_stand_in_one_table_without_losing_digits_or_a_column_twice(tmp_path):
    folder = write_sweep(tmp_path / "sweep", jobs=4)
    for job, score in ((0, 0.4886), (1, 6108.484), (2, 0.407), (3, 6064.58)):
        config = yaml.safe_load((folder / str(job) / "config.yaml").read_text())
        model = {"name": "vae_gauss" if score > 1 else "vqvae_z16", "latent_dim": 8}
        write_text(yaml.safe_dump(config | {"model": model}), folder / str(job) / "config.yaml")
        status = {
            "state": "completed",
            "metrics": {"best_score": score, "best_val_recon": score, "val_explained_variance": 0.1 * job},
        }
        write_json(status, folder / str(job) / "status.json")
    text = page.render(folder)
    row = re.search(r'<tr data-run="0">.*?</tr>', text, re.DOTALL)[0]
    assert ">0.4886</td>" in row
    columns = data_of(text)["sweep"]["columns"]
    assert [one["label"] for one in columns].count("validation reconstruction") == 1
    names = [one["name"] for one in columns]
    assert names.index("val_explained_variance") < names.index("best_val_recon")  # what may be compared comes first


def test_a_number_that_is_not_finite_is_shown_and_not_drawn(tmp_path):
    folder = write_sweep(tmp_path / "sweep", jobs=2)
    write_json({"state": "completed", "metrics": {"best_score": float("inf")}}, folder / "0" / "status.json")
    text = page.render(folder)
    assert data_of(text)["sweep"]["runs"][0]["values"]["best_score"] is None
    assert ">inf</td>" in re.search(r'<tr data-run="0">.*?</tr>', text, re.DOTALL)[0]


def test_a_page_of_a_job_gives_the_command_of_that_job_alone(sweep_folder):
    assert "<code>python train.py seed=0</code>" in page.render(sweep_folder / "0")


def test_a_running_sweep_says_how_far_it_was_and_not_to_resume_it(tmp_path):
    folder = write_sweep(tmp_path / "sweep", jobs=3)
    write_json({"state": "running"}, folder / "0" / "status.json")
    text = page.render(folder)
    assert "1 job still running: this page shows how far they were" in text
    assert "resume=" not in text


def test_a_comparison_from_before_the_last_job_is_said_to_be_old(tmp_path):
    folder = write_sweep(tmp_path / "sweep", jobs=2)
    write_json({"state": "completed", "started": "2026-01-02T04:00:00.000+00:00"}, folder / "compare" / "status.json")
    assert "ended after the comparison" not in page.render(folder)
    status = json.loads((folder / "0" / "status.json").read_text())
    write_json(status | {"updated": "2026-01-02T05:00:00.000+00:00"}, folder / "0" / "status.json")
    assert "1 job ended after the comparison was made" in page.render(folder)


def test_figures_of_folders_are_told_apart_by_them(tmp_path):
    run = write_run(tmp_path / "run")
    for subject in ("S01", "S02"):
        write_picture(run / "reconstruct" / subject / "roi_1.png")
    text = page.render(run)
    assert "S01 roi 1" in text
    assert "S02 roi 1" in text


def test_a_study_shows_its_history_and_pruned_trials_are_not_the_best(tmp_path):
    folder = write_sweep(tmp_path / "study", jobs=4)
    plan = yaml.safe_load((folder / "sweep.yaml").read_text())
    study = {"name": "search", "storage": "journal", "objectives": {"best_val_total": "maximize"}}
    write_text(yaml.safe_dump(plan | {"study": study}), folder / "sweep.yaml")
    write_json({"state": "pruned", "reason": "pruned after epoch 6"}, folder / "2" / "status.json")
    text = page.render(folder)
    trials, pruned, best = data_of(text)["plots"]["optimisation"]["data"]
    assert trials["y"] == [1.2, 1.3, None, None]
    assert pruned["y"] == [None, None, 0.4, None]
    assert best["y"] == [1.2, 1.3, 1.3, 1.3]
    assert "highest validation total loss: job 1" in text
    assert "1 of 4 trials pruned" in text


def test_numbers_of_different_families_are_said_to_be_no_one_quantity(tmp_path):
    folder = write_sweep(tmp_path / "sweep", jobs=4)
    config = yaml.safe_load((folder / "1" / "config.yaml").read_text())
    write_text(yaml.safe_dump(config | {"model": {"name": "vae_gauss", "latent_dim": 8}}), folder / "1" / "config.yaml")
    text = page.render(folder)
    assert "Not the same quantity in all runs: validation reconstruction" in text
    assert "Compare only runs that agree in model family" in text


def test_jobs_that_failed_alike_are_named_together(tmp_path):
    folder = write_sweep(tmp_path / "sweep", jobs=4)
    write_json({"state": "failed", "reason": "ValueError: too large"}, folder / "0" / "status.json")
    assert "Jobs 0 (num_codes=16 seed=0), 3 (num_codes=32 seed=1) failed: ValueError: too large" in page.render(folder)


def test_a_sweep_that_has_not_begun_has_a_page(tmp_path):
    container = {"entry": "train", "arguments": [], "jobs": {0: ["seed=0"], 1: ["seed=1"]}, "created": "2026-01-02T03:04"}
    write_text(yaml.safe_dump(container), tmp_path / "sweep.yaml")
    assert "2 pending" in page.render(tmp_path)


# ----------------------------------------------------------------------------------------- inert, self-contained, small


def test_what_users_named_is_escaped_everywhere(run_page):
    text = run_page.read_text()
    assert EVIL not in text
    assert "&lt;script&gt;document.title" in text
    assert text.count("<script") == 3  # the data, Plotly, the page's own


def test_nothing_is_asked_for_from_elsewhere(run_page, sweep_page):
    for path in (run_page, sweep_page):
        text = re.sub(r'<script type="text/plain".*?</script>', "", path.read_text(), flags=re.DOTALL)
        assert not re.findall(r'(?:src|href|action)="(?!data:|#)[^"]*"', text)
        assert "default-src 'none'" in html.unescape(text)
        assert set(re.findall(r"https?://[^\s\"'<]*", text)) <= {"http://www.w3.org/2000/svg"}


def test_the_same_folder_gives_the_same_page(run_folder, run_page, sweep_folder, sweep_page):
    assert page.render(run_folder) == run_page.read_text()
    assert page.render(sweep_folder) == sweep_page.read_text()


def test_pictures_shrink_until_they_fit_and_the_last_are_left_out(tmp_path):
    album = Album(max_px=300, budget=80_000)
    pictures = [album.add(tmp_path / f"{i}.png", "noise") for i in range(6)]
    for i in range(6):
        write_picture(tmp_path / f"{i}.png", i, (300, 300))
    album.develop()
    assert sum(len(base64.b64decode(one.src.partition(",")[2])) for one in pictures) < 80_000
    assert pictures[0].src
    assert max(one.width for one in pictures) < 300
    assert "too large" in pictures[-1].caption


def test_latents_are_sampled_by_the_seed_with_their_identity(tmp_path):
    path = write_latents(tmp_path / "latents.h5ad")
    points, again = (read_points(path, 20, seed=3) for _ in range(2))
    assert points == again
    assert (points.total, len(points.names)) == (60, 20)
    assert set(points.columns) == {"size_um", "well"}
    assert points.names != read_points(path, 20, seed=4).names


def test_numbers_have_three_to_four_digits_and_columns_one_precision():
    assert [values.number(v) for v in (0.14309, 23906, 1028.51, -0.5, 0.0000123, None)] == [
        "0.1431", "23,906", "1029", "\N{MINUS SIGN}0.5", "1.23e-5", "\N{EN DASH}",
    ]  # fmt: skip
    assert [values.fixed(v, values.decimals("x", [0.5, 12.25])) for v in (0.5, 12.25)] == ["0.50", "12.25"]
    assert values.probability(0.00043402) == "0.00043"
    assert values.label("msd_um2") == "msd (\N{MICRO SIGN}m\N{SUPERSCRIPT TWO})"
    assert values.label("best_val_recon") == "validation reconstruction"
    assert (values.seconds(43.2), values.seconds(252)) == ("43 s", "4 min 12 s")


def test_sizes_that_show_nothing_are_refused(compose):
    for key, value, least in (("max_points", 0, 1), ("max_image_px", -5, 240)):
        with pytest.raises(ValueError, match=rf"task.{key} is {value}.*{least}"):
            compose("analyze", "task=report", "run=somewhere", f"task.{key}={value}")


def test_the_command_writes_the_page_below_the_run(command):
    run = write_run(command.folder / "outputs" / "cells" / "20260102-030405")
    command("analyze", "task=report", f"run={run}", "logger=csv")
    text = (run / "report" / "report.html").read_text()
    assert "cells / 20260102-030405" in text
    command("analyze", "task=report", f"run={run}", "logger=csv")
    assert (run / "report" / "report.html").read_text() == text
    assert len(list(run.glob("report*"))) == 1


# ------------------------------------------------------------------------------------------------------ in a browser

READY = "return document.documentElement.dataset.ready === 'yes'"
SHOWN = "return [...document.querySelectorAll('#runs tbody tr')].filter(row => !row.hidden).map(row => row.dataset.run).join(' ')"
LINES = "return document.querySelectorAll('#parallel path:not(.off)').length"
CURVES = "return document.querySelector('#curves .plot').data.length"
TILES = "return [...document.querySelectorAll('.tile')].filter(one => !one.hidden).map(one => one.dataset.run).join(' ')"
GROUPS = "return document.querySelector('[data-plot=latent-space]').data.length"
GROUND = "return getComputedStyle(document.body).backgroundColor"
FIELDS = "return [...document.querySelectorAll('input, select, button')]"
NAMED = f"{FIELDS}.every(one => one.getAttribute('aria-label') || one.textContent.trim() || one.closest('label'))"


def opened(browser, path):
    """Open a page and wait until its figures are drawn."""
    browser.open(path)
    browser.wait(READY, 30)


def choose(browser, selector: str, index: int) -> None:
    """Choose an entry of a menu, as a user does."""
    browser.run(
        "const menu = document.querySelector(arguments[0]); menu.selectedIndex = arguments[1];"
        "menu.dispatchEvent(new Event('change', {bubbles: true}))",
        selector,
        index,
    )


def brush(browser, axis: str, low: float, high: float) -> None:
    """Drag along an axis of the parallel coordinates."""
    browser.run(
        """
        const grip = document.querySelector(`[data-axis="${arguments[0]}"] .grip`), line = grip.parentNode.querySelector(".axis");
        grip.setPointerCapture = () => {};
        const box = line.getBoundingClientRect(), at = (share) => box.bottom - share * box.height;
        for (const [kind, share] of [["pointerdown", arguments[1]], ["pointermove", arguments[2]], ["pointerup", arguments[2]]])
          grip.dispatchEvent(new PointerEvent(kind, { clientX: box.left, clientY: at(share), bubbles: true, pointerId: 1 }));
        """,
        axis,
        low,
        high,
    )


def test_a_run_opens_from_disk_without_errors_and_without_any_request(browser, run_page):
    opened(browser, run_page)
    assert browser.run("return document.querySelectorAll('.plot.drawn .main-svg').length") > 4
    assert browser.run(GROUPS) == 2  # wells
    choose(browser, "[data-scatter] select", 0)  # a number: one trace with a colour bar
    assert browser.run(GROUPS) == 1
    browser.emulate(paper=True)
    browser.resize(688, 1000)  # A4 between its margins: what is wider makes the browser print everything smaller
    browser.run("for (const one of document.querySelectorAll('details')) one.open = true")
    assert browser.run("return Math.max(...[...document.querySelectorAll('table')].map(one => one.offsetWidth))") <= 688
    assert browser.run("return document.title").endswith("/ 20260102-030405")  # the script in a user's name has not run
    assert browser.console_errors() == []
    assert browser.requests() == []


def test_sorting_filtering_brushing_and_ticking_change_all_views(browser, sweep_page):
    opened(browser, sweep_page)
    assert (browser.run(SHOWN), browser.run(LINES), browser.run(CURVES)) == ("0 1 2 3 4 5", 6, 5)
    for _ in range(2):
        browser.run("document.querySelectorAll('#runs th button.sort')[4].click()")
    assert browser.run(SHOWN) == "4 3 2 1 0 5"  # the failed run has no score and stays last
    browser.run("document.querySelector(\"#runs [data-filter='model.num_codes'] input\").focus()")
    browser.run("return document.activeElement").send_keys("20")
    assert (browser.run(SHOWN), browser.run(LINES), browser.run(CURVES)) == ("3 1 5", 3, 2)
    assert browser.run("return document.querySelectorAll('#seeds tbody tr').length") == 1
    browser.run("document.querySelector('#selection button').click()")
    assert browser.run(SHOWN) == "4 3 2 1 0 5"
    brush(browser, "seed", 0.4, 1.0)
    assert browser.run(SHOWN) == "4 3 2 5"
    assert browser.run("return document.querySelector(\"#runs [data-filter='seed'] input\").value") == "0.8"
    browser.run("document.querySelector(\"#runs tr[data-run='2'] input\").click()")
    assert browser.run(TILES) == "2"
    assert browser.console_errors() == []
    assert browser.requests() == []


def test_the_page_works_by_keyboard_in_the_dark_and_on_paper(browser, sweep_page, tmp_path):
    from selenium.webdriver.common.keys import Keys

    opened(browser, sweep_page)
    browser.find("body")[0].send_keys(Keys.TAB)
    assert browser.run("return document.activeElement.className") == "skip"
    browser.find("#runs th button.sort")[0].send_keys(Keys.ENTER)
    assert browser.run("return document.querySelector('#runs th').getAttribute('aria-sort')") == "ascending"
    assert browser.run(NAMED)
    assert browser.run("return [...document.querySelectorAll('img')].every(one => one.hasAttribute('alt'))")
    light = browser.run(GROUND)
    browser.find("#theme")[0].send_keys(Keys.ENTER)
    assert browser.run(GROUND) != light
    assert browser.pdf(tmp_path / "page.pdf").stat().st_size > 20_000
    browser.emulate(paper=True)
    assert browser.run(GROUND) == light  # paper is white, whatever the screen
    assert not browser.run("return [...document.querySelectorAll('.screen')].some(one => one.offsetParent)")


@pytest.mark.slow
def test_a_page_of_sixteen_runs_is_small_and_quick(tmp_path):
    folder = write_sweep(tmp_path / "sweep", jobs=16)
    for number in range(16):
        write_picture(folder / str(number) / "figures" / "reconstructions.png", number, (1440, 725))
        write_picture(folder / str(number) / "figures" / "history.png", number, (1440, 725))
    page.render(write_sweep(tmp_path / "warm", jobs=2))  # what is loaded and packed once
    begun = time.process_time()
    text = page.render(folder)
    assert len(text.encode()) < page.MAX_BYTES
    assert time.process_time() - begun < 12  # of noise, which is the worst to encode; the demo's pictures take one
