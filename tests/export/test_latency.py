"""Files side by side in onnxruntime: the turns they take, what they are fed, how their numbers are compared; no time is."""

import json
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from kbn.export import bench, bench_runner, latency
from kbn.export.bench_report import SHAPES_DIFFER, BenchReport, Difference, Machine, Spread, names_of
from kbn.export.cli import main
from kbn.export.errors import BrokenModelError, UsageError
from kbn.export.layouts import LAYOUT_KEY


def save(path, inputs, nodes, outputs=("y",), constants=None, layout=None):
    """Writes a model; `inputs` is name: (element type, shape)."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, *each) for name, each in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if layout:
        helper.set_model_props(model, {LAYOUT_KEY: layout})
    onnx.save(model, path)
    return path


def dense(path, weight=None, batch="batch"):
    """y = x W, from 3 numbers to 2."""
    weight = np.arange(6, dtype=np.float32).reshape(3, 2) if weight is None else np.asarray(weight, np.float32)
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    return save(path, {"x": (TensorProto.FLOAT, [batch, 3])}, [node], constants={"w": weight})


def image(path, shape, layout=None, channel_axis=3):
    """The mean of each channel times 1, 10, 100, so that channels taken for rows would show."""
    axes = [axis for axis in range(1, 4) if axis != channel_axis]
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=axes, keepdims=0),
        helper.make_node("Mul", ["m", "scale"], ["y"]),
    ]
    constants = {"scale": np.array([1, 10, 100], np.float32)}
    return save(path, {"x": (TensorProto.FLOAT, shape)}, nodes, constants=constants, layout=layout)


def echo(path, element, shape, name="x"):
    """The input as float32."""
    return save(path, {name: (element, shape)}, [helper.make_node("Cast", [name], ["y"], to=TensorProto.FLOAT)])


@pytest.fixture
def runs(monkeypatch):
    """(file name, feeds, outputs) of each run, in order."""
    recorded = []

    class Recording:
        def __init__(self, path, *arguments, **named):
            self._name = path.rpartition("/")[2]
            self._session = genuine(path, *arguments, **named)

        def __getattr__(self, name):
            return getattr(self._session, name)

        def run(self, names, feeds):
            outputs = self._session.run(names, feeds)
            recorded.append((self._name, feeds, outputs))
            return outputs

    genuine = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "InferenceSession", Recording)
    return recorded


@pytest.fixture
def three(tmp_path):
    return [dense(tmp_path / f"{name}.onnx") for name in "abc"]


def test_every_file_runs_once_per_round_in_an_order_that_varies(three, runs):
    bench(three, rounds=12, warm_up=2, seed=3)
    names = [name for name, *_ in runs]
    before, timed = names[: 3 * 3], names[3 * 3 :]  # one run to compare, two to warm up
    assert sorted(before) == sorted(["a.onnx", "b.onnx", "c.onnx"] * 3)
    turns = list(zip(timed[::3], timed[1::3], timed[2::3], strict=True))
    assert len(turns) == 12
    assert {tuple(sorted(turn)) for turn in turns} == {("a.onnx", "b.onnx", "c.onnx")}
    assert len(set(turns)) > 3
    assert {turn[0] for turn in turns} == {"a.onnx", "b.onnx", "c.onnx"}


def test_the_order_follows_from_the_seed(three, runs):
    orders = []
    for seed in (5, 5, 6):
        runs.clear()
        bench(three, rounds=12, seed=seed)
        orders.append([name for name, *_ in runs])
    assert orders[0] == orders[1] != orders[2]


def test_times_and_ratios_are_taken_within_each_round(tmp_path, monkeypatch):
    first, second = dense(tmp_path / "a.onnx"), dense(tmp_path / "b.onnx")
    # Milliseconds in each round. The ratios are 1, 2, 4, 3, 5; the ratio of the medians would be 4.
    spent = {"a.onnx": [1, 2, 3, 40, 50], "b.onnx": [1, 4, 12, 120, 250]}
    monkeypatch.setattr(latency.Runner, "nanoseconds", lambda runner: spent[runner.path.name].pop(0) * 1_000_000)
    ours, theirs = bench([first, second], rounds=5).settings[0].timings
    assert ours.milliseconds == Spread(2.0, 3.0, 40.0)
    assert ours.ratio == Spread(1.0, 1.0, 1.0)
    assert theirs.milliseconds == Spread(4.0, 12.0, 120.0)
    assert theirs.ratio == Spread(2.0, 3.0, 4.0)


def test_a_run_is_timed_by_the_clock_around_it(tmp_path, monkeypatch):
    ticks = iter([100, 350, 1000, 1700])
    monkeypatch.setattr(bench_runner, "perf_counter_ns", lambda: next(ticks))
    timing = bench(dense(tmp_path / "a.onnx"), rounds=2).settings[0].timings[0]
    assert timing.milliseconds.median == pytest.approx((250e-6 + 700e-6) / 2)
    assert next(ticks, None) is None


def test_settings_are_threads_by_batch_sizes_and_reach_onnxruntime(three, runs, monkeypatch):
    made = []
    recording = onnxruntime.InferenceSession

    def session(path, options, providers):
        assert options.get_session_config_entry("session.force_spinning_stop") == "1"
        made.append((options.intra_op_num_threads, options.execution_mode, providers))
        return recording(path, options, providers=providers)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    told = []
    report = bench(three[:1], threads=(1, 2, 1), batch_sizes=(1, 4), rounds=1, progress=told.append)
    assert [(each.threads, each.batch_size) for each in report.settings] == [(1, 1), (1, 4), (2, 1), (2, 4)]
    sequential = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    assert made == [(count, sequential, ["CPUExecutionProvider"]) for count in (1, 1, 2, 2)]
    assert told == ["1 thread, batch 1", "1 thread, batch 4", "2 threads, batch 1", "2 threads, batch 4"]
    assert {feeds["x"].shape for _, feeds, _ in runs} == {(1, 3), (4, 3)}
    assert report.settings[1].inputs == (("x", "float32", (4, 3)),)


def test_one_changed_weight_shows(tmp_path):
    weight = np.ones((3, 2), np.float32)
    paths = [
        dense(tmp_path / "a.onnx", weight),
        dense(tmp_path / "b.onnx", weight * 1.25),
        dense(tmp_path / "c.onnx", weight),
    ]
    timings = bench(paths, rounds=1, batch_sizes=(7,)).settings[0].timings
    assert [timing.worst.largest for timing in timings] == [0.0, pytest.approx(0.25, rel=1e-6), 0.0]


NAN, INF = np.nan, np.inf
COMPARED = {
    "equal": ([1, -4], [1, -4], 0.0, ""),
    "a quarter of the largest": ([1, -3], [1, -4], 0.25, ""),
    "all zero": ([0, 0], [0, 0], 0.0, ""),
    "zero in the first alone": ([0, 1], [0, 0], None, "zero in the first alone"),
    "NaN here": ([NAN, 3], [1, 4], 0.25, "NaN or infinity here"),
    "NaN in the first": ([1, 3], [INF, 4], 0.25, "NaN or infinity in the first"),
    "the same NaN": ([NAN, INF, 3], [NAN, INF, 4], 0.25, "NaN or infinity"),
    "infinities of other signs": ([INF, 4], [-INF, 4], 0.0, "NaN or infinity, elsewhere"),
    "nothing finite": ([NAN], [NAN], None, "NaN or infinity"),
    "another shape": ([1, 2, 3], [1, 2], None, SHAPES_DIFFER),
    "integers": (np.array([2**31 - 1]), np.array([-(2**31)]), (2**32 - 1) / 2**31, ""),
    "booleans": (np.array([True]), np.array([False]), None, "zero in the first alone"),
    "words": (np.array(["a"], object), np.array(["a"], object), None, "no numbers"),
    "empty": (np.zeros(0), np.zeros(0), 0.0, ""),
    "no such output": (None, [1], None, SHAPES_DIFFER),
}


@pytest.mark.parametrize("case", COMPARED)
def test_differences(case):
    found, first, largest, remark = COMPARED[case]
    arrays = [np.array(each, np.float32) if isinstance(each, list) else each for each in (found, first)]
    difference = Difference.between("y", *arrays)
    assert (difference.largest, difference.remark) == (largest, remark)
    json.dumps(difference.to_dict(), allow_nan=False)


def test_nan_and_other_outputs_are_shown_not_raised(tmp_path):
    first = dense(tmp_path / "first.onnx")
    spoiled = dense(tmp_path / "spoiled.onnx", [[NAN, 1], [2, 3], [4, 5]])
    wider = dense(tmp_path / "wider.onnx", np.ones((3, 5)))
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"]), helper.make_node("Relu", ["y"], ["z"])]
    constants = {"w": np.arange(6, dtype=np.float32).reshape(3, 2)}
    more = save(tmp_path / "more.onnx", {"x": (TensorProto.FLOAT, ["n", 3])}, nodes, ("y", "z"), constants)
    report = bench([first, spoiled, wider, more], rounds=1)
    rows = {row[0]: row[-1] for row in report.tables()[0].rows}
    assert rows["first.onnx"] == ""
    assert rows["spoiled.onnx"] == "0, NaN or infinity here"
    assert rows["wider.onnx"] == SHAPES_DIFFER
    assert rows["more.onnx"] == SHAPES_DIFFER
    timing = report.settings[0].timings[3]
    assert [(each.output, each.remark) for each in timing.differences] == [("y", ""), ("z", SHAPES_DIFFER)]
    assert {row[0]: row[-1] for row in bench([spoiled], rounds=1).tables()[0].rows} == {
        "spoiled.onnx": "NaN or infinity"
    }


def test_random_inputs_are_normal_small_or_boolean(tmp_path, runs):
    for element in (TensorProto.FLOAT, TensorProto.INT64, TensorProto.UINT8, TensorProto.BOOL, TensorProto.FLOAT16):
        bench(echo(tmp_path / f"{element}.onnx", element, ["n", 100]), rounds=1, batch_sizes=(20,))
    fed = {name.removesuffix(".onnx"): feeds["x"] for name, feeds, _ in runs}
    normal = fed[str(TensorProto.FLOAT)]
    assert abs(normal.mean()) < 0.1
    assert abs(normal.std() - 1) < 0.1
    for element, dtype in ((TensorProto.INT64, np.int64), (TensorProto.UINT8, np.uint8)):
        assert fed[str(element)].dtype == dtype
        assert set(np.unique(fed[str(element)])) == set(range(10))
    assert set(np.unique(fed[str(TensorProto.BOOL)])) == {False, True}
    assert fed[str(TensorProto.FLOAT16)].dtype == np.float16


def test_free_dimensions(tmp_path, runs):
    inputs = {
        "a": (TensorProto.FLOAT, ["n", "length", 2]),
        "b": (TensorProto.FLOAT, [3, "batch", "n"]),
        "c": (TensorProto.FLOAT, [None, "length", None]),
        "d": (TensorProto.FLOAT, []),
    }
    nodes = [helper.make_node("Identity", ["a"], ["y"])]
    path = save(tmp_path / "m.onnx", inputs, nodes)
    bench(path, rounds=1, batch_sizes=(5,))
    bench(path, rounds=1, batch_sizes=(5,), size=7)
    shapes = [{name: array.shape for name, array in feeds.items()} for _, feeds, _ in (runs[0], runs[-1])]
    assert shapes == [{"a": (5, size, 2), "b": (3, 5, 5), "c": (5, size, size), "d": ()} for size in (latency.SIZE, 7)]


def test_a_size_that_a_later_file_fixes_holds_for_all(tmp_path, runs):
    free = echo(tmp_path / "free.onnx", TensorProto.FLOAT, ["n", "length"])
    fixed = echo(tmp_path / "fixed.onnx", TensorProto.FLOAT, ["n", 9])
    bench([free, fixed], rounds=1)
    assert {feeds["x"].shape for _, feeds, _ in runs} == {(1, 9)}


def test_all_files_get_the_same_numbers_by_position(tmp_path, runs):
    single = echo(tmp_path / "single.onnx", TensorProto.FLOAT, ["n", 50])
    half = echo(tmp_path / "half.onnx", TensorProto.FLOAT16, ["n", 50], name="other")
    report = bench([single, half], rounds=1)
    fed = {name: next(iter(feeds.values())) for name, feeds, _ in runs}
    assert np.array_equal(fed["half.onnx"], fed["single.onnx"].astype(np.float16))
    assert 0 < report.settings[0].timings[1].worst.largest < 1e-3


@pytest.mark.parametrize("order", [1, -1], ids=["NHWC first", "NCHW first"])
@pytest.mark.parametrize("free", [False, True])
def test_layouts_are_matched_by_the_metadata(tmp_path, order, free, runs):
    height, width = ("h", "w") if free else (4, 6)
    last = image(tmp_path / "last.onnx", ["n", height, width, 3])
    first = image(tmp_path / "first.onnx", ["n", 3, height, width], layout="nchw", channel_axis=1)
    report = bench([last, first][::order], rounds=1, batch_sizes=(2,), size=5)
    assert report.settings[0].timings[1].worst.largest < 1e-6
    fed = {name: feeds["x"] for name, feeds, _ in runs}
    assert np.array_equal(fed["first.onnx"], fed["last.onnx"].transpose(0, 3, 1, 2))
    assert fed["first.onnx"].flags.c_contiguous


def test_the_metadata_decide_where_both_layouts_fit(tmp_path):
    last = image(tmp_path / "last.onnx", ["n", 3, 3, 3])
    first = image(tmp_path / "first.onnx", ["n", 3, 3, 3], layout="nchw", channel_axis=1)
    assert bench([last, first], rounds=1).settings[0].timings[1].worst.largest < 1e-6


def test_a_model_of_channels_first_is_matched_too(tmp_path):
    own = image(tmp_path / "own.onnx", ["n", 3, 4, 6], channel_axis=1)
    moved = image(tmp_path / "moved.onnx", ["n", 4, 6, 3], layout="nhwc")
    assert bench([own, moved], rounds=1).settings[0].timings[1].worst.largest < 1e-6


def test_the_metadata_do_not_turn_what_fits_as_it_is(tmp_path):
    foreign = image(tmp_path / "foreign.onnx", ["n", 3, "h", "w"], channel_axis=1)
    moved = image(tmp_path / "moved.onnx", ["n", 3, "h", "w"], layout="nchw", channel_axis=1)
    assert bench([foreign, moved], rounds=1).settings[0].timings[1].worst.largest == 0.0


@pytest.mark.parametrize("sizes", [(4, 6), ("h", "w")])
def test_layouts_that_no_metadata_tell_are_not_guessed(tmp_path, sizes):
    last = image(tmp_path / "last.onnx", ["n", *sizes, 3])
    first = image(tmp_path / "first.onnx", ["n", 3, *sizes], channel_axis=1)
    with pytest.raises(UsageError, match=rf"first\.onnx takes \(any, 3, .*{LAYOUT_KEY}"):
        bench([last, first])


def test_a_fixed_batch_is_told(tmp_path):
    fixed = dense(tmp_path / "fixed.onnx", batch=4)
    free = dense(tmp_path / "free.onnx")
    assert bench([free, fixed], batch_sizes=(4,), rounds=1).settings[0].inputs[0][2] == (4, 3)
    with pytest.raises(UsageError, match=r"fixed\.onnx takes batches of exactly 4, where 2 was asked for"):
        bench([free, fixed], batch_sizes=(2,))


def test_files_that_take_other_inputs_are_refused(tmp_path):
    first = dense(tmp_path / "first.onnx")
    others = {
        r"takes \(any, 5\), where .* takes \(any, 3\)": echo(tmp_path / "w.onnx", TensorProto.FLOAT, ["n", 5]),
        r"takes \(any, 3, 1\)": echo(tmp_path / "rank.onnx", TensorProto.FLOAT, ["n", 3, 1]),
        "holds int64, where .* takes float32": echo(tmp_path / "int.onnx", TensorProto.INT64, ["n", 3]),
        "takes 2 inputs, where .* takes 1": save(
            tmp_path / "two.onnx",
            dict.fromkeys("ab", (TensorProto.FLOAT, ["n", 3])),
            [helper.make_node("Add", ["a", "b"], ["y"])],
        ),
    }
    for words, path in others.items():
        with pytest.raises(UsageError, match=words):
            bench([first, path])
    free = echo(tmp_path / "free.onnx", TensorProto.FLOAT, ["n", "length"])
    longer = echo(tmp_path / "longer.onnx", TensorProto.FLOAT, ["n", 8])
    with pytest.raises(UsageError, match=r"different sizes, \[3, 8\]"):
        bench([free, first, longer])


@pytest.mark.parametrize(("element", "held"), [(TensorProto.STRING, "string"), (TensorProto.BFLOAT16, "bfloat16")])
def test_inputs_that_are_no_numbers_of_numpy(tmp_path, element, held):
    with pytest.raises(UsageError, match=rf"Input 'x' of .*m\.onnx takes tensor\({held}\)"):
        bench(echo(tmp_path / "m.onnx", element, ["n"]))


def embedding(path):
    """Rows of a table that has 5; ids up to 9 are drawn."""
    node = helper.make_node("Gather", ["table", "ids"], ["y"])
    table = np.arange(10, dtype=np.float32).reshape(5, 2)
    return save(path, {"ids": (TensorProto.INT64, ["n", "t"])}, [node], constants={"table": table})


def test_a_file_without_inputs(tmp_path):
    node = helper.make_node("Constant", [], ["y"], value_floats=[1.0, 2.0])
    report = bench(save(tmp_path / "m.onnx", {}, [node]), rounds=1)
    assert "no input" in report.tables()[0].note


def test_ids_out_of_range_name_the_file_and_the_way_out(tmp_path, runs):
    path = embedding(tmp_path / "words.onnx")
    with pytest.raises(BrokenModelError, match=r"words\.onnx.*out of.*--data"):
        bench(path)
    bench(path, data=np.array([[0, 4, 2]]), rounds=1)
    assert runs[-1][1]["ids"].tolist() == [[0, 4, 2]]


@pytest.mark.parametrize(("batch", "rows"), [(1, [0]), (2, [0, 1]), (5, [0, 1, 0, 1, 0])])
def test_data_is_repeated_or_cut_to_the_batch(tmp_path, batch, rows, runs):
    data = np.arange(6.0).reshape(2, 3)
    report = bench(dense(tmp_path / "m.onnx"), data=data, batch_sizes=(batch,), rounds=1)
    assert np.array_equal(runs[-1][1]["x"], data[rows])
    assert runs[-1][1]["x"].dtype == np.float32
    assert report.own_data


@pytest.mark.parametrize("keys", [("a", "b"), ("x0", "x1")])
def test_data_by_name(tmp_path, keys, runs):
    inputs = dict.fromkeys("ab", (TensorProto.FLOAT, ["n", "t"]))
    path = save(tmp_path / "two.onnx", inputs, [helper.make_node("Sub", ["a", "b"], ["y"])])
    ours, theirs = np.full((1, 4), 7.0), np.full((1, 4), 2.0)
    bench(path, data={keys[1]: theirs, keys[0]: ours}, rounds=1)
    assert runs[-1][2][0].tolist() == [[5.0] * 4]
    with pytest.raises(UsageError, match=r"names 'c', but the inputs of .* are 'a', 'b'"):
        bench(path, data={"c": ours})
    with pytest.raises(UsageError, match="has 2 inputs"):
        bench(path, data=ours)


@pytest.mark.parametrize("layout", ["model's", "file's"])
def test_data_comes_as_the_model_or_as_the_file_takes_it(tmp_path, layout, runs):
    path = image(tmp_path / "m.onnx", ["n", 3, "h", "w"], layout="nchw", channel_axis=1)
    data = np.random.default_rng(0).normal(size=(2, 4, 6, 3)).astype(np.float32)
    bench(path, data=data if layout == "model's" else data.transpose(0, 3, 1, 2), batch_sizes=(2,), rounds=1)
    assert np.array_equal(runs[-1][1]["x"], data.transpose(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (np.zeros((2, 4)), r"has shape \(2, 4\), but .* takes \(any, 3\)"),
        (np.zeros((0, 3)), "at least one"),
        (np.zeros(3), r"shape \(3,\)"),
        (np.array([["a", "b", "c"]]), "holds <U1"),
    ],
)
def test_data_that_does_not_fit(tmp_path, data, words):
    with pytest.raises(UsageError, match=words):
        bench(dense(tmp_path / "m.onnx"), data=data)


def test_data_that_the_input_cannot_hold(tmp_path):
    with pytest.raises(UsageError, match="holds numbers that uint8"):
        bench(echo(tmp_path / "m.onnx", TensorProto.UINT8, ["n", 2]), data=np.array([[300, 0]]))


def test_the_dictionary_has_every_number_and_setting(three):
    report = bench(three[:2], threads=(1,), batch_sizes=(2,), rounds=3, warm_up=1, seed=4, size=6)
    value = json.loads(report.to_json())
    assert isinstance(report, BenchReport)
    assert value["schema"] == "kbn.bench/1"
    assert value["files"] == [{"file": path.name, "path": str(path)} for path in three[:2]]
    assert {key: value[key] for key in ("rounds", "warm_up", "seed", "size", "own_data")} == {
        "rounds": 3,
        "warm_up": 1,
        "seed": 4,
        "size": 6,
        "own_data": False,
    }
    assert set(value["machine"]) == {"cpu", "cores", "onnxruntime"}
    (setting,) = value["settings"]
    assert (setting["threads"], setting["batch_size"]) == (1, 2)
    assert setting["inputs"] == [{"name": "x", "dtype": "float32", "shape": [2, 3]}]
    for timing in setting["timings"]:
        assert set(timing) == {"file", "milliseconds", "ratio_to_first", "differences"}
        for key in ("milliseconds", "ratio_to_first"):
            spread = timing[key]
            assert 0 < spread["lower_quartile"] <= spread["median"] <= spread["upper_quartile"]
        assert timing["differences"] == [{"output": "y", "largest": 0.0, "remark": ""}]


def test_names(tmp_path):
    a, b = tmp_path / "a" / "m.onnx", tmp_path / "b" / "m.onnx"
    other = tmp_path / "n.onnx"
    assert names_of([a, other, other]) == ["m.onnx", "n.onnx", "n.onnx (2)"]
    assert names_of([a, b, other, a]) == [str(a), str(b), "n.onnx", f"{a} (2)"]


def test_the_machine(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: A Chip @ 3 GHz\nprocessor\t: 1\nmodel name\t: Another\n")
    found = Machine.here(cpuinfo)
    assert (found.cpu, found.onnxruntime) == ("A Chip @ 3 GHz", onnxruntime.__version__)
    assert found.cores >= 1
    assert Machine.here(tmp_path / "none").cpu != ""


@pytest.fixture
def run(monkeypatch, capsys):
    """The command inside this process."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["kbn", "bench", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        shown = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, stopped.value.code or 0, shown.out, shown.err)

    return run


def test_the_command_shows_a_table_per_setting(three, tmp_path, run):
    page, figure = tmp_path / "r.html", tmp_path / "p.png"
    done = run(*three, "--threads", 1, "--threads", 2, "--batch", 3, "--rounds", 2, "--report", page, "--plot", figure)
    assert done.returncode == 0, done.stderr
    for words in ("1 thread, batch 3", "2 threads, batch 3", "a.onnx", "ratio to first", "2 rounds", "onnxruntime"):
        assert words in done.stdout
        assert words in page.read_text()
    assert done.stderr.splitlines() == ["1 thread, batch 3 ...", "2 threads, batch 3 ..."]
    assert figure.stat().st_size > 0


def test_the_command_prints_one_document(three, tmp_path, run):
    np.savez(tmp_path / "data.npz", x=np.ones((1, 3)))
    done = run(three[0], "--json", "--quiet", "--rounds", 1, "--data", tmp_path / "data.npz", "--seed", 9)
    value = json.loads(done.stdout)
    assert (done.stderr, value["seed"], value["own_data"], value["rounds"]) == ("", 9, True, 1)
    assert [timing["file"] for timing in value["settings"][0]["timings"]] == ["a.onnx"]


def test_weights_beside_the_file(tmp_path, run):
    path = dense(tmp_path / "m.onnx", np.ones((3, 2)))
    beside = tmp_path / "beside.onnx"
    onnx.save(onnx.load(path), beside, save_as_external_data=True, location="beside.onnx.data", size_threshold=0)
    done = run(path, beside, "--json", "--quiet", "--rounds", 1)
    assert json.loads(done.stdout)["settings"][0]["timings"][1]["differences"][0]["largest"] == 0.0
    (tmp_path / "beside.onnx.data").unlink()
    done = run(beside)
    assert done.returncode == 4
    assert "beside.onnx" in done.stderr


BAD = {
    "no files": ([], 2, ["FILE.onnx"]),
    "missing": (["none.onnx"], 2, ["no ONNX file", "none.onnx"]),
    "folder": (["folder"], 2, ["folder", "files in it"]),
    "text": (["text.onnx"], 4, ["text.onnx", "this is no ONNX model"]),
    "empty": (["empty.onnx"], 4, ["empty.onnx"]),
    "batch": (["fixed.onnx", "--batch", "3"], 2, ["exactly 4", "3 was asked for"]),
    "no threads": (["good.onnx", "--threads", "0"], 2, ["--threads"]),
    "no batch": (["good.onnx", "--batch", "0"], 2, ["--batch"]),
    "no rounds": (["good.onnx", "--rounds", "0"], 2, ["--rounds"]),
    "ids": (["words.onnx"], 4, ["words.onnx", "--data"]),
    "missing data": (["good.onnx", "--data", "none.npy"], 2, ["none.npy"]),
    "report of another kind": (["good.onnx", "--report", "r.pdf"], 2, [".html"]),
    "plot of another kind": (["good.onnx", "--plot", "p.jpg"], 2, [".png or .svg"]),
    "plot in no folder": (["good.onnx", "--plot", "none/p.png"], 2, ["none"]),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_arguments_get_one_message_and_the_documented_code(tmp_path, kind, run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.onnx").write_text("dear user")
    (tmp_path / "empty.onnx").touch()
    dense(tmp_path / "fixed.onnx", batch=4)
    dense(tmp_path / "good.onnx")
    embedding(tmp_path / "words.onnx")
    present = sorted(tmp_path.iterdir())
    arguments, code, words = BAD[kind]
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr
    assert sorted(tmp_path.iterdir()) == present


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ({"paths": []}, "no file"),
        ({"threads": ()}, "no threads"),
        ({"threads": (1, 0)}, "threads must be 1"),
        ({"batch_sizes": (-1,)}, "batch size must be 1"),
        ({"rounds": 0}, "rounds must be 1"),
        ({"warm_up": -1}, "warm-up must be 0"),
        ({"size": 0}, "size must be 1"),
    ],
)
def test_bad_arguments_of_the_function(three, named, words):
    with pytest.raises(UsageError, match=words):
        bench(**{"paths": three, **named})
