"""What eager PyTorch does in one call that exporters write as several operators."""

from latency_service.core.profile import FusionRules

# nn.Linear is one product that adds its bias (addmm); nn.GELU, nn.SiLU and nn.LayerNorm are one
# kernel each; matrix products take transposed operands as they are; Split and Slice are views.
EAGER = FusionRules(
    patterns=(
        "layer-normalisation", "gelu", "gelu-halved", "swish", "linear", "transposed-product",
    ),
    views=("Split", "Slice"),
    origin="derived",
    source="PyTorch 2.1: aten::addmm, gelu, silu and native_layer_norm; torch.split and slicing",
)  # fmt: skip
