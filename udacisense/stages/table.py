"""The compression stages, usable in any pipeline.

To add one, write ``udacisense/stages/<name>.py`` with a function as :mod:`udacisense.stages.contract` describes and
add a row to :data:`STAGES`; the contract tests iterate the table.
"""

from __future__ import annotations

from udacisense.stages.contract import Kind, Stage
from udacisense.stages.distill import apply_knowledge_distillation
from udacisense.stages.graph import apply_graph_optimization
from udacisense.stages.prune import apply_magnitude_pruning, apply_structured_pruning
from udacisense.stages.qat import apply_quantization_aware_training
from udacisense.stages.quantize import apply_dynamic_quantization
from udacisense.stages.static import apply_static_quantization

STAGES: dict[str, Stage] = {
    row.name: row
    for row in (
        Stage(name="distill", function=apply_knowledge_distillation, produces=Kind.EAGER_FLOAT),
        Stage(name="magnitude-pruning", function=apply_magnitude_pruning, produces=Kind.EAGER_FLOAT),
        Stage(name="structured-pruning", function=apply_structured_pruning, produces=Kind.EAGER_FLOAT),
        Stage(name="qat", function=apply_quantization_aware_training, produces=Kind.EAGER_INT8),
        Stage(name="dynamic-int8", function=apply_dynamic_quantization, produces=Kind.EAGER_INT8),
        Stage(name="static-int8", function=apply_static_quantization, produces=Kind.EAGER_INT8),
        Stage(name="graph", function=apply_graph_optimization, requires=frozenset(Kind), produces=Kind.TORCHSCRIPT),
    )
}
