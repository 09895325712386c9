"""An acting step as an ONNX file."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from dreamer_lightning.export.step import ActingStep

OPSET = 18


def write(step: ActingStep, path: Path) -> None:
    """Writes the file; every first dimension is ``n``, any number of environments."""
    from torch.onnx import register_custom_op_symbolic, unregister_custom_op_symbolic

    names = step.inputs + step.outputs
    own = {"aten::rms_norm": _rms_norm, "aten::movedim": _movedim}  # torch's exporter lacks one, and errs in the other
    for name, function in own.items():
        register_custom_op_symbolic(name, function, OPSET)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of what tracing fixes: sizes of the networks, which do not change
            torch.onnx.export(
                step,
                step.example(3),
                str(path),
                dynamo=False,
                input_names=step.inputs,
                output_names=step.outputs,
                dynamic_axes={name: {0: "n"} for name in names},
                opset_version=OPSET,
            )
    finally:
        for name in own:
            unregister_custom_op_symbolic(name, OPSET)


def _rms_norm(graph: Any, x: Any, shape: Any, weight: Any, eps: Any) -> Any:
    """``x / sqrt(mean(x^2) + eps) * weight`` over the last dimensions."""
    from torch.onnx import symbolic_helper as helper

    over = helper._maybe_get_const(shape, "is")
    small = helper._maybe_get_const(eps, "f")
    small = small if isinstance(small, float) else torch.finfo(torch.float32).eps
    axes = graph.op("Constant", value_t=torch.arange(-len(over), 0))
    mean = graph.op("ReduceMean", graph.op("Mul", x, x), axes, keepdims_i=1)
    size = graph.op("Sqrt", graph.op("Add", mean, graph.op("Constant", value_t=torch.tensor(small))))
    normed = graph.op("Div", x, size)
    return normed if helper._is_none(weight) else graph.op("Mul", normed, weight)


def _movedim(graph: Any, x: Any, source: Any, target: Any) -> Any:
    """One dimension to another place, also where places are counted from the end."""
    from torch.onnx import symbolic_helper as helper

    rank = helper._get_tensor_rank(x)
    places = [helper._maybe_get_const(each, "i") for each in (source, target)]
    old, new = (int(each[0] if isinstance(each, list | tuple) else each) % rank for each in places)
    order = list(range(rank))
    order.insert(new, order.pop(old))
    return graph.op("Transpose", x, perm_i=order)
