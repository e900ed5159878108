"""Arguments that several verbs take, and the recipe that is read with them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from al_ray.recipe import Recipe


RecipeArgument = Annotated[
    Path, typer.Argument(metavar="RECIPE", help="A recipe, for example recipes/x.yaml.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="Override a value of the recipe; repeatable."),
]
SeedOption = Annotated[int | None, typer.Option(help="Override the recipe's seed.")]
BatchOption = Annotated[str | None, typer.Option(help="Only batches whose name begins so, for example eval.")]
ModeOption = Annotated[str | None, typer.Option(help="Only train, eval or judge.")]
RunOption = Annotated[str | None, typer.Option(help="Name of the run folder; the time if not given.")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on with --run, or with the newest run.")]
UrlOption = Annotated[
    str | None, typer.Option(help="Ask this OpenAI-compatible server in the model's place.")
]
ModelOption = Annotated[str | None, typer.Option(help="What the server calls its model.")]
KeyOption = Annotated[str | None, typer.Option(metavar="VARIABLE", help="Which holds the server's key.")]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]
NewestArgument = Annotated[
    Path, typer.Argument(metavar="RUN", help="A run folder, or one of runs: then the newest of them.")
]


def load(path: Path, overrides: list[str] | None, seed: int | None) -> Recipe:
    from al_ray.recipe import loading

    return loading.load(path, [*(overrides or []), *([] if seed is None else [f"seed={seed}"])])
