"""What ``al-ray eval`` evaluates: a recipe's model, a checkpoint of a run, or a model that is served
elsewhere; each as the recipe that its run folder keeps, so that a resume with another one is refused."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from al_ray.errors import Problem, UserError
from al_ray.models import adapters
from al_ray.recipe import Recipe, UpstreamSection, http_url
from al_ray.recipe.checks.sections import key_problem


@dataclass(frozen=True, slots=True)
class Served:
    """A model behind an OpenAI-compatible URL, as the command line names it."""

    url: str
    model: str
    api_key_env: str | None = None


def served(url: str | None, model: str | None, api_key_env: str | None) -> Served | None:
    """What the options name, if any. Raises ``UserError``."""
    if url is None:
        for option, value in (("--model", model), ("--api-key-env", api_key_env)):
            if value is not None:
                raise UserError(Problem(option, value, "is for a served model: give its --url too"))
        return None
    try:
        http_url(url)
    except ValueError as error:
        raise UserError(Problem("--url", url, f"an OpenAI-compatible server's: {error}")) from error
    if model is None:
        raise UserError(Problem("--url", url, "give --model too: what the server calls the model"))
    if api_key_env is not None and (cure := key_problem(api_key_env)):
        raise UserError(Problem("--api-key-env", api_key_env, cure))
    return Served(url, model, api_key_env)


def subject(target: Path, recipe: Recipe, elsewhere: Served | None) -> Recipe:
    """``recipe`` is that of ``target``, a recipe's file or a checkpoint's folder. Where the model is served
    elsewhere, it is one of the result's ``upstreams``."""
    # Elsewhere than runs, so that the newest run is never an evaluation.
    recipe = recipe.model_copy(update={"output": f"{recipe.output}/evaluations"})
    if elsewhere is None:
        if target.is_dir() and recipe.policies:
            return _with_adapters(recipe, target.resolve())
        return _with_model(recipe, str(target.resolve())) if target.is_dir() else recipe
    # Servers use names that no key of a recipe may have: llama3:8b.
    name = re.sub(r"[^\w.-]", "-", elsewhere.model.rpartition("/")[2]).lstrip(".-") or "model"
    upstream = UpstreamSection(
        base_url=elsewhere.url, model=elsewhere.model, api_key_env=elsewhere.api_key_env
    )
    recipe = recipe.model_copy(update={"upstreams": {**recipe.upstreams, name: upstream}})
    return _with_model(recipe, name)


def _with_adapters(recipe: Recipe, checkpoint: Path) -> Recipe:
    """Each policy that was trained is as the checkpoint has it."""
    policies = {
        name: section
        if section.frozen
        else section.model_copy(update={"adapter": str(adapters.place_of(checkpoint, name))})
        for name, section in recipe.policies.items()
    }
    return recipe.model_copy(update={"policies": policies})


def _with_model(recipe: Recipe, path: str) -> Recipe:
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"path": path})})
