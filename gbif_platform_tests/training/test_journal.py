import json
import subprocess
import sys
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from gbif_platform.training.journal import LINES, Journal, journals

RUN = {"experiment": "toy", "tags": {}}
REPOSITORY = Path(__file__).resolve().parents[2]
KILLED = """
import os, signal, sys
from pathlib import Path
from gbif_platform.training.journal import Journal
journal = Journal(Path(sys.argv[1]), {"experiment": "toy", "tags": {}})
for step in range(5):
    journal.write_metrics({"loss": 1.0 / (step + 1)}, step)
journal.write_bytes(b"png", "plots/curves.png")
os.kill(os.getpid(), signal.SIGKILL)
"""
LOGGED = st.lists(st.tuples(st.sampled_from(["loss", "top1"]), st.integers(0, 4), st.floats(0, 1)), max_size=20)


def values(journal: Journal) -> list[tuple[str, int, float]]:
    lines = [event for event, _ in journal.unsent() if event["kind"] == "metrics"]
    return [(name, line["step"], value) for line in lines for name, value in line["values"].items()]


def test_what_was_written_before_a_kill_9_is_there(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path / "journal")]
    killed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=False)
    assert killed.returncode == -9, killed.stderr
    journal = Journal(tmp_path / "journal")
    assert journal.run == RUN
    assert values(journal) == [("loss", step, 1.0 / (step + 1)) for step in range(5)]
    *_, (files, _) = journal.unsent()
    assert (journal.artifacts(files) / "plots/curves.png").read_bytes() == b"png"
    assert journals(tmp_path) == [tmp_path / "journal"]


@settings(max_examples=30, deadline=None)
@given(LOGGED, st.data())
def test_a_journal_cut_at_any_byte_goes_on_and_holds_each_value_once(
    logged: list[tuple[str, int, float]], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        first = Journal(Path(folder), RUN)
        for name, step, value in logged:
            first.write_metrics({name: value}, step)
        lines = Path(folder, LINES)
        whole = lines.read_bytes() if lines.exists() else b""
        lines.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
        resumed = Journal(Path(folder), RUN)
        for name, step, value in logged:
            resumed.write_metrics({name: value}, step)
        kept = {(name, step): value for name, step, value in reversed(logged)}
        assert sorted(values(Journal(Path(folder)))) == sorted((*key, value) for key, value in kept.items())


def test_a_line_that_lacks_its_end_alone_counts_once(tmp_path: Path) -> None:
    Journal(tmp_path, RUN).write_metrics({"loss": 0.5}, 0)
    lines = tmp_path / LINES
    lines.write_bytes(lines.read_bytes()[:-1])
    Journal(tmp_path, RUN).write_metrics({"loss": 0.5}, 0)
    assert values(Journal(tmp_path)) == [("loss", 0, 0.5)]


def test_a_revised_metric_is_written_where_its_value_is_new(tmp_path: Path) -> None:
    journal = Journal(tmp_path, RUN)
    for value in (0.5, 0.5, 0.6, float("nan")):
        journal.write_metrics({"test_top1": value}, 0, revised=True)
    assert [value for _, _, value in values(journal)] == [0.5, 0.6]


def test_only_what_was_not_acknowledged_is_unsent(tmp_path: Path) -> None:
    journal = Journal(tmp_path, RUN)
    journal.write("begin", params={})
    journal.write("end", status="FINISHED")
    first, second = journal.unsent()
    assert (first[0]["kind"], second[0]["kind"]) == ("begin", "end")
    journal.acknowledge(first[1])
    assert [event["kind"] for event, _ in journal.unsent()] == ["end"]
    assert not journal.whole
    journal.acknowledge(second[1])
    assert journal.whole
    assert journal.finished
    journal.remove()
    journal.write("begin", params={})
    assert [event["kind"] for event, _ in Journal(tmp_path).unsent()] == ["begin"]
    assert not journal.finished


def test_a_folder_may_go_once_it_is_written(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "bundle.json").write_text(json.dumps({"labels": []}))
    journal = Journal(tmp_path / "journal", RUN)
    journal.write_folder(bundle, "bundle")
    (bundle / "bundle.json").unlink()
    ((event, _),) = journal.unsent()
    assert (journal.artifacts(event) / "bundle" / "bundle.json").read_text() == '{"labels": []}'


def test_the_process_of_a_resumed_run_is_the_new_one(tmp_path: Path) -> None:
    Journal(tmp_path, {**RUN, "tags": {"pid": "1"}, "time": 7}).write("begin", params={})
    Journal(tmp_path, {**RUN, "tags": {"pid": "2"}, "time": 9}).write("begin", params={})
    assert Journal(tmp_path).run == {**RUN, "tags": {"pid": "2"}, "time": 7}
