"""benchmarks/gpu.py without a GPU: what it counts and compares, that it resumes and stops."""

import json
import os
import signal
import subprocess
import sys
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.data.coco import write_coco
from pipeline.errors import DescryError

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from gpu_pieces import bits, child, memory, rate, steps, store, study, throughput
from gpu_pieces.arms import PEERS, R50, TIMM, arms, ours, peer, synthetic
from gpu_pieces.child import answer
from gpu_pieces.command import main, wanted_batches
from gpu_pieces.gains import run as gains
from gpu_pieces.runner import OutOfTime, Runner, launch
from gpu_pieces.store import Place
from gpu_pieces.summary import differs, study_means, summary, table
from gpu_pieces.units import COMPILED, FULL, TINY, UNCOMPILED, Unit, planned

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
VIT = partial(ours, "vit", "micro", enhanced=False)
TRAINING = {"device": "cpu", "recipe": "sample", "epochs": 1, "workers": 0}
STUDY = TRAINING | {"side": 64, "arm": "full", "seed": 1}
DEVICE = {"name": "none", "torch": "0"}


@pytest.fixture(autouse=True)
def lenient_again():
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True


def test_a_plan_has_one_name_per_unit_and_every_backbone():
    units = planned(FULL, ["vit", "new"], "cuda")
    names = [(u.piece, u.name) for u in units]
    assert len(names) == len(set(names))
    assert [n for p, n in names if p == "bits"] == [
        "vit", "new", "descry-train-fp32", "descry-train-bf16",
    ]  # fmt: skip
    assert [n for p, n in names if p == "memory"] == [
        "512px-fp32", "512px-bf16", "800px-fp32", "800px-bf16",
    ]  # fmt: skip
    runs = [n for p, n in names if p == "study"]
    assert len(runs) == 2 * 6 * 3
    assert runs[:2] == ["paper-baseline-seed0", "paper-wider-seed0"]
    assert all(u.parameters["device"] == "cuda" and u.seconds < 600 for u in units)


def test_what_may_take_minutes_to_compile_comes_last_and_apart():
    names = [(u.kind, u.parameters.get("variants", u.name)) for u in planned(FULL, ["vit"], "cuda")]
    compiled = [("gains", list(COMPILED))] * 3
    assert names[-5:] == [("rate", "rate"), *compiled, ("rate", "rate-compiled")]
    assert names.count(("gains", list(UNCOMPILED))) == 3


def test_strict_units_choose_the_workspace_before_cuda_starts_and_timed_ones_do_not():
    for unit in planned(FULL, ["vit"], "cuda"):
        strict = unit.kind in ("bits", "training", "study", "gains")
        assert ("CUBLAS_WORKSPACE_CONFIG" in unit.environment) == strict


@pytest.mark.parametrize("text", ["512", "512:", "x:4", "512:0", "16:4", "512:16,"])
def test_a_wrong_batch_is_refused(text):
    with pytest.raises(DescryError, match="side:images"):
        wanted_batches(text)


def test_batches_and_pieces_are_read(capsys):
    assert wanted_batches("512:16,800:8") == ((512, 16), (800, 8))
    assert main("", ["--pieces", "bits,speed"]) == 2
    assert "'speed' is none of bits, throughput, memory, study" in capsys.readouterr().err
    assert main("", ["--num-shards", "2", "--shard", "2"]) == 2
    assert "--shard 2: must be 0 to 1" in capsys.readouterr().err
    assert main("", ["--num-shards", "2", "--pieces", "throughput"]) == 2
    assert "throughput needs the device for itself" in capsys.readouterr().err


def test_turns_go_forward_and_back():
    order = []
    actions = {name: partial(order.append, name) for name in "abc"}
    times = steps.take_turns(actions, "cpu", rounds=2, visit=1)
    assert "".join(order) == "abccba"
    assert {name: len(values) for name, values in times.items()} == {"a": 2, "b": 2, "c": 2}


def test_spread_and_ratios():
    assert steps.spread([3.0, 1.0, 2.0, 5.0, 4.0]) == {
        "low quartile": 2.0, "median": 3.0, "high quartile": 4.0,
    }  # fmt: skip
    assert steps.spread([2.0])["median"] == 2.0
    # a device that gets slower and slower: 1, 2, 4 against 2, 4, 8 is one half in every round
    assert steps.ratios([1, 2, 4], [2, 4, 8])["high quartile"] == 0.5


def test_what_cannot_be_done_gives_its_reason():
    def no_memory():
        raise torch.OutOfMemoryError("CUDA out of memory")

    def no_kernel():
        raise RuntimeError("f does not have a deterministic implementation")

    assert steps.attempt(list, "cpu") is None
    assert "smaller batch" in steps.attempt(no_memory, "cpu")
    assert "f does not have" in steps.attempt(no_kernel, "cpu")
    with pytest.raises(KeyError):  # an error of ours is no result
        steps.attempt({}.popitem, "cpu")


def test_synthetic_batches_repeat_and_end_with_a_negative():
    images, targets = synthetic(64, 3, "cpu")
    again, _ = synthetic(64, 3, "cpu")
    assert images.dtype == torch.uint8 and images.shape == (3, 3, 64, 64)
    assert torch.equal(images, again)
    assert [len(t["boxes"]) for t in targets] == [8, 8, 0]
    boxes = targets[0]["boxes"]
    assert (boxes[:, 2:] > boxes[:, :2]).all() and (boxes <= 64).all() and (boxes >= 0).all()


def test_bits_are_equal_twice_and_their_digest_tells_weights_apart():
    # not 64 px: there oneDNN reads unset memory in bf16 (docs/how-to/training.md)
    found = bits.run("cpu", "vit", 96, 2, 2)
    assert not differs(found)
    for verdict in found.values():
        assert verdict["losses"] == verdict["losses again"] and len(verdict["losses"]) == 2
        assert verdict["losses"][0] != verdict["losses"][1]  # it trained
    assert found["fp32"]["sha256"] != found["bf16"]["sha256"]


def test_other_bits_the_second_time_are_found(monkeypatch):
    results = iter([(["0x1"], {"w": torch.zeros(2)}), (["0x1"], {"w": torch.tensor([0, 1e-9])})])
    monkeypatch.setattr(bits, "trained", lambda *_: next(results))
    verdict = bits._verdict("cpu", "vit", 64, 2, 1, "fp32")
    assert not verdict["equal"] and verdict["first of them"] == ["w"]


def test_an_operation_without_deterministic_form_is_named(monkeypatch):
    text = "f_cuda does not have a deterministic implementation"

    def step(self):
        if not torch.is_deterministic_algorithms_warn_only_enabled():
            raise RuntimeError(text)
        warnings.warn(text, stacklevel=1)
        attention = "Memory Efficient attention defaults to a non-deterministic algorithm"
        warnings.warn(attention, stacklevel=1)  # there is another one, which strict mode takes
        return torch.zeros(())

    monkeypatch.setattr(steps.Trainee, "step", step)
    found = bits.run("cpu", "vit", 64, 1, 1)
    assert differs(found)
    assert found["fp32"]["error"].startswith("f_cuda does not have")
    assert found["bf16"]["warnings in lenient mode"] == [text]


def few_arms(families, side, small):
    def failing():
        model = VIT()

        def forward(*_):
            raise RuntimeError("no such kernel")

        model.forward = forward
        return model

    return {"vit-micro": VIT, "vit-micro+acp+cat": VIT, R50: VIT, "other": failing}


def test_throughput_compares_with_every_peer_and_says_who_is_left_out(monkeypatch):
    monkeypatch.setattr(throughput, "arms", few_arms)
    found = throughput.run("cpu", 64, 2, "fp32", ["vit"], True, rounds=2, visit=1, warm_up=1)
    assert set(found["arms"]) == {"vit-micro", "vit-micro+acp+cat", R50}
    assert found["arms"][R50]["speed against"][R50]["median"] == 1.0
    assert "time against its baseline" in found["arms"]["vit-micro+acp+cat"]
    assert "no such kernel" in found["left out"]["other"]
    assert found["left out"][TIMM] == "timm is not installed"
    figures = found["arms"]["vit-micro"]
    # two images a step
    speed, step = figures["images per second"], figures["milliseconds per step"]
    assert speed["low quartile"] == pytest.approx(2000 / step["high quartile"], rel=0.2)


def test_memory_is_not_invented_on_a_cpu(monkeypatch):
    monkeypatch.setattr(memory, "arms", few_arms)
    found = memory.run("cpu", 64, 2, "bf16", ["vit"], True)
    assert found["arms"]["vit-micro"] == {"peak in MiB": None}
    assert "no such kernel" in found["arms"]["other"]["left out"]
    assert "CUDA" in found["note"]


def test_flops_of_a_product_are_two_a_multiplication():
    a, b = torch.ones(3, 5), torch.ones(5, 7)
    assert sum(rate.counted(lambda: a @ b).values()) == 2 * 3 * 5 * 7


def test_the_rate_and_the_share_of_it():
    eager, compiled = (rate.run("cpu", 64, 1, True, 2, 1, 1, 32, how) for how in ("", "eager"))
    for found in (eager, compiled):
        for figures in found["vit-base bf16"].values():
            expected = figures["TFLOP/s"] / found["matrix rate in TFLOP/s"]["median"]
            assert figures["share"] == pytest.approx(expected, rel=1e-3, abs=1e-4)
    backbone, detector = (eager["vit-base bf16"][name] for name in ("backbone", "detector"))
    assert compiled["vit-base bf16"]["detector"]["GFLOP"] == detector["GFLOP"] > backbone["GFLOP"]


@pytest.mark.slow
def test_every_switch_is_measured_against_the_base():
    variants = [*UNCOMPILED, *COMPILED]
    found = gains("cpu", "vit", 64, 1, True, 2, 1, 1, variants, "eager")
    assert list(found["variants"]) == ["base", *variants] and found["left out"] == {}
    assert set(found["variants"]["fused AdamW"]) == {"images per second", "gain"}
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("name", PEERS)
def test_peers_train_on_the_same_batch_without_resizing(name):
    assert name in arms(["vit"], 64, True)
    trainee = steps.Trainee(peer(name, 64), *synthetic(64, 2, "cpu"), "fp32")
    assert torch.isfinite(trainee.step())
    images, _ = trainee.model.transform([torch.zeros(3, 64, 64)])
    assert images.tensors.shape == (1, 3, 64, 64)
    levels = trainee.model.backbone(torch.zeros(1, 3, 64, 64))
    assert [tuple(m.shape[2:]) for m in levels.values()] == [(8, 8), (4, 4), (2, 2), (1, 1), (1, 1)]


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path, DEVICE, {"processor": "p"}, {"torch": "0"})


def unit(name="one", seconds=10.0, **parameters):
    return Unit("study", "study", name, {"recipe": "r", **parameters}, seconds, {})


class World:
    """A clock and processes that take as long as told."""

    def __init__(self, *answers):
        self.now, self.answers, self.asked = 0.0, list(answers), []

    def launch(self, kind, parameters, environment, limit):
        self.asked.append(parameters)
        seconds, answer = self.answers.pop(0)
        self.now += min(seconds, limit)
        if seconds > limit:
            raise OutOfTime
        return answer

    def runner(self, place, limit=float("inf")):
        return Runner(place, limit, launch=self.launch, clock=lambda: self.now, say=str)


DONE = {"status": "done", "result": {"x": 1}}


def test_a_package_for_training_that_comes_later_undoes_no_timing(place):
    later = replace(place, versions=place.versions | {"albumentations": "2.0.8"})
    newer = replace(place, versions={"torch": "1"})
    timing = Unit("throughput", "throughput", "t", {}, 1, {})
    assert place.key(timing) == later.key(timing) != newer.key(timing)
    assert len({where.key(unit()) for where in (place, later, newer)}) == 3


def test_a_result_belongs_to_the_code_that_decides_over_it(place, monkeypatch):
    monkeypatch.setattr(
        store, "tree_hash", lambda root, files: {str(f.relative_to(root)) for f in files}
    )
    assert set(store.MODULES) == set(child.KINDS) - {"probe", "convert"}
    timing, trained = place.code(Unit("throughput", "gains", "g", {}, 1, {})), place.code(unit())
    assert "pipeline/models/backbones/vit.py" in timing & trained
    assert "benchmarks/gpu_pieces/gains.py" in timing - trained
    assert {"params.yaml", "pipeline/train/run.py"} <= trained
    assert "pipeline/convert/datasets/ccellbio.py" in trained
    assert not any(name.startswith(("pipeline/train", "pipeline/html")) for name in timing)


def test_what_is_done_is_not_done_again_unless_its_key_changed(place):
    world = World((5, DONE), (5, DONE), (5, DONE))
    world.runner(place).run([unit(seed=0)])
    world.runner(place).run([unit(seed=0)])
    assert len(world.asked) == 1 and world.asked[0]["coco"] == ""
    record = json.loads(place.path(unit()).read_text())
    assert (record["status"], record["seconds"], record["result"]) == ("done", 5.0, {"x": 1})
    world.runner(place).run([unit(seed=1)])
    world.runner(replace(place, versions={"torch": "1"})).run([unit(seed=1)])
    assert len(world.asked) == 3


def test_a_failed_or_cut_unit_is_tried_again(place):
    world = World((5, {"status": "failed", "reason": "no"}), (5, DONE), (5, DONE))
    runner = world.runner(place)
    runner.run([unit()])
    assert runner.left == {"study/one": "failed: no"} and not place.done(unit())
    world.runner(place).run([unit()])
    assert place.done(unit())
    place.path(unit()).write_text('{"key": ')
    world.runner(place).run([unit()])
    assert place.done(unit()) and len(world.asked) == 3


def test_a_unit_that_does_not_fit_is_not_started_and_durations_are_learnt(place):
    world = World((50, DONE), (50, DONE))
    runner = world.runner(place, limit=140)  # 15 of them are kept back
    runner.run([unit("a"), unit("b"), unit("c")])
    # after a: 75 left, 50 expected; after b: 25 left
    assert len(world.asked) == 2
    assert list(runner.left) == ["study/c"] and "50 s do not fit" in runner.left["study/c"]


def test_a_unit_that_takes_too_long_is_stopped_and_leaves_nothing(place):
    world = World((900, DONE))
    runner = world.runner(place, limit=115)
    runner.run([unit()])
    assert world.now == 100 and "stopped after 100 s" in runner.left["study/one"]
    assert not place.path(unit()).exists()


def test_code_that_changes_meanwhile_spoils_the_result(place, monkeypatch):
    keys = iter(["a", "b"])
    monkeypatch.setattr(Place, "record", lambda *_: None)
    monkeypatch.setattr(Place, "key", lambda *_: next(keys, "b"))
    runner = World((5, DONE)).runner(place)
    runner.run([unit()])
    assert "changed while it ran" in runner.left["study/one"]


def test_a_missing_package_is_named_and_skips_the_unit(monkeypatch):
    monkeypatch.setitem(sys.modules, "gpu_pieces.rate", None)
    assert answer("rate", {})["status"] == "skipped"
    assert "gpu_pieces.rate" in answer("rate", {})["reason"]


def test_the_study_names_all_packages_that_it_lacks(monkeypatch):
    monkeypatch.setattr(study, "NEEDED", ("torch", "no_such_one", "nor_this"))
    for kind, parameters in (("convert", {"raw": "", "out": ""}), ("study", STUDY | {"coco": ""})):
        reply = answer(kind, parameters)
        assert reply["status"] == "skipped" and "no_such_one, nor_this" in reply["reason"]


def test_an_error_that_nobody_thought_of_is_the_units_result(monkeypatch):
    monkeypatch.setattr("gpu_pieces.probe.run", lambda device: {}[device])
    assert answer("probe", {"device": "cpu"}) == {"status": "failed", "reason": "KeyError: 'cpu'"}


def test_a_unit_ends_with_the_command_that_started_it():
    inner = "import os, threading, time; from gpu_pieces.child import _end_with_parent\n"
    inner += "threading.Thread(target=_end_with_parent, daemon=True).start()\n"
    inner += "print(os.getpid(), flush=True); time.sleep(30); print('still here')"
    outer = "import sys; from gpu_pieces.runner import _run\n"
    outer += f"_run([sys.executable, '-c', {inner!r}], {{}}, 60)"
    paths = {"PYTHONPATH": f"{BENCHMARKS}{os.pathsep}{BENCHMARKS.parent}"}
    with subprocess.Popen(
        [sys.executable, "-c", outer], env=os.environ | paths, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline().strip().isdecimal()
        process.send_signal(signal.SIGKILL)
        assert process.stdout.read() == ""  # until the unit, too, has let go of it


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_way_out_is_named():
    assert "--device cpu --tiny" in answer("probe", {"device": "cuda"})["reason"]


def test_all_but_the_study_do_without_what_only_training_and_conversion_need():
    names = "arms bits child command gains memory probe rate runner steps store summary throughput"
    script = "import sys, importlib\n"
    script += f"for name in {names.split()}: importlib.import_module('gpu_pieces.' + name)\n"
    heavy = ("albumentations", "pycocotools", "pydicom", "monai", "dvc", "h5py")
    script += f"print([name for name in {heavy} if name in sys.modules])"
    root = BENCHMARKS.parent
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": f"{BENCHMARKS}{os.pathsep}{root}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


def test_the_study_converts_without_what_the_gpu_machine_lacks(tmp_path):
    lacking = ("monai", "pydicom", "pycocotools", "dvc", "h5py", "gdcm", "highdicom")
    missing = "".join(f"sys.modules[{name!r}] = None\n" for name in lacking)
    (tmp_path / "sitecustomize.py").write_text(f"import sys\n{missing}")  # for its workers too
    raw = BENCHMARKS.parent / "datasets/ccellbio/sample"
    script = f"from gpu_pieces.study import convert; print(convert({str(raw)!r}, 'coco')['line'])"
    path = os.pathsep.join(map(str, (tmp_path, BENCHMARKS, BENCHMARKS.parent)))
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "364 images in, 364 out" in done.stdout


def test_means_over_seeds():
    units = [unit(f"r-full-seed{seed}", arm="full", seed=seed) for seed in (0, 1, 2)]
    results = {
        u.name: {"test": {"AP": 0.1 * (i + 1), "AP50": 0.5}, "parameters": 7}
        for i, u in enumerate(units)
    }
    (figures,) = study_means(units, results)["r"].values()
    assert figures["AP"]["mean"] == 0.2 and figures["AP"]["standard deviation"] == 0.1
    assert figures["AP50"]["standard deviation"] == 0 and figures["seeds"] == 3


def test_different_bits_fail_the_whole_command(place):
    work = Unit("bits", "bits", "vit", {}, 1, {})
    verdict = {"equal": False, "losses": []}
    place.write(work, {"status": "done", "result": {"fp32": verdict}}, 1)
    result = summary(place, [work, unit()], {}, tiny=False)
    assert result["failed"] == ["bits/vit"] and result["left"] == {"study/one": "not done"}
    assert "DIFFERENT" in table(result)


@pytest.fixture(scope="module")
def squares(tmp_path_factory) -> Path:
    """A bright square on each of a few dark images."""
    folder = tmp_path_factory.mktemp("squares")
    (folder / "images").mkdir()
    for split, count in (("train", 3), ("val", 2), ("test", 2)):
        images, annotations = [], []
        for i in range(count):
            pixels = np.full((64, 64), 30, dtype=np.uint8)
            pixels[8 : 28 + i, 8:28] = 200
            Image.fromarray(pixels).save(folder / "images" / f"{split}{i}.png")
            images.append({"file_name": f"{split}{i}.png", "width": 64, "height": 64})
            box = {"image_id": i + 1, "category_id": 1, "bbox": [8, 8, 20, 20 + i]}
            annotations.append(box)
        write_coco(
            folder / f"annotations/{split}.json",
            info={},
            licenses=[],
            categories=[("square", "")],
            images=images,
            annotations=annotations,
        )
    return folder


def test_a_run_of_the_study_trains_and_tests_its_arm(squares):
    found = {}
    for arm in ("baseline", "full"):
        reply = answer("study", STUDY | {"arm": arm, "coco": str(squares)})
        assert reply["status"] == "done", reply
        found[arm] = reply["result"]
    assert found["full"]["test"]["images"] == 2 and "AP50" in found["full"]["test"]
    assert found["full"]["parameters"] > found["baseline"]["parameters"]
    assert "model.pool_layers=0" in found["baseline"]["overrides"]
    reply = answer("study", STUDY | {"arm": "none", "coco": str(squares)})
    assert reply["status"] == "skipped" and "baseline" in reply["reason"]


def test_training_twice_compares_all_files_but_the_times(monkeypatch):
    runs = []

    def fake(given, coco, folder, workers):
        (folder / "train").mkdir()
        (folder / "test").mkdir()
        (folder / "train/model.safetensors").write_text("weights")
        (folder / "train/timing.csv").write_text(str(len(runs)))
        (folder / "test/metrics.json").write_text(figures[len(runs)])
        runs.append(workers)

    monkeypatch.setattr(study, "train_and_test", fake)
    arguments = TRAINING | {"side": 96, "precision": "fp32", "coco": ""}
    figures = ["1", "1", "1", "2"]
    verdict = study.twice(**arguments)["fp32"]
    assert verdict["equal"] and verdict["files"] == 2 and runs == [0, 1]
    verdict = study.twice(**arguments)["fp32"]
    assert not verdict["equal"] and verdict["different"] == ["test/metrics.json"]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_and_evaluation_write_the_same_files_twice(squares, precision):
    values = TRAINING | {"side": 96, "precision": precision, "coco": str(squares)}
    reply = answer("training", values)
    assert reply["status"] == "done", reply
    assert not differs(reply["result"]) and reply["result"][precision]["files"] > 10


@pytest.mark.slow
def test_a_process_that_takes_too_long_is_ended():
    with pytest.raises(OutOfTime):
        launch("probe", {"device": "cpu"}, {}, 0.05)


@pytest.mark.slow
def test_the_whole_command_as_a_smoke_test(squares, tmp_path):
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--device", "cpu", "--tiny"]
    command += ["--out", str(tmp_path), "--coco", str(squares), "--pieces", "memory,study"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "summary.json").read_text())
    assert set(result["pieces"]) == {"memory", "study"}
    assert set(result["study"]["sample"]) == set(TINY.study_arms)
    assert "a smoke test" in done.stdout
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert again.stdout.count("there already") == again.stdout.count("/") - len(result["left"])
