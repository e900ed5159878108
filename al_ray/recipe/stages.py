"""The stages of a recipe: what is learnt one after the other, and by which algorithm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError, model_validator

from al_ray.recipe.section import DottedPath, Fraction, Name, Positive, Section


class OptimizerSection(Section):
    learning_rate: Annotated[float, Field(gt=0)]
    """Peak, AdamW."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the rate falls from its peak to 0 over the stage's steps, after ``warmup_steps``."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps of linear rise from 0 to the peak."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled, on matrices only."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    """AdamW's."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Gradients are clipped to this global norm."""


class Stage(Section):
    steps: Positive
    """Batches, each followed by an update."""
    optimizer: OptimizerSection
    """Fresh at the start of the stage."""

    def would_be(self, field: str) -> bool:
        """Whether the field is as it would be if the recipe left it out."""
        if type(self).model_fields[field].is_required():
            return False
        without = type(self).model_validate(self.model_dump(exclude={field}))
        return bool(getattr(without, field) == getattr(self, field))

    def as_chosen(self) -> dict[str, Any]:
        """As JSON, without defaults and what algorithm, credit or another field chooses: the same stage, of
        which they choose anew if it is changed."""
        left_out = {field for field in type(self).model_fields if self.would_be(field)}
        return self.model_dump(mode="json", exclude=left_out)


class CriticSection(Section):
    """Of a stage with credit: gae: a small network that learns what to expect of each call."""

    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Adam's."""
    steps: Positive = 20
    """Optimizer steps a batch, each over all of its calls."""


class CurriculumSection(Section):
    """Tasks that are solved sometimes are asked more often than those that always or never are. A task is
    drawn in proportion to the variance of its success, as far as the rollouts of the steps before tell."""

    solved: float = 1.0
    """The least reward of a rollout that has solved its task."""
    memory: Positive = 32
    """Of each task, so many of its last rollouts count. The more, the less a task is asked that was always or
    never solved: about 1 / memory as often."""


class GroupedStage(Stage):
    """What stages that learn from groups of rollouts have in common."""

    groups_per_step: Positive = 8
    """Tasks in a batch."""
    group_size: Positive = 8
    """Rollouts of each task."""
    curriculum: CurriculumSection | None = None
    """Which tasks are asked more often; ``{}`` for the defaults. None: all alike, each once an epoch."""
    staleness: Annotated[int, Field(ge=0)] = 0
    """How many updates older than the weights that learn from it a token may be. Agents are asked so many
    steps ahead, and go on while learners do. 0: a step's rollouts end before its update begins."""


class SupervisedStage(Stage):
    """Imitates demonstrations: cross-entropy on the assistant's tokens."""

    algorithm: Literal["supervised"]
    """Names the stage."""
    demonstrate: DottedPath
    """The environment's writer of demonstrations."""
    tasks_per_step: Positive = 16
    """Demonstrations in a batch."""
    demonstrations: Positive | None = None
    """Of the training tasks so many have one, chosen by the recipe's seed; they are shown again and again.
    Of several data.sources each gives its share, as far as it has so many; one that gives none is not shown.
    None: all have."""
    aggregate: Literal["rollout_mean", "token_mean"] = "token_mean"
    """What the loss is a mean over."""


NAMED: Final[Mapping[str, Mapping[str, Any]]] = {
    # DeepSeekMath, arXiv 2402.03300.
    "grpo": {"baseline": "mean", "scale": "group", "loss": "clipped", "aggregate": "rollout_mean"},
    # Understanding R1-Zero-like training, arXiv 2503.20783.
    "dr_grpo": {"baseline": "mean", "scale": "none", "loss": "clipped", "aggregate": "constant"},
    # Back to basics, arXiv 2402.14740: a completion is one action, whose log-probability is its tokens' sum.
    "rloo": {"baseline": "leave_one_out", "scale": "none", "loss": "clipped", "aggregate": "constant"},
    # PPO, arXiv 1707.06347, with the least epochs that it tells of; a step is a call.
    "ppo": {
        "baseline": "none", "scale": "batch", "loss": "clipped", "aggregate": "token_mean", "credit": "gae",
        "epochs": 3,
    },
    # REINFORCE++ and its form with a baseline, arXiv 2501.03262.
    "reinforce_pp": {"baseline": "none", "scale": "batch", "loss": "clipped", "aggregate": "token_mean"},
    "reinforce_pp_baseline": {
        "baseline": "mean", "scale": "batch", "loss": "clipped", "aggregate": "token_mean",
        "kl_estimator": "k2",
    },
    # DAPO, arXiv 2503.14476.
    "dapo": {
        "baseline": "mean", "scale": "group", "loss": "clipped", "aggregate": "token_mean", "clip_high": 0.28,
        "refills": 3,
    },
    # Group Sequence Policy Optimization, arXiv 2507.18071, section 5.1.
    "gspo": {
        "baseline": "mean", "scale": "group", "loss": "gspo", "aggregate": "call_mean",
        "clip_low": 3e-4, "clip_high": 4e-4,
    },
    # MiniMax-M1, arXiv 2506.13585: no lower clip.
    "cispo": {
        "baseline": "mean", "scale": "group", "loss": "cispo", "aggregate": "token_mean",
        "clip_low": 1.0, "clip_high": 0.28,
    },
}  # fmt: skip
"""What each algorithm chooses of the fields of ``ReinforcementStage``; a recipe may choose any of them
otherwise. What an algorithm does not choose is as the fields' defaults say."""
_COMPARED: Final = {"reward_to_go": "turn"}
"""By credit, how calls are compared where neither the recipe nor the algorithm says: rewards to go are less
the later a call is."""
_CORRECTED: Final = {"clipped": "token", "gspo": "sequence"}
"""By loss, the correction of older tokens where the recipe says none: around the sampler's probabilities most
of what the updates since made likelier would be clipped away. A weight that is clipped alone has its gradient
either way."""


CREDITS: Final = ("identical", "final", "reward_to_go", "group_in_group", "gae")
_PATH: Final = TypeAdapter(DottedPath)


def _credit(name: str) -> str:
    """Raises ``ValueError`` for what is neither one of ours nor looks like a user's own."""
    if name not in CREDITS:
        try:
            _PATH.validate_python(name)
        except ValidationError:
            known = ", ".join(CREDITS)
            raise ValueError(f"one of {known}, or your own as package.module:attribute") from None
    return name


class ReinforcementStage(GroupedStage):
    """Reinforcement learning from groups of rollouts of one task.

    ``algorithm`` chooses the fields below it as published; each may be chosen otherwise.
    """

    algorithm: Literal[
        "grpo", "dr_grpo", "rloo", "ppo", "reinforce_pp", "reinforce_pp_baseline", "dapo", "gspo", "cispo"
    ]
    """Names the stage, and chooses."""
    group_size: Annotated[int, Field(ge=2)] = 8
    """Rollouts of each task."""
    credit: Annotated[str, AfterValidator(_credit)] = "identical"
    """Level 1: which return each call of a rollout receives. identical: the whole episode's. final: that,
    but the last call alone. reward_to_go: what it and the calls after it earned. group_in_group: identical,
    and beside it reward_to_go among calls that saw the same (GiGPO). gae: what it and the calls after it
    earned beyond what a critic expected. Or a function of your own, written as package.module:attribute
    (`al_ray.protocols.Credit`)."""
    discount: Annotated[float, Field(gt=0, le=1)] = 1.0
    """With reward_to_go, group_in_group and gae, what a reward one call later counts; with a credit of your
    own, the discount of intermediate: potential."""
    gae_lambda: Annotated[float, Field(ge=0, le=1)] = 0.95
    """With gae, what a surprise one call later counts: 1 trusts the rewards alone, 0 the critic."""
    critic: CriticSection = CriticSection()
    """With gae."""
    intermediate: Literal["added", "potential"] = "added"
    """How the intermediate rewards of transitions.intermediate count: added to what calls earned, or as
    steps of a potential, which calls after them pay back, so that the best policy stays what it was."""
    anchor_weight: Annotated[float, Field(gt=0)] = 1.0
    """With group_in_group, what the comparison of calls counts beside that of episodes."""
    compare: Literal["task", "agent", "turn"] = "task"
    """Level 2: which calls of a group are compared. task: all. agent: those of an agent of the same name.
    turn: an agent's first call with the others' first, the second with the second, and what nobody else
    has with all. With reward_to_go, turn is the default."""
    baseline: Literal["none", "mean", "leave_one_out"] = "mean"
    """What a return is measured from: nothing, the mean of the rollouts it is compared with, or that of the
    others."""
    scale: Literal["none", "group", "batch"] = "group"
    """In which unit: that of the rewards, the deviation of what is compared from its baseline, or the
    standard deviation of the batch."""
    loss: Literal["clipped", "gspo", "cispo"] = "clipped"
    """The surrogate: each token clipped (PPO), each call clipped as a whole, or the weight alone clipped."""
    clip_low: Annotated[float, Field(gt=0, le=1)] = 0.2
    """The probability ratio is clipped at 1 - clip_low; with a correction, the ratio to the policy that the
    update began with, which is 1 in the first of its optimizer steps."""
    clip_high: Annotated[float, Field(gt=0)] = 0.2
    """... and at 1 + clip_high."""
    clip_dual: Annotated[float, Field(gt=1)] | None = None
    """A token of negative advantage costs at most so many times it: 3, say. None: without a bound."""
    kl_coefficient: Annotated[float, Field(ge=0)] = 0.0
    """Weight of KL(policy || reference), the weights at the start of the stage. 0: none, and no reference
    is kept."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    """How it is estimated. With kl_in: reward, k1 is the default."""
    kl_in: Literal["loss", "reward"] = "loss"
    """Added to each token's loss, or taken from each call's reward, before credit is given; not with scale:
    group, which would divide it by itself where rewards are equal."""
    reference_every: Annotated[int, Field(ge=0)] = 0
    """After so many steps, again and again, the reference moves to the weights as they are then. 0: it
    stays."""
    reference_mix: Annotated[float, Field(gt=0, le=1)] = 1.0
    """How far: 1 is all the way."""
    entropy_coefficient: Annotated[float, Field(ge=0)] = 0.0
    """What a nat of entropy takes from a token's loss."""
    correction: Literal["none", "token", "sequence", "geometric"] = "none"
    """Importance correction between sampler and learner, by the ratio of each token, of each call, or the
    call's mean a token. none: tokens are clipped around the sampler's own probabilities. With staleness,
    token is the default, and with loss: gspo sequence; loss: cispo needs none."""
    correction_bound: Literal["truncate", "mask", "reject"] = "truncate"
    """Beyond correction_cap, a ratio is cut down to it, or its tokens are dropped (also below its inverse);
    reject drops them and leaves the others as they are."""
    correction_cap: Annotated[float, Field(gt=1)] = 2.0
    """The largest ratio."""
    aggregate: Literal["rollout_mean", "call_mean", "token_mean", "constant"] = "rollout_mean"
    """What the loss is a mean over. constant: each rollout's sum by constant_tokens, so that no length is
    preferred."""
    constant_tokens: Positive | None = None
    """With aggregate: constant. None: agent.sampling.max_tokens."""
    epochs: Positive = 1
    """How often an update goes over its batch."""
    mini_batches: Positive = 1
    """Optimizer steps of an epoch, each with some of the groups; fewer where fewer groups have a signal."""
    refills: Annotated[int, Field(ge=0)] = 0
    """How often a step's groups without a signal, whose rollouts are all worth the same, are replaced by
    groups of further tasks (dynamic sampling)."""
    overlong_tokens: Annotated[int, Field(ge=0)] = 0
    """The last so many tokens below agent.sampling.max_tokens cost up to 1, evenly, at whose end the response
    is cut off (soft over-long punishment); it is the same for all agents that are trained. One that is cut
    off before, by model.max_length or the agent's own bound, costs 1 too. 0: nothing."""

    @model_validator(mode="before")
    @classmethod
    def _as_the_algorithm_chooses(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        chosen = NAMED.get(str(given.get("algorithm")), {})
        credit = str(given.get("credit"))  # whatever was written there: its own check tells what is wrong
        compared = {"compare": _COMPARED[credit]} if credit in _COMPARED else {}
        # As a reward it is k1 whose gradient is that of the divergence; in a loss it has none. So what an
        # algorithm chooses, which is published for its loss, does not count there.
        estimated = {"kl_estimator": "k1"} if given.get("kl_in") == "reward" else {}
        loss = str(given.get("loss", chosen.get("loss")))
        corrected = {"correction": _CORRECTED[loss]} if given.get("staleness") and loss in _CORRECTED else {}
        return {**compared, **corrected, **chosen, **estimated, **given}


class RejectionSamplingStage(GroupedStage):
    """Imitates the best of its own rollouts, by cross-entropy on their trained calls (RAFT, expert
    iteration)."""

    algorithm: Literal["rejection_sampling"]
    """Names the stage."""
    keep: Positive = 1
    """The best of a group that are imitated, at most. Each group counts the same, however many it keeps."""
    threshold: float | None = None
    """The least return of a rollout that is imitated. None: it must be better than the worst of its group, so
    that a group of equals teaches nothing."""
    refills: Annotated[int, Field(ge=0)] = 0
    """How often a step's groups of which nothing is kept are replaced by groups of further tasks."""


class OnPolicyDistillationStage(GroupedStage):
    """Learns from another model, the teacher, what each of its own tokens is worth: the difference of their
    log-probabilities, teacher less policy, so that the divergence of the policy from the teacher falls."""

    algorithm: Literal["on_policy_distillation"]
    """Names the stage."""
    group_size: Positive = 1
    """Rollouts of each task."""
    teacher: Name
    """Of `upstreams`: a vLLM server of a model that has the same tokenizer."""
    reward_weight: Annotated[float, Field(ge=0)] = 0.0
    """What a rollout's reward, less the mean of its group, counts beside that. 0: rewards are only told."""
    aggregate: Literal["rollout_mean", "token_mean"] = "token_mean"
    """What the loss is a mean over."""


AnyStage = Annotated[
    SupervisedStage | ReinforcementStage | RejectionSamplingStage | OnPolicyDistillationStage,
    Field(discriminator="algorithm"),
]
STAGES: Mapping[str, type[Stage]] = {
    name: kind
    for kind in get_args(get_args(AnyStage)[0])
    for name in get_args(kind.model_fields["algorithm"].annotation)
}
"""The kinds of stages by the name of their algorithm."""
