#!/usr/bin/env bash
# What only a GPU can show, on one NVIDIA card, in twelve minutes: the tests marked gpu, in float32 and bfloat16, and a
# short whole training, with tokens a second and the peak of memory beside the estimate.
#
#   tools/gpu_check.sh [OUTPUT]          tools/card.sh says how to bring wheels along
#
# The exit code is the number of parts that failed. OUTPUT (default gpu_check/) gets a log of each part, the run's
# metrics, and summary.txt.
set -uo pipefail
cd "$(dirname "$0")/.."
source tools/card.sh
[[ ${1:-} == --pack ]] && { pack "${2:?FOLDER}"; exit; }

begin "${1:-gpu_check}"
for dtype in float32 bfloat16; do
    part "tests_$dtype" 240 .venv/bin/pytest -m gpu -k "$dtype" -q --durations=5
done

rm -rf "$out/run"  # of a check before, whose figures these would seem to be
# The run of the README, on the card, short: imitation, then reinforcement, with evaluations.
nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits --loop-ms=500 >"$out/memory.csv" &
watcher=$!
part train 240 .venv/bin/al-ray train recipes/calc_x_cpu.yaml --run gpu_check \
    --set "output=$out/run" --set placement.device=gpu --set model.dtype=bfloat16 \
    --set stages.0.steps=8 --set stages.1.steps=5 --set evaluation.tasks=64
kill "$watcher"
summary "peak of the card's memory: $(sort -n "$out/memory.csv" | tail -1) MiB"
.venv/bin/python - "$out" <<'END' | tee -a "$out/summary.txt"
import json
import statistics
import sys
from pathlib import Path

lines = [
    json.loads(line)
    for file in Path(sys.argv[1]).glob("run/**/metrics.jsonl")
    for line in file.read_text().splitlines()
]
for key in ("perf/generated_tokens_per_s", "perf/trained_tokens_per_s", "off_policy/mismatch_kl"):
    values = [line[key] for line in lines if line.get(key) is not None]
    print(f"{key}: median {statistics.median(values):.6g} of {len(values)} steps" if values else f"{key}: none")
for line in lines:
    if line.get("eval/accuracy") is not None:
        print(f"after step {line['step']}: accuracy {line['eval/accuracy']:.3f} ± {line['eval/stderr']:.3f}")
    for key in line:
        if key.endswith("_gib"):
            print(f"step {line['step']}: {key} {line[key]:.4g}")
END
exit "$failed"
