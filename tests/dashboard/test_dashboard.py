"""The dashboard: a true list of all runs, refreshed by what changed, and nothing else of the disk to nobody else."""

import http.client
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import yaml

from microlatent.dashboard.__main__ import start
from microlatent.dashboard.reports import stamp
from tests.conftest import ROOT

TRAIN = {
    "model": {"name": "vqvae_z16"},
    "data": {"name": "wells"},
    "task": {"name": "train"},
    "trainer": {"name": "cpu", "epochs": 4, "monitor": "recon"},
}
BEGAN = "2026-03-01T10:00:00+0000"


def write_run(folder: Path, state: str = "completed", **facts) -> Path:
    """Write what a training run leaves: its settings, its status, and a history of two epochs."""
    process = psutil.Process()
    alive = {"host": socket.gethostname(), "pid": process.pid, "process_started": process.create_time()}
    status = {"state": state, "started": BEGAN, "updated": "2026-03-01T10:01:30+0000", "epoch": 2, **alive, **facts}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(TRAIN, sort_keys=False))
    (folder / "history.csv").write_text("epoch,val_total,val_recon\n1,3,0.5\n2,4,0.25\n")
    (folder / "status.json").write_text(json.dumps(status))
    return folder


@pytest.fixture
def outputs(tmp_path) -> Path:
    """Write a finished run with a step, a running one, a failed one, and a sweep of three jobs of which one has not begun."""
    folder = tmp_path / "outputs"
    done = write_run(folder / "wells-demo" / "20260301-100000", metrics={"best_score": 0.125})
    write_run(done / "process")
    write_run(done / "process-20260301-090000")  # an older result
    write_run(folder / "wells-demo" / "20260301-110000", "running")
    write_run(folder / "deep" / "name" / "20260301-120000", "failed", reason="ValueError: <b>the loss is nan</b>")
    swept = folder / "sweeps" / "20260301-130000"
    plan = {"entry": "train", "arguments": [], "jobs": {n: [f"seed={n}"] for n in range(3)}, "study": None, "created": BEGAN}
    swept.mkdir(parents=True)
    (swept / "sweep.yaml").write_text(yaml.safe_dump(plan))
    for job, score in enumerate((0.5, 0.4)):
        write_run(swept / str(job), metrics={"best_score": score})
    (tmp_path / "secret.txt").write_text("secret")
    return folder


@pytest.fixture
def serve(outputs):
    """Serve the outputs folder on a free port."""
    server = start(outputs, "127.0.0.1", 0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def ask(server, path: str, method: str = "GET", **headers: str) -> tuple[http.client.HTTPResponse, str]:
    """Send a request exactly as written and return the answer with its text."""
    connection = http.client.HTTPConnection(*server.server_address, timeout=10)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer, text


def listed(server, since: int = 0) -> dict:
    """Return the list, with its rows by key."""
    news = json.loads(ask(server, f"/runs.json?since={since}")[1])
    return news | {"rows": {row["key"]: row for row in news["rows"]}}


# ------------------------------------------------------------------------------------------------------------- list


def test_list_says_of_every_run_what_it_is_and_how_far(serve):
    rows = listed(serve)["rows"]
    done, going = rows["wells-demo/20260301-100000"], rows["wells-demo/20260301-110000"]
    assert [done[key] for key in ("state", "model", "data", "score", "monitor")] == [
        "completed", "vqvae_z16", "wells", 0.125, "val_recon",
    ]  # fmt: skip
    assert [step["name"] for step in done["steps"]] == ["process"]
    assert [going[key] for key in ("state", "done", "total", "score", "seconds")] == ["running", 2, 4, 0.25, 90]
    assert rows["deep/name/20260301-120000"]["reason"].startswith("ValueError")


def test_jobs_stand_below_their_sweep_also_those_that_have_not_begun(serve):
    rows = listed(serve)["rows"]
    sweep = rows["sweeps/20260301-130000"]
    assert (sweep["state"], sweep["reason"], sweep["done"], sweep["total"], sweep["score"]) == ("pending", "", 2, 3, 0.4)
    jobs = {key: (row["label"], row["state"]) for key, row in rows.items() if row["parent"] == sweep["key"]}
    assert jobs == {f"sweeps/20260301-130000/{n}": (f"{n}  seed={n}", "completed" if n < 2 else "pending") for n in range(3)}


def test_only_what_changed_is_sent_again(serve, outputs):
    version = listed(serve)["version"]
    assert listed(serve, version)["rows"] == {}
    write_run(outputs / "wells-demo" / "20260301-110000", "running", epoch=3)
    news = listed(serve, version)
    assert {key: row["done"] for key, row in news["rows"].items()} == {"wells-demo/20260301-110000": 3}
    assert not news["whole"]


def test_run_that_was_removed_leaves_the_list(serve, outputs):
    version = listed(serve)["version"]
    (outputs / "deep" / "name" / "20260301-120000").rename(outputs.parent / "elsewhere")
    assert listed(serve, version)["gone"] == ["deep/name/20260301-120000"]


def test_run_whose_process_is_gone_is_lost_and_a_damaged_one_hides_no_other(serve, outputs):
    write_run(outputs / "killed", "running", process_started=1.0)
    for name, text in {
        "a": "[]",
        "b": '{"state": "completed", "metrics": {"best_score": NaN}, "started": 7}',
        "c": "\x00",
    }.items():
        write_run(outputs / "damaged" / name)
        (outputs / "damaged" / name / "status.json").write_text(text)
        (outputs / "damaged" / name / "config.yaml").write_text("model: [")
    rows = listed(serve)["rows"]
    assert rows["killed"]["state"] == "lost"
    assert [rows[f"damaged/{name}"]["state"] for name in "abc"] == ["lost", "completed", "lost"]
    assert rows["damaged/b"]["score"] is None
    assert len(rows) == 3 + 4 + 4


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("0/status.json", "[" * 100_000),
        ("0/status.json", '{"state": "completed", "epoch": 1' + "0" * 400 + "}"),
        ("0/status.json", '{"state": "completed", "started": "9999-12-31T23:59:59"}'),
        ("0/config.yaml", "task:\n  name: train\nmodel:\n  name: [a]\n"),
        ("0/config.yaml", "task:\n  name: train\n  name: " + "[" * 100_000 + "\n"),  # deeper than the stack of YAML's reader in C
        ("0/job.json", "{"),
        ("sweep.yaml", ""),
        ("sweep.yaml", "{entry: train, arguments: [], jobs: {0: [seed=1]}, study: [1], created: 2026-03-01}"),
        ("sweep.yaml", "{entry: train, arguments: [], jobs: {0: [seed=1], a: [seed=2]}, study: null, created: 3}"),
    ],
)
def test_no_damage_in_a_sweep_takes_the_list_away(serve, outputs, name, text):
    (outputs / "sweeps" / "20260301-130000" / name).write_text(text)
    rows = listed(serve)["rows"]
    assert rows["wells-demo/20260301-100000"]["state"] == "completed"
    assert rows["sweeps/20260301-130000"]["state"] == ("lost" if name == "sweep.yaml" or text.startswith("[") else "pending")
    assert ask(serve, "/folder/sweeps/20260301-130000/0")[0].status == 200


def test_name_that_no_address_can_hold_is_left_out(serve, outputs):
    odd = os.fsencode(outputs) + b"/wells-demo/\xff"
    os.rename(outputs / "wells-demo" / "20260301-110000", odd)
    assert all(key.isprintable() for key in listed(serve)["rows"])
    assert ask(serve, "/folder/wells-demo")[0].status == 200


@pytest.mark.slow
def test_a_thousand_runs_are_listed_in_about_a_second(tmp_path):
    from microlatent.dashboard.inventory import Inventory

    for number in range(1000):
        write_run(tmp_path / f"exp{number % 10}" / f"{number}")
    inventory, began = Inventory(tmp_path), time.process_time()
    first = inventory.changes()
    took = time.process_time() - began
    assert len(first["rows"]) == 1000
    assert took < 2.0  # 0.4 s on a quiet machine
    began = time.process_time()
    assert inventory.changes(first["version"])["rows"] == []
    assert time.process_time() - began < 0.3


# -------------------------------------------------------------------------------------------------- nothing but that


@pytest.mark.parametrize(
    "path",
    [
        "../secret.txt",
        "%2e%2e/secret.txt",
        "..%2fsecret.txt",
        "wells-demo/../../secret.txt",
        "wells-demo/..%5c..%5csecret.txt",
        "{outside}",
        "/{outside}",
        "%2f{outside}",
        "link.txt",
        "links/secret.txt",
        "loop/x.txt",
        ".hidden.txt",
        "wells-demo%00/secret.txt",
        "x" * 5000 + ".txt",
        "",
    ],
)
def test_nothing_outside_the_folder_is_served(serve, outputs, path):
    (outputs / "link.txt").symlink_to("../secret.txt")
    (outputs / "links").symlink_to("..")
    (outputs / "loop").symlink_to("loop")
    (outputs / ".hidden.txt").write_text("secret")
    for route in ("file", "folder", "report"):
        answer, text = ask(serve, f"/{route}/{path.format(outside=outputs.parent / 'secret.txt')}")
        assert answer.status == 404
        assert "secret</" not in text
        assert "There is no" in text


def test_files_of_a_run_are_shown_as_text_and_its_names_are_escaped(serve, outputs):
    answer, text = ask(serve, "/file/wells-demo/20260301-100000/history.csv")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/plain; charset=utf-8")
    assert text == (outputs / "wells-demo/20260301-100000/history.csv").read_text()
    (outputs / "deep/name/20260301-120000/<i>.bin").write_text("x")
    assert ask(serve, "/file/deep/name/20260301-120000/%3Ci%3E.bin")[0].status == 404
    _, page = ask(serve, "/folder/deep/name/20260301-120000")
    assert "&lt;b&gt;the loss is nan&lt;/b&gt;" in page
    assert "&lt;i&gt;.bin" in page


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_methods_that_could_change_something_are_refused(serve, method):
    answer, text = ask(serve, "/runs.json", method)
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")
    assert "only shows" in text


def test_head_answers_as_get_without_a_body(serve):
    for path in ("/", "/file/wells-demo/20260301-100000/history.csv", "/nothing"):
        head, get = ask(serve, path, "HEAD"), ask(serve, path)
        assert head[1] == ""
        assert (head[0].status, head[0].headers["Content-Length"]) == (get[0].status, get[0].headers["Content-Length"])


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "[bad", "localhost.evil"])
def test_request_by_another_name_than_this_machine_is_refused(serve, host):
    answer, text = ask(serve, "/runs.json", Host=host)
    assert answer.status == 421
    assert "20260301" not in text


def test_forwarded_port_of_this_machine_is_answered(serve):
    assert ask(serve, "/", Host="localhost:9000")[0].status == 200


def test_every_answer_forbids_scripts_and_frames_of_others(serve):
    for path in ("/", "/runs.json", "/asset/dashboard.js", "/file/wells-demo/20260301-100000/history.csv", "/nothing"):
        headers = ask(serve, path)[0].headers
        assert headers["Content-Security-Policy"].count("default-src 'none'") == 1
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert (headers["X-Content-Type-Options"], headers["X-Frame-Options"]) == ("nosniff", "DENY")
        assert "Access-Control-Allow-Origin" not in headers


def test_body_of_a_request_is_not_taken_for_the_next_one(serve):
    with socket.create_connection(serve.server_address, timeout=10) as connection:
        inner = b"GET /runs.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
        connection.sendall(b"GET /nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(inner) + inner)
        assert connection.makefile().read().count("HTTP/1.1 ") == 1


def test_browser_that_goes_away_is_no_news(serve, capfd):
    for sent in (b"GET / HT", b"GET /runs.json HTTP/1.1\r\nHost: localhost\r\n\r\n"):
        with socket.create_connection(serve.server_address, timeout=10) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # reset, not closed
            connection.sendall(sent)
            time.sleep(0.02)
    assert ask(serve, "/")[0].status == 200
    assert capfd.readouterr().err == ""


def test_malformed_request_is_answered_with_a_page(serve):
    with socket.create_connection(serve.server_address, timeout=10) as connection:
        connection.sendall(b"BREW / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = connection.makefile().read()
    assert answer.startswith("HTTP/1.1 501")
    assert "All runs and sweeps" in answer


def test_looking_writes_nothing(serve, outputs):
    def state() -> dict[str, int]:
        return {str(path): path.stat().st_mtime_ns for path in outputs.rglob("*")}

    before = state()
    for path in ("/", "/runs.json", "/folder/wells-demo", "/folder/sweeps/20260301-130000", "/file/x", "/report/wells-demo"):
        ask(serve, path)
    assert state() == before


def test_other_addresses_than_this_machine_need_plain_words(outputs):
    with pytest.raises(ValueError, match="--anyone-on-the-network"):
        start(outputs, "0.0.0.0", 0)
    start(outputs, "0.0.0.0", 0, is_open=True).server_close()


def test_port_that_is_taken_gives_way_to_the_next(serve, outputs):
    port = serve.server_address[1]
    second = start(outputs, "127.0.0.1", port)
    second.server_close()
    assert second.server_address[1] > port


def test_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder\. Name the outputs folder"):
        start(tmp_path / "nothing", "127.0.0.1", 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_it_without_a_traceback(outputs, number):
    line = [sys.executable, "-m", "microlatent.dashboard", "--outputs", str(outputs), "--port", "0"]
    env = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    with subprocess.Popen(line, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert "http://127.0.0.1:" in process.stdout.readline()
        process.send_signal(number)
        rest = process.communicate(timeout=20)[0]
    assert (process.returncode, rest.strip()) == (0, "dashboard stopped.")


# ----------------------------------------------------------------------------------------------------------- report


@pytest.mark.slow
def test_report_is_made_on_demand_and_anew_only_when_something_changed(serve, outputs):
    path = "wells-demo/20260301-100000"
    answer, text = ask(serve, f"/report/{path}")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert "sandbox" in answer.headers["Content-Security-Policy"]
    assert "0.125" in text
    assert serve.reports.of(outputs / path) is serve.reports.of(outputs / path)
    write_run(outputs / path, metrics={"best_score": 0.0625})
    assert "0.0625" in ask(serve, f"/report/{path}")[1]


def test_report_is_stale_when_a_run_was_killed(outputs):
    folder = outputs / "wells-demo" / "20260301-110000"
    status, before = json.loads((folder / "status.json").read_text()), stamp(folder)
    times = [path.stat().st_mtime_ns for path in (folder / "status.json", folder)]
    (folder / "status.json").write_text(json.dumps(status | {"process_started": 1.0}))  # as if that process were gone
    for path, time_ns in zip((folder / "status.json", folder), times, strict=True):
        os.utime(path, ns=(time_ns, time_ns))
    assert (before[1], stamp(folder)) == (["running"], (before[0], ["lost"]))


@pytest.mark.slow
def test_reports_of_runs_and_sweeps_work_inside_their_sandbox(serve, browser):
    for path in ("wells-demo/20260301-100000", "sweeps/20260301-130000", "deep/name/20260301-120000"):
        browser.open(f"{serve.url}report/{path}")
        browser.wait("return document.querySelector('.js-plotly-plot svg') !== null")
    assert browser.console_errors() == []
    assert all("/report/" in url for url in browser.requests())


# ---------------------------------------------------------------------------------------------------------- browser


def test_running_row_goes_on_without_a_reload(serve, outputs, browser):
    browser.open(serve.url)
    row = "document.querySelector('[data-key=\"wells-demo/20260301-110000\"]')"
    browser.wait(f"return {row} && {row}.innerText.includes('2 of 4 epochs')")
    browser.run("window.same = true")
    write_run(outputs / "wells-demo" / "20260301-110000", metrics={"best_score": 0.0625}, epoch=4)
    browser.wait(f"return {row}.innerText.includes('4 of 4 epochs') && {row}.innerText.includes('completed')")
    assert browser.run("return window.same")
    assert browser.console_errors() == []
    assert all(url.startswith(serve.url) for url in browser.requests())


@pytest.mark.slow
def test_rows_are_sorted_filtered_and_opened_by_keyboard(serve, browser):
    browser.open(serve.url)
    shown = "return [...document.querySelectorAll('#runs tbody tr')].map(row => row.dataset.key)"
    browser.wait("return document.querySelectorAll('#runs tbody tr').length === 4")
    button = next(one for one in browser.find("#runs th button") if one.text == "Best score")
    button.send_keys("\n")
    assert browser.run(shown)[0] == "wells-demo/20260301-100000"
    button.send_keys("\n")
    assert browser.run(shown)[0] == "sweeps/20260301-130000"
    browser.find("#runs .toggle")[0].send_keys("\n")
    assert len(browser.run(shown)) == 7
    browser.find("#words")[0].send_keys("failed")
    assert browser.run(shown) == ["deep/name/20260301-120000"]
    assert "<b>" in browser.find("#runs tbody .reason")[0].text  # shown, not obeyed
    browser.driver.refresh()
    browser.wait("return document.querySelectorAll('#runs tbody tr').length === 1")  # the address keeps the filter
    assert browser.console_errors() == []
