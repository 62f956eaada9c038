"""Which sampler proposes the next configuration."""

from __future__ import annotations

import optuna

SAMPLERS = ("auto", "gp", "tpe", "nsga2", "random")
GP_TRIAL_LIMIT = 200
"""A Gaussian process asks in about a second at 100 trials and slower beyond; TPE stays fast."""


def make_sampler(
    name: str, *, seed: int, told: int, expected: int, startup: int
) -> tuple[optuna.samplers.BaseSampler, str]:
    """Create a sampler.

    Args:
        name: ``auto`` chooses by the number of trials.
        seed: the study's seed.
        told: trials that the study holds already. They offset the seed: a sampler that starts again with the same
            seed would repeat its first suggestions.
        expected: trials that the budget is likely to pay for.
        startup: random trials before the model takes over.

    Returns:
        The sampler, and its name with the reason for the choice.

    Raises:
        ValueError: the name is unknown.
    """
    chosen, reason = name, "as asked"
    if name == "auto":
        chosen = "gp" if expected <= GP_TRIAL_LIMIT else "tpe"
        reason = f"about {expected} trials expected"
    own_seed = seed + 7919 * told
    sampler: optuna.samplers.BaseSampler
    if chosen == "gp":
        sampler = optuna.samplers.GPSampler(
            seed=own_seed, n_startup_trials=startup, deterministic_objective=False, warn_independent_sampling=False
        )
    elif chosen == "tpe":
        sampler = optuna.samplers.TPESampler(
            seed=own_seed, n_startup_trials=startup, multivariate=True, group=True, warn_independent_sampling=False
        )
    elif chosen == "nsga2":
        sampler = optuna.samplers.NSGAIISampler(seed=own_seed, population_size=16)
    elif chosen == "random":
        sampler = optuna.samplers.RandomSampler(seed=own_seed)
    else:
        raise ValueError(f"unknown sampler {name!r}; known are {', '.join(SAMPLERS)}")
    return sampler, f"{chosen} ({reason})"
