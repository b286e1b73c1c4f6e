"""A method is a mapping: the fields that it pins, by their names in a study file; the others may be searched."""

MEAN_ALIGN = {
    "loss.contrastive_weight": 1.0,
    "loss.instruction_weight": 0.0,
    "loss.pooling": "mean",
    "loss.symmetric": True,
    "data.num_instructions": 0,
}
