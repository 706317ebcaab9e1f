"""Policies outside of rljax: as StableHLO, ONNX or C. `rljax.export(run, path)` writes and checks a file."""

from jax.export import register_pytree_node_serialization

from rljax.algorithms.steering import Base
from rljax.deploy.exporting import Exported, export
from rljax.ops.running_statistics import Statistics

__all__ = ["Exported", "export"]

# So that a function which takes a policy's variables as an argument can be exported by jax.export.
for _node in (Statistics, Base):
    register_pytree_node_serialization(
        _node,
        serialized_name=f"rljax.{_node.__name__}",
        serialize_auxdata=lambda _: b"",
        deserialize_auxdata=lambda _: (),
    )
