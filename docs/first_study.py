"""A first study from Python, in cells: open it as a notebook (VS Code, Jupytext), or run it whole."""

# %% [markdown]
# A study of two arms on the embedded corpus and model: no network, no GPU, half a minute.

# %%
import afp_ray as afp

study = {
    "name": "first",
    "fixed": {
        "data.languages": ["zh", "sw"],
        "data.num_pairs": 64,
        "data.num_instructions": 64,
        "training.max_steps": 4,
        "training.batch_size": 8,
        "evaluation.tasks": ["xcopa"],
        "evaluation.limit": 20,
        "evaluation.representation.num_pairs": 20,
    },
    "compare": {"method": ["base", "afp"]},
    "tune": {"loss.temperature": {"low": 0.02, "high": 0.2, "log": True}},
    "budget": {"trials": 2},
    "runtime": {"executor": "local"},
}

# %% [markdown]
# What it would do. Nothing is started.

# %%
afp.plan(study)

# %% [markdown]
# Run it. The stop button saves; the same cell goes on.

# %%
afp.run(study)

# %% [markdown]
# The ablation table, and the best configuration.

# %%
afp.compare("first")

# %%
best = afp.best("first")
print(best.arm, best.score.mean, best.score.ci95, best.config.loss.temperature)
best

# %% [markdown]
# Every trial as a data frame.

# %%
afp.trials("first").to_frame()
