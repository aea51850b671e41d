"""Results saved in their own formats, a folder for each file; pages; options of predict; names that collide."""

import json
import re

import models
import pytest

from ascend_parallel import DiskError, UsageError, WorkerError, parallel_map
from ascend_parallel.worker.pipelines import formats as result_formats
from ascend_parallel.worker.pipelines.pages import JoinedMarkdown

from . import folders, pipelines


def run(tmp_path, *words, names=("a.png", "sub/a.jpg", "doc.pdf"), pipeline="formats", out="out"):
    folders.fill(tmp_path / "in", names)
    words = [folders.pipeline(pipeline), "--input-dir", "in", "--recursive", "--output-dir", out, *words]
    return folders.command(*words, "--devices", "cpu:0,1", cwd=tmp_path)


def test_each_file_has_a_folder_and_each_page_one_in_it(tmp_path):
    done = run(tmp_path, "--save", "json,markdown,html", "--batch-size", 3)
    assert done.returncode == 0, folders.stderr_of(done)
    page = [f"doc.pdf/page_{number}/{name}" for number in range(3) for name in ("doc.md", "doc_res.json")]
    page += [f"doc.pdf/page_{number}/imgs/doc_cut.png" for number in range(3)]
    single = [f"{name}/{file}" for name in ("a.png", "sub/a.jpg") for file in ("a.md", "a_res.json", "imgs/a_cut.png")]
    assert folders.outputs(tmp_path / "out") == sorted(page + single)
    assert (tmp_path / "out/doc.pdf/page_2/doc_res.json").read_text() == "in/doc.pdf page 2"
    listed = folders.manifest(tmp_path / "out")
    assert sorted(name for entry in listed.values() for name in entry["outputs"]) == sorted(page + single)
    assert not list((tmp_path / "out").rglob(".partial*"))
    assert "note:" not in folders.stderr_of(done)


def test_what_a_result_lacks_is_said_once(tmp_path):
    names = [f"{number}.png" for number in range(20)]
    done = run(tmp_path, "--save", "json,xlsx,csv", names=names)
    assert done.returncode == 0, folders.stderr_of(done)
    notes = re.findall("note: .*", folders.stderr_of(done))
    assert notes == [f"note: results of type Formats have no {name}: none is saved" for name in ("xlsx", "csv")]


def test_what_a_result_lacks_is_one_warning_in_python(tmp_path):
    folders.fill(tmp_path / "in", [f"{number}.png" for number in range(20)])
    outcomes = parallel_map(
        *(folders.pipeline("formats"), tmp_path / "in"),
        **{"devices": "cpu:0,1", "output_dir": tmp_path / "out", "save": ["json", "csv"]},
    )
    with pytest.warns(UserWarning) as caught:
        assert all(outcome.ok for outcome in outcomes)
    assert [str(each.message) for each in caught] == ["results of type Formats have no csv: none is saved"]
    assert caught[0].filename == __file__


def test_all_is_what_a_result_offers_and_what_cannot_be_imported_is_said_once(tmp_path):
    done = run(tmp_path, "--save", "all", names=["a.png", "b.png"])
    assert done.returncode == 0, folders.stderr_of(done)
    assert {name.split("/")[1] for name in folders.outputs(tmp_path / "out") if name.startswith("a")} == {
        *("a.md", "a_res.json", "a_img.png", "imgs")
    }
    (note,) = re.findall("note: .*", folders.stderr_of(done))
    assert note == "note: word is not saved: ImportError: No module named 'docx'"


def test_a_format_that_was_asked_for_and_fails_is_a_failure_that_leaves_nothing(tmp_path):
    done = run(tmp_path, "--save", "json,word", names=["a.png"])
    assert done.returncode == 1
    assert "a.png: ImportError: No module named 'docx'" in folders.stderr_of(done)
    assert folders.outputs(tmp_path / "out") == []
    assert not list((tmp_path / "out").rglob(".partial*"))


def test_a_batch_is_saved_as_a_whole_or_file_by_file(tmp_path):
    names = ["1.png", "2.png", "bad.png", "unsaved.png"]
    done = run(tmp_path, "--save", "json,img", "--batch-size", 4, names=names)
    assert done.returncode == 1
    text = folders.stderr_of(done)
    assert "2 of 4 files failed" in text
    assert "unsaved.png: FileNotFoundError: [Errno 2] No such file or directory: '/fonts/a.ttf'" in text
    assert {name.split("/")[0] for name in folders.outputs(tmp_path / "out")} == {"1.png", "2.png"}
    assert not list((tmp_path / "out").rglob(".partial*"))


def test_a_full_disk_ends_the_run(tmp_path):
    folders.fill(tmp_path / "in", ["a.png", "full.png"])
    outcomes = parallel_map(
        *(folders.pipeline("formats"), tmp_path / "in"), devices="cpu:0", output_dir=tmp_path / "out", save="img"
    )
    with pytest.raises(DiskError, match="No space left on device"):
        list(outcomes)
    assert not list((tmp_path / "out").rglob(".partial*"))


def test_results_that_cannot_save_themselves_are_failures(tmp_path):
    done = run(tmp_path, "--save", "json", names=["a.png"], pipeline="describe")
    assert done.returncode == 1
    assert "a.png: TypeError: the result is a dict, which cannot be saved as json: it has no methods save_to_" in (
        folders.stderr_of(done)
    )


def test_files_of_the_user_in_a_folder_stay(tmp_path):
    folders.fill(tmp_path / "out", ["a.png/mine.txt", "a.png/a_res.json"])
    done = run(tmp_path, "--save", "json", names=["a.png"])
    assert done.returncode == 0, folders.stderr_of(done)
    assert folders.outputs(tmp_path / "out") == ["a.png/a_res.json", "a.png/mine.txt"]
    assert (tmp_path / "out/a.png/a_res.json").read_text() == "in/a.png page None"


def test_a_resumed_run_removes_folders_that_a_killed_one_left_and_must_save_the_same(tmp_path):
    assert run(tmp_path, "--save", "json", names=["a.png"]).returncode == 0
    folders.fill(tmp_path / "out", [".partial-1-0/x/page_0/x.json", "sub/.partial-1-1/y.json"])
    folders.fill(tmp_path / "in", ["b.png"])
    other = run(tmp_path, "--save", "json,img", "--resume", names=["b.png"])
    assert "save ['json'], not ['json', 'img']" in folders.stderr_of(other)
    done = run(tmp_path, "--save", "json", "--resume", names=["b.png"])
    assert done.returncode == 0, folders.stderr_of(done)
    assert folders.outputs(tmp_path / "out") == ["a.png/a_res.json", "b.png/b_res.json"]


def test_a_worker_has_a_note_for_each_of_its_runs_only_once(tmp_path):
    saver = result_formats.FormatSaver(str(tmp_path), ["json", "csv"])
    for number in range(3):
        partial = saver.begin(f"{number}.png")
        saver.save(partial, None, pipelines.Formats(input_path=f"{number}.png", page_index=None))
        assert saver.publish(partial, f"{number}.png") == [f"{number}.png/{number}_res.json"]
    assert saver.notes == ["results of type Formats have no csv: none is saved"]


# ---- pages


@pytest.mark.parametrize("pages", ["separate", "restructured", "joined"])
def test_pages_of_a_document(tmp_path, pages):
    words = ["--pages", pages, "--output-format", "jsonl", "--batch-size", 2]
    done = run(tmp_path, *words, names=["doc.pdf", "more.pdf"], pipeline="Restructuring")
    assert done.returncode == 0, folders.stderr_of(done)
    lines = [json.loads(text) for text in (tmp_path / "out/results.jsonl").read_text().splitlines()]
    assert {line["file"]: len(line["results"]) for line in lines} == dict.fromkeys(
        ["doc.pdf", "more.pdf"], 1 if pages == "joined" else 3
    )
    for line in lines:
        assert {result["input_path"] for result in line["results"]} == {f"in/{line['file']}"}
        assert {result.get("restructured", False) for result in line["results"]} == {pages == "restructured"}


def test_pages_that_a_pipeline_does_not_offer_are_an_error_at_once(tmp_path):
    done = run(tmp_path, "--pages", "joined")
    assert done.returncode == 3
    words = "formats has no method that restructures or joins pages: it offers pages separate only"
    assert words in folders.stderr_of(done)
    assert not (tmp_path / "out").exists()


def test_pictures_of_pages_with_the_same_name_are_kept_apart(tmp_path):
    from PIL import Image

    class Page(dict):
        @property
        def markdown(self):
            image = Image.new("RGB", (1, 1), (self["page_index"], 0, 0))
            text = f"page {self['page_index']} ![](imgs/a.png)"
            return {"markdown_texts": text, "markdown_images": {"imgs/a.png": image}}

    pages = [Page(input_path="in/doc.pdf", page_index=number) for number in range(3)]
    joined = JoinedMarkdown(pages, lambda texts: "\n\n".join(text["markdown_texts"] for text in texts))
    joined.save_to_markdown(str(tmp_path))
    links = re.findall(r"page (\d) !\[\]\((.*?)\)", (tmp_path / "doc.md").read_text())
    assert [int(number) for number, _ in links] == [0, 1, 2]
    for number, link in links:
        assert Image.open(tmp_path / link).getpixel((0, 0)) == (int(number), 0, 0)


# ---- options of predict


def test_options_of_predict_are_passed_on(tmp_path):
    folders.fill(tmp_path / "in", ["a.png"])
    (outcome,) = parallel_map(
        *(folders.pipeline("formats"), tmp_path / "in"), devices="cpu:0", predict_options={"scale": 5}
    )
    assert outcome.result["scale"] == 5


def test_an_option_that_predict_does_not_take_is_an_error_at_once(tmp_path):
    done = run(tmp_path, "--predict-option", "scal=5")
    assert done.returncode == 3
    assert "formats has no option 'scal'; did you mean scale? it has: scale" in folders.stderr_of(done)
    assert not (tmp_path / "out").exists()


# ---- mistakes


MISTAKES = {
    "unknown format": ({"save": "json,docx"}, "save names 'docx'; expected one or more of json, img"),
    "twice": ({"save": "json,json"}, "each of json, .* once at most"),
    "all and more": ({"save": ["all", "json"]}, "and all alone"),
    "jsonl": ({"save": "json", "output_format": "jsonl"}, "not the output_format jsonl"),
    "pages": ({"pages": "merged"}, "pages is 'merged'; expected"),
    "input": ({"predict_options": {"input": "x"}}, "the input is the files"),
    "share_weights": ({"share_weights": True}, "share_weights goes with model files only"),
}


@pytest.mark.parametrize(("words", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_found_before_anything_is_started(tmp_path, words, message):
    folders.fill(tmp_path / "in", ["a.png"])
    with pytest.raises(UsageError, match=message):
        parallel_map(folders.pipeline("formats"), tmp_path / "in", output_dir=tmp_path / "out", **words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", [{"save": "json"}, {"pages": "joined"}, {"predict_options": {"a": 1}}], ids=str)
def test_options_of_pipelines_do_not_go_with_model_files(tmp_path, option):
    folders.fill(tmp_path / "in", ["a.npy", "../m.onnx"])
    with pytest.raises(UsageError, match=f"{next(iter(option))} goes with pipelines only"):
        parallel_map(str(tmp_path / "m.onnx"), tmp_path / "in", output_dir=tmp_path / "out", **option)


def test_names_that_collide_are_found_before_anything_is_started(tmp_path):
    """Page 0 of ``x`` and ``x_0`` would both be x_0.json."""
    folders.fill(tmp_path / "in", ["x", "x_0", "x_00", "x_y"])
    with pytest.raises(UsageError, match=r"page 0 of x and x_0 itself would both be saved as x_0\.json: rename one"):
        parallel_map(folders.pipeline("formats"), tmp_path / "in", output_dir=tmp_path / "out", devices="cpu:0")
    assert not (tmp_path / "out").exists()
    for option in ({"save": "json"}, {"output_format": "jsonl"}):
        outcomes = list(
            parallel_map(
                *(folders.pipeline("formats"), tmp_path / "in"),
                **{"output_dir": tmp_path / next(iter(option)), "devices": "cpu:0", **option},
            )
        )
        assert [outcome.ok for outcome in outcomes] == [True] * 4


def test_a_folder_for_a_file_that_is_called_like_the_manifest_is_refused(tmp_path):
    folders.fill(tmp_path / "in", ["manifest.jsonl"])
    with pytest.raises(UsageError, match="would be the run's own file"):
        parallel_map(folders.pipeline("formats"), tmp_path / "in", output_dir=tmp_path / "out", save="json")


def test_the_device_types_of_paddle_reach_pipelines_and_no_model_files(tmp_path):
    folders.fill(tmp_path / "in", ["a.png"])
    (outcome,) = parallel_map(folders.pipeline("describe"), tmp_path / "in", devices="iluvatar_gpu:1")
    assert outcome.result["device"] == outcome.device == "iluvatar_gpu:1"
    with pytest.raises(UsageError, match="does not run on mlu:0"):
        parallel_map(str(models.linear()), tmp_path / "in", devices="mlu:0")


def test_errors_of_the_pipeline_are_errors_of_workers(tmp_path):
    folders.fill(tmp_path / "in", ["a.png"])
    with pytest.raises(WorkerError, match="scal"):
        list(parallel_map(folders.pipeline("formats"), tmp_path / "in", devices="cpu:0", predict_options={"scal": 1}))
