"""onnxruntime's LSTM, in a process of its own.

Its thread pool spins for a while after a run and slows whatever is measured next, so the worker
is stopped (SIGSTOP) whenever it is not its turn. `python -m bench.onnx_arm FOLDER THREADS` is that
worker: it reads the case from the folder and answers "sample N" and "results" on standard input.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.cases import Case
from bench.work import Work

# Rows of a gate in ONNX's order i o f g, by its number in PyTorch's i f g o.
GATES = (0, 3, 1, 2)
NAMES = ("y", "h_n", "c_n")


class OnnxError(RuntimeError):
    """The worker could not run the case; the message is the end of what it printed."""


class OnnxRunner:
    """A runner whose work is done by a worker process that sleeps between its turns."""

    def __init__(self, case: Case, threads: int) -> None:
        self._folder = tempfile.TemporaryDirectory()
        root = Path(self._folder.name)
        work = Work(case, nn.LSTM, torch.float32, torch.device("cpu"))
        torch.save({"case": case, "weights": work.module.state_dict()}, root / "case.pt")
        torch.save({"x": work.input, "state": work.state}, root / "data.pt")
        self._log = open(root / "log", "w+")
        self._worker = subprocess.Popen(
            [sys.executable, "-m", "bench.onnx_arm", str(root), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=Path(__file__).resolve().parents[1],
        )
        self._answer()
        self._worker.send_signal(signal.SIGSTOP)

    def results(self) -> dict[str, Tensor]:
        self._ask("results")
        return torch.load(Path(self._folder.name) / "results.pt")

    def sample(self, calls: int) -> list[float]:
        return [float(self._ask(f"sample {calls}"))]

    def close(self) -> None:
        self._worker.send_signal(signal.SIGCONT)
        self._worker.communicate("quit\n")
        self._log.close()
        self._folder.cleanup()

    def _ask(self, question: str) -> str:
        assert self._worker.stdin is not None
        self._worker.send_signal(signal.SIGCONT)
        self._worker.stdin.write(question + "\n")
        self._worker.stdin.flush()
        answer = self._answer()
        self._worker.send_signal(signal.SIGSTOP)
        return answer

    def _answer(self) -> str:
        assert self._worker.stdout is not None
        answer = self._worker.stdout.readline()
        if not answer:
            self._worker.wait()
            self._log.seek(0)
            last = self._log.read().strip().splitlines()[-1:]
            raise OnnxError(f"the onnxruntime worker ended: {' '.join(last)}")
        return answer.strip()


def build(case: Case, weights: dict[str, Tensor]) -> bytes:
    """An ONNX model of the stack: one LSTM node per layer, directions concatenated."""
    from onnx import TensorProto, helper, numpy_helper

    directions = 2 if case.bidirectional else 1
    nodes, constants = [], []

    def constant(name: str, value: Tensor) -> str:
        constants.append(numpy_helper.from_array(value.contiguous().numpy(), name))
        return name

    def layer_weights(kind: str, layer: int) -> list[Tensor]:
        suffixes = ["", "_reverse"][:directions]
        return [_reorder(weights[f"{kind}_l{layer}{suffix}"]) for suffix in suffixes]

    joined = constant("joined", torch.tensor([0, 0, -1]))  # [T, B, D, H] -> [T, B, D * H]
    x = "x"
    for layer in range(case.L):
        w, r = (torch.stack(layer_weights(kind, layer)) for kind in ("weight_ih", "weight_hh"))
        biases = zip(layer_weights("bias_ih", layer), layer_weights("bias_hh", layer), strict=True)
        b = torch.stack([torch.cat(pair) for pair in biases])
        inputs = [x, constant(f"w{layer}", w), constant(f"r{layer}", r), constant(f"b{layer}", b)]
        if case.kind == "step":
            inputs += ["", f"h0_{layer}", f"c0_{layer}"]
        outputs = [f"y{layer}", f"h_n{layer}", f"c_n{layer}"]
        direction = "bidirectional" if case.bidirectional else "forward"
        nodes += [
            helper.make_node("LSTM", inputs, outputs, hidden_size=case.H, direction=direction),
            helper.make_node("Transpose", [f"y{layer}"], [f"t{layer}"], perm=[0, 2, 1, 3]),
            helper.make_node("Reshape", [f"t{layer}", joined], [f"x{layer + 1}"]),
        ]
        x = f"x{layer + 1}"

    def split(name: str) -> None:
        parts = [f"{name}_{layer}" for layer in range(case.L)]
        nodes.insert(0, helper.make_node("Split", [name], parts, axis=0, num_outputs=case.L))

    state_shape = [case.L * directions, case.B, case.H]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [case.T, case.B, case.I])]
    if case.kind == "step":
        for name in ("h0", "c0"):
            split(name)
            inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, state_shape))
    nodes.append(helper.make_node("Identity", [x], ["y"]))
    for name in ("h_n", "c_n"):
        parts = [f"{name}{layer}" for layer in range(case.L)]
        nodes.append(helper.make_node("Concat", parts, [name], axis=0))
    shapes = ([case.T, case.B, directions * case.H], state_shape, state_shape)
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in zip(NAMES, shapes, strict=True)
    ]
    graph = helper.make_graph(nodes, "lstm", inputs, outputs, constants)
    opset = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString()


def _reorder(weight: Tensor) -> Tensor:
    """Rows of the four gates in ONNX's order."""
    gates = weight.chunk(4)
    return torch.cat([gates[gate] for gate in GATES])


def _session(folder: Path, threads: int) -> Callable[[], list[Any]]:
    """A function that runs the case once and returns y, h_n and c_n as arrays."""
    import onnxruntime

    # Our own file, written a moment ago by the process that started us.
    saved = torch.load(folder / "case.pt", weights_only=False)
    data = torch.load(folder / "data.pt")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    model = build(saved["case"], saved["weights"])
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feed = {"x": data["x"].numpy()}
    if data["state"] is not None:
        h0, c0 = data["state"]
        feed |= {"h0": h0.numpy(), "c0": c0.numpy()}
    return lambda: session.run(list(NAMES), feed)


def work(folder: Path, threads: int) -> None:
    """Answer questions until "quit"."""
    run = _session(folder, threads)
    print("ready", flush=True)
    for line in sys.stdin:
        question, *arguments = line.split()
        if question == "quit":
            return
        if question == "results":
            outputs = [torch.from_numpy(array) for array in run()]
            torch.save(dict(zip(NAMES, outputs, strict=True)), folder / "results.pt")
            print("saved", flush=True)
            continue
        calls = int(arguments[0])
        start = time.perf_counter()
        for _ in range(calls):
            run()
        print((time.perf_counter() - start) / calls, flush=True)


if __name__ == "__main__":
    work(Path(sys.argv[1]), int(sys.argv[2]))
