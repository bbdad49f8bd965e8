"""The compression stages, usable in any pipeline."""

from udacisense.stages.contract import StepContext, StepResult
from udacisense.stages.distill import apply_knowledge_distillation
from udacisense.stages.graph import apply_graph_optimization
from udacisense.stages.prune import apply_magnitude_pruning, apply_structured_pruning
from udacisense.stages.qat import apply_quantization_aware_training
from udacisense.stages.quantize import apply_dynamic_quantization
from udacisense.stages.static import apply_static_quantization

__all__ = [
    "StepContext",
    "StepResult",
    "apply_dynamic_quantization",
    "apply_graph_optimization",
    "apply_knowledge_distillation",
    "apply_magnitude_pruning",
    "apply_quantization_aware_training",
    "apply_static_quantization",
    "apply_structured_pruning",
]
