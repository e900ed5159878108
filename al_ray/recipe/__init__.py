"""Recipes: what may be written, read from YAML and checked as a whole before anything starts.

The sections, imported from here, are frozen values with every default filled in. ``loading`` reads a file,
``checks`` holds sections against each other, ``schedule`` says what is due at a step, ``dotted`` loads what a
recipe names. Neither torch nor Ray.
"""

from al_ray.recipe.agent import (
    AgentSamplingSection,
    AgentSection,
    Isolation,
    LimitsSection,
    RetrySection,
    SamplingSection,
    SandboxSection,
    TransitionsSection,
)
from al_ray.recipe.health import HealthSection
from al_ray.recipe.policies import PolicySection, policy_of
from al_ray.recipe.recipe import (
    DataSection,
    EvaluationSection,
    LoraSection,
    ModelSection,
    Recipe,
    SourceSection,
)
from al_ray.recipe.section import Section, http_url
from al_ray.recipe.stages import (
    AnyStage,
    CriticSection,
    CurriculumSection,
    GroupedStage,
    OnPolicyDistillationStage,
    OptimizerSection,
    ReinforcementStage,
    RejectionSamplingStage,
    Stage,
    SupervisedStage,
)
from al_ray.recipe.system import (
    CheckpointSection,
    EnginesSection,
    ExportSection,
    GatewaySection,
    LearnersSection,
    NodeShape,
    PlacementSection,
    ServiceSection,
    StoreSection,
    TracesSection,
    UpstreamSection,
    WandbSection,
)

__all__ = [
    "AgentSamplingSection",
    "AgentSection",
    "AnyStage",
    "CheckpointSection",
    "CriticSection",
    "CurriculumSection",
    "DataSection",
    "EnginesSection",
    "EvaluationSection",
    "ExportSection",
    "GatewaySection",
    "GroupedStage",
    "HealthSection",
    "Isolation",
    "LearnersSection",
    "LimitsSection",
    "LoraSection",
    "ModelSection",
    "NodeShape",
    "OnPolicyDistillationStage",
    "OptimizerSection",
    "PlacementSection",
    "PolicySection",
    "Recipe",
    "ReinforcementStage",
    "RejectionSamplingStage",
    "RetrySection",
    "SamplingSection",
    "SandboxSection",
    "Section",
    "ServiceSection",
    "SourceSection",
    "Stage",
    "StoreSection",
    "SupervisedStage",
    "TracesSection",
    "TransitionsSection",
    "UpstreamSection",
    "WandbSection",
    "http_url",
    "policy_of",
]
