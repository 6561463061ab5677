"""A model of the contract that needs no training: mean colours of a grid, normed. Good enough to tell pictures apart,
small enough to be made in every test run; a second one looks at the domain flag.
"""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

CELLS = 7  # of 32 px
DIM = CELLS * CELLS * 3


def model_of_colours(path: Path, flag: float = 0.0) -> Path:
    """embedding = normed mean colours of a grid; `flag` times the domain is added to the first number before."""
    constants = {
        "scale": np.float32(1 / 255),
        "middle": np.full((1, DIM), 0.5, np.float32),
        "flat": np.array([-1, DIM], np.int64),
        "along": np.array([[flag] + [0.0] * (DIM - 1)], np.float32),
        "tiny": np.float32(1e-6),
        "axis": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("Cast", ["pixels"], ["levels"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["levels", "scale"], ["shares"]),
        helper.make_node("Transpose", ["shares"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["planes"], ["cells"], kernel_shape=[32, 32], strides=[32, 32]),
        helper.make_node("Reshape", ["cells", "flat"], ["row"]),
        helper.make_node("Sub", ["row", "middle"], ["centred"]),
        helper.make_node("Cast", ["domain"], ["where_from"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["where_from", "along"], ["shift"]),
        helper.make_node("Add", ["centred", "shift"], ["moved"]),
        helper.make_node("ReduceL2", ["moved", "axis"], ["length"], keepdims=1),
        helper.make_node("Add", ["length", "tiny"], ["positive"]),
        helper.make_node("Div", ["moved", "positive"], ["embedding"]),
    ]
    graph = helper.make_graph(
        nodes,
        "colours",
        [
            helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", 224, 224, 3]),
            helper.make_tensor_value_info("domain", TensorProto.INT32, ["batch", 1]),
        ],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", DIM])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture(scope="session")
def colours_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_of_colours(tmp_path_factory.mktemp("models") / "colours.onnx")


@pytest.fixture(scope="session")
def flag_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Looks at the domain flag so hard that the two domains have little in common."""
    return model_of_colours(tmp_path_factory.mktemp("models") / "flag.onnx", flag=20.0)
