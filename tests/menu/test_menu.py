"""The menu through a terminal of 80 x 24: what it shows is what the commands take, and what it runs is what it shows."""

import fcntl
import os
import shlex
import struct
import sys
import termios

import pexpect
import pytest

from microlatent import config
from microlatent.menu import picking, pipelines, screens, terminal
from microlatent.menu.draft import Draft, Refused, like
from tests.conftest import ROOT, composed
from tests.dashboard.test_dashboard import write_run

DOWN, CTRL_C = "\x1b[B", "\x03"


class Menu:
    """The menu in a terminal, and somebody who reads and types."""

    def __init__(self, folder) -> None:
        path = os.pathsep.join(map(str, (ROOT / "src", ROOT)))
        env = os.environ | {"PYTHONPATH": path, "TERM": "xterm-256color", "PROMPT_TOOLKIT_NO_CPR": "1", "PAGER": ""}
        self.terminal = pexpect.spawn(
            sys.executable, [str(ROOT / "menu.py")], cwd=folder, env=env, dimensions=(24, 80), encoding="utf-8", timeout=60
        )

    def sees(self, *texts: str) -> None:
        """Wait until these appear, in this order."""
        for text in texts:
            self.terminal.expect_exact(text)

    def picks(self, question: str, name: str, among) -> None:
        """Go down a list to a line and press Enter."""
        self.sees(question)
        self.terminal.send(DOWN * list(among).index(name) + "\r")

    def types(self, text: str) -> None:
        """Replace what stands in a field and press Enter."""
        self.terminal.send("\x15" + text + "\r")

    def ends(self) -> int:
        """Wait for the end and return the exit code."""
        self.terminal.expect(pexpect.EOF)
        self.terminal.close()
        return self.terminal.exitstatus


@pytest.fixture
def menu(tmp_path):
    """Start the menu in an empty folder."""
    started = []

    def start() -> Menu:
        started.append(Menu(tmp_path))
        return started[-1]

    yield start
    for one in started:
        one.terminal.close(force=True)


# ------------------------------------------------------------------------------------------------------ what it knows


def test_each_kind_of_data_is_offered_exactly_its_tasks_in_their_order():
    for data in pipelines.systems():
        offered = [one.name for one in pipelines.pipeline(data) if one.name != "fine-tune"]
        assert offered == list(config.tasks(data=data))
    reviews = [name for name, task in config.tasks().items() if task.reviews]
    assert [one.name for one in pipelines.tools()] == ["resume", *reviews, "dashboard", "sync"]
    assert {name for data in pipelines.systems() for name in config.tasks(data=data)} | {*reviews} == {*config.REGISTRY["task"]}


@pytest.mark.slow
def test_every_recipe_is_offered_for_the_data_that_it_composes():
    found = {name: data for data in pipelines.systems() for name in pipelines.recipes(data)}
    assert set(found) == {path.stem for path in (config.CONF / "experiment").glob("*.yaml")}
    for name in ("wells_demo", "kikuchi_demo"):
        assert composed("train", f"experiment={name}").data.name == found[name]


@pytest.mark.slow
def test_every_step_composes_and_every_setting_has_a_meaning():
    for data in pipelines.systems():
        for step in pipelines.pipeline(data):
            if step.picks != "weights":
                rows = Draft(step.entry, step.fixed).rows()
                assert [row.key for row in rows if not row.meaning and row.kind == "str"] == []


def test_wrong_value_is_refused_at_once_in_the_command_s_words_and_forgotten():
    draft = Draft("train", ["model=vqvae_z16", "data=wells"])
    assert "data.root is not set" in draft.problems()[0]  # no reason to refuse other values
    draft.change("trainer.epochs", "3")
    for value, reason in {
        "abc": "could not be converted to Integer",
        "-1": "must be at least 0",
        "3,x": "trainer.epochs=x",
    }.items():
        with pytest.raises(Refused, match=reason):
            draft.change("trainer.epochs", value)
    assert draft.changes == {"trainer.epochs": "3"}
    draft.change("trainer.epochs", "")
    assert draft.changes == {}


@pytest.mark.slow
def test_several_values_make_a_sweep_and_a_launcher_needs_one():
    draft = Draft("train", ["experiment=wells_demo"])
    assert "-m" not in draft.command()
    draft.change("model.num_codes", "16,32")
    assert shlex.join(draft.command()[1:]).endswith("train.py -m experiment=wells_demo model.num_codes=16,32")
    assert [row.value for row in draft.rows() if row.key == "model.num_codes"] == ["16,32"]
    draft.change("model.num_codes", "")
    draft.change("hydra/launcher", "joblib")
    assert "-m" in draft.command()
    with pytest.raises(Refused, match="Integer"):
        draft.change("hydra.launcher.n_jobs", "two")


def test_choice_is_replaced_by_another_and_not_typed_twice():
    draft = Draft("train", ["data=wells", "model=vqvae_z16"], {"data.root": "demo"})
    draft.change("model", "vae_gauss")
    assert draft.overrides == ["data=wells", "data.root=demo", "model=vae_gauss"]
    draft.change("model", "")
    assert draft.overrides == ["data=wells", "model=vqvae_z16", "data.root=demo"]


def test_text_that_hydra_cannot_read_is_quoted_and_nothing_typed_ends_the_menu():
    draft = Draft("train", ["data=wells", "model=vqvae_z16", "data.root=demo"])
    for text in ("it's (a) = b", "J\xfcrgen", "~x"):
        draft.change("name", text)
        assert composed("train", *draft.overrides).name == text
    for key, text in {"seed": "glob(*)", "trainer.epochs": "5'", "trainer.lr": "interval(1e-4,1e-2)"}.items():
        with pytest.raises(Refused):
            draft.change(key, text)
    draft.change("name", "")  # taking back is never refused
    assert draft.changes == {}


@pytest.mark.slow
def test_study_takes_intervals_and_says_what_it_lacks():
    draft = Draft("train", ["experiment=wells_demo"])
    draft.change("hydra/sweeper", "study")
    assert "nothing to search" in draft.problems()[0]
    draft.change("model.latent_dim", "interval(8,16)")
    draft.change("hydra.sweeper.n_trials", "3")
    assert draft.problems() == []
    words = "-m experiment=wells_demo hydra/sweeper=study model.latent_dim=interval(8,16) hydra.sweeper.n_trials=3"
    assert draft.command()[2:] == words.split()
    for key, text in {
        "hydra.sweeper.n_trials": "0",
        "hydra.sweeper.sampler": "best",
        "model.latent_dim": "interval(16,8)",
    }.items():
        with pytest.raises(Refused):
            draft.change(key, text)
    draft.change("hydra/sweeper", "")
    assert "hydra.sweeper.n_trials" not in draft.changes
    assert "is an interval, and a grid needs single values" in draft.problems()[0]


@pytest.mark.slow
def test_fine_tuning_takes_the_model_of_the_run_with_what_was_changed():
    settings = config.plain(composed("train", "model=vqvae_z16", "model.num_codes=32", "data.root=demo"))
    assert like(settings) == ["model=vqvae_z16", "model.num_codes=32"]


def test_runs_are_listed_latest_first_and_only_those_that_fit(tmp_path):
    for day in (1, 3, 2):
        write_run(tmp_path / f"day{day}", started=f"2026-03-0{day}T10:00:00+0000")
    write_run(tmp_path / "stopped", "interrupted", started="2026-03-01T09:00:00+0000")
    keys = list(picking.found_runs(str(tmp_path), picking.is_trained_on("wells")))
    assert [key.rpartition("/")[2] for key in keys] == ["day3", "day2", "day1", "stopped"]
    assert list(picking.found_runs(str(tmp_path), picking.is_stopped)) == [f"{tmp_path}/stopped"]
    assert picking.found_runs(str(tmp_path), picking.is_trained_on("kikuchi")) == {}
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "sweep.yaml").write_text("jobs: [")
    assert list(picking.found_runs(str(tmp_path), picking.is_stopped)) == [f"{tmp_path}/stopped"]


def test_what_goes_on_stays_where_it_is(tmp_path, monkeypatch):
    folder = str(write_run(tmp_path / "stopped", "interrupted"))
    monkeypatch.setattr(screens, "pick_run", lambda *_: folder)
    (step,) = (one for one in pipelines.tools() if one.name == "resume")
    assert screens.begin(step, "tools", str(tmp_path)).overrides == [f"resume={folder}"]  # outputs= would be refused


# -------------------------------------------------------------------------------------------------- through a terminal


@pytest.mark.parametrize(
    ("columns", "term", "reason"), [(60, "xterm", "60 x 24"), (80, "dumb", "TERM=dumb"), (80, None, "no terminal")]
)
def test_terminal_that_will_not_do_is_told_so(monkeypatch, columns, term, reason):
    for name in ("COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    here, there = os.openpty()
    with open(there, "r+b", buffering=0) as tty, open(os.devnull) as none:
        stream = none if term is None else tty
        monkeypatch.setattr("sys.stdin", stream)
        monkeypatch.setattr("sys.stdout", stream)
        monkeypatch.setattr("sys.__stdout__", stream)
        monkeypatch.setenv("TERM", term or "xterm")
        fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        said = terminal.unfit()
    os.close(here)
    assert reason in said
    assert "python train.py --help" in said


def test_lists_lead_there_and_ctrl_c_leads_back(menu):
    shown = menu()
    shown.picks("What are your data?", "tools", [*pipelines.systems(), "tools"])
    shown.sees("What is to be done?", "resume", "report", "dashboard", "sync")
    shown.terminal.send(CTRL_C)
    shown.sees("What are your data?")
    shown.terminal.send(CTRL_C)
    shown.sees("bye.")
    assert shown.ends() == 0


@pytest.mark.slow
def test_settings_are_changed_checked_run_and_stopped(menu, stores_folder, tmp_path):
    shown = menu()  # commands longer than a line are in one piece nevertheless, so that they can be copied
    shown.picks("What are your data?", "wells", pipelines.systems())
    shown.picks("What is to be done?", "train", [step.name for step in pipelines.pipeline("wells")])
    shown.picks("Which recipe?", "", ["", *pipelines.recipes("wells")])
    shown.picks("Which model?", "vqvae_z16", config.REGISTRY["model"])
    actions = ["run", "check", "change", "show", "where"]
    shown.sees("not ready: data.root is not set")  # so that change is where the pointer stands
    shown.sees("What now?")
    shown.terminal.send("\r")
    sections = ["general", "model", "data", "trainer", "logger"]

    shown.picks("Which section?", "data", sections)
    shown.sees("Which setting?", "store")
    shown.terminal.send("folder of assembled\r")
    shown.sees("data.store=")
    shown.types(str(stores_folder))
    shown.sees("Which setting?")
    shown.terminal.send(CTRL_C)

    shown.picks("Which section?", "trainer", sections)
    shown.sees("Which setting?", "epochs")
    shown.terminal.send("passes over\r")
    shown.sees("trainer.epochs=")
    shown.types("many")
    shown.sees("no: trainer.epochs=many: Value 'many' of type 'str' could not", "trainer.epochs=")
    shown.types("100000")
    shown.sees("Which setting?", "100000")
    shown.terminal.send(CTRL_C)
    shown.sees("Which section?")
    shown.terminal.send(CTRL_C)

    words = f"train.py data=wells model=vqvae_z16 data.store={stores_folder} trainer.epochs=100000"
    shown.sees(words)
    shown.picks("What now?", "check", actions)
    shown.sees("$ ", f"{words} check=true", "nothing was written", "done.", "Enter goes back")
    shown.terminal.send("\r")
    assert not (tmp_path / "outputs").exists()

    shown.picks("What now?", "run", actions)
    shown.sees("$ ", words, "epoch 1:")
    shown.terminal.send(CTRL_C)
    shown.sees("Stopped by SIGINT", "stopped. What could be saved is saved", "Enter goes back")
    shown.terminal.send("\r")
    shown.sees("What now?")
    (folder,) = (tmp_path / "outputs").glob("*/*")
    assert (folder / "checkpoints" / "last.ckpt").is_file()
    assert '"interrupted"' in (folder / "status.json").read_text()
