"""TRL's side of ``update``: the loss of its GRPO trainer, as it computes it; run with the peer's packages."""

from __future__ import annotations

import argparse
import tempfile

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

from benchmarks.peers.update_load import LEARNING_RATE, Sample, padded, samples, tell_rounds, tensors


def trainer_of(model: str, folder: str) -> GRPOTrainer:
    """With the defaults of its loss, without a reference, on CPU in float32."""
    settings = GRPOConfig(
        folder, use_cpu=True, bf16=False, beta=0.0, report_to=[], loss_type="grpo", num_generations=2,
        per_device_train_batch_size=2, gradient_checkpointing=False,
    )  # fmt: skip
    policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    return GRPOTrainer(
        policy,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=settings,
        train_dataset=Dataset.from_list([{"prompt": "hello"}] * 2),
        processing_class=AutoTokenizer.from_pretrained(model),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side")
    parser.add_argument("--shapes")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--micro-batch-tokens", type=int)
    parser.add_argument("--model")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(arguments.model, folder)
    policy = trainer.model
    policy.train()
    trainer.current_gradient_accumulation_steps = 1
    optimizer = torch.optim.AdamW(policy.parameters(), lr=LEARNING_RATE, fused=True)
    told = samples(arguments.shapes)

    def update() -> None:
        for batch in padded(told, arguments.micro_batch_tokens):
            loss = trainer.compute_loss(policy, _inputs(batch))
            (loss * len(batch) / len(told)).backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    tell_rounds(update, arguments.rounds)


def _inputs(batch: list[Sample]) -> dict[str, torch.Tensor]:
    prompts, prompt_mask, answers, answer_mask = tensors(batch)
    return {
        "prompt_ids": prompts,
        "prompt_mask": prompt_mask,
        "completion_ids": answers,
        "completion_mask": answer_mask,
        "advantages": torch.tensor([sample.advantage for sample in batch]),
        "old_per_token_logps": torch.full(answers.shape, -10.6),
        "num_items_in_batch": answer_mask.sum(),
    }


if __name__ == "__main__":
    main()
