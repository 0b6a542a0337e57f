"""Roles of operands that operators of several families share."""

QUANTISATION = {
    "x_scale": "scale",
    "x_zero_point": "zero_point",
    "w_scale": "scale",
    "w_zero_point": "zero_point",
    "y_scale": "scale",
    "y_zero_point": "zero_point",
    "a_scale": "scale",
    "a_zero_point": "zero_point",
    "b_scale": "scale",
    "b_zero_point": "zero_point",
}
