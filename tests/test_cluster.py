"""A Ray cluster gives the bytes of one process, also when a node dies under it."""

import sys

import pytest
import torch
from dicom_factory import ROOT, write
from predict_factory import content, spot, tiny_model
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.errors import DescryError
from pipeline.models.exported import open_model
from pipeline.predict.options import Options
from pipeline.predict.run import predict_folder
from pipeline.stages import cluster


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Forty slices of two series against the order of names, a broken file and a note."""
    folder = tmp_path_factory.mktemp("in")
    for i in range(40):
        write(
            folder / f"{i:02d}.dcm",
            spot(at=(i % 30, i % 20, 4, 5)),
            SOPInstanceUID=f"{ROOT}{100 + i}",
            SeriesInstanceUID=f"{ROOT}{3 + i % 2}",
            ImagePositionPatient=[0, 0, -float(i)],
            ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
        )
    (folder / "a.dcm").write_bytes(b"broken")
    (folder / "b.txt").write_text("a note")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    tiny_model().save(path)
    return path


@pytest.fixture
def two_nodes(monkeypatch):
    ray = pytest.importorskip("ray", reason="needs Ray: pip install 'descry[ray]'")
    utils = pytest.importorskip("ray.cluster_utils")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # else they wait for whatever else is running
    settings = {"num_cpus": 2, "object_store_memory": 80 * 2**20}
    nodes = utils.Cluster(initialize_head=True, head_node_args=settings)
    nodes.second = nodes.add_node(**settings)
    monkeypatch.setenv("RAY_ADDRESS", nodes.address)
    yield nodes
    ray.shutdown()
    nodes.shutdown()


@pytest.mark.slow
def test_two_nodes_give_the_bytes_of_one_process_and_one_may_die(
    folder, model, two_nodes, tmp_path, monkeypatch
):
    whole = Options(workers=1, batch_size=3, num_shards=1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        predict_folder(
            folder, tmp_path / "whole", open_model(model), options=whole, device="cpu, 1 threads"
        )
    finally:
        torch.set_num_threads(threads)
    killed = []

    class Watched(cluster.Progress):
        def __call__(self, done, total, note=""):
            super().__call__(done, total, note)
            if self.what_is == "predict" and 0 < done < total and not killed:
                killed.append(done)
                two_nodes.remove_node(two_nodes.second)

        def __init__(self, what, *more):
            self.what_is = what
            super().__init__(what, *more)

    monkeypatch.setattr(cluster, "Progress", Watched)
    asked = Options(batch_size=3, num_shards=10)
    done = cluster.predict(folder, tmp_path / "out", model, asked, "cpu", 2)
    assert killed and done.counts["files"] == 42 and done.counts["processed"] == 40
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    assert not (tmp_path / "out.shards").exists()


def test_what_a_cluster_is_not_for_is_refused(folder, model, tmp_path):
    command = ["predict", str(folder), "-o", str(tmp_path / "o"), "--checkpoint", str(model)]
    for more, words in (
        (["--engine", "spark"], "--engine spark: must be one of local, ray"),
        (["--engine", "ray", "--shard", "1", "--num-shards", "2"], "leave out"),
        (["--engine", "ray", "--cpus", "0"], "--cpus 0: must be 1 or more"),
    ):
        done = CliRunner().invoke(app, [*command, *more])
        assert isinstance(done.exception, DescryError) and words in str(done.exception)


def test_without_ray_it_says_how_to_get_it(folder, model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(DescryError, match=r"needs Ray: .*descry\[ray\]"):
        cluster.predict(folder, tmp_path / "out", model, Options(), "cpu", 2)


def test_shards_of_another_run_are_not_taken(tmp_path):
    shards = tmp_path / "out.shards"
    for identity, kept in (({"a": 1}, False), ({"a": 1}, True), ({"a": 2}, False)):
        cluster._prepare(shards, identity)
        assert (shards / "shard-0000-of-0002").exists() == kept
        (shards / "shard-0000-of-0002").mkdir(exist_ok=True)
